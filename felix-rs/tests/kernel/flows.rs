//! Established flows that a change of policy denies.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use felix_rs::apply::{Cutter, Loose, first_packet};
use felix_rs::model::BackendChoice;
use felix_rs::rules::FLOW_LOG_GROUP;
use felix_rs::verdict::{Packet, Verdict, explain};
use margay_netlink::Error;
use margay_netlink::flows::{Event, FlowEvents};

use crate::lab::{Lab, Pod, UDP_PORT, echo};
use crate::objects::Cluster;
use crate::{Node, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("denied_flows_are_cut", denied_flows_are_cut),
    ("flows_are_told", flows_are_told),
    ("flows_that_nobody_reads_are_missed_visibly", flows_that_nobody_reads_are_missed_visibly),
];

const PATIENCE: Duration = Duration::from_millis(400);

/// A client's UDP socket, which asks from one port again and again.
struct Asker(UdpSocket, SocketAddr);

impl Asker {
    fn new(from: &Pod, to: IpAddr) -> Self {
        let socket = from.netns.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = match to {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self(socket, SocketAddr::from((to, UDP_PORT)))
    }

    fn ask(&self) -> bool {
        self.0.send_to(b"probe", self.1).is_ok() && self.0.recv_from(&mut [0; 64]).is_ok()
    }
}

/// Both ends of a connection to a server of the test's own.
fn connection(from: &Pod, to: &Pod, address: IpAddr) -> (TcpStream, TcpStream) {
    let listener = to.netns.run(|| TcpListener::bind((address, 0))).unwrap().unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = from.connect(address, port).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    (client, server)
}

fn arrives(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    let mut buffer = [0; 5];
    from.write_all(b"hello").is_ok() && to.read_exact(&mut buffer).is_ok()
}

fn policy(clients: &str) -> String {
    format!(
        "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {{name: clients, namespace: b}}
spec: {{types: [Ingress], ingress: [{{action: Allow, source: {{namespaceSelector: \"{clients}\"}}}}]}}
"
    )
}

const LOG: &str = "
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {flowLogsLocalReporter: Enabled}
";

fn denied_flows_are_cut(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let mut cluster = Cluster::of(&lab);
    let mut node = Node::start(&lab, backend);
    node.apply(&cluster.state);
    let note = std::env::temp_dir().join(format!("margay-loose-{}-{backend:?}", std::process::id()));
    let new = || lab.node.netns.run(|| Cutter::new(Loose::noted(note.clone()))).unwrap().unwrap();
    let mut cutter = new();
    assert!(!cutter.is_tight());
    cutter.replace(cluster.state.clone());
    let cut = |cutter: &mut Cutter| lab.node.netns.run(|| cutter.cut()).unwrap().unwrap();
    assert_eq!(cut(&mut cutter), 0, "nothing is denied");

    for address in [b.v4, b.v6] {
        let mut denied = a.connect(address, 8080).unwrap();
        let (mut client, mut server) = connection(a, b, address);
        let mut allowed = c.connect(address, 8080).unwrap();
        let mut back = b.connect(if address.is_ipv4() { a.v4 } else { a.v6 }, 80).unwrap();
        let mut from_node = lab.node.connect(address, 80).unwrap();
        let (asks, may_ask) = (Asker::new(a, address), Asker::new(c, address));
        assert!(asks.ask() && may_ask.ask() && arrives(&mut client, &mut server));

        let delta = cluster.take(&policy("kubernetes.io/metadata.name == 'c'"));
        node.delta(&delta);
        assert!(echo(&mut denied) && asks.ask(), "established flows go on by themselves");
        cutter.change(&delta);
        assert_eq!(cut(&mut cutter), 3, "two of TCP and one of UDP");
        assert!(!asks.ask() && !echo(&mut denied), "cut");
        assert!(!arrives(&mut server, &mut client), "the server's side cannot begin it anew");
        assert!(!arrives(&mut client, &mut server));
        assert!(echo(&mut allowed) && may_ask.ask(), "allowed flows live on");
        assert!(echo(&mut back), "the other direction is another flow");
        assert!(echo(&mut from_node), "the node reaches its own pods");
        assert!(cutter.is_idle());

        // Members of a set alone: a client loses the label that let it in.
        let label = |value: &str| {
            format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: c, labels: {{client: '{value}'}}}}\nspec: {{}}\n"
            )
        };
        for objects in [label("yes"), policy("client == 'yes'")] {
            let delta = cluster.take(&objects);
            node.delta(&delta);
            cutter.change(&delta);
        }
        assert_eq!(cut(&mut cutter), 0);
        assert!(echo(&mut allowed));
        let delta = cluster.take(&label("no"));
        assert!(delta.policies.is_empty());
        node.delta(&delta);
        cutter.change(&delta);
        assert_eq!(cut(&mut cutter), 2);
        assert!(!echo(&mut allowed) && !may_ask.ask(), "no client any more");
        assert!(echo(&mut back) && echo(&mut from_node));

        let delta = cluster.take(&policy("all()"));
        node.delta(&delta);
        cutter.change(&delta);
        assert_eq!(cut(&mut cutter), 0);
    }
    for address in [b.v4, b.v6] {
        assert!(a.tcp(address, 80) && c.udp(address), "new flows begin as ever");
    }
    let loose = || lab.node.sh("cat /proc/sys/net/netfilter/nf_conntrack_tcp_loose");
    assert_eq!(loose(), "0\n");
    drop(cutter);
    let mut cutter = new();
    assert!(cutter.is_tight(), "who comes after another knows what it was");
    lab.node.netns.run(|| cutter.relax()).unwrap().unwrap();
    assert_eq!(loose(), "1\n", "as it was");
    assert!(!note.exists() && !new().is_tight());
    std::fs::write(&note, "1").unwrap();
    assert!(!new().is_tight(), "the kernel began anew since");
    std::fs::remove_file(&note).unwrap();
}

/// What the kernel tells of connections and dropped packets is what the evaluator says of them.
fn flows_are_told(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let mut cluster = Cluster::of(&lab);
    cluster.take(&policy("kubernetes.io/metadata.name == 'c'"));
    cluster.take(LOG);
    let mut node = Node::start(&lab, backend);
    node.apply(&cluster.state);
    let mut events = lab.node.netns.run(|| FlowEvents::open(FLOW_LOG_GROUP)).unwrap().unwrap();
    for address in [b.v4, b.v6] {
        assert!(!a.tcp(address, 80) && !a.udp(address), "denied");
        assert!(c.tcp(address, 80) && c.udp(address), "allowed");
        let mut told = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        let wanted = [(a, 80, true), (a, UDP_PORT, true), (c, 80, false), (c, UDP_PORT, false)];
        while !wanted.iter().all(|wanted| told.contains(&wanted_key(wanted, address))) {
            assert!(Instant::now() < deadline, "only {told:?}");
            let read = events.read(Duration::from_millis(100), |event| {
                let (packet, dropped) = match event {
                    Event::Begun(flow) => (first_packet(&flow), false),
                    Event::Logged(head) => (Packet::parse(head).unwrap(), true),
                };
                let denied = explain(&cluster.state, &packet).verdict == Verdict::Deny;
                assert!(packet.destination != address || denied == dropped, "{packet:?}");
                told.push((packet.source, packet.destination, packet.destination_port, dropped));
            });
            read.unwrap();
        }
    }
    let second = lab.node.netns.run(|| FlowEvents::open(FLOW_LOG_GROUP)).unwrap();
    assert!(second.is_err(), "a group has one owner");
}

/// More packets are dropped than the kernel keeps for a reader that does not read (`ENOBUFS`): it is told so, and what
/// comes then is told again.
fn flows_that_nobody_reads_are_missed_visibly(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let mut cluster = Cluster::of(&lab);
    cluster.take(&policy("kubernetes.io/metadata.name == 'nobody'"));
    cluster.take(LOG);
    let mut node = Node::start(&lab, backend);
    node.apply(&cluster.state);
    let mut events = lab.node.netns.run(|| FlowEvents::open(FLOW_LOG_GROUP)).unwrap().unwrap();
    let socket = a.netns.run(|| UdpSocket::bind((a.v4, 0))).unwrap().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let wait = || assert!(Instant::now() < deadline, "it takes too long");
    let mut missed = false;
    while !missed {
        wait();
        for _ in 0..20_000 {
            // The own queue may be full.
            let _sent = socket.send_to(b"flood", (b.v4, UDP_PORT));
        }
        missed = matches!(events.read(Duration::from_millis(1), |_| ()), Err(Error::Lost { .. }));
    }
    let port = socket.local_addr().unwrap().port() ^ 1;
    let other = a.netns.run(|| UdpSocket::bind((a.v4, port))).unwrap().unwrap();
    let mut told = false;
    while !told {
        wait();
        other.send_to(b"later", (b.v4, UDP_PORT)).unwrap();
        // The rest of the flood is still to be read.
        let _maybe_lost_again = events.read(Duration::from_millis(100), |event| {
            if let Event::Logged(head) = event {
                told |= Packet::parse(head).is_some_and(|packet| packet.source_port == port);
            }
        });
    }
}

fn wanted_key((from, port, dropped): &(&Pod, u16, bool), to: IpAddr) -> (IpAddr, IpAddr, u16, bool) {
    (if to.is_ipv4() { from.v4 } else { from.v6 }, to, *port, *dropped)
}
