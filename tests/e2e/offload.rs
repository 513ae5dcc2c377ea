//! The flow table: in a virtual machine, with a counter in the forwarding path; and what an agent says on a kernel that has none.

use anyhow::{Context, Result, ensure};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{Pod, said};

use crate::labs::{Labs, ONE_NODE, PATIENCE, applied, pod_object, wait_problem};
use crate::policy::{GUARD, POOL, answers, connect, serve};
use crate::wireguard::felix;

/// With the interfaces that the case makes; a message to the kernel has room for 255.
const ON: &str = "nftablesFlowTableOffload: All, nftablesFlowTableDataIfacePattern: ^data";

/// Interfaces of a node with many.
const MANY: &str =
    "i=0; while [ $i -lt 300 ]; do echo link add data$i type dummy; i=$((i+1)); done | /usr/sbin/ip -batch -";

/// Counts what passes the forwarding path to the pod's server.
const COUNTER: &str = "add table inet seen; add chain inet seen forward { type filter hook forward priority -300; }; \
    add rule inet seen forward tcp dport 9000 counter";

fn nft(cluster: &Cluster, command: &str) -> Result<String> {
    cluster.run_in("node1", "nft", &[command])
}

fn table(cluster: &Cluster) -> String {
    nft(cluster, "list table inet margay-flow").unwrap_or_default()
}

/// Packets to the server that took the ordinary way.
fn seen(cluster: &Cluster) -> Result<u64> {
    let text = nft(cluster, "list table inet seen")?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).context("no counter")?.parse().map_err(Into::into)
}

/// Waits until packets of a connection bypass the forwarding path, or do not.
fn wait_bypass(cluster: &Cluster, stream: &mut std::net::TcpStream, bypasses: bool) -> Result<()> {
    wait(PATIENCE, || {
        let before = seen(cluster)?;
        for _ in 0..5 {
            ensure!(answers(stream), "the connection is gone");
        }
        Ok((seen(cluster)? == before) == bypasses)
    })
    .with_context(|| format!("bypasses: {bypasses}: {}", table(cluster)))
}

pub(crate) fn interface(cluster: &Cluster, pod: &Pod) -> Result<String> {
    let route = cluster.run_in("node1", "ip", &["route", "get", &pod.address.to_string()])?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "dev");
    Ok(words.nth(1).context("no route")?.to_owned())
}

/// Policy decides who connects, whatever the backend; what is established bypasses the rules until it is denied, until an
/// interface goes, or until the table does.
pub(crate) fn established_flows(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(ONE_NODE, Datastore::Embedded)?;
    cluster.run_in("node1", "sh", &["-c", MANY])?;
    nft(&cluster, COUNTER)?;
    applied(&cluster, POOL)?;
    cluster.start_with("node1", &["--cut-denied-flows", "true"])?;
    cluster.wait_ready("node1", 2 * PATIENCE)?;
    let pods = ["web", "good", "bad"];
    applied(&cluster, &pods.map(|name| pod_object(name, "node1")).concat())?;
    let mut added = Vec::new();
    for name in pods {
        added.push(cluster.runtime("node1")?.add("shop", name)?);
    }
    let [web, good, bad] = added.as_slice() else { anyhow::bail!("three pods") };
    serve(web)?;
    let mut streams = Vec::new();
    for pod in [good, bad] {
        wait(PATIENCE, || Ok(connect(pod, web.address).is_ok())).context("without policy")?;
        streams.push(connect(pod, web.address)?);
    }
    let [from_good, from_bad] = streams.as_mut_slice() else { anyhow::bail!("two streams") };
    wait_bypass(&cluster, from_good, false).context("the default")?;
    applied(&cluster, &felix(ON))?;
    for stream in [&mut *from_good, &mut *from_bad] {
        wait_bypass(&cluster, stream, true)?;
    }
    ensure!(table(&cluster).contains("data299"), "{}", table(&cluster));
    ensure!(!table(&cluster).contains("eth1"), "{}", table(&cluster));

    // What is established and denied now is cut, and taken up no more.
    applied(&cluster, GUARD)?;
    wait(PATIENCE, || Ok(!answers(from_bad))).context("what is denied now is cut")?;
    ensure!(connect(bad, web.address).is_err(), "policy decides about a new connection");
    wait_bypass(&cluster, from_good, true)?;
    let mut another = connect(good, web.address)?;
    wait_bypass(&cluster, &mut another, true)?;

    // By the other backend.
    applied(&cluster, &felix(&format!("{ON}, nftablesMode: Enabled")))?;
    wait(PATIENCE, || {
        let rules = nft(&cluster, "list ruleset")?;
        Ok(rules.contains("table ip margay ") && !rules.contains("XT target"))
    })
    .with_context(|| format!("{:?}", nft(&cluster, "list tables")))?;
    ensure!(connect(bad, web.address).is_err() && connect(good, web.address).is_ok(), "policy decides");
    wait_bypass(&cluster, from_good, true)?;

    // A pod goes and takes its interface with it; one that comes is taken up.
    let gone = interface(&cluster, bad)?;
    ensure!(table(&cluster).contains(&gone), "{gone} in {}", table(&cluster));
    let bad = added.pop().context("a pod")?;
    cluster.runtime("node1")?.delete(bad)?;
    applied(&cluster, &pod_object("late", "node1"))?;
    let late = cluster.runtime("node1")?.add("shop", "late")?;
    let come = interface(&cluster, &late)?;
    let followed = || Ok(!table(&cluster).contains(&gone) && table(&cluster).contains(&come));
    wait(PATIENCE, followed).with_context(|| format!("{come} for {gone} in {}", table(&cluster)))?;
    wait_bypass(&cluster, from_good, true)?;
    // What somebody removed comes back.
    nft(&cluster, "delete table inet margay-flow")?;
    wait(2 * PATIENCE, || Ok(table(&cluster).contains(&come))).context("a table that somebody removed")?;

    applied(&cluster, &felix("nftablesFlowTableOffload: Disabled"))?;
    wait(PATIENCE, || Ok(table(&cluster).is_empty())).context("a table that is switched off")?;
    wait_bypass(&cluster, from_good, false)?;
    applied(&cluster, &felix(ON))?;
    wait_bypass(&cluster, from_good, true)?;
    added.push(late);
    for pod in added {
        cluster.runtime("node1")?.delete(pod)?;
    }
    cluster.stop("node1")?;
    ensure!(!table(&cluster).is_empty(), "an agent that stops leaves it");
    let mut cleanup = std::process::Command::new(cluster.program("margay")?);
    cleanup.arg("cleanup").stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let output = cluster.node("node1")?.netns().spawn(&mut cleanup)?.wait_with_output()?;
    ensure!(said(&output).contains("removed nftables table inet margay-flow"), "{}", said(&output));
    ensure!(table(&cluster).is_empty(), "{}", table(&cluster));
    Ok(())
}

/// One sentence, and nothing else is different; on a kernel that has it there is none.
pub(crate) fn a_kernel_without_it(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(ONE_NODE, Datastore::Embedded)?;
    let probe = "add table inet probe; add flowtable inet probe f { hook ingress priority 0; }";
    let has_it = nft(&cluster, probe).is_ok();
    applied(&cluster, &format!("{POOL}---\n{}", felix(ON)))?;
    cluster.start("node1")?;
    cluster.wait_ready("node1", PATIENCE)?;
    let pod = cluster.runtime("node1")?.add("shop", "web")?;
    if !has_it {
        let message = wait_problem(&cluster, &["node1"], "FelixConfiguration")?;
        ensure!(message.contains("packets go the ordinary way"), "{message}");
        cluster.wait_ready("node1", PATIENCE)?;
    }
    ensure!(table(&cluster).is_empty() || has_it, "{}", table(&cluster));
    applied(&cluster, &felix("nftablesFlowTableOffload: Disabled"))?;
    let quiet = || Ok(cluster.status("node1")?.problems.is_empty());
    wait(PATIENCE, quiet).with_context(|| format!("{:?}", cluster.status("node1")))?;
    cluster.runtime("node1")?.delete(pod)
}
