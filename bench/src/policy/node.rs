//! A node made of namespaces: a client and a server as pods, everybody else outside; and the agent on it.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipnet::{IpNet, Ipv4Net};
use margay_control::Client;
use margay_control::cni::{AddReply, AddRequest, Attachment, CommitReply, CommitRequest};
use margay_control::status::DaemonStatus;
use margay_datastore::{Store, StoreConfig};
use margay_netlink::{Address, AddressOptions, Netlink, Netns, VethEnd};

use super::cluster::Size;

/// The node on its uplink.
const NODE: &str = "192.0.2.1/24";
/// Everybody else on the uplink.
const OUTSIDE: &str = "192.0.2.2/24";
/// Where remote pods are.
const REMOTE: &str = "10.128.0.0/9";
const GATEWAY: &str = "169.254.1.1";
const MAC: &str = "ee:ee:ee:ee:ee:ee";
/// The client of a node without an agent; the server is the next.
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Longest wait for the agent.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Namespaces of a node, its two pods that send and receive, and the rest of the world.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) netns: Netns,
    pub(super) outside: Netns,
    pub(super) client: Netns,
    pub(super) server: Netns,
    /// Address of the server.
    pub(super) address: Ipv4Addr,
}

/// Runs a shell script in a namespace; it must succeed.
pub(crate) fn sh(netns: &Netns, script: &str) -> Result<String> {
    let output = netns.run(|| Command::new("sh").args(["-ec", script]).output())??;
    ensure!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Node {
    /// A node without pods.
    fn bare() -> Result<Self> {
        let (client, server) = (Netns::new()?, Netns::new()?);
        let node = Self {
            netns: Netns::new()?,
            outside: Netns::new()?,
            client,
            server,
            address: Ipv4Addr::UNSPECIFIED,
        };
        veth(&node.netns, "uplink0", &node.outside, "uplink0")?;
        sh(
            &node.netns,
            &format!("ip link set lo up; ip address add {NODE} dev uplink0; ip route add {REMOTE} via 192.0.2.2
                sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.uplink0.rp_filter=0"),
        )?;
        // A net on the loopback device is local as a whole: every address of it is a remote pod's.
        sh(
            &node.outside,
            &format!(
                "ip link set lo up; ip address add {REMOTE} dev lo; ip address add {OUTSIDE} dev uplink0
                ip route add 10.0.0.0/9 via 192.0.2.1"
            ),
        )?;
        Ok(node)
    }

    /// A node with two pods and nothing that filters.
    pub(super) fn without_agent() -> Result<Self> {
        let mut node = Self::bare()?;
        node.address = Ipv4Addr::from(u32::from(CLIENT) + 1);
        for (name, address, pod) in [("mgy2", CLIENT, &node.client), ("mgy3", node.address, &node.server)] {
            wire(&node.netns, name, pod, address)?;
            sh(&node.netns, &format!("ip route add {address}/32 dev {name}"))?;
        }
        Ok(node)
    }
}

fn veth(near: &Netns, near_name: &str, far: &Netns, far_name: &str) -> Result<()> {
    let mac = near_name.starts_with("mgy").then(|| MAC.parse()).transpose()?;
    let end = VethEnd { name: near_name, mac, ..VethEnd::default() };
    Netlink::open_in(near)?.add_veth(
        &end,
        &VethEnd { name: far_name, mac: None, netns: Some(far.as_fd()) },
        None,
    )?;
    for (netns, name) in [(near, near_name), (far, far_name)] {
        let mut netlink = Netlink::open_in(netns)?;
        let index = netlink.link_index(name)?;
        netlink.set_up(index, true)?;
    }
    Ok(())
}

/// Joins a pod to its node as the CNI plugin does.
pub(crate) fn wire(node: &Netns, name: &str, pod: &Netns, address: Ipv4Addr) -> Result<()> {
    veth(node, name, pod, "eth0")?;
    let mut netlink = Netlink::open_in(pod)?;
    let index = netlink.link_index("eth0")?;
    let net = IpNet::V4(Ipv4Net::new_assert(address, 32));
    netlink.add_address(&Address { index, net }, AddressOptions::default())?;
    sh(
        pod,
        &format!("ip link set lo up; ip route add {GATEWAY} dev eth0 scope link; ip route add default via {GATEWAY} dev eth0
            ip neighbour replace {GATEWAY} lladdr {MAC} dev eth0 nud permanent"),
    )?;
    Ok(())
}

/// A folder that is gone with its owner.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// A fresh one, named after a benchmark.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("margay-bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

/// A node with an agent, its cluster, and its pods.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) node: Node,
    pub(super) store: Store,
    pub(super) size: Size,
    agent: Option<Child>,
    folder: Folder,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}

impl Site {
    /// A node whose agent has taken in the cluster and has `size.local` pods.
    ///
    /// # Errors
    /// The agent does not come up, or refuses a pod.
    pub(super) fn new(name: &str, size: Size, felix: &[(&str, &str)]) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("margay-bench-policy-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let folder = Folder(folder);
        let config = StoreConfig::embedded(folder.0.join("store.db"));
        let store = block_on(Store::connect(&config))??;
        block_on(size.fill(&store))??;
        let spec: serde_json::Map<_, _> =
            felix.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let felix = serde_json::json!({
            "apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration",
            "metadata": {"name": "default"}, "spec": spec,
        });
        block_on(store.create(margay_api::Resource::from_json(&felix)?))??;
        let mut site = Self { node: Node::bare()?, store, size, agent: None, folder };
        site.start()?;
        site.wait_ready()?;
        for number in 0..size.local {
            site.add_pod(number).with_context(|| format!("pod {number}"))?;
        }
        Ok(site)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder.0
    }

    fn client(&self) -> Client {
        Client::new(self.folder.0.join("agent.sock"))
    }

    /// Starts the agent; returns at once.
    pub(super) fn start(&mut self) -> Result<()> {
        self.start_with_path(std::env::var_os("PATH").unwrap_or_default())
    }

    /// Starts the agent with another search path.
    pub(super) fn start_with_path(&mut self, path: std::ffi::OsString) -> Result<()> {
        let mut command = self.command()?;
        command.env("PATH", path).stdout(Stdio::null());
        self.agent = Some(self.node.netns.spawn(&mut command)?);
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let program = std::env::current_exe()?.with_file_name("margay-agent");
        ensure!(program.exists(), "{} is not there: build the package margay-agent", program.display());
        let at = |name: &str| self.folder.0.join(name);
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MALLOC_")));
        command.arg("--datastore-path").arg(at("store.db")).arg("--socket").arg(at("agent.sock"));
        command.arg("--state-dir").arg(at("state")).arg("--spool-dir").arg(at("spool"));
        command.args(["--node", "node", "--log-level", "warn"]).arg(format!("--ipv4-address={NODE}"));
        Ok(command)
    }

    /// Ends the agent as a crash does; the kernel's rules stay.
    pub(super) fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ended = agent.kill();
            let _status = agent.wait();
        }
    }

    /// Removes every rule and set of the agent, which must be dead.
    pub(super) fn clean_kernel(&self) -> Result<()> {
        let mut command = self.command()?;
        let status = self.node.netns.spawn(command.arg("--cleanup").stdout(Stdio::null()))?.wait()?;
        ensure!(status.success(), "margay-agent --cleanup: {status}");
        Ok(())
    }

    /// What the agent says of policy, once it is in the kernel.
    pub(super) fn enforced(&self) -> Option<String> {
        let status: DaemonStatus = self.client().get("/v1/status").ok()?;
        status
            .components
            .into_iter()
            .find(|part| part.name == "policy" && part.ready)
            .map(|part| part.message)
    }

    /// Waits until policy is in the kernel; seconds it took from now.
    pub(super) fn wait_ready(&mut self) -> Result<f64> {
        let begun = Instant::now();
        loop {
            if self.enforced().is_some() {
                return Ok(begun.elapsed().as_secs_f64());
            }
            let exited = self.agent.as_mut().is_none_or(|agent| !matches!(agent.try_wait(), Ok(None)));
            ensure!(!exited, "the agent has ended");
            ensure!(begun.elapsed() < PATIENCE, "no policy in the kernel after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// ADD as the CNI plugin does it. The first two pods are the client and the server; the others have interfaces only.
    fn add_pod(&mut self, number: u32) -> Result<()> {
        let (namespace, labels) = self.size.endpoint(number);
        let attachment = Attachment {
            container_id: format!("{number:064x}"),
            ifname: "eth0".to_owned(),
            network: "margay".to_owned(),
        };
        let request = AddRequest {
            attachment: attachment.clone(),
            netns: String::new(),
            pod_namespace: Some(namespace),
            pod_name: Some(format!("local-{number}")),
            pod_uid: None,
            labels,
            requested_ips: Vec::new(),
            mac: None,
            pools: Vec::new(),
            assigned: Vec::new(),
            may_bypass_ipam: false,
            interface: None,
        };
        let client = self.client();
        let reply: AddReply = client.post("/v1/cni/add", &request)?;
        let Some(IpAddr::V4(address)) = reply.addresses.first().map(IpNet::addr) else { bail!("no address") };
        let host_ifname = reply.host_ifname;
        match number {
            0 => wire(&self.node.netns, &host_ifname, &self.node.client, address)?,
            1 => {
                wire(&self.node.netns, &host_ifname, &self.node.server, address)?;
                self.node.address = address;
            }
            _ => {
                let mut netlink = Netlink::open_in(&self.node.netns)?;
                netlink.add_bridge(&host_ifname)?;
                let index = netlink.link_index(&host_ifname)?;
                netlink.set_up(index, true)?;
            }
        }
        let commit = CommitRequest { attachment, host_ifname, mac: MAC.to_owned() };
        let _live: CommitReply = client.post("/v1/cni/commit", &commit)?;
        Ok(())
    }

    /// Process of the agent.
    pub(super) fn process(&self) -> Result<u32> {
        Ok(self.agent.as_ref().context("no agent")?.id())
    }
}
