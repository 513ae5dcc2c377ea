//! Where runtimes run: on a node of the lab, with mounts of their own, so that what they write to fixed places
//! (`/var/lib/cni`, `/etc/cni/net.d`, `/opt/cni/bin`, control groups) goes away with the case.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use margay_lab::Process;
use margay_netlink::Netns;
use margay_tests::cluster::{Cluster, wait};
use margay_tests::pods::PORT;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// The image of the containers.
pub(super) const IMAGE: &str = "localhost/box:latest";

/// What they execute.
pub(super) const SERVER: [&str; 5] = ["/bin/busybox", "httpd", "-f", "-p", "8080"];

/// Where Debian has the plugins that are chained behind ours.
const PLUGINS: &str = "/usr/lib/cni";

/// Longest wait for a daemon.
const PATIENCE: Duration = Duration::from_secs(60);

/// The folders of the machine that runtimes write to.
const WRITTEN: [&str; 3] = ["/etc", "/opt", "/var"];

/// See the module.
pub(super) struct Room<'a> {
    cluster: &'a Cluster,
    node: &'a str,
    folder: PathBuf,
    containerd: Option<Process>,
}

/// Runs `job` on a thread with mounts of its own, and everything it starts too.
pub(super) fn enter(
    cluster: &Cluster,
    node: &str,
    job: impl FnOnce(&mut Room<'_>) -> Result<()> + Send,
) -> Result<()> {
    let folder = cluster.folder("runtimes");
    let thread = || -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNS).context("mounts of our own")?;
        let outcome = furnish(cluster, node, &folder).and_then(|()| {
            let mut room = Room { cluster, node, folder: folder.clone(), containerd: None };
            let outcome = job(&mut room).map_err(|error| error.context(room.log()));
            room.leave();
            outcome
        });
        // On the sandbox's tmpfs, which the cluster's other cases share.
        let _best_effort = std::fs::remove_dir_all(&folder);
        outcome
    };
    std::thread::scope(|scope| {
        scope
            .spawn(thread)
            .join()
            .map_err(|panic| anyhow!("a panic: {:?}", panic.downcast_ref::<String>()))?
    })
}

/// Mounts, plugins, configuration, image.
fn furnish(cluster: &Cluster, node: &str, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for place in WRITTEN {
        let (upper, work) = (folder.join("over").join(&place[1..]), folder.join("work").join(&place[1..]));
        std::fs::create_dir_all(&upper)?;
        std::fs::create_dir_all(&work)?;
        let options = format!("lowerdir={place},upperdir={},workdir={}", upper.display(), work.display());
        mount(Some("overlay"), place, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("a layer over {place}"))?;
    }
    // Version 2 alone: the runtimes refuse a mixture.
    mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), none)?;
    let bin = Path::new("/opt/cni/bin");
    std::fs::create_dir_all(bin)?;
    for plugin in ["portmap", "bandwidth", "tuning", "loopback"] {
        std::os::unix::fs::symlink(Path::new(PLUGINS).join(plugin), bin.join(plugin))?;
    }
    std::os::unix::fs::symlink(cluster.program("margay-cni")?, bin.join("margay-cni"))?;
    let net_d = Path::new("/etc/cni/net.d");
    std::fs::create_dir_all(net_d)?;
    for other in std::fs::read_dir(net_d)? {
        std::fs::remove_file(other?.path())?;
    }
    std::fs::write(net_d.join("10-margay.conflist"), conflist(cluster, node)?.to_string())?;
    std::fs::write(folder.join("containers.conf"), containers_conf())?;
    let root = folder.join("image/bin");
    std::fs::create_dir_all(&root)?;
    std::fs::copy("/bin/busybox", root.join("busybox"))?;
    Ok(())
}

/// The conflist of `examples/`, with the node's socket, and with all that is usually chained.
fn conflist(cluster: &Cluster, node: &str) -> Result<Value> {
    let text = std::fs::read_to_string(cluster.repository().join("examples/cni/10-margay.conflist"))?;
    let mut list: Value = serde_json::from_str(&text)?;
    list["plugins"][0]["socket"] = json!(cluster.socket(node));
    list["plugins"][0]["spool_dir"] = json!(cluster.folder(node).join("spool"));
    list["plugins"][0]["capabilities"] = json!({"ips": true, "mac": true});
    let chained = [
        json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}),
        json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_notify": "1"}}),
    ];
    list["plugins"].as_array_mut().context("no plugins")?.extend(chained);
    Ok(list)
}

fn containers_conf() -> String {
    "[network]\nnetwork_backend = \"cni\"\nnetwork_config_dir = \"/etc/cni/net.d\"\n\
     cni_plugin_dirs = [\"/opt/cni/bin\"]\n[engine]\nruntime = \"crun\"\ncgroup_manager = \"cgroupfs\"\n\
     events_logger = \"none\"\n[containers]\ncgroups = \"disabled\"\n"
        .to_owned()
}

impl Room<'_> {
    /// Executes a program on the node; what it printed.
    fn execute(&self, program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<String> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(environment.iter().copied())
            .env("CONTAINERS_CONF", self.folder.join("containers.conf"))
            .stdin(Stdio::null());
        // Files, not pipes: a container's monitor keeps them open.
        let (out, err) = (self.folder.join("out"), self.folder.join("err"));
        command.stdout(std::fs::File::create(&out)?).stderr(std::fs::File::create(&err)?);
        let status = self.cluster.node(self.node)?.netns().spawn(&mut command)?.wait()?;
        let text = std::fs::read_to_string(&out)?;
        let complaint = std::fs::read_to_string(&err)?;
        ensure!(status.success(), "{program} {}: {text}{complaint}", arguments.join(" "));
        Ok(text)
    }

    /// Executes podman, which has the image after the first call.
    pub(super) fn podman(&self, arguments: &[&str]) -> Result<String> {
        if !self.folder.join("podman").exists() {
            self.import()?;
        }
        self.podman_only(arguments)
    }

    fn podman_only(&self, arguments: &[&str]) -> Result<String> {
        let place = |name: &str| self.folder.join("podman").join(name).to_string_lossy().into_owned();
        let (root, run, tmp) = (place("root"), place("run"), place("tmp"));
        let mut all = vec!["--root", &root, "--runroot", &run, "--tmpdir", &tmp, "--storage-driver", "vfs"];
        all.extend(arguments);
        self.execute("podman", &all, &[])
    }

    /// Makes the image, from nothing but busybox.
    fn import(&self) -> Result<()> {
        let (folder, tar) = (self.folder.join("image"), self.folder.join("image.tar"));
        let (folder, tar) = (folder.to_string_lossy(), tar.to_string_lossy());
        self.execute("tar", &["-C", &folder, "-cf", &tar, "bin"], &[])?;
        let entry = format!("ENTRYPOINT {}", serde_json::to_string(&SERVER)?);
        ensure!(SERVER[4] == PORT.to_string(), "the server's port");
        self.podman_only(&["import", "-q", "--change", &entry, &tar, IMAGE]).map(|_| ())
    }

    /// The OCI runtime as containerd calls it: control groups are not ours to make.
    pub(super) fn runtime_file(&self) -> String {
        self.folder.join("runtime").to_string_lossy().into_owned()
    }

    /// Starts containerd, with the image; its socket.
    pub(super) fn start_containerd(&mut self) -> Result<PathBuf> {
        let saved = self.folder.join("saved.tar");
        let saved = saved.to_string_lossy().into_owned();
        self.podman(&["save", "-q", "-o", &saved, IMAGE])?;
        let runtime = self.runtime_file();
        std::fs::write(&runtime, "#!/bin/sh\nexec crun --cgroup-manager=disabled \"$@\"\n")?;
        self.execute("chmod", &["755", &runtime], &[])?;
        let folder = self.folder.join("containerd");
        std::fs::create_dir_all(&folder)?;
        let (config, socket) = (folder.join("config.toml"), folder.join("sock"));
        std::fs::write(&config, containerd_config(&folder, &runtime))?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&config);
        let node = self.cluster.node(self.node)?;
        self.containerd = Some(node.spawn("containerd", command, &folder.join("log"))?);
        wait(PATIENCE, || Ok(self.ctr(&["version"]).is_ok())).context("containerd answers")?;
        self.ctr(&["image", "import", "--snapshotter", "native", &saved])?;
        Ok(socket)
    }

    /// Executes `ctr` in the namespace of the CRI.
    pub(super) fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let socket = self.folder.join("containerd/sock").to_string_lossy().into_owned();
        let mut all = vec!["--address", &socket, "--namespace", "k8s.io"];
        all.extend(arguments);
        self.execute("ctr", &all, &[])
    }

    /// Starts `ctr` and does not wait for it.
    pub(super) fn start_ctr(&self, arguments: &[&str]) -> Result<Process> {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.folder.join("containerd/sock"));
        command.args(["--namespace", "k8s.io"]).args(arguments);
        Ok(self.cluster.node(self.node)?.spawn("ctr", command, &self.folder.join("ctr.log"))?)
    }

    /// Executes `cnitool` for a namespace.
    pub(super) fn cnitool(&self, verb: &str, netns: &str) -> Result<String> {
        let tool = crate::host::cnitool()?.to_string_lossy().into_owned();
        // Debian's `bandwidth` panics at CHECK when nothing is to be limited.
        let limits = r#"{"bandwidth": {"ingressRate": 20000000, "ingressBurst": 2000000}}"#;
        let environment =
            [("CNI_PATH", "/opt/cni/bin"), ("NETCONFPATH", "/etc/cni/net.d"), ("CAP_ARGS", limits)];
        self.execute(&tool, &[verb, "margay", netns], &environment)
    }

    /// A sysctl of the container that has this address.
    pub(super) fn in_container(&self, address: std::net::IpAddr, key: &str) -> Result<String> {
        for entry in std::fs::read_dir("/run/netns")? {
            let netns = Netns::open(entry?.path())?;
            let value = netns.run(|| -> Result<Option<String>> {
                let addresses = margay_netlink::Netlink::open()?.addresses(None)?;
                if !addresses.iter().any(|one| one.net.addr() == address) {
                    return Ok(None);
                }
                let path = format!("/proc/sys/{}", key.replace('.', "/"));
                Ok(Some(std::fs::read_to_string(path)?.trim().to_owned()))
            })??;
            if let Some(value) = value {
                return Ok(value);
            }
        }
        Err(anyhow!("no namespace in /run/netns has {address}"))
    }

    /// What the daemon said, for the message of a failed step.
    fn log(&self) -> String {
        let text = self.containerd.as_ref().map(Process::log_text).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("level=info")).collect();
        lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
    }

    /// Ends what a failed case may have left running: it would keep its mounts.
    fn leave(&mut self) {
        if let Some(mut daemon) = self.containerd.take() {
            let _ended = daemon.stop(PATIENCE);
        }
    }
}

fn containerd_config(folder: &Path, runtime: &str) -> String {
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{folder}/sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
disable_cgroup = true
restrict_oom_score_adj = true
disable_apparmor = true
disable_tcp_service = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{runtime}"
"#
    )
}
