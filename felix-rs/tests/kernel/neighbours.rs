//! Others who have rules on the node: kube-proxy, Docker, Tailscale, firewalld, a person. They come, go and come again
//! before and after us, while packets that are allowed and packets that are denied are under way.

use std::sync::atomic::AtomicBool;

use felix_rs::apply::Applier;
use felix_rs::model::BackendChoice;

use crate::change::guarded_udp;
use crate::lab::Lab;
use crate::nftables::{ALLOWED, Ceasefire, DENIED, fire};
use crate::{Node, Scenario, assert_same, infix, lines};

pub(crate) const SCENARIOS: &[Scenario] = &[("neighbours_in_any_order", neighbours_in_any_order)];

/// What each does at its start, shortened, and at its end. `$I` is iptables.
const NEIGHBOURS: [(&str, &str, &str); 5] = [
    (
        "kube-proxy",
        "$I -N KUBE-FORWARD
         $I -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
         $I -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
         $I -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         $I -I FORWARD -m comment --comment 'kubernetes forwarding rules' -j KUBE-FORWARD
         $I -t nat -N KUBE-SERVICES; $I -t nat -I PREROUTING -j KUBE-SERVICES; $I -t nat -I OUTPUT -j KUBE-SERVICES
         $I -t nat -N KUBE-POSTROUTING; $I -t nat -I POSTROUTING -j KUBE-POSTROUTING
         $I -t nat -A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE",
        "$I -D FORWARD -m comment --comment 'kubernetes forwarding rules' -j KUBE-FORWARD
         $I -F KUBE-FORWARD; $I -X KUBE-FORWARD
         $I -t nat -D PREROUTING -j KUBE-SERVICES; $I -t nat -D OUTPUT -j KUBE-SERVICES
         $I -t nat -D POSTROUTING -j KUBE-POSTROUTING; $I -t nat -F KUBE-POSTROUTING
         $I -t nat -X KUBE-POSTROUTING; $I -t nat -X KUBE-SERVICES",
    ),
    (
        "Docker",
        "$I -N DOCKER-USER; $I -A DOCKER-USER -j RETURN
         $I -N DOCKER; $I -A DOCKER ! -i docker0 -o docker0 -j DROP
         $I -I FORWARD -j DOCKER; $I -I FORWARD -j DOCKER-USER
         $I -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        "$I -D FORWARD -j DOCKER-USER; $I -D FORWARD -j DOCKER
         $I -F DOCKER; $I -X DOCKER; $I -F DOCKER-USER; $I -X DOCKER-USER
         $I -t nat -D POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
    ),
    (
        "Tailscale",
        "$I -N ts-forward
         $I -A ts-forward -i tailscale0 -j MARK --set-xmark 0x40000/0xff0000
         $I -A ts-forward -m mark --mark 0x40000/0xff0000 -j ACCEPT
         $I -A ts-forward -s 100.64.0.0/10 -o tailscale0 -j DROP
         $I -A ts-forward -o tailscale0 -j ACCEPT
         $I -I FORWARD -j ts-forward
         $I -t nat -N ts-postrouting; $I -t nat -I POSTROUTING -j ts-postrouting
         $I -t nat -A ts-postrouting -m mark --mark 0x40000/0xff0000 -j MASQUERADE",
        "$I -D FORWARD -j ts-forward; $I -F ts-forward; $I -X ts-forward
         $I -t nat -D POSTROUTING -j ts-postrouting; $I -t nat -F ts-postrouting; $I -t nat -X ts-postrouting",
    ),
    (
        "firewalld",
        "nft add table inet firewalld
         nft add chain inet firewalld filter_FORWARD '{ type filter hook forward priority 10; }'
         nft add rule inet firewalld filter_FORWARD ct state established,related accept
         nft add rule inet firewalld filter_FORWARD ip saddr 10.9.9.9 reject",
        "nft delete table inet firewalld",
    ),
    (
        "a person",
        "ipset create friends hash:ip; ipset add friends 10.9.9.9
         $I -A FORWARD -m set --match-set friends src -j ACCEPT
         $I -t raw -A PREROUTING -p udp --dport 9 -j DROP
         $I -t mangle -A FORWARD -p tcp --dport 99 -j MARK --set-mark 0x1",
        "$I -D FORWARD -m set --match-set friends src -j ACCEPT
         $I -t raw -D PREROUTING -p udp --dport 9 -j DROP
         $I -t mangle -D FORWARD -p tcp --dport 99 -j MARK --set-mark 0x1
         ipset destroy friends",
    ),
];

/// The rules of all others, without counters.
fn foreign(lab: &Lab, v: &str) -> Vec<String> {
    // A set's hash begins somewhere else each time.
    let sets = "ipset save friends | sed 's/ initval.*//'";
    let text = lab.node.sh(&format!("iptables-{v}-save; nft list table inet firewalld; {sets}"));
    let others = lines(&text).into_iter().filter(|line| !line.contains("mgy") && !line.contains("margay"));
    others.filter(|line| !line.starts_with(['#', ':', '*']) && line != "COMMIT").collect()
}

fn neighbours_in_any_order(backend: BackendChoice) {
    let lab = Lab::new(&["a", "b", "c"]);
    let (a, b, c) = (lab.pod("a"), lab.pod("b"), lab.pod("c"));
    let v = infix(backend);
    let run = |script: &str| lab.node.sh(&format!("I=iptables-{v}\n{script}"));
    NEIGHBOURS.iter().for_each(|(_, start, _)| drop(run(start)));
    let before = foreign(&lab, v);
    let saved = lab.node.sh(&format!("iptables-{v}-save"));

    let state = guarded_udp(&lab, &["a"]);
    let mut node = Node::start(&lab, backend);
    node.apply(&state);
    let stop = AtomicBool::new(false);
    let (mut node, denied, allowed) = std::thread::scope(|scope| {
        let ceasefire = Ceasefire(&stop);
        let denied = scope.spawn(|| fire(c, b, DENIED, &stop));
        let allowed = scope.spawn(|| fire(a, b, ALLOWED, &stop));
        for (name, start, end) in &NEIGHBOURS {
            run(end);
            node.recheck();
            run(start);
            node.recheck();
            assert!(!node.recheck().wrote(), "{name} is here again");
        }
        drop(node);
        let mut restarted = Node::start(&lab, backend);
        assert!(!restarted.apply(&state).wrote(), "a restart among neighbours");
        drop(ceasefire);
        (restarted, denied.join().unwrap(), allowed.join().unwrap())
    });
    assert!(denied.0 > 20 && allowed.0 > 20, "{denied:?} {allowed:?}");
    assert_eq!((denied.1, allowed.1), (0, allowed.0), "denied packets answered, allowed ones lost");

    // Somebody restores all tables as they were before us.
    let mut sorted = [foreign(&lab, v), before];
    sorted.iter_mut().for_each(|lines| lines.sort());
    assert_same(&sorted[0], &sorted[1], "the others' rules");
    run(&format!("iptables-{v}-restore <<'END'\n{saved}END"));
    let wiped = backend != BackendChoice::Nftables;
    assert_eq!(c.udp(b.v4), wiped, "our rules are gone, with iptables");
    assert_eq!(node.recheck().wrote(), wiped);
    assert!(!node.recheck().wrote() && !c.udp(b.v4) && a.udp(b.v4), "repaired");
    node.run(Applier::cleanup).unwrap();
    let mut after = foreign(&lab, v);
    after.sort();
    assert_same(&after, &sorted[1], "after the clean-up");
    let left = lab.node.sh(&format!("iptables-{v}-save; nft list tables; ipset list -n"));
    assert!(!left.contains("mgy") && !left.contains("margay"), "{left}");
}
