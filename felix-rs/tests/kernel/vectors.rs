//! cyclonus' truth table with real packets: TCP, UDP and SCTP between the pods of every case.
//!
//! One lab lives through all cases; only policy, labels and namespaces change. A probe is the first packet of a flow, as a
//! raw socket sends it. All of a batch are sent on one processor, a packet that nothing denies behind them: packets
//! queue per processor, so once that one has crossed the node, every other has arrived or never will.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use felix_rs::calc::Calculator;
use felix_rs::model::BackendChoice;
use felix_rs::verdict::{Packet, SCTP, TCP, UDP};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Host, Lab, wire};
use crate::truth::{Cluster, Pod, Step, cases};
use crate::{Node, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[("every_case_of_cyclonus", every_case_of_cyclonus)];

/// Longest wait for a packet that must arrive.
const PATIENCE: Duration = Duration::from_secs(60);
/// Packets sent before they are looked for: fewer than any queue on the way holds.
const BATCH: usize = 64;
const PROTOCOLS: [u8; 3] = [TCP, UDP, SCTP];
/// Pods that no policy of a case selects.
const MARKERS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 242, 101), Ipv4Addr::new(192, 168, 242, 102)];

/// Protocol, source, destination, source port, destination port.
type Flow = (u8, Ipv4Addr, Ipv4Addr, u16, u16);

/// A pod's namespace with a raw socket for each protocol.
struct Prober {
    _host: Host,
    sockets: BTreeMap<u8, Socket>,
}

impl Prober {
    fn new(node: &Host, pod: &Pod) -> Self {
        let host = Host::new();
        let IpAddr::V4(v4) = pod.ip else { panic!("{} is not of IPv4", pod.ip) };
        let last = v4.octets()[3];
        let v6 = format!("fd00::{last}").parse().unwrap();
        wire(node, &host, &pod.interface(), pod.ip, v6);
        // No packet waits for a neighbour: one behind it would overtake it.
        let interface = pod.interface();
        let mac = host.sh("ip -brief link show eth0 | awk '{print $3}'");
        let mac = mac.trim();
        node.sh(&format!("ip neighbour replace {v4} lladdr {mac} dev {interface} nud permanent"));
        let socket = |protocol: u8| {
            let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(protocol))));
            let socket = host.netns.run(open).unwrap().unwrap();
            socket.set_nonblocking(true).unwrap();
            (protocol, socket)
        };
        let sockets = PROTOCOLS.map(socket).into();
        Self { _host: host, sockets }
    }

    /// Flows of the packets that have arrived.
    fn arrived(&self) -> Vec<Flow> {
        let mut flows = Vec::new();
        for (protocol, socket) in &self.sockets {
            let mut buffer = [0; 128];
            while let Ok(length) = (&*socket).read(&mut buffer) {
                let header = usize::from(buffer[0] & 0xf) * 4;
                assert!(length >= header + 4);
                let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&buffer[at..at + 4]).unwrap());
                let port = |at: usize| u16::from_be_bytes([buffer[header + at], buffer[header + at + 1]]);
                flows.push((*protocol, address(12), address(16), port(0), port(2)));
            }
        }
        flows
    }
}

/// The first packet of a flow, without its IP header.
fn first_packet((protocol, source, destination, from, to): Flow) -> Vec<u8> {
    let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
    match protocol {
        TCP => {
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
            let length = u8::try_from(bytes.len()).unwrap();
            let pseudo =
                [source.octets().as_slice(), &destination.octets(), &[0, TCP, 0, length], &bytes].concat();
            bytes[16..18].copy_from_slice(&internet_checksum(&pseudo).to_be_bytes());
        }
        // A checksum of 0 is none.
        UDP => bytes.extend([0, 8, 0, 0]),
        _ => {
            let init = [1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1];
            bytes.extend([0; 8]);
            bytes.extend(init);
            let checksum = crc32c(&bytes);
            bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        }
    }
    bytes
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// Stays on one processor.
fn pin() {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap()).unwrap();
    let mut one = CpuSet::new();
    one.set(first).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
}

/// All pods of all cases by address.
struct Probers(BTreeMap<Ipv4Addr, Prober>);

impl Probers {
    fn send(&self, flow: Flow) {
        let (protocol, source, destination, ..) = flow;
        let to = SocketAddrV4::new(destination, 0).into();
        self.0[&source].sockets[&protocol].send_to(&first_packet(flow), &to).unwrap();
    }

    /// Which of these flows' packets arrive.
    fn probe(&self, flows: &[Flow], marker: u16) -> BTreeSet<Flow> {
        let mut arrived = BTreeSet::new();
        for (number, batch) in (0..).zip(flows.chunks(BATCH)) {
            batch.iter().for_each(|flow| self.send(*flow));
            let last = (UDP, MARKERS[0], MARKERS[1], marker, number);
            self.send(last);
            let socket = &self.0[&MARKERS[1]].sockets[&UDP];
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.peek(&mut [MaybeUninit::uninit(); 64]).expect("a packet that nothing denies arrives");
            socket.set_nonblocking(true).unwrap();
            arrived.extend(self.0.values().flat_map(Prober::arrived));
            assert!(arrived.contains(&last));
        }
        arrived
    }
}

fn v4(address: IpAddr) -> Ipv4Addr {
    let IpAddr::V4(v4) = address else { panic!("{address} is not of IPv4") };
    v4
}

fn flow(packet: &Packet, source_port: u16) -> Flow {
    (packet.protocol, v4(packet.source), v4(packet.destination), source_port, packet.destination_port)
}

/// What differs between the table and the packets of a step.
fn differences(step: &Step, probers: &Probers, source_port: u16) -> Vec<String> {
    let wanted: Vec<(Flow, bool)> =
        step.probes().map(|(probe, packet)| (flow(&packet, source_port), probe.allowed)).collect();
    let flows: Vec<Flow> = wanted.iter().map(|(flow, _)| *flow).collect();
    let probing = || {
        pin();
        probers.probe(&flows, source_port)
    };
    let arrived = std::thread::scope(|scope| scope.spawn(probing).join().unwrap());
    let wrong = wanted.iter().filter(|(flow, allowed)| arrived.contains(flow) != *allowed);
    wrong.map(|(flow, allowed)| format!("{flow:?}: allowed {allowed}")).collect()
}

fn every_case_of_cyclonus(backend: BackendChoice) {
    let lab = Lab::new(&[]);
    let mut node = Node::start(&lab, backend);
    let mut cluster = Cluster::new(Calculator::new("node"), Pod::endpoint);
    cluster.add(&json!({
        "apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration",
        "metadata": {"name": "default"}, "spec": {"ipv6Support": false},
    }));
    cluster.add(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "marker"}}));
    let mut probers = Probers(BTreeMap::new());
    for (name, address) in ["from", "to"].into_iter().zip(MARKERS) {
        let pod = Pod::bare("marker", name, address.into());
        cluster.add(&pod.endpoint());
        probers.0.insert(address, Prober::new(&lab.node, &pod));
    }
    let (mut source_port, mut probes) = (10_000, 0);
    let mut wrong = Vec::new();
    for case in cases() {
        for step in &case.steps {
            for pod in &step.pods {
                probers.0.entry(v4(pod.ip)).or_insert_with(|| Prober::new(&lab.node, pod));
            }
            node.delta(&cluster.go_to(step));
            // Flows of this step have been seen in no other.
            source_port += 1;
            probes += step.probes().count();
            let found = differences(step, &probers, source_port);
            wrong.extend(found.into_iter().map(|text| format!("case {}: {text}", case.id)));
        }
    }
    assert!(probes > 100_000, "{probes} probes");
    assert!(
        wrong.is_empty(),
        "{} of {probes} probes differ: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(20)]
    );
}
