//! Sessions that come and go with the topology, while pods talk: no packet is lost.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use margay_control::bgp::Route;
use margay_lab::probe::{Protocol, Stream};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{PORT, Pod};
use serde_json::json;

use crate::labs::{
    Labs, PATIENCE, PROBE_EVERY, applied, margay, none_lost, send_more, sessions, wait_answered,
};

/// Three nodes, machines for five reflectors, and a router.
const LAB: &str = "tests/labs/reflectors.clab.yml";

const NODES: [&str; 3] = ["node1", "node2", "node3"];

const POOL: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.65.0.0/16, blockSize: 24}
---
";

/// Names of the peers of a daemon; none if not all of them are up.
fn peers(cluster: &Cluster, node: &str) -> Result<Option<BTreeSet<String>>> {
    let peers = sessions(cluster, node)?;
    let up = peers.iter().all(|peer| peer.state == "Established");
    Ok(up.then(|| peers.into_iter().map(|peer| peer.name).collect()))
}

/// Waits until every node has just these peers, and all of them are up.
fn wait_peers(cluster: &Cluster, wanted: impl Fn(&str) -> BTreeSet<String>) -> Result<()> {
    for node in NODES {
        wait(PATIENCE, || Ok(peers(cluster, node)?.is_some_and(|peers| peers == wanted(node))))
            .with_context(|| {
                format!("{node} peers with {:?}: {:#?}", wanted(node), sessions(cluster, node))
            })?;
    }
    Ok(())
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn mesh(node: &str) -> BTreeSet<String> {
    NODES.iter().filter(|name| **name != node).map(|name| (*name).to_owned()).collect()
}

/// A node's pods that talk to the next node's, and so on in a ring, from now until [`Talk::ends`].
struct Talk {
    pods: Vec<Pod>,
    streams: Vec<Stream>,
}

impl Talk {
    fn begins(cluster: &Cluster) -> Result<Self> {
        let mut pods = Vec::new();
        for node in NODES {
            pods.push(cluster.runtime(node)?.add("shop", &format!("on-{node}"))?);
        }
        let mut streams = Vec::new();
        for (at, pod) in pods.iter().enumerate() {
            let next = pods.get((at + 1) % pods.len()).context("no pod")?;
            // The blocks of the others must be known before every probe counts.
            wait_answered(pod, next)?;
            streams.push(Stream::start(&pod.netns, next.address, Protocol::Udp(PORT), PROBE_EVERY)?);
        }
        Ok(Self { pods, streams })
    }

    /// Lets so many more probes pass.
    fn goes_on(&self, count: u64) -> Result<()> {
        send_more(self.streams.first().context("no stream")?, count)
    }

    fn ends(self, cluster: &Cluster) -> Result<()> {
        self.streams.into_iter().try_for_each(none_lost)?;
        self.pods.into_iter().try_for_each(|pod| cluster.runtime(&pod.node.clone())?.delete(pod))
    }
}

fn begin(labs: &mut Labs) -> Result<Cluster> {
    let mut cluster = labs.alone(LAB, Datastore::Embedded)?;
    applied(&cluster, POOL)?;
    NODES.iter().try_for_each(|node| cluster.start(node))?;
    NODES.iter().try_for_each(|node| cluster.wait_ready(node, PATIENCE))?;
    wait_peers(&cluster, mesh)?;
    Ok(cluster)
}

/// From the mesh to reflectors, to more of them, through drains and deaths, and back to the mesh.
pub(crate) fn reflectors_come_and_go(labs: &mut Labs) -> Result<()> {
    let mut cluster = begin(labs)?;
    let talk = Talk::begins(&cluster)?;

    for reflector in ["rr1", "rr2"] {
        cluster.start(reflector)?;
    }
    wait_peers(&cluster, |_| names(&["rr1", "rr2"])).context("from the mesh to two reflectors")?;
    talk.goes_on(50)?;

    for reflector in ["rr3", "rr4", "rr5"] {
        cluster.start(reflector)?;
    }
    let all = names(&["rr1", "rr2", "rr3", "rr4", "rr5"]);
    let three = |cluster: &Cluster, node: &str| -> Result<Option<BTreeSet<String>>> {
        Ok(peers(cluster, node)?.filter(|peers| peers.len() == 3 && peers.is_subset(&all)))
    };
    // Not all choose alike; while only three are there, they do.
    let mut chosen = Vec::new();
    let spread = || -> Result<bool> {
        let peers = NODES.iter().map(|node| three(&cluster, node)).collect::<Result<Vec<_>>>()?;
        chosen = peers.into_iter().flatten().collect();
        Ok(chosen.len() == NODES.len() && chosen.iter().collect::<BTreeSet<_>>().len() > 1)
    };
    wait(PATIENCE, spread)
        .with_context(|| format!("three of five each: {:#?}", NODES.map(|node| sessions(&cluster, node))))?;
    talk.goes_on(50)?;

    // Drained (RFC 8326): node1's first goes and comes back.
    let first = chosen.first().and_then(|own| own.first()).context("node1 has no reflector")?.clone();
    cluster.stop(&first)?;
    let told = cluster.whole_log(&first);
    ensure!(told.contains("another reflector serves the clients"), "{told}");
    talk.goes_on(100)?;
    cluster.start(&first)?;
    wait(PATIENCE, || Ok(three(&cluster, "node1")?.is_some())).with_context(|| format!("{first} is back"))?;

    // Dead: all but one of each node's share at worst. They stay registered, so nodes keep trying.
    for reflector in ["rr1", "rr3"] {
        cluster.kill(reflector)?;
    }
    talk.goes_on(200)?;
    // Dead for good.
    margay(&cluster, &["delete", "node", "rr1", "rr3"])?;
    wait_peers(&cluster, |_| names(&["rr2", "rr4", "rr5"])).context("the dead ones are forgotten")?;
    talk.goes_on(50)?;

    // Back to the mesh: reflectors that run, and reflectors that do not.
    cluster.kill("rr2")?;
    margay(&cluster, &["delete", "node", "rr2", "rr4", "rr5"])?;
    wait_peers(&cluster, mesh).context("back to the mesh")?;
    talk.goes_on(100)?;
    let out_of_service = |name: &str| -> Result<bool> {
        let problems = cluster.status(name)?.problems;
        Ok(problems
            .iter()
            .any(|problem| problem.object.contains(name) && problem.message.contains("restart it")))
    };
    wait(PATIENCE, || out_of_service("rr4")).context("a reflector whose Node is deleted says so")?;
    for node in NODES {
        let status = cluster.status(node)?;
        ensure!(status.ready && status.problems.is_empty(), "{node}: {status:#?}");
    }
    talk.ends(&cluster)
}

/// Two reflectors that are one cluster do not use each other's routes, so either alone has to know everything; and a node
/// that loses one loses no packet.
pub(crate) fn two_reflectors_of_one_cluster(labs: &mut Labs) -> Result<()> {
    const REFLECTORS: [&str; 2] = ["rr1", "rr2"];
    let mut cluster = begin(labs)?;
    let start =
        |cluster: &mut Cluster, reflector: &str| cluster.start_with(reflector, &["--cluster-id=0.0.0.7"]);
    for reflector in REFLECTORS {
        start(&mut cluster, reflector)?;
    }
    wait_peers(&cluster, |_| names(&REFLECTORS))?;
    let talk = Talk::begins(&cluster)?;

    // Each hears the three blocks from the other, and uses none of what has its own cluster id (RFC 4456 section 8).
    for reflector in REFLECTORS {
        let of_other = || -> Result<Vec<(u64, u64)>> {
            let of_reflectors =
                sessions(&cluster, reflector)?.into_iter().filter(|peer| peer.name.starts_with("rr"));
            Ok(of_reflectors.map(|peer| (peer.received, peer.filtered)).collect())
        };
        wait(PATIENCE, || Ok(of_other()? == [(3, 3)]))
            .with_context(|| format!("{reflector}: {:?}", of_other()))?;
    }
    let by_rr2 = cluster.address("rr2")?.to_string();
    let filtered = crate::look::routes(&cluster, "rr1", &["neighbor", &by_rr2, "filtered"])?;
    let looped = |route: &Route| !route.best && route.reason.contains("cluster");
    ensure!(filtered.len() == 3 && filtered.iter().all(looped), "{filtered:#?}");
    // What every node knows of the others, and from whom.
    let known = |cluster: &Cluster, node: &str| -> Result<BTreeSet<(String, String)>> {
        let routes: Vec<Route> = cluster.client(node).get("/v1/bgp/routes")?;
        let fresh = routes.into_iter().filter(|route| !route.stale);
        Ok(fresh.filter_map(|route| Some((route.prefix.to_string(), route.from?.to_string()))).collect())
    };
    let wait_known = |cluster: &Cluster, from: &[&str]| -> Result<()> {
        NODES.iter().try_for_each(|node| {
            wait(PATIENCE, || {
                let known = known(cluster, node)?;
                let by_all = known.iter().all(|(_, by)| from.contains(&by.as_str()));
                Ok(known.len() == 2 * from.len() && by_all)
            })
            .with_context(|| {
                format!("{node} knows two blocks from each of {from:?}: {:?}", known(cluster, node))
            })
        })
    };
    let addresses = ["172.30.1.21", "172.30.1.22"];
    wait_known(&cluster, &addresses)?;
    for (at, lost) in REFLECTORS.iter().enumerate() {
        let other = addresses.get(1 - at).context("two")?;
        if at == 0 {
            cluster.kill(lost)?;
        } else {
            cluster.stop(lost)?;
        }
        wait_known(&cluster, &[other]).with_context(|| format!("without {lost}"))?;
        talk.goes_on(100)?;
        start(&mut cluster, lost)?;
        wait_peers(&cluster, |_| names(&REFLECTORS)).with_context(|| format!("{lost} is back"))?;
        wait_known(&cluster, &addresses)?;
        talk.goes_on(50)?;
    }
    talk.ends(&cluster)
}

/// How often a session of each node came up.
fn ups(cluster: &Cluster) -> Vec<usize> {
    NODES.iter().map(|node| cluster.whole_log(node).matches("state=Established").count()).collect()
}

/// Both reflectors' programs are started anew, one after the other, again and again: every session is the one it was.
pub(crate) fn reflectors_are_upgraded_in_place(labs: &mut Labs) -> Result<()> {
    const REFLECTORS: [&str; 2] = ["rr1", "rr2"];
    let mut cluster = begin(labs)?;
    for reflector in REFLECTORS {
        cluster.start(reflector)?;
    }
    wait_peers(&cluster, |_| names(&REFLECTORS))?;
    let talk = Talk::begins(&cluster)?;
    let before = ups(&cluster);
    for _ in 0..3 {
        for reflector in REFLECTORS {
            cluster.upgrade(reflector)?;
            talk.goes_on(20)?;
        }
    }
    // The successors do what the first did.
    let pod = cluster.runtime("node1")?.add("shop", "late")?;
    wait_peers(&cluster, |_| names(&REFLECTORS))?;
    talk.goes_on(50)?;
    ensure!(ups(&cluster) == before, "sessions were reset: {before:?} before, {:?} now", ups(&cluster));
    cluster.runtime("node1")?.delete(pod)?;
    talk.ends(&cluster)
}

/// Two of the three machines run a reflector beside their agent: it has an address of its own, and each listens on its own.
pub(crate) fn agents_and_reflectors_share_machines(labs: &mut Labs) -> Result<()> {
    const REFLECTORS: [(&str, &str); 2] = [("rr-a", "172.30.1.31/24"), ("rr-b", "172.30.1.32/24")];
    let cluster = begin(labs)?;
    applied(
        &cluster,
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\n\
         spec: {bindMode: NodeIP}\n",
    )?;
    let talk = Talk::begins(&cluster)?;
    let mut processes = Vec::new();
    for ((name, address), node) in REFLECTORS.iter().zip(NODES) {
        cluster.run_in(node, "ip", &["address", "add", address, "dev", "eth1"])?;
        let command = cluster.reflector(name, address)?;
        processes.push(cluster.node(node)?.spawn(name, command, &cluster.folder(name).join("log"))?);
    }
    let both = REFLECTORS.map(|(name, _)| name);
    wait_peers(&cluster, |_| names(&both))?;
    talk.goes_on(50)?;
    for daemon in NODES.iter().chain(&both) {
        let status = cluster.status(daemon)?;
        ensure!(status.ready && status.problems.is_empty(), "{daemon}: {status:#?}");
    }
    // One dies; the other serves everybody.
    processes.remove(0).kill()?;
    talk.goes_on(100)?;
    talk.ends(&cluster)
}

/// A reflector that is registered and never comes up: nodes say so, and give up neither it nor the mesh.
pub(crate) fn a_reflector_that_never_comes_up(labs: &mut Labs) -> Result<()> {
    let cluster = begin(labs)?;
    let talk = Talk::begins(&cluster)?;
    applied(
        &cluster,
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: rr1}\n\
         spec: {bgp: {ipv4Address: 172.30.1.21/24, routeReflectorClusterID: 172.30.1.21}}\n",
    )?;
    for node in NODES {
        let held = || -> Result<bool> {
            let status = cluster.status(node)?;
            let said = status.problems.iter().any(|problem| problem.message.contains("rr1"));
            let up = sessions(&cluster, node)?.iter().filter(|peer| peer.state == "Established").count();
            Ok(said && status.ready && up == 2)
        };
        wait(PATIENCE, held).with_context(|| format!("{node}: {:#?}", cluster.status(node)))?;
    }
    talk.goes_on(100)?;
    margay(&cluster, &["delete", "node", "rr1"])?;
    wait_peers(&cluster, mesh)?;
    talk.ends(&cluster)
}

/// Addresses of a pool that no block has are reached through reflectors: of a pod that was there before them, and of one
/// that came later.
pub(crate) fn reflectors_tell_addresses_of_nobody(labs: &mut Labs) -> Result<()> {
    let mut cluster = begin(labs)?;
    let fixed = |cluster: &Cluster, name: &str, address: &str| -> Result<Pod> {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, annotations: {{\
             cni.projectcalico.org/ipAddrsNoIpam: '[\"{address}\"]'}}}}\nspec: {{nodeName: node1, containers: []}}\n"
        );
        applied(cluster, &pod)?;
        cluster.runtime("node1")?.add_with("shop", name, |config| {
            config["feature_control"] = json!({"ip_addrs_no_ipam": true});
        })
    };
    let early = fixed(&cluster, "early", "10.65.250.7")?;
    let far = cluster.runtime("node2")?.add("shop", "far")?;
    wait_answered(&far, &early)?;
    let told = Stream::start(&far.netns, early.address, Protocol::Udp(PORT), PROBE_EVERY)?;
    for reflector in ["rr1", "rr2"] {
        cluster.start(reflector)?;
    }
    wait_peers(&cluster, |_| names(&["rr1", "rr2"]))?;
    send_more(&told, 50)?;
    let late = fixed(&cluster, "late", "10.65.250.8")?;
    wait_answered(&far, &late).context("the reflectors do not tell what came later")?;
    none_lost(told)?;
    for reflector in ["rr1", "rr2"] {
        let refused: u64 = sessions(&cluster, reflector)?.iter().map(|peer| peer.filtered).sum();
        ensure!(refused == 0, "{reflector}: {:#?}", sessions(&cluster, reflector)?);
    }
    for pod in [early, late] {
        cluster.runtime("node1")?.delete(pod)?;
    }
    let routes = || cluster.run_in("node2", "ip", &["route", "show"]);
    wait(PATIENCE, || Ok(!routes()?.contains("10.65.250."))).with_context(|| format!("{:?}", routes()))?;
    let node = || margay(&cluster, &["get", "node", "node1", "-o", "yaml"]);
    wait(PATIENCE, || Ok(!node()?.contains("10.65.250."))).with_context(|| format!("{:?}", node()))?;
    cluster.runtime("node2")?.delete(far)
}

/// A top-of-rack router: BIRD of another AS that takes whoever of the subnet comes.
const TOR: &str = "router id 172.30.1.1;
protocol device {}
protocol bgp nodes {
  local 172.30.1.1 as 64513;
  neighbor range 172.30.1.0/24 as 64512;
  dynamic name \"node\";
  ipv4 { import all; export none; };
}
";

/// Calico's documentation, \"Configure BGP peering\": the mesh is off, a node reflects, chosen by its label.
const REFLECTOR_BY_LABEL: [&str; 3] = [
    "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false, asNumber: 64512}
",
    "apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: node3, labels: {route-reflector: 'true'}}
spec: {bgp: {ipv4Address: 172.30.1.13/24, routeReflectorClusterID: 244.0.0.1}}
",
    "apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: peer-with-route-reflectors}
spec: {nodeSelector: all(), peerSelector: route-reflector == 'true'}
",
];

/// A BGPPeer for the router, of the nodes that `whom` says, and its filter, which takes this action.
fn tor(whom: &str, action: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {{name: tor}}\n\
         spec: {{exportV4: [{{action: {action}, matchOperator: In, cidr: 10.65.0.0/16}}]}}\n---\n\
         apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: tor}}\n\
         spec: {{peerIP: 172.30.1.1, asNumber: 64513, filters: [tor]{whom}}}\n"
    )
}

/// What Calico's users have written goes on to work: step by step in the order of the documentation, no packet lost.
pub(crate) fn what_calicos_documentation_configures(labs: &mut Labs) -> Result<()> {
    let cluster = begin(labs)?;
    let talk = Talk::begins(&cluster)?;
    for step in REFLECTOR_BY_LABEL {
        applied(&cluster, step)?;
        talk.goes_on(100)?;
    }
    let by_label = |node: &str| if node == "node3" { names(&["node1", "node2"]) } else { names(&["node3"]) };
    wait_peers(&cluster, by_label).context("a reflector by label")?;
    talk.goes_on(100)?;

    let folder = cluster.folder("tor");
    std::fs::create_dir_all(&folder)?;
    let (conf, control) = (folder.join("bird.conf"), folder.join("bird.ctl"));
    std::fs::write(&conf, TOR)?;
    let mut bird = std::process::Command::new("bird");
    bird.arg("-f").arg("-c").arg(&conf).arg("-s").arg(&control);
    let _bird = cluster.node("r1")?.spawn("bird", bird, &folder.join("log")).context("Debian's bird2")?;
    let control = control.to_string_lossy().into_owned();
    let learned = || -> Result<usize> {
        let routes = cluster.run_in("r1", "birdc", &["-s", &control, "show", "route"]).unwrap_or_default();
        Ok(routes.lines().filter(|line| line.starts_with("10.65.")).count())
    };
    applied(&cluster, &tor("", "Accept"))?;
    let all_with_tor = |node: &str| &by_label(node) | &names(&["tor"]);
    wait_peers(&cluster, all_with_tor).context("a global peer")?;
    wait(PATIENCE, || Ok(learned()? == 3)).with_context(|| format!("a global peer: {:?}", learned()))?;

    // Another filter is a refresh: every session is the one it was.
    let before = ups(&cluster);
    applied(&cluster, &tor("", "Reject"))?;
    wait(PATIENCE, || Ok(learned()? == 0)).context("the filter rejects")?;
    applied(&cluster, &tor("", "Accept"))?;
    wait(PATIENCE, || Ok(learned()? == 3)).context("the filter accepts again")?;
    ensure!(ups(&cluster) == before, "sessions were reset: {before:?} before, {:?} now", ups(&cluster));

    // For one node: the others' sessions end at once, theirs with each other stay.
    applied(&cluster, &tor(", node: node1", "Accept"))?;
    let one_with_tor = |node: &str| if node == "node1" { all_with_tor(node) } else { by_label(node) };
    wait_peers(&cluster, one_with_tor).context("a peer of one node")?;
    ensure!(ups(&cluster) == before, "sessions were reset: {before:?} before, {:?} now", ups(&cluster));
    talk.ends(&cluster)
}
