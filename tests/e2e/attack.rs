//! Routers outside that mean no good to an agent: its other sessions go on, its memory is bounded, its log and its metrics
//! say what happens.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_control::bgp::Peer;
use margay_tests::cluster::{Cluster, Datastore, wait};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::bgp::{all_sessions, established, message, receive, unharmed};
use crate::labs::{Labs, PATIENCE, applied, margay, sessions, wait_metric};

/// A router on the machine r1: its address and AS.
type Router = (Ipv4Addr, u16);

/// Changes its routes without end, and announces more than it may afterwards.
const FLOODS: Router = (Ipv4Addr::new(172, 30, 1, 1), 64_999);
/// Never reads. It is of the cluster's AS, so that it is told of every change of MULTI_EXIT_DISC.
const DEAF: Router = (Ipv4Addr::new(172, 30, 1, 3), 64_512);
/// Says an octet a second.
const TRICKLES: Router = (Ipv4Addr::new(172, 30, 1, 4), 64_997);

const OBJECTS: &str = "apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: floods, annotations: {margay.io/max-prefixes: '20000'}}
spec: {node: node1, peerIP: 172.30.1.1, asNumber: 64999}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: deaf}
spec: {node: node1, peerIP: 172.30.1.3, asNumber: 64512, filters: [what-routers-say]}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: what-routers-say}
spec: {exportV4: [{action: Accept, cidr: 20.0.0.0/8, matchOperator: In, source: RemotePeers}]}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: trickles}
spec: {node: node1, peerIP: 172.30.1.4, asNumber: 64997}
";

/// What the one that floods may announce, and does.
const ROUTES: u32 = 10_000;
/// More than a group of peers may have of the log, and than sockets hold.
const LAG: u64 = 5 << 20;

/// OPEN and KEEPALIVE.
fn opening((own, number): Router, hold: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    // IPv4 unicast, route refresh as of RFC 2918 and of RFC 7313, 4-octet AS numbers.
    let capabilities = [1, 4, 0, 1, 0, 1, 2, 0, 70, 0, 65, 4, 0, 0, high, low];
    let [one, other] = hold.to_be_bytes();
    let body = [&[4, high, low, one, other], &own.octets()[..], &[18, 2, 16], &capabilities].concat();
    [message(47, 1, &body), message(19, 4, &[])].concat()
}

/// UPDATEs of the one that floods, with these /32s of 20.0.0.0/8.
fn host_routes(numbers: std::ops::Range<u32>, med: u32) -> Vec<u8> {
    // ORIGIN IGP, AS_PATH 64999, NEXT_HOP, MULTI_EXIT_DISC.
    let mut attributes =
        vec![0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe7, 0x40, 3, 4, 172, 30, 1, 1, 0x80, 4, 4];
    attributes.extend_from_slice(&med.to_be_bytes());
    let mut out = Vec::new();
    for chunk in numbers.collect::<Vec<_>>().chunks(500) {
        let mut body = vec![0, 0, 0, 27];
        body.extend_from_slice(&attributes);
        for number in chunk {
            body.push(32);
            body.extend_from_slice(&(0x1400_0000 + number).to_be_bytes());
        }
        out.extend(message(u16::try_from(19 + body.len()).unwrap(), 2, &body));
    }
    out
}

fn session(cluster: &Cluster, (own, _): Router) -> Result<Option<Peer>> {
    Ok(sessions(cluster, "node1")?.into_iter().find(|peer| peer.address == IpAddr::from(own)))
}

fn is_up(cluster: &Cluster, router: Router) -> Result<bool> {
    Ok(session(cluster, router)?.is_some_and(|peer| peer.state == "Established"))
}

/// Opens a router's session, as far as that is its own part.
fn connect(cluster: &Cluster, router: Router, hold: u16) -> Result<TcpStream> {
    wait(PATIENCE, || Ok(session(cluster, router)?.is_some())).context("node1 knows the router")?;
    let target = SocketAddr::new(cluster.address("node1")?, 179);
    let connect = || -> Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_recv_buffer_size(4096)?;
        socket.bind(&SocketAddr::from((router.0, 0)).into())?;
        socket.connect_timeout(&target.into(), PATIENCE)?;
        Ok(socket.into())
    };
    let mut stream = cluster.node("r1")?.netns().run(connect)??;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&opening(router, hold))?;
    Ok(stream)
}

pub(crate) fn by_routers(labs: &mut Labs) -> Result<()> {
    let cluster = &mut labs.demo(Datastore::Embedded)?.cluster;
    let before = all_sessions(cluster)?;
    let reflector = cluster.address("rr1")?;
    let addresses = [DEAF, TRICKLES].map(|(own, _)| format!("{own}/24"));
    for address in &addresses {
        cluster.run_in("r1", "ip", &["address", "add", address, "dev", "eth1"])?;
    }
    applied(cluster, OBJECTS)?;
    trickle(cluster)?;
    unharmed(cluster, &before)?;

    let used = cluster.resident("node1")?;
    let mut stream = connect(cluster, FLOODS, 90)?;
    // Without a hold timer: it need not say anything more, either.
    let mut deaf = connect(cluster, DEAF, 0)?;
    for router in [FLOODS, DEAF] {
        wait(PATIENCE, || is_up(cluster, router))
            .with_context(|| format!("{:#?}", sessions(cluster, "node1")))?;
    }
    flood(cluster, stream.try_clone()?)?;
    late_reader(cluster, &mut deaf)?;
    more_than_it_may(cluster, &mut stream)?;
    let grown = cluster.resident("node1")?.saturating_sub(used);
    ensure!(grown < 128 << 10, "the agent's memory grew by {grown} KiB");

    drop(deaf);
    for (kind, name) in [
        ("bgppeer", "floods"),
        ("bgppeer", "deaf"),
        ("bgppeer", "trickles"),
        ("bgpfilter", "what-routers-say"),
    ] {
        margay(cluster, &["delete", kind, name])?;
    }
    for address in &addresses {
        cluster.run_in("r1", "ip", &["address", "del", address, "dev", "eth1"])?;
    }
    // What the loss of rr1 did not touch has not begun anew.
    let others = before.into_iter().filter(|(node, _)| *node != "rr1").map(|(node, mut peers)| {
        peers.remove(&reflector);
        (node, peers)
    });
    let others: BTreeMap<_, _> = others.collect();
    for (node, sessions) in &others {
        let mut now = established(cluster, node)?;
        now.retain(|peer, _| *peer != reflector && *peer != IpAddr::from(DEAF.0));
        ensure!(
            now == *sessions,
            "{node}: {sessions:?} before, {now:?} now; its log:\n{}",
            cluster.log(node)
        );
    }
    Ok(())
}

/// An octet of a KEEPALIVE a second is no message within the hold time.
fn trickle(cluster: &Cluster) -> Result<()> {
    let mut stream = connect(cluster, TRICKLES, 3)?;
    let peer = TRICKLES.0.to_string();
    let ended = |line: &str| line.contains(&peer) && line.contains("hold timer expired");
    wait(PATIENCE, || {
        // It is over at some octet.
        let _refused = stream.write_all(&[0xff]);
        std::thread::sleep(Duration::from_secs(1));
        Ok(cluster.whole_log("node1").lines().any(ended))
    })
    .context("nobody says that it says no message")?;
    wait_metric(cluster, "node1", "bgp_peer_established_total", &[("peer", &peer)], |times| times > 0)?;
    wait_metric(cluster, "node1", "bgp_peer_up", &[("peer", &peer)], |up| up == 0)
}

/// Changes of all routes as fast as they go, of which the deaf one reads none.
fn flood(cluster: &mut Cluster, mut stream: TcpStream) -> Result<()> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        let flooding = scope.spawn(move || -> Result<()> {
            for med in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                stream.write_all(&host_routes(0..ROUTES, med))?;
            }
            Ok(())
        });
        // The router may be on its way while a reflector is lost and found, and a node begins anew.
        let shown = (|| {
            wait(PATIENCE, || {
                Ok(cluster.whole_log("node1").contains("peer changes its routes over and over"))
            })
            .context("nobody says who floods")?;
            cluster.kill("rr1")?;
            cluster.start("rr1")?;
            cluster.wait_ready("rr1", PATIENCE)?;
            wait(PATIENCE, || Ok(established(cluster, "node1")?.len() == 4))
                .context("both reflectors and the routers")?;
            let deaf = [("peer", &*DEAF.0.to_string())];
            wait_metric(cluster, "node1", "bgp_peer_lag_bytes", &deaf, |octets| octets > LAG)
        })();
        done.store(true, Ordering::Relaxed);
        shown?;
        flooding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let metrics = cluster.client("node1").get_text("/metrics")?;
    let held = metrics.lines().filter(|line| line.starts_with("margay_bgp_group_log_bytes{"));
    let held: u64 = held.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
    ensure!((1..=8 << 20).contains(&held), "{held} octets of changes are held");
    Ok(())
}

/// Who reads in the end is told everything again, in the same session.
fn late_reader(cluster: &Cluster, stream: &mut TcpStream) -> Result<()> {
    SockRef::from(&*stream).set_recv_buffer_size(1 << 20)?;
    // ROUTE-REFRESH of RFC 7313: subtype 1 begins a refresh, 2 ends it.
    let mut told = None;
    loop {
        match receive(stream)? {
            (5, body) if body.get(2) == Some(&1) => told = Some(BTreeSet::new()),
            (5, body) if body.get(2) == Some(&2) => break,
            (2, body) => {
                let Some(told) = &mut told else { continue };
                let [high, low] = *body.get(2..4).and_then(|at| at.first_chunk()).context("no attributes")?;
                let nlri = body.get(4 + usize::from(u16::from_be_bytes([high, low]))..).context("no NLRI")?;
                told.extend(nlri.chunks(5).filter(|one| one.starts_with(&[32, 20])).map(<[u8]>::to_vec));
            }
            (3, body) => anyhow::bail!("the session is over: {body:02x?}"),
            _ => {}
        }
    }
    let told = told.context("the end of a refresh that did not begin")?;
    ensure!(told.len() == ROUTES as usize, "{} of {ROUTES} routes", told.len());
    let peer = DEAF.0.to_string();
    for (name, is) in [
        ("bgp_peer_resyncs_total", (|times| times > 0) as fn(u64) -> bool),
        ("bgp_peer_lag_bytes", |octets| octets == 0),
        ("bgp_peer_established_total", |times| times == 1),
    ] {
        wait_metric(cluster, "node1", name, &[("peer", &peer)], is)?;
    }
    let said = "peer fell behind and is sent the whole table again";
    ensure!(cluster.whole_log("node1").contains(said), "the log does not say: {said}");
    Ok(())
}

/// A million prefixes.
fn more_than_it_may(cluster: &Cluster, stream: &mut TcpStream) -> Result<()> {
    // It may end in the middle: the session is closed.
    let _sent = stream.write_all(&host_routes(0..1_000_000, 0));
    wait(PATIENCE, || Ok(!is_up(cluster, FLOODS)?)).context("the session goes on")?;
    wait(PATIENCE, || {
        Ok(cluster.whole_log("node1").contains("peer exceeds its prefix limit and is cut off"))
    })
    .context("the log says nothing of it")?;
    let peer = FLOODS.0.to_string();
    wait_metric(cluster, "node1", "bgp_peer_limit_exceeded_total", &[("peer", &peer)], |times| times == 1)?;
    let in_kernel =
        || Ok(cluster.run_in("node1", "ip", &["route", "show", "root", "20.0.0.0/8"])?.is_empty());
    wait(PATIENCE, in_kernel).context("routes of the router stay in the kernel")
}
