//! IPIP: in a virtual machine, with real packets on the wire; and what an agent says on a kernel that has none.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use margay_lab::probe::{Outcome, Protocol, Stream, reach};
use margay_netlink::{Netlink, Netns};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{PORT, Pod};
use socket2::{Domain, Socket, Type};

use crate::labs::{Labs, PATIENCE, TWO_NODES, TWO_SUBNETS, applied, no_pods, send_more, wait_kernel_lacks};

/// IPIP everywhere.
const ALWAYS: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.65.0.0/16, blockSize: 26, ipipMode: Always}
";

/// The device.
const DEVICE: &str = "ipip.mgy";

/// Number of IP in IP in an IPv4 header.
const IPIP: u8 = 4;

/// An emulated processor takes its time.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Counts the tunnel packets a node gets from another for one pod: outer source and inner destination.
struct Wire {
    seen: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    fn watch(node: &Netns, outer: Ipv4Addr, inner: Ipv4Addr) -> Result<Self> {
        let socket = node.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(i32::from(IPIP).into())))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (seen, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ended) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut packet = [0; 2048];
            while !ended.load(Ordering::Relaxed) {
                let Ok(length) = std::io::Read::read(&mut &socket, &mut packet) else { continue };
                // Outer header of 20 octets, and the inner one behind it.
                let source = packet.get(12..16).filter(|_| length >= 40);
                let destination = packet.get(36..40);
                if source == Some(&outer.octets()) && destination == Some(&inner.octets()) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn v4(address: IpAddr) -> Result<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(anyhow!("{address} is no IPv4 address")),
    }
}

pub(crate) fn reached(from: &Pod, to: &Pod) -> Result<()> {
    for protocol in [Protocol::Tcp(PORT), Protocol::Udp(PORT), Protocol::Icmp] {
        let outcome = reach(&from.netns, to.address, protocol, Some(&to.responder), TIMEOUT)?;
        let Outcome::Reached { source, .. } = outcome else {
            return Err(anyhow!("{} to {}: {protocol:?}: {outcome:?}", from.name, to.name));
        };
        ensure!(source == Some(from.address), "{} sees {source:?} for {}", to.name, from.address);
    }
    Ok(())
}

fn route(cluster: &Cluster, node: &str, to: &Pod) -> Result<String> {
    cluster.run_in(node, "ip", &["route", "get", &to.address.to_string()])
}

/// Two nodes of a subnet, every packet between pods in a tunnel, then none, then again, while probes run.
pub(crate) fn between_nodes(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    applied(&cluster, ALWAYS)?;
    for node in ["node1", "node2"] {
        cluster.start(node)?;
    }
    for node in ["node1", "node2"] {
        cluster.wait_ready(node, 2 * PATIENCE)?;
    }
    let near = cluster.runtime("node1")?.add("default", "near")?;
    let far = cluster.runtime("node2")?.add("default", "far")?;
    wait(PATIENCE, || {
        Ok(route(&cluster, "node1", &far)?.contains(DEVICE)
            && route(&cluster, "node2", &near)?.contains(DEVICE))
    })
    .with_context(|| format!("{:?}", route(&cluster, "node1", &far)))?;
    let node2 = cluster.node("node2")?.netns().try_clone()?;
    let wire = Wire::watch(&node2, v4(cluster.address("node1")?)?, v4(far.address)?)?;
    reached(&near, &far)?;
    reached(&far, &near)?;
    wait(PATIENCE, || Ok(wire.seen() >= 3))
        .with_context(|| format!("{} packets in the tunnel", wire.seen()))?;
    // The node itself goes through it too, with its tunnel's address, which its Node names.
    let from_node = reach(
        cluster.node("node1")?.netns(),
        far.address,
        Protocol::Tcp(PORT),
        Some(&far.responder),
        TIMEOUT,
    )?;
    let addresses = Netlink::open_in(cluster.node("node1")?.netns())?.addresses(None)?;
    ensure!(
        addresses.iter().any(|address| Some(address.net.addr()) == from_node.source()),
        "{from_node:?} is no address of node1"
    );
    let mtu = Netlink::open_in(&near.netns)?.link("eth0")?.context("no eth0")?.mtu;
    ensure!(mtu == 1480, "the pod's MTU is {mtu}");

    let stream = Stream::start(&near.netns, far.address, Protocol::Icmp, Duration::from_millis(50))?;
    send_more(&stream, 20)?;
    for mode in ["CrossSubnet", "Always"] {
        applied(&cluster, &ALWAYS.replace("Always", mode))?;
        let tunnelled = mode == "Always";
        let settled =
            |node, pod| -> Result<bool> { Ok(route(&cluster, node, pod)?.contains(DEVICE) == tunnelled) };
        wait(PATIENCE, || Ok(settled("node1", &far)? && settled("node2", &near)?))
            .with_context(|| format!("{mode}: {:?}", route(&cluster, "node1", &far)))?;
        let before = wire.seen();
        send_more(&stream, 20)?;
        wait(PATIENCE, || Ok(stream.received() + 5 >= stream.sent()))?;
        let seen = wire.seen() - before;
        ensure!((seen > 0) == tunnelled, "{mode}: {seen} packets in the tunnel");
    }
    // The last ones may be under way for long in an emulated machine; those before had seconds.
    let settled = stream.sent();
    send_more(&stream, 40)?;
    let lost: Vec<u64> = stream.stop()?.lost.into_iter().filter(|number| *number < settled).collect();
    ensure!(lost.is_empty(), "lost while the pool was switched: {lost:?} of {settled}");
    cluster.runtime("node1")?.delete(near)?;
    cluster.runtime("node2")?.delete(far)?;
    no_pods(&cluster, "node1")
}

/// CrossSubnet: in a tunnel to the node behind the router, which knows no pod, and as they are to the neighbour.
pub(crate) fn between_subnets(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_SUBNETS, Datastore::Embedded)?;
    applied(&cluster, &ALWAYS.replace("Always", "CrossSubnet"))?;
    let nodes = ["node1", "node2", "node3"];
    for node in nodes {
        cluster.start(node)?;
    }
    for node in nodes {
        cluster.wait_ready(node, 4 * PATIENCE)?;
    }
    let near = cluster.runtime("node1")?.add("default", "near")?;
    let far = cluster.runtime("node2")?.add("default", "far")?;
    let away = cluster.runtime("node3")?.add("default", "away")?;
    for (node, pod, device) in
        [("node1", &far, "eth1"), ("node1", &away, DEVICE), ("node3", &near, DEVICE), ("node3", &far, DEVICE)]
    {
        wait(PATIENCE, || Ok(route(&cluster, node, pod)?.contains(&format!("dev {device} "))))
            .with_context(|| format!("{:?}", route(&cluster, node, pod)))?;
    }
    let node1 = v4(cluster.address("node1")?)?;
    let (node2_netns, node3_netns) =
        (cluster.node("node2")?.netns().try_clone()?, cluster.node("node3")?.netns().try_clone()?);
    let to_far = Wire::watch(&node2_netns, node1, v4(far.address)?)?;
    let to_away = Wire::watch(&node3_netns, node1, v4(away.address)?)?;
    for (one, other) in [(&near, &far), (&near, &away), (&far, &away)] {
        reached(one, other)?;
        reached(other, one)?;
    }
    wait(PATIENCE, || Ok(to_away.seen() >= 3))
        .with_context(|| format!("{} packets in the tunnel", to_away.seen()))?;
    ensure!(to_far.seen() == 0, "{} packets in a tunnel inside the subnet", to_far.seen());
    for pod in [near, far, away] {
        cluster.runtime(&pod.node.clone())?.delete(pod)?;
    }
    Ok(())
}

/// One sentence, and the node is not ready; on a kernel that has IPIP it is.
pub(crate) fn a_kernel_without_it(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    let netns = Netns::new()?;
    let has_ipip = Netlink::open_in(&netns)?.add_ipip("probe", Ipv4Addr::LOCALHOST, None).is_ok();
    applied(&cluster, ALWAYS)?;
    cluster.start("node1")?;
    if has_ipip {
        return cluster.wait_ready("node1", PATIENCE);
    }
    wait_kernel_lacks(&cluster, "node1", "IPIP")?;
    // Another way is taken without a restart.
    applied(&cluster, &ALWAYS.replace("ipipMode: Always", "vxlanMode: Always"))?;
    cluster.wait_ready("node1", PATIENCE)
}
