//! Pools that are used up.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_control::status::IpamStatus;
use margay_lab::probe::{Outcome, Protocol, Stream, reach};
use margay_netlink::{Netlink, Netns};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{PORT, Pod, container_id, said};

use crate::labs::{
    Labs, PATIENCE, PROBE_EVERY, TWO_NODES, applied, cni_error, interfaces, kernel_state, margay, no_pods,
    none_lost, pod_addresses, same, send_more, wait_answered, wait_no_endpoint,
};
use crate::wireguard::v6_of;

/// Long enough for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A pool of one block of eight addresses.
const SMALL: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: small}
spec: {cidr: 10.66.0.0/29, blockSize: 29}
";

/// The same for IPv6.
const SMALL_V6: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: small-v6}
spec: {cidr: 'fd65:66::/125', blockSize: 125}
";

/// Waits until one reaches the other's server over IPv6.
fn wait_reached_v6(from: &Pod, to: &Pod) -> Result<()> {
    let address = v6_of(to)?;
    wait(PATIENCE, || {
        let outcome = reach(&from.netns, address, Protocol::Tcp(PORT), Some(&to.responder), TIMEOUT)?;
        Ok(matches!(outcome, Outcome::Reached { .. }))
    })
}

/// A pool that is switched while packets flow.
const SWITCHED: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: switched}
spec: {cidr: 10.65.0.0/16, blockSize: 26, vxlanMode: Never}
";

/// node1 has the only block.
fn start(labs: &mut Labs) -> Result<Cluster> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    applied(&cluster, SMALL)?;
    cluster.start("node1")?;
    cluster.wait_ready("node1", PATIENCE)?;
    Ok(cluster)
}

/// An ADD that must fail for want of an address, naming the pool, and leave nothing.
fn refused(cluster: &Cluster, node: &str) -> Result<()> {
    let before = (kernel_state(cluster, node)?, pod_addresses(cluster, node)?);
    let netns = Netns::new()?;
    let id = container_id("default", "surplus");
    let path = netns.path().to_string_lossy().into_owned();
    let output = cluster.runtime(node)?.call("ADD", &id, Some(("default", "surplus")), &path)?;
    let (code, message) = cni_error(&output)?;
    ensure!(code == 103 && message.contains("small"), "ADD on {node}: {code} {message}");
    ensure!(interfaces(&netns)?.is_empty(), "left in the pod: {:?}", interfaces(&netns)?);
    same(&before.0, &kernel_state(cluster, node)?)?;
    ensure!(pod_addresses(cluster, node)? == before.1, "{:?}", pod_addresses(cluster, node)?);
    wait_no_endpoint(cluster, "surplus")
}

pub(crate) fn no_block_left(labs: &mut Labs) -> Result<()> {
    let mut cluster = start(labs)?;
    margay(&cluster, &["ipam", "configure", "--strict-affinity", "true"])?;
    cluster.start("node2")?;
    let says = |word: &str| -> Result<bool> {
        let status = cluster.status("node2")?;
        Ok(status.components.iter().any(|part| part.name == "ipam" && part.message.contains(word)))
    };
    wait(PATIENCE, || Ok(says("small").unwrap_or(false)))
        .with_context(|| format!("node2 names the pool: {:#?}", cluster.status("node2")))?;
    // All else of it works: it has the other's block, and knows itself.
    wait(PATIENCE, || {
        let state = kernel_state(&cluster, "node2")?;
        Ok([" via 172.30.1.11 dev eth1 table main proto 181", "mgy40nodes 172.30.1.12"]
            .iter()
            .all(|part| state.contains(part)))
    })
    .with_context(|| format!("node2 settles: {:?}", kernel_state(&cluster, "node2")))?;
    refused(&cluster, "node2")?;
    ensure!(cluster.status("node1")?.ready, "node1 is not ready any more");
    // More room makes it work without a restart.
    applied(&cluster, &SMALL.replace("small", "more").replace("10.66.0.0/29", "10.67.0.0/24"))?;
    cluster.wait_ready("node2", PATIENCE)?;
    let pod = cluster.runtime("node2")?.add("default", "fits")?;
    cluster.runtime("node2")?.delete(pod)?;
    no_pods(&cluster, "node2")
}

pub(crate) fn no_address_left(labs: &mut Labs) -> Result<()> {
    let cluster = start(labs)?;
    let runtime = cluster.runtime("node1")?;
    let mut pods: Vec<Pod> = Vec::new();
    for number in 0..8 {
        pods.push(
            runtime.add("default", &format!("pod-{number}")).with_context(|| format!("pod {number} of 8"))?,
        );
    }
    let ipam: IpamStatus = cluster.client("node1").get("/v1/ipam")?;
    let block = ipam.blocks.first().context("no block")?;
    ensure!((block.used, block.total) == (8, 8), "{block:?}");
    refused(&cluster, "node1")?;
    refused(&cluster, "node1")?;
    let freed = pods.pop().context("no pod")?;
    let address = freed.address;
    runtime.delete(freed)?;
    let next = runtime.add("default", "next")?;
    ensure!(next.address == address, "{} is free and {} was given", address, next.address);
    pods.push(next);
    for pod in pods {
        runtime.delete(pod)?;
    }
    no_pods(&cluster, "node1")
}

/// A node that can get no block has addresses of others', in both families: reached from everywhere, also
/// from the node whose block it is, without encapsulation and through VXLAN, and back with the lender when it is given back.
pub(crate) fn borrowed(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    applied(&cluster, &format!("{SMALL}---\n{SMALL_V6}"))?;
    for (node, address) in [("node1", "fd30::11/64"), ("node2", "fd30::12/64")] {
        cluster.run_in(node, "ip", &["address", "add", address, "dev", "eth1", "nodad"])?;
    }
    cluster.start_with("node1", &["--ipv6-address", "fd30::11/64"])?;
    cluster.wait_ready("node1", PATIENCE)?;
    cluster.start_with("node2", &["--ipv6-address", "fd30::12/64"])?;
    cluster.wait_ready("node2", PATIENCE)?;
    let near = cluster.runtime("node1")?.add("default", "near")?;
    let far = cluster.runtime("node2")?.add("default", "far")?;
    ensure!(near.address != far.address, "{} twice", near.address);
    let block = "10.66.0.0/29";
    let route = |node: &str, to: &str| cluster.run_in(node, "ip", &["route", "show", to]);
    let host = format!("{}/32", far.address);
    let wait_clean = || {
        wait(PATIENCE, || Ok(cluster.margay(&["ipam", "check"])?.status.success()))
            .with_context(|| format!("{:?}", cluster.margay(&["ipam", "check"]).map(|output| said(&output))))
    };
    for (mode, way) in [("Never", "via 172.30.1.12 dev eth1"), ("Always", "dev vxlan.mgy")] {
        applied(&cluster, &SMALL.replace("blockSize: 29", &format!("blockSize: 29, vxlanMode: {mode}")))?;
        // The owner drops what nobody has, and leads to the borrower what that has.
        wait(PATIENCE, || {
            let (whole, one) = (route("node1", block)?, route("node1", &host)?);
            Ok(whole.contains("blackhole") && one.contains(way))
        })
        .with_context(|| format!("{mode}: {:?}", cluster.run_in("node1", "ip", &["route"])))?;
        wait(PATIENCE, || {
            Ok(route("node2", block)?.contains(if mode == "Never" { "172.30.1.11" } else { way }))
        })
        .with_context(|| format!("{mode}: {:?}", cluster.run_in("node2", "ip", &["route"])))?;
        wait_answered(&near, &far)?;
        wait_answered(&far, &near)?;
        wait_reached_v6(&near, &far).with_context(|| format!("{mode}, IPv6"))?;
        wait_reached_v6(&far, &near).with_context(|| format!("{mode}, IPv6"))?;
        wait_clean()?;
    }
    // All eight are somebody's: pods of either node, and what tunnels and nodes keep.
    let mut pods = Vec::new();
    let full = loop {
        let name = format!("pod-{}", pods.len());
        match cluster.runtime("node2")?.add("default", &name) {
            Ok(pod) => pods.push(pod),
            Err(error) => break format!("{error:#}"),
        }
        ensure!(pods.len() < 8, "more addresses than there are");
    };
    ensure!(!pods.is_empty() && full.contains("small"), "after {} pods: {full}", pods.len());
    wait_answered(&near, &pods[0])?;
    wait_clean()?;
    for pod in pods.into_iter().chain([far]) {
        cluster.runtime("node2")?.delete(pod)?;
    }
    no_pods(&cluster, "node2")?;
    // What the borrower does not use goes back, and its owner gives it to others.
    let mut pods = Vec::new();
    wait(2 * PATIENCE, || {
        pods.extend(cluster.runtime("node1")?.add("default", &format!("own-{}", pods.len())).ok());
        Ok(pods.len() >= 4)
    })
    .context("lent addresses come back")?;
    wait_clean()?;
    for pod in pods.into_iter().chain([near]) {
        cluster.runtime("node1")?.delete(pod)?;
    }
    no_pods(&cluster, "node1")
}

/// From no encapsulation to VXLAN and back, with probes in both directions: not one is lost.
pub(crate) fn switched_with_packets_under_way(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    applied(&cluster, SWITCHED)?;
    for node in ["node1", "node2"] {
        cluster.start(node)?;
    }
    for node in ["node1", "node2"] {
        cluster.wait_ready(node, PATIENCE)?;
    }
    let near = cluster.runtime("node1")?.add("default", "near")?;
    let far = cluster.runtime("node2")?.add("default", "far")?;
    let ways = [("node1", &far), ("node2", &near)];
    let way = |node: &str, to: &Pod| cluster.run_in(node, "ip", &["route", "get", &to.address.to_string()]);
    let tunnelled = |wanted: bool| -> Result<()> {
        wait(PATIENCE, || {
            let both = ways.iter().map(|(node, to)| way(node, to)).collect::<Result<Vec<_>>>()?;
            Ok(both.iter().all(|way| way.contains("vxlan.mgy") == wanted && way.contains("172.30") != wanted))
        })
        .with_context(|| format!("{:?}", way("node1", &far)))
    };
    tunnelled(false)?;
    let streams = [
        Stream::start(&near.netns, far.address, Protocol::Icmp, PROBE_EVERY)?,
        Stream::start(&far.netns, near.address, Protocol::Icmp, PROBE_EVERY)?,
    ];
    for (mode, through_tunnel) in
        [("Always", true), ("CrossSubnet", false), ("Always", true), ("Never", false)]
    {
        applied(&cluster, &SWITCHED.replace("Never", mode))?;
        tunnelled(through_tunnel).with_context(|| format!("vxlanMode: {mode}"))?;
        // Pods that run are told what fits: 50 octets less as long as any path goes through the tunnel.
        let mtu =
            || -> Result<u32> { Ok(Netlink::open_in(&near.netns)?.link("eth0")?.context("no eth0")?.mtu) };
        let wanted = if mode == "Never" { 1500 } else { 1450 };
        wait(PATIENCE, || Ok(mtu()? == wanted)).with_context(|| format!("{mode}: MTU {:?}", mtu()))?;
        streams.iter().try_for_each(|stream| send_more(stream, 50))?;
    }
    for stream in streams {
        none_lost(stream)?;
    }
    for (node, pod) in [("node1", near), ("node2", far)] {
        cluster.runtime(node)?.delete(pod)?;
        no_pods(&cluster, node)?;
    }
    Ok(())
}
