//! WireGuard: in a virtual machine, with an ear on the wire between the nodes; and what an agent says on a kernel that has none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use ipnet::IpNet;
use margay_control::status::Tunnel;
use margay_lab::probe::{Outcome, Protocol, reach};
use margay_netlink::{Netlink, Netns};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{PORT, Pod};
use socket2::{Domain, Socket, Type};

use crate::ipip::reached;
use crate::labs::{Labs, PATIENCE, TWO_NODES, TWO_SUBNETS, applied, margay, wait_kernel_lacks};

const POOLS: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.65.0.0/16, blockSize: 26}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods6}
spec: {cidr: 'fd65::/48', blockSize: 122}
---
";

/// Devices of the two families.
const DEVICES: [&str; 2] = ["wireguard.mgy", "wg-v6.mgy"];

/// Their ports.
const PORTS: [u16; 2] = [51_820, 51_821];

/// An emulated processor takes its time, and a handshake that was too early is tried again after five seconds.
const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) fn felix(spec: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\nspec: {{{spec}}}\n---\n"
    )
}

/// What it has heard.
#[derive(Default)]
struct Heard {
    /// Packets with a pod's address on the outside.
    plain: AtomicU64,
    /// Echo requests and answers between the addresses of nodes.
    node_echoes: AtomicU64,
    /// Encrypted packets by family.
    encrypted: [AtomicU64; 2],
}

/// Hears everything that passes through a namespace in which no pod lives.
struct Ear {
    heard: Arc<Heard>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ear {
    fn new(netns: &Netns) -> Result<Self> {
        let every = i32::from(u16::to_be(0x0003));
        let socket = netns.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(every.into())))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (heard, stop) = (Arc::new(Heard::default()), Arc::new(AtomicBool::new(false)));
        let (notes, ended) = (Arc::clone(&heard), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut frame = [0; 2048];
            while !ended.load(Ordering::Relaxed) {
                if let Ok(length) = std::io::Read::read(&mut &socket, &mut frame) {
                    let _other = notes.take(frame.get(..length).unwrap_or_default());
                }
            }
        });
        Ok(Self { heard, stop, thread: Some(thread) })
    }

    fn plain(&self) -> u64 {
        self.heard.plain.load(Ordering::Relaxed)
    }

    fn node_echoes(&self) -> u64 {
        self.heard.node_echoes.load(Ordering::Relaxed)
    }

    fn encrypted(&self) -> [u64; 2] {
        [0, 1].map(|family: usize| self.heard.encrypted[family].load(Ordering::Relaxed))
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl Heard {
    /// Takes note of an Ethernet frame; absent: nothing of interest.
    fn take(&self, frame: &[u8]) -> Option<()> {
        let add = |count: &AtomicU64| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let octets = |from: usize, length: usize| frame.get(from..from + length);
        let (protocol, source, destination, port_at) = match octets(12, 2)? {
            [0x08, 0x00] => {
                let address =
                    |at| Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets(at, 4)?).ok()?)));
                (*frame.get(23)?, address(26)?, address(30)?, 36)
            }
            [0x86, 0xdd] => {
                let address =
                    |at| Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets(at, 16)?).ok()?)));
                (*frame.get(20)?, address(22)?, address(38)?, 56)
            }
            _ => return None,
        };
        let pods: [IpNet; 2] = ["10.65.0.0/16".parse().ok()?, "fd65::/48".parse().ok()?];
        if [source, destination].iter().any(|address| pods.iter().any(|pool| pool.contains(address))) {
            add(&self.plain);
        }
        if protocol == 1 {
            add(&self.node_echoes);
        }
        let port = u16::from_be_bytes(<[u8; 2]>::try_from(octets(port_at, 2)?).ok()?);
        let family = PORTS.iter().position(|known| protocol == 17 && *known == port)?;
        self.encrypted.get(family).map(add)
    }
}

/// Its address of IPv6.
pub(crate) fn v6_of(pod: &Pod) -> Result<IpAddr> {
    let addresses = Netlink::open_in(&pod.netns)?.addresses(None)?;
    let found = addresses.iter().map(|address| address.net.addr());
    let mut found = found.filter(|ip| matches!(ip, IpAddr::V6(ip) if ip.segments()[0] == 0xfd65));
    found.next().with_context(|| format!("{} has no IPv6 address", pod.name))
}

/// Both ways, in both families.
pub(crate) fn all_reached(one: &Pod, other: &Pod) -> Result<()> {
    for (from, to) in [(one, other), (other, one)] {
        reached(from, to)?;
        let (source, destination) = (v6_of(from)?, v6_of(to)?);
        for protocol in [Protocol::Tcp(PORT), Protocol::Icmp] {
            let outcome = reach(&from.netns, destination, protocol, Some(&to.responder), TIMEOUT)?;
            let Outcome::Reached { source: seen, .. } = outcome else {
                return Err(anyhow!("{source} to {destination}: {protocol:?}: {outcome:?}"));
            };
            ensure!(seen == Some(source), "{destination} sees {seen:?} for {source}");
        }
    }
    Ok(())
}

fn tunnels(cluster: &Cluster, node: &str) -> Result<Vec<Tunnel>> {
    Ok(cluster.client(node).get("/v1/tunnels")?)
}

/// Names of the nodes that a node has agreed on keys with, over IPv4.
fn peers(cluster: &Cluster, node: &str) -> Result<Vec<String>> {
    let tunnel = tunnels(cluster, node)?.into_iter().find(|tunnel| tunnel.device == DEVICES[0]);
    let peers = tunnel.with_context(|| format!("no WireGuard on {node}"))?.peers;
    Ok(peers.into_iter().filter_map(|peer| peer.node).collect())
}

fn way(cluster: &Cluster, node: &str, to: IpAddr) -> Result<String> {
    cluster.run_in(node, "ip", &["route", "get", &to.to_string()])
}

/// Waits until a node's pods reach a pod through the devices, or not through them.
fn wait_ways(cluster: &Cluster, node: &str, to: &Pod, encrypted: bool) -> Result<()> {
    let all = [to.address, v6_of(to)?];
    wait(2 * PATIENCE, || {
        let through =
            |(address, device): (&IpAddr, &&str)| Ok(way(cluster, node, *address)?.contains(*device));
        let each: Vec<bool> = all.iter().zip(&DEVICES).map(through).collect::<Result<_>>()?;
        Ok(each.iter().all(|through| *through == encrypted))
    })
    .with_context(|| format!("{node} to {}: {:?}", to.name, all.map(|address| way(cluster, node, address))))
}

fn key_of(cluster: &Cluster, node: &str) -> Result<String> {
    let text = margay(cluster, &["get", "node", node, "-o", "yaml"])?;
    let line = text.lines().find(|line| line.trim_start().starts_with("wireguardPublicKey:"));
    Ok(line.context("no key")?.to_owned())
}

/// Three nodes, two of them in a subnet: nothing of a pod is on the wire as it is, with keys old and new, when a node leaves,
/// and between the nodes themselves.
pub(crate) fn between_nodes(labs: &mut Labs) -> Result<()> {
    const ON: &str = "wireguardEnabled: true, wireguardEnabledV6: true";
    let mut cluster = labs.alone(TWO_SUBNETS, Datastore::Embedded)?;
    applied(&cluster, &format!("{POOLS}{}", felix(ON)))?;
    let nodes = ["node1", "node2", "node3"];
    for node in nodes {
        cluster.start(node)?;
    }
    for node in nodes {
        cluster.wait_ready(node, 4 * PATIENCE)?;
    }
    let ears = [Ear::new(cluster.node("sw1")?.netns())?, Ear::new(cluster.node("r1")?.netns())?];
    let near = cluster.runtime("node1")?.add("default", "near")?;
    let far = cluster.runtime("node2")?.add("default", "far")?;
    let away = cluster.runtime("node3")?.add("default", "away")?;
    for (node, pod) in [("node1", &far), ("node1", &away), ("node2", &near), ("node3", &near)] {
        wait_ways(&cluster, node, pod, true)?;
    }
    all_reached(&near, &far)?;
    // The router between knows no pod: only an encrypted packet gets there.
    all_reached(&near, &away)?;
    let from_node = reach(
        cluster.node("node1")?.netns(),
        far.address,
        Protocol::Tcp(PORT),
        Some(&far.responder),
        TIMEOUT,
    )?;
    ensure!(from_node.source().is_some(), "node1 to a pod of node2: {from_node:?}");
    let mtu = Netlink::open_in(&near.netns)?.link("eth0")?.context("no eth0")?.mtu;
    ensure!(mtu == 1420, "the pod's MTU is {mtu}");
    for ear in &ears {
        ensure!(ear.plain() == 0, "{} packets with pods' addresses on the wire", ear.plain());
        ensure!(ear.encrypted().iter().all(|count| *count > 0), "encrypted: {:?}", ear.encrypted());
    }
    ensure!(peers(&cluster, "node1")? == ["node2", "node3"], "{:#?}", tunnels(&cluster, "node1"));
    let tunnel = tunnels(&cluster, "node1")?.remove(0);
    ensure!(tunnel.peers.iter().all(|peer| peer.last_handshake.is_some()), "{tunnel:#?}");

    // Another key.
    let before = key_of(&cluster, "node2")?;
    cluster.stop("node2")?;
    std::fs::remove_file(cluster.folder("node2").join("state/wireguard.key"))?;
    cluster.start("node2")?;
    wait(PATIENCE, || Ok(key_of(&cluster, "node2").is_ok_and(|key| key != before)))?;
    cluster.wait_ready("node2", 2 * PATIENCE)?;
    wait(2 * PATIENCE, || Ok(all_reached(&near, &far).is_ok())).context("after a new key")?;

    // Devices that somebody renamed and removed while no agent ran.
    cluster.stop("node2")?;
    for command in
        ["link set wireguard.mgy down", "link set wireguard.mgy name wg-old", "link delete wg-v6.mgy"]
    {
        cluster.run_in("node2", "ip", &command.split(' ').collect::<Vec<_>>())?;
    }
    cluster.run_in("node2", "ip", &["link", "set", "wg-old", "up"])?;
    cluster.start("node2")?;
    cluster.wait_ready("node2", 2 * PATIENCE)?;
    wait(2 * PATIENCE, || Ok(all_reached(&near, &far).is_ok()))
        .context("after devices were renamed and removed")?;
    let links = cluster.run_in("node2", "ip", &["link", "show", "type", "wireguard"])?;
    ensure!(!links.contains("wg-old"), "{links}");

    // A node leaves.
    cluster.runtime("node3")?.delete(away)?;
    cluster.stop("node3")?;
    margay(&cluster, &["delete", "node", "node3"])?;
    wait(PATIENCE, || Ok(peers(&cluster, "node1")? == ["node2"])).context("node3 is still a peer")?;

    // The nodes themselves.
    let node2 = cluster.address("node2")?;
    let echo =
        || reach(cluster.node("node1")?.netns(), node2, Protocol::Icmp, None, TIMEOUT).map_err(Into::into);
    let echoed = |outcome: Result<Outcome>| -> Result<()> {
        let outcome = outcome?;
        ensure!(matches!(outcome, Outcome::Reached { .. }), "node1 to node2: {outcome:?}");
        Ok(())
    };
    echoed(echo())?;
    wait(PATIENCE, || Ok(ears[0].node_echoes() > 0)).context("an ear that hears nothing")?;
    applied(&cluster, &felix(&format!("{ON}, wireguardHostEncryptionEnabled: true")))?;
    for (node, other) in [("node1", node2), ("node2", cluster.address("node1")?)] {
        wait(PATIENCE, || Ok(way(&cluster, node, other)?.contains(DEVICES[0])))
            .with_context(|| format!("{node}: {:?}", way(&cluster, node, other)))?;
    }
    wait(PATIENCE, || Ok(echo().is_ok_and(|outcome: Outcome| matches!(outcome, Outcome::Reached { .. }))))?;
    let heard = ears[0].node_echoes();
    echoed(echo())?;
    ensure!(ears[0].node_echoes() == heard, "an echo between nodes on the wire");
    all_reached(&near, &far)?;
    ensure!(ears.iter().all(|ear| ear.plain() == 0), "packets with pods' addresses on the wire");

    // A key that is lost now is taken from the device: the others could not be told of another one.
    let before = key_of(&cluster, "node2")?;
    cluster.stop("node2")?;
    std::fs::remove_file(cluster.folder("node2").join("state/wireguard.key"))?;
    cluster.start("node2")?;
    cluster.wait_ready("node2", 2 * PATIENCE)?;
    wait(PATIENCE, || Ok(cluster.folder("node2").join("state/wireguard.key").exists()))
        .context("no key is kept")?;
    ensure!(key_of(&cluster, "node2")? == before, "another key");
    wait(2 * PATIENCE, || Ok(all_reached(&near, &far).is_ok())).context("after a lost key")?;

    // And off again: as it was, the devices go later.
    applied(&cluster, &felix("wireguardEnabled: false"))?;
    for (node, pod) in [("node1", &far), ("node2", &near)] {
        wait_ways(&cluster, node, pod, false)?;
    }
    wait(2 * PATIENCE, || Ok(all_reached(&near, &far).is_ok())).context("without encryption")?;
    ensure!(ears[0].plain() > 0, "an ear that hears nothing");
    let rules = cluster.run_in("node1", "ip", &["rule", "show"])?;
    ensure!(!rules.contains("fwmark"), "{rules}");
    cluster.runtime("node1")?.delete(near)?;
    cluster.runtime("node2")?.delete(far)
}

/// One sentence, and the node is not ready; on a kernel that has WireGuard it is.
pub(crate) fn a_kernel_without_it(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    let netns = Netns::new()?;
    let has_wireguard = Netlink::open_in(&netns)?.add_wireguard("probe", None).is_ok();
    applied(&cluster, &format!("{POOLS}{}", felix("wireguardEnabled: true")))?;
    cluster.start("node1")?;
    if has_wireguard {
        return cluster.wait_ready("node1", PATIENCE);
    }
    wait_kernel_lacks(&cluster, "node1", "WireGuard")?;
    ensure!(key_of(&cluster, "node1").is_err(), "a key that nobody can use is published");
    applied(&cluster, &felix("wireguardEnabled: false"))?;
    cluster.wait_ready("node1", PATIENCE)
}
