//! A node that Calico's Felix ran on.

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;

use felix_rs::apply::Applier;
use felix_rs::model::BackendChoice;

use crate::change::guarded_udp;
use crate::lab::{Host, Lab, wire};
use crate::nftables::{ALLOWED, Ceasefire, DENIED, fire};
use crate::objects::Cluster;
use crate::{Node, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("calicos_rules_go_once_ours_enforce", calicos_rules_go_once_ours_enforce),
    ("calicos_pods_are_closed_unless_known", calicos_pods_are_closed_unless_known),
    ("calicos_rules_hold_nobody_up", calicos_rules_hold_nobody_up),
];

/// A pod that Calico's plugin made runs on: without its WorkloadEndpoint nothing is known of it.
fn calicos_pods_are_closed_unless_known(backend: BackendChoice) {
    let lab = Lab::new(&["a"]);
    let (a, old) = (lab.pod("a"), Host::new());
    let (v4, v6) = (IpAddr::from([10, 0, 0, 77]), "fd00::77".parse().unwrap());
    wire(&lab.node, &old, "calia", v4, v6);
    let mut cluster = Cluster::of(&lab);
    let mut node = Node::start(&lab, backend);
    node.apply(&cluster.state);
    assert!(old.ping(a.v4), "no interface of a pod's, as far as is known");
    node.delta(&cluster.see("calia"));
    for (own, other) in [(v4, a.v4), (v6, a.v6)] {
        assert!(!old.ping(other) && !a.ping(own), "closed both ways: {own}");
    }
    node.delta(&cluster.take(
        "
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: old, namespace: a}
spec: {node: node, orchestrator: k8s, pod: old, endpoint: eth0, interfaceName: calia, ipNetworks: [10.0.0.77/32, 'fd00::77/128'], profiles: [kns.a]}
",
    ));
    assert!(old.ping(a.v4) && a.ping(v4) && old.ping(a.v6) && a.ping(v6), "policed as any other");
}

/// What Felix leaves, shortened: hooks, dispatch, an endpoint's chain, policy, NAT (after `felix/fv/cali-iptables-dump.txt`).
/// Its policy is ours: only `a` may talk to `b`.
const FELIX: &str = "*raw
:cali-PREROUTING - [0:0]
:cali-OUTPUT - [0:0]
-A PREROUTING -m comment --comment \"cali:6gwbT8clXdHdC1b1\" -j cali-PREROUTING
-A OUTPUT -m comment --comment \"cali:tVnHkvAo15HuiPy0\" -j cali-OUTPUT
-A cali-PREROUTING -m comment --comment \"cali:x\" -j MARK --set-xmark 0x0/0xf0000
COMMIT
*mangle
:cali-PREROUTING - [0:0]
-A PREROUTING -m comment --comment \"cali:6gwbT8clXdHdC1b1\" -j cali-PREROUTING
-A cali-PREROUTING -m comment --comment \"cali:y\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:cali-POSTROUTING - [0:0]
:cali-nat-outgoing - [0:0]
-A POSTROUTING -m comment --comment \"cali:O3lYWMrLQYEMJtB5\" -j cali-POSTROUTING
-A cali-POSTROUTING -m comment --comment \"cali:z\" -j cali-nat-outgoing
-A cali-nat-outgoing -m comment --comment \"cali:flqWnvo8yq4ULQLa\" -m set --match-set cali40masq-ipam-pools src -m set ! --match-set cali40all-ipam-pools dst -j MASQUERADE --random-fully
COMMIT
*filter
:DOCKER-USER - [0:0]
:cali-FORWARD - [0:0]
:cali-INPUT - [0:0]
:cali-to-wl-dispatch - [0:0]
:cali-tw-b - [0:0]
:cali-pi-_abc - [0:0]
-A INPUT -m comment --comment \"cali:Cz_u1IQiXIMmKD4c\" -j cali-INPUT
-A FORWARD -m comment --comment \"cali:wUHhoiAYhphO9Mso\" -j cali-FORWARD
-A FORWARD -j DOCKER-USER
-A FORWARD -m comment --comment \"cali:S93hcgKJrXEqnTfs\" -m comment --comment \"Policy explicitly accepted packet.\" -m mark --mark 0x10000/0x10000 -j ACCEPT
-A FORWARD -m comment --comment \"cali:mp77cMpurHhyjLrM\" -j MARK --set-xmark 0x10000/0x10000
-A DOCKER-USER -s 10.9.9.9/32 -m comment --comment \"not of Felix\" -j DROP
-A cali-FORWARD -m comment --comment \"cali:vjrMJCRpqwy5oRoX\" -j MARK --set-xmark 0x0/0xe0000
-A cali-FORWARD -o mgy+ -m comment --comment \"cali:MH9kMp5aNICL-Olv\" -j cali-to-wl-dispatch
-A cali-to-wl-dispatch -o mgyb -m comment --comment \"cali:a\" -g cali-tw-b
-A cali-to-wl-dispatch -m comment --comment \"cali:b\" -m comment --comment \"Unknown interface\" -m mark --mark 0x0/0x0 -j RETURN
-A cali-tw-b -m comment --comment \"cali:c\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-tw-b -m comment --comment \"cali:d\" -j MARK --set-xmark 0x0/0x30000
-A cali-tw-b -m comment --comment \"cali:e\" -j cali-pi-_abc
-A cali-tw-b -m comment --comment \"cali:f\" -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-tw-b -m comment --comment \"cali:g\" -m comment --comment \"Drop if no policies passed packet\" -j DROP
-A cali-pi-_abc -m comment --comment \"cali:h\" -m set --match-set cali40s:clients src -j MARK --set-xmark 0x10000/0x10000
COMMIT
";

/// Reading what others may have left takes long: endpoints are live before.
fn calicos_rules_hold_nobody_up(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let chains = || lab.node.sh("iptables-nft-save; iptables-legacy-save").matches(":cali-").count();
    lab.node.sh("iptables-legacy -N cali-FORWARD; iptables-nft -N cali-FORWARD");
    let mut node = Node::start(&lab, backend);
    node.applier.sweep_later();
    let report = node.apply(&guarded_udp(&lab, &["a"]));
    assert_eq!((report.live.len(), chains()), (3, 2), "ours enforce, and nothing else was done yet");
    assert!(a.udp(b.v4) && !c.udp(b.v4));
    let mut steps = 0;
    while node.applier.is_unswept() {
        node.run(Applier::sweep).unwrap();
        steps += 1;
        assert!(steps < 20, "a sweep ends");
    }
    assert_eq!(chains(), 0);
    assert!(!node.run(Applier::retry).unwrap().unswept, "what is over is not begun anew");
}

fn calicos_rules_go_once_ours_enforce(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    lab.node.sh(&format!(
        "ipset create cali40masq-ipam-pools hash:net; ipset create cali40all-ipam-pools hash:net
         ipset create cali40s:clients hash:net; ipset add cali40s:clients {}
         ipset create cali60s:clients hash:net family inet6; ipset create cali4t0 hash:net
         ipset create california hash:net
         for v in nft legacy; do printf '%s' '{}' | iptables-$v-restore; done
         nft add table ip calico; nft add table ip6 calico; nft add table inet calico-other
         nft add chain ip calico filter-FORWARD '{{ type filter hook forward priority 0; }}'
         nft add rule ip calico filter-FORWARD ip saddr {} oifname mgyb drop",
        a.v4, FELIX, c.v4,
    ));
    assert!(a.udp(b.v4) && !c.udp(b.v4), "Felix enforces");
    let state = guarded_udp(&lab, &["a"]);
    let stop = AtomicBool::new(false);
    let (denied, allowed) = std::thread::scope(|scope| {
        let ceasefire = Ceasefire(&stop);
        let denied = scope.spawn(|| fire(c, b, DENIED, &stop));
        let allowed = scope.spawn(|| fire(a, b, ALLOWED, &stop));
        let applier = lab.node.netns.run(|| Applier::new(&crate::options(backend))).unwrap().unwrap();
        let mut node = Node { lab: &lab, applier };
        node.apply(&state);
        let both = lab.node.sh("iptables-nft-save; iptables-legacy-save; nft list tables");
        assert!(both.contains("cali-tw-b") && both.contains("table ip calico"), "not before we are in sync");
        node.applier.set_in_sync();
        let report = node.run(Applier::retry).unwrap();
        assert!(report.chains_deleted >= 20, "{report:?}");
        // The kernel lets go of sets a moment after the rules.
        node.recheck();
        drop(ceasefire);
        assert!(!node.recheck().wrote(), "nothing left to do");
        (denied.join().unwrap(), allowed.join().unwrap())
    });
    assert!(denied.0 > 20, "{denied:?}");
    assert_eq!((denied.1, allowed.1), (0, allowed.0), "denied packets answered, allowed ones lost");
    for save in ["iptables-nft-save", "iptables-legacy-save", "ip6tables-nft-save"] {
        let text = lab.node.sh(&format!("{save} 2>/dev/null"));
        assert!(!text.contains("cali"), "{text}");
        assert_eq!(text.contains("not of Felix"), save.starts_with("iptables"), "{text}");
    }
    let tables = lab.node.sh("nft list tables");
    assert!(tables.contains("table inet calico-other") && !tables.contains("ip calico\n"), "{tables}");
    assert!(!tables.contains("ip6 calico\n"), "{tables}");
    let sets = lab.node.sh("ipset list -n");
    assert!(sets.lines().filter(|name| name.starts_with("cali")).eq(["california"]), "{sets}");
    assert!(a.udp(b.v4) && !c.udp(b.v4), "ours enforce");
}
