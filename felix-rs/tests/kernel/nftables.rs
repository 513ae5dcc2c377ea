//! What is particular about nftables, and the way between backends.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use felix_rs::apply::Applier;
use felix_rs::model::{BackendChoice, Delta, Direction, LocalEndpoint, SetChange, SetId, SetKind, SetMember};
use felix_rs::rules::names;

use crate::change::{guarded, guarded_udp};
use crate::lab::{Lab, Pod, UDP_PORT};
use crate::states::{Build as _, endpoint, endpoint_id, policy_id};
use crate::{Node, Scenario, assert_same, clients, dump, kernel_chain, lines};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("damage_is_repaired", damage_is_repaired),
    ("foreign_tables_survive_and_cleanup_leaves_nothing", foreign_tables_survive_and_cleanup_leaves_nothing),
    ("nested_networks", nested_networks),
    ("large_sets", large_sets),
    ("sets_change_their_kind_under_fire", sets_change_their_kind_under_fire),
    ("switching_backends_under_fire", switching_backends_under_fire),
    ("sets_of_another_backend_go_once_they_are_free", sets_of_another_backend_go_once_they_are_free),
];

/// After a switch, and after an agent that was killed between rules and sets.
fn sets_of_another_backend_go_once_they_are_free(backend: BackendChoice) {
    let lab = Lab::new(&["a"]);
    let state = crate::states::open(&lab);
    let mut node = Node::start(&lab, BackendChoice::IptablesNft);
    node.apply(&state);
    let sets = || lab.node.sh("ipset list -n | grep ^mgy || true");
    lab.node.sh("iptables-legacy -A INPUT -m set --match-set mgy40nodes src -j RETURN");
    node.run(|applier| applier.switch(backend, &state)).unwrap();
    assert!(sets().contains("mgy40nodes"), "a rule of somebody else's refers to it");
    lab.node.sh("iptables-legacy -F INPUT");
    let deadline = Instant::now() + Duration::from_secs(60);
    for _ in 0..10 {
        // The kernel lets go a moment later.
        node.recheck();
        if sets().is_empty() || Instant::now() > deadline {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(sets(), "");
    drop(node);
    lab.node.sh("ipset create mgy40s-left hash:net");
    Node::start(&lab, backend).apply(&state);
    assert_eq!(sets(), "");
}

/// Without counters, in the same order whoever was made first.
fn clean(text: &str) -> Vec<String> {
    let strip = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "packets");
        let kept = words.iter().enumerate().filter(|(n, _)| at.is_none_or(|at| *n < at || *n > at + 3));
        kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
    };
    let mut lines: Vec<_> = text.lines().map(strip).collect();
    lines.sort();
    lines
}

fn damage_is_repaired(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let mut node = Node::start(&lab, backend);
    node.apply(&guarded(&lab, &["a"]));
    let before = clean(&dump(&lab, backend));
    let chain = kernel_chain(backend, &names::policy(&policy_id("b-in"), Direction::Ingress));
    let set = clients(backend);
    let damages = [
        format!("nft flush chain ip margay {chain}"),
        format!("nft insert rule ip margay {chain} accept"),
        "nft flush chain ip margay filter-hook-forward".to_owned(),
        "nft insert rule ip margay filter-FORWARD accept".to_owned(),
        "nft delete chain ip margay raw-hook-prerouting".to_owned(),
        "nft delete table ip margay".to_owned(),
        "nft flush ruleset".to_owned(),
        format!("nft add element ip margay {set} {{ {} }}", c.v4),
        format!("nft flush set ip margay {set}"),
        "nft flush map ip margay mgy40to-pods; nft flush set ip6 margay mgy60pods".to_owned(),
        "nft add set ip margay mgy40s-nobody '{ type ipv4_addr; }'".to_owned(),
        "nft add map ip margay mgy40to-nets '{ type ipv4_addr . ifname : verdict; flags interval; }'
         nft add chain ip margay filter-nobody; nft add rule ip margay filter-nobody accept
         nft add element ip margay mgy40to-nets '{ 10.9.0.0/16 . \"mgya\" : goto filter-nobody }'"
            .to_owned(),
        "nft add chain ip margay nobody; nft add rule ip margay nobody accept".to_owned(),
        format!(
            "nft flush chain ip margay {chain}; nft delete set ip margay {set}
             nft add set ip margay {set} '{{ type inet_service; }}'"
        ),
        "nft delete chain ip margay filter-hook-forward
         nft add chain ip margay filter-hook-forward '{ type filter hook forward priority 50; }'"
            .to_owned(),
    ];
    for damage in &damages {
        lab.node.sh(damage);
        let report = node.recheck();
        assert!(report.wrote(), "{damage}");
        assert_same(&clean(&dump(&lab, backend)), &before, damage);
        assert!(!node.recheck().wrote(), "once is enough after {damage}");
    }
    assert!(a.tcp(b.v4, 80) && !c.tcp(b.v4, 80));
}

fn foreign_tables_survive_and_cleanup_leaves_nothing(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    lab.node.sh("nft add table ip kube-proxy
         nft add chain ip kube-proxy services
         nft add rule ip kube-proxy services ip daddr 10.96.0.1 drop
         nft add table inet firewalld
         nft add chain inet firewalld filter_FORWARD '{ type filter hook forward priority 10; }'
         nft add rule inet firewalld filter_FORWARD ip saddr 10.9.9.9 reject
         iptables-nft -A FORWARD -s 10.9.9.9 -j DROP");
    let before = clean(&lab.node.sh("nft list ruleset"));
    let mut node = Node::start(&lab, backend);
    node.apply(&guarded(&lab, &["a"]));
    assert!(lab.pod("a").tcp(lab.pod("b").v4, 80) && !lab.pod("a").tcp(lab.pod("b").v4, 8080));
    let during = clean(&lab.node.sh("nft list ruleset"));
    assert!(before.iter().all(|line| during.contains(line)));
    drop(node);
    let mut node = Node::start(&lab, backend);
    assert!(node.run(Applier::cleanup).unwrap().wrote());
    assert_same(&clean(&lab.node.sh("nft list ruleset")), &before, "after the clean-up");
    assert!(!node.run(Applier::cleanup).unwrap().wrote(), "nothing left to do");
}

/// Networks in networks: what the outer one covered stays covered when it goes.
fn nested_networks(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let net = |text: &str| SetMember::Net(text.parse().unwrap());
    let mut node = Node::start(&lab, backend);
    let own = SetMember::Net(a.v4.into());
    let rounds = [
        (vec![net("10.0.0.0/8"), net("10.0.0.0/16"), own], true, true),
        (vec![net("10.0.0.0/16"), own], true, true),
        (vec![own], true, false),
        (vec![own, net("0.0.0.0/0")], true, true),
        (vec![], false, false),
    ];
    for (round, from_a, from_c) in rounds {
        node.apply(&guarded(&lab, &[]).with_members("clients", round.iter().copied().collect()));
        assert_eq!((a.tcp(b.v4, 80), c.tcp(b.v4, 80)), (from_a, from_c), "{round:?}");
        assert!(!node.recheck().wrote(), "{round:?}");
    }
}

fn large_sets(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b"]);
    let mut state = guarded(&lab, &["a"]);
    let members = &mut state.sets.get_mut(&SetId("clients".into())).unwrap().1;
    for number in 0..5000u32 {
        members.insert(SetMember::Net(IpAddr::from((0x0a10_0000 + number).to_be_bytes()).into()));
    }
    let mut node = Node::start(&lab, backend);
    node.apply(&state);
    assert!(lab.pod("a").tcp(lab.pod("b").v4, 80));
    assert!(!node.recheck().wrote());
    drop(node);
    assert!(!Node::start(&lab, backend).apply(&state).wrote(), "all of it is adopted");
}

/// Sends a datagram every millisecond to a pod's echo server until told to stop: how many were sent, how many answered.
/// `patience` is what each answer gets beside the time of the 200 next probes.
pub(crate) fn fire(from: &Pod, to: &Pod, patience: Duration, stop: &AtomicBool) -> (usize, usize) {
    let (mut sent, mut answered) = (0, 0);
    let mut waiting = VecDeque::new();
    let is_answered = |socket: UdpSocket| socket.recv_from(&mut [0; 64]).is_ok();
    while !stop.load(Ordering::Relaxed) {
        // A new connection each time: the policy decides about every one.
        let socket = from.netns.run(|| UdpSocket::bind((from.v4, 0))).unwrap().unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.send_to(b"probe", (to.v4, UDP_PORT)).unwrap();
        sent += 1;
        waiting.push_back(socket);
        // No more than a receiver that waits for a processor has room for.
        if waiting.len() > 64 {
            answered += usize::from(waiting.pop_front().is_some_and(is_answered));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    answered += waiting.into_iter().map(is_answered).filter(|answered| *answered).count();
    (sent, answered)
}

/// For answers that must not come, and for those that must.
pub(crate) const DENIED: Duration = Duration::from_millis(1);
pub(crate) const ALLOWED: Duration = Duration::from_secs(10);

/// Ends what [`fire`] does, also when the test fails meanwhile.
pub(crate) struct Ceasefire<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ceasefire<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What holds addresses alone is a hash table; while networks come and go, of a set and of a pod, what is denied is denied
/// all the time and what is allowed never fails.
fn sets_change_their_kind_under_fire(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let mut node = Node::start(&lab, backend);
    let state = guarded_udp(&lab, &["a"]);
    node.apply(&state);
    let mut hosts = state.sets[&SetId("clients".into())].1.clone();
    hosts.extend(
        (0..3_000u32)
            .map(|number| SetMember::Net(IpAddr::from((0x0a10_0000 + 2 * number).to_be_bytes()).into())),
    );
    let mut networks = hosts.clone();
    networks.insert(SetMember::Net("172.16.0.0/12".parse().unwrap()));
    let mut free = endpoint(a, vec![]);
    free.allowed_sources = ["172.16.0.0/24".parse().unwrap()].into();
    let delta = |kind, members: &BTreeSet<SetMember>, pod: &LocalEndpoint| Delta {
        sets: [(SetId("clients".into()), SetChange::Create { kind, members: members.clone() })].into(),
        endpoints: [(endpoint_id(a), Some(Arc::new(pod.clone())))].into(),
        ..Delta::default()
    };
    let steps = [
        (
            delta(SetKind::Net, &networks, &free),
            ["mgy40s-", "mgy40pod-nets", "mgy40to-nets", "mgy40from-nets"],
            "mgy40h-",
        ),
        (
            delta(SetKind::Host, &hosts, &endpoint(a, vec![])),
            ["mgy40h-", "mgy40pods", "mgy40to-pods", "mgy40from-pods"],
            "nets",
        ),
    ];
    let stop = AtomicBool::new(false);
    let (denied, allowed) = std::thread::scope(|scope| {
        let ceasefire = Ceasefire(&stop);
        let denied = scope.spawn(|| fire(c, b, DENIED, &stop));
        let allowed = scope.spawn(|| fire(a, b, ALLOWED, &stop));
        for (delta, there, gone) in std::iter::repeat_n(&steps, 8).flatten() {
            node.delta(delta);
            let listed = lab.node.sh("nft -t list table ip margay");
            assert!(there.iter().all(|name| listed.contains(name)) && !listed.contains(gone), "{listed}");
            let intervals = listed.matches("flags interval").count();
            // Nodes and pools are networks.
            assert_eq!(intervals, if gone == &"nets" { 3 } else { 7 }, "{listed}");
        }
        drop(ceasefire);
        (denied.join().unwrap(), allowed.join().unwrap())
    });
    assert!(denied.0 > 20 && allowed.0 > 20, "{denied:?} {allowed:?}");
    assert_eq!(denied.1, 0, "denied packets were answered");
    assert_eq!(allowed.1, allowed.0, "allowed packets were lost");
    assert!(!node.recheck().wrote());
}

/// From each backend to each other: what is denied is denied all the time, what is allowed never fails, and nothing
/// stays behind.
fn switching_backends_under_fire(_backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let mut state = guarded_udp(&lab, &["a"]);
    // The kernel takes its time from when new rules run to when all of the set's elements are found.
    let members = &mut state.sets.get_mut(&SetId("clients".into())).unwrap().1;
    members.extend(
        (0..20_000u32)
            .map(|number| SetMember::Net(IpAddr::from((0x0a10_0000 + 2 * number).to_be_bytes()).into())),
    );
    use BackendChoice::{IptablesLegacy, IptablesNft, Nftables};
    let mut node = Node::start(&lab, IptablesNft);
    node.apply(&state);
    let stop = AtomicBool::new(false);
    let (denied, allowed) = std::thread::scope(|scope| {
        let ceasefire = Ceasefire(&stop);
        let denied = scope.spawn(|| fire(c, b, DENIED, &stop));
        let allowed = scope.spawn(|| fire(a, b, ALLOWED, &stop));
        for next in [Nftables, IptablesLegacy, Nftables, IptablesNft, IptablesLegacy, IptablesNft, Nftables] {
            let state = &state;
            node.run(move |applier| applier.switch(next, state)).unwrap();
            let legacy = lab.node.sh("iptables-legacy-save; ip6tables-legacy-save");
            let nft = lab.node.sh("iptables-nft-save 2>/dev/null; ip6tables-nft-save 2>/dev/null");
            let own = lab.node.sh("nft list tables");
            assert_eq!(legacy.contains("mgy-"), next == IptablesLegacy, "{next:?}");
            assert_eq!(nft.contains("mgy-"), next == IptablesNft, "{next:?}");
            assert_eq!(lines(&own).contains(&"table ip margay".to_owned()), next == Nftables, "{next:?}");
            assert_eq!(lab.node.sh("ipset list -n").contains("mgy"), next != Nftables, "{next:?}");
        }
        drop(ceasefire);
        (denied.join().unwrap(), allowed.join().unwrap())
    });
    assert!(denied.0 > 100 && allowed.0 > 100, "{denied:?} {allowed:?}");
    assert_eq!(denied.1, 0, "denied packets were answered");
    assert_eq!(allowed.1, allowed.0, "allowed packets were lost");
}
