//! How fast a node's agent brings routes from BGP into the kernel, beside what the kernel takes at most.
//!
//! A hundred nodes with a hundred blocks each. *Raw*: the nexthop objects and routes as ready messages, in batches, as fast as
//! netlink goes. *Agent*: the real program with a session to a reflector that announces everything at once; from
//! the announcement to the last route. Both with one listener for route changes in the namespace.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ipnet::{IpNet, Ipv4Net};
use margay_api::kinds::{IpPoolSpec, NodeBgp, NodeSpec};
use margay_api::{IpPool, Metadata, Node, Resource};
use margay_bgp::transport::{BgpHandle, BgpService, ServiceConfig};
use margay_bgp::{Originated, PeerConfig, PeerKind, PeerState, SpeakerConfig};
use margay_netlink::monitor::{Event, Monitor};
use margay_netlink::{
    Address, AddressOptions, Netlink, Netns, Nexthop, NexthopChange, NexthopTarget, Route, RouteChange,
    RouteFilter, RouteTarget, VethEnd,
};

use crate::pod::{fill, start_agent};
use crate::policy::Folder;
use crate::scenario::quantile;

/// Protocol of the agent's routes to other nodes.
const CLUSTER: u8 = 181;
const AS: u32 = 64512;
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
    let _listener = here.run(|| Monitor::open(&other))??;
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
    let results = [netlink.apply_nexthops(&objects), netlink.apply_routes(&routes)];
    let time = begun.elapsed().as_secs_f64();
    for result in results.into_iter().flatten() {
        result?;
    }
    Ok(time)
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
    let mut monitor = here.run(|| Monitor::open(&own))??;
    there.run(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let speaker = runtime.block_on(establish())?;
        let routes = originated(nodes, blocks);
        let wanted = routes.len();
        // What is left over from the start is not counted.
        monitor.read(|_| {})?;
        let begun = Instant::now();
        runtime.block_on(speaker.set_originated(routes))?;
        let (mut seen, mut last) = (0, begun);
        while seen < wanted {
            ensure!(begun.elapsed() < PATIENCE, "only {seen} of {wanted} routes after {PATIENCE:?}");
            let before = seen;
            monitor.read(|event| {
                seen += usize::from(matches!(event, Event::RouteSet(route, _) if route.protocol == CLUSTER));
            })?;
            if seen > before {
                last = Instant::now();
            } else {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        let filter = RouteFilter { protocol: Some(CLUSTER), ..RouteFilter::default() };
        let found = Netlink::open_in(here)?.routes(filter)?;
        let of_blocks = |route: &&Route| matches!(route.target, RouteTarget::Nexthop(_));
        ensure!(found.iter().filter(of_blocks).count() == wanted, "{} routes, {wanted} wanted", found.len());
        runtime.shutdown_background();
        Ok((last - begun).as_secs_f64())
    })?
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
