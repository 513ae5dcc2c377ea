//! The demo's steps; the end-to-end tests run the same ones and assert.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_control::bgp::{Peer, Route};
use margay_control::status::{Endpoint, IpamStatus};
use margay_lab::probe::{Protocol, Responder, Stream};
use margay_netlink::Netns;

use crate::cluster::{Cluster, Datastore, Role, wait};
use crate::matrix::{From, Matrix, Probe, To, probe_all};
use crate::pods::{PORT, Pod, said};
use crate::report::{Check, Report};

/// The lab.
pub const LAB: &str = "examples/labs/three-nodes.clab.yml";

/// Pool, namespaces and pods.
pub const CLUSTER: &str = "examples/cluster/demo.yaml";

/// The three policies.
pub const POLICIES: &str = "examples/policies/demo.yaml";

/// Pods of [`CLUSTER`]: node, namespace, name.
const PODS: [(&str, &str, &str); 6] = [
    ("node1", "shop", "frontend"),
    ("node1", "shop", "backend"),
    ("node2", "shop", "cache"),
    ("node2", "guest", "visitor"),
    ("node3", "shop", "database"),
    ("node3", "guest", "crawler"),
];

/// Time between two probes of a stream.
const PROBE_EVERY: Duration = Duration::from_millis(5);

/// Longest wait for anything that is not a measurement.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster and its pods.
#[derive(Debug)]
pub struct Scenario {
    /// The cluster.
    pub cluster: Cluster,
    /// Attached pods.
    pub pods: Vec<Pod>,
    /// What answers on the nodes themselves.
    nodes: BTreeMap<String, Responder>,
    /// Kernel state of each node before the first pod.
    before: BTreeMap<String, Footprint>,
}

/// What a node's kernel holds because of pods.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Footprint {
    interfaces: BTreeSet<String>,
    pod_routes: usize,
    rules: usize,
    sets: usize,
}

impl Scenario {
    /// Builds the lab, starts datastore and daemons, applies the pool, waits until all are ready.
    pub fn start(datastore: Datastore, folder: &Path, report: &Report) -> Result<Self> {
        report.step(&format!("building the lab of {LAB} from network namespaces"));
        let mut cluster = Cluster::build(Path::new(LAB), datastore, folder)?;
        if datastore == Datastore::Etcd {
            report.step("starting etcd");
        }
        cluster.start_datastore()?;
        report.step(&format!("margay apply -f {CLUSTER}"));
        wait(PATIENCE, || Ok(cluster.apply(CLUSTER).is_ok()))
            .or_else(|_| cluster.apply(CLUSTER).map(|_| ()))?;
        report.step("starting two route reflectors and three agents");
        cluster.start_all()?;
        for node in cluster.with_role(Role::Reflector).iter().chain(&cluster.with_role(Role::Node)) {
            cluster.wait_ready(node, PATIENCE)?;
        }
        let mut nodes = BTreeMap::new();
        for node in cluster.with_role(Role::Node) {
            let responder = Responder::start(cluster.node(&node)?.netns(), &[PORT])?;
            nodes.insert(node, responder);
        }
        Ok(Self { cluster, pods: Vec::new(), nodes, before: BTreeMap::new() })
    }

    fn agents(&self) -> Vec<String> {
        self.cluster.with_role(Role::Node)
    }

    /// Every agent has a /24, tells both reflectors, and has the others' in its kernel.
    pub fn blocks(&self) -> Result<Vec<Check>> {
        let agents = self.agents();
        wait(PATIENCE, || Ok(self.cluster_routes()?.values().all(|routes| routes.len() == agents.len())))
            .with_context(|| format!("blocks in the kernels: {:#?}", self.cluster_routes()))?;
        // An agent is ready with its first session; what is up in the end is what counts.
        let _late = self.wait_sessions(2);
        let mut checks = Vec::new();
        let kernel = self.cluster_routes()?;
        for node in &agents {
            let ipam: IpamStatus = self.cluster.client(node).get("/v1/ipam")?;
            let blocks: Vec<String> = ipam.blocks.iter().map(|block| block.cidr.to_string()).collect();
            let one = ipam.blocks.len() == 1 && ipam.blocks.iter().all(|block| block.cidr.prefix_len() == 24);
            checks.push(Check::new(format!("{node} claims a /24 of the pool"), blocks.join(" "), one));
            let peers: Vec<Peer> = self.cluster.client(node).get("/v1/bgp/peers")?;
            let up = peers.iter().filter(|peer| peer.state == "Established").count();
            checks.push(Check::new(
                format!("{node} has iBGP sessions with both reflectors"),
                format!("{up} of {} established", peers.len()),
                up == 2 && peers.len() == 2,
            ));
        }
        for reflector in self.cluster.with_role(Role::Reflector) {
            let routes: Vec<Route> = self.cluster.client(&reflector).get("/v1/bgp/routes")?;
            let prefixes: BTreeSet<String> = routes.iter().map(|route| route.prefix.to_string()).collect();
            checks.push(Check::new(
                format!("{reflector} has every node's block"),
                format!("{} of {}", prefixes.len(), agents.len()),
                prefixes.len() == agents.len(),
            ));
        }
        for (node, routes) in &kernel {
            let (tunnelled, rest): (Vec<_>, Vec<_>) =
                routes.iter().partition(|route| route.contains("vxlan.mgy"));
            let plain = rest.iter().filter(|route| route.contains("via")).count();
            let expected = if node == "node3" { (2, 0) } else { (1, 1) };
            checks.push(Check::new(
                format!("{node} reaches the others' blocks plainly in its subnet, by VXLAN beyond"),
                format!("{plain} plain, {} by VXLAN, own block blackholed", tunnelled.len()),
                (tunnelled.len(), plain) == expected,
            ));
        }
        Ok(checks)
    }

    /// Routes of protocol 181 in each agent's kernel.
    fn cluster_routes(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let mut all = BTreeMap::new();
        for node in self.agents() {
            let text = self.cluster.run_in(&node, "ip", &["route", "show", "proto", "181"])?;
            all.insert(node, text.lines().map(str::to_owned).collect());
        }
        Ok(all)
    }

    /// Attaches the pods through the real CNI plugin.
    pub fn attach(&mut self, report: &Report) -> Result<()> {
        for node in self.agents() {
            let footprint = self.footprint(&node)?;
            self.before.insert(node, footprint);
        }
        for (node, namespace, name) in PODS {
            let pod = self.cluster.runtime(node)?.add(namespace, name)?;
            report.step(&format!("margay-cni ADD {namespace}/{name} on {node}: {}", pod.address));
            self.pods.push(pod);
        }
        // Policies of other nodes see a pod once the datastore has told them.
        wait(PATIENCE, || {
            let output = self.cluster.margay(&["get", "workloadendpoints", "-A", "-o", "json"])?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(PODS.iter().all(|(_, _, name)| text.contains(&format!("\"{name}\""))))
        })
        .context("the pods' WorkloadEndpoints in the datastore")?;
        Ok(())
    }

    /// The Kubernetes network model, one line a rule, with the source address the receivers saw.
    pub fn network_model(&self) -> Result<Vec<Check>> {
        let node_of = |pod: &Pod| pod.node.clone();
        let subnet = |node: &str| self.cluster.subnet(node).map(|net| net.trunc());
        let mut checks = Vec::new();
        type Relation = fn(same_node: bool, same_subnet: bool) -> bool;
        let relations: [(&str, Relation); 3] = [
            ("on its node", |same_node, _| same_node),
            ("on other nodes of its subnet", |same_node, same_subnet| !same_node && same_subnet),
            ("in another subnet, through VXLAN", |_, same_subnet| !same_subnet),
        ];
        let names: Vec<String> = self.pods.iter().map(Pod::full_name).collect();
        for (place, wanted) in relations {
            let mut pairs = Vec::new();
            for (from, from_name) in self.pods.iter().zip(&names) {
                for (to, to_name) in self.pods.iter().zip(&names) {
                    let same_subnet = subnet(&from.node)? == subnet(&to.node)?;
                    if from_name != to_name && wanted(node_of(from) == node_of(to), same_subnet) {
                        pairs.push((from_pod(from, from_name), to_pod(to, to_name)));
                    }
                }
            }
            let probes = probe_all(&pairs)?;
            checks.push(self.line(&format!("every pod reaches every pod {place}"), &probes, |probe| {
                Ok(BTreeSet::from([self.pod(&probe.from)?.address]))
            })?);
        }
        let mut pairs = Vec::new();
        for (pod, name) in self.pods.iter().zip(&names) {
            for (node, responder) in &self.nodes {
                let to = To { name: node, address: self.cluster.address(node)?, responder };
                pairs.push((from_pod(pod, name), to));
            }
        }
        let probes = probe_all(&pairs)?;
        checks.push(self.line("every pod reaches every node", &probes, |probe| {
            Ok(BTreeSet::from([self.pod(&probe.from)?.address]))
        })?);
        for (place, local) in [("its own pods", true), ("every pod on other nodes", false)] {
            let mut pairs = Vec::new();
            for node in self.nodes.keys() {
                let netns = self.cluster.node(node)?.netns();
                for (pod, name) in self.pods.iter().zip(&names) {
                    if (pod.node == *node) == local {
                        pairs.push((From { name: node, netns }, to_pod(pod, name)));
                    }
                }
            }
            let probes = probe_all(&pairs)?;
            checks.push(self.line(&format!("every node reaches {place}"), &probes, |probe| {
                self.node_addresses(&probe.from)
            })?);
        }
        Ok(checks)
    }

    /// One rule of the model: all probes answered, and every receiver saw an address of the sender.
    fn line(
        &self,
        rule: &str,
        probes: &[Probe],
        own: impl Fn(&Probe) -> Result<BTreeSet<IpAddr>>,
    ) -> Result<Check> {
        let mut counts: BTreeMap<Protocol, (usize, usize)> = BTreeMap::new();
        let mut wrong = Vec::new();
        for probe in probes {
            let (reached, sent) = counts.entry(probe.protocol).or_default();
            *sent += 1;
            let seen = probe.outcome.source();
            match seen {
                Some(source) if own(probe)?.contains(&source) => *reached += 1,
                Some(source) => wrong.push(format!("{} -> {} seen as {source}", probe.from, probe.to)),
                None => wrong
                    .push(format!("{} -> {} {}: {:?}", probe.from, probe.to, probe.protocol, probe.outcome)),
            }
        }
        let counts: Vec<String> = counts
            .iter()
            .map(|(protocol, (reached, sent))| {
                let name = protocol.to_string().split('/').next().unwrap_or_default().to_uppercase();
                format!("{name} {reached}/{sent}")
            })
            .collect();
        let mut measured = counts.join("  ");
        if wrong.is_empty() {
            measured.push_str(", source unchanged");
        } else {
            measured.push_str(&format!("; {}", wrong.join("; ")));
        }
        Ok(Check::new(rule, measured, wrong.is_empty() && !probes.is_empty()))
    }

    fn pod(&self, name: &str) -> Result<&Pod> {
        let found = self.pods.iter().find(|pod| pod.full_name() == name || pod.name == name);
        found.with_context(|| format!("no pod {name}"))
    }

    /// All addresses of a node: its own, and its tunnel's.
    fn node_addresses(&self, node: &str) -> Result<BTreeSet<IpAddr>> {
        let text = self.cluster.run_in(node, "ip", &["-o", "address", "show"])?;
        let words = text.lines().filter_map(|line| line.split_whitespace().nth(3));
        Ok(words.filter_map(|word| word.split('/').next()?.parse().ok()).collect())
    }

    /// Measures who reaches whom, and compares with what it should be.
    pub fn connectivity(&self, policies: bool) -> Result<(Matrix, Vec<String>)> {
        let expected =
            Matrix::expected(&self.pods, |from, to, protocol| !policies || allowed(from, to, protocol));
        let measured = Matrix::measure(&self.pods)?;
        let differences = measured.differences(&expected);
        Ok((measured, differences))
    }

    /// Applies the policies and waits until every node enforces them.
    pub fn apply_policies(&self) -> Result<String> {
        let said = self.cluster.apply(POLICIES)?;
        let wanted = [("node1", 0), ("node2", 2), ("node3", 2)];
        wait(PATIENCE, || {
            for (node, count) in wanted {
                let endpoints: Vec<Endpoint> = self.cluster.client(node).get("/v1/endpoints")?;
                let policed =
                    endpoints.iter().filter(|endpoint| endpoint.live && !endpoint.policies.is_empty());
                if policed.count() != count {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .with_context(|| format!("the policies on every node: {}", self.describe()))?;
        Ok(said)
    }

    /// `margay explain` names what decides: the text it printed, and the check.
    pub fn explain(&self, from: &str, to: &str, port: &str, words: &[&str]) -> Result<(String, Check)> {
        let arguments = ["explain", "--from", from, "--to", to, "--port", port];
        let output = self.cluster.margay_on("node1", &arguments)?;
        let text = said(&output);
        let missing: Vec<&str> = words.iter().filter(|word| !text.contains(**word)).copied().collect();
        let measured = if missing.is_empty() {
            words.join(", ")
        } else {
            format!("not named: {}; said: {text}", missing.join(", "))
        };
        let rule = format!("explain {from} to {to} {port} names what decides");
        Ok((
            format!("$ margay {}\n{text}", arguments.join(" ")),
            Check::new(rule, measured, missing.is_empty()),
        ))
    }

    /// Kills and restarts reflectors and an agent under probes; not one may be lost.
    pub fn survive(&mut self, report: &Report) -> Result<Vec<Check>> {
        let flows = [
            ("shop/frontend", "shop/cache", Protocol::Udp(PORT)),
            ("shop/cache", "shop/frontend", Protocol::Icmp),
            ("shop/frontend", "guest/crawler", Protocol::Udp(PORT)),
            ("shop/database", "shop/backend", Protocol::Udp(PORT)),
            ("shop/database", "shop/cache", Protocol::Icmp),
            ("shop/backend", "guest/visitor", Protocol::Icmp),
        ];
        let mut streams = Vec::new();
        for (from, to, protocol) in flows {
            let target = self.pod(to)?.address;
            let stream = Stream::start(&self.pod(from)?.netns, target, protocol, PROBE_EVERY)?;
            streams.push((format!("{from} to {to}, {protocol}"), stream));
        }
        let more = |streams: &[(String, Stream)]| {
            let reached: Vec<u64> = streams.iter().map(|(_, stream)| stream.sent() + 100).collect();
            wait(PATIENCE, || {
                Ok(streams.iter().zip(&reached).all(|((_, stream), goal)| stream.sent() >= *goal))
            })
        };
        more(&streams)?;
        for (reflector, left) in [("rr1", 1), ("rr2", 0)] {
            report.step(&format!("kill -9 {reflector}"));
            self.cluster.kill(reflector)?;
            self.wait_sessions(left)?;
            more(&streams)?;
        }
        for reflector in ["rr1", "rr2"] {
            report.step(&format!("starting {reflector} again"));
            self.cluster.start(reflector)?;
        }
        self.wait_sessions(2)?;
        more(&streams)?;
        report.step("restarting the agent of node1");
        self.cluster.stop("node1")?;
        more(&streams)?;
        self.cluster.start("node1")?;
        self.cluster.wait_ready("node1", PATIENCE)?;
        self.wait_sessions(2)?;
        more(&streams)?;
        let mut checks = Vec::new();
        for (name, stream) in streams {
            let outcome = stream.stop()?;
            let lost = outcome.sent - outcome.received;
            let measured = format!("{} probes, {lost} lost", outcome.sent);
            checks.push(Check::new(name, measured, lost == 0 && outcome.sent > 0));
        }
        let known = self.cluster_routes()?.values().all(|routes| routes.len() == self.agents().len());
        checks.push(Check::new("every node has every block again", if known { "yes" } else { "no" }, known));
        Ok(checks)
    }

    /// Waits until every agent has so many sessions, and none is kept stale when all are back.
    fn wait_sessions(&self, count: usize) -> Result<()> {
        let agents = self.agents();
        wait(PATIENCE, || {
            for node in &agents {
                let peers: Vec<Peer> = self.cluster.client(node).get("/v1/bgp/peers")?;
                let up = peers.iter().filter(|peer| peer.state == "Established").count();
                let stale: u64 = peers.iter().map(|peer| peer.stale).sum();
                // With both reflectors nothing is left of a mesh that the nodes began with.
                if up != count || (count == 2 && (stale > 0 || peers.len() != count)) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .with_context(|| format!("{count} BGP sessions on every agent"))
    }

    /// Deletes the pods; nothing of them is left.
    pub fn detach(&mut self, report: &Report) -> Result<Vec<Check>> {
        for pod in std::mem::take(&mut self.pods) {
            report.step(&format!("margay-cni DEL {}", pod.full_name()));
            let node = pod.node.clone();
            self.cluster.runtime(&node)?.delete(pod)?;
        }
        let agents = self.agents();
        let clean = |scenario: &Self| -> Result<bool> {
            for node in &agents {
                if Some(&scenario.footprint(node)?) != scenario.before.get(node) {
                    return Ok(false);
                }
            }
            let output = scenario.cluster.margay(&["get", "workloadendpoints", "-A", "-o", "json"])?;
            Ok(PODS.iter().all(|(_, _, name)| !said(&output).contains(&format!("\"{name}\""))))
        };
        // Rules and sets go a moment after the answer; how long is not the question here.
        let _late = wait(PATIENCE, || clean(self));
        let mut checks = Vec::new();
        for node in &agents {
            let ipam: IpamStatus = self.cluster.client(node).get("/v1/ipam")?;
            let used = ipam.addresses.iter().filter(|address| address.pod.is_some()).count();
            checks.push(Check::new(format!("{node}: addresses of pods"), used.to_string(), used == 0));
            let before = self.before.get(node).context("no footprint")?;
            let now = self.footprint(node)?;
            let interfaces = now.interfaces.len();
            checks.push(Check::new(
                format!("{node}: interfaces and routes of pods"),
                format!("{interfaces} and {}", now.pod_routes),
                interfaces == 0 && now.pod_routes == 0,
            ));
            checks.push(Check::new(
                format!("{node}: rules and sets as before the first pod"),
                format!("{} and {}, were {} and {}", now.rules, now.sets, before.rules, before.sets),
                (now.rules, now.sets) == (before.rules, before.sets),
            ));
        }
        let output = self.cluster.margay(&["get", "workloadendpoints", "-A", "-o", "json"])?;
        let left = PODS.iter().filter(|(_, _, name)| said(&output).contains(&format!("\"{name}\""))).count();
        checks.push(Check::new("WorkloadEndpoints in the datastore", left.to_string(), left == 0));
        Ok(checks)
    }

    fn footprint(&self, node: &str) -> Result<Footprint> {
        let links = self.cluster.run_in(node, "ip", &["-o", "link", "show"])?;
        let names = links.lines().filter_map(|line| line.split(':').nth(1)).map(str::trim);
        let interfaces = names.filter(|name| name.starts_with("mgy")).map(str::to_owned).collect();
        let routes = self.cluster.run_in(node, "ip", &["route", "show", "proto", "180"])?;
        let rules = self.cluster.run_in(node, "iptables-save", &[])?;
        let sets = self.cluster.run_in(node, "ipset", &["list", "-n"])?;
        Ok(Footprint {
            interfaces,
            pod_routes: routes.lines().count(),
            rules: rules.lines().filter(|line| line.contains("mgy")).count(),
            sets: sets.lines().filter(|line| line.starts_with("mgy")).count(),
        })
    }

    /// What every agent says of itself and its endpoints, for the message of a failed step.
    fn describe(&self) -> String {
        let describe = |node: &String| {
            let status = self.cluster.status(node);
            let endpoints = self.cluster.client(node).get::<Vec<Endpoint>>("/v1/endpoints");
            format!("\n{node}: {status:#?}\n{endpoints:#?}\n{}", self.cluster.log(node))
        };
        self.agents().iter().map(describe).collect()
    }

    /// A node's network namespace.
    pub fn netns(&self, node: &str) -> Result<&Netns> {
        let node = self.cluster.node(node)?;
        ensure!(!node.topology().name.is_empty(), "a node without a name");
        Ok(node.netns())
    }
}

fn from_pod<'a>(pod: &'a Pod, name: &'a str) -> From<'a> {
    From { name, netns: &pod.netns }
}

fn to_pod<'a>(pod: &'a Pod, name: &'a str) -> To<'a> {
    To { name, address: pod.address, responder: &pod.responder }
}

/// What the three policies of [`POLICIES`] mean, written down by hand.
fn allowed(from: &Pod, to: &Pod, protocol: Protocol) -> bool {
    let tcp = matches!(protocol, Protocol::Tcp(_));
    let egress = from.namespace != "guest" || (tcp && to.name == "frontend");
    let ingress = match to.name.as_str() {
        "database" => tcp && from.name == "backend",
        "cache" => !tcp && from.namespace == "shop",
        _ => true,
    };
    egress && ingress
}
