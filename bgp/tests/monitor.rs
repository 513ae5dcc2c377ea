//! Programs that are not ours read what we tell people who look: tshark BMP, bgpdump MRT.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use bytes::Bytes;
use margay_bgp::policy::{Action, CidrMatch, CidrOperator, Filter, Operation, Policy, Rule};
use margay_bgp::transport::{BgpHandle, BgpService, Monitoring, ServiceConfig, StopMode};
use margay_bgp::{Event, Originated, PeerConfig, PeerKind, RouteQuery, SpeakerConfig, StationConfig, Timers};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const AS: u32 = 4_200_000_000;
const PORT: u16 = 17_180;

fn ip(net: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 78, net, last)
}

/// Whether a program of a package is there; says so if not.
fn have(program: &str, package: &str) -> bool {
    if Command::new(program).arg("-h").output().is_ok() {
        return true;
    }
    assert!(
        std::env::var_os("TESTS_REQUIRE_ALL").is_none(),
        "{program} is missing: apt-get install {package}"
    );
    use std::io::Write;
    let mut stderr = std::io::stderr();
    writeln!(stderr, "skipped: {program} is missing (apt-get install {package})").unwrap();
    false
}

struct Node {
    handle: BgpHandle,
    _events: mpsc::Receiver<Event>,
}

fn spawn(net: u8, last: u8, monitoring: Monitoring) -> Node {
    let speaker = SpeakerConfig::new(ip(net, last), AS);
    let listen = vec![SocketAddr::from((ip(net, last), PORT))];
    let (handle, events) =
        BgpService::spawn_monitored(ServiceConfig { speaker, listen }, monitoring).unwrap();
    Node { handle, _events: events }
}

fn peer(net: u8, own: u8, remote: u8, kind: PeerKind) -> PeerConfig {
    let timers = Timers {
        connect_retry: Duration::from_millis(100),
        connect_retry_max: Duration::from_millis(300),
        ..Timers::default()
    };
    PeerConfig {
        port: PORT,
        local: Some(ip(net, own).into()),
        timers,
        ..PeerConfig::new(ip(net, remote).into(), AS, kind)
    }
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !check().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn originated(prefix: &str, next_hop: &str) -> Originated {
    let mut route = Originated::new(prefix.parse().unwrap(), Some(next_hop.parse().unwrap()));
    route.communities = vec!["64512:7".parse().unwrap()];
    route
}

/// Reject 10.9.0.0/16, give others LOCAL_PREF 300.
fn policy() -> Arc<Policy> {
    let inside = CidrMatch { cidr: "10.9.0.0/16".parse().unwrap(), operator: CidrOperator::In, length: None };
    let rules = vec![
        Rule { action: Action::Reject, prefix: Some(inside), ..Rule::default() },
        Rule { operations: vec![Operation::SetLocalPref(300)], ..Rule::default() },
    ];
    Arc::new(Policy { filters: vec![Filter { name: "f".to_owned(), rules }], default: Action::Accept })
}

/// A reflector with one client that announces `routes`.
async fn cluster(net: u8, monitoring: Monitoring, routes: Vec<Originated>) -> (Node, Node) {
    let reflector = spawn(net, 1, monitoring);
    let client = spawn(net, 2, Monitoring::default());
    let towards = PeerConfig { import: policy(), ..peer(net, 1, 2, PeerKind::InternalClient) };
    reflector.handle.set_peers(vec![towards]).await.unwrap();
    reflector.handle.set_originated(Vec::new()).await.unwrap();
    let count = routes.len();
    client.handle.set_originated(routes).await.unwrap();
    client.handle.set_peers(vec![peer(net, 2, 1, PeerKind::Internal)]).await.unwrap();
    eventually("all routes", || async {
        reflector.handle.routes(RouteQuery::default()).await.unwrap().len() == count
    })
    .await;
    (reflector, client)
}

/// A station's side of a connection: everything that came.
struct Station {
    stream: TcpStream,
    data: Vec<u8>,
}

impl Station {
    async fn accept(listener: &TcpListener) -> Self {
        let accepted = tokio::time::timeout(Duration::from_secs(20), listener.accept());
        Self { stream: accepted.await.expect("a connection").unwrap().0, data: Vec::new() }
    }

    /// Reads until the speaker has nothing more to tell.
    async fn settle(&mut self, speaker: &BgpHandle) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            while let Ok(Ok(count)) =
                tokio::time::timeout(Duration::from_millis(100), self.stream.read_buf(&mut self.data)).await
            {
                if count == 0 {
                    return;
                }
            }
            let station = speaker.totals().await.unwrap().stations[0];
            if station.synchronised && station.pending_bytes == 0 {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{station:?}");
        }
    }
}

/// A capture with each message in a packet of its own, so that tshark's answers are per message.
fn capture(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // Byte order, version 2.4, and link type raw IP.
    out.extend([0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
    out.extend([0; 8]);
    out.extend([0xff, 0xff, 0, 0, 101, 0, 0, 0]);
    let (mut rest, mut sequence) = (data, 1_u32);
    while !rest.is_empty() {
        let len = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        let (message, left) = rest.split_at(len);
        rest = left;
        let total = u16::try_from(40 + len).unwrap();
        out.extend([0; 8]);
        out.extend(u32::from(total).to_le_bytes());
        out.extend(u32::from(total).to_le_bytes());
        out.extend([0x45, 0]);
        out.extend(total.to_be_bytes());
        out.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        out.extend([0x9c, 0x40, 0x2b, 0x0b]);
        out.extend(sequence.to_be_bytes());
        out.extend([0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
        out.extend(message);
        sequence += u32::try_from(len).unwrap();
    }
    out
}

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("margay-monitor-{}-{name}", std::process::id()))
}

/// What tshark reads in the messages, by its field names.
fn tshark(data: &[u8], name: &str) -> Vec<BTreeMap<&'static str, String>> {
    const FIELDS: [&str; 15] = [
        "bmp.type",
        "bmp.peer.type",
        "bmp.peer.flags.post_policy",
        "bmp.peer.ip.addr",
        "bmp.peer.asn",
        "bmp.peer.up.port.remote",
        "bgp.type",
        "bgp.nlri_prefix",
        "bgp.mp_reach_nlri_ipv6_prefix",
        "bgp.withdrawn_prefix",
        "bgp.update.path_attribute.local_pref",
        "bgp.update.path_attribute.community_value",
        "bmp.peer.down.reason",
        "bmp.stats.data.routes_adj_rib_in",
        "_ws.malformed",
    ];
    let path = file(name);
    std::fs::write(&path, capture(data)).unwrap();
    let mut command = Command::new("tshark");
    command.args([
        "-r",
        path.to_str().unwrap(),
        "-d",
        "tcp.port==11019,bmp",
        "-T",
        "fields",
        "-E",
        "separator=|",
    ]);
    command.args(FIELDS.into_iter().flat_map(|field| ["-e", field]));
    let output = command.output().unwrap();
    std::fs::remove_file(&path).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = |line: &str| FIELDS.into_iter().zip(line.split('|').map(str::to_owned)).collect();
    let messages: Vec<BTreeMap<_, _>> = text.lines().map(line).collect();
    for message in &messages {
        assert!(message["_ws.malformed"].is_empty() && !message["bmp.type"].is_empty(), "{message:?}");
    }
    messages
}

/// LOCAL_PREF by table and prefix after all the messages.
fn tables(messages: &[BTreeMap<&'static str, String>]) -> BTreeMap<(String, String), String> {
    let mut tables = BTreeMap::new();
    for message in messages.iter().filter(|message| message["bmp.type"] == "0") {
        let table = match (&*message["bmp.peer.type"], &*message["bmp.peer.flags.post_policy"]) {
            ("3", _) => "loc",
            (_, "1") => "post",
            _ => "pre",
        };
        let key = |prefix: &str| (table.to_owned(), prefix.to_owned());
        for prefix in message["bgp.withdrawn_prefix"].split(',').filter(|it| !it.is_empty()) {
            tables.remove(&key(prefix)).expect("told before");
        }
        for field in ["bgp.nlri_prefix", "bgp.mp_reach_nlri_ipv6_prefix"] {
            for prefix in message[field].split(',').filter(|it| !it.is_empty()) {
                assert_eq!(message["bgp.update.path_attribute.community_value"], "7", "{message:?}");
                let pref = message["bgp.update.path_attribute.local_pref"].clone();
                tables.insert(key(prefix), pref);
            }
        }
    }
    tables
}

#[tokio::test]
async fn tshark_reads_what_stations_are_told() {
    if !have("tshark", "tshark") {
        return;
    }
    let listener = TcpListener::bind((ip(1, 9), 0)).await.unwrap();
    let config = StationConfig { statistics: Duration::from_secs(1), ..StationConfig::default() };
    let monitoring = Monitoring {
        name: "rr1".to_owned(),
        description: "margay".to_owned(),
        stations: vec![(listener.local_addr().unwrap(), config)],
        records: None,
    };
    let routes = vec![
        originated("10.1.0.0/24", "192.0.2.2"),
        originated("10.9.1.0/24", "192.0.2.2"),
        originated("2001:db8:1::/64", "2001:db8::2"),
    ];
    let (reflector, client) = cluster(1, monitoring, routes.clone()).await;
    let mut station = Station::accept(&listener).await;
    station.settle(&reflector.handle).await;
    let told = |prefixes: &[(&str, &str, &str)]| -> BTreeMap<(String, String), String> {
        prefixes.iter().map(|(t, p, l)| (((*t).to_owned(), (*p).to_owned()), (*l).to_owned())).collect()
    };
    let all = told(&[
        ("pre", "10.1.0.0", "100"),
        ("pre", "10.9.1.0", "100"),
        ("pre", "2001:db8:1::", "100"),
        ("post", "10.1.0.0", "300"),
        ("post", "2001:db8:1::", "300"),
        ("loc", "10.1.0.0", "300"),
        ("loc", "2001:db8:1::", "300"),
    ]);
    assert_eq!(tables(&tshark(&station.data, "first")), all);

    // A change, and statistics.
    let fewer = vec![routes[1].clone(), routes[2].clone(), originated("10.1.1.0/24", "192.0.2.2")];
    client.handle.set_originated(fewer).await.unwrap();
    let mut expected =
        told(&[("pre", "10.1.1.0", "100"), ("post", "10.1.1.0", "300"), ("loc", "10.1.1.0", "300")]);
    expected.extend(all.clone().into_iter().filter(|((_, prefix), _)| prefix != "10.1.0.0"));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        station.settle(&reflector.handle).await;
        let messages = tshark(&station.data, "second");
        let counted = messages.iter().any(|message| message["bmp.stats.data.routes_adj_rib_in"] == "3");
        if tables(&messages) == expected && counted {
            let up = messages.iter().find(|m| m["bmp.type"] == "3" && m["bmp.peer.type"] == "0").unwrap();
            assert_eq!((&*up["bgp.type"], &*up["bmp.peer.asn"]), ("1,1", "4200000000"), "both OPENs");
            assert_eq!(up["bmp.peer.ip.addr"], ip(1, 2).to_string());
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{messages:?}");
    }

    // The station goes and comes: everything again, and no more than is so now.
    drop(station);
    let mut station = Station::accept(&listener).await;
    station.settle(&reflector.handle).await;
    assert_eq!(tables(&tshark(&station.data, "again")), expected);

    client.handle.stop(StopMode::Shutdown("maintenance".to_owned())).await.unwrap();
    let ended = |messages: &[BTreeMap<_, String>]| messages.iter().any(|m| m["bmp.peer.down.reason"] == "3");
    while !ended(&tshark(&station.data, "down")) {
        assert!(tokio::time::Instant::now() < deadline, "no Peer Down");
        station.settle(&reflector.handle).await;
    }
    reflector.handle.stop(StopMode::Restart).await.unwrap();
    let rest = station.stream.read_to_end(&mut station.data);
    tokio::time::timeout(Duration::from_secs(10), rest).await.unwrap().unwrap();
    let last = tshark(&station.data, "end").pop().unwrap();
    assert_eq!(last["bmp.type"], "5", "termination: {last:?}");
}

/// What bgpdump reads, one line per route or message.
fn bgpdump(data: &[u8], name: &str) -> Vec<Vec<String>> {
    let path = file(name);
    std::fs::write(&path, data).unwrap();
    let text = run_bgpdump(&path);
    std::fs::remove_file(&path).unwrap();
    text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

fn run_bgpdump(path: &Path) -> String {
    let output = Command::new("bgpdump").args(["-m", path.to_str().unwrap()]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !errors.contains("unknown"), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn bgpdump_reads_dumps_and_records() {
    if !have("bgpdump", "bgpdump") {
        return;
    }
    let (sender, mut records) = mpsc::channel::<Bytes>(1024);
    let monitoring = Monitoring { records: Some(sender), ..Monitoring::default() };
    let mut routes =
        vec![originated("2001:db8:1::/64", "2001:db8::2"), originated("10.9.1.0/24", "192.0.2.2")];
    routes.extend((0..3000_u16).map(|n| {
        let [high, low] = n.to_be_bytes();
        originated(&format!("10.{}.{low}.0/24", 100 + high), "192.0.2.2")
    }));
    let (reflector, client) = cluster(2, monitoring, routes).await;

    let (mut data, mut next, mut parts) = (Vec::new(), None, 0);
    loop {
        let page = reflector.handle.dump(next.take()).await.unwrap();
        data.extend_from_slice(&page.data);
        parts += 1;
        match page.next {
            Some(cursor) => next = Some(cursor),
            None => break,
        }
    }
    assert!(parts > 2, "in parts");
    let mut dumped: Vec<String> = Vec::new();
    for line in bgpdump(&data, "dump") {
        assert_eq!(line[0], "TABLE_DUMP2", "{line:?}");
        assert_eq!((&*line[3], &*line[4]), (&*ip(2, 2).to_string(), "4200000000"), "{line:?}");
        assert_eq!((&*line[7], &*line[9], &*line[11]), ("IGP", "300", "64512:7"), "{line:?}");
        dumped.push(format!("{} via {}", line[5], line[8]));
    }
    dumped.sort();
    let query = RouteQuery { best: true, ..RouteQuery::default() };
    let routes = reflector.handle.routes(query).await.unwrap();
    let mut held: Vec<String> =
        routes.iter().map(|r| format!("{} via {}", r.prefix, r.next_hop.unwrap())).collect();
    held.sort();
    assert_eq!(held.len(), 3001);
    assert_eq!(dumped, held);

    // The records of what led to it, and of the end.
    client.handle.stop(StopMode::Shutdown(String::new())).await.unwrap();
    eventually("the peer is gone", || async {
        reflector.handle.routes(RouteQuery::default()).await.unwrap().is_empty()
    })
    .await;
    let mut data = Vec::new();
    while let Ok(record) = records.try_recv() {
        data.extend_from_slice(&record);
    }
    let lines = bgpdump(&data, "records");
    let announced = lines.iter().filter(|line| line[0] == "BGP4MP_ET" && line[2] == "A");
    let announced: Vec<&str> = announced.map(|line| line[5].as_str()).collect();
    assert!(announced.contains(&"2001:db8:1::/64") && announced.contains(&"10.9.1.0/24"), "as received");
    assert_eq!(announced.len(), 3002);
    let states: Vec<(&str, &str)> =
        lines.iter().filter(|line| line[2] == "STATE").map(|line| (&*line[5], &*line[6])).collect();
    assert!(states.contains(&("5", "6")) && states.last().unwrap().0 == "6", "{states:?}");
    let _: IpAddr = lines[0][3].parse().unwrap();
}
