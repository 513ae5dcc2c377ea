//! The plugin's verbs when something is wrong.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::probe::{Outcome, Protocol, Responder, Stream, reach};
use margay_netlink::{Netlink, Netns, RouteFilter};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{PORT, Pod, Runtime, container_id, said};
use serde_json::{Value, json};

use crate::labs::{
    Labs, PATIENCE, PROBE_EVERY, applied, cni_error, interfaces, kernel_state, margay, no_pods, none_lost,
    pod_addresses, same, wait_no_endpoint,
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
    let output = runtime.call("DEL", "never-added", Some(("shop", "never")), "/run/netns/never-made")?;
    ensure!(output.status.success(), "DEL of what was never added: {}", said(&output));
    no_pods(cluster, "node1")?;
    ensure!(interfaces(&pod.netns)?.is_empty(), "{:?}", interfaces(&pod.netns)?);
    wait_no_endpoint(cluster, "once")
}

/// A pod that goes and comes at once, as the same container and as another, in the same namespace and in another: DEL is
/// answered before the kernel is done, and nothing of the old one is in the way of the new one, nor of anybody else.
pub(crate) fn deleted_and_added_again(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    let runtime = cluster.runtime("node1")?;
    let (near, far) = (runtime.add("shop", "near")?, cluster.runtime("node2")?.add("shop", "far")?);
    let stream = Stream::start(&near.netns, far.address, Protocol::Icmp, PROBE_EVERY)?;
    let first = runtime.add("shop", "again")?;
    let (mut id, names) = (first.container_id(), Some(("shop", "again")));
    let mut pod = first;
    for round in 0..12 {
        let Pod { netns, responder, .. } = pod;
        drop(responder);
        let output = runtime.call("DEL", &id, names, &netns.path().to_string_lossy())?;
        ensure!(output.status.success(), "DEL: {}", said(&output));
        if round % 3 > 0 {
            id = container_id("shop", &format!("again-{round}"));
        }
        let netns = if round % 3 > 1 { Netns::new()? } else { netns };
        let output = runtime.call("ADD", &id, names, &netns.path().to_string_lossy())?;
        ensure!(output.status.success(), "ADD in round {round}: {}", said(&output));
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let address = answer["ips"][0]["address"].as_str().and_then(|text| text.split('/').next());
        pod = Pod {
            namespace: "shop".to_owned(),
            name: "again".to_owned(),
            node: "node1".to_owned(),
            address: address.context("no address")?.parse()?,
            responder: Responder::start(&netns, &[PORT])?,
            netns,
        };
        reachable(cluster, &pod).with_context(|| format!("round {round}"))?;
    }
    // Nothing of the pods before it takes the last one along.
    let expected = [&pod, &near].map(|pod| (pod.full_name(), pod.address.to_string()));
    let held = || pod_addresses(cluster, "node1");
    wait(PATIENCE, || Ok(held()?.into_iter().eq(expected.clone())))
        .with_context(|| format!("{:?}", held()))?;
    reachable(cluster, &pod)?;
    ensure!(margay(cluster, &["get", "workloadendpoints", "-A"])?.contains("again"), "its endpoint is gone");
    none_lost(stream)?;
    let output = runtime.call("DEL", &id, names, "")?;
    ensure!(output.status.success(), "DEL: {}", said(&output));
    runtime.delete(near)?;
    cluster.runtime("node2")?.delete(far)?;
    ["node1", "node2"].iter().try_for_each(|node| no_pods(cluster, node))
}

/// What DEL promised is kept by an agent that dies right after the answer.
pub(crate) fn killed_right_after_del(labs: &mut Labs) -> Result<()> {
    let cluster = &mut labs.demo(Datastore::Embedded)?.cluster;
    for count in [1, 6] {
        let runtime = cluster.runtime("node2")?;
        let pods: Vec<Pod> = (0..count)
            .map(|number| runtime.add("shop", &format!("leaving-{number}")))
            .collect::<Result<_>>()?;
        for pod in &pods {
            let names = Some((pod.namespace.as_str(), pod.name.as_str()));
            let path = pod.netns.path().to_string_lossy().into_owned();
            let output = runtime.call("DEL", &pod.container_id(), names, &path)?;
            ensure!(output.status.success(), "DEL: {}", said(&output));
        }
        cluster.kill("node2")?;
        let spool = cluster.folder("node2").join("spool");
        let spooled = std::fs::read_dir(&spool).map_or(0, Iterator::count);
        ensure!(spooled == 0, "it was the shim that did it: {spooled} in the spool");
        cluster.start("node2")?;
        cluster.wait_ready("node2", PATIENCE)?;
        no_pods(cluster, "node2")?;
        for pod in &pods {
            ensure!(interfaces(&pod.netns)?.is_empty(), "left in the pod: {:?}", interfaces(&pod.netns)?);
            wait_no_endpoint(cluster, &pod.name)?;
        }
        wait(PATIENCE, || Ok(cluster.margay(&["ipam", "check"])?.status.success()))
            .with_context(|| format!("{:?}", margay(cluster, &["ipam", "check"])))?;
    }
    Ok(())
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

/// What a runtime does with containers it has lost, and before it starts any; and what the agent's log says of a mistake.
pub(crate) fn gc_and_status_by_hand(labs: &mut Labs) -> Result<()> {
    let cluster = &mut labs.demo(Datastore::Embedded)?.cluster;
    let runtime = cluster.runtime("node2")?;
    let call = |runtime: &Runtime<'_>, verb: &str, key: &str, value: Value| {
        runtime.call_with(verb, "", "", None, "", |config| {
            config["cniVersion"] = "1.1.0".into();
            config[key] = value;
        })
    };
    let (known, lost) = (runtime.add("shop", "known")?, runtime.add("shop", "lost")?);
    let valid = json!([{"containerID": known.container_id(), "ifname": "eth0"}]);
    // Who does not say what is valid must not lose everything.
    let (code, message) = cni_error(&call(&runtime, "GC", "disableCheck", json!(true))?)?;
    ensure!(code == 7 && message.contains("valid-attachments"), "GC without a list: {code} {message}");
    for _ in 0..2 {
        let output = call(&runtime, "GC", "cni.dev/valid-attachments", valid.clone())?;
        ensure!(output.status.success() && output.stdout.is_empty(), "GC: {}", said(&output));
    }
    wait_no_endpoint(cluster, "lost")?;
    wait(PATIENCE, || Ok(interfaces(&lost.netns)?.is_empty() && pod_addresses(cluster, "node2")?.len() == 1))
        .with_context(|| format!("{:?}", pod_addresses(cluster, "node2")))?;
    reachable(cluster, &known)?;
    let output = call(&runtime, "GC", "cniVersion", json!("1.0.0"))?;
    ensure!(cni_error(&output)?.0 == 1, "GC in 1.0.0: {}", said(&output));

    let output = call(&runtime, "STATUS", "disableCheck", json!(true))?;
    ensure!(output.status.success() && output.stdout.is_empty(), "STATUS: {}", said(&output));
    let path = known.netns.path().to_string_lossy().into_owned();
    let output = runtime.call_with("ADD", "mistaken", "eth1", None, &path, |config| {
        config["sokcet"] = "/run/nobody".into();
    })?;
    ensure!(cni_error(&output)?.0 == 7, "ADD with a wrong key: {}", said(&output));
    let log = cluster.whole_log("node2");
    let line = log.lines().find(|line| line.contains("CNI ADD failed") && line.contains("sokcet"));
    ensure!(line.is_some_and(|line| line.contains("mistaken")), "the agent's log has no word of it");

    runtime.delete(known)?;
    cluster.kill("node2")?;
    let output = call(&cluster.runtime("node2")?, "STATUS", "disableCheck", json!(true))?;
    let (code, message) = cni_error(&output)?;
    ensure!(code == 50 && message.contains("not ready"), "STATUS with the agent down: {code} {message}");
    cluster.start("node2")?;
    cluster.wait_ready("node2", PATIENCE)?;
    no_pods(cluster, "node2")
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

/// The plugin's configuration is the same for every version of the specification but for its form.
pub(crate) fn every_version(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    let runtime = cluster.runtime("node1")?;
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let netns = Netns::new()?;
        let (path, id) = (netns.path().to_string_lossy().into_owned(), container_id("shop", version));
        let call = |verb: &str, previous: Option<&Value>| {
            runtime.call_with(verb, &id, "eth0", Some(("shop", "versioned")), &path, |config| {
                config["cniVersion"] = version.into();
                if let Some(previous) = previous {
                    config["prevResult"] = previous.clone();
                }
            })
        };
        let output = call("ADD", None)?;
        ensure!(output.status.success(), "ADD in {version}: {}", said(&output));
        let result: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(result["cniVersion"] == version, "{version}: {result}");
        let old = version.starts_with("0.1") || version.starts_with("0.2");
        let address = if old { &result["ip4"]["ip"] } else { &result["ips"][0]["address"] };
        ensure!(address.as_str().is_some_and(|text| text.ends_with("/32")), "{version}: {result}");
        let output = call("CHECK", Some(&result))?;
        let has_check = !old && !version.starts_with("0.3");
        ensure!(output.status.success() == has_check, "CHECK in {version}: {}", said(&output));
        let output = call("DEL", Some(&result))?;
        ensure!(output.status.success() && output.stdout.is_empty(), "DEL in {version}: {}", said(&output));
        no_pods(cluster, "node1")?;
    }
    Ok(())
}

/// A container with two interfaces of ours: each has an address, a route and an endpoint of its own, and goes alone.
pub(crate) fn two_interfaces(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    let runtime = cluster.runtime("node1")?;
    let (netns, id, names) = (Netns::new()?, container_id("shop", "twofold"), Some(("shop", "twofold")));
    let path = netns.path().to_string_lossy().into_owned();
    let call = |verb: &str, ifname: &str| runtime.call_with(verb, &id, ifname, names, &path, |_| {});
    for (ifname, count) in [("eth0", 1), ("net1", 2), ("net2", 3)] {
        let output = call("ADD", ifname)?;
        ensure!(output.status.success(), "ADD of {ifname}: {}", said(&output));
        ensure!(interfaces(&netns)?.len() == count, "{:?}", interfaces(&netns)?);
    }
    let routes = || cluster.run_in("node1", "ip", &["route", "show", "proto", "180"]);
    ensure!(routes()?.lines().count() == 3, "{:?}", routes());
    // The first interface keeps the default route, as behind Multus; the others' are there for who binds to them.
    let inside = Netlink::open_in(&netns)?.routes(RouteFilter::default())?;
    let mut metrics: Vec<u32> =
        inside.iter().filter(|route| route.destination.prefix_len() == 0).map(|route| route.metric).collect();
    metrics.sort_unstable();
    ensure!(metrics == [0, 2048, 2049], "{inside:?}");
    for ifname in ["net1", "net2"] {
        let output = call("DEL", ifname)?;
        ensure!(output.status.success(), "DEL of {ifname}: {}", said(&output));
    }
    wait(PATIENCE, || Ok(interfaces(&netns)? == ["eth0"] && routes()?.lines().count() == 1))
        .with_context(|| format!("{:?}, {:?}", interfaces(&netns), routes()))?;
    let output = call("DEL", "eth0")?;
    ensure!(output.status.success(), "DEL of eth0: {}", said(&output));
    no_pods(cluster, "node1")?;
    wait_no_endpoint(cluster, "twofold")
}

/// A pod's annotations decide its address, and its MAC.
pub(crate) fn annotated(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    let runtime = cluster.runtime("node1")?;
    let first = runtime.add("shop", "first")?;
    let fixed = first.address;
    let mac = "02:00:00:00:0a:0b";
    applied(
        cluster,
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: fixed, namespace: shop, annotations: {{\
             cni.projectcalico.org/ipAddrs: '[\"{fixed}\"]', cni.projectcalico.org/hwAddr: '{mac}'}}}}\n\
             spec: {{nodeName: node1, containers: []}}\n"
        ),
    )?;
    // The agent hears of it when it does: until then the pod is given any address.
    runtime.delete(first)?;
    wait(PATIENCE, || {
        let pod = runtime.add("shop", "fixed")?;
        let (address, link) = (pod.address, Netlink::open_in(&pod.netns)?.link("eth0")?);
        runtime.delete(pod)?;
        Ok(address == fixed && link.and_then(|link| link.mac) == mac.parse().ok())
    })
    .with_context(|| format!("{fixed} and {mac}"))?;
    margay(cluster, &["delete", "pod", "fixed", "-n", "shop"])?;
    no_pods(cluster, "node1")
}
