//! The plugin's verbs when something is wrong.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::probe::{Outcome, Protocol, reach};
use margay_netlink::Netns;
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{PORT, Pod, container_id, said};

use crate::labs::{
    Labs, PATIENCE, cni_error, interfaces, kernel_state, no_pods, pod_addresses, same, wait_no_endpoint,
};

/// Long enough for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The node's own way to the pod works.
fn reachable(cluster: &Cluster, pod: &Pod) -> Result<()> {
    let netns = cluster.node(&pod.node)?.netns();
    let outcome = reach(netns, pod.address, Protocol::Tcp(PORT), Some(&pod.responder), TIMEOUT)?;
    ensure!(matches!(outcome, Outcome::Reached { .. }), "{} is not reached: {outcome:?}", pod.full_name());
    Ok(())
}

pub(crate) fn bad_netns(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    let before = kernel_state(cluster, "node1")?;
    let runtime = cluster.runtime("node1")?;
    let own = "/proc/self/ns/net";
    for path in ["/run/netns/never-made", "/etc/passwd", "/proc/self/ns/mnt", own] {
        let output = runtime.call("ADD", "lost", Some(("shop", "lost")), path)?;
        let (code, message) = cni_error(&output)?;
        ensure!(code == 8 && message.contains(path), "ADD to {path}: {code} {message}");
    }
    let (code, message) = cni_error(&runtime.call("ADD", "lost", Some(("shop", "lost")), "")?)?;
    ensure!(code == 4 && message.contains("CNI_NETNS"), "ADD without CNI_NETNS: {code} {message}");
    ensure!(pod_addresses(cluster, "node1")?.is_empty(), "an address leaked");
    same(&before, &kernel_state(cluster, "node1")?)
}

pub(crate) fn added_twice(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    let runtime = cluster.runtime("node1")?;
    let pod = runtime.add("shop", "twice")?;
    let addresses = pod_addresses(cluster, "node1")?;
    let (id, names) = (pod.container_id(), Some(("shop", "twice")));

    let (code, message) =
        cni_error(&runtime.call("ADD", &id, names, &pod.netns.path().to_string_lossy())?)?;
    ensure!(code == 100 && message.contains("eth0"), "the same again: {code} {message}");
    let other = Netns::new()?;
    let (code, message) = cni_error(&runtime.call("ADD", &id, names, &other.path().to_string_lossy())?)?;
    ensure!(code >= 100 && message.contains(&id), "the same container, another netns: {code} {message}");
    ensure!(interfaces(&other)?.is_empty(), "an interface leaked: {:?}", interfaces(&other)?);

    ensure!(pod_addresses(cluster, "node1")? == addresses, "{:?}", pod_addresses(cluster, "node1")?);
    reachable(cluster, &pod)?;
    runtime.delete(pod)?;
    no_pods(cluster, "node1")
}

pub(crate) fn deleted_twice(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    let runtime = cluster.runtime("node1")?;
    let pod = runtime.add("shop", "once")?;
    let path = pod.netns.path().to_string_lossy().into_owned();
    for _ in 0..2 {
        let output = runtime.call("DEL", &pod.container_id(), Some(("shop", "once")), &path)?;
        ensure!(output.status.success() && output.stdout.is_empty(), "DEL: {}", said(&output));
    }
    ensure!(interfaces(&pod.netns)?.is_empty(), "{:?}", interfaces(&pod.netns)?);
    let output = runtime.call("DEL", "never-added", Some(("shop", "never")), "/run/netns/never-made")?;
    ensure!(output.status.success(), "DEL of what was never added: {}", said(&output));
    no_pods(cluster, "node1")?;
    wait_no_endpoint(cluster, "once")
}

/// The runtime has lost the namespace's name; the namespace may be gone, or still be there.
pub(crate) fn deleted_without_a_netns(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    let runtime = cluster.runtime("node1")?;
    for (name, path) in [("gone", ""), ("gone", "/run/netns/removed"), ("there", "")] {
        let pod = runtime.add("shop", name)?;
        let (id, alive) = (pod.container_id(), pod.netns.try_clone()?);
        drop(pod);
        let alive = (name == "there").then_some(alive);
        let output = runtime.call("DEL", &id, Some(("shop", name)), path)?;
        ensure!(output.status.success(), "DEL with CNI_NETNS={path:?}, netns {name}: {}", said(&output));
        no_pods(cluster, "node1").with_context(|| format!("CNI_NETNS={path:?}, netns {name}"))?;
        wait_no_endpoint(cluster, name)?;
        if let Some(netns) = alive {
            ensure!(interfaces(&netns)?.is_empty(), "left in the pod: {:?}", interfaces(&netns)?);
        }
    }
    Ok(())
}

pub(crate) fn agent_down(labs: &mut Labs) -> Result<()> {
    let cluster = &mut labs.demo(Datastore::Embedded)?.cluster;
    let staying = cluster.runtime("node2")?.add("shop", "staying")?;
    let leaving = cluster.runtime("node2")?.add("shop", "leaving")?;
    cluster.kill("node2")?;

    let netns = Netns::new()?;
    let id = container_id("shop", "late");
    let runtime = cluster.runtime("node2")?;
    let output = runtime.call("ADD", &id, Some(("shop", "late")), &netns.path().to_string_lossy())?;
    let (code, message) = cni_error(&output)?;
    ensure!(code == 11 && message.contains("margay-agent is not running"), "ADD: {code} {message}");
    ensure!(interfaces(&netns)?.is_empty(), "ADD left {:?}", interfaces(&netns)?);

    let path = leaving.netns.path().to_string_lossy().into_owned();
    for _ in 0..2 {
        let output = runtime.call("DEL", &leaving.container_id(), Some(("shop", "leaving")), &path)?;
        ensure!(output.status.success(), "DEL with the agent down: {}", said(&output));
    }
    ensure!(interfaces(&leaving.netns)?.is_empty(), "DEL left {:?}", interfaces(&leaving.netns)?);
    let spool = cluster.folder("node2").join("spool");
    let spooled = || -> Result<usize> { Ok(std::fs::read_dir(&spool)?.count()) };
    ensure!(spooled()? == 1, "{} records in the spool", spooled()?);
    reachable(cluster, &staying)?;

    cluster.start("node2")?;
    cluster.wait_ready("node2", PATIENCE)?;
    let expected = vec![("shop/staying".to_owned(), staying.address.to_string())];
    let held = || -> Result<Vec<_>> { Ok(pod_addresses(cluster, "node2")?.into_iter().collect()) };
    wait(PATIENCE, || Ok(held()? == expected && spooled()? == 0))
        .with_context(|| format!("the release is replayed: {:?}, {:?} spooled", held(), spooled()))?;
    wait_no_endpoint(cluster, "leaving")?;
    reachable(cluster, &staying)?;
    // What failed works now, under the same name and in the same namespace.
    let runtime = cluster.runtime("node2")?;
    let output = runtime.call("ADD", &id, Some(("shop", "late")), &netns.path().to_string_lossy())?;
    ensure!(output.status.success(), "ADD again: {}", said(&output));
    let output = runtime.call("DEL", &id, Some(("shop", "late")), &netns.path().to_string_lossy())?;
    ensure!(output.status.success(), "DEL: {}", said(&output));
    runtime.delete(staying)?;
    no_pods(cluster, "node2")
}
