//! Calico's features as its documentation has them, one row for each promise: objects as people write them, and what real
//! packets do then.
//!
//! A row's `page` is under `docs.tigera.io/calico/latest/reference/resources/` unless it says more; what comes behind the
//! comma is the field. Every packet between pods is judged by the evaluator too.

mod hosts;
mod policies;
mod rules;

use std::io::Read as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use felix_rs::model::{BackendChoice, EndpointId};
use felix_rs::verdict::{ICMP, Packet, Passage, TCP, UDP, Verdict, pass};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Host, Lab, NODE, NODE_UPLINK, OUTSIDE, UDP_PORT};
use crate::objects::Cluster;
use crate::{Node, Scenario, infix};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("features_of_rules", |backend| check(backend, rules::ROWS)),
    ("features_of_policies", |backend| check(backend, policies::ROWS)),
    ("features_of_host_endpoints", |backend| check(backend, hosts::ROWS)),
];

/// One promise of the documentation.
pub(crate) struct Row {
    /// Page and field it comes from.
    page: &'static str,
    /// The promise.
    says: &'static str,
    /// One object a line: `Kind namespace/name label=value… {spec}`.
    objects: &'static str,
    /// `from>to: +tcp/80 -udp`, more behind a semicolon. `+` gets through, `-` does not; protocols: `tcp/80`, `udp` (port
    /// 53), `ping`, `icmp/13` (type), `ip/253` (protocol number). `b6` is the IPv6 address of `b`.
    packets: &'static str,
}

/// What is there in every row: pods `a`, `b` and `c`, each in the namespace of its name. All answer on TCP 80 and 8080
/// and on UDP 53. The node translates TCP 3000 to port 80 of `a`.
const BASE: &str = "
    Namespace a env=dev team=red
    Namespace b env=prod
    Namespace c env=dev team=blue
    ServiceAccount a/client trust=high
    ServiceAccount b/server trust=high
    ServiceAccount c/client trust=low
    WorkloadEndpoint a/a role=client {node: node, orchestrator: k8s, pod: a, endpoint: eth0, interfaceName: mgya, \
        ipNetworks: [10.0.0.2/32, 'fd00::2/128'], serviceAccountName: client, profiles: [kns.a, ksa.a.client]}
    WorkloadEndpoint b/b role=server {node: node, orchestrator: k8s, pod: b, endpoint: eth0, interfaceName: mgyb, \
        ipNetworks: [10.0.0.3/32, 'fd00::3/128'], serviceAccountName: server, profiles: [kns.b, ksa.b.server], \
        ports: [{name: web, protocol: TCP, port: 80}]}
    WorkloadEndpoint c/c role=server {node: node, orchestrator: k8s, pod: c, endpoint: eth0, interfaceName: mgyc, \
        ipNetworks: [10.0.0.4/32, 'fd00::4/128'], serviceAccountName: client, profiles: [kns.c, ksa.c.client], \
        ports: [{name: web, protocol: TCP, port: 8080}, {name: web, protocol: UDP, port: 53}]}
    Node node {addresses: [{address: 192.0.2.1}]}
    Node far role=control {addresses: [{address: 192.0.2.2}]}
    IPPool pods {cidr: 10.0.0.0/16}
";

/// Objects in full, from one line each.
fn objects(lines: &str) -> String {
    lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(object).collect()
}

fn object(line: &str) -> String {
    let (head, body) = line.split_at(line.find('{').unwrap_or(line.len()));
    let mut words = head.split_whitespace();
    let (kind, name) = (words.next().unwrap(), words.next().unwrap());
    let labels: Vec<String> = words.map(|label| label.replacen('=', ": ", 1)).collect();
    let (api, kind) = match kind {
        "Namespace" | "ServiceAccount" => ("v1", kind),
        "KubernetesNetworkPolicy" => ("networking.k8s.io/v1", "NetworkPolicy"),
        "ClusterNetworkPolicy" => ("policy.networking.k8s.io/v1alpha2", kind),
        "EndpointSlice" => ("discovery.k8s.io/v1", kind),
        _ => ("projectcalico.org/v3", kind),
    };
    let name = match name.split_once('/') {
        Some((namespace, name)) => format!("namespace: {namespace}, name: {name}"),
        None => format!("name: {name}"),
    };
    // An EndpointSlice has no spec.
    let body = match kind {
        _ if body.is_empty() => String::new(),
        "EndpointSlice" => format!(", {}", body.trim_start_matches('{').trim_end_matches('}')),
        _ => format!(", spec: {body}"),
    };
    let labels = labels.join(", ");
    format!("---\n{{apiVersion: {api}, kind: {kind}, metadata: {{{name}, labels: {{{labels}}}}}{body}}}\n")
}

/// A packet and what is to become of it.
struct Probe<'a> {
    text: String,
    from: &'a Host,
    to: &'a Host,
    addresses: [IpAddr; 2],
    protocol: &'a str,
    allowed: bool,
}

fn probes<'a>(lab: &'a Lab, packets: &'a str) -> Vec<Probe<'a>> {
    let mut probes = Vec::new();
    for group in packets.split(';') {
        let (ends, flows) = group.trim().split_once(": ").unwrap();
        let (from, to) = ends.split_once('>').unwrap();
        let is_v6 = to.ends_with('6');
        let (source, from_at) = party(lab, from, is_v6, to);
        let (target, to_at) = party(lab, to.trim_end_matches('6'), is_v6, from);
        for flow in flows.split_whitespace() {
            let (sign, protocol) = flow.split_at(1);
            let (text, allowed) = (format!("{ends} {protocol}"), sign == "+");
            let addresses = [from_at, to_at];
            probes.push(Probe { text, from: source, to: target, addresses, protocol, allowed });
        }
    }
    probes
}

/// A party's namespace, and its address towards the other.
fn party<'a>(lab: &'a Lab, name: &str, is_v6: bool, other: &str) -> (&'a Host, IpAddr) {
    match name {
        "out" => (&lab.outside, OUTSIDE),
        "node" if other == "out" => (&lab.node, NODE_UPLINK),
        "node" => (&lab.node, NODE),
        pod => (lab.pod(pod), if is_v6 { lab.pod(pod).v6 } else { lab.pod(pod).v4 }),
    }
}

impl Probe<'_> {
    fn passes(&self) -> bool {
        let to = self.addresses[1];
        match self.protocol.split_once('/') {
            Some(("tcp", port)) => self.from.tcp(to, port.parse().unwrap()),
            Some(("icmp", kind)) => self.raw(ICMP, kind.parse().unwrap()),
            Some(("ip", number)) => self.raw(number.parse().unwrap(), 0),
            _ if self.protocol == "udp" => self.from.udp(to),
            _ => self.from.ping(to),
        }
    }

    /// Whether a packet with a protocol number, or of an ICMP type, arrives.
    fn raw(&self, protocol: u8, kind: u8) -> bool {
        let open = |host: &Host| {
            let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(protocol))));
            host.netns.run(open).unwrap().unwrap()
        };
        let (mut ear, mouth) = (open(self.to), open(self.from));
        ear.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        static NUMBER: AtomicU16 = AtomicU16::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut packet = [0; 20];
        packet[0] = kind;
        packet[4..6].copy_from_slice(&number.to_be_bytes());
        let sum: u32 = packet.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        packet[2..4].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
        let arrives = || {
            mouth.send_to(&packet, &std::net::SocketAddr::new(self.addresses[1], 0).into()).unwrap();
            let deadline = Instant::now() + Duration::from_millis(400);
            while Instant::now() < deadline {
                let mut heard = [0; 128];
                if ear.read(&mut heard).is_ok_and(|length| heard[..length].ends_with(&packet)) {
                    return true;
                }
            }
            false
        };
        self.from.asks(arrives)
    }

    /// What the evaluator says of a packet between pods.
    fn judged(&self, cluster: &Cluster) -> Option<bool> {
        let [from, to] = self.addresses;
        let interface = |address: IpAddr| {
            let mut pods =
                cluster.state.endpoints.iter().filter(|(id, _)| matches!(id, EndpointId::Workload { .. }));
            pods.find(|(_, own)| own.addresses.contains(&address)).map(|(_, own)| Arc::clone(&own.interface))
        };
        let (incoming, outgoing) = (Some(interface(from)?), Some(interface(to)?));
        let packet = match self.protocol.split_once('/') {
            Some(("tcp", port)) => Packet::to_port(from, to, TCP, port.parse().unwrap()),
            Some(("icmp", kind)) => {
                Packet { icmp: Some((kind.parse().unwrap(), 0)), ..Packet::echo(from, to) }
            }
            Some(("ip", number)) => Packet::to_port(from, to, number.parse().unwrap(), 0),
            _ if self.protocol == "udp" => Packet::to_port(from, to, UDP, UDP_PORT),
            _ => Packet::echo(from, to),
        };
        let passage = Passage { packet, incoming, outgoing, rewritten: None };
        Some(pass(&cluster.state, &passage).verdict == Verdict::Allow)
    }
}

fn check(backend: BackendChoice, rows: &[Row]) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (v, a) = (infix(backend), lab.pod("a").v4);
    lab.node.sh(&format!(
        "iptables-{v} -t nat -A PREROUTING -p tcp --dport 3000 -d {NODE_UPLINK} -j DNAT --to-destination {a}:80"
    ));
    let mut cluster = Cluster::of(&lab);
    cluster.take(&objects(BASE));
    let mut node = Node::start(&lab, backend);
    node.apply(&cluster.state);
    let untouched = cluster.state.clone();
    let mut wrong = Vec::new();
    for Row { page, says, objects: lines, packets } in rows {
        let objects = objects(lines);
        node.delta(&cluster.take(&objects));
        let probes = probes(&lab, packets);
        // What is denied takes its time: all at once.
        let passed: Vec<bool> = std::thread::scope(|scope| {
            let running: Vec<_> = probes.iter().map(|probe| scope.spawn(|| probe.passes())).collect();
            running.into_iter().map(|probe| probe.join().unwrap()).collect()
        });
        for (probe, passed) in probes.iter().zip(passed) {
            let judged = probe.judged(&cluster).unwrap_or(passed);
            if passed != probe.allowed || judged != probe.allowed {
                let Probe { text, allowed, .. } = probe;
                wrong.push(format!(
                    "{page}: {says}: {text}: wanted {allowed}, kernel {passed}, evaluator {judged}"
                ));
            }
        }
        node.delta(&cluster.forget(&objects));
        node.delta(&cluster.take(&self::objects(BASE)));
        assert!(cluster.state == untouched, "{page}: {says}: something stays behind");
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}
