//! Agents without BGP (`backend`).

use anyhow::{Context, Result, ensure};
use margay_lab::probe::{Protocol, Stream};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::PORT;

use crate::labs::{
    Labs, PATIENCE, PROBE_EVERY, TWO_NODES, applied, none_lost, send_more, wait_answered, wait_problem,
};

const NODES: [&str; 2] = ["node1", "node2"];

fn pool(mode: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: pods}}\n\
         spec: {{cidr: 10.65.0.0/16, blockSize: 24, vxlanMode: {mode}}}\n"
    )
}

fn restart(cluster: &mut Cluster, node: &str, backend: &str) -> Result<()> {
    cluster.stop(node)?;
    cluster.start_with(node, &["--backend", backend])
}

fn listens(cluster: &Cluster, node: &str) -> Result<bool> {
    Ok(!cluster.run_in(node, "ss", &["-Hltn", "sport = :179"])?.trim().is_empty())
}

/// VXLAN without a single session, then with them, then without: nothing is lost; and a node of `none` minds its own pods.
pub(crate) fn vxlan_needs_no_bgp(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    applied(&cluster, &pool("Always"))?;
    for node in NODES {
        cluster.start_with(node, &["--backend", "vxlan"])?;
    }
    for node in NODES {
        cluster.wait_ready(node, PATIENCE)?;
        ensure!(!listens(&cluster, node)?, "{node} listens for BGP");
    }
    let one = cluster.runtime("node1")?.add("shop", "one")?;
    let two = cluster.runtime("node2")?.add("shop", "two")?;
    wait_answered(&one, &two)?;
    let probes = Stream::start(&one.netns, two.address, Protocol::Udp(PORT), PROBE_EVERY)?;
    let routes = cluster.run_in("node1", "ip", &["route", "show", "proto", "181"])?;
    ensure!(routes.contains("dev vxlan.mgy"), "{routes}");
    for backend in ["bgp", "vxlan"] {
        for node in NODES {
            restart(&mut cluster, node, backend)?;
            send_more(&probes, 20)?;
        }
        for node in NODES {
            cluster.wait_ready(node, PATIENCE)?;
            ensure!(listens(&cluster, node)? == (backend == "bgp"), "{node}, backend {backend}");
        }
        send_more(&probes, 20)?;
    }
    none_lost(probes)?;

    applied(&cluster, &pool("Never"))?;
    let message = wait_problem(&cluster, &["node1"], &block_of(&cluster, "node2")?)?;
    ensure!(message.contains("IPPool(pods) needs BGP"), "{message}");

    restart(&mut cluster, "node1", "none")?;
    cluster.wait_ready("node1", PATIENCE)?;
    let near = cluster.runtime("node1")?.add("shop", "near")?;
    wait_answered(&one, &near)?;
    let routes = || cluster.run_in("node1", "ip", &["route", "show", "proto", "181"]);
    wait(PATIENCE, || Ok(routes()?.lines().all(|line| line.starts_with("blackhole"))))
        .with_context(|| format!("only the own block: {:?}", routes()))?;
    for pod in [one, two, near] {
        cluster.runtime(&pod.node.clone())?.delete(pod)?;
    }
    Ok(())
}

/// The node's block.
fn block_of(cluster: &Cluster, node: &str) -> Result<String> {
    let routes = cluster.run_in(node, "ip", &["route", "show", "type", "blackhole"])?;
    let block = routes.split_whitespace().nth(1).context("no block")?;
    Ok(block.to_owned())
}
