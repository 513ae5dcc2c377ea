//! What the fields of Calico's BGP objects do to packets and to what a router outside sees.

use std::net::IpAddr;
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use margay_lab::probe::{Protocol, Stream};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{PORT, Pod};

use crate::labs::{
    Labs, PATIENCE, PROBE_EVERY, applied, margay, none_lost, pod_object, send_more, wait_answered,
    wait_no_problem, wait_problem,
};
use crate::routers::{LAB, NODES, Router, state, steady};

/// With BIRD as the top of rack, of another AS.
const CLUSTER: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: four}
spec: {cidr: 10.65.0.0/16, blockSize: 24}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: bird}
spec: {peerIP: 172.30.1.1, asNumber: 64513}
---
";

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.7
  externalIPs: [192.0.2.7]
  externalTrafficPolicy: Local
status: {loadBalancer: {ingress: [{ip: 198.51.100.7}]}}
";

/// Every address of the service.
const ADDRESSES: [&str; 3] = ["10.96.0.7", "192.0.2.7", "198.51.100.7"];

const RANGES: [&str; 3] = ["10.96.0.0/16", "192.0.2.0/24", "198.51.100.0/24"];

const NODE_ADDRESSES: [&str; 2] = ["172.30.1.11", "172.30.1.12"];

/// BGPConfiguration(default) with the ranges, and what else is to be in it.
fn configuration(more: &str) -> String {
    let [cluster, external, balancer] = RANGES;
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{name: default}}\n\
         spec:\n  serviceClusterIPs: [{{cidr: {cluster}}}]\n  serviceExternalIPs: [{{cidr: {external}}}]\n  \
         serviceLoadBalancerIPs: [{{cidr: {balancer}}}]\n{more}---\n"
    )
}

/// The service's endpoints: where each is, and whether it is ready.
fn slice(endpoints: &[(&str, bool)]) -> String {
    let endpoint = |(node, ready): &(&str, bool)| {
        format!("- {{addresses: [10.65.0.1], nodeName: {node}, conditions: {{ready: {ready}}}}}\n")
    };
    let endpoints: String = endpoints.iter().map(endpoint).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nendpoints:\n{endpoints}"
    )
}

/// The nodes that BIRD has a route to the prefix by.
fn by(cluster: &Cluster, prefix: &str) -> Result<Vec<&'static str>> {
    let control = cluster.folder("bird").join("ctl");
    let control = control.to_string_lossy();
    // Where there is no match it fails.
    let routes = cluster.run_in("bird", "birdc", &["-s", &control, "show", "route", "for", prefix]);
    let routes = routes.unwrap_or_default();
    // `show route for` says the best match, whatever its length.
    let mut own = false;
    let mut nodes = Vec::new();
    for line in routes.lines() {
        let word = line.split_whitespace().next().unwrap_or_default();
        if word.contains('/') {
            own = word == prefix;
        }
        nodes.extend(NODE_ADDRESSES.into_iter().filter(|node| own && line.contains(&format!("via {node} "))));
    }
    nodes.sort_unstable();
    nodes.dedup();
    Ok(nodes)
}

fn wait_by(cluster: &Cluster, prefixes: &[String], nodes: &[&str]) -> Result<()> {
    for prefix in prefixes {
        wait(PATIENCE, || Ok(by(cluster, prefix)? == nodes))
            .with_context(|| format!("BIRD has {prefix} by {nodes:?}: {:?}", by(cluster, prefix)))?;
    }
    Ok(())
}

pub(crate) fn services_are_advertised(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(LAB, Datastore::Embedded)?;
    applied(&cluster, &format!("{CLUSTER}{}{SERVICE}---\n{}", configuration(""), slice(&[("node1", true)])))?;
    services(&mut cluster).with_context(|| state(&cluster))
}

fn services(cluster: &mut Cluster) -> Result<()> {
    let _bird = Router::bird(cluster)?;
    NODES.iter().try_for_each(|node| cluster.start(node))?;
    NODES.iter().try_for_each(|node| cluster.wait_ready(node, PATIENCE))?;
    let hosts = ADDRESSES.map(|address| format!("{address}/32"));
    let ranges = RANGES.map(str::to_owned);
    let [node1, node2] = NODE_ADDRESSES;
    wait_by(cluster, &hosts, &[node1]).context("an endpoint on node1")?;
    wait_by(cluster, &ranges, &[node1, node2])?;
    for address in ADDRESSES {
        let known = cluster.run_in("node2", "ip", &["route", "show", address])?;
        ensure!(known.is_empty(), "node2 finds services by itself, yet its kernel has {known}");
    }

    // What a service proxy does on the node, done by hand: packets from outside reach the endpoint.
    let pods: Vec<Pod> = NODES
        .iter()
        .map(|node| cluster.runtime(node)?.add("shop", &format!("on-{node}")))
        .collect::<Result<_>>()?;
    let [pod, other] = &pods[..] else { anyhow::bail!("two pods") };
    for (node, pod) in NODES.iter().zip(&pods) {
        let to = pod.address.to_string();
        let rule =
            ["-t", "nat", "-A", "PREROUTING", "-d", ADDRESSES[1], "-j", "DNAT", "--to-destination", &to];
        cluster.run_in(node, "iptables", &rule)?;
    }
    let service: IpAddr = ADDRESSES[1].parse()?;
    let stream = steady(cluster, "behind-bird", service)?;
    send_more(&stream, 20)?;
    none_lost(stream)?;

    applied(cluster, &slice(&[("node1", false), ("node2", true)]))?;
    wait_by(cluster, &hosts, &[node2]).context("the endpoint on node1 is not ready")?;
    let stream = steady(cluster, "behind-bird", service)?;
    send_more(&stream, 20)?;
    none_lost(stream)?;

    applied(cluster, &slice(&[("node2", false)]))?;
    wait_by(cluster, &hosts, &[]).context("no endpoint is ready")?;
    wait_by(cluster, &ranges, &[node1, node2])?;

    // Routes with another metric, packets under way.
    wait_answered(pod, other)?;
    let stream = Stream::start(&pod.netns, other.address, Protocol::Udp(PORT), PROBE_EVERY)?;
    let priority = "  ipv4NormalRoutePriority: 77\n  serviceLoadBalancerAggregation: Disabled\n";
    applied(cluster, &configuration(priority))?;
    let to_node2 =
        || cluster.run_in("node1", "ip", &["route", "show", "10.65.0.0/16", "proto", "181", "via", node2]);
    wait(PATIENCE, || {
        let routes = cluster.run_in("node1", "ip", &["route", "show", "proto", "181"])?;
        Ok(!routes.is_empty() && routes.lines().all(|line| line.contains("metric 77")))
    })
    .with_context(|| format!("metric 77: {:?}", to_node2()))?;
    send_more(&stream, 50)?;
    none_lost(stream)?;
    wait_by(cluster, &ranges[2..], &[]).context("load balancers one by one")?;
    wait_by(cluster, &ranges[..2], &[node1, node2])?;

    // Somebody else writes the routes to other nodes.
    applied(cluster, &configuration("  programClusterRoutes: Disabled\n"))?;
    let written = || -> Result<bool> {
        let routes = cluster.run_in("node1", "ip", &["route", "show", "proto", "181"])?;
        Ok(routes.lines().any(|line| line.starts_with("10.65.") && !line.starts_with("blackhole")))
    };
    wait(PATIENCE, || Ok(!written()?)).context("no routes to other nodes")?;
    let why = cluster.margay_on("node1", &["route", "explain", &other.address.to_string()]);
    applied(cluster, &configuration("  programClusterRoutes: EnabledNoEncapOnly\n"))?;
    wait(PATIENCE, written).with_context(|| format!("routes to other nodes: {why:?}"))?;
    wait_answered(pod, other)?;

    applied(
        cluster,
        "apiVersion: projectcalico.org/v3\nkind: Node\n\
         metadata: {name: node1, labels: {node.kubernetes.io/exclude-from-external-load-balancers: 'true'}}\n\
         spec: {bgp: {ipv4Address: 172.30.1.11/24}}\n",
    )?;
    wait_by(cluster, &ranges, &[node2]).context("node1 is excluded")?;
    pods.into_iter().try_for_each(|pod| cluster.runtime(&pod.node.clone())?.delete(pod))
}

/// The pool of all pods, told to nobody unless it is exported.
fn kept(disabled: bool) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: kept}}\n\
         spec: {{cidr: 10.66.0.0/16, blockSize: 24, disableBGPExport: {disabled}}}\n---\n"
    )
}

/// The session with BIRD, with filters or without.
fn with_filters(filters: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: bird}}\n\
         spec: {{peerIP: 172.30.1.1, asNumber: 64513, filters: [{filters}]}}\n---\n\
         apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {{name: let-out}}\n\
         spec: {{exportV4: [{{action: Accept, cidr: 10.66.0.0/16, matchOperator: In}}]}}\n"
    )
}

/// As in Calico, where a session's filters come before the rejection of a pool with `disableBGPExport`.
pub(crate) fn a_filter_lets_out_what_a_pool_keeps(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(LAB, Datastore::Embedded)?;
    applied(&cluster, &(kept(true) + &with_filters("let-out")))?;
    let cluster = &mut cluster;
    let _bird = Router::bird(cluster)?;
    NODES.iter().try_for_each(|node| cluster.start(node))?;
    NODES.iter().try_for_each(|node| cluster.wait_ready(node, PATIENCE))?;
    let pod = cluster.runtime("node1")?.add("shop", "pod")?;
    let block = ipnet::IpNet::new(pod.address, 24)?.trunc().to_string();
    let [node1, _] = NODE_ADDRESSES;
    let blocks = [block.clone()];
    wait_by(cluster, &blocks, &[node1]).context("let out by the filter").with_context(|| state(cluster))?;
    let by_node2 = || cluster.run_in("node2", "ip", &["route", "show", &block]);
    ensure!(by_node2()?.is_empty(), "a node is told what the pool keeps: {}", by_node2()?);

    applied(cluster, &with_filters(""))?;
    wait_by(cluster, &blocks, &[]).context("kept without the filter").with_context(|| state(cluster))?;
    ensure!(by_node2()?.is_empty(), "a node is told what the pool keeps: {}", by_node2()?);

    applied(cluster, &kept(false))?;
    // The other node knows it now, and tells it, too.
    wait_by(cluster, &blocks, &NODE_ADDRESSES).context("exported").with_context(|| state(cluster))?;
    wait(PATIENCE, || Ok(by_node2()?.contains(&format!("via {node1} ")))).with_context(|| state(cluster))?;
    cluster.runtime("node1")?.delete(pod)
}

/// A BGPFilter that takes nothing by interfaces of this name.
fn without(interface: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {{name: ways}}\n\
         spec: {{importV4: [{{action: Reject, interface: '{interface}'}}]}}\n---\n"
    )
}

pub(crate) fn filters_match_interfaces(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(LAB, Datastore::Embedded)?;
    let with_filter = CLUSTER.replace("asNumber: 64513", "asNumber: 64513, filters: [ways]");
    applied(&cluster, &format!("{with_filter}{}", without("eth9")))?;
    let cluster = &mut cluster;
    let _bird = Router::bird(cluster)?;
    cluster.start("node1")?;
    cluster.wait_ready("node1", PATIENCE)?;
    let learned = || -> Result<bool> {
        Ok(!cluster.run_in("node1", "ip", &["route", "show", "10.91.0.0/24"])?.is_empty())
    };
    wait(PATIENCE, learned)
        .context("BIRD's network, by another interface")
        .with_context(|| state(cluster))?;
    applied(cluster, &without("e*1"))?;
    wait(PATIENCE, || Ok(!learned()?))
        .context("BIRD's network, by the interface")
        .with_context(|| state(cluster))?;
    // Another rule is a refresh.
    let ups = || cluster.whole_log("node1").matches("state=Established").count();
    let before = ups();
    applied(cluster, &without("eth1*x"))?;
    wait(PATIENCE, learned)
        .context("BIRD's network, by no such interface")
        .with_context(|| state(cluster))?;
    ensure!(ups() == before, "sessions were reset: {}", cluster.whole_log("node1"));
    Ok(())
}

/// What a pod announces, and what the router outside and other nodes are told of it. The second node reflects, too.
const WORKLOADS: &str = "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {localWorkloadPeeringIPV4: 169.254.0.179, bindMode: NodeIP}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: routers-in-pods}
spec: {nodeSelector: all(), localWorkloadSelector: app == 'router', asNumber: 65010, filters: [by-pods]}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: by-pods}
spec: {importV4: [{action: Accept, interface: 'mgy*'}, {action: Reject}]}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: ways}
spec: {exportV4: [{action: Accept, cidr: 10.99.0.0/24, matchOperator: Equal, source: RemotePeers, asPathPrefix: [65010]}]}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: node2, labels: {hub: ''}}
spec: {bgp: {ipv4Address: 172.30.1.12/24, routeReflectorClusterID: 172.30.1.12}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: hub}
spec: {nodeSelector: all(), peerSelector: has(hub), filters: [ways]}
---
";

/// As [`pod_object`], with others' addresses asked for.
fn router_pod() -> String {
    pod_object("router", "node1").replace(
        "labels:",
        "annotations: {cni.projectcalico.org/allowedSourcePrefixes: '[\"10.99.0.0/24\"]'}, labels:",
    )
}

fn spoofing(value: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\n\
         spec: {{workloadSourceSpoofing: {value}}}\n"
    )
}

/// A process that ends with the case.
struct InPod(Child);

impl Drop for InPod {
    fn drop(&mut self) {
        let _gone = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// What is behind a pod that asks to send for it is answered where the cluster lets pods ask, and nowhere else.
fn behind_the_pod(cluster: &Cluster) -> Result<()> {
    let behind: IpAddr = "10.99.0.1".parse()?;
    let answered = || -> Result<u64> {
        let trial = Stream::start(cluster.node("node2")?.netns(), behind, Protocol::Icmp, PROBE_EVERY)?;
        send_more(&trial, 3)?;
        Ok(trial.stop()?.received)
    };
    let said = wait_problem(cluster, &["node1"], "Pod(shop/router)")?;
    ensure!(said.contains("workloadSourceSpoofing"), "{said}");
    ensure!(answered()? == 0, "an answer with another's address");
    applied(cluster, &spoofing("Any"))?;
    wait_no_problem(cluster, &["node1"], "Pod(shop/router)")?;
    for from in ["node2", "behind-bird"] {
        let stream = steady(cluster, from, behind)?;
        send_more(&stream, 20)?;
        none_lost(stream).with_context(|| format!("from {from} to what is behind the pod"))?;
    }
    applied(cluster, &spoofing("Disabled"))?;
    wait(PATIENCE, || Ok(answered()? == 0)).context("pods may ask no more")?;
    applied(cluster, &spoofing("Any"))
}

pub(crate) fn a_workload_speaks_bgp(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(LAB, Datastore::Embedded)?;
    let with_filter = CLUSTER.replace("asNumber: 64513", "asNumber: 64513, filters: [ways]");
    applied(&cluster, &format!("{with_filter}{WORKLOADS}{}", router_pod()))?;
    let cluster = &mut cluster;
    let _bird = Router::bird(cluster)?;
    NODES.iter().try_for_each(|node| cluster.start(node))?;
    NODES.iter().try_for_each(|node| cluster.wait_ready(node, PATIENCE))?;
    let pod = cluster.runtime("node1")?.add("shop", "router")?;

    let folder = cluster.folder("pod");
    std::fs::create_dir_all(&folder)?;
    let (conf, control) = (folder.join("bird.conf"), folder.join("bird.ctl"));
    let own = pod.address;
    std::fs::write(
        &conf,
        format!(
            "router id {own};\nprotocol device {{}}\nprotocol static {{ ipv4; route 10.99.0.0/24 blackhole; }}\n\
             protocol bgp node {{\n  local {own} as 65010;\n  neighbor 169.254.0.179 as 64512;\n  multihop;\n  \
             connect delay time 1; connect retry time 1; error wait time 1, 2;\n  \
             ipv4 {{ import all; export where source = RTS_STATIC; }};\n}}\n"
        ),
    )?;
    let speaker = pod.netns.run(|| {
        Command::new("ip").args(["address", "add", "10.99.0.1/32", "dev", "lo"]).status()?;
        Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
        Command::new("bird").arg("-f").arg("-c").arg(&conf).arg("-s").arg(&control).spawn()
    })?;
    let speaker = InPod(speaker.context("Debian's bird2")?);
    let [node1, _] = NODE_ADDRESSES;
    let announced = ["10.99.0.0/24".to_owned()];
    wait_by(cluster, &announced, &NODE_ADDRESSES)
        .context("what the pod announces")
        .with_context(|| state(cluster))?;

    let way = cluster.run_in("node1", "ip", &["route", "show", "10.99.0.0/24"])?;
    ensure!(way.contains(&format!("via {own} dev mgy")), "the way to what the pod announces: {way:?}");
    let elsewhere = || cluster.run_in("node2", "ip", &["route", "show", "10.99.0.0/24"]);
    wait(PATIENCE, || Ok(elsewhere()?.contains(&format!("via {node1} "))))
        .with_context(|| format!("the way there from node2: {:?}", elsewhere()))?;
    let listeners = cluster.run_in("node1", "ss", &["-ltnH"])?;
    ensure!(listeners.contains("169.254.0.179:179"), "the pod can dial, too: {listeners}");
    let object = "BGPPeer(routers-in-pods)";
    let said = wait_problem(cluster, &["node1"], object)?;
    ensure!(said.contains("allowSpoofedSourcePrefixes"), "{object}: {said}");
    behind_the_pod(cluster)?;
    wait_no_problem(cluster, &["node1"], object)?;

    // Without the selector no session is left; the address goes with its device, as tunnels do, a while later.
    drop(speaker);
    margay(cluster, &["delete", "bgppeer", "routers-in-pods"])?;
    wait_by(cluster, &announced, &[])?;
    cluster.runtime("node1")?.delete(pod)
}
