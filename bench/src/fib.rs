//! How fast a node's agent brings routes from BGP into the kernel, beside what the kernel takes at most.
//!
//! A hundred nodes with a hundred blocks each. *Raw*: the nexthop objects and routes as ready messages, in batches, as fast as
//! netlink goes. *Agent*: the real program with a session to a reflector that says everything at once, as ready messages too.
//! Both from the first octet until a listener in the namespace has heard of the last route.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::BytesMut;
use ipnet::{IpNet, Ipv4Net};
use margay_api::kinds::{IpPoolSpec, NodeBgp, NodeSpec};
use margay_api::{IpPool, Metadata, Node, Resource};
use margay_bgp::transport::{BgpHandle, BgpService, ServiceConfig};
use margay_bgp::wire::{
    AfiSafi, Capability, Framer, Message, NextHop, Nlri, Open, PathAttributes, UpdateEncoder, decode,
};
use margay_bgp::{Originated, PeerConfig, PeerKind, PeerState, SpeakerConfig};
use margay_netlink::monitor::{Event, Monitor};
use margay_netlink::{
    Address, AddressOptions, Netlink, Netns, Nexthop, NexthopChange, NexthopTarget, Route, RouteChange,
    RouteFilter, RouteTarget, VethEnd,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::plan::{AS, SESSION};
use crate::pod::{fill, start_agent};
use crate::policy::Folder;
use crate::scenario::quantile;

/// Protocol of the agent's routes to other nodes.
const CLUSTER: u8 = 181;
pub(crate) const AGENT: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 1);
pub(crate) const REFLECTOR: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 2);
pub(crate) const SUBNET: u8 = 16;
/// Longest wait for a session or a table.
const PATIENCE: Duration = Duration::from_secs(60);

/// Seconds for so many nodes with so many blocks each: raw, and the agent; medians of runs that alternate.
pub(crate) fn compare(nodes: u32, blocks: u32, runs: usize) -> Result<(f64, f64)> {
    let (mut raw_times, mut agent_times) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        raw_times.push(raw(nodes, blocks)?);
        agent_times.push(agent(nodes, blocks)?);
    }
    Ok((quantile(&raw_times, 0.5), quantile(&agent_times, 0.5)))
}

/// Address of a node other than the one measured.
fn node_address(node: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(AGENT) + 0x100 + node)
}

pub(crate) fn block(node: u32, number: u32, per_node: u32) -> Ipv4Net {
    let base = u32::from(Ipv4Addr::new(10, 0, 0, 0));
    Ipv4Net::new_assert(Ipv4Addr::from(base + ((node * per_node + number) << 8)), 24)
}

/// The node's namespace and the reflector's, joined.
pub(crate) fn lab() -> Result<(Netns, Netns)> {
    let (here, there) = (Netns::new()?, Netns::new()?);
    let mut near = Netlink::open_in(&here)?;
    let mut far = Netlink::open_in(&there)?;
    let end = VethEnd { name: "eth0", ..VethEnd::default() };
    let peer = VethEnd { name: "eth0", mac: None, netns: Some(there.as_fd()) };
    near.add_veth(&end, &peer, None)?;
    for (netlink, address) in [(&mut near, AGENT), (&mut far, REFLECTOR)] {
        let lo = netlink.link_index("lo")?;
        netlink.set_up(lo, true)?;
        let index = netlink.link_index("eth0")?;
        netlink.set_up(index, true)?;
        let net = IpNet::V4(Ipv4Net::new_assert(address, SUBNET));
        netlink.add_address(&Address { index, net }, AddressOptions::default())?;
    }
    Ok((here, there))
}

fn raw(nodes: u32, blocks: u32) -> Result<f64> {
    let (here, _there) = lab()?;
    let mut netlink = Netlink::open_in(&here)?;
    let other = Netlink::open_in(&here)?;
    let mut listener = here.run(|| Monitor::open([&other]))??;
    let device = netlink.link_index("eth0")?;
    let objects: Vec<NexthopChange> = (0..nodes)
        .map(|node| {
            let target = NexthopTarget::Via { gateway: node_address(node).into(), device, onlink: false };
            NexthopChange::Add(Nexthop { id: node + 1, protocol: CLUSTER, target })
        })
        .collect();
    let routes: Vec<RouteChange> = (0..nodes)
        .flat_map(|node| (0..blocks).map(move |number| (node, block(node, number, blocks))))
        .map(|(node, block)| {
            RouteChange::Add(Route::new(block.into(), RouteTarget::Nexthop(node + 1), CLUSTER))
        })
        .collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| [netlink.apply_nexthops(&objects), netlink.apply_routes(&routes)]);
        let time = heard_of(routes.len(), &mut listener, begun);
        let results = writing.join().map_err(|_panic| anyhow!("the writing thread panicked"))?;
        for result in results.into_iter().flatten() {
            result?;
        }
        time
    })
}

/// Seconds until a listener has heard of so many routes to other nodes.
fn heard_of(wanted: usize, listener: &mut Monitor, begun: Instant) -> Result<f64> {
    let (mut seen, mut last) = (0, begun);
    while seen < wanted {
        ensure!(begun.elapsed() < PATIENCE, "only {seen} of {wanted} routes after {PATIENCE:?}");
        let before = seen;
        listener.read(|event| {
            seen += usize::from(matches!(event, Event::RouteSet(route, _) if route.protocol == CLUSTER));
        })?;
        if seen > before {
            last = Instant::now();
        } else {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    Ok((last - begun).as_secs_f64())
}

/// Ends the agent, however the run ends.
pub(crate) struct Agent(pub(crate) Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn agent(nodes: u32, blocks: u32) -> Result<f64> {
    let (here, there) = lab()?;
    let folder = Folder::new("fib")?;
    measure(&here, &there, &folder.0, nodes, blocks)
}

fn measure(here: &Netns, there: &Netns, folder: &Path, nodes: u32, blocks: u32) -> Result<f64> {
    let pool = serde_json::from_value(serde_json::json!({ "cidr": "10.0.0.0/8" }))?;
    fill(folder, objects(nodes, pool))?;
    let _agent = start_agent(here, folder, "n1", AGENT)?;
    let own = Netlink::open_in(here)?;
    let mut listener = here.run(|| Monitor::open([&own]))??;
    let mut agent = there.run(accept)??;
    // What is left over from the start is not counted.
    listener.read(|_| {})?;
    let (updates, wanted) = (announcement(nodes, blocks)?, (nodes * blocks) as usize);
    let begun = Instant::now();
    let time = std::thread::scope(|scope| {
        let writing = scope.spawn(|| agent.write_all(&updates));
        let time = heard_of(wanted, &mut listener, begun);
        writing.join().map_err(|_panic| anyhow!("the writing thread panicked"))?.context("announce")?;
        time
    })?;
    let filter = RouteFilter { protocol: Some(CLUSTER), ..RouteFilter::default() };
    let found = Netlink::open_in(here)?.routes(filter)?;
    let of_blocks = |route: &&Route| matches!(route.target, RouteTarget::Nexthop(_));
    ensure!(found.iter().filter(of_blocks).count() == wanted, "{} routes, {wanted} wanted", found.len());
    Ok(time)
}

/// The agent's session with a reflector that has nothing to say yet.
fn accept() -> Result<TcpStream> {
    let listener = TcpListener::bind((REFLECTOR, 179)).context("listen as the reflector")?;
    let patience = PollTimeout::try_from(PATIENCE)?;
    let dialled = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], patience)?;
    ensure!(dialled > 0, "the agent did not dial in {PATIENCE:?}");
    let (mut agent, _) = listener.accept()?;
    agent.set_read_timeout(Some(PATIENCE))?;
    agent.set_nodelay(true)?;
    let capabilities = vec![Capability::MultiProtocol(AfiSafi::Ipv4Unicast), Capability::FourOctetAs(AS)];
    let mut hello = BytesMut::new();
    Message::Open(Open::new(AS, 180, REFLECTOR, capabilities)).encode(&SESSION, &mut hello)?;
    Message::Keepalive.encode(&SESSION, &mut hello)?;
    UpdateEncoder::new(SESSION).end_of_rib(AfiSafi::Ipv4Unicast, &mut hello);
    agent.write_all(&hello)?;
    let (mut framer, mut buffer) = (Framer::new(), [0; 4096]);
    loop {
        let length = agent.read(&mut buffer).context("the agent's table")?;
        ensure!(length > 0, "the agent closed the session");
        let mut rest = &buffer[..length];
        while let Some(frame) = framer.next_frame(&mut rest)? {
            if matches!(decode(frame, &SESSION)?.message, Message::Update(update) if update.end_of_rib.is_some())
            {
                // It knows that it has heard all of ours, nothing, and comes to rest.
                std::thread::sleep(Duration::from_secs(1));
                return Ok(agent);
            }
        }
    }
}

/// What a reflector tells of these nodes' blocks.
fn announcement(nodes: u32, blocks: u32) -> Result<BytesMut> {
    let (mut encoder, mut out) = (UpdateEncoder::new(SESSION), BytesMut::new());
    let own = PathAttributes { local_pref: Some(100), ..PathAttributes::default() };
    for node in 0..nodes {
        let attributes = own.reflected(node_address(node), REFLECTOR);
        let nlri = (0..blocks).map(|number| Nlri::new(block(node, number, blocks).into()));
        encoder.announce(&attributes, &NextHop::V4(node_address(node)), nlri, &mut out)?;
    }
    Ok(out)
}

/// What a reflector tells of these nodes.
pub(crate) fn originated(nodes: u32, blocks: u32) -> Vec<Originated> {
    (0..nodes)
        .flat_map(|node| (0..blocks).map(move |number| (node, block(node, number, blocks))))
        .map(|(node, block)| Originated::new(block.into(), Some(node_address(node).into())))
        .collect()
}

/// The cluster as the agent sees it: a reflector, the other nodes, and a pool.
pub(crate) fn objects(nodes: u32, pool: IpPoolSpec) -> Vec<Resource> {
    let node = |name: String, address: Ipv4Addr, cluster: Option<Ipv4Addr>| {
        let bgp = NodeBgp {
            ipv4_address: Some(Ipv4Net::new_assert(address, SUBNET)),
            route_reflector_cluster_id: cluster,
            ..NodeBgp::default()
        };
        Node::new(Metadata::named(name), NodeSpec { bgp: Some(bgp), ..NodeSpec::default() }).into()
    };
    let reflector = node("rr".to_owned(), REFLECTOR, Some(REFLECTOR));
    let others = (0..nodes).map(|number| node(format!("node-{number}"), node_address(number), None));
    let pool = IpPool::new(Metadata::named("default"), pool).into();
    [reflector, pool].into_iter().chain(others).collect()
}

/// A reflector with a session to the agent.
pub(crate) async fn establish() -> Result<BgpHandle> {
    let listen = vec![SocketAddr::from((REFLECTOR, 179))];
    let speaker = SpeakerConfig { cluster_id: Some(REFLECTOR), ..SpeakerConfig::new(REFLECTOR, AS) };
    let (handle, mut events) = BgpService::spawn(ServiceConfig { speaker, listen })?;
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    handle.set_peer(PeerConfig::new(IpAddr::V4(AGENT), AS, PeerKind::InternalClient)).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let peers = handle.peers().await?;
        if peers.iter().any(|peer| peer.state == PeerState::Established) {
            // Tables are exchanged and the agent knows that it has seen all of ours: nothing.
            tokio::time::sleep(Duration::from_secs(1)).await;
            return Ok(handle);
        }
        ensure!(Instant::now() < deadline, "no session with the agent after {PATIENCE:?}: {peers:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
