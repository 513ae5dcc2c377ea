//! From topology to running lab.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use margay_netlink::{Address, AddressOptions, LinkChange, Netlink, Netns, VethEnd, sysctl};

use crate::error::{Error, Result};
use crate::process::Process;
use crate::topology::{Endpoint, Link, Node, NodeKind, Topology, words};

/// How long one `exec` command may take.
const EXEC_TIMEOUT: Duration = Duration::from_secs(30);

/// A built lab. Dropping it (or the last namespace handle and process of it) leaves nothing.
#[derive(Debug)]
pub struct Lab {
    name: String,
    nodes: BTreeMap<String, LabNode>,
}

/// A node of a built lab.
#[derive(Debug)]
pub struct LabNode {
    node: Node,
    netns: Netns,
}

impl LabNode {
    /// Its part of the topology.
    pub fn topology(&self) -> &Node {
        &self.node
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Starts `command` in the node, with the node's environment added, logging to `log`.
    ///
    /// # Errors
    /// As for [`Process::spawn`].
    pub fn spawn(&self, name: &str, mut command: Command, log: &Path) -> Result<Process> {
        command.envs(&self.node.env);
        Process::spawn(name, &self.netns, command, log)
    }
}

impl Lab {
    /// Builds the lab: namespaces, cables, addresses, settings, then the commands of `exec`. `progress` is told each step.
    ///
    /// # Errors
    /// The first step that fails; what was built until then is gone with the error.
    pub fn build(topology: &Topology, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        let mut lab = Self { name: topology.name.clone(), nodes: BTreeMap::new() };
        let mut handles = BTreeMap::new();
        for node in topology.nodes.values() {
            progress(&format!("node {}", node.name));
            let (netns, netlink) = make_node(node)?;
            lab.nodes.insert(node.name.clone(), LabNode { node: node.clone(), netns });
            handles.insert(node.name.as_str(), netlink);
        }
        for link in &topology.links {
            let [a, b] = &link.ends;
            progress(&format!("link {}:{} - {}:{}", a.node, a.interface, b.node, b.interface));
            lab.make_link(link, &mut handles)?;
        }
        for node in lab.nodes.values() {
            for command in &node.node.exec {
                progress(&format!("exec {}: {command}", node.node.name));
                exec(node, command)?;
            }
        }
        Ok(lab)
    }

    /// Name of the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A node by name.
    ///
    /// # Errors
    /// [`Error::NoNode`].
    pub fn node(&self, name: &str) -> Result<&LabNode> {
        self.nodes.get(name).ok_or_else(|| Error::NoNode(name.to_owned()))
    }

    /// All nodes, in order of name.
    pub fn nodes(&self) -> impl Iterator<Item = &LabNode> {
        self.nodes.values()
    }

    fn make_link(&self, link: &Link, handles: &mut BTreeMap<&str, Netlink>) -> Result<()> {
        let [a, b] = &link.ends;
        let place = || format!("link {}:{} - {}:{}", a.node, a.interface, b.node, b.interface);
        let far_netns = &self.node(&b.node)?.netns;
        let near = VethEnd { name: &a.interface, mac: a.mac, netns: None };
        let far = VethEnd { name: &b.interface, mac: b.mac, netns: Some(far_netns.as_fd()) };
        let handle = handles.get_mut(a.node.as_str()).ok_or_else(|| Error::NoNode(a.node.clone()))?;
        handle.add_veth(&near, &far, link.mtu).map_err(|source| Error::Kernel { place: place(), source })?;
        for end in &link.ends {
            let handle = handles.get_mut(end.node.as_str()).ok_or_else(|| Error::NoNode(end.node.clone()))?;
            let kind = self.node(&end.node)?.node.kind;
            configure(handle, end, kind).map_err(|source| Error::Kernel { place: place(), source })?;
        }
        Ok(())
    }
}

fn make_node(node: &Node) -> Result<(Netns, Netlink)> {
    let kernel = |source| Error::Kernel { place: format!("node {}", node.name), source };
    let netns = Netns::new().map_err(kernel)?;
    let mut netlink = Netlink::open_in(&netns).map_err(kernel)?;
    let loopback = netlink.link_index("lo").map_err(kernel)?;
    netlink.set_up(loopback, true).map_err(kernel)?;
    if node.kind == NodeKind::Bridge {
        netlink.add_bridge(&node.name).map_err(kernel)?;
        let bridge = netlink.link_index(&node.name).map_err(kernel)?;
        netlink.set_up(bridge, true).map_err(kernel)?;
    }
    let settings = || -> margay_netlink::Result<()> {
        for (name, value) in &node.sysctls {
            let components = sysctl::parse_dotted(name);
            let components: Vec<&str> = components.iter().map(String::as_str).collect();
            // Other settings belong to the whole machine.
            if components.first() != Some(&"net") {
                return Err(margay_netlink::Error::Invalid {
                    what: format!("sysctl {name}"),
                    reason: "is refused: only net.* belongs to a namespace".to_owned(),
                });
            }
            sysctl::write(&components, value)?;
        }
        Ok(())
    };
    netns.run(settings).map_err(kernel)?.map_err(kernel)?;
    Ok((netns, netlink))
}

fn configure(handle: &mut Netlink, end: &Endpoint, kind: NodeKind) -> margay_netlink::Result<()> {
    let index = handle.link_index(&end.interface)?;
    let master = match kind {
        NodeKind::Bridge => Some(handle.link_index(&end.node)?),
        NodeKind::Linux => None,
    };
    handle.change_link(index, &LinkChange { up: Some(true), master, ..LinkChange::default() })?;
    for net in &end.addresses {
        handle.add_address(&Address { index, net: *net }, AddressOptions::default())?;
    }
    Ok(())
}

/// Runs a command in a node to its end; anything but success is an error with what it printed.
fn exec(node: &LabNode, text: &str) -> Result<()> {
    let failed =
        |reason: String| Error::Exec { node: node.node.name.clone(), command: text.to_owned(), reason };
    let all = words(text).unwrap_or_default();
    let Some((program, arguments)) = all.split_first() else {
        return Err(failed("is no command".to_owned()));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(&node.node.env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = node.netns.spawn(&mut command).map_err(|e| failed(e.to_string()))?;
    let readers = [
        child.stdout.take().map(|pipe| collect(Box::new(pipe))),
        child.stderr.take().map(|pipe| collect(Box::new(pipe))),
    ];
    let deadline = Instant::now() + EXEC_TIMEOUT;
    let status = loop {
        match child.try_wait().map_err(|e| failed(e.to_string()))? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                let _ignored = child.kill();
                let _ignored = child.wait();
                return Err(failed(format!("did not end within {EXEC_TIMEOUT:?}")));
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    if status.success() {
        return Ok(());
    }
    let printed: Vec<String> =
        readers.into_iter().flatten().filter_map(|reader| reader.join().ok()).collect();
    Err(failed(format!("{status}: {}", printed.join(" ").trim())))
}

/// Reads a pipe on a thread, so that a full one can't stop the command.
fn collect(mut pipe: Box<dyn Read + Send>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken pipe leaves what was printed before.
        let _ignored = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
