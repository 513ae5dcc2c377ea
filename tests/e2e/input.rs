//! Objects that are wrong: refused by the tool, quarantined by the daemons.

use anyhow::{Result, ensure};
use margay_lab::probe::{Protocol, Stream};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{PORT, said};

use crate::labs::{
    Labs, ONE_NODE, PATIENCE, PROBE_EVERY, applied, apply, margay, none_lost, send_more, wait_no_problem,
    wait_problem,
};

/// The agents of the demo's cluster.
const AGENTS: [&str; 3] = ["node1", "node2", "node3"];

/// A pool that is fine, as the first document of a file whose second isn't.
const FINE: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: fine}
spec: {cidr: 10.77.0.0/16}
---
";

pub(crate) fn malformed_yaml_is_named(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: bad}\nspec:\n";
    let cases: [(&str, &[&str]); 5] = [
        ("kind: [\n", &["document 2", "line 6"]),
        (&format!("{pool}  cidr: 10.300.0.0/16\n"), &["document 2", "line 10", "spec.cidr", "10.300.0.0/16"]),
        (&format!("{pool}  cidr: 10.78.0.0/16\n  blokSize: 26\n"), &["document 2", "line 11", "blokSize"]),
        (&format!("{pool}  cidr: [10.78.0.0/16]\n"), &["document 2", "line 10", "spec.cidr"]),
        (
            "apiVersion: projectcalico.org/v3\nkind: IPPoool\nmetadata: {name: bad}\n",
            &["document 2", "IPPoool"],
        ),
    ];
    for (second, words) in cases {
        let output = apply(cluster, &format!("{FINE}{second}"))?;
        let text = said(&output);
        ensure!(output.status.code() == Some(1), "{second:?}: {}: {text}", output.status);
        for word in words.iter().chain(&["case.yaml", "nothing was written"]) {
            ensure!(text.contains(word), "{second:?} is answered without {word:?}: {text}");
        }
    }
    let written = cluster.margay(&["get", "ippool", "fine"])?;
    ensure!(!written.status.success(), "a part of a bad file was written: {}", said(&written));
    Ok(())
}

pub(crate) fn bad_pools_are_refused(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    let cases: [(&str, &[&str]); 3] = [
        ("{cidr: 10.65.128.0/20}", &["10.65.128.0/20", "overlaps 10.65.0.0/16 of IPPool(pods)"]),
        ("{cidr: 10.64.0.0/10}", &["10.64.0.0/10", "overlaps 10.65.0.0/16 of IPPool(pods)"]),
        ("{cidr: 10.99.0.0/28, blockSize: 24}", &["10.99.0.0/28 is smaller than one block (/24)"]),
    ];
    for (spec, words) in cases {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: bad}}\nspec: {spec}\n"
        );
        let output = apply(cluster, &text)?;
        ensure!(!output.status.success(), "{spec} was accepted");
        for word in words {
            ensure!(said(&output).contains(word), "{spec} is refused without {word:?}: {}", said(&output));
        }
    }
    Ok(())
}

pub(crate) fn a_node_without_an_address_is_named(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    applied(cluster, "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: bare}\nspec: {}\n")?;
    let message = wait_problem(cluster, &["node1", "node2", "node3", "rr1", "rr2"], "Node(bare)")?;
    ensure!(message.contains("no address") && message.contains("spec.bgp.ipv4Address"), "{message}");
    let shown = cluster.margay_on("node2", &["status"])?;
    ensure!(shown.status.success() && said(&shown).contains("Node(bare)"), "{}", said(&shown));
    for node in AGENTS {
        ensure!(cluster.status(node)?.ready, "{node} is not ready any more");
    }
    margay(cluster, &["delete", "node", "bare"])?;
    wait_no_problem(cluster, &AGENTS, "Node(bare)")
}

/// An agent whose machine has no address says so and is not ready; the others go on.
pub(crate) fn an_agent_without_an_address_waits(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(ONE_NODE, Datastore::Embedded)?;
    applied(&cluster, FINE)?;
    cluster.start("node1")?;
    cluster.wait_ready("node1", PATIENCE)?;
    let folder = cluster.folder("bare");
    std::fs::create_dir_all(&folder)?;
    let mut agent = std::process::Command::new(cluster.program("margay-agent")?);
    agent.args(["--node", "bare", "--datastore-path"]).arg(cluster.folder("margay.db"));
    agent.arg("--socket").arg(cluster.socket("bare"));
    agent.arg("--state-dir").arg(folder.join("state")).arg("--spool-dir").arg(folder.join("spool"));
    let mut process = cluster.node("bare")?.spawn("bare", agent, &folder.join("log"))?;
    let message = || -> Option<String> {
        let status = cluster.status("bare").ok()?;
        let bgp = status.components.into_iter().find(|part| part.name == "bgp")?;
        (!status.ready && !bgp.ready).then_some(bgp.message)
    };
    let says = || message().is_some_and(|text| text.contains("node bare has no address"));
    let waited = wait(PATIENCE, || Ok(says()));
    ensure!(waited.is_ok(), "it says {:?}; its log: {}", message(), process.log_text());
    let readyz = cluster.client("bare").get_text("/readyz");
    ensure!(readyz.is_err(), "/readyz says {readyz:?}");
    wait_problem(&cluster, &["node1"], "Node(bare)")?;
    ensure!(cluster.status("node1")?.ready, "node1 is not ready any more");
    ensure!(process.is_running()?, "the agent ended: {}", process.log_text());
    Ok(())
}

/// Pools that got past the tool are named by every agent and used by none; the others go on.
pub(crate) fn bad_pools_in_the_datastore(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Etcd)?.cluster;
    let one = cluster.runtime("node1")?.add("shop", "one")?;
    let two = cluster.runtime("node3")?.add("shop", "two")?;
    let stream = Stream::start(&one.netns, two.address, Protocol::Udp(PORT), PROBE_EVERY)?;
    send_more(&stream, 50)?;
    let pool = |name: &str, spec: &str| {
        format!(
            "{{\"apiVersion\":\"projectcalico.org/v3\",\"kind\":\"IPPool\",\"metadata\":{{\"name\":\"{name}\"}},\"spec\":{spec}}}"
        )
    };
    let bad = [
        ("inside", pool("inside", r#"{"cidr":"10.65.0.0/20","blockSize":24}"#), "overlaps"),
        ("around", pool("around", r#"{"cidr":"10.64.0.0/10","blockSize":24}"#), "overlaps"),
        ("tiny", pool("tiny", r#"{"cidr":"10.99.0.0/28","blockSize":24}"#), "smaller than one block"),
        ("torn", "{\"apiVersion\":\"projectcalico.org/v3\",\"ki".to_owned(), "JSON"),
    ];
    for (name, value, _) in &bad {
        etcdctl(cluster, &["put", &key(name), value])?;
    }
    for (name, _, word) in &bad {
        let message = wait_problem(cluster, &AGENTS, &format!("IPPool({name})"))?;
        ensure!(message.contains(word), "IPPool({name}): {message}");
    }
    for node in AGENTS {
        let problems = cluster.status(node)?.problems;
        ensure!(
            problems.iter().all(|one| one.object != "IPPool(pods)"),
            "the good pool is blamed: {problems:#?}"
        );
        let pod = cluster.runtime(node)?.add("guest", &format!("new-{node}"))?;
        let held = pod.address.to_string();
        let ipam: margay_control::status::IpamStatus = cluster.client(node).get("/v1/ipam")?;
        ensure!(ipam.blocks.iter().all(|block| block.pool == "pods"), "{:#?}", ipam.blocks);
        ensure!(
            ipam.blocks.iter().any(|block| block.cidr.contains(&pod.address)),
            "{held}: {:#?}",
            ipam.blocks
        );
        cluster.runtime(node)?.delete(pod)?;
    }
    send_more(&stream, 50)?;
    for (name, _, _) in &bad {
        etcdctl(cluster, &["del", &key(name)])?;
    }
    for (name, _, _) in &bad {
        wait_no_problem(cluster, &AGENTS, &format!("IPPool({name})"))?;
    }
    send_more(&stream, 50)?;
    none_lost(stream)?;
    cluster.runtime("node1")?.delete(one)?;
    cluster.runtime("node3")?.delete(two)
}

/// Where the datastore keeps a pool (Calico's layout under our prefix).
fn key(pool: &str) -> String {
    format!("/margay/resources/v3/projectcalico.org/ippools/{pool}")
}

fn etcdctl(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let mut all = vec!["--endpoints", "http://172.30.1.1:2379"];
    all.extend(arguments);
    cluster.run_in("r1", "etcdctl", &all)
}
