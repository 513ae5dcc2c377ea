//! A reflector under attack by a client, and an agent's speaker by a router of another AS, on real sockets: whatever one peer
//! or stranger does, the others notice nothing, memory stays bounded, and the log and the counters name who it was.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]
#![allow(clippy::print_stdout, reason = "says what was skipped")]

mod log;
mod scene;

use bytes::BytesMut;
use margay_bgp::wire::{AfiSafi, Message, Update};
use margay_bgp::{MaxPrefix, Originated, PeerState, PendingLimits, RouteQuery};
use scene::Role::{self, Agent, Reflector};
use scene::{BAD, CENTRE, Scene, announcements, connect, eventually, ip};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

/// Memory is that of the process: one attack at a time.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Set for the process that plays the strangers: this test itself, executed again.
const PLAY_STRANGERS: &str = "ATTACK_PLAY_STRANGERS";
const STRANGERS: u32 = 10_000;

/// Connects from 10,000 addresses, a line for every thousandth, and holds the connections until standard input ends.
async fn play_strangers(net: u8) {
    let mut open = Vec::new();
    for n in 0..STRANGERS {
        let [_, _, high, low] = n.to_be_bytes();
        open.push(connect(Ipv4Addr::new(127, 79, high, low), ip(net, CENTRE)).await);
        if (n + 1) % 1000 == 0 {
            println!("stranger {}", n + 1);
        }
    }
    std::io::read_to_string(std::io::stdin()).unwrap();
}

/// Room for the descriptors of one end of every connection.
fn raise_descriptor_limit() -> bool {
    let process = std::process::id().to_string();
    let raise = |limit| {
        let arguments = ["--pid", &process, limit];
        std::process::Command::new("prlimit").args(arguments).status().is_ok_and(|status| status.success())
    };
    raise("--nofile=12000:") || raise("--nofile=12000:12000")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_half_open_connections() {
    let _one = ONE.lock().await;
    if !raise_descriptor_limit() {
        assert!(std::env::var_os("TESTS_REQUIRE_ALL").is_none(), "12,000 file descriptors are needed");
        println!("skipped: 12,000 file descriptors are needed");
        return;
    }
    if let Ok(net) = std::env::var(PLAY_STRANGERS) {
        play_strangers(net.parse().unwrap()).await;
        return;
    }
    half_open(Reflector, 1).await;
    half_open(Agent, 11).await;
}

async fn half_open(role: Role, net: u8) {
    let mut scene = Scene::new(role, net, |speaker, _| {
        speaker.pending = PendingLimits { max: 4096, timeout: Duration::from_secs(120) };
    })
    .await;
    let mut strangers = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ten_thousand_half_open_connections", "--nocapture"])
        .env(PLAY_STRANGERS, net.to_string())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(strangers.stdout.take().unwrap()).lines();
    let mut connected = 0;
    while connected < STRANGERS {
        let line = lines.next_line().await.unwrap().expect("all strangers connect");
        if let Some(count) = line.strip_prefix("stranger ") {
            connected = count.parse().unwrap();
            scene.probe().await;
        }
    }
    eventually("all are parked or gone", || async {
        (log::with(&["waits"]) >= STRANGERS as usize).then_some(())
    })
    .await;
    assert_eq!(scene.centre.pending().await.unwrap().len(), 4096);
    assert_eq!(log::with(&["too many connections wait"]), STRANGERS as usize - 4096);
    scene.unharmed(96).await;
    // Who is configured needs no place to wait.
    scene.session(90).await;
    drop(strangers.stdin.take());
    assert!(strangers.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_floods() {
    let _one = ONE.lock().await;
    flood(Reflector, 2).await;
    flood(Agent, 12).await;
}

async fn flood(role: Role, net: u8) {
    let mut scene = Scene::new(role, net, |_, _| ()).await;
    let mut stream = scene.session(90).await;
    let flood = tokio::spawn(async move {
        let mut out = BytesMut::new();
        let told = Update::end_of_rib(AfiSafi::Ipv4Unicast);
        Message::Update(told).encode(&role.negotiated(), &mut out).unwrap();
        stream.write_all(&out).await.unwrap();
        let begun = Instant::now();
        let bad = ip(net, BAD).to_string();
        let named = || log::with(&[&bad, "changes its routes over and over"]) > 0;
        let mut round = 0;
        while begun.elapsed() < Duration::from_secs(3) || !named() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the log does not name who floods");
            round += 1;
            stream.write_all(&announcements(role, net, 0..200, round)).await.unwrap();
        }
        (stream, round)
    });
    while !flood.is_finished() {
        scene.probe().await;
    }
    let (_stream, rounds) = flood.await.unwrap();
    assert!(rounds > 100, "{rounds}");
    let last = RouteQuery { prefix: "10.0.0.7/32".parse().ok(), best: true, ..RouteQuery::default() };
    eventually("the last state of what was flooded", || async {
        let routes = scene.nodes[1].routes(last.clone()).await.unwrap();
        routes.first().filter(|route| route.med == Some(rounds)).map(|_| ())
    })
    .await;
    let status = scene.status(BAD).await;
    assert!(status.messages.received.update >= u64::from(rounds), "{:?}", status.messages);
    scene.unharmed(96).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_reads() {
    let _one = ONE.lock().await;
    never_reads(Reflector, 3).await;
    never_reads(Agent, 13).await;
}

async fn never_reads(role: Role, net: u8) {
    let bad = ip(net, BAD).to_string();
    let mut scene = Scene::new(role, net, |speaker, bad| {
        speaker.egress.log_bytes = 512 << 10;
        bad.timers.send_hold = Duration::from_secs(4);
    })
    .await;
    let stream = scene.session(0).await;
    let own = |round: u32| {
        let route = move |n: u32| Originated {
            med: Some(round * 10_000 + n),
            ..Originated::new(
                ipnet::IpNet::new(Ipv4Addr::from(0x0a00_0000 | n).into(), 32).unwrap(),
                Some(ip(net, 3).into()),
            )
        };
        (0..2000).map(route).collect::<Vec<_>>()
    };
    // Every round is some 120 KiB that the bad client doesn't take.
    let mut lag = 0;
    let mut round = 0;
    while log::with(&[&bad, "Idle", "send hold timer"]) == 0 {
        round += 1;
        scene.nodes[1].set_originated(own(round)).await.unwrap();
        scene.probe().await;
        lag = lag.max(scene.status(BAD).await.lag_bytes);
        assert!(round < 2000, "the send hold timer has not ended the session");
    }
    assert!(lag > 64 << 10, "the counter shows the lag: {lag}");
    scene.unharmed(64).await;
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_and_a_stranger_that_say_an_octet_a_second() {
    let _one = ONE.lock().await;
    says_little(Reflector, 4).await;
    says_little(Agent, 14).await;
}

async fn says_little(role: Role, net: u8) {
    let mut scene = Scene::new(role, net, |speaker, _| {
        speaker.pending = PendingLimits { max: 100, timeout: Duration::from_secs(3) };
    })
    .await;
    let mut session = scene.session(3).await;
    let mut stranger = connect(Ipv4Addr::new(127, 79, 0, 1), ip(net, CENTRE)).await;
    let mut keepalive = BytesMut::new();
    Message::Keepalive.encode(&role.negotiated(), &mut keepalive).unwrap();
    for octet in keepalive.chunks(1).take(6) {
        // Either may have been closed meanwhile, which is what should happen.
        let _closed = session.write_all(octet).await;
        let _closed = stranger.write_all(octet).await;
        scene.probe().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(log::with(&["127.79.0.1", "nobody configured it in time"]), 1);
    assert!(log::with(&[&ip(net, BAD).to_string(), "Idle", "hold timer expired"]) > 0);
    assert_eq!(scene.status(BAD).await.last_error.as_deref(), Some("hold timer expired"));
    scene.unharmed(32).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_announces_a_million_prefixes() {
    let _one = ONE.lock().await;
    million(Reflector, 5).await;
    million(Agent, 15).await;
}

async fn million(role: Role, net: u8) {
    let mut scene = Scene::new(role, net, |_, bad| {
        // What a router may announce is a matter of filters.
        bad.authorised_origins = (role == Reflector).then(|| vec!["10.1.0.0/16".parse().unwrap()].into());
        bad.max_prefix = Some(MaxPrefix { limit: 1000, warn_percent: 80, restart: Duration::from_secs(60) });
    })
    .await;
    let (mut read, mut write) = scene.session(90).await.into_split();
    let flood = tokio::spawn(async move {
        for block in 0..1000 {
            if write.write_all(&announcements(role, net, block * 1000..(block + 1) * 1000, 1)).await.is_err()
            {
                return;
            }
        }
    });
    let mut said = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(60), read.read_to_end(&mut said)).await.unwrap();
    // The rest of what it sends may meet a closed socket.
    assert!(end.is_ok() || said.len() > 21);
    flood.await.unwrap();
    let status = scene.status(BAD).await;
    assert_eq!(status.state, PeerState::Idle);
    assert!(
        status.last_error.as_ref().is_some_and(|error| error.contains("the limit is 1000")),
        "{status:?}"
    );
    assert_eq!(status.messages.unauthorised > 0, role == Reflector);
    assert_eq!(status.messages.over_limit, 1);
    assert!(status.families.iter().all(|family| family.received == 0), "{status:?}");
    let bad = ip(net, BAD).to_string();
    assert_eq!(log::with(&[&bad, "not its own"]) > 0, role == Reflector);
    assert!(log::with(&[&bad, "the limit is 1000"]) > 0);
    assert!(log::with(&[&bad, "nears its prefix limit"]) <= 1);
    assert!(log::with(&[&bad, "exceeds its prefix limit"]) > 0);
    let mut again = scene.connect().await;
    assert_eq!(again.read(&mut [0; 64]).await.unwrap(), 0, "barred");
    assert!(log::with(&[&bad, "exceeded its prefix limit"]) > 0);
    scene.unharmed(48).await;
}
