//! What packets between pods cost, with policy on, beside the same by hand: veth pairs, host routes, and a VXLAN device.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use felix_rs::apply::FlowTable;
use margay_api::{FelixConfiguration, GlobalNetworkPolicy, IpPool, Metadata};
use margay_netlink::{Netlink, Netns};
use serde_json::json;

use super::plugin::{PATIENCE, Plugin, fill, pool_spec, start_agent};
use super::{Goal, Line, Programs};
use crate::fib::{AGENT, Agent, REFLECTOR, lab};
use crate::policy::{Folder, sh, wire};
use crate::scenario::quantile;

const PORT: u16 = 5001;

/// Time of one stream.
const STREAM: Duration = Duration::from_millis(400);

/// Requests and answers of one round.
const EXCHANGES: usize = 2_000;

/// How the labs' nodes call the interface between them.
const UPLINK: &str = "eth0";

/// Room for packets inside the tunnel.
const TUNNEL_MTU: u32 = 1450;

/// How pods of two nodes are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Routed,
    Vxlan,
    /// A bridge on each node, joined by VXLAN, as flannel does it.
    Bridged,
}

/// Two nodes; two pods on the first, one on the other.
struct Site {
    nodes: [Netns; 2],
    pods: [Netns; 3],
    addresses: [Ipv4Addr; 3],
    _agents: Vec<Agent>,
    _folder: Option<Folder>,
}

/// One figure of a way.
type Measure<'a> = fn(&Way<'a>) -> Result<f64>;

/// From the first pod of a site to another.
#[derive(Clone, Copy)]
struct Way<'a> {
    client: &'a Netns,
    server: &'a Netns,
    to: Ipv4Addr,
}

pub(super) fn measure(programs: &Programs<'_>, rounds: usize) -> Result<Vec<Line>> {
    let ours = [Site::margay(programs, Kind::Routed, false)?, Site::margay(programs, Kind::Vxlan, false)?];
    let offloaded = if has_flow_table()? {
        vec![Site::margay(programs, Kind::Routed, true)?, Site::margay(programs, Kind::Vxlan, true)?]
    } else {
        println!(
            "  this kernel has no flow table (CONFIG_NF_FLOW_TABLE): `cargo xtask vm bench pod --only traffic`"
        );
        Vec::new()
    };
    let by_hand = [Site::by_hand(Kind::Routed)?, Site::by_hand(Kind::Vxlan)?];
    let flannel = Site::by_hand(Kind::Bridged)?;
    let tracked = Site::by_hand(Kind::Routed)?.tracked()?;
    let mut pairs = vec![
        ("same node", ours[0].way(1), by_hand[0].way(1), true),
        ("cross node", ours[0].way(2), by_hand[0].way(2), true),
        ("VXLAN", ours[1].way(2), by_hand[1].way(2), true),
    ];
    if let [routed, vxlan] = offloaded.as_slice() {
        pairs.extend([
            ("flow table, same node", routed.way(1), by_hand[0].way(1), true),
            ("flow table, cross node", routed.way(2), by_hand[0].way(2), true),
            ("flow table, VXLAN", vxlan.way(2), by_hand[1].way(2), true),
        ]);
    }
    pairs.extend([
        ("flannel's bridge and VXLAN", flannel.way(2), by_hand[1].way(2), false),
        // No stateful policy costs less: what is beyond it is ours.
        ("conntrack alone, same node", tracked.way(1), by_hand[0].way(1), false),
        ("conntrack alone, cross node", tracked.way(2), by_hand[0].way(2), false),
    ]);
    for (name, ours, theirs, _) in &pairs {
        ours.wait().with_context(|| format!("{name}, ours"))?;
        theirs.wait().with_context(|| format!("{name}, by hand"))?;
    }
    let mut lines = Vec::new();
    let kinds: [(&str, &str, Measure<'_>, Goal); 2] = [
        ("TCP", "Gbit/s", Way::stream, Goal::AtLeast(0.97)),
        ("TCP_RR", "us", Way::exchanges, Goal::AtMost(1.03)),
    ];
    for (kind, unit, one, goal) in kinds {
        let mut figures = vec![(Vec::new(), Vec::new()); pairs.len()];
        for round in 0..rounds {
            for ((_, ours, theirs, _), (mine, others)) in pairs.iter().zip(&mut figures) {
                // Who comes first has no advantage of it.
                if round % 2 == 0 {
                    mine.push(one(ours)?);
                    others.push(one(theirs)?);
                } else {
                    others.push(one(theirs)?);
                    mine.push(one(ours)?);
                }
            }
        }
        for ((name, _, _, counts), (mine, others)) in pairs.iter().zip(&figures) {
            let ratios: Vec<f64> = mine.iter().zip(others).map(|(mine, other)| mine / other).collect();
            let pair = (quantile(mine, 0.5), quantile(others, 0.5));
            lines.push(Line::ratio(
                format!("{kind}, {name}"),
                unit,
                pair,
                quantile(&ratios, 0.5),
                counts.then_some(goal),
            ));
        }
    }
    Ok(lines)
}

impl Site {
    fn bare() -> Result<([Netns; 2], [Netns; 3])> {
        let (one, other) = lab()?;
        for node in [&one, &other] {
            sh(node, "sysctl -qw net.ipv4.ip_forward=1")?;
        }
        Ok(([one, other], [Netns::new()?, Netns::new()?, Netns::new()?]))
    }

    /// The real programs, with a policy on all pods; established flows pass by the flow table if they are to be `offloaded`.
    fn margay(programs: &Programs<'_>, kind: Kind, offloaded: bool) -> Result<Self> {
        let (nodes, pods) = Self::bare()?;
        let folder = Folder::new(&format!("traffic-{kind:?}-{offloaded}"))?;
        let mode = if kind == Kind::Vxlan { "Always" } else { "Never" };
        let pool = pool_spec(json!({ "cidr": "10.0.0.0/16", "blockSize": 24, "vxlanMode": mode }))?;
        let rule = json!({ "action": "Allow", "protocol": "TCP", "destination": { "ports": [PORT] } });
        let policy = json!({
            "selector": "all()", "types": ["Ingress", "Egress"],
            "ingress": [rule], "egress": [{ "action": "Allow" }],
        });
        let policy = GlobalNetworkPolicy::new(Metadata::named("bench"), serde_json::from_value(policy)?);
        let felix = json!({
            "nftablesFlowTableOffload": if offloaded { "All" } else { "Disabled" },
            "nftablesFlowTableDataIfacePattern": format!("^{UPLINK}$"),
        });
        let felix = FelixConfiguration::new(Metadata::named("default"), serde_json::from_value(felix)?);
        let pool = IpPool::new(Metadata::named("default"), pool);
        fill(&folder.0, vec![pool.into(), policy.into(), felix.into()])?;
        let mut agents = Vec::new();
        let mut plugins = Vec::new();
        for ((node, name), address) in nodes.iter().zip(["n1", "n2"]).zip([AGENT, REFLECTOR]) {
            agents.push(start_agent(node, &folder.0, name, address)?);
            plugins.push(Plugin::margay(programs.shim, node.try_clone()?, &folder.0, name));
        }
        plugins.iter().try_for_each(Plugin::wait_ready)?;
        let addresses = [
            plugins[0].attach(0, &pods[0])?,
            plugins[0].attach(1, &pods[1])?,
            plugins[1].attach(2, &pods[2])?,
        ];
        if offloaded {
            nodes.iter().try_for_each(wait_offloaded)?;
        }
        Ok(Self { nodes, pods, addresses, _agents: agents, _folder: Some(folder) })
    }

    fn by_hand(kind: Kind) -> Result<Self> {
        let (nodes, pods) = Self::bare()?;
        let addresses = [[1, 2], [1, 3], [2, 2]].map(|[node, pod]| Ipv4Addr::new(10, 0, node, pod));
        let site = Self { nodes, pods, addresses, _agents: Vec::new(), _folder: None };
        let places = [0, 0, 1].map(|node: usize| &site.nodes[node]);
        for (number, ((node, pod), address)) in places.into_iter().zip(&site.pods).zip(addresses).enumerate()
        {
            let name = format!("mgy{number}");
            wire(node, &name, pod, address)?;
            if kind == Kind::Bridged {
                let gateway = Ipv4Addr::new(10, 0, address.octets()[2], 1);
                sh(
                    node,
                    &format!(
                        "ip link show cni0 > /dev/null 2>&1 || {{ ip link add cni0 type bridge
                            ip address add {gateway}/24 dev cni0; ip link set cni0 mtu {TUNNEL_MTU} up; }}
                         ip link set {name} master cni0"
                    ),
                )?;
                sh(
                    pod,
                    &format!(
                        "ip address flush dev eth0; ip address add {address}/24 dev eth0
                         ip route add default via {gateway}"
                    ),
                )?;
            } else {
                sh(node, &format!("ip route add {address}/32 dev {name}"))?;
            }
            if kind != Kind::Routed {
                sh(node, &format!("ip link set {name} mtu {TUNNEL_MTU}"))?;
                sh(pod, &format!("ip link set eth0 mtu {TUNNEL_MTU}"))?;
            }
        }
        let ends = [(AGENT, REFLECTOR, 1, 2), (REFLECTOR, AGENT, 2, 1)];
        for (node, (own, other, here, there)) in site.nodes.iter().zip(ends) {
            if kind == Kind::Routed {
                sh(node, &format!("ip route add 10.0.{there}.0/24 via {other}"))?;
                continue;
            }
            sh(
                node,
                &format!(
                    "ip link add vxlan0 address 02:00:00:00:00:0{here} mtu {TUNNEL_MTU} type vxlan id 4096 \
                        dstport 4789 local {own} dev eth0 nolearning noudpcsum
                     ip address add 10.0.{here}.0/32 dev vxlan0; ip link set vxlan0 up
                     ip neighbour add 10.0.{there}.0 lladdr 02:00:00:00:00:0{there} dev vxlan0
                     bridge fdb append 02:00:00:00:00:0{there} dev vxlan0 dst {other}
                     ip route add 10.0.{there}.0/24 via 10.0.{there}.0 dev vxlan0 onlink"
                ),
            )?;
        }
        Ok(site)
    }

    /// Its packets meet conntrack and one rule, as those of every stateful firewall.
    fn tracked(self) -> Result<Self> {
        for node in &self.nodes {
            sh(node, "iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")?;
        }
        Ok(self)
    }

    /// From the first pod to another.
    fn way(&self, to: usize) -> Way<'_> {
        Way { client: &self.pods[0], server: &self.pods[to], to: self.addresses[to] }
    }
}

/// Whether the kernel has flow tables.
fn has_flow_table() -> Result<bool> {
    let netns = Netns::new()?;
    Ok(netns.run(|| FlowTable::new()?.write(&["lo"]))?.is_ok())
}

/// Until every interface that packets of pods pass is in the node's flow table.
fn wait_offloaded(node: &Netns) -> Result<()> {
    let begun = Instant::now();
    loop {
        let links = Netlink::open_in(node)?.links()?;
        let table = sh(node, "nft list flowtables").unwrap_or_default();
        if links.iter().filter(|link| !link.loopback).all(|link| table.contains(&link.name)) {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "interfaces are missing in the flow table: {table}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Way<'_> {
    fn connect(&self) -> Result<(TcpStream, TcpStream)> {
        let at = SocketAddr::from((self.to, PORT));
        let listener = self.server.run(|| TcpListener::bind(at))?.with_context(|| at.to_string())?;
        let client = self.client.run(|| TcpStream::connect_timeout(&at, Duration::from_secs(2)))??;
        Ok((client, listener.accept()?.0))
    }

    /// Until routes are there, and what the kernel remembers of the way.
    fn wait(&self) -> Result<()> {
        let begun = Instant::now();
        while let Err(error) = self.connect() {
            ensure!(begun.elapsed() < PATIENCE, "{error:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.stream().map(drop)
    }

    /// Gbit/s of one connection.
    fn stream(&self) -> Result<f64> {
        let (mut client, mut server) = self.connect()?;
        std::thread::scope(|scope| {
            let receiver = scope.spawn(move || -> std::io::Result<f64> {
                let (mut buffer, mut bytes, begun) = (vec![0; 256 << 10], 0_usize, Instant::now());
                loop {
                    match server.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(count) => bytes += count,
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(bytes as f64 * 8.0 / begun.elapsed().as_secs_f64() / 1e9)
            });
            let (buffer, begun) = (vec![0; 128 << 10], Instant::now());
            while begun.elapsed() < STREAM {
                client.write_all(&buffer)?;
            }
            drop(client);
            let rate = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(rate)
        })
    }

    /// Microseconds of a byte there and back, median.
    fn exchanges(&self) -> Result<f64> {
        let (mut client, mut server) = self.connect()?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut byte = [0];
                // Ends with the other side.
                while server.read_exact(&mut byte).and_then(|()| server.write_all(&byte)).is_ok() {}
            });
            let mut times = Vec::with_capacity(EXCHANGES);
            let mut byte = [0];
            for _ in 0..EXCHANGES {
                let begun = Instant::now();
                client.write_all(&byte)?;
                client.read_exact(&mut byte)?;
                times.push(begun.elapsed().as_secs_f64() * 1e6);
            }
            drop(client);
            Ok(quantile(&times, 0.5))
        })
    }
}
