//! Clusters of the cases, and what every case asks of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use margay_control::bgp::Peer;
use margay_control::status::{Endpoint, IpamStatus, Problem};
use margay_lab::probe::{Protocol, Stream};
use margay_netlink::{Netlink, Netns};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{PORT, Pod, said};
use margay_tests::report::{Check, Report};
use margay_tests::scenario::Scenario;
use serde_json::Value;

use crate::host::without_counters;

/// Longest wait for anything that is not a measurement.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two probes of a stream.
pub(crate) const PROBE_EVERY: Duration = Duration::from_millis(5);

/// One node, the machine of etcd, and a node without interfaces.
pub(crate) const ONE_NODE: &str = "tests/labs/one-node.clab.yml";

/// Two nodes in a subnet.
pub(crate) const TWO_NODES: &str = "tests/labs/two-nodes.clab.yml";

/// Two nodes in a subnet and one in another, in both families.
pub(crate) const TWO_SUBNETS: &str = "tests/labs/two-subnets.clab.yml";

/// The cluster that is up, and where the next one puts its files.
#[derive(Default)]
pub(crate) struct Labs {
    demo: Option<(Datastore, Scenario)>,
    built: u32,
}

impl Labs {
    /// The same place for files, no cluster.
    pub(crate) fn fresh(self) -> Self {
        Self { demo: None, built: self.built }
    }

    /// The demo's cluster without pods, started if it isn't up.
    pub(crate) fn demo(&mut self, datastore: Datastore) -> Result<&mut Scenario> {
        if self.demo.as_ref().is_none_or(|(kind, _)| *kind != datastore) {
            let folder = self.folder();
            self.demo = None;
            self.demo = Some((datastore, Scenario::start(datastore, &folder, &Report::new(true))?));
        }
        let (_, scenario) = self.demo.as_mut().context("no scenario")?;
        Ok(scenario)
    }

    /// A cluster of this case alone, nothing started; any other ends.
    pub(crate) fn alone(&mut self, file: &str, datastore: Datastore) -> Result<Cluster> {
        self.demo = None;
        Cluster::build(Path::new(file), datastore, &self.folder())
    }

    fn folder(&mut self) -> PathBuf {
        self.built += 1;
        PathBuf::from(format!("/run/e2e/{}", self.built))
    }
}

/// Every line holds.
pub(crate) fn all_hold(checks: &[Check]) -> Result<()> {
    ensure!(!checks.is_empty(), "nothing was measured");
    let wrong: Vec<String> = checks
        .iter()
        .filter(|check| !check.ok)
        .map(|check| format!("{}: {}", check.rule, check.measured))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// A Pod object of namespace shop whose label `app` is its name.
pub(crate) fn pod_object(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
         spec: {{nodeName: {node}, containers: []}}\n---\n"
    )
}

/// Writes YAML to a file and applies it.
pub(crate) fn apply(cluster: &Cluster, text: &str) -> Result<Output> {
    let folder = cluster.folder("yaml");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("case.yaml");
    std::fs::write(&file, text)?;
    cluster.margay(&["apply", "-f", &file.to_string_lossy()])
}

/// The same, and it has to work.
pub(crate) fn applied(cluster: &Cluster, text: &str) -> Result<()> {
    let output = apply(cluster, text)?;
    ensure!(output.status.success(), "margay apply: {}", said(&output));
    Ok(())
}

/// Executes `margay` on the datastore; it has to work.
pub(crate) fn margay(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let output = cluster.margay(arguments)?;
    ensure!(output.status.success(), "margay {}: {}", arguments.join(" "), said(&output));
    Ok(said(&output))
}

/// Executes `margay` as a client of a node's daemon; it has to work.
pub(crate) fn said_on(cluster: &Cluster, node: &str, arguments: &[&str]) -> Result<String> {
    let output = cluster.margay_on(node, arguments)?;
    ensure!(output.status.success(), "margay {} on {node}: {}", arguments.join(" "), said(&output));
    Ok(said(&output))
}

/// Waits until all these agents report a problem with the object; returns the message of the first.
pub(crate) fn wait_problem(cluster: &Cluster, nodes: &[&str], object: &str) -> Result<String> {
    let find = |node: &str| -> Result<Option<Problem>> {
        let status = cluster.status(node)?;
        Ok(status.problems.into_iter().find(|problem| problem.object == object))
    };
    wait(PATIENCE, || {
        for node in nodes {
            if find(node)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .with_context(|| {
        let said: Vec<_> =
            nodes.iter().map(|node| (*node, cluster.status(node).map(|s| s.problems))).collect();
        format!("{object} among the problems of {nodes:?}: {said:#?}")
    })?;
    let first = nodes.first().context("no node")?;
    Ok(find(first)?.map(|problem| problem.message).unwrap_or_default())
}

/// Waits until the node is not ready and its routes say that the kernel has no `what`.
pub(crate) fn wait_kernel_lacks(cluster: &Cluster, node: &str, what: &str) -> Result<()> {
    let sentence = format!("this kernel has no {what}");
    let says = || -> Result<bool> {
        let status = cluster.status(node)?;
        let routes = status.components.iter().find(|part| part.name == "routes").context("no routes")?;
        Ok(!status.ready && !routes.ready && routes.message.contains(&sentence))
    };
    wait(PATIENCE, || Ok(says().unwrap_or(false))).with_context(|| format!("{:#?}", cluster.status(node)))
}

/// Waits until none of these agents reports a problem with the object.
pub(crate) fn wait_no_problem(cluster: &Cluster, nodes: &[&str], object: &str) -> Result<()> {
    wait(PATIENCE, || {
        for node in nodes {
            if cluster.status(node)?.problems.iter().any(|problem| problem.object == object) {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .with_context(|| format!("{object} still among the problems of {nodes:?}"))
}

/// Waits until the pod's endpoint is enforced with so many policies.
pub(crate) fn wait_policies(cluster: &Cluster, pod: &Pod, count: usize) -> Result<()> {
    let endpoints = || -> Result<Vec<Endpoint>> { Ok(cluster.client(&pod.node).get("/v1/endpoints")?) };
    wait(PATIENCE, || {
        let all = endpoints()?;
        let own = all.iter().find(|one| one.namespace == pod.namespace && one.pod == pod.name);
        Ok(own.is_some_and(|one| one.live && one.policies.len() == count))
    })
    .with_context(|| format!("{count} policies on {}: {:#?}", pod.full_name(), endpoints()))
}

/// `namespace/name` of the pods that hold addresses on a node, with the addresses.
pub(crate) fn pod_addresses(cluster: &Cluster, node: &str) -> Result<BTreeMap<String, String>> {
    let ipam: IpamStatus = cluster.client(node).get("/v1/ipam")?;
    let pods = ipam.addresses.into_iter().filter_map(|one| Some((one.pod?, one.address.to_string())));
    Ok(pods.collect())
}

/// Waits until the datastore shows no WorkloadEndpoint of a pod of this name.
pub(crate) fn wait_no_endpoint(cluster: &Cluster, pod: &str) -> Result<()> {
    let word = format!("\"{pod}\"");
    wait(
        PATIENCE,
        || Ok(!margay(cluster, &["get", "workloadendpoints", "-A", "-o", "json"])?.contains(&word)),
    )
    .with_context(|| format!("the WorkloadEndpoint of {pod} is still there"))
}

/// Waits until every agent's pod-related state (interfaces and routes of pods) is gone.
pub(crate) fn no_pods(cluster: &Cluster, node: &str) -> Result<()> {
    let gone = || -> Result<String> {
        let links = cluster.run_in(node, "ip", &["-o", "link", "show"])?;
        let links = links.lines().filter(|line| line.contains(": mgy")).collect::<Vec<_>>().join("\n");
        let routes = cluster.run_in(node, "ip", &["route", "show", "proto", "180"])?;
        let addresses = pod_addresses(cluster, node)?;
        let addresses = if addresses.is_empty() { String::new() } else { format!("{addresses:?}") };
        Ok(format!("{links}{routes}{addresses}"))
    };
    wait(PATIENCE, || Ok(gone()?.is_empty())).with_context(|| format!("left on {node}: {:?}", gone()))
}

/// Interfaces of a namespace apart from loopback.
pub(crate) fn interfaces(netns: &Netns) -> Result<Vec<String>> {
    let links = Netlink::open_in(netns)?.links()?;
    Ok(links.into_iter().map(|link| link.name).filter(|name| name != "lo").collect())
}

/// The plugin's error: its code and message.
pub(crate) fn cni_error(output: &Output) -> Result<(u64, String)> {
    ensure!(!output.status.success(), "it succeeded: {}", said(output));
    let error: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("an error that is no JSON: {}", said(output)))?;
    let Some(code) = error["code"].as_u64() else { bail!("an error without a code: {error}") };
    ensure!(error["cniVersion"].is_string(), "an error without cniVersion: {error}");
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    Ok((code, format!("{} {}", text("msg"), text("details"))))
}

/// Sessions of a daemon by neighbour: state.
pub(crate) fn sessions(cluster: &Cluster, node: &str) -> Result<Vec<Peer>> {
    Ok(cluster.client(node).get("/v1/bgp/peers")?)
}

/// Waits until a metric of a daemon, with these labels in this order, has such a value.
pub(crate) fn wait_metric(
    cluster: &Cluster,
    node: &str,
    name: &str,
    labels: &[(&str, &str)],
    is: impl Fn(u64) -> bool,
) -> Result<()> {
    let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    let line = format!("margay_{name}{{{}}} ", labels.join(","));
    let metrics = || cluster.client(node).get_text("/metrics");
    let value = |metrics: &str| metrics.lines().find_map(|it| it.strip_prefix(&line)?.parse().ok());
    wait(PATIENCE, || Ok(value(&metrics()?).is_some_and(&is)))
        .with_context(|| format!("{line}on {node} in\n{}", metrics().unwrap_or_default()))
}

/// Waits until the stream has sent so many more probes.
pub(crate) fn send_more(stream: &Stream, count: u64) -> Result<()> {
    let goal = stream.sent() + count;
    wait(PATIENCE, || Ok(stream.sent() >= goal)).context("the stream of probes does not go on")
}

/// Waits until every datagram from one pod to the other's server is answered.
pub(crate) fn wait_answered(from: &Pod, to: &Pod) -> Result<()> {
    wait(PATIENCE, || {
        let trial = Stream::start(&from.netns, to.address, Protocol::Udp(PORT), PROBE_EVERY)?;
        send_more(&trial, 3)?;
        let report = trial.stop()?;
        Ok(report.received == report.sent)
    })
    .with_context(|| format!("{} reaches {}", from.full_name(), to.full_name()))
}

/// Ends a stream of which every probe must have been answered.
pub(crate) fn none_lost(stream: Stream) -> Result<()> {
    let report = stream.stop()?;
    ensure!(report.sent > 0, "no probe was sent");
    ensure!(
        report.lost.is_empty() && report.received == report.sent,
        "{} of {} probes were lost: {:?}",
        report.lost.len(),
        report.sent,
        report.lost
    );
    Ok(())
}

/// Ends a stream of which no probe may have been answered.
pub(crate) fn none_answered(stream: Stream) -> Result<()> {
    let report = stream.stop()?;
    ensure!(report.sent > 0, "no probe was sent");
    ensure!(
        report.received == 0,
        "{} of {} probes of a denied flow were answered",
        report.received,
        report.sent
    );
    Ok(())
}

/// What a node's kernel holds, without counters and lifetimes.
pub(crate) fn kernel_state(cluster: &Cluster, node: &str) -> Result<String> {
    let commands: [(&str, &[&str]); 7] = [
        ("ip", &["-d", "link", "show"]),
        ("ip", &["address", "show"]),
        ("ip", &["-d", "route", "show", "table", "all"]),
        ("ip", &["-d", "-6", "route", "show", "table", "all"]),
        ("ip", &["rule", "show"]),
        ("iptables-save", &[]),
        // A hash keeps its members in the order of its buckets, which is nobody's promise.
        ("ipset", &["save", "-sorted"]),
    ];
    let mut state = String::new();
    for (program, arguments) in commands {
        let text = cluster.run_in(node, program, arguments)?;
        // The kernel gives interfaces link-local addresses, and what comes with them, a while after they are up.
        let late = ["fe80::", "ff00::/8", "valid_lft"];
        let text: Vec<&str> =
            text.lines().filter(|line| !late.iter().any(|word| line.contains(word))).collect();
        let mut text = without_counters(&text.join("\n"));
        // And it notices a veth's carrier in its own time.
        for late in
            ["NO-CARRIER,", ",LOWER_UP", " linkdown", " state UP", " state DOWN", " state LOWERLAYERDOWN"]
        {
            text = text.replace(late, "");
        }
        state.push_str(&format!("## {program} {}\n{text}", arguments.join(" ")));
    }
    for name in ["net.ipv4.ip_forward", "net.ipv4.conf.all.rp_filter", "net.ipv6.conf.all.forwarding"] {
        state.push_str(&cluster.run_in(node, "sysctl", &[name])?);
    }
    Ok(state)
}

/// Fails with the lines in which two states differ.
pub(crate) fn same(before: &str, after: &str) -> Result<()> {
    if before == after {
        return Ok(());
    }
    let only = |one: &str, other: &str, mark: char| -> Vec<String> {
        one.lines()
            .filter(|line| !other.lines().any(|same| same == *line))
            .map(|line| format!("{mark} {line}"))
            .collect()
    };
    let mut lines = only(before, after, '-');
    lines.extend(only(after, before, '+'));
    if lines.is_empty() {
        let mut pairs = before.lines().zip(after.lines());
        let first = pairs.find(|(one, other)| one != other);
        lines.push(format!("the order or number of lines, first here: {first:?}"));
    }
    bail!("differences:\n{}", lines.join("\n"))
}
