//! Two namespaces and a veth pair: the reflector in one, all clients in the other. Everything ends with the lab.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use margay_api::kinds::{Affinity, IpamBlockSpec, NodeBgp, NodeSpec};
use margay_api::{Metadata, Node, Object};
use margay_control::Client;
use margay_control::bgp::Peer;
use margay_datastore::{Store, StoreConfig};
use margay_netlink::{Address, AddressOptions, Netlink, Netns, Route, RouteTarget, VethEnd};

pub(crate) const AS: u32 = 64512;
pub(crate) const REFLECTOR: Ipv4Addr = Ipv4Addr::new(10, 63, 0, 1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 63, 0, 2);
/// How long anything may take that does not wait for a protocol's timer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Address of a client.
pub(crate) fn client(number: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a40_0001 + u32::from(number))
}

/// Its block.
pub(crate) fn block(number: u16) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::from_bits(0x0a80_0000 + (u32::from(number) << 8)), 24).unwrap()
}

/// Whether the machine has what a test needs; what it lacks is said aloud, or fails the test where all is required.
pub(crate) fn possible(programs: &[&str]) -> bool {
    let lacks = programs.iter().find(|program| !Path::new(program).exists());
    let lacks = match lacks {
        Some(program) => format!("{program} is not installed"),
        None if !nix::unistd::geteuid().is_root() => "needs root".to_owned(),
        None => return true,
    };
    assert!(std::env::var_os("TESTS_REQUIRE_ALL").is_none(), "{lacks}");
    // Not eprintln: the test harness would keep it to itself.
    std::io::stderr().write_all(format!("skipped: {lacks}\n").as_bytes()).unwrap();
    false
}

/// Polls until there is a value.
pub(crate) fn wait<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) struct Lab {
    pub(crate) folder: PathBuf,
    here: Netns,
    pub(crate) clients: Netns,
    /// What systemd was told.
    notified: Arc<Mutex<Vec<String>>>,
    /// It is started by the name of its program alone.
    pub(crate) bare: bool,
    /// What was started and may not have been reaped. A successor is nobody's child here: it is found by its socket.
    started: Vec<Child>,
}

impl Lab {
    /// With so many Nodes in the datastore, each the owner of its block.
    pub(crate) fn new(name: &str, nodes: u16) -> Self {
        let folder = std::env::temp_dir().join(format!("margay-rr-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let notified = listen_as_systemd(&folder);
        let lab = Self {
            notified,
            bare: false,
            folder,
            here: Netns::new().unwrap(),
            clients: Netns::new().unwrap(),
            started: Vec::new(),
        };
        lab.wire();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::connect(&StoreConfig::embedded(lab.store())).await.unwrap();
            for number in 0..nodes {
                fill(&store, number).await;
            }
        });
        std::fs::copy(env!("CARGO_BIN_EXE_margay-route-reflector"), lab.program()).unwrap();
        lab
    }

    fn wire(&self) {
        let mut here = Netlink::open_in(&self.here).unwrap();
        let mut there = Netlink::open_in(&self.clients).unwrap();
        let near = VethEnd { name: "rr0", ..VethEnd::default() };
        let far = VethEnd { name: "clients0", mac: None, netns: Some(self.clients.as_fd()) };
        here.add_veth(&near, &far, None).unwrap();
        let up = |netlink: &mut Netlink, name: &str, net: Option<Ipv4Net>| {
            let index = netlink.link_index(name).unwrap();
            netlink.set_up(index, true).unwrap();
            if let Some(net) = net {
                let address = Address { index, net: IpNet::V4(net) };
                netlink.replace_address(&address, AddressOptions::default()).unwrap();
            }
        };
        up(&mut here, "lo", None);
        up(&mut here, "rr0", Some(Ipv4Net::new_assert(REFLECTOR, 30)));
        // A net on the loopback device is local as a whole: every address of it is a client's.
        let net = Ipv4Net::new_assert(client(0), 16);
        up(&mut there, "lo", Some(net));
        up(&mut there, "clients0", Some(Ipv4Net::new_assert(GATEWAY, 30)));
        let target = RouteTarget::Via { gateway: GATEWAY.into(), device: None, onlink: false };
        here.add_route(&Route::new(net.trunc().into(), target, 4)).unwrap();
    }

    fn store(&self) -> PathBuf {
        self.folder.join("store.db")
    }

    /// The reflector's program, to be replaced by others.
    pub(crate) fn program(&self) -> PathBuf {
        self.folder.join("margay-route-reflector")
    }

    /// Puts another program in its place, as packages do.
    pub(crate) fn replace_program(&self, contents: &[u8]) {
        use std::os::unix::fs::PermissionsExt;
        let fresh = self.folder.join("fresh");
        std::fs::write(&fresh, contents).unwrap();
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(fresh, self.program()).unwrap();
    }

    /// Where a shell would look for it.
    pub(crate) fn search(&self) -> PathBuf {
        self.folder.join("bin")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        if self.bare {
            // As a shell that found it in its PATH.
            command.arg0(self.program().file_name().unwrap());
        }
        command
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.search().display()))
            .arg("--datastore-path")
            .arg(self.store())
            .arg("--socket")
            .arg(self.socket());
        command.args(["--node", "reflector", "--log-level", "info"]);
        command.arg(format!("--ipv4-address={REFLECTOR}/30")).arg("--secrets-dir=/nonexistent");
        command.env("NOTIFY_SOCKET", self.folder.join("notify"));
        command
    }

    /// Starts the reflector, and waits until it is ready.
    pub(crate) fn start(&mut self) {
        let mut child = self.spawn_reflector();
        // As a supervisor does: what a killed process holds may outlive its entry in /proc by a moment.
        wait("the reflector is ready", PATIENCE, || {
            if child.try_wait().unwrap().is_some() {
                child = self.spawn_reflector();
            }
            self.control().get_text("/readyz").ok()
        });
        self.started.push(child);
    }

    fn spawn_reflector(&self) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.here.spawn(&mut command).unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(crate) fn control(&self) -> Client {
        Client::new(self.socket())
    }

    pub(crate) fn peers(&self) -> Vec<Peer> {
        self.control().get("/v1/bgp/peers").unwrap_or_default()
    }

    /// `margay-route-reflector --upgrade`.
    pub(crate) fn upgrade(&self) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_margay-route-reflector"));
        command.env_clear().arg("--upgrade").arg("--socket").arg(self.socket());
        command.args(["--node", "reflector"]).arg(format!("--ipv4-address={REFLECTOR}/30"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.here.spawn(&mut command).unwrap().wait_with_output().unwrap()
    }

    /// Processes of the reflector's program, the successors (`--take-over`) and the others.
    pub(crate) fn processes(&self) -> (Vec<i32>, Vec<i32>) {
        let mut found = (Vec::new(), Vec::new());
        let socket = self.socket();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let words = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<&str> = words.split('\0').collect();
            let ours = words.iter().any(|word| Path::new(word) == socket);
            if ours && words.contains(&"--upgrade") {
                continue;
            }
            if ours && words.contains(&"--take-over") {
                found.1.push(pid);
            } else if ours {
                found.0.push(pid);
            }
        }
        found
    }

    /// All processes of the reflector's program.
    pub(crate) fn all(&self) -> Vec<i32> {
        let (first, successors) = self.processes();
        first.into_iter().chain(successors).collect()
    }

    /// Runs a command in the clients' namespace, in the background.
    pub(crate) fn spawn(&self, command: &mut Command) -> Child {
        self.clients.spawn(command).unwrap()
    }

    /// What systemd was told since the last call.
    pub(crate) fn notified(&self) -> Vec<String> {
        std::mem::take(&mut self.notified.lock().unwrap())
    }

    /// Reaps what has ended.
    pub(crate) fn reap(&mut self) {
        self.started.retain_mut(|child| child.try_wait().unwrap().is_none());
    }
}

/// Takes everything that a daemon says, at once: it waits until somebody does.
fn listen_as_systemd(folder: &Path) -> Arc<Mutex<Vec<String>>> {
    let socket = UnixDatagram::bind(folder.join("notify")).unwrap();
    let notified: Arc<Mutex<Vec<String>>> = Arc::default();
    let words = Arc::clone(&notified);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            words.lock().unwrap().push(String::from_utf8_lossy(&buffer[..length]).trim().to_owned());
        }
    });
    notified
}

pub(crate) fn kill(pid: i32) {
    // It may have ended.
    let _ended = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(6000);
            let tail = log.get(from..).unwrap_or_default();
            std::io::stderr().write_all(format!("the reflector's log ends:\n{tail}\n").as_bytes()).unwrap();
        }
        self.all().into_iter().for_each(kill);
        for child in &mut self.started {
            child.wait().ok();
        }
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

async fn fill(store: &Store, number: u16) {
    let name = format!("node-{number:04}");
    let address = Ipv4Net::new(client(number), 16).unwrap();
    let bgp = NodeBgp { ipv4_address: Some(address), ..NodeBgp::default() };
    let spec = NodeSpec { bgp: Some(bgp), ..NodeSpec::default() };
    store.create(Node::new(Metadata::named(name.clone()), spec).into()).await.unwrap();
    let spec = IpamBlockSpec {
        cidr: block(number).into(),
        affinity: Some(Affinity::Host(name)),
        affinity_claim_time: None,
        allocations: Vec::new(),
        attributes: Vec::new(),
        unallocated: Vec::new(),
        strict_affinity: false,
        sequence_number: 0,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
    };
    let label = block(number).to_string().replace(['.', '/'], "-");
    store.create(Object::<IpamBlockSpec>::new(Metadata::named(label), spec).into()).await.unwrap();
}
