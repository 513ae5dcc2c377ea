//! Two top-of-rack routers of one AS: what the fields of a BGPPeer make of a session and BGPFilters of routes, as BIRD
//! sees them; and the node's kernel uses both routers at once.

use anyhow::{Context, Result, ensure};
use margay_tests::cluster::{Cluster, Datastore, wait};

use crate::bird::{Bird, SOON};
use crate::labs::{Labs, PATIENCE, applied};
use crate::routers::{LAB, state};

const CLUSTER: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: four}
spec: {cidr: 10.65.0.0/16, blockSize: 24}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: first}
spec:
  peerIP: 172.30.1.1
  asNumber: 64513
  localASNumber: 64600
  password: {secretKeyRef: {name: racks, key: one}}
  ttlSecurity: 1
  keepaliveTime: 100s
  maxRestartTime: 77s
  filters: [racks]
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: second}
spec: {peerIP: 172.30.1.2, asNumber: 64513}
---
";

/// The filter, with operations on what it lets in.
fn filter(operations: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {{name: racks}}
spec:
  exportV4:
  - action: Accept
    cidr: 10.65.0.0/16
    matchOperator: In
    prefixLength: {{min: 24, max: 24}}
    peerType: eBGP
    operations: [{{addCommunity: {{value: '64512:77'}}}}, {{prependASPath: {{prefix: [64700, 64701]}}}}]
  - action: Reject
  importV4:
  - {{action: Reject, communities: {{values: ['64513:1']}}}}
  - {{action: Accept, peerType: eBGP{operations}}}
"
    )
}

/// Network of both, and one that the filter keeps out.
const SHARED: &str = "10.97.0.0/24";
const MARKED: &str = "10.98.0.0/24";

/// A router at this address, to which the node is of that AS.
fn rack(cluster: &Cluster, machine: &'static str, own: &str, node_as: u32, more: &str) -> Result<Bird> {
    let conf = format!(
        "router id {own};\n\
         protocol static {{ ipv4; route {SHARED} blackhole;\n  \
         route {MARKED} blackhole {{ bgp_community.add((64513, 1)); }}; }}\n\
         protocol bgp node1 {{\n  local {own} as 64513;\n  neighbor 172.30.1.11 as {node_as};\n  \
         graceful restart off; {SOON}\n  {more}\n  \
         ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};\n}}\n"
    );
    Bird::start(cluster, machine, machine, &conf)
}

/// Waits until the node's kernel has the network by these routers, and no other.
fn wait_ways(cluster: &Cluster, routers: &[&str]) -> Result<()> {
    let ways = || cluster.run_in("node1", "ip", &["route", "show", SHARED]);
    let by = |ways: &str, router: &str| ways.contains(&format!("via {router} "));
    wait(PATIENCE, || {
        let ways = ways()?;
        Ok(["172.30.1.1", "172.30.1.2"].iter().all(|router| by(&ways, router) == routers.contains(router)))
    })
    .with_context(|| format!("{SHARED} by {routers:?}: {:?}", ways()))
}

pub(crate) fn two_of_one_as(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(LAB, Datastore::Embedded)?;
    applied(&cluster, &format!("{CLUSTER}{}", filter("")))?;
    racks(&mut cluster).with_context(|| state(&cluster))
}

fn racks(cluster: &mut Cluster) -> Result<()> {
    let secrets = cluster.folder("secrets");
    std::fs::create_dir_all(secrets.join("racks"))?;
    std::fs::write(secrets.join("racks/one"), "open sesame\n")?;
    let guarded = "password \"open sesame\"; ttl security on;";
    let mut first = rack(cluster, "bird", "172.30.1.1", 64_600, guarded)?;
    let second = rack(cluster, "frr", "172.30.1.2", 64_512, "")?;
    cluster.start_with("node1", &[&format!("--secrets-dir={}", secrets.display())])?;
    cluster.wait_ready("node1", PATIENCE)?;

    // The session: BIRD asks for the password, TTL 255 and the other AS; its own hold time is the least of 3 x 100 s and 240 s.
    first.says(
        cluster,
        "show protocols all node1",
        &["Established", "Neighbor AS:      64600", "Restart time: 77", "/240\n"],
    )?;
    // Routes: the filter's operations come before the node's own AS (as in BIRD's own filters).
    first.says(
        cluster,
        "show route all protocol node1",
        &["BGP.as_path: 64600 64700 64701\n", "BGP.community: (64512,77)\n", "BGP.next_hop: 172.30.1.11\n"],
    )?;
    second.says(
        cluster,
        "show route all protocol node1",
        &["BGP.as_path: 64512\n", "BGP.next_hop: 172.30.1.11\n"],
    )?;

    // Both at once: a group of next hops in the kernel.
    wait_ways(cluster, &["172.30.1.1", "172.30.1.2"])?;
    let way = cluster.run_in("node1", "ip", &["route", "show", SHARED])?;
    let group = way.split_whitespace().skip_while(|word| *word != "nhid").nth(1);
    let group = group.with_context(|| format!("no next hop object: {way}"))?;
    let group = cluster.run_in("node1", "ip", &["nexthop", "show", "id", group])?;
    ensure!(group.contains(" group ") && group.contains('/'), "a group of two: {group}");
    let marked = || cluster.run_in("node1", "ip", &["route", "show", MARKED]);
    wait(PATIENCE, || Ok(marked()?.contains("via 172.30.1.2 ")))?;
    ensure!(!marked()?.contains("via 172.30.1.1 "), "{MARKED}: {}", marked()?);

    applied(cluster, &filter(", operations: [{setPriority: {value: 100}}]"))?;
    wait_ways(cluster, &["172.30.1.1"]).context("the first is preferred")?;
    applied(cluster, &filter(""))?;
    wait_ways(cluster, &["172.30.1.1", "172.30.1.2"])?;
    first.process.kill()?;
    wait_ways(cluster, &["172.30.1.2"]).context("the first is gone")
}
