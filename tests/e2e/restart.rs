//! Agents that are started twice, or killed.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::probe::{Protocol, Stream};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::PORT;

use crate::labs::{
    Labs, PATIENCE, PROBE_EVERY, applied, kernel_state, margay, no_pods, none_answered, none_lost,
    pod_addresses, pod_object, same, send_more, wait_policies,
};

pub(crate) fn a_second_agent_refuses(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    let before = kernel_state(cluster, "node1")?;
    let same_flags = cluster.daemon("node1")?;
    let mut other_flags = Command::new(cluster.program("margay-agent")?);
    let folder = cluster.folder("second");
    other_flags.args(["--node", "second", "--ipv4-address", "172.30.1.99/24"]);
    other_flags.arg("--datastore-path").arg(folder.join("other.db")).arg("--socket").arg(folder.join("sock"));
    other_flags.arg("--state-dir").arg(folder.join("state")).arg("--spool-dir").arg(folder.join("spool"));
    std::fs::create_dir_all(&folder)?;
    for (number, command) in [same_flags, other_flags].into_iter().enumerate() {
        refuses(cluster, command, number)?;
    }
    let reflector = cluster.daemon("rr1")?;
    let log = cluster.folder("rr1").join("second-log");
    let mut process = cluster.node("rr1")?.spawn("second", reflector, &log)?;
    let status = process.wait(Duration::from_secs(10))?.context("a second reflector runs")?;
    ensure!(!status.success() && process.log_text().contains("already runs"), "{}", process.log_text());
    same(&before, &kernel_state(cluster, "node1")?)?;
    for node in ["node1", "rr1"] {
        ensure!(cluster.status(node)?.ready, "{node} is not ready any more");
    }
    Ok(())
}

fn refuses(cluster: &Cluster, command: Command, number: usize) -> Result<()> {
    let log = cluster.folder("node1").join(format!("second-log-{number}"));
    let mut process = cluster.node("node1")?.spawn("second", command, &log)?;
    let status = process.wait(Duration::from_secs(10))?.context("a second agent runs")?;
    let text = process.log_text();
    ensure!(status.code() == Some(1), "it ended with {status}: {text}");
    ensure!(text.contains("another margay-agent already runs on this node"), "it says {text}");
    Ok(())
}

/// SIGKILL and a new start: no packet is lost, no denied one gets through, everything is as it was.
pub(crate) fn a_killed_agent_loses_nothing(labs: &mut Labs) -> Result<()> {
    let cluster = &mut labs.demo(Datastore::Embedded)?.cluster;
    let client = cluster.runtime("node1")?.add("shop", "client")?;
    let near = cluster.runtime("node2")?.add("shop", "near")?;
    let far = cluster.runtime("node3")?.add("shop", "far")?;
    let shut = cluster.runtime("node2")?.add("shop", "shut")?;
    let policy = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: shut, namespace: shop}\n\
                  spec: {selector: app == 'shut', types: [Ingress, Egress]}\n";
    applied(cluster, &format!("{}{policy}", pod_object("shut", "node2")))?;
    wait_policies(cluster, &shut, 1)?;
    let udp = Protocol::Udp(PORT);
    let kept = [
        Stream::start(&client.netns, near.address, udp, PROBE_EVERY)?,
        Stream::start(&near.netns, far.address, Protocol::Icmp, PROBE_EVERY)?,
        Stream::start(&far.netns, near.address, udp, PROBE_EVERY)?,
    ];
    let denied = [
        Stream::start(&client.netns, shut.address, udp, PROBE_EVERY)?,
        Stream::start(&near.netns, shut.address, Protocol::Icmp, PROBE_EVERY)?,
        Stream::start(&shut.netns, near.address, udp, PROBE_EVERY)?,
        Stream::start(cluster.node("node3")?.netns(), shut.address, udp, PROBE_EVERY)?,
    ];
    send_more(&kept[0], 50)?;
    let before = (pod_addresses(cluster, "node2")?, kernel_state(cluster, "node2")?);
    for _ in 0..2 {
        cluster.kill("node2")?;
        send_more(&kept[0], 50)?;
        same(&before.1, &kernel_state(cluster, "node2")?)?;
        cluster.start("node2")?;
        cluster.wait_ready("node2", PATIENCE)?;
        wait_policies(cluster, &shut, 1)?;
        send_more(&kept[0], 100)?;
        ensure!(pod_addresses(cluster, "node2")? == before.0, "{:?}", pod_addresses(cluster, "node2")?);
    }
    same(&before.1, &kernel_state(cluster, "node2")?).context("after the restarts")?;
    kept.into_iter().try_for_each(none_lost)?;
    denied.into_iter().try_for_each(none_answered)?;
    margay(cluster, &["delete", "networkpolicy", "-n", "shop", "shut"])?;
    margay(cluster, &["delete", "pod", "-n", "shop", "shut"])?;
    for pod in [client, near, far, shut] {
        let node = pod.node.clone();
        cluster.runtime(&node)?.delete(pod)?;
    }
    ["node1", "node2", "node3"].iter().try_for_each(|node| no_pods(cluster, node))
}

/// Policies of a round, in two parts of which a write to the kernel has to do both: another rule for `near`, whose probes any
/// round allows, and another way to say that nobody reaches `shut`.
fn policies(round: u32) -> String {
    let shut = match round % 2 {
        0 => "types: [Ingress, Egress]",
        _ => "types: [Ingress, Egress], ingress: [{action: Deny, protocol: UDP}], egress: [{action: Deny}]",
    };
    let head = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata";
    format!(
        "{head}: {{name: shut, namespace: shop}}\nspec: {{selector: app == 'shut', order: {round}, {shut}}}\n---\n\
         {head}: {{name: near-{}, namespace: shop}}\nspec:\n  selector: app == 'near'\n  ingress:\n  \
         - {{action: Deny, source: {{nets: [198.51.100.{round}/32]}}}}\n  - {{action: Allow}}\n",
        round % 3
    )
}

/// SIGKILL at some moment while policies change: what is denied before and after never passes, what is allowed is never lost, and
/// the next start ends in the state that is wanted.
pub(crate) fn killed_while_policies_change(labs: &mut Labs) -> Result<()> {
    const ROUNDS: u32 = 10;
    let cluster = &mut labs.demo(Datastore::Embedded)?.cluster;
    let client = cluster.runtime("node1")?.add("shop", "client")?;
    let near = cluster.runtime("node2")?.add("shop", "near")?;
    let shut = cluster.runtime("node2")?.add("shop", "shut")?;
    let pods = ["near", "shut"].map(|name| pod_object(name, "node2")).concat();
    applied(cluster, &format!("{pods}{}", policies(0)))?;
    wait_policies(cluster, &shut, 1)?;
    wait_policies(cluster, &near, 1)?;
    let udp = Protocol::Udp(PORT);
    let kept = [
        Stream::start(&client.netns, near.address, udp, PROBE_EVERY)?,
        Stream::start(&near.netns, client.address, Protocol::Icmp, PROBE_EVERY)?,
    ];
    let denied = [
        Stream::start(&client.netns, shut.address, udp, PROBE_EVERY)?,
        Stream::start(&near.netns, shut.address, Protocol::Icmp, PROBE_EVERY)?,
        Stream::start(&shut.netns, near.address, udp, PROBE_EVERY)?,
    ];
    for round in 1..=ROUNDS {
        // The agent hears of the change while it is written here: some moment of the apply, or one before or behind it.
        let moment = Duration::from_micros(u64::from(
            std::process::id().wrapping_mul(round).wrapping_mul(7919) % 60_000,
        ));
        applied(cluster, &policies(round))?;
        margay(cluster, &["delete", "networkpolicy", "-n", "shop", &format!("near-{}", (round + 2) % 3)])?;
        std::thread::sleep(moment);
        cluster.kill("node2")?;
        send_more(&kept[0], 10)?;
        cluster.start("node2")?;
        cluster.wait_ready("node2", PATIENCE)?;
        wait_policies(cluster, &shut, 1)?;
        wait_policies(cluster, &near, 1)?;
    }
    let last = [format!("NetworkPolicy(shop/near-{})", ROUNDS % 3), format!("198.51.100.{ROUNDS}")];
    let repaired = || -> Result<bool> {
        let rules = cluster.run_in("node2", "iptables-save", &[])?;
        let others = (0..3).filter(|number| *number != ROUNDS % 3);
        let stale = others.map(|number| format!("shop/near-{number}")).any(|stale| rules.contains(&stale));
        Ok(!stale && last.iter().all(|word| rules.contains(word)))
    };
    wait(PATIENCE, repaired)
        .with_context(|| cluster.run_in("node2", "iptables-save", &[]).unwrap_or_default())?;
    kept.into_iter().try_for_each(none_lost)?;
    denied.into_iter().try_for_each(none_answered)?;
    margay(cluster, &["delete", "networkpolicy", "-n", "shop", "shut", &format!("near-{}", ROUNDS % 3)])?;
    margay(cluster, &["delete", "pod", "-n", "shop", "shut", "near"])?;
    for pod in [client, near, shut] {
        let node = pod.node.clone();
        cluster.runtime(&node)?.delete(pod)?;
    }
    ["node1", "node2"].iter().try_for_each(|node| no_pods(cluster, node))
}
