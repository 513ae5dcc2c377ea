//! A datastore that is not there.

use anyhow::{Context, Result, ensure};
use margay_lab::probe::{Protocol, Stream};
use margay_netlink::Netns;
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::PORT;

use crate::labs::{
    Labs, ONE_NODE, PATIENCE, PROBE_EVERY, applied, cni_error, kernel_state, margay, no_pods, none_answered,
    none_lost, pod_object, same, send_more, wait_policies,
};

/// A pool for everybody.
const POOL: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.65.0.0/16}
";

/// What `margay-agent` says of its datastore: ready, and in words.
fn said_of_store(cluster: &Cluster, node: &str) -> Option<(bool, String)> {
    let status = cluster.status(node).ok()?;
    let part = status.components.into_iter().find(|part| part.name == "datastore")?;
    Some((part.ready, part.message))
}

/// An agent that has never seen its datastore waits, says so, and leaves the kernel alone.
pub(crate) fn unreachable_at_start(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(ONE_NODE, Datastore::Etcd)?;
    let before = kernel_state(&cluster, "node1")?;
    cluster.start("node1")?;
    let says = || {
        said_of_store(&cluster, "node1")
            .is_some_and(|(ready, text)| !ready && text.contains("172.30.1.1:2379"))
    };
    wait(PATIENCE, || Ok(says())).with_context(|| {
        format!("it says {:?}; log: {}", said_of_store(&cluster, "node1"), cluster.log("node1"))
    })?;
    let (_, text) = said_of_store(&cluster, "node1").context("no status")?;
    ensure!(text.contains("nothing is touched"), "{text}");
    ensure!(
        cluster.log("node1").contains("nothing is touched"),
        "the log is silent: {}",
        cluster.log("node1")
    );
    ensure!(!cluster.status("node1")?.ready, "it says it is ready");
    same(&before, &kernel_state(&cluster, "node1")?)?;

    cluster.start_datastore()?;
    wait(PATIENCE, || Ok(applied(&cluster, POOL).is_ok()))?;
    cluster.wait_ready("node1", PATIENCE)?;
    let pod = cluster.runtime("node1")?.add("default", "first")?;
    cluster.runtime("node1")?.delete(pod)?;
    no_pods(&cluster, "node1")
}

/// The same of a file that cannot be opened: a folder is where it should be.
pub(crate) fn cannot_be_opened(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(ONE_NODE, Datastore::Embedded)?;
    let (file, before) = (cluster.folder("margay.db"), kernel_state(&cluster, "node1")?);
    std::fs::create_dir_all(&file)?;
    cluster.start("node1")?;
    let says =
        || said_of_store(&cluster, "node1").is_some_and(|(ready, text)| !ready && text.contains("margay.db"));
    wait(PATIENCE, || Ok(says())).with_context(|| {
        format!("it says {:?}; log: {}", said_of_store(&cluster, "node1"), cluster.log("node1"))
    })?;
    let (_, text) = said_of_store(&cluster, "node1").context("no status")?;
    ensure!(text.contains("nothing is touched"), "{text}");
    let (runtime, netns) = (cluster.runtime("node1")?, Netns::new()?);
    let path = netns.path().to_string_lossy().into_owned();
    let (code, text) = cni_error(&runtime.call("ADD", "early", Some(("default", "early")), &path)?)?;
    ensure!(code == 11 && text.contains("datastore"), "ADD: {code} {text}");
    ensure!(runtime.call("DEL", "early", Some(("default", "early")), &path)?.status.success(), "DEL fails");
    same(&before, &kernel_state(&cluster, "node1")?)?;

    std::fs::remove_dir(&file)?;
    wait(PATIENCE, || Ok(applied(&cluster, POOL).is_ok()))?;
    cluster.wait_ready("node1", PATIENCE)?;
    let pod = cluster.runtime("node1")?.add("default", "first")?;
    cluster.runtime("node1")?.delete(pod)?;
    no_pods(&cluster, "node1")
}

/// Denies all traffic to a pod of this name.
fn deny(pod: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{name: deny-{pod}, namespace: shop}}\n\
         spec: {{selector: app == '{pod}', types: [Ingress], ingress: []}}\n"
    )
}

/// A datastore that is lost stops nothing; when it is back, what was applied meanwhile is enforced.
pub(crate) fn lost_later(labs: &mut Labs) -> Result<()> {
    let cluster = &mut labs.demo(Datastore::Etcd)?.cluster;
    let client = cluster.runtime("node1")?.add("shop", "client")?;
    let open = cluster.runtime("node3")?.add("shop", "open")?;
    let shut = cluster.runtime("node2")?.add("shop", "shut")?;
    applied(
        cluster,
        &format!("{}{}{}", pod_object("shut", "node2"), pod_object("new", "node2"), deny("shut")),
    )?;
    wait_policies(cluster, &shut, 1)?;
    let udp = Protocol::Udp(PORT);
    let answered = Stream::start(&client.netns, open.address, udp, PROBE_EVERY)?;
    let denied = Stream::start(&client.netns, shut.address, udp, PROBE_EVERY)?;
    send_more(&answered, 50)?;

    cluster.kill_datastore()?;
    for node in ["node1", "node2", "node3"] {
        wait(PATIENCE, || Ok(said_of_store(cluster, node).is_some_and(|(ready, _)| !ready)))
            .with_context(|| format!("{node} does not notice: {:?}", said_of_store(cluster, node)))?;
        let (_, text) = said_of_store(cluster, node).context("no status")?;
        ensure!(text.contains("go on as they are"), "{node}: {text}");
    }
    send_more(&answered, 100)?;
    // The node's own block serves new pods; they live and are policed.
    let new = cluster.runtime("node2")?.add("shop", "new").context("ADD without the datastore")?;
    let reached = Stream::start(&new.netns, open.address, udp, PROBE_EVERY)?;
    let refused = Stream::start(&new.netns, shut.address, udp, PROBE_EVERY)?;
    send_more(&reached, 100)?;

    cluster.start_datastore()?;
    wait(PATIENCE, || Ok(margay(cluster, &["get", "nodes"]).is_ok()))?;
    applied(cluster, &deny("new"))?;
    wait_policies(cluster, &new, 1)?;
    let after = Stream::start(&client.netns, new.address, udp, PROBE_EVERY)?;
    send_more(&after, 50)?;
    for node in ["node1", "node2", "node3"] {
        cluster.wait_ready(node, PATIENCE)?;
    }
    none_answered(after)?;
    none_lost(reached)?;
    none_answered(refused)?;
    none_lost(answered)?;
    none_answered(denied)?;
    // The new pod's endpoint was told when that was possible again.
    wait(PATIENCE, || {
        Ok(margay(cluster, &["get", "workloadendpoints", "-A", "-o", "json"])?.contains("\"new\""))
    })
    .context("the new pod's WorkloadEndpoint")?;
    margay(cluster, &["delete", "networkpolicy", "-n", "shop", "deny-shut", "deny-new"])?;
    margay(cluster, &["delete", "pod", "-n", "shop", "shut", "new"])?;
    for pod in [client, open, shut, new] {
        let node = pod.node.clone();
        cluster.runtime(&node)?.delete(pod)?;
    }
    ["node1", "node2", "node3"].iter().try_for_each(|node| no_pods(cluster, node))
}
