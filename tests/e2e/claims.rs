//! ADDs that wait for a block at the same time, of which some cannot be served and some are not waited for any more.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use margay_control::ClientError;
use margay_control::cni::AddReply;
use margay_control::status::IpamStatus;
use margay_netlink::Netns;
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{Pod, container_id};
use serde_json::json;

use crate::labs::{
    Labs, PATIENCE, TWO_NODES, applied, cni_error, margay, no_pods, pod_addresses, wait_no_problem,
};

/// A pool of four blocks with four addresses each.
const POOL: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: small}
spec: {cidr: 10.66.0.0/28, blockSize: 30}
";

/// Less than a node waits for another that is asked for an address.
const IMPATIENT: Duration = Duration::from_millis(500);

/// Times to try: on a slow machine what is to happen at the same time may not.
const ATTEMPTS: usize = 5;

fn ipam(cluster: &Cluster) -> Result<IpamStatus> {
    Ok(cluster.client("node1").get("/v1/ipam")?)
}

/// Pods until every block of the node is full.
fn fill(cluster: &Cluster, pods: &mut Vec<Pod>) -> Result<()> {
    let runtime = cluster.runtime("node1")?;
    while ipam(cluster)?.blocks.iter().any(|block| block.used < block.total) {
        ensure!(pods.len() < 12, "more addresses than there are");
        pods.push(runtime.add("default", &format!("pod-{}", pods.len()))?);
    }
    Ok(())
}

/// An address is asked for of a node that is silent; meanwhile one ADD needs just any block, and who wanted another has gone. The first
/// fails, the second does not, nobody gets an address whom nobody asks for, and nothing is a problem of the node.
pub(crate) fn one_that_fails_fails_alone(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    applied(&cluster, POOL)?;
    for node in ["node1", "node2"] {
        cluster.start(node)?;
        cluster.wait_ready(node, PATIENCE)?;
    }
    let far = cluster.runtime("node2")?.add("default", "far")?;
    cluster.kill("node2")?;
    let IpAddr::V4(address) = far.address else { bail!("{}", far.address) };
    // Another of its block.
    let theirs = Ipv4Addr::from(u32::from(address) ^ 1).to_string();
    applied(
        &cluster,
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: fixed, namespace: default, annotations: {{\
             cni.projectcalico.org/ipAddrs: '[\"{theirs}\"]'}}}}\nspec: {{nodeName: node1, containers: []}}\n"
        ),
    )?;
    let mut pods = Vec::new();
    let mut met = false;
    for attempt in 0..ATTEMPTS {
        fill(&cluster, &mut pods)?;
        met = meet(&cluster, &mut pods, &theirs, attempt)?;
        if met {
            break;
        }
        // What was claimed is empty again: the next attempt needs another block.
    }
    ensure!(met, "nobody was ever kept waiting");
    for pod in pods {
        cluster.runtime("node1")?.delete(pod)?;
    }
    no_pods(&cluster, "node1")
}

/// False: the three did not meet.
fn meet(cluster: &Cluster, pods: &mut Vec<Pod>, theirs: &str, attempt: usize) -> Result<bool> {
    let runtime = cluster.runtime("node1")?;
    let names = [format!("gone-{attempt}"), format!("plain-{attempt}")];
    let netns = Netns::new()?;
    let path = netns.path().to_string_lossy().into_owned();
    let request = format!("{theirs}/32");
    let (gave_up, plain, fixed) = std::thread::scope(|scope| -> Result<_> {
        let fixed = scope.spawn(|| {
            let runtime = cluster.runtime("node1")?;
            runtime.call("ADD", &container_id("default", "fixed"), Some(("default", "fixed")), &path)
        });
        wait(PATIENCE, || Ok(margay(cluster, &["get", "ipamblocks", "-o", "json"])?.contains(&request)))
            .context("the address is not asked for")?;
        let attachment = json!({ "container_id": names[0], "ifname": "eth0", "network": "margay" });
        let add =
            json!({ "attachment": attachment, "netns": "", "pod_namespace": null, "pod_name": names[0] });
        let client = cluster.client("node1").with_timeout(IMPATIENT);
        let gave_up = match client.post::<_, AddReply>("/v1/cni/add", &add) {
            Err(ClientError::Io { .. }) => true,
            Ok(_) => {
                let _done: serde_json::Value = cluster
                    .client("node1")
                    .post("/v1/cni/del", &json!({ "attachment": add["attachment"] }))?;
                false
            }
            Err(error) => return Err(error.into()),
        };
        let plain = runtime.add("default", &names[1])?;
        let fixed = fixed.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((gave_up, plain, fixed))
    })?;
    let held = pod_addresses(cluster, "node1")?;
    pods.push(plain);
    let (code, message) = cni_error(&fixed)?;
    ensure!(code == 103 && message.contains(theirs), "{code} {message}");
    wait_no_problem(cluster, &["node1"], "IPAM(IPv4)")?;
    if gave_up {
        ensure!(!held.contains_key(&format!("default/{}", names[0])), "nobody asks for it: {held:?}");
    }
    Ok(gave_up)
}
