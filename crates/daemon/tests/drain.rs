//! A reflector that drains waits until another one serves its clients.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use ipnet::Ipv4Net;
use margay_api::kinds::{NodeBgp, NodeSpec};
use margay_api::{Metadata, Node, yaml};
use margay_bgp::transport::{BgpHandle, BgpService, ServiceConfig};
use margay_bgp::wire::{AfiSafi, Capability, Message, Negotiated, Open, PeerKind as SessionKind, Update};
use margay_bgp::{Originated, PeerConfig, PeerKind, PeerState, RouteQuery, SpeakerConfig, Timers};
use margay_daemon::speaker::Speaker;
use margay_daemon::topology::Cluster;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::sync::watch;

const AS: u32 = 64512;
const PORT: u16 = 17_479;
/// The client that does not read.
const DEAF: u8 = 4;
/// Routes of the reflector that leaves.
const OWN: u32 = 100_000;

/// Where everybody listens, and a node's block.
const CLUSTER: &str = "\
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {listenPort: 17479, bindMode: NodeIP}
---
apiVersion: projectcalico.org/v3
kind: IPAMBlock
metadata: {name: 10-1-3-0-24}
spec: {cidr: 10.1.3.0/24, affinity: 'host:n3', allocations: [], unallocated: [], attributes: [], strictAffinity: true}
";

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 80, 0, last)
}

fn service(last: u8) -> BgpHandle {
    let config = ServiceConfig {
        speaker: SpeakerConfig::new(ip(last), AS),
        listen: vec![SocketAddr::from((ip(last), PORT))],
    };
    let (handle, mut events) = BgpService::spawn(config).unwrap();
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    handle
}

fn peer(own: u8, remote: u8, kind: PeerKind) -> PeerConfig {
    PeerConfig {
        port: PORT,
        local: Some(ip(own).into()),
        // The reflector that leaves dials the other, the client dials both.
        passive: own == 2,
        timers: Timers {
            connect_retry: Duration::from_millis(50),
            connect_retry_max: Duration::from_millis(100),
            ..Timers::default()
        },
        ..PeerConfig::new(ip(remote).into(), AS, kind)
    }
}

/// A client that tells and reads nothing after its first words.
async fn deaf() -> tokio::net::TcpStream {
    let session = Negotiated { four_octet_as: true, ..Negotiated::minimal(SessionKind::Internal) };
    let capabilities = vec![Capability::MultiProtocol(AfiSafi::Ipv4Unicast), Capability::FourOctetAs(AS)];
    let mut words = BytesMut::new();
    for message in [
        Message::Open(Open::new(AS, 90, ip(DEAF), capabilities)),
        Message::Keepalive,
        Message::Update(Update::end_of_rib(AfiSafi::Ipv4Unicast)),
    ] {
        message.encode(&session, &mut words).unwrap();
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(SocketAddr::from((ip(DEAF), 0))).unwrap();
    let mut stream = socket.connect(SocketAddr::from((ip(1), PORT))).await.unwrap();
    stream.write_all(&words).await.unwrap();
    stream
}

async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !check().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The sessions as the events so far tell.
async fn sessions(speaker: &mut Speaker) -> Option<(usize, usize)> {
    while tokio::time::timeout(Duration::from_millis(5), speaker.next_event()).await.is_ok() {}
    speaker.sessions()
}

#[tokio::test]
async fn a_reflector_leaves_when_another_has_what_its_clients_announce() {
    let (slot, _control) = watch::channel(None);
    let mut leaving = Speaker::new(slot, false);
    let mut cluster = Cluster::default();
    for located in yaml::parse("cluster.yaml", CLUSTER).unwrap() {
        assert!(cluster.put(&located.value));
    }
    let nodes = [("rr1", 1, true), ("rr2", 2, true), ("n3", 3, false), ("n4", DEAF, false)];
    for (name, last, reflector) in nodes {
        let bgp = NodeBgp {
            ipv4_address: Some(format!("{}/24", ip(last)).parse().unwrap()),
            route_reflector_cluster_id: reflector.then_some(Ipv4Addr::new(0, 0, 0, 1)),
            ..NodeBgp::default()
        };
        let node = Node::new(Metadata::named(name), NodeSpec { bgp: Some(bgp), ..NodeSpec::default() });
        assert!(cluster.put(&node.into()));
    }
    leaving.follow("rr1", &mut cluster).await.unwrap();
    // More than the kernel takes for somebody who does not read.
    let originated =
        (0..OWN).map(|number| Ipv4Net::new_assert(Ipv4Addr::from_bits(0x0a80_0000 + number), 32));
    let originated = originated.map(|net| Originated::new(net.into(), Some(ip(1).into())));
    leaving.originate(originated.collect()).await.unwrap();

    let (other, client) = (service(2), service(3));
    other.set_originated(Vec::new()).await.unwrap();
    let block = "10.1.3.0/24".parse().unwrap();
    client.set_originated(vec![Originated::new(block, Some(ip(3).into()))]).await.unwrap();
    client.set_peers(vec![peer(3, 1, PeerKind::Internal)]).await.unwrap();
    until("the client's session", async || sessions(&mut leaving).await == Some((1, 3))).await;

    let others = BTreeSet::from([IpAddr::from(ip(2))]);
    assert!(!leaving.drain(&BTreeSet::new(), Duration::from_secs(60)).await, "nobody to wait for");
    assert!(!leaving.drain(&others, Duration::from_millis(300)).await, "the other is not there");

    other.set_peers(vec![peer(2, 1, PeerKind::Internal)]).await.unwrap();
    until("the other's session", async || sessions(&mut leaving).await == Some((2, 3))).await;
    assert!(!leaving.drain(&others, Duration::from_millis(300)).await, "it does not know the client");

    let peers = [(1, PeerKind::Internal), (3, PeerKind::InternalClient)];
    other.set_peers(peers.map(|(remote, kind)| peer(2, remote, kind)).to_vec()).await.unwrap();
    client.set_peers([1, 2].map(|remote| peer(3, remote, PeerKind::Internal)).to_vec()).await.unwrap();
    let _deaf = deaf().await;
    until("the deaf one's session", async || sessions(&mut leaving).await == Some((3, 3))).await;
    assert!(leaving.drain(&others, Duration::from_secs(60)).await, "now it serves");
    leaving.stop_for_restart().await;
    let up = async || {
        let peers = client.peers().await.unwrap();
        peers.iter().filter(|peer| peer.state == PeerState::Established).count()
    };
    until("only the other is left", async || up().await == 1).await;
    let query = RouteQuery { prefix: Some(block), best: true, ..RouteQuery::default() };
    let routes = other.routes(query).await.unwrap();
    assert_eq!(routes[0].next_hop, Some(ip(3).into()));
    // What it keeps of the one that left (RFC 4724) is the last resort (RFC 8326).
    let kept = RouteQuery { peer: Some(ip(1).into()), ..RouteQuery::default() };
    let kept = client.routes(kept).await.unwrap();
    assert!(kept.len() >= OWN as usize, "{}", kept.len());
    for route in kept {
        assert!(
            route.communities.iter().any(|it| it == "graceful-shutdown") && route.local_pref == Some(0),
            "{route:?}"
        );
    }
}
