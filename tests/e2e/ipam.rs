//! What gives addresses and blocks back, and what tells that something was left.

use anyhow::{Context, Result, ensure};
use margay_control::status::IpamStatus;
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{Pod, said};

use crate::labs::{Labs, PATIENCE, TWO_NODES, applied, margay, no_pods, pod_addresses};

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

/// What a deleted node had is collected; a living node that somebody deletes comes back and keeps all it has.
pub(crate) fn dead_nodes_are_collected(labs: &mut Labs) -> Result<()> {
    let mut cluster = start(labs, &["node1", "node2"])?;
    let living = cluster.runtime("node1")?.add("default", "living")?;
    let _dead = cluster.runtime("node2")?.add("default", "dead")?;
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
    let pods: Vec<Pod> =
        (0..4).map(|number| runtime.add("default", &format!("pod-{number}"))).collect::<Result<_>>()?;
    ensure!(pods.iter().all(|pod| pod.address != freed), "{freed} did not rest");
    wait_clean(&cluster)?;
    for pod in pods.into_iter().chain([before]) {
        runtime.delete(pod)?;
    }
    no_pods(&cluster, "node1")
}
