//! Real sockets on loopback addresses: services exchange routes, survive garbage and restarts.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use margay_bgp::transport::{BgpHandle, BgpService, Change, ServiceConfig, StopMode};
use margay_bgp::{
    Event, Originated, PeerConfig, PeerKind, PeerState, RouteInfo, RouteQuery, RouteSource, SpeakerConfig,
};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;

const AS: u32 = 64512;

/// Addresses 127.a.b.x of its own for each test, so that they run side by side on one port.
#[derive(Clone, Copy)]
struct Net(u8);

impl Net {
    fn ip(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 77, self.0, last)
    }
}

const PORT: u16 = 17_179;

struct Node {
    handle: BgpHandle,
    events: mpsc::Receiver<Event>,
}

fn spawn(net: Net, last: u8, restarting: bool) -> Node {
    let speaker = SpeakerConfig { restarting, ..SpeakerConfig::new(net.ip(last), AS) };
    let listen = vec![SocketAddr::from((net.ip(last), PORT))];
    let (handle, events) = BgpService::spawn(ServiceConfig { speaker, listen }).unwrap();
    Node { handle, events }
}

fn peer(net: Net, own: u8, remote: u8, kind: PeerKind) -> PeerConfig {
    PeerConfig {
        port: PORT,
        local: Some(IpAddr::V4(net.ip(own))),
        timers: margay_bgp::Timers {
            connect_retry: Duration::from_millis(100),
            connect_retry_max: Duration::from_millis(500),
            error_wait: Duration::from_millis(100),
            error_wait_max: Duration::from_millis(500),
            ..margay_bgp::Timers::default()
        },
        ..PeerConfig::new(IpAddr::V4(net.ip(remote)), AS, kind)
    }
}

async fn eventually<F: Future<Output = Option<T>>, T>(what: &str, mut check: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "not within 15 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn route(handle: &BgpHandle, prefix: &str) -> Option<RouteInfo> {
    let query = RouteQuery { prefix: Some(prefix.parse().unwrap()), best: true, ..RouteQuery::default() };
    handle.routes(query).await.unwrap().into_iter().next()
}

async fn established(handle: &BgpHandle, remote: Ipv4Addr) -> Option<()> {
    let peers = handle.peers().await.unwrap();
    let peer = peers.iter().find(|peer| peer.remote == IpAddr::V4(remote))?;
    (peer.state == PeerState::Established).then_some(())
}

fn originate(net: Net, last: u8) -> Vec<Originated> {
    vec![
        Originated::new(format!("10.1.{last}.0/24").parse().unwrap(), Some(IpAddr::V4(net.ip(last)))),
        Originated::new(
            format!("fd00:1:{last}::/64").parse().unwrap(),
            Some(format!("fd00::{last}").parse().unwrap()),
        ),
    ]
}

/// A reflector at .1 and clients from .2 on.
async fn cluster(net: Net, clients: u8) -> (Node, Vec<Node>) {
    let reflector = spawn(net, 1, false);
    reflector.handle.set_originated(Vec::new()).await.unwrap();
    let peers = (2..2 + clients)
        .map(|last| PeerConfig { passive: true, ..peer(net, 1, last, PeerKind::InternalClient) })
        .collect();
    reflector.handle.set_peers(peers).await.unwrap();
    let mut nodes = Vec::new();
    for last in 2..2 + clients {
        let node = spawn(net, last, false);
        node.handle.set_originated(originate(net, last)).await.unwrap();
        node.handle.set_peers(vec![peer(net, last, 1, PeerKind::Internal)]).await.unwrap();
        nodes.push(node);
    }
    (reflector, nodes)
}

#[tokio::test]
async fn two_clients_reach_each_other_through_a_reflector() {
    let net = Net(1);
    let (reflector, nodes) = cluster(net, 2).await;
    let route = eventually("the other client's route", || route(&nodes[1].handle, "10.1.2.0/24")).await;
    assert_eq!(route.next_hop, Some(IpAddr::V4(net.ip(2))));
    assert_eq!(route.originator_id, Some(net.ip(2)));
    assert_eq!(route.cluster_list, [net.ip(1)]);
    assert_eq!(route.source, RouteSource::Peer(IpAddr::V4(net.ip(1))));
    let v6 = eventually("its IPv6 route", || self::route(&nodes[1].handle, "fd00:1:2::/64")).await;
    assert_eq!(v6.next_hop, Some("fd00::2".parse().unwrap()));
    let own = self::route(&nodes[1].handle, "10.1.3.0/24").await.unwrap();
    assert_eq!(own.source, RouteSource::Local);
    let sent = reflector.handle.advertised(IpAddr::V4(net.ip(2))).await.unwrap();
    assert_eq!(sent.len(), 4);

    nodes[0].handle.set_originated(Vec::new()).await.unwrap();
    eventually("the withdrawal", || async {
        self::route(&nodes[1].handle, "10.1.2.0/24").await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn events_tell_routes_before_in_sync() {
    let net = Net(2);
    let (_reflector, mut nodes) = cluster(net, 2).await;
    let mut known = std::collections::BTreeMap::new();
    let node = nodes.last_mut().unwrap();
    let mut in_sync = false;
    while !(in_sync && known.len() == 2) {
        let event = tokio::time::timeout(Duration::from_secs(15), node.events.recv()).await.unwrap().unwrap();
        match event {
            Event::RouteChanges(changes) => {
                known.extend(changes.into_iter().map(|change| (change.prefix, change.next_hops)));
            }
            Event::InSync => in_sync = true,
            Event::PeerChanged { .. } | Event::BfdChanged { .. } | Event::NextHops(_) => {}
        }
    }
    assert_eq!(known[&"10.1.2.0/24".parse().unwrap()], [IpAddr::V4(net.ip(2)).into()]);
}

#[tokio::test]
async fn a_reflector_that_restarts_costs_no_route() {
    let net = Net(3);
    let (reflector, mut nodes) = cluster(net, 2).await;
    for node in &nodes {
        eventually("both routes", || async {
            let a = route(&node.handle, "10.1.2.0/24").await?;
            let b = route(&node.handle, "10.1.3.0/24").await?;
            (a.best && b.best).then_some(())
        })
        .await;
    }
    while nodes[0].events.try_recv().is_ok() {}
    reflector.handle.stop(StopMode::Restart).await.unwrap();
    eventually("a stale route", || async {
        route(&nodes[0].handle, "10.1.3.0/24").await.filter(|route| route.stale)
    })
    .await;
    let again = spawn(net, 1, true);
    again.handle.set_originated(Vec::new()).await.unwrap();
    let peers = [2, 3]
        .map(|last| PeerConfig { passive: true, ..peer(net, 1, last, PeerKind::InternalClient) })
        .to_vec();
    again.handle.set_peers(peers).await.unwrap();
    eventually("a fresh route", || async {
        route(&nodes[0].handle, "10.1.3.0/24").await.filter(|route| !route.stale)
    })
    .await;
    while let Ok(event) = nodes[0].events.try_recv() {
        if let Event::RouteChanges(changes) = event {
            assert!(changes.iter().all(|change| !change.next_hops.is_empty()), "{changes:?}");
        }
    }
}

#[tokio::test]
async fn who_watches_goes_on_when_nobody_took_over() {
    let net = Net(7);
    let (reflector, nodes) = cluster(net, 2).await;
    eventually("the route", || route(&nodes[1].handle, "10.1.2.0/24")).await;
    let mut changes = reflector.handle.watch().await.unwrap();
    let frozen = reflector.handle.freeze().await.unwrap().unwrap();
    reflector.handle.thaw(frozen).await.unwrap();
    nodes[0].handle.set_originated(Vec::new()).await.unwrap();
    let gone = "10.1.2.0/24".parse().unwrap();
    let said = async {
        loop {
            let change = changes.recv().await.unwrap();
            if let Change::Routes(routes) = &*change
                && routes.iter().any(|(prefix, paths)| *prefix == gone && paths.is_empty())
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(15), said).await.expect("the withdrawal is told");
}

#[tokio::test]
async fn shutting_down_withdraws_at_once() {
    let net = Net(4);
    let (_reflector, nodes) = cluster(net, 2).await;
    eventually("the route", || route(&nodes[1].handle, "10.1.2.0/24")).await;
    nodes[0].handle.stop(StopMode::Shutdown("maintenance".to_owned())).await.unwrap();
    eventually("the withdrawal", || async {
        route(&nodes[1].handle, "10.1.2.0/24").await.is_none().then_some(())
    })
    .await;
    assert!(nodes[0].handle.peers().await.is_err());
}

#[tokio::test]
async fn an_unknown_peer_is_parked_until_it_is_configured() {
    let net = Net(5);
    let reflector = spawn(net, 1, false);
    reflector.handle.set_originated(Vec::new()).await.unwrap();
    let node = spawn(net, 2, false);
    node.handle.set_originated(originate(net, 2)).await.unwrap();
    node.handle.set_peers(vec![peer(net, 2, 1, PeerKind::Internal)]).await.unwrap();
    eventually("parked", || async {
        let pending = reflector.handle.pending().await.unwrap();
        (pending == [IpAddr::V4(net.ip(2))]).then_some(())
    })
    .await;
    let config = PeerConfig { passive: true, ..peer(net, 1, 2, PeerKind::InternalClient) };
    reflector.handle.set_peer(config).await.unwrap();
    eventually("established", || established(&reflector.handle, net.ip(2))).await;
    eventually("its route", || route(&reflector.handle, "10.1.2.0/24")).await;
    let status = &node.handle.peers().await.unwrap()[0];
    assert_eq!((status.established_count, &status.last_error), (1, &None), "on the parked connection");
}

async fn connect_from(net: Net, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((net.ip(last), 0))).unwrap();
    socket.connect(SocketAddr::from((net.ip(1), PORT))).await.unwrap()
}

/// What the other side says until it closes.
async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut data = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut data)).await;
    read.expect("closed in time").expect("closed in order");
    data
}

#[tokio::test]
async fn garbage_is_answered_with_a_notification_and_harms_nobody() {
    let net = Net(6);
    let (reflector, nodes) = cluster(net, 2).await;
    eventually("the route", || route(&nodes[1].handle, "10.1.2.0/24")).await;
    let config = PeerConfig { passive: true, ..peer(net, 1, 9, PeerKind::InternalClient) };
    reflector.handle.set_peer(config).await.unwrap();
    let mut seed = 1u64;
    for round in 0..20 {
        let mut stream = connect_from(net, 9).await;
        let mut garbage: Vec<u8> = (0..200)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                seed.to_be_bytes()[1]
            })
            .collect();
        if round % 2 == 0 {
            // A right header with a wrong body.
            garbage.splice(..19, [[0xff; 16].as_slice(), &[0, 200, 1]].concat());
        }
        stream.write_all(&garbage).await.unwrap();
        if round % 4 < 2 {
            // The end comes together with what it ends.
            stream.shutdown().await.unwrap();
        }
        let said = read_to_end(&mut stream).await;
        // OPEN, then NOTIFICATION as the last message.
        let open = u16::from_be_bytes([said[16], said[17]]) as usize;
        assert_eq!((said[18], said[open + 18]), (1, 3), "round {round}");
    }
    // Half an OPEN and silence, then gone.
    let mut stream = connect_from(net, 9).await;
    stream.write_all(&[0xff; 18]).await.unwrap();
    drop(stream);
    for node in &nodes {
        let status = &node.handle.peers().await.unwrap()[0];
        assert_eq!((status.state, status.established_count), (PeerState::Established, 1));
    }
    assert!(route(&nodes[1].handle, "10.1.2.0/24").await.is_some());
}
