//! Policy as people watch it: the flow log, flows that a change cuts, and what a change would do, said before.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_control::flows::{Action, Flow, FlowLine};
use margay_netlink::conntrack::Conntrack;
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{Pod, said};

use crate::labs::{Labs, ONE_NODE, PATIENCE, applied, margay};

/// Where the pod `web` listens.
const PORT: u16 = 9000;
/// Longest wait for one answer; a segment that is dropped comes again sooner.
const ANSWER: Duration = Duration::from_secs(2);

pub(crate) const POOL: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.65.0.0/16, blockSize: 24}
";

pub(crate) const GUARD: &str = "apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: guard, namespace: shop}
spec:
  selector: app == 'web'
  types: [Ingress]
  ingress:
  - {action: Deny, protocol: UDP}
  - {action: Allow, protocol: TCP, source: {selector: app == 'good'}, destination: {ports: [9000]}}
";

fn pod_object(name: &str) -> String {
    crate::labs::pod_object(name, "node1")
}

fn flow_log(value: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\n\
         spec: {{flowLogsLocalReporter: {value}}}\n"
    )
}

/// A server that sends back what it is sent, as long as the test runs.
pub(crate) fn serve(pod: &Pod) -> Result<()> {
    let listener = pod.netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut octet = [0];
                while stream.read_exact(&mut octet).is_ok() && stream.write_all(&octet).is_ok() {}
            });
        }
    });
    Ok(())
}

pub(crate) fn connect(from: &Pod, to: IpAddr) -> Result<TcpStream> {
    let stream = from.netns.run(|| TcpStream::connect_timeout(&SocketAddr::new(to, PORT), ANSWER))??;
    stream.set_read_timeout(Some(ANSWER))?;
    Ok(stream)
}

pub(crate) fn answers(stream: &mut TcpStream) -> bool {
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

/// What `margay` says on the node.
fn told(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    Ok(said(&cluster.margay_on("node1", arguments)?))
}

fn logged(file: &Path) -> Result<Vec<Flow>> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().map(|line| match serde_json::from_str(line)? {
        FlowLine::Flow(flow) => Ok(Some(flow)),
        FlowLine::Lost { .. } => Ok(None),
    });
    lines.filter_map(Result::transpose).collect()
}

fn is(flow: &Flow, action: Action, from: &str) -> bool {
    let pods = [&flow.source.pod, &flow.destination.pod].map(|pod| pod.as_deref().unwrap_or_default());
    flow.action == action && pods == [from, "shop/web"] && flow.destination.port == Some(PORT)
}

/// Waits until the file has a line of such a flow, which is tried again and again.
fn wait_logged(file: &Path, action: Action, pod: &Pod, to: IpAddr) -> Result<Flow> {
    let mut found = None;
    wait(PATIENCE, || {
        let _denied = connect(pod, to);
        found = logged(file)?.into_iter().find(|flow| is(flow, action, &pod.full_name()));
        Ok(found.is_some())
    })
    .with_context(|| format!("{action:?} of {} in {:?}", pod.full_name(), logged(file)))?;
    found.context("no line")
}

pub(crate) fn watched_cut_and_foretold(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(ONE_NODE, Datastore::Embedded)?;
    applied(&cluster, POOL)?;
    let file = cluster.folder("flows").join("flows.json");
    std::fs::create_dir_all(cluster.folder("flows"))?;
    let path = file.to_string_lossy().into_owned();
    cluster.start_with("node1", &["--cut-denied-flows", "true", "--flow-log-file", &path])?;
    cluster.wait_ready("node1", PATIENCE)?;
    let pods = ["web", "good", "bad"];
    applied(&cluster, &pods.map(pod_object).concat())?;
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
    ensure!(answers(from_good) && answers(from_bad), "without policy");

    // Said before it is done.
    let yaml = cluster.folder("yaml").join("guard.yaml");
    std::fs::write(&yaml, GUARD)?;
    let yaml = yaml.to_string_lossy().into_owned();
    let impact = told(&cluster, &["policy", "impact", "-f", &yaml, "-o", "wide"])?;
    let seen: Vec<&str> = impact.lines().filter(|line| line.contains(" times: ")).collect();
    ensure!(
        seen.iter().any(|line| line.contains("bad")
            && line.contains("tcp/9000")
            && line.contains("allowed -> denied by end of tier default")),
        "{impact}"
    );
    ensure!(!seen.iter().any(|line| line.contains("good")), "{impact}");

    // Nothing is logged until it is switched on.
    let off = cluster.margay_on("node1", &["flows", "--count", "1"])?;
    ensure!(!off.status.success() && said(&off).contains("the flow log is off"), "{}", said(&off));
    ensure!(!file.exists(), "a log that is off");
    applied(&cluster, &flow_log("Enabled"))?;
    wait_logged(&file, Action::Allow, good, web.address)?;

    // Live, while the policy comes.
    let live = cluster.folder("flows").join("live");
    let mut command = std::process::Command::new(cluster.program("margay")?);
    command.args(["flows", "--denied", "--pod", "shop/bad", "--count", "1", "-o", "json", "--socket"]);
    let mut reader = command.arg(cluster.socket("node1")).stdout(File::create(&live)?).spawn()?;
    applied(&cluster, GUARD)?;
    wait(PATIENCE, || Ok(!answers(from_bad))).context("what is denied now is cut")?;
    ensure!(answers(from_good), "what is allowed goes on");
    let ended = wait(PATIENCE, || {
        let _denied = connect(bad, web.address);
        Ok(reader.try_wait()?.is_some())
    });
    let _it_may_have_ended = reader.kill();
    ended.with_context(|| format!("margay flows: {:?}", std::fs::read_to_string(&live)))?;
    let line: Flow = serde_json::from_str(std::fs::read_to_string(&live)?.trim())?;
    ensure!(is(&line, Action::Deny, "shop/bad"), "{line:?}");
    ensure!(line.ingress.as_deref().is_some_and(|by| by.contains("shop/guard")), "{line:?}");
    wait_logged(&file, Action::Deny, bad, web.address)?;
    ensure!(answers(from_good), "still");

    explained(&cluster, web, &yaml)?;

    // Off and on again, on the living agent. Who waits for a flow that nobody has hears of it.
    let mut command = std::process::Command::new(cluster.program("margay")?);
    command.args(["flows", "--pod", "shop/nobody", "--socket"]).arg(cluster.socket("node1"));
    let mut reader = command.stderr(Stdio::piped()).spawn()?;
    applied(&cluster, &flow_log("Disabled"))?;
    let ended = wait(PATIENCE, || Ok(reader.try_wait()?.is_some()));
    let _it_may_have_ended = reader.kill();
    ended.context("who reads the flow log hears that it goes off")?;
    let mut said = String::new();
    reader.stderr.context("piped")?.read_to_string(&mut said)?;
    ensure!(said.contains("flow log"), "{said}");
    let is_off = || -> Result<bool> { Ok(told(&cluster, &["flows", "--count", "1"])?.contains("is off")) };
    wait(PATIENCE, is_off).context("the flow log goes off")?;
    // What nobody wants goes when nothing else is to do.
    wait(PATIENCE, || Ok(!cluster.run_in("node1", "iptables-save", &[])?.contains("NFLOG")))
        .context("rules that log")?;
    let length = || -> Result<u64> { Ok(std::fs::metadata(&file)?.len()) };
    let before = length()?;
    ensure!(connect(bad, web.address).is_err() && connect(good, web.address).is_ok(), "policy is as it was");
    ensure!(length()? == before, "a log that is off");
    std::fs::remove_file(&file)?;
    applied(&cluster, &flow_log("Enabled"))?;
    wait_logged(&file, Action::Deny, bad, web.address)?;
    wait_logged(&file, Action::Allow, good, web.address)?;

    margay(&cluster, &["delete", "networkpolicy", "-n", "shop", "guard"])?;
    wait(PATIENCE, || Ok(connect(bad, web.address).is_ok())).context("without policy again")?;
    // Who has the address next is nobody's old acquaintance.
    let (address, node) = (web.address, cluster.node("node1")?.netns());
    let tracked = || -> Result<usize> {
        let flows = node.run(|| {
            Conntrack::open()?
                .flows(false, |flow| [flow.original.source, flow.original.destination].contains(&address))
        });
        Ok(flows??.len())
    };
    ensure!(answers(from_good) && tracked()? > 0, "a connection that goes on is tracked");
    for pod in added {
        cluster.runtime("node1")?.delete(pod)?;
    }
    wait(PATIENCE, || Ok(tracked()? == 0)).context("connections of a pod that is gone")
}

/// Connections of a pod end with it: what conntrack has accepted would reach whoever has its address next, past policy.
pub(crate) fn an_address_comes_without_its_flows(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(ONE_NODE, Datastore::Embedded)?;
    applied(&cluster, POOL)?;
    cluster.start("node1")?;
    cluster.wait_ready("node1", PATIENCE)?;
    let fixed = "10.65.0.77";
    let web = pod_object("web").replace(
        "namespace: shop,",
        &format!("namespace: shop, annotations: {{cni.projectcalico.org/ipAddrs: '[\"{fixed}\"]'}},"),
    );
    applied(&cluster, &[web, pod_object("good"), pod_object("bad")].concat())?;
    let runtime = cluster.runtime("node1")?;
    let (good, bad) = (runtime.add("shop", "good")?, runtime.add("shop", "bad")?);
    let listen = |pod: &Pod| -> Result<UdpSocket> {
        let socket = pod.netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(socket)
    };
    let mut octet = [0];

    let first = runtime.add("shop", "web")?;
    ensure!(first.address.to_string() == fixed, "the annotation has no effect yet: {}", first.address);
    serve(&first)?;
    wait(PATIENCE, || Ok(connect(&bad, first.address).is_ok())).context("without policy")?;
    let (client, server) = (listen(&bad)?, listen(&first)?);
    wait(PATIENCE, || {
        client.send_to(b"x", (first.address, PORT))?;
        let Ok((_, from)) = server.recv_from(&mut octet) else { return Ok(false) };
        server.send_to(b"y", from)?;
        Ok(client.recv_from(&mut [0]).is_ok())
    })
    .context("without policy")?;
    applied(&cluster, GUARD)?;
    wait(PATIENCE, || Ok(connect(&bad, first.address).is_err())).context("policy")?;
    client.send_to(b"e", (first.address, PORT))?;
    wait(PATIENCE, || Ok(server.recv_from(&mut octet).is_ok() && octet == *b"e"))
        .context("what is established goes on")?;
    drop(server);
    runtime.delete(first)?;

    let second = runtime.add("shop", "web")?;
    ensure!(second.address.to_string() == fixed, "another address: {}", second.address);
    let server = listen(&second)?;
    serve(&second)?;
    for _ in 0..20 {
        client.send_to(b"z", (second.address, PORT))?;
    }
    // What they have sent would have come by now.
    wait(PATIENCE, || Ok(connect(&good, second.address).is_ok())).context("what is allowed")?;
    server.set_nonblocking(true)?;
    ensure!(server.recv_from(&mut octet).is_err(), "a flow of the pod before reaches the next one");
    for pod in [second, good, bad] {
        runtime.delete(pod)?;
    }
    Ok(())
}

/// With the policy in force: what `margay explain` says of it, what goes to and from the node, and the way back.
fn explained(cluster: &Cluster, web: &Pod, guard: &str) -> Result<()> {
    let explain = |from: &str, to: &str, port: &str, more: &[&str]| {
        let arguments = ["explain", "--from", from, "--to", to, "--port", port];
        told(cluster, &[&arguments, more].concat())
    };
    let has = |text: String, words: &[&str]| {
        let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
        ensure!(missing.is_empty(), "{missing:?} in {text}");
        Ok(())
    };
    has(
        explain("shop/good", "shop/web", "tcp/9000", &["-o", "wide", "--verify"])?,
        &[
            "ALLOWED",
            "rule 1 of NetworkPolicy shop/guard",
            "counted",
            "rule 0 (Deny): passed over",
            "as its policies say",
        ],
    )?;
    has(
        explain("shop/bad", "shop/web", "tcp/9000", &["-o", "wide", "--verify"])?,
        &[
            "DENIED",
            "end of tier default",
            "rule 1 (Allow): passed over",
            "the source is not among",
            "DENIED the packet, as",
        ],
    )?;
    has(
        explain("shop/good", "shop/web", "icmp", &["-o", "wide", "--verify"])?,
        &["DENIED", "rule 1 (Allow): passed over, the rule is for tcp", "DENIED the packet, as"],
    )?;
    has(explain("shop/web", "shop/good", "icmp", &["--verify"])?, &["ALLOWED the packet, as"])?;
    has(explain("shop/web", "shop/good", "sctp/9", &["--verify"])?, &["ALLOWED the packet, as"])?;
    has(explain("shop/good", "shop/web", "sctp/9", &["--verify"])?, &["DENIED the packet, as"])?;
    has(
        explain("shop/good", "shop/web", "tcp/9000", &["-f", guard])?,
        &["guard.yaml:9, spec.ingress[1]:\n    action: Allow\n"],
    )?;
    has(
        explain("node:node1", "shop/web", "tcp/9000", &[])?,
        &["ALLOWED", "a node always reaches its own pods"],
    )?;

    let host = "apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: edge, labels: {role: edge}}
spec: {node: node1, interfaceName: eth1}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: edge}
spec: {selector: role == 'edge', order: 1, types: [Ingress], ingress: [{action: Allow, protocol: TCP, destination: {ports: [443]}}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: edge-untracked}
spec: {selector: role == 'edge', doNotTrack: true, applyOnForward: true, ingress: [{action: Deny, protocol: UDP, destination: {ports: [99]}}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: edge-early}
spec: {selector: role == 'edge', preDNAT: true, applyOnForward: true, ingress: [{action: Deny, protocol: TCP, destination: {ports: [30081]}}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: edge-forward}
spec:
  selector: role == 'edge'
  order: 2
  applyOnForward: true
  types: [Ingress]
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [9000]}}, {action: Allow, protocol: TCP, destination: {ports: [443]}}]
";
    let both = format!("{guard}.host");
    std::fs::write(&both, host)?;
    margay(cluster, &["apply", "-f", &both])?;
    let edge = |port| explain("172.30.1.1", "node:node1", port, &["-o", "wide"]);
    has(edge("tcp/443")?, &["ALLOWED", "host endpoint edge", "rule 0 of GlobalNetworkPolicy edge"])?;
    has(edge("tcp/80")?, &["DENIED", "host endpoint edge", "end of tier default", "passed over"])?;
    has(edge("tcp/22")?, &["ALLOWED", "a failsafe port of the node"])?;
    through_node(cluster, web)?;
    margay(cluster, &["delete", "-f", &both])?;

    // The other way: flows that were dropped lately would be let through.
    let open = GUARD.replace("app == 'good'", "all()");
    std::fs::write(&both, open)?;
    let impact = told(cluster, &["policy", "impact", "-f", &both])?;
    ensure!(
        impact
            .lines()
            .any(|line| line.contains(" times: denied -> allowed by rule 1") && line.contains("bad")),
        "{} at {}: {impact}",
        web.full_name(),
        web.address
    );
    Ok(())
}

/// The places of the host endpoint `edge`, whose interface is `eth1`, for packets from outside.
fn through_node(cluster: &Cluster, web: &Pod) -> Result<()> {
    let pod = web.address.to_string();
    let service = format!("{pod}:9000");
    let by: &[&str] = &["--in-interface", "eth1"];
    let to_pod: &[&str] = &[by, &["--dnat-to", &service]].concat();
    let out: &[&str] = &[by, &["--out-interface", "eth0"]].concat();
    for (to, port, way, words) in [
        (
            "node:node1",
            "udp/99",
            by,
            ["DENIED", "edge (doNotTrack): DENIED", "rule 0 of GlobalNetworkPolicy edge-untracked"],
        ),
        (
            "node:node1",
            "tcp/30081",
            to_pod,
            ["DENIED", "edge (preDNAT): DENIED", "rule 0 of GlobalNetworkPolicy edge-early"],
        ),
        ("node:node1", "tcp/30080", to_pod, ["DENIED", "edge (applyOnForward): ALLOWED", "(normal): DENIED"]),
        ("shop/web", "tcp/8080", by, ["DENIED", "edge (applyOnForward): DENIED", "end of tier default"]),
        ("node:node1", "tcp/443", by, ["ALLOWED", "edge (normal): ALLOWED", "in by eth1, for this node"]),
        ("172.30.9.9", "tcp/443", out, ["ALLOWED", "edge (applyOnForward): ALLOWED", "out by eth0"]),
    ] {
        let arguments = ["explain", "--from", "172.30.1.1", "--to", to, "--port", port];
        let mut said = String::new();
        // The node itself is asked: it hears of the policies a moment later.
        wait(PATIENCE, || {
            said = told(cluster, &[&arguments, way].concat())?;
            Ok(words.iter().all(|word| said.contains(word)))
        })
        .with_context(|| format!("{to} {port}: {words:?} in {said}"))?;
    }
    Ok(())
}
