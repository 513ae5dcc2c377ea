//! BFD with real BIRD and FRR in network namespaces: one hop and several, IPv4 and IPv6, a link that is cut and comes
//! back, an administrator, other timers.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod lab;

use lab::{AS, Daemons, HOLD, Hops, Lab, PATIENCE, peer, possible};
use margay_bgp::bfd::State;
use margay_bgp::transport::{BgpHandle, BgpService, Monitoring, ServiceConfig, StopMode};
use margay_bgp::{PeerConfig, PeerKind, PeerState, PeerStatus, SpeakerConfig};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

async fn until<T>(what: &str, mut state: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match state().await {
            Ok(value) => return value,
            Err(now) => assert!(tokio::time::Instant::now() < deadline, "not {what}: {now}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Our speaker, in the namespace of the calling thread.
struct Node(BgpHandle, ServiceConfig);

impl Node {
    async fn start(id: u8, peer: PeerConfig) -> Self {
        let speaker = SpeakerConfig::new(Ipv4Addr::new(192, 0, 2, id), AS);
        let listen =
            peer.local.map(|local| SocketAddr::new(local, margay_bgp::BGP_PORT)).into_iter().collect();
        let config = ServiceConfig { speaker, listen };
        let (handle, mut events) = BgpService::spawn(config.clone()).unwrap();
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        handle.set_originated(Vec::new()).await.unwrap();
        handle.set_peers(vec![peer]).await.unwrap();
        Self(handle, config)
    }

    /// Another speaker takes over, again and again, and is watched for a while: nobody notices.
    async fn changes_hands(&mut self) {
        let before = self.both_up().await;
        for _ in 0..5 {
            let frozen = self.0.freeze().await.unwrap().unwrap();
            let (go, may_go) = tokio::sync::oneshot::channel();
            let next = BgpService::take_over(self.1.clone(), Monitoring::default(), frozen, may_go);
            let (next, mut events) = next.unwrap();
            tokio::spawn(async move { while events.recv().await.is_some() {} });
            go.send(()).unwrap();
            // The one before ends with its handle.
            self.0 = next;
            self.both_up().await;
        }
        tokio::time::sleep(before.bfd.unwrap().detection_time * 3).await;
        let after = self.both_up().await;
        assert_eq!(after.established_count, before.established_count);
        assert_eq!(after.bfd.unwrap().failures, before.bfd.unwrap().failures);
    }

    async fn until(&self, what: &str, check: impl Fn(&PeerStatus) -> bool) -> PeerStatus {
        until(what, async || {
            let peer = self.0.peers().await.unwrap().remove(0);
            if check(&peer) { Ok(peer) } else { Err(format!("{peer:#?}")) }
        })
        .await
    }

    async fn both_up(&self) -> PeerStatus {
        self.until("both up", |peer| {
            peer.state == PeerState::Established && peer.bfd.is_some_and(|bfd| bfd.state == State::Up)
        })
        .await
    }
}

const WAYS: [(Hops, bool); 4] =
    [(Hops::One, false), (Hops::One, true), (Hops::Two, false), (Hops::Two, true)];

/// Up, cut, found, mended, up. Returns how often BGP was up and BFD failed; neighbours may need two attempts at first.
async fn survives_a_cut(lab: &Lab, node: &Node, theirs: impl Fn() -> bool) -> (u64, u64) {
    node.both_up().await;
    until("up over there", async || if theirs() { Ok(()) } else { Err(String::new()) }).await;
    let up = node.both_up().await;
    let (times, failures) = (up.established_count, up.bfd.unwrap().failures);
    lab.cut();
    let cut = tokio::time::Instant::now();
    let lost = node.until("lost", |peer| peer.state != PeerState::Established).await;
    assert!(cut.elapsed() < HOLD / 3 * 2, "that was the hold timer");
    assert!(lost.last_error.unwrap().contains("BFD failed"));
    assert_eq!(lost.bfd.unwrap().failures, failures + 1);
    until("down over there", async || if theirs() { Err(String::new()) } else { Ok(()) }).await;
    lab.mend();
    let again = node.both_up().await;
    assert_eq!((again.established_count, again.bfd.unwrap().failures), (times + 1, failures + 1));
    until("up over there again", async || if theirs() { Ok(()) } else { Err(String::new()) }).await;
    (times + 1, failures + 1)
}

#[test]
fn bird() {
    if !possible("bird") {
        return;
    }
    for (n, (hops, ipv6)) in WAYS.into_iter().enumerate() {
        let lab = Lab::new(hops, ipv6);
        let bird = Daemons::bird(&lab, &format!("bird{n}"), hops);
        lab.run(async || {
            let mut node = Node::start(1, lab.peer(hops, 100)).await;
            let sessions = || bird.ask_bird("show bfd sessions");
            let theirs =
                || sessions().contains("Up") && bird.ask_bird("show protocols node").contains("Established");
            let (times, failures) = survives_a_cut(&lab, &node, theirs).await;
            node.changes_hands().await;
            // Other timers: BIRD, which sends every 100 ms, now waits three times our 700.
            node.0.set_peer(lab.peer(hops, 700)).await.unwrap();
            until("renegotiated", async || {
                let shown = sessions();
                if shown.contains("2.100") { Ok(()) } else { Err(shown) }
            })
            .await;
            let peer = node.until("renegotiated", |peer| {
                peer.bfd.is_some_and(|bfd| bfd.tx_interval == Duration::from_millis(700))
            });
            let bfd = peer.await.bfd.unwrap();
            assert_eq!((bfd.detection_time, bfd.failures), (Duration::from_millis(2100), failures));
            assert_eq!(node.both_up().await.established_count, times);
            node.0.stop(StopMode::Restart).await.unwrap();
        });
    }
}

#[test]
fn frr() {
    if !possible("bfdd") {
        return;
    }
    for (n, (hops, ipv6)) in WAYS.into_iter().enumerate() {
        let lab = Lab::new(hops, ipv6);
        let frr = Daemons::frr(&lab, &format!("frr{n}"), hops);
        lab.run(async || {
            let mut node = Node::start(1, lab.peer(hops, 100)).await;
            let status = || frr.ask_frr("bfdd", &["show bfd peers"]);
            let up = || status().contains("Status: up");
            let (times, failures) = survives_a_cut(&lab, &node, up).await;
            node.changes_hands().await;
            // Their administrator takes BFD down, and up again: BGP does not care.
            let profile = ["configure terminal", "bfd", "profile quick"];
            frr.ask_frr("bfdd", &[&profile[..], &["shutdown"]].concat());
            let down = |peer: &PeerStatus| peer.bfd.is_some_and(|bfd| bfd.state == State::Down);
            let peer = node.until("down by them", down).await;
            assert_eq!((peer.state, peer.established_count), (PeerState::Established, times));
            assert_eq!(peer.bfd.unwrap().failures, failures);
            frr.ask_frr("bfdd", &[&profile[..], &["no shutdown"]].concat());
            assert_eq!(node.both_up().await.established_count, times);
            // And their timers.
            frr.ask_frr("bfdd", &[&profile[..], &["transmit-interval 400"]].concat());
            let slow = node.until("slower", |peer| {
                peer.bfd.is_some_and(|bfd| bfd.detection_time == Duration::from_millis(1200))
            });
            assert_eq!(slow.await.established_count, times);
            node.0.stop(StopMode::Restart).await.unwrap();
        });
    }
}

#[test]
fn a_packet_that_was_forwarded_is_none_of_a_single_hop_session() {
    if !possible("ip") {
        return;
    }
    for ipv6 in [false, true] {
        let lab = Lab::new(Hops::Two, ipv6);
        let [us, them] = lab.addresses;
        let internal = |ends, hops, passive| PeerConfig {
            remote_as: AS,
            kind: PeerKind::Internal,
            passive,
            ..peer(ends, hops, 50)
        };
        let ours = |hops| internal([us, them], hops, false);
        let theirs = |hops| internal([them, us], hops, true);
        let (go, gone) = tokio::sync::oneshot::channel();
        let (done, both_done) = tokio::sync::oneshot::channel();
        let (seen, was_seen) = tokio::sync::oneshot::channel();
        std::thread::scope(|scope| {
            let lab = &lab;
            scope.spawn(move || {
                let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let other = async move || {
                    let node = Node::start(2, theirs(Hops::One)).await;
                    // Until the first half of the test is over.
                    gone.await.unwrap();
                    node.0.set_peer(theirs(Hops::Two)).await.unwrap();
                    node.both_up().await;
                    done.send(()).unwrap();
                    // (BIRD 2.0 and FRR 8.4 take a peer's administrator for a failure and end BGP.)
                    let left = |peer: &PeerStatus| peer.bfd.is_some_and(|bfd| bfd.state == State::Down);
                    let peer = node.until("taken down by the administrator", left).await;
                    assert_eq!((peer.state, peer.established_count), (PeerState::Established, 1));
                    seen.send(()).unwrap();
                    node.until("stopped", |peer| peer.state != PeerState::Established).await
                };
                let last = lab.theirs.run(|| runtime().block_on(other())).unwrap();
                assert_eq!(last.bfd.unwrap().failures, 0);
            });
            lab.run(async || {
                let node = Node::start(1, ours(Hops::One)).await;
                let up = |peer: &PeerStatus| peer.state == PeerState::Established;
                node.until("BGP up", up).await;
                // Packets of both sides cross the router all the time, and count for nothing.
                let crossed = async || {
                    let router = lab.router.as_ref().unwrap();
                    let file =
                        if ipv6 { "/proc/thread-self/net/snmp6" } else { "/proc/thread-self/net/snmp" };
                    let text = router.run(|| std::fs::read_to_string(file).unwrap()).unwrap();
                    forwarded(&text, ipv6)
                };
                let before = crossed().await;
                until("8 packets forwarded", async || {
                    let now = crossed().await;
                    if now > before + 8 { Ok(()) } else { Err(now.to_string()) }
                })
                .await;
                let bfd = node.0.peers().await.unwrap()[0].bfd.unwrap();
                assert_eq!((bfd.state, bfd.remote_state), (State::Down, State::Down));
                go.send(()).unwrap();
                node.0.set_peer(ours(Hops::Two)).await.unwrap();
                node.both_up().await;
                both_done.await.unwrap();
                node.0.set_peer(PeerConfig { bfd: None, ..ours(Hops::Two) }).await.unwrap();
                was_seen.await.unwrap();
                node.0.stop(StopMode::Restart).await.unwrap();
            });
        });
    }
}

/// `ForwDatagrams` of the kernel's counters.
fn forwarded(text: &str, ipv6: bool) -> u64 {
    if ipv6 {
        let line = text.lines().find(|line| line.starts_with("Ip6OutForwDatagrams")).unwrap();
        return line.split_whitespace().nth(1).unwrap().parse().unwrap();
    }
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(name, _)| *name == "ForwDatagrams").unwrap().1.parse().unwrap()
}
