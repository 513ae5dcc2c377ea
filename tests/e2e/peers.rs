//! One router behind three addresses and one of the mesh, both BIRD: what remains of BGPPeer's fields, and those of
//! BGPConfiguration that sessions have.

use anyhow::{Context, Result, ensure};
use margay_control::bgp::Peer;
use margay_tests::cluster::{Cluster, Datastore, wait};
use nix::sys::signal::Signal;

use crate::bird::{Bird, SOON};
use crate::labs::{Labs, PATIENCE, applied, margay, sessions, wait_metric};
use crate::look::routes;
use crate::routers::{LAB, state};

/// A router in the node's subnet, the same behind a gateway and in a subnet that BGP knows nothing of, and a node of the mesh.
const NEAR: &str = "172.30.1.1";
const FAR: &str = "10.99.0.1";
const SIDE: &str = "10.98.0.1";
const HILL: &str = "172.30.1.2";

const CLUSTER: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: four}
spec: {cidr: 10.65.0.0/16, blockSize: 24}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: hill, labels: {hill: ''}}
spec: {bgp: {ipv4Address: 172.30.1.2/24}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: far}
spec: {node: node1, peerIP: 10.99.0.1, asNumber: 64513, reachableBy: 172.30.1.1, failureDetectionMode: BFDIfDirectlyConnected}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: side}
spec: {node: node1, peerIP: 10.98.0.1, asNumber: 64513, sourceAddress: None}
---
apiVersion: projectcalico.org/v3
kind: BFDConfiguration
metadata: {name: default}
spec:
  interfaces: [{matchPattern: '*', minimumRecvInterval: 500ms, minimumSendInterval: 500ms, idleSendInterval: 1s, multiplier: 6}]
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: onwards}
spec: {exportV4: [{action: Accept, cidr: 10.95.0.0/24, matchOperator: Equal, source: RemotePeers}]}
---
";

fn configuration(mesh: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {{name: default}}
spec:
  listenPort: 1790
  communities: [{{name: pods, value: '64512:66'}}]
  prefixAdvertisements: [{{cidr: 10.65.0.0/16, communities: [pods, '64512:1:2']}}]
  {mesh}
---
"
    )
}

/// The session with the router, with this said of next hops.
fn near(next_hop: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {{name: near}}
spec: {{node: node1, peerIP: 172.30.1.1, asNumber: 64513, numAllowedLocalASNumbers: 1, \
failureDetectionMode: BFDIfDirectlyConnected, {next_hop}}}
---
"
    )
}

/// The session that the node of the mesh has by its own BGPPeer, and the other end with it or not.
fn hill(more: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {{name: hill}}
spec: {{nodeSelector: has(hill), peerSelector: '!has(hill)', filters: [onwards], {more}}}
---
"
    )
}

/// The router; of two networks it says that they have been through the cluster's AS.
fn router(cluster: &Cluster) -> Result<Bird> {
    for (machine, address, device) in
        [("bird", "10.99.0.1/32", "lo"), ("bird", "10.98.0.1/24", "eth1"), ("node1", "10.98.0.11/24", "eth1")]
    {
        cluster.run_in(machine, "ip", &["address", "add", address, "dev", device])?;
    }
    cluster.run_in("bird", "ip", &["link", "set", "lo", "up"])?;
    let session = |name: &str, local: &str, neighbor: &str, more: &str, plain: &str, through: &str| {
        format!(
            "protocol bgp {name} {{\n  local {local} as 64513;\n  neighbor {neighbor} as 64512;\n  \
             graceful restart off; {SOON}\n  {more}\n  ipv4 {{ import all; next hop self; export filter {{\n    \
             if net = {through} then {{ bgp_path.prepend(64512); accept; }}\n    \
             if net = {plain} then accept;\n    reject;\n  }}; }};\n}}\n"
        )
    };
    let conf = [
        "router id 172.30.1.1;\nprotocol static { ipv4; route 10.94.0.0/24 blackhole; route 10.95.0.0/24 blackhole;\n  \
         route 10.96.0.0/24 blackhole; route 10.97.0.0/24 blackhole; }\n\
         protocol bfd { interface \"eth1\" { interval 500 ms; idle tx interval 1 s; multiplier 6; }; }\n",
        // BIRD has no two sessions with an address and a port.
        &session("near", NEAR, "172.30.1.11 port 1790", "bfd on;", "10.95.0.0/24", "10.97.0.0/24"),
        &session("far", FAR, "172.30.1.11", "multihop;", "10.96.0.0/24", "10.94.0.0/24"),
        &session("side", SIDE, "10.98.0.11 port 1790", "", "10.93.0.0/24", "10.92.0.0/24"),
    ];
    Bird::start(cluster, "bird", "bird", &conf.concat())
}

/// The node of the mesh, with a block.
fn meshed(cluster: &Cluster, more: &str) -> Result<Bird> {
    let conf = format!(
        "router id {HILL};\nprotocol static {{ ipv4; route 10.65.200.0/24 blackhole; }}\n\
         protocol bgp node1 {{\n  local {HILL} as 64512;\n  neighbor 172.30.1.11 port 1790 as 64512;\n  \
         graceful restart off; {SOON}\n  {more}\n  \
         ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};\n}}\n"
    );
    Bird::start(cluster, "frr", "hill", &conf)
}

/// The node's session with this neighbour, if it has one.
fn session(cluster: &Cluster, address: &str) -> Result<Option<Peer>> {
    Ok(sessions(cluster, "node1")?.into_iter().find(|peer| peer.address.to_string() == address))
}

fn is_up(cluster: &Cluster, address: &str) -> Result<bool> {
    Ok(session(cluster, address)?.is_some_and(|peer| peer.state == "Established"))
}

/// Waits until the node's kernel has the network by this router.
fn wait_way(cluster: &Cluster, network: &str, by: &str) -> Result<()> {
    let way = || cluster.run_in("node1", "ip", &["route", "show", network]);
    wait(PATIENCE, || Ok(way()?.contains(&format!("via {by} "))))
        .with_context(|| format!("{network} by {by}: {:?}", way()))
}

pub(crate) fn every_way_to_one(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(LAB, Datastore::Embedded)?;
    let objects = [
        CLUSTER,
        &configuration("nodeToNodeMeshEnabled: false"),
        &near("nextHopMode: Keep"),
        &hill("nextHopMode: Self, reversePeering: Manual"),
    ];
    applied(&cluster, &objects.concat())?;
    let cluster = &mut cluster;
    let mut router = router(cluster)?;
    let mountain = meshed(cluster, "")?;
    let secrets = cluster.folder("secrets");
    std::fs::create_dir_all(secrets.join("mesh"))?;
    std::fs::write(secrets.join("mesh/all"), "open sesame\n")?;
    cluster.start_with("node1", &[&format!("--secrets-dir={}", secrets.display())])?;
    cluster.wait_ready("node1", PATIENCE)?;
    let outcome = ways(cluster, &router)
        .and_then(|()| next_hops(cluster, &router, &mountain))
        .and_then(|()| password(cluster, mountain))
        .and_then(|()| failure(cluster, &mut router));
    outcome.with_context(|| state(cluster))
}

/// How each session is made, and what comes in by it.
fn ways(cluster: &Cluster, router: &Bird) -> Result<()> {
    let listeners = cluster.run_in("node1", "ss", &["-ltnH"])?;
    ensure!(listeners.contains(":1790 ") && !listeners.contains(":179 "), "listenPort: {listeners}");
    // A session of BIRD's is from the source it knows, to the address it has there.
    for name in ["near", "far", "side"] {
        router.says(cluster, &format!("show protocols all {name}"), &["Established"])?;
    }
    wait_way(cluster, FAR, NEAR).context("reachableBy")?;
    wait_way(cluster, "10.96.0.0/24", NEAR).context("what is told from behind the gateway")?;
    wait_way(cluster, "10.95.0.0/24", NEAR)?;
    wait_way(cluster, "10.97.0.0/24", NEAR).context("numAllowedLocalASNumbers")?;
    let filtered = || routes(cluster, "node1", &["neighbor", FAR, "filtered"]);
    let looped = "filtered: our AS is in AS_PATH";
    wait(PATIENCE, || Ok(matches!(&filtered()?[..], [one] if one.prefix.to_string() == "10.94.0.0/24" && one.reason == looped)))
        .with_context(|| format!("without numAllowedLocalASNumbers: {:#?}", filtered()))?;
    let known = cluster.run_in("node1", "ip", &["route", "show", "10.94.0.0/24"])?;
    ensure!(known.is_empty(), "{known}");
    // What is told: prefixAdvertisements.
    let communities = ["BGP.community: (64512,66)\n", "BGP.large_community: (64512, 1, 2)\n"];
    router.says(cluster, "show route all protocol near", &communities)?;
    // Who is directly connected.
    router.says(cluster, "show bfd sessions", &["172.30.1.11", "Up"])?;
    wait_metric(cluster, "node1", "bgp_peer_bfd_up", &[("peer", NEAR)], |up| up == 1)?;
    let far = session(cluster, FAR)?.context("far")?;
    ensure!(far.bfd.is_none(), "behind a gateway: {far:#?}");
    Ok(())
}

/// The reverse session, and the next hops of what one is told of the other.
fn next_hops(cluster: &Cluster, router: &Bird, mountain: &Bird) -> Result<()> {
    ensure!(session(cluster, HILL)?.is_none(), "reversePeering: Manual");
    applied(cluster, &hill("nextHopMode: Self"))?;
    mountain
        .says(cluster, "show route all 10.95.0.0/24", &["BGP.next_hop: 172.30.1.11\n"])
        .context("Self")?;
    applied(cluster, &hill("nextHopMode: Auto"))?;
    mountain.says(cluster, "show route all 10.95.0.0/24", &["BGP.next_hop: 172.30.1.1\n"]).context("Auto")?;
    for (mode, next_hop) in [
        ("nextHopMode: Keep", HILL),
        ("keepOriginalNextHop: false", "172.30.1.11"),
        ("keepOriginalNextHop: true", HILL),
    ] {
        applied(cluster, &near(mode))?;
        let question = "show route all 10.65.200.0/24 protocol near";
        router.says(cluster, question, &[&format!("BGP.next_hop: {next_hop}\n")]).context(mode)?;
    }
    Ok(())
}

/// The mesh's password, asked of a node of it.
fn password(cluster: &Cluster, mountain: Bird) -> Result<()> {
    let mesh = "nodeMeshPassword: {secretKeyRef: {name: mesh, key: all}}\n  nodeMeshMaxRestartTime: 66s";
    applied(cluster, &configuration(mesh))?;
    margay(cluster, &["delete", "bgppeer", "hill"])?;
    wait(PATIENCE, || Ok(!is_up(cluster, HILL)?)).context("a session without the password")?;
    let known = || cluster.run_in("node1", "ip", &["route", "show", "10.65.200.0/24"]);
    drop(mountain);
    let mountain = meshed(cluster, "password \"open sesame\";")?;
    wait(PATIENCE, || is_up(cluster, HILL)).with_context(|| format!("{:#?}", sessions(cluster, "node1")))?;
    wait(PATIENCE, || Ok(known()?.contains("via 172.30.1.2 "))).with_context(|| format!("{:?}", known()))?;
    mountain.says(cluster, "show protocols all node1", &["Established", "Restart time: 66"])
}

/// The router says no more: only the session that BFD watches notices before its hold time is over.
fn failure(cluster: &Cluster, router: &mut Bird) -> Result<()> {
    router.process.signal(Signal::SIGSTOP)?;
    wait(PATIENCE, || Ok(!is_up(cluster, NEAR)?)).context("BFD notices")?;
    for other in [FAR, SIDE] {
        ensure!(is_up(cluster, other)?, "{other}: {:#?}", session(cluster, other));
    }
    let ended = session(cluster, NEAR)?.and_then(|peer| peer.last_error).unwrap_or_default();
    ensure!(ended.starts_with("BFD failed"), "{ended}");
    wait_metric(cluster, "node1", "bgp_peer_bfd_up", &[("peer", NEAR)], |up| up == 0)?;
    wait_metric(cluster, "node1", "bgp_peer_bfd_failures_total", &[("peer", NEAR)], |failures| failures > 0)?;
    let last = [("peer", NEAR), ("error", &*ended)];
    wait_metric(cluster, "node1", "bgp_peer_last_error_seconds", &last, |ago| ago < 600)?;
    router.process.kill()?;
    Ok(())
}
