//! Following changes comes to the same as beginning anew.

use super::*;

/// At the size that Margay is built for a Node that moves is two sessions, whoever looks, and says nothing of others.
#[test]
fn one_node_of_thousands_changes_its_own_session_only() {
    for (name, reflectors) in [("rr0", 2), ("n4999", 0)] {
        let mut cluster = large(5000, reflectors);
        let mut planner = Planner::new(name);
        let changed = cluster.take_changes();
        let all = planner.update(&cluster, &changed).len();
        assert!(all >= 4999, "{all}");
        for number in 0..1000 {
            let moved = numbered(number, 2);
            let addresses: Vec<IpAddr> =
                [numbered(number, 1), moved.clone()].iter().flat_map(node_addresses).collect();
            cluster.put(&moved.into());
            let changed = cluster.take_changes();
            let said: Vec<IpAddr> = planner.update(&cluster, &changed).into_keys().collect();
            assert_eq!(said, addresses);
        }
    }
}

/// A planner that follows every change must come to what one that sees the end alone comes to.
fn agrees(planner: &mut Planner, name: &str, cluster: &mut Cluster, told: &mut BTreeMap<IpAddr, Peer>) {
    let changed = cluster.take_changes();
    for (remote, change) in planner.update(cluster, &changed) {
        match change {
            Change::Want(peer) => drop(told.insert(remote, peer)),
            Change::Leave | Change::End => assert!(told.remove(&remote).is_some(), "{remote} was not there"),
        }
    }
    let fresh = topology(name, cluster);
    assert_eq!(planner.topology().peers, fresh.peers);
    assert_eq!(*told, fresh.peers, "what was told of changes adds up");
    assert_eq!(planner.topology().problems, fresh.problems);
    assert_eq!(
        (&planner.topology().gateways, planner.topology().cluster_id),
        (&fresh.gateways, fresh.cluster_id)
    );
}

#[derive(Debug, Clone)]
enum Step {
    Put(u16, u8),
    Relabel(u16),
    Delete(u16),
    Reflector(u8, bool),
    Peer(u8, bool),
    Block(u8, u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        // In two nets, so that addresses move; the third gives two nodes one address.
        (0u16..8, 1u8..3).prop_map(|(number, net)| Step::Put(number, net)),
        (0u16..8).prop_map(|number| Step::Put(number, 0)),
        (0u16..8).prop_map(Step::Relabel),
        (0u16..8).prop_map(Step::Delete),
        (0u8..3, any::<bool>()).prop_map(|(number, there)| Step::Reflector(number, there)),
        (0u8..7, any::<bool>()).prop_map(|(number, there)| Step::Peer(number, there)),
        (0u8..4, 0u16..8).prop_map(|(block, owner)| Step::Block(block, owner)),
    ]
}

const PEERS: [&str; 7] = [
    "{nodeSelector: has(rack), peerSelector: has(rack)}",
    "{peerIP: 10.1.0.3, asNumber: 65000, reachableBy: 10.0.0.7}",
    "{node: n2, peerSelector: \"!has(rack)\", keepaliveTime: 9s}",
    "{peerIP: 10.9.9.9, asNumber: 65000}",
    "{peerSelector: has(rack), filters: [none-such], keepaliveTime: 8s}",
    "{nodeSelector: has(rack), peerSelector: all(), password: {secretKeyRef: {name: none, key: such}}}",
    "{node: n1, peerSelector: has(rack), keepaliveTime: 7s}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn following_changes_comes_to_the_same_as_beginning_anew(steps in prop::collection::vec(step(), 1..40)) {
        let mut cluster = large(4, 0);
        let names = ["n1", "rr0"];
        let mut planners = names.map(|name| (Planner::new(name), BTreeMap::new()));
        for step in steps {
            match step {
                Step::Put(number, 0) => drop(cluster.put(&Node::new(
                    Metadata::named(format!("n{number}")),
                    numbered(number & 1, 1).spec,
                ).into())),
                Step::Put(number, net) => drop(cluster.put(&numbered(number, net).into())),
                Step::Relabel(number) => {
                    let Some(mut node) = cluster.nodes.get(&format!("n{number}")).cloned() else { continue };
                    if node.metadata.labels.remove("rack").is_none() {
                        node.metadata.labels.insert("rack".into(), "a".into());
                    }
                    cluster.put(&(*node).into());
                }
                Step::Delete(number) => drop(cluster.delete(&Key::cluster(Kind::Node, format!("n{number}").as_str()))),
                Step::Reflector(number, true) => {
                    cluster.put(&node(&format!("rr{number}"), &format!("10.0.0.{}/32", number + 1), true).into());
                }
                Step::Reflector(number, false) => {
                    cluster.delete(&Key::cluster(Kind::Node, format!("rr{number}").as_str()));
                }
                Step::Peer(number, true) => {
                    let spec = PEERS[usize::from(number)];
                    let text = format!("apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: p{number}}}\nspec: {spec}\n");
                    cluster.put(&yaml::parse("peer.yaml", &text).unwrap()[0].value);
                }
                Step::Peer(number, false) => {
                    cluster.delete(&Key::cluster(Kind::BgpPeer, format!("p{number}").as_str()));
                }
                Step::Block(block, owner) => {
                    let text = format!(
                        "apiVersion: projectcalico.org/v3\nkind: IPAMBlock\nmetadata: {{name: b{block}}}\nspec: {{cidr: 10.65.{block}.0/24, affinity: 'host:n{owner}', allocations: [], unallocated: [], attributes: [], strictAffinity: true}}\n"
                    );
                    cluster.put(&yaml::parse("block.yaml", &text).unwrap()[0].value);
                }
            }
            // Each follows the same changes.
            let [first, second] = &mut planners;
            let mut copy = cluster.clone();
            agrees(&mut first.0, names[0], &mut copy, &mut first.1);
            agrees(&mut second.0, names[1], &mut cluster, &mut second.1);
        }
    }
}

/// A BGPPeer says whom a reflector peers with as long as it selects nodes: the first and the last of them are about its
/// sessions with all.
#[test]
fn the_last_node_that_is_selected_frees_a_reflectors_sessions() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: racks}
spec: {nodeSelector: has(reflects), peerSelector: has(rack)}
";
    let mut cluster = cluster(THREE, text);
    let labelled = |mut node: Node, label: &str| {
        node.metadata.labels.insert(label.into(), "a".into());
        node
    };
    cluster.put(&labelled(node("rr0", "10.0.0.11/32", true), "reflects").into());
    let mut planner = Planner::new("rr0");
    let mut told = BTreeMap::new();
    let mut sessions = |cluster: &mut Cluster| {
        agrees(&mut planner, "rr0", cluster, &mut told);
        told.len()
    };
    assert_eq!(sessions(&mut cluster), 3, "it selects nobody");
    let plain = cluster.nodes["n3"].clone();
    let racked = labelled((*plain).clone(), "rack");
    cluster.put(&racked.clone().into());
    assert_eq!(sessions(&mut cluster), 1, "it says whom");
    cluster.put(&labelled((*cluster.nodes["n2"]).clone(), "rack").into());
    cluster.put(&(*plain).into());
    assert_eq!(sessions(&mut cluster), 1, "one for another");
    cluster.put(&racked.into());
    cluster.delete(&Key::cluster(Kind::Node, "n2"));
    assert_eq!(sessions(&mut cluster), 1);
    cluster.delete(&Key::cluster(Kind::Node, "n3"));
    assert_eq!(sessions(&mut cluster), 1, "n1 alone is left, and the reflector serves it");
    cluster.put(&numbered(9, 1).into());
    assert_eq!(sessions(&mut cluster), 2);
}

/// What was wrong with one Node is said as long as it is.
#[test]
fn a_problem_goes_with_the_node_it_comes_from() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: all}
spec: {peerSelector: all()}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: racks}
spec: {peerSelector: has(rack), keepaliveTime: 9s}
";
    let mut cluster = cluster(THREE, text);
    let mut planner = Planner::new("n1");
    let mut said = |cluster: &mut Cluster| {
        let changed = cluster.take_changes();
        planner.update(cluster, &changed);
        let problems = planner.topology().problems.iter();
        problems.map(|problem| problem.object.clone()).collect::<Vec<String>>()
    };
    assert_eq!(said(&mut cluster), Vec::<String>::new());
    let plain = cluster.nodes["n3"].clone();
    let mut labelled = plain.clone();
    labelled.metadata.labels.insert("rack".into(), "a".into());
    let mut other = cluster.nodes["n2"].clone();
    other.metadata.labels.insert("rack".into(), "a".into());
    cluster.put(&(*labelled).into());
    assert_eq!(said(&mut cluster), ["BGPPeer(racks)"]);
    cluster.put(&(*other).into());
    assert_eq!(said(&mut cluster), ["BGPPeer(racks)"], "of two nodes it is said once");
    cluster.put(&(*plain).into());
    assert_eq!(said(&mut cluster), ["BGPPeer(racks)"], "the other node's is left");
    cluster.delete(&Key::cluster(Kind::Node, "n2"));
    assert_eq!(said(&mut cluster), Vec::<String>::new());
}
