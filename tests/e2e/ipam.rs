//! What gives addresses and blocks back, and what tells that something was left.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, ensure};
use margay_control::status::IpamStatus;
use margay_lab::Process;
use margay_netlink::Netns;
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{Pod, said};
use serde_json::Value;

use crate::labs::{Labs, PATIENCE, TWO_NODES, applied, margay, no_pods, pod_addresses, wait_problem};

/// Nodes of the crowd, and pods of each.
const NODES: usize = 16;
const PODS: usize = 6;

/// ADDs that a node has under way at once in the long form.
const AT_ONCE: usize = 32;

/// Pods of each node of the crowd: the long form is `E2E_CROWD=1000 cargo test -p margay-tests --test e2e a_crowd`.
fn pods_of_each() -> usize {
    std::env::var("E2E_CROWD").ok().and_then(|text| text.parse().ok()).unwrap_or(PODS)
}

/// A pool with blocks of four addresses.
const SMALL: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: small}
spec: {cidr: 10.66.0.0/27, blockSize: 30}
";

fn start(labs: &mut Labs, nodes: &[&str]) -> Result<Cluster> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    applied(&cluster, SMALL)?;
    for node in nodes {
        cluster.start(node)?;
        cluster.wait_ready(node, PATIENCE)?;
    }
    Ok(cluster)
}

fn blocks(cluster: &Cluster, node: &str) -> Result<usize> {
    let ipam: IpamStatus = cluster.client(node).get("/v1/ipam")?;
    Ok(ipam.blocks.len())
}

/// Blocks that a node holds.
fn held(cluster: &Cluster, node: &str) -> Result<Vec<String>> {
    let ipam: IpamStatus = cluster.client(node).get("/v1/ipam")?;
    Ok(ipam.blocks.iter().map(|block| block.cidr.to_string()).collect())
}

/// Whether node1 has heard of a way to a block by way of another node.
fn advertises(cluster: &Cluster, node: &str, block: &str) -> Result<bool> {
    let query = format!("/v1/bgp/routes?exact=true&prefix={}", block.replace('/', "%2F"));
    let routes: Value = cluster.client("node1").get(&query)?;
    Ok(routes.to_string().contains(&cluster.address(node)?.to_string()))
}

fn check(cluster: &Cluster) -> Result<String> {
    Ok(said(&cluster.margay(&["ipam", "check"])?))
}

/// The datastore follows a moment behind.
fn wait_clean(cluster: &Cluster) -> Result<()> {
    wait(PATIENCE, || Ok(cluster.margay(&["ipam", "check"])?.status.success()))
        .with_context(|| format!("{:?}", check(cluster)))
}

/// Blocks claimed for many pods go when the pods have gone, but for one.
pub(crate) fn empty_blocks_are_given_back(labs: &mut Labs) -> Result<()> {
    let cluster = start(labs, &["node1"])?;
    let runtime = cluster.runtime("node1")?;
    let pods: Vec<Pod> =
        (0..9).map(|number| runtime.add("default", &format!("pod-{number}"))).collect::<Result<_>>()?;
    ensure!(blocks(&cluster, "node1")? == 3, "{} blocks for nine pods", blocks(&cluster, "node1")?);
    wait_clean(&cluster)?;
    let table = margay(&cluster, &["ipam", "show", "--cluster"])?;
    ensure!(table.contains("10.66.0.0/27") && table.contains("host:node1"), "{table}");
    let who = margay(&cluster, &["ipam", "show", &pods[4].address.to_string()])?;
    ensure!(who.contains("default/pod-4") && who.contains("node1"), "{who}");
    // What is in use is not released by hand either.
    let output = cluster.margay_on("node1", &["ipam", "release", &pods[4].address.to_string()])?;
    ensure!(!output.status.success() && said(&output).contains("delete the pod"), "{}", said(&output));
    for pod in pods {
        runtime.delete(pod)?;
    }
    wait(PATIENCE, || Ok(blocks(&cluster, "node1")? == 1))
        .with_context(|| format!("{:?} blocks stay", blocks(&cluster, "node1")))?;
    wait(PATIENCE, || {
        Ok(margay(&cluster, &["get", "ipamblocks", "-o", "json"])?.matches("host:node1").count() == 1)
    })
    .context("the datastore's blocks")?;
    wait_clean(&cluster)?;
    no_pods(&cluster, "node1")
}

/// A pod's annotation chooses its pool, else that of its namespace does.
pub(crate) fn annotations_choose_pools(labs: &mut Labs) -> Result<()> {
    let cluster = start(labs, &["node1"])?;
    let annotated = |kind: &str, meta: &str, pool: &str| {
        format!(
            "apiVersion: v1\nkind: {kind}\nmetadata: {{{meta}, annotations: {{cni.projectcalico.org/ipv4pools: '[\"{pool}\"]'}}}}\n"
        )
    };
    let pool = |name: &str, cidr: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}, blockSize: 30}}\n"
        )
    };
    let objects = [
        pool("red", "10.67.0.0/27"),
        pool("blue", "10.68.0.0/27"),
        annotated("Namespace", "name: colours", "red"),
        annotated("Pod", "name: odd, namespace: colours", "10.68.0.0/27")
            + "spec: {nodeName: node1, containers: []}\n",
    ];
    applied(&cluster, &objects.join("---\n"))?;
    let runtime = cluster.runtime("node1")?;
    for (namespace, name, range) in
        [("default", "plain", "10.66."), ("colours", "even", "10.67."), ("colours", "odd", "10.68.")]
    {
        // The agent hears of the objects when it does.
        wait(PATIENCE, || {
            let pod = runtime.add(namespace, name)?;
            let address = pod.address.to_string();
            runtime.delete(pod)?;
            Ok(name == "plain" || address.starts_with(range))
        })
        .with_context(|| format!("{namespace}/{name} in {range}"))?;
    }
    applied(&cluster, &annotated("Namespace", "name: colours", "green"))?;
    wait(PATIENCE, || {
        Ok(runtime.add("colours", "green").err().is_some_and(|e| format!("{e:#}").contains("green")))
    })
    .context("a pool that does not exist is named")
}

/// A pool for others, one for tunnels, and one that is asked for by name: no block is wanted unasked, and each serves its purpose.
pub(crate) fn pools_for_some(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    let pool = |name: &str, spec: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{blockSize: 30, {spec}}}\n---\n"
        )
    };
    let asks = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, annotations: {{\
             cni.projectcalico.org/ipv4pools: '[\"named\"]'}}}}\nspec: {{nodeName: node1, containers: []}}\n"
        )
    };
    let pools = [
        pool("others", "cidr: 10.66.0.0/27, nodeSelector: rack == 'r9'"),
        pool("tunnels", "cidr: 10.67.0.0/27, allowedUses: [Tunnel], vxlanMode: Always"),
        pool("named", "cidr: 10.68.0.0/27, assignmentMode: Manual, vxlanMode: Always"),
        asks("asks"),
    ];
    applied(&cluster, &pools.concat())?;
    cluster.start("node1")?;
    cluster.wait_ready("node1", PATIENCE)?;
    wait(PATIENCE, || Ok(margay(&cluster, &["get", "node", "node1", "-o", "yaml"])?.contains("10.67.0.")))
        .context("the tunnel's address")?;
    let runtime = cluster.runtime("node1")?;
    let pod = runtime.add("default", "asks")?;
    ensure!(pod.address.to_string().starts_with("10.68."), "{}", pod.address);
    // The runtime may hear of a pod before the agent does.
    for number in 0..10 {
        let name = format!("asks-{number}");
        applied(&cluster, &asks(&name))?;
        let pod = runtime.add("default", &name)?;
        ensure!(pod.address.to_string().starts_with("10.68."), "{name} has {}", pod.address);
        runtime.delete(pod)?;
    }
    let refused =
        runtime.add("default", "does-not").err().context("an address of a pool that is not for it")?;
    ensure!(format!("{refused:#}").contains("nodeSelector"), "{refused:#}");
    let problems = || -> Result<_> { Ok(cluster.status("node1")?.problems) };
    wait(PATIENCE, || Ok(problems()?.is_empty())).with_context(|| format!("{:?}", problems()))?;
    wait_clean(&cluster)?;
    runtime.delete(pod)?;
    no_pods(&cluster, "node1")
}

/// Interfaces that went with nobody saying so; and an endpoint that a node left behind.
pub(crate) fn lost_interfaces_are_collected(labs: &mut Labs) -> Result<()> {
    let cluster = start(labs, &["node1"])?;
    let runtime = cluster.runtime("node1")?;
    let (staying, lost) = (runtime.add("default", "staying")?, runtime.add("default", "lost")?);
    let routes = cluster.run_in("node1", "ip", &["route", "show", &lost.address.to_string()])?;
    let interface =
        routes.split_whitespace().skip_while(|word| *word != "dev").nth(1).context("no interface")?;
    cluster.run_in("node1", "ip", &["link", "delete", interface])?;
    let orphan = "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
                  metadata: {name: gone-k8s-orphan-eth0, namespace: default}\n\
                  spec: {orchestrator: k8s, node: gone, pod: orphan, endpoint: eth0, interfaceName: mgy1, ipNetworks: [10.69.0.1/32]}\n";
    applied(&cluster, orphan)?;
    let found = check(&cluster)?;
    ensure!(found.contains("is on node gone, which does not exist"), "{found}");
    margay(&cluster, &["delete", "workloadendpoint", "gone-k8s-orphan-eth0", "-n", "default"])?;
    let held = || pod_addresses(&cluster, "node1");
    let expected = [("default/staying".to_owned(), staying.address.to_string())];
    // Missing in two looks, half a minute apart.
    wait(3 * PATIENCE, || Ok(held()?.into_iter().eq(expected.clone())))
        .with_context(|| format!("{:?}", held()))?;
    wait_clean(&cluster)?;
    let next = runtime.add("default", "next")?;
    for pod in [staying, next] {
        runtime.delete(pod)?;
    }
    no_pods(&cluster, "node1")
}

/// What a deleted node had is collected; a living node that somebody deletes comes back and keeps all it has.
pub(crate) fn dead_nodes_are_collected(labs: &mut Labs) -> Result<()> {
    let mut cluster = start(labs, &["node1", "node2"])?;
    let living = cluster.runtime("node1")?.add("default", "living")?;
    let dead = cluster.runtime("node2")?.add("default", "dead")?;
    let theirs = held(&cluster, "node2")?;
    let [block] = theirs.as_slice() else { anyhow::bail!("blocks of node2: {theirs:?}") };
    wait(PATIENCE, || advertises(&cluster, "node2", block)).context("a block is advertised")?;
    wait_clean(&cluster)?;
    cluster.kill("node2")?;
    for node in ["node1", "node2"] {
        margay(&cluster, &["delete", "node", node])?;
    }
    wait(PATIENCE, || Ok(margay(&cluster, &["get", "nodes"])?.contains("node1")))
        .context("node1 comes back")?;
    let found = check(&cluster)?;
    ensure!(found.contains("node node2's, which does not exist"), "{found}");
    // By hand first: refused for the living, done for the dead.
    let output = cluster.margay(&["ipam", "release", "--node", "node1"])?;
    ensure!(!output.status.success() && said(&output).contains("may be alive"), "{}", said(&output));
    let output = margay(&cluster, &["ipam", "release", "--node", "node2"])?;
    ensure!(output.contains("IPAMBlock") && output.contains("WorkloadEndpoint"), "{output}");
    wait_clean(&cluster)?;
    ensure!(pod_addresses(&cluster, "node1")?.contains_key("default/living"), "the living pod is gone");
    // It was not dead: what its pod has is its own again.
    cluster.start("node2")?;
    cluster.wait_ready("node2", PATIENCE)?;
    wait_clean(&cluster)?;
    ensure!(
        margay(&cluster, &["get", "ipamblocks", "-o", "json"])?.contains("host:node2"),
        "no block of node2"
    );
    ensure!(pod_addresses(&cluster, "node2")?.contains_key("default/dead"), "the pod of node2 is gone");
    // Now it is, and the others see to it.
    cluster.kill("node2")?;
    margay(&cluster, &["delete", "node", "node2"])?;
    wait(
        2 * PATIENCE,
        || Ok(!margay(&cluster, &["get", "ipamblocks", "-o", "json"])?.contains("host:node2")),
    )
    .context("node2's block is collected")?;
    wait_clean(&cluster)?;
    // The other one gets the block, and the dead one comes back with a pod in it: it is told so, and advertises nothing.
    let name = block.replace(['.', '/'], "-");
    applied(
        &cluster,
        &format!(
            "apiVersion: projectcalico.org/v3\nkind: IPAMBlock\nmetadata: {{name: {name}}}\n\
             spec: {{cidr: {block}, affinity: 'host:node1', allocations: [null, null, null, null], \
             unallocated: [0, 1, 2, 3], attributes: []}}\n"
        ),
    )?;
    wait(PATIENCE, || Ok(held(&cluster, "node1")?.contains(block))).context("node1 takes up its block")?;
    cluster.start("node2")?;
    cluster.wait_ready("node2", PATIENCE)?;
    let object = format!("IPAMBlock({name})");
    let message = wait_problem(&cluster, &["node2"], &object)?;
    ensure!(message.contains("gives it to somebody else"), "{message}");
    let fresh = cluster.runtime("node2")?.add("default", "fresh")?;
    let of_node2 = held(&cluster, "node2")?;
    let new = of_node2.iter().find(|own| *own != block).context("node2 has no other block")?;
    wait(PATIENCE, || advertises(&cluster, "node2", new)).context("its other block is advertised")?;
    ensure!(!advertises(&cluster, "node2", block)?, "a block of node1 is advertised by node2");
    for pod in [dead, fresh] {
        cluster.runtime("node2")?.delete(pod)?;
    }
    wait(PATIENCE, || Ok(!held(&cluster, "node2")?.contains(block)))
        .context("an empty lost block is kept")?;
    wait(PATIENCE, || Ok(cluster.status("node2")?.problems.iter().all(|problem| problem.object != object)))
        .context("it is reported for ever")?;
    cluster.runtime("node1")?.delete(living)?;
    no_pods(&cluster, "node1")
}

/// Parts of a pool take its place while pods run, and rest of released addresses is kept.
pub(crate) fn split_and_configured(labs: &mut Labs) -> Result<()> {
    let cluster = start(labs, &["node1"])?;
    let runtime = cluster.runtime("node1")?;
    let before = runtime.add("default", "before")?;
    let output = margay(&cluster, &["ipam", "split", "small", "2"])?;
    ensure!(output.contains("small-0") && output.contains("IPPool(small) deleted"), "{output}");
    margay(&cluster, &["ipam", "configure", "--cooldown", "600"])?;
    let after = runtime.add("default", "after")?;
    let freed = after.address;
    runtime.delete(after)?;
    // The agent hears of the setting in its own time.
    let ipam = || cluster.client("node1").get::<IpamStatus>("/v1/ipam");
    wait(PATIENCE, || Ok(ipam()?.blocks.iter().map(|block| block.cooling).sum::<u64>() == 1))
        .with_context(|| format!("{freed} does not rest: {:?}", ipam()))?;
    let pods: Vec<Pod> =
        (0..4).map(|number| runtime.add("default", &format!("pod-{number}"))).collect::<Result<_>>()?;
    ensure!(pods.iter().all(|pod| pod.address != freed), "{freed} did not rest");
    wait_clean(&cluster)?;
    for pod in pods.into_iter().chain([before]) {
        runtime.delete(pod)?;
    }
    no_pods(&cluster, "node1")
}

/// A lab of nodes in one subnet, beside the machine of etcd.
fn crowd(labs: &mut Labs) -> Result<Cluster> {
    let mut text =
        "name: crowd\ntopology:\n  defaults: {kind: linux, image: alpine}\n  nodes:\n    sw1: {kind: bridge}\n"
            .to_owned();
    let mut links = "  links:\n    - endpoints: [\"r1:eth1\", \"sw1:r1\"]\n".to_owned();
    text.push_str("    r1: {exec: [ip address add 172.30.1.1/24 dev eth1]}\n");
    for number in 1..=NODES {
        let address = format!("172.30.1.{}/24", 10 + number);
        text.push_str(&format!(
            "    n{number}: {{labels: {{margay.role: node, margay.address: {address}}}, \
             exec: [ip address add {address} dev eth1]}}\n"
        ));
        links.push_str(&format!("    - endpoints: [\"n{number}:eth1\", \"sw1:n{number}\"]\n"));
    }
    let folder = std::path::Path::new("/run/e2e");
    std::fs::create_dir_all(folder)?;
    let file = folder.join("crowd.clab.yml");
    std::fs::write(&file, text + &links)?;
    labs.alone(&file.to_string_lossy(), Datastore::Etcd)
}

/// Agents that come and go.
struct Agents<'a> {
    cluster: &'a Cluster,
    running: Vec<Mutex<Process>>,
}

impl<'a> Agents<'a> {
    fn start(cluster: &'a Cluster) -> Result<Self> {
        let running =
            (1..=NODES).map(|number| Ok(Mutex::new(spawn(cluster, number)?))).collect::<Result<_>>()?;
        Ok(Self { cluster, running })
    }

    /// Kills one and starts another in its place.
    fn replace(&self, number: usize) -> Result<()> {
        let mut running = self.running[number - 1].lock().unwrap_or_else(PoisonError::into_inner);
        running.kill()?;
        *running = spawn(self.cluster, number)?;
        Ok(())
    }
}

fn spawn(cluster: &Cluster, number: usize) -> Result<Process> {
    let node = format!("n{number}");
    let command = cluster.daemon(&node)?;
    Ok(cluster.node(&node)?.spawn(&node, command, &cluster.folder(&node).join("log"))?)
}

/// Adds a pod as a runtime does: what fails is deleted and tried again.
fn add(cluster: &Cluster, node: &str, pod: &str) -> Result<(IpAddr, Netns)> {
    let runtime = cluster.runtime(node)?;
    let mut added = None;
    wait(2 * PATIENCE, || {
        let netns = Netns::new()?;
        let path = netns.path().to_string_lossy().into_owned();
        let output = runtime.call("ADD", pod, Some(("default", pod)), &path)?;
        let answer: Value = serde_json::from_slice(&output.stdout).with_context(|| said(&output))?;
        if output.status.success() {
            let address =
                answer["ips"][0]["address"].as_str().and_then(|text| text.split('/').next()?.parse().ok());
            added = Some((address.with_context(|| format!("no address: {answer}"))?, netns));
            return Ok(true);
        }
        let output = runtime.call("DEL", pod, Some(("default", pod)), &path)?;
        ensure!(output.status.success(), "DEL of {pod}: {}", said(&output));
        Ok(false)
    })
    .with_context(|| format!("ADD of {pod} on {node}"))?;
    added.context("nothing added")
}

/// Every address has one owner, although everybody asks at once and agents and etcd are killed meanwhile; and
/// nothing is left in the end.
pub(crate) fn a_crowd_with_deaths(labs: &mut Labs) -> Result<()> {
    let cluster = crowd(labs)?;
    cluster.start_datastore()?;
    let each = pods_of_each();
    let long = each > PODS;
    let pool = if long {
        SMALL.replace("10.66.0.0/27, blockSize: 30", "10.64.0.0/12, blockSize: 26")
    } else {
        SMALL.replace("10.66.0.0/27", "10.66.0.0/23")
    };
    // Who peers with whom is not what this is about.
    let objects = "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\n\
         spec: {nodeToNodeMeshEnabled: false}\n---\n"
        .to_owned()
        + &pool;
    wait(PATIENCE, || Ok(applied(&cluster, &objects).is_ok()))?;
    let agents = Agents::start(&cluster)?;
    let (cluster, agents, added) = (&cluster, &agents, &AtomicUsize::new(0));
    let (workers, deaths) = if long { (AT_ONCE, each / 8) } else { (1, 3) };
    let pods: Vec<(IpAddr, Netns)> = std::thread::scope(|scope| -> Result<Vec<_>> {
        let every = (1..=NODES).flat_map(|number| (0..workers).map(move |worker| (number, worker)));
        let threads: Vec<_> = every
            .map(|(number, worker)| {
                scope.spawn(move || -> Result<Vec<_>> {
                    let own = (worker..each).step_by(workers);
                    own.map(|pod| {
                        let one = add(cluster, &format!("n{number}"), &format!("p-{number}-{pod}"))?;
                        added.fetch_add(1, Ordering::Relaxed);
                        Ok(one)
                    })
                    .collect()
                })
            })
            .collect();
        for death in 1..=deaths {
            // Spread over the time it takes, whatever that is.
            let due = NODES * each * death / (deaths + 1);
            wait(20 * PATIENCE, || {
                Ok(added.load(Ordering::Relaxed) >= due || threads.iter().all(|thread| thread.is_finished()))
            })?;
            agents.replace(death * 7 % NODES + 1)?;
            if death % 3 == 2 {
                cluster.kill_datastore()?;
                cluster.start_datastore()?;
            }
        }
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_panic| anyhow!("a panic"))??);
        }
        Ok(all)
    })?;
    let addresses: BTreeSet<IpAddr> = pods.iter().map(|(address, _)| *address).collect();
    ensure!(
        addresses.len() == NODES * each && pods.len() == NODES * each,
        "{} addresses for {} pods",
        addresses.len(),
        pods.len()
    );
    wait_clean(cluster)?;
    for (number, pod) in (1..=NODES).flat_map(|number| (0..each).map(move |pod| (number, pod))) {
        let id = format!("p-{number}-{pod}");
        let output = cluster.runtime(&format!("n{number}"))?.call("DEL", &id, Some(("default", &id)), "")?;
        ensure!(output.status.success(), "DEL of {id}: {}", said(&output));
    }
    let used = || -> Result<String> { margay(cluster, &["get", "workloadendpoints", "-A"]) };
    wait(10 * PATIENCE, || Ok(!used()?.contains("p-"))).with_context(|| format!("{:?}", used()))?;
    wait_clean(cluster)
}
