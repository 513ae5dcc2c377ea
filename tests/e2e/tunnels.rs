//! VXLAN through a router in both families, and what FelixConfiguration asks of it while pods talk.

use anyhow::{Context, Result, ensure};
use margay_lab::probe::{Protocol, Stream};
use margay_netlink::ethtool::Ethtool;
use margay_netlink::{Link, Netlink};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{PORT, Pod};

use crate::labs::{
    Labs, PATIENCE, PROBE_EVERY, TWO_NODES, TWO_SUBNETS, applied, margay, none_lost, send_more,
    wait_answered, wait_no_problem, wait_problem,
};
use crate::wireguard::{all_reached, felix, v6_of};

const POOLS: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.65.0.0/16, blockSize: 26, vxlanMode: CrossSubnet}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods6}
spec: {cidr: 'fd65::/48', blockSize: 122, vxlanMode: CrossSubnet}
---
";

/// Two nodes in different subnets.
const NODES: [&str; 2] = ["node1", "node3"];

/// Devices of the two families.
const DEVICES: [&str; 2] = ["vxlan.mgy", "vxlan-v6.mgy"];

fn device(cluster: &Cluster, node: &str, name: &str) -> Result<Link> {
    let netns = cluster.node(node)?.netns();
    Netlink::open_in(netns)?.link(name)?.with_context(|| format!("no {name} on {node}"))
}

/// Whether checksums of what goes into the tunnel are left to what is below it.
fn offloads(cluster: &Cluster, node: &str) -> Result<bool> {
    let ethtool = cluster.node(node)?.netns().run(Ethtool::open)?;
    Ok(ethtool?.offloads_checksums(DEVICES[0])?)
}

fn pod_mtu(pod: &Pod) -> Result<u32> {
    Ok(Netlink::open_in(&pod.netns)?.link("eth0")?.context("no eth0")?.mtu)
}

/// Waits until all devices have this VNI and port.
fn wait_devices(cluster: &Cluster, vni: u32, port: u16) -> Result<()> {
    let all = NODES.iter().flat_map(|node| DEVICES.map(|name| (*node, name)));
    for (node, name) in all {
        wait(PATIENCE, || {
            let vxlan = device(cluster, node, name).ok().and_then(|link| link.vxlan);
            Ok(vxlan.is_some_and(|vxlan| (vxlan.vni, vxlan.port) == (vni, port)))
        })
        .with_context(|| format!("{name} of {node}: {:?}", device(cluster, node, name)))?;
    }
    Ok(())
}

/// An address that the node's VXLAN device had is free once no pool needs the device and it is gone.
pub(crate) fn addresses_are_given_back(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    let pool = POOLS.split_inclusive("---\n").next().context("a pool")?.replace("CrossSubnet", "Always");
    applied(&cluster, &pool)?;
    cluster.start("node1")?;
    cluster.wait_ready("node1", PATIENCE)?;
    let told = |cluster: &Cluster| -> Result<[bool; 2]> {
        let node = margay(cluster, &["get", "node", "node1", "-o", "yaml"])?;
        let block = margay(cluster, &["get", "ipamblocks", "-o", "yaml"])?;
        Ok([node.contains("ipv4VXLANTunnelAddr"), block.contains("vxlan-tunnel-addr-node1")])
    };
    wait(PATIENCE, || Ok(told(&cluster)? == [true; 2])).with_context(|| format!("{:?}", told(&cluster)))?;
    // As long as the device is there, other nodes may send to it.
    wait(PATIENCE, || Ok(device(&cluster, "node1", DEVICES[0]).is_ok()))?;
    cluster.stop("node1")?;
    applied(&cluster, &pool.replace("Always", "Never"))?;
    cluster.run_in("node1", "ip", &["link", "delete", DEVICES[0]])?;
    cluster.start("node1")?;
    wait(PATIENCE, || Ok(told(&cluster)? == [false; 2])).with_context(|| format!("{:?}", told(&cluster)))?;
    // And again.
    applied(&cluster, &pool)?;
    wait(PATIENCE, || Ok(told(&cluster)? == [true; 2])).with_context(|| format!("{:?}", told(&cluster)))?;
    wait(PATIENCE, || Ok(device(&cluster, "node1", DEVICES[0]).is_ok()))
}

/// Devices outlive the agent, an MTU changes without a loss, VNI and port change on all nodes, and a node can be left out.
pub(crate) fn settings_on_a_live_cluster(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_SUBNETS, Datastore::Embedded)?;
    applied(&cluster, POOLS)?;
    for node in NODES {
        cluster.start(node)?;
    }
    for node in NODES {
        cluster.wait_ready(node, 2 * PATIENCE)?;
    }
    let near = cluster.runtime("node1")?.add("default", "near")?;
    let away = cluster.runtime("node3")?.add("default", "away")?;
    wait_answered(&near, &away)?;
    // Once its devices are there, each node is told of the other's.
    wait(PATIENCE, || Ok(all_reached(&near, &away).is_ok()))?;
    for (address, name) in [away.address, v6_of(&away)?].into_iter().zip(DEVICES) {
        let way = cluster.run_in("node1", "ip", &["route", "get", &address.to_string()])?;
        ensure!(way.contains(name), "{way}");
    }
    ensure!(pod_mtu(&near)? == 1430, "the pod's MTU is {}", pod_mtu(&near)?);

    let before = DEVICES.map(|name| device(&cluster, "node1", name).map(|link| (link.index, link.mac)));
    let probes = Stream::start(&near.netns, away.address, Protocol::Udp(PORT), PROBE_EVERY)?;
    send_more(&probes, 20)?;
    cluster.stop("node1")?;
    cluster.start("node1")?;
    cluster.wait_ready("node1", 2 * PATIENCE)?;
    for (name, before) in DEVICES.into_iter().zip(before) {
        let link = device(&cluster, "node1", name)?;
        ensure!((link.index, link.mac) == before?, "{name} is another one after a restart: {link:?}");
    }
    applied(&cluster, &felix("vxlanMTU: 1400"))?;
    for (node, pod) in NODES.into_iter().zip([&near, &away]) {
        wait(PATIENCE, || Ok(device(&cluster, node, DEVICES[0])?.mtu == 1400 && pod_mtu(pod)? == 1400))
            .with_context(|| {
                format!("{node}: {:?}, {:?}", device(&cluster, node, DEVICES[0]), pod_mtu(pod))
            })?;
    }
    send_more(&probes, 20)?;
    // Another interface that packets may take counts as well.
    for command in
        ["link add eth9 type bridge", "link set eth9 mtu 1390 up", "address add 198.51.100.1/24 dev eth9"]
    {
        cluster.run_in("node1", "ip", &command.split(' ').collect::<Vec<_>>())?;
    }
    applied(
        &cluster,
        &felix("featureDetectOverride: ChecksumOffloadBroken=true, mtuIfacePattern: '^eth[0-9]+$'"),
    )?;
    wait(PATIENCE, || Ok(pod_mtu(&near)? == 1320)).with_context(|| format!("{:?}", pod_mtu(&near)))?;
    wait(PATIENCE, || Ok(!offloads(&cluster, "node1")?))
        .context("checksums are still left to the hardware")?;
    applied(&cluster, &felix("mtuIfacePattern: '(', wireguardThreadingEnabled: true"))?;
    let message = wait_problem(&cluster, &["node1"], "FelixConfiguration")?;
    ensure!(
        message.contains("mtuIfacePattern") || message.contains("wireguardThreadingEnabled"),
        "{message}"
    );
    wait(PATIENCE, || Ok(pod_mtu(&near)? == 1430 && offloads(&cluster, "node1")?))
        .with_context(|| format!("{:?}, {:?}", pod_mtu(&near), offloads(&cluster, "node1")))?;
    none_lost(probes)?;

    applied(&cluster, &felix("vxlanVNI: 77, vxlanPort: 8472"))?;
    wait_devices(&cluster, 77, 8472)?;
    wait(PATIENCE, || Ok(all_reached(&near, &away).is_ok())).context("with another VNI and port")?;
    wait(PATIENCE, || Ok(pod_mtu(&near)? == 1430))?;

    let block = |pod: &Pod| -> Result<String> {
        let text = margay(&cluster, &["ipam", "show", &pod.address.to_string()])?;
        let cidr = text.split_whitespace().find(|word| word.contains('/') && word.starts_with("10.65."));
        Ok(cidr.with_context(|| format!("no block in {text}"))?.to_owned())
    };
    let blocks = block(&away)?;
    applied(&cluster, &felix("vxlanEnabled: false"))?;
    let message = wait_problem(&cluster, &["node1"], &blocks)?;
    ensure!(message.contains("FelixConfiguration turns off"), "{message}");
    applied(&cluster, &felix("vxlanEnabled: true"))?;
    wait_no_problem(&cluster, &["node1"], &blocks)?;
    wait_devices(&cluster, 4096, 4789)?;
    wait(PATIENCE, || Ok(all_reached(&near, &away).is_ok())).context("on again")?;
    cluster.runtime("node1")?.delete(near)?;
    cluster.runtime("node3")?.delete(away)
}
