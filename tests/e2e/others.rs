//! Beside other plugins: their addresses with our wiring, our policy on their interfaces; and how a runtime gets its conflist.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_control::status::IpamStatus;
use margay_lab::probe::{Outcome, Protocol, Responder, reach};
use margay_netlink::Netns;
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{CNI_PATH, PORT, Pod, container_id, said};
use serde_json::{Value, json};

use crate::Lacks;
use crate::labs::{
    Labs, PATIENCE, TWO_NODES, applied, cni_error, interfaces, margay, no_pods, wait_answered,
    wait_no_endpoint,
};
use crate::phases::journal;

/// Long enough for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Nobody enters this namespace.
const CLOSED: &str = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: closed}
spec: {selector: projectcalico.org/namespace == 'closed', types: [Ingress]}
";

/// containernetworking's plugin of a name.
fn plugin(name: &str) -> Result<PathBuf> {
    let found = std::env::split_paths(CNI_PATH).map(|folder| folder.join(name)).find(|path| path.exists());
    found.ok_or_else(|| Lacks(format!("no {name}: install the package containernetworking-plugins")).into())
}

/// Whether one pod reaches the server of another.
fn reaches(from: &Pod, to: &Pod) -> Result<bool> {
    let outcome = reach(&from.netns, to.address, Protocol::Tcp(PORT), Some(&to.responder), TIMEOUT)?;
    Ok(matches!(outcome, Outcome::Reached { .. }))
}

fn entries(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Addresses that host-local has given.
fn leases(folder: &Path) -> Result<Vec<String>> {
    let mut names = entries(folder)?;
    names.retain(|name| name.parse::<std::net::IpAddr>().is_ok());
    Ok(names)
}

/// Canal's way with our BGP in place of flannel: the range that `host-local` gives addresses of is announced while it does, and what no
/// pod of it has goes nowhere.
pub(crate) fn a_range_of_host_local(labs: &mut Labs) -> Result<()> {
    plugin("host-local")?;
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    let ranges = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: node1}\n\
                  spec: {bgp: {ipv4Address: 172.30.1.11/24}}\nstatus: {podCIDRs: [10.244.3.0/24]}\n---\n\
                  apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: node2}\n\
                  spec: {bgp: {ipv4Address: 172.30.1.12/24}}\nstatus: {podCIDRs: [10.244.4.0/24]}\n";
    applied(&cluster, ranges)?;
    // Each knows of the other and waits for it.
    for node in ["node1", "node2"] {
        cluster.start(node)?;
    }
    for node in ["node1", "node2"] {
        cluster.wait_ready(node, PATIENCE)?;
    }
    let data = |node: &str| cluster.folder(node).join("host-local");
    let local = |node: &str| {
        let data = data(node);
        move |config: &mut Value| {
            config["ipam"] = json!({"type": "host-local", "subnet": "usePodCidr", "dataDir": data});
        }
    };
    let near = cluster.runtime("node1")?.add_with("shop", "near", local("node1"))?;
    let far = cluster.runtime("node2")?.add_with("shop", "far", local("node2"))?;
    wait_answered(&near, &far)?;
    wait_answered(&far, &near)?;
    let routes = || cluster.run_in("node2", "ip", &["route", "show"]);
    let text = routes()?;
    ensure!(text.contains("10.244.3.0/24 ") && text.contains("blackhole 10.244.4.0/24"), "{text}");
    ensure!(!text.contains(&format!("{} ", near.address)), "one route is enough: {text}");
    cluster.runtime("node1")?.delete_with(near, local("node1"))?;
    wait(PATIENCE, || Ok(!routes()?.contains("10.244.3.0/24"))).with_context(|| format!("{:?}", routes()))?;
    cluster.runtime("node2")?.delete_with(far, local("node2"))?;
    ["node1", "node2"].iter().try_for_each(|node| no_pods(&cluster, node))
}

/// Canal's way: `host-local` gives addresses of the node's range, we do all else, and nobody speaks BGP.
pub(crate) fn addresses_of_host_local(labs: &mut Labs) -> Result<()> {
    plugin("host-local")?;
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    let range = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: node1}\n\
                 spec: {bgp: {ipv4Address: 172.30.1.11/24}}\nstatus: {podCIDRs: [10.244.3.0/24]}\n---\n";
    applied(&cluster, &format!("{range}{CLOSED}"))?;
    for node in ["node1", "node2"] {
        cluster.start_with(node, &["--backend", "none"])?;
        cluster.wait_ready(node, PATIENCE)?;
    }
    let data = cluster.folder("host-local");
    let local = |config: &mut Value| {
        config["ipam"] = json!({"type": "host-local", "subnet": "usePodCidr", "dataDir": data});
    };
    let held = data.join("margay");
    // The datastore tells the agent when it does.
    let runtime = cluster.runtime("node1")?;
    let one = runtime.add_with("shop", "one", local)?;
    let two = runtime.add_with("shop", "two", local)?;
    let closed = runtime.add_with("closed", "three", local)?;
    for pod in [&one, &two, &closed] {
        ensure!(pod.address.to_string().starts_with("10.244.3."), "{} of {}", pod.address, pod.full_name());
    }
    ensure!(leases(&held)?.len() == 3, "{:?}", leases(&held)?);
    let ipam: IpamStatus = cluster.client("node1").get("/v1/ipam")?;
    ensure!(ipam.blocks.is_empty(), "{:?}", ipam.blocks);
    let routes = cluster.run_in("node1", "ip", &["route", "show", "proto", "180"])?;
    ensure!(routes.lines().count() == 3 && routes.contains(&one.address.to_string()), "{routes}");
    wait_answered(&one, &two)?;
    wait_answered(&closed, &one)?;
    ensure!(!reaches(&one, &closed)?, "policy does not hold");

    let previous = json!({"cniVersion": "1.0.0", "ips": [{"address": format!("{}/24", one.address)}]});
    let path = one.netns.path().to_string_lossy().into_owned();
    let check = |previous: &Value| {
        runtime.call_with("CHECK", &one.container_id(), "eth0", Some(("shop", "one")), &path, |config| {
            local(config);
            config["prevResult"] = previous.clone();
        })
    };
    let output = check(&previous)?;
    ensure!(output.status.success(), "CHECK: {}", said(&output));
    let output = check(&json!({"cniVersion": "1.0.0", "ips": [{"address": "10.244.3.200/24"}]}))?;
    ensure!(cni_error(&output)?.1.contains("not wired as ADD left it"), "CHECK: {}", said(&output));

    // A node without a range says what it lacks.
    let netns = Netns::new()?;
    let path = netns.path().to_string_lossy().into_owned();
    let there = cluster.runtime("node2")?;
    let output = there.call_with("ADD", "lost", "eth0", Some(("shop", "lost")), &path, local)?;
    let (code, message) = cni_error(&output)?;
    ensure!(code == 7 && message.contains("status.podCIDRs"), "{code} {message}");
    ensure!(cluster.whole_log("node2").contains("status.podCIDRs"), "the agent's log has no word of it");

    // A killed agent knows them again; a DEL meanwhile gives the address back at once.
    let (id, path) = (two.container_id(), two.netns.path().to_string_lossy().into_owned());
    cluster.kill("node1")?;
    let runtime = cluster.runtime("node1")?;
    let output = runtime.call_with("DEL", &id, "eth0", Some(("shop", "two")), &path, local)?;
    ensure!(output.status.success(), "DEL with the agent down: {}", said(&output));
    ensure!(interfaces(&two.netns)?.is_empty() && leases(&held)?.len() == 2, "{:?}", leases(&held)?);
    cluster.start_with("node1", &["--backend", "none"])?;
    cluster.wait_ready("node1", PATIENCE)?;
    wait_no_endpoint(&cluster, "two")?;
    wait_answered(&closed, &one)?;
    ensure!(!reaches(&one, &closed)?, "policy does not hold after a restart");
    // Of an agent whose journal is lost the datastore knows.
    wait_known(&cluster, &["one", "three"])?;
    cluster.stop("node1")?;
    std::fs::remove_file(journal(&cluster.folder("node1"))?)?;
    cluster.start_with("node1", &["--backend", "none"])?;
    cluster.wait_ready("node1", PATIENCE)?;
    wait_answered(&closed, &one)?;
    ensure!(!reaches(&one, &closed)?, "policy does not hold after a lost journal");
    wait_known(&cluster, &["one", "three"])?;
    let runtime = cluster.runtime("node1")?;
    for pod in [one, closed] {
        runtime.delete_with(pod, local)?;
    }
    ensure!(leases(&held)?.is_empty(), "{:?}", leases(&held)?);
    no_pods(&cluster, "node1")?;
    wait(PATIENCE, || Ok(cluster.margay(&["ipam", "check"])?.status.success())).context("ipam check")
}

/// Waits until the datastore shows WorkloadEndpoints of these pods.
fn wait_known(cluster: &Cluster, pods: &[&str]) -> Result<()> {
    let endpoints = || margay(cluster, &["get", "workloadendpoints", "-A", "-o", "json"]);
    let known = |text: &str| pods.iter().all(|pod| text.contains(&format!("\"{pod}\"")));
    wait(PATIENCE, || Ok(known(&endpoints()?))).with_context(|| format!("{pods:?}: {:?}", endpoints()))
}

/// A list of plugins as a runtime walks through it: `main` makes the interface, ours is behind it.
struct Chain<'a> {
    cluster: &'a Cluster,
    main: Value,
}

impl Chain<'_> {
    /// Executes the main plugin.
    fn main(&self, verb: &str, id: &str, netns: &Netns) -> Result<Output> {
        let kind = self.main["type"].as_str().context("no type")?;
        let mut command = Command::new(plugin(kind)?);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("CNI_COMMAND", verb);
        command.env("CNI_CONTAINERID", id).env("CNI_NETNS", netns.path()).env("CNI_IFNAME", "eth0");
        command.env("CNI_PATH", CNI_PATH);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.cluster.node("node1")?.netns().spawn(&mut command)?;
        if let Some(mut input) = child.stdin.take() {
            serde_json::to_writer(&mut input, &self.main)?;
        }
        Ok(child.wait_with_output()?)
    }

    fn made(&self, id: &str, netns: &Netns) -> Result<Value> {
        let output = self.main("ADD", id, netns)?;
        ensure!(output.status.success(), "ADD of {}: {}", self.main["type"], said(&output));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Executes ours.
    fn ours(&self, verb: &str, pod: (&str, &str), netns: &Netns, previous: &Value) -> Result<Output> {
        let path = netns.path().to_string_lossy().into_owned();
        let id = container_id(pod.0, pod.1);
        self.cluster.runtime("node1")?.call_with(verb, &id, "eth0", Some(pod), &path, |config| {
            config["prevResult"] = previous.clone();
        })
    }

    /// Both, and something that answers.
    fn add(&self, namespace: &str, name: &str) -> Result<(Pod, Value)> {
        let netns = Netns::new()?;
        let previous = self.made(&container_id(namespace, name), &netns)?;
        let output = self.ours("ADD", (namespace, name), &netns, &previous)?;
        ensure!(output.status.success(), "ADD behind ptp: {}", said(&output));
        ensure!(serde_json::from_slice::<Value>(&output.stdout)? == previous, "{}", said(&output));
        Ok((pod(namespace, name, netns, &previous)?, previous))
    }
}

fn pod(namespace: &str, name: &str, netns: Netns, result: &Value) -> Result<Pod> {
    let address = result["ips"][0]["address"].as_str().and_then(|text| text.split('/').next());
    Ok(Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        node: "node1".to_owned(),
        address: address.context("no address")?.parse()?,
        responder: Responder::start(&netns, &[PORT])?,
        netns,
    })
}

/// Policy alone: `ptp` makes, addresses and routes the interfaces.
pub(crate) fn policy_beside_ptp(labs: &mut Labs) -> Result<()> {
    for name in ["ptp", "bridge", "host-local"] {
        plugin(name)?;
    }
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    applied(&cluster, CLOSED)?;
    cluster.start_with("node1", &["--backend", "none"])?;
    cluster.wait_ready("node1", PATIENCE)?;
    let ipam =
        json!({"type": "host-local", "subnet": "10.99.1.0/24", "dataDir": cluster.folder("host-local")});
    let list = |kind: &str| json!({"cniVersion": "1.0.0", "name": "margay", "type": kind, "ipam": ipam, "bridge": "cni9"});
    let chain = Chain { cluster: &cluster, main: list("ptp") };

    // Not before the rules know that such names are pods'.
    let netns = Netns::new()?;
    let previous = chain.made("early", &netns)?;
    let (code, message) = cni_error(&chain.ours("ADD", ("shop", "early"), &netns, &previous)?)?;
    ensure!(code == 105 && message.contains("interfacePrefix"), "{code} {message}");
    chain.main("DEL", "early", &netns)?;
    applied(
        &cluster,
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {interfacePrefix: veth}\n",
    )?;
    // The agent is told when it is.
    let netns = Netns::new()?;
    let previous = chain.made(&container_id("shop", "one"), &netns)?;
    wait(PATIENCE, || Ok(chain.ours("ADD", ("shop", "one"), &netns, &previous)?.status.success()))
        .context("ADD behind ptp")?;
    let one = pod("shop", "one", netns, &previous)?;
    let (two, previous_of_two) = chain.add("shop", "two")?;
    let (closed, previous_of_closed) = chain.add("closed", "three")?;
    wait_answered(&one, &two)?;
    wait_answered(&closed, &one)?;
    ensure!(!reaches(&one, &closed)?, "policy does not hold");
    // An interface of that prefix nobody told of reaches nobody.
    let stranger = Netns::new()?;
    let result = chain.made("stranger", &stranger)?;
    let stranger = pod("shop", "stranger", stranger, &result)?;
    ensure!(!reaches(&stranger, &one)?, "what has no policy reaches a pod");
    let output = chain.ours("CHECK", ("shop", "two"), &two.netns, &previous_of_two)?;
    ensure!(output.status.success(), "CHECK: {}", said(&output));
    let endpoints = margay(&cluster, &["get", "workloadendpoints", "-A", "-o", "json"])?;
    ensure!(endpoints.matches("\"interfaceName\": \"veth").count() == 3, "{endpoints}");

    // A bridge's ports see each other without us.
    let bridge = Chain { cluster: &cluster, main: list("bridge") };
    let netns = Netns::new()?;
    let result = bridge.made("bridged", &netns)?;
    let (code, message) = cni_error(&bridge.ours("ADD", ("shop", "bridged"), &netns, &result)?)?;
    ensure!(code == 105 && message.contains("port of cni9"), "{code} {message}");

    // DEL takes policy away, and leaves the interface to who made it; with the agent down as well.
    let output = chain.ours("DEL", ("shop", "two"), &two.netns, &previous_of_two)?;
    ensure!(output.status.success(), "DEL: {}", said(&output));
    wait_no_endpoint(&cluster, "two")?;
    wait(PATIENCE, || Ok(!reaches(&two, &one)?)).context("without policy it reaches nobody")?;
    ensure!(interfaces(&two.netns)? == ["eth0"], "{:?}", interfaces(&two.netns)?);
    ensure!(chain.main("DEL", &two.container_id(), &two.netns)?.status.success(), "DEL of ptp");
    cluster.kill("node1")?;
    let chain = Chain { cluster: &cluster, main: list("ptp") };
    wait_answered(&closed, &one)?;
    let output = chain.ours("DEL", ("closed", "three"), &closed.netns, &previous_of_closed)?;
    ensure!(output.status.success(), "DEL: {}", said(&output));
    ensure!(interfaces(&closed.netns)? == ["eth0"], "{:?}", interfaces(&closed.netns)?);
    ensure!(chain.main("DEL", &closed.container_id(), &closed.netns)?.status.success(), "DEL of ptp");
    cluster.start_with("node1", &["--backend", "none"])?;
    cluster.wait_ready("node1", PATIENCE)?;
    wait_no_endpoint(&cluster, "three")?;
    let chain = Chain { cluster: &cluster, main: list("ptp") };
    let (three, _) = chain.add("shop", "three")?;
    wait_answered(&three, &one)
}

/// A runtime finds its conflist when pods can start, and not before.
pub(crate) fn installed_when_ready(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    let (bin, conf) = (cluster.folder("bin"), cluster.folder("net.d"));
    for folder in [&bin, &conf] {
        std::fs::create_dir_all(folder)?;
    }
    let shim = cluster.program("margay-cni")?;
    let execute = |arguments: &[&Path]| -> Result<String> {
        let output = Command::new(&shim).args(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", said(&output));
        Ok(said(&output))
    };
    execute(&["install".as_ref(), &bin])?;
    ensure!(entries(&bin)? == ["margay-cni"], "{:?}", entries(&bin)?);
    let conflist = cluster.repository().join("examples/cni/10-margay.conflist");
    let flags = ["--cni-conflist", &conflist.to_string_lossy(), "--cni-conf-dir", &conf.to_string_lossy()];
    cluster.start_with("node1", &flags)?;
    // Without a pool no pod can have an address.
    wait(PATIENCE, || Ok(cluster.status("node1").is_ok_and(|status| !status.ready)))
        .context("the agent answers")?;
    wait(PATIENCE, || {
        let known = |name: &str, status: &margay_control::status::DaemonStatus| {
            status.components.iter().any(|part| part.name == name && part.ready)
        };
        Ok(cluster
            .status("node1")
            .is_ok_and(|status| known("datastore", &status) && known("routes", &status)))
    })
    .with_context(|| format!("{:#?}", cluster.status("node1")))?;
    ensure!(entries(&conf)?.is_empty(), "before it is ready: {:?}", entries(&conf)?);
    applied(
        &cluster,
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pods}\nspec: {cidr: 10.65.0.0/16}\n",
    )?;
    cluster.wait_ready("node1", PATIENCE)?;
    wait(PATIENCE, || Ok(entries(&conf)? == ["10-margay.conflist"]))
        .with_context(|| format!("{:?}", entries(&conf)))?;
    ensure!(std::fs::read(conf.join("10-margay.conflist"))? == std::fs::read(&conflist)?, "another text");
    let said = execute(&["uninstall".as_ref(), &bin, &conf.join("10-margay.conflist")])?;
    ensure!(said.find("conflist") < said.find("/margay-cni\n"), "the conflist goes first: {said}");
    ensure!(entries(&bin)?.is_empty() && entries(&conf)?.is_empty(), "{said}");
    Ok(())
}
