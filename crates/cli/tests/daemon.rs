//! The real binary against a socket that answers as the daemon does, with the types of `margay-control`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use common::Lab;
use margay_control::explain::{End, ExplainReply, ImpactChange, ImpactReply, RuleAt, SeenChange, Turned};
use margay_control::status::{Endpoint, IpamAddress, IpamBlock, IpamStatus, Policy};
use margay_control::{ErrorBody, bgp};
use serde::Serialize;

/// As the daemon says it: arrays are streamed, a value per line.
fn said(value: &impl Serialize) -> String {
    match serde_json::to_value(value).unwrap() {
        serde_json::Value::Array(values) => {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            format!("[\n{}\n]\n", values.join("\n,"))
        }
        value => value.to_string(),
    }
}

/// Answers one request; the thread returns the request.
fn answer(lab: &Lab, status: &str, body: &impl Serialize) -> (String, JoinHandle<Vec<String>>) {
    answers(lab, status, vec![said(body)])
}

/// Answers requests one after the other; the thread returns the requests.
fn answers(lab: &Lab, status: &str, bodies: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
    let path = lab.dir.join("agent.sock");
    drop(std::fs::remove_file(&path));
    let listener = UnixListener::bind(&path).unwrap();
    let reply = |body: String| format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let replies: Vec<String> = bodies.into_iter().map(reply).collect();
    let respond = move |reply: String| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = vec![0; 65_536];
        let mut length = 0;
        // The body comes with the head or right after it; its end is the closing brace.
        while !request[..length].windows(4).any(|w| w == b"\r\n\r\n")
            || (request.starts_with(b"POST") && !request[..length].ends_with(b"}"))
        {
            length += stream.read(&mut request[length..]).unwrap();
        }
        stream.write_all(reply.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    };
    let thread = std::thread::spawn(move || replies.into_iter().map(respond).collect());
    (path.display().to_string(), thread)
}

/// Exit code, stdout and stderr of the command, and the request it made.
fn ask(lab: &Lab, args: &[&str], body: &impl Serialize) -> (Option<i32>, String, String) {
    let (socket, thread) = answer(lab, "200 OK", body);
    let (status, out, error) = lab.bare(&[args, &["--socket", &socket]].concat(), None, &[]);
    assert!(error.is_empty(), "{error}");
    (status, out, thread.join().unwrap().remove(0))
}

/// What a command shows that goes on with these changes after an answer.
fn watch(lab: &Lab, args: &[&str], first: &impl Serialize, changes: &[bgp::Change]) -> String {
    let lines = changes.iter().map(|change| serde_json::to_string(change).unwrap() + "\n").collect();
    let (socket, thread) = answers(lab, "200 OK", vec![lines, said(first)]);
    let (_, out, error) = lab.bare(&[args, &["--watch", "--socket", &socket]].concat(), None, &[]);
    assert!(error.is_empty(), "{error}");
    assert!(thread.join().unwrap()[0].starts_with("GET /v1/bgp/watch "));
    out
}

fn peer(address: &str, state: &str) -> bgp::Peer {
    bgp::Peer {
        address: address.parse().unwrap(),
        name: "rr1".into(),
        kind: "reflector".into(),
        remote_as: 64512,
        state: state.into(),
        since_seconds: 7380,
        received: 2,
        stale: 1,
        advertised: 1,
        last_error: Some("hold timer expired".into()),
        last_reset: Some("hold timer expired".into()),
        last_reset_seconds: Some(5),
        capabilities: vec!["route-refresh".into(), "graceful-restart".into()],
        established_count: 3,
        families: vec![bgp::PeerFamily {
            family: "ipv4-unicast".into(),
            received: 2,
            end_of_rib_received: true,
            ..bgp::PeerFamily::default()
        }],
        filtered: 0,
        last_error_seconds: Some(3),
        remote_id: None,
        local: None,
        messages: bgp::Messages::default(),
        lag_bytes: 0,
        resyncs: 0,
        group: Some(1),
        bfd: None,
    }
}

fn route(prefix: &str, from: &str, best: bool) -> bgp::Route {
    bgp::Route {
        prefix: prefix.parse().unwrap(),
        next_hop: Some(from.parse().unwrap()),
        from: Some(from.parse().unwrap()),
        path_id: Some(3),
        best,
        multipath: best,
        filtered: false,
        stale: false,
        origin: "igp".into(),
        med: None,
        reason: "lowest router id".into(),
        local_pref: Some(100),
        as_path: String::new(),
        originator_id: Some("172.20.0.2".into()),
        cluster_list: vec!["1.1.1.1".into()],
        communities: Vec::new(),
        age_seconds: 12,
    }
}

#[test]
fn bgp_while_it_changes() {
    let lab = Lab::new("bgp-watch");
    let (one, two) = ("172.20.0.11", "172.20.0.12");
    let both = |prefix: &str| vec![route(prefix, one, true), route(prefix, two, false)];
    let change = |prefix: &str, paths| bgp::Change::Route { prefix: prefix.parse().unwrap(), paths };
    let changes = [
        // The first one's path goes, the other's is as good as ever; then that goes, too.
        change("10.65.1.0/24", vec![route("10.65.1.0/24", two, true)]),
        bgp::Change::Lost { batches: 7 },
        change("10.65.1.0/24", Vec::new()),
        change("10.65.2.0/24", both("10.65.2.0/24")),
        change("10.65.3.0/24", vec![route("10.65.3.0/24", two, true)]),
        change("10.65.3.0/24", Vec::new()),
    ];
    let gone = |out: &str| {
        let lines = out.lines().filter(|line| line.ends_with("withdrawn"));
        lines.map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect::<Vec<String>>()
    };
    let out = watch(&lab, &["bgp", "routes", "--peer", one], &[route("10.65.1.0/24", one, true)], &changes);
    assert_eq!(gone(&out), ["10.65.1.0/24"], "once, and none that was never there: {out}");
    assert!(out.contains("# too slow: 7 batches") && out.contains("10.65.2.0/24"), "{out}");
    let out = watch(&lab, &["bgp", "routes"], &both("10.65.1.0/24"), &changes);
    assert_eq!(gone(&out), ["10.65.1.0/24", "10.65.3.0/24"], "{out}");
    let out = watch(&lab, &["bgp", "routes", "-o", "json"], &both("10.65.1.0/24"), &changes);
    let values: Vec<serde_json::Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(values.contains(&serde_json::json!({ "lost": 7 })), "{out}");

    let changes = [
        bgp::Change::Peer(Box::new(peer(two, "Established"))),
        bgp::Change::Lost { batches: 2 },
        bgp::Change::Removed { peer: two.parse().unwrap() },
        bgp::Change::Removed { peer: two.parse().unwrap() },
    ];
    let out = watch(&lab, &["bgp", "peers"], &[peer(one, "Active")], &changes);
    let removed: Vec<&str> = out.lines().filter(|line| line.ends_with("removed")).collect();
    assert!(removed.len() == 1 && removed[0].contains(two), "{out}");
    let out = watch(&lab, &["bgp", "summary"], &[peer(one, "Active")], &changes);
    assert!(out.starts_with("0 of 1 sessions established"), "{out}");
    let rows: Vec<Vec<&str>> = out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|row: &Vec<_>| row.first() == Some(&two))
        .collect();
    let place =
        |begin: &str, word: &str| out.lines().find(|line| line.starts_with(begin)).unwrap().find(word);
    assert_eq!(place(two, "rr1"), place("NEIGHBOR", "NAME"), "under its head: {out}");
    assert_eq!(rows, [[two, "64512", "0", "0", "2h03m", "2", "1", "rr1"]], "a row of the summary: {out}");
    let out = watch(&lab, &["bgp", "summary", "-o", "json"], &[peer(one, "Active")], &changes);
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(last, serde_json::json!({ "address": two, "removed": true }));
}

#[test]
fn bgp_sessions_and_routes() {
    let lab = Lab::new("bgp");
    let peers = [peer("172.20.0.11", "Established"), peer("172.20.0.12", "Active")];
    let (_, out, request) = ask(&lab, &["bgp", "peers"], &peers);
    assert!(request.starts_with("GET /v1/bgp/peers "), "{request}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("PEER ADDRESS"), "{out}");
    assert!(
        lines[1].contains("up") && lines[1].contains("2h03m") && lines[1].ends_with("Established"),
        "{out}"
    );
    assert!(lines[2].contains("Active") && lines[2].ends_with("hold timer expired"), "{out}");
    let (_, out, _) = ask(&lab, &["bgp", "summary"], &peers);
    assert!(out.starts_with("1 of 2 sessions established, 4 prefixes received, 2 of them stale"), "{out}");
    let (_, out, _) = ask(&lab, &["bgp", "peers", "-o", "wide"], &peers);
    assert!(out.contains("route-refresh,graceful-restart"), "{out}");

    let (_, out, _) = ask(&lab, &["bgp", "summary", "-o", "wide"], &peers);
    assert!(out.contains("LAST RESET") && out.contains("hold timer expired"), "{out}");
    for words in [["route", "10.65.2.0/24"], ["explain", "10.65.2.0/24"], ["neighbor", "172.20.0.11"]] {
        let (status, _, error) = lab.bare(&[&["bgp"], words.as_slice(), &["-o", "wide"]].concat(), None, &[]);
        assert!(status != Some(0) && error.contains("no wide form"), "{words:?}: {error}");
    }

    let never = bgp::Peer { established_count: 0, ..peer("172.20.0.13", "Active") };
    let (_, out, _) = ask(&lab, &["bgp", "summary"], &[&never]);
    assert!(out.lines().last().unwrap().contains("never"), "{out}");
    let (_, out, _) = ask(&lab, &["bgp", "neighbor", "172.20.0.13"], &[&never]);
    assert!(out.contains("state          Active, never up"), "{out}");

    let route = route("10.65.2.0/24", "172.20.0.11", true);
    let (_, out, request) = ask(&lab, &["bgp", "routes", "10.65.2.0/24"], &[&route]);
    assert!(request.starts_with("GET /v1/bgp/routes?prefix=10.65.2.0/24 "), "{request}");
    assert!(out.lines().nth(1).unwrap().starts_with(">  10.65.2.0/24  172.20.0.11"), "{out}");
    let (_, out, _) = ask(&lab, &["bgp", "routes", "-o", "json"], &[&route]);
    assert_eq!(serde_json::from_str::<Vec<bgp::Route>>(&out).unwrap(), std::slice::from_ref(&route));
    let (_, out, request) = ask(&lab, &["bgp", "route", "10.65.2.9"], &[&route]);
    assert!(request.starts_with("GET /v1/bgp/routes?exact=true&prefix=10.65.2.9 "), "{request}");
    assert!(out.contains("originator id  172.20.0.2") && out.contains("path id        3"), "{out}");
    let args = ["bgp", "neighbor", "172.20.0.11", "filtered"];
    let (_, out, request) = ask(&lab, &args, &Vec::<bgp::Route>::new());
    assert!(request.starts_with("GET /v1/bgp/routes?peer=172.20.0.11&filtered=true "), "{request}");
    assert_eq!(out, "No BGP routes.\n");
    let (_, out, request) = ask(&lab, &args[..3], &[&peers[0]]);
    assert!(request.starts_with("GET /v1/bgp/peers?address=172.20.0.11 "), "{request}");
    assert!(out.contains("state          Established, up for 2h03m"), "{out}");
    assert!(out.contains("ipv4-unicast  2         0         0      0           received"), "{out}");

    // More than the first rows decide on: nothing is lost, and every form is whole.
    let many: Vec<bgp::Route> = (0..2000_u32)
        .map(|n| bgp::Route {
            prefix: format!("{}/24", std::net::Ipv4Addr::from_bits(0x0a00_0000 + (n << 8))).parse().unwrap(),
            ..route.clone()
        })
        .collect();
    let (_, out, _) = ask(&lab, &["bgp", "routes"], &many);
    assert_eq!(out.lines().count(), 2001);
    let (_, out, _) = ask(&lab, &["bgp", "routes", "-o", "json"], &many);
    assert_eq!(serde_json::from_str::<Vec<bgp::Route>>(&out).unwrap(), many);
    let (_, out, _) = ask(&lab, &["bgp", "routes", "-o", "yaml"], &many);
    assert_eq!(out.matches("- prefix:").count(), 2000);
}

#[test]
fn addresses_endpoints_and_policies() {
    let lab = Lab::new("node");
    let ipam = IpamStatus {
        node: "n1".into(),
        blocks: vec![IpamBlock {
            cidr: "10.65.1.0/24".parse().unwrap(),
            pool: "default".into(),
            used: 2,
            cooling: 1,
            total: 256,
        }],
        addresses: vec![IpamAddress {
            address: "10.65.1.1".parse().unwrap(),
            handle: "margay.c1.eth0".into(),
            pod: Some("shop/web-0".into()),
        }],
    };
    let (_, out, _) = ask(&lab, &["ipam", "show"], &ipam);
    assert!(
        out.contains("10.65.1.0/24  default  256        2 (0%)      1        253")
            && out.contains("shop/web-0"),
        "{out}"
    );
    let (_, out, _) = ask(&lab, &["ipam", "show", "-o", "yaml"], &ipam);
    assert!(out.contains("node: n1") && out.contains("pool: default"), "{out}");

    let endpoint = Endpoint {
        namespace: "shop".into(),
        pod: "web-0".into(),
        name: "n1-k8s-web--0-eth0".into(),
        interface: "mgy0123456789a".into(),
        addresses: vec!["10.65.1.1".parse().unwrap()],
        live: true,
        policies: vec!["default/NetworkPolicy(shop/web)".into()],
    };
    let (_, out, _) = ask(&lab, &["endpoints"], &[&endpoint]);
    assert!(out.contains("mgy0123456789a  yes   1"), "{out}");

    let policy = Policy {
        tier: "default".into(),
        name: "NetworkPolicy(shop/web)".into(),
        staged: false,
        endpoints: 1,
        ingress_rules: 1,
        egress_rules: 0,
        packets: 7,
        invalid: None,
    };
    let (_, out, _) = ask(&lab, &["policy"], &[&policy]);
    assert!(out.contains("NetworkPolicy(shop/web)  enforced"), "{out}");
}

#[test]
fn impact_sends_what_would_be_applied() {
    let lab = Lab::new("impact");
    let file = lab.file(
        "new.yaml",
        "---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\nspec:\n  \
         selector: all()\n  ingress:\n  - action: Deny\n    protocol: TCP\n  - action: Deny\n    protocol: UDP\n",
    );
    let rule = |field: &str| RuleAt {
        kind: "NetworkPolicy".into(),
        namespace: Some("shop".into()),
        name: "web".into(),
        field: field.into(),
    };
    let turned =
        |rule| Turned { allowed_before: true, allowed_after: false, by: "end of tier default".into(), rule };
    let change = ImpactChange {
        from: ["a", "b", "c", "d", "e"].map(|name| format!("shop/{name}")).into(),
        to: vec!["shop/web".into()],
        flows: vec!["tcp/80".into()],
        turned: turned(None),
    };
    let seen = SeenChange {
        from: "shop/a".into(),
        to: "shop/web".into(),
        flow: "tcp/80".into(),
        count: 2,
        turned: turned(Some(rule("spec.ingress[1]"))),
    };
    let (changes, lately) = (vec![change], vec![seen]);
    let reply = ImpactReply { changes, truncated: false, problems: Vec::new(), seen: 9, lately };
    let (status, out, request) = ask(&lab, &["policy", "impact", "-f", &file], &reply);
    assert_eq!(status, Some(0));
    let line =
        "shop/a, shop/b, shop/c and 2 more -> shop/web tcp/80: allowed -> denied by end of tier default";
    assert!(out.contains(line), "{out}");
    let lines = "2 of 9 flows seen lately on this node would have another verdict\n  \
                 shop/a -> shop/web tcp/80, 2 times: allowed -> denied by end of tier default (";
    assert!(out.contains(lines) && out.ends_with("new.yaml:10)\n"), "{out}");
    assert!(request.contains("POST /v1/policy/impact") && request.contains("NetworkPolicy"), "{request}");
}

#[test]
fn explain_says_what_decided() {
    let lab = Lab::new("explain");
    let reply = ExplainReply {
        allowed: false,
        summary: "ingress of shop/web-0 denies".into(),
        ends: vec![End {
            direction: "ingress".into(),
            endpoint: "shop/web-0".into(),
            place: None,
            allowed: false,
            decided_by: "tier \"default\" policy NetworkPolicy(shop/web) rule 2 (Deny)".into(),
            steps: vec!["rule 0: source selector does not match".into()],
            packets: Some(3),
            rule: Some(RuleAt {
                kind: "NetworkPolicy".into(),
                namespace: Some("shop".into()),
                name: "web".into(),
                field: "spec.ingress[2]".into(),
            }),
            source: Some(serde_json::json!({ "action": "Deny" })),
        }],
        route: Some("10.65.1.1/32 dev mgyabc scope link proto 180".into()),
        verified: None,
    };
    let args = ["explain", "--from", "shop/client", "--to", "10.65.1.1", "--port", "tcp/80"];
    let (status, out, request) = ask(&lab, &args, &reply);
    assert_eq!(status, Some(0));
    assert!(out.starts_with("DENIED: ingress of shop/web-0 denies"), "{out}");
    assert!(
        out.contains("NetworkPolicy(shop/web) rule 2 (Deny)") && out.contains("route: 10.65.1.1/32"),
        "{out}"
    );
    assert!(!out.contains("source selector"), "steps are for -o wide");
    assert!(out.contains("  spec.ingress[2]:\n    action: Deny\n"), "{out}");
    let file = lab.file(
        "web.yaml",
        "{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: web, namespace: shop},\n spec: {ingress: [\n  \
         {action: Log},\n  {action: Allow, protocol: TCP},\n  {action: Deny}]}}\n",
    );
    let (_, told, _) = ask(&lab, &[args.as_slice(), &["-f", &file]].concat(), &reply);
    assert!(told.contains("web.yaml:5, spec.ingress[2]:\n"), "{told}");
    let sent = request.split("\r\n\r\n").nth(1).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(sent).unwrap(),
        serde_json::json!({
            "from": { "pod": { "namespace": "shop", "name": "client" } },
            "to": { "address": "10.65.1.1" }, "protocol": 6, "port": 80, "verify": false,
        })
    );
    let mut early = reply.clone();
    early.ends[0].place = Some("preDNAT".into());
    let way = ["--in-interface", "eth0", "--dnat-to", "10.65.1.2:8080"];
    let (_, told, request) = ask(&lab, &[args.as_slice(), &way].concat(), &early);
    assert!(told.contains("ingress of shop/web-0 (preDNAT): DENIED"), "{told}");
    assert!(request.contains(r#""through":{"incoming":"eth0","rewritten":"10.65.1.2:8080"}"#), "{request}");
    let (status, out, _) = ask(&lab, &[args.as_slice(), &["--exit-code", "-o", "wide"]].concat(), &reply);
    assert_eq!(status, Some(1), "a denied flow, asked for as exit code");
    assert!(out.contains("- rule 0: source selector does not match"), "{out}");
}

#[test]
fn a_daemon_that_is_away_or_refuses_is_said_so_once() {
    let lab = Lab::new("away");
    let away = ["--socket", "/nonexistent/agent.sock"];
    let (status, _, error) = lab.bare(&[&["bgp", "peers"], away.as_slice()].concat(), None, &[]);
    assert_eq!(status, Some(1));
    assert!(error.contains("is it running?") && error.contains("/nonexistent/agent.sock"), "{error}");
    assert_eq!(error.matches("No such file").count(), 1, "{error}");
    let (status, out, _) = lab.bare(&[&["version"], away.as_slice()].concat(), None, &[]);
    assert_eq!(status, Some(0), "the tool has a version without a daemon");
    assert!(out.starts_with(concat!("margay ", env!("CARGO_PKG_VERSION"))), "{out}");

    let refusal = ErrorBody { code: 0, message: "no pod shop/x on this node".into(), details: String::new() };
    let (socket, thread) = answer(&lab, "404 Not Found", &refusal);
    let (status, _, error) =
        lab.bare(&["explain", "--from", "shop/x", "--to", "10.0.0.1", "--socket", &socket], None, &[]);
    thread.join().unwrap();
    assert_eq!((status, error.as_str()), (Some(1), "error: no pod shop/x on this node\n"));
}
