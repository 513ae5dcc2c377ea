//! What every field of the objects does.

use super::*;
use crate::secrets::NoPassword;

#[test]
fn rules_for_interfaces_follow_the_kernels_ways() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 10.0.0.254, asNumber: 65000, filters: [uplinks]}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: uplinks}
spec: {exportV4: [{action: Reject, interface: 'eth*'}]}
";
    let mut cluster = cluster(THREE, text);
    let n1 = topology("n1", &cluster);
    let [problem] = n1.problems.as_slice() else { panic!("{:?}", n1.problems) };
    assert_eq!(problem.object, "BGPPeer(tor)");
    assert!(problem.message.contains("BGPFilter(uplinks) has rules with `interface`"), "{}", problem.message);

    let way = |prefix: &str, metric, dev: &str| Way {
        prefix: prefix.parse().unwrap(),
        metric,
        dev: dev.to_owned(),
    };
    let ways = |cluster: &mut Cluster| {
        cluster.set_ways([
            way("0.0.0.0/0", 0, "wlan0"),
            way("10.0.0.0/24", 0, "eth0"),
            way("10.0.0.0/24", 9, "wlan0"),
            way("10.0.1.0/24", 0, "wlan0"),
            way("10.0.1.0/24", 9, "eth0"),
        ])
    };
    assert!(ways(&mut cluster) && !ways(&mut cluster), "nothing new the second time");
    let n1 = topology("n1", &cluster);
    assert!(n1.problems.is_empty(), "{:?}", n1.problems);
    let filter = &peer_named(&n1, "tor").unwrap().export.filters[0];
    let meant: Vec<String> = filter.rules[0]
        .next_hop
        .iter()
        .flat_map(|by| &by.networks)
        .filter(|(_, meant)| *meant)
        .map(|(network, _)| network.to_string())
        .collect();
    assert_eq!(meant, ["10.0.0.0/24"], "of two ways to a network the better counts");
    // By a gateway its next hop is reached otherwise than the kernel's other routes say.
    let of_peer = |cluster: &Cluster| {
        let n1 = topology("n1", cluster);
        let filter = peer_named(&n1, "tor").unwrap().export.filters[0].clone();
        let networks = filter.rules[0].next_hop.clone().unwrap().networks;
        networks.into_iter().find(|(network, _)| *network == "10.0.7.254/32".parse::<IpNet>().unwrap())
    };
    let tor = peer_spec(&mut cluster, "tor");
    tor.peer_ip = Some("10.0.7.254".parse().unwrap());
    assert_eq!(of_peer(&cluster), None, "the default route's");
    for (gateway, meant) in [("10.0.0.253", true), ("10.0.1.253", false)] {
        peer_spec(&mut cluster, "tor").reachable_by = Some(gateway.parse().unwrap());
        assert_eq!(of_peer(&cluster).map(|(_, meant)| meant), Some(meant), "{gateway}");
    }
    cluster.delete(&Key::cluster(Kind::BgpFilter, "uplinks"));
    assert!(ways(&mut cluster), "nobody asks any more");
    assert!(!ways(&mut cluster));
}

#[test]
fn passwords_come_from_secrets_and_sessions_stay_down_without() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 10.0.0.254, asNumber: 65000, password: {secretKeyRef: {name: bgp, key: tor}}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor2}
spec: {peerIP: 10.0.0.253, asNumber: 65000, password: {secretKeyRef: {name: bgp, key: none, optional: true}}}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeMeshPassword: {secretKeyRef: {name: mesh, key: all}}, nodeMeshMaxRestartTime: 200s}
";
    let mut cluster = cluster(THREE, text);
    let secret = |name: &str, key: &str| crate::secrets::SecretName { name: name.into(), key: key.into() };
    let wanted: Vec<_> = secrets(&cluster).into_iter().collect();
    assert_eq!(wanted, [secret("bgp", "none"), secret("bgp", "tor"), secret("mesh", "all")]);
    let password = |text: &str| margay_bgp::Password::new(text.as_bytes()).unwrap();
    let mut known = crate::secrets::Secrets::new();
    known.insert(secret("mesh", "all"), Ok(password("m")));
    known.insert(secret("bgp", "tor"), Err(NoPassword::Absent("/secrets/bgp/tor: No such file".to_owned())));
    known.insert(secret("bgp", "none"), Err(NoPassword::Absent("absent".to_owned())));
    assert!(cluster.set_secrets(known.clone()) && !cluster.set_secrets(known.clone()));
    let n1 = topology("n1", &cluster);
    assert!(peer_named(&n1, "tor").is_none(), "fail closed");
    assert_eq!(n1.problems.len(), 1);
    assert_eq!(n1.problems[0].object, "BGPPeer(tor)");
    assert!(n1.problems[0].message.contains("/secrets/bgp/tor"), "{}", n1.problems[0].message);
    assert_eq!(peer_named(&n1, "tor2").unwrap().password, None);
    let mesh = peer_named(&n1, "n2").unwrap();
    assert_eq!(mesh.password, Some(password("m")));
    assert_eq!(mesh.graceful_restart.restart_time, Duration::from_secs(200));
    known.insert(secret("bgp", "tor"), Ok(password("t")));
    cluster.set_secrets(known.clone());
    assert_eq!(peer_named(&topology("n1", &cluster), "tor").unwrap().password, Some(password("t")));
    known.insert(secret("bgp", "none"), Err(NoPassword::Unusable("permission denied".to_owned())));
    cluster.set_secrets(known.clone());
    let n1 = topology("n1", &cluster);
    assert!(
        peer_named(&n1, "tor2").is_none(),
        "optional excuses that there is none, not that it can't be read"
    );
    known.insert(secret("bgp", "none"), Err(NoPassword::Absent("absent".to_owned())));
    known.insert(secret("mesh", "all"), Err(NoPassword::Absent("gone".to_owned())));
    cluster.set_secrets(known);
    let n1 = topology("n1", &cluster);
    assert_eq!((n1.peers.len(), n1.problems.len()), (2, 1), "one problem for the whole mesh");
}

#[test]
fn every_field_of_a_bgp_peer_reaches_its_session() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec:
  peerIP: 10.9.0.254
  asNumber: 65000
  ttlSecurity: 2
  reachableBy: 10.0.0.254
  localASNumber: 65010
  numAllowedLocalASNumbers: 3
  sourceAddress: None
  maxRestartTime: 90s
  keepaliveTime: 10s
  nextHopMode: Self
";
    let n1 = topology("n1", &cluster(THREE, text));
    let tor = peer_named(&n1, "tor").unwrap();
    assert_eq!((tor.ttl_security, tor.local_as, tor.allow_own_as), (Some(2), Some(65010), 3));
    assert_eq!((tor.local, tor.next_hop), (None, NextHopMode::SelfAddress));
    assert_eq!(tor.graceful_restart.restart_time, Duration::from_secs(90));
    assert_eq!(tor.timers.keepalive, Some(Duration::from_secs(10)));
    let gateway: (IpAddr, IpAddr) = ("10.9.0.254".parse().unwrap(), "10.0.0.254".parse().unwrap());
    assert_eq!(n1.gateways.into_iter().collect::<Vec<_>>(), [gateway]);
    assert!(n1.problems.is_empty(), "{:?}", n1.problems);
    // The AS shown to the router decides what kind of session it is.
    let same = text.replace("asNumber: 65000", "asNumber: 65010");
    assert_eq!(peer_named(&topology("n1", &cluster(THREE, &same)), "tor").unwrap().kind, PeerKind::Internal);
}

#[test]
fn peers_that_are_special_say_so_or_keep_their_meaning() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: keep}
spec: {peerIP: 10.9.0.1, asNumber: 65000, keepOriginalNextHop: true, nodeSelector: all()}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: link}
spec: {peerIP: 'fe80::1%eth0', asNumber: 65000}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: pods}
spec: {localWorkloadSelector: 'app == \"router\"', asNumber: 65001}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: others}
spec: {peerIP: 10.9.0.2, asNumber: 65000, node: n2}
";
    let cluster = cluster(THREE, text);
    let n1 = topology("n1", &cluster);
    assert_eq!(peer_named(&n1, "keep").unwrap().next_hop, NextHopMode::Keep);
    let link = peer_named(&n1, "link").unwrap();
    assert_eq!((link.interface.as_deref(), link.local), (Some("eth0"), None));
    assert!(peer_named(&n1, "others").is_none(), "of another node");
    let [problem] = n1.problems.as_slice() else { panic!("{:?}", n1.problems) };
    assert_eq!(problem.object, "BGPPeer(pods)");
    let mut reflector = Planner::new("n1").without_forwarding();
    reflector.update(&cluster, &Changes::everything());
    assert!(reflector.topology().problems.is_empty(), "it has no workloads");
    assert!(problem.message.contains("localWorkloadPeeringIPV4"), "{}", problem.message);
}

#[test]
fn every_field_of_a_filter_rule_reaches_the_policy() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 10.0.0.254, asNumber: 65000, filters: [all-of-it]}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: all-of-it}
spec:
  importV6: [{action: Reject}]
  exportV4:
  - action: Accept
    cidr: 10.0.0.0/8
    matchOperator: In
    prefixLength: {min: 16, max: 26}
    source: RemotePeers
    peerType: eBGP
    communities: {values: ['64512:1:2']}
    asPathPrefix: [65001, 65002]
    priority: 512
    operations:
    - addCommunity: {value: '64512:7'}
    - prependASPath: {prefix: [1, 2]}
    - setPriority: {value: 100}
";
    let n1 = topology("n1", &cluster(THREE, text));
    assert!(n1.problems.is_empty(), "{:?}", n1.problems);
    let tor = peer_named(&n1, "tor").unwrap();
    let everything: IpNet = "::/0".parse().unwrap();
    let import = &tor.import.filters[0].rules;
    assert_eq!(import.len(), 1);
    assert_eq!(import[0].prefix.as_ref().map(|prefix| prefix.cidr), Some(everything), "of its family only");
    let [rule] = tor.export.filters[0].rules.as_slice() else { panic!("{:?}", tor.export) };
    let prefix = rule.prefix.as_ref().unwrap();
    assert_eq!((prefix.cidr, prefix.length.clone()), ("10.0.0.0/8".parse().unwrap(), Some(16..=26)));
    assert_eq!((rule.learned, rule.peer_type), (true, Some(margay_bgp::policy::PeerType::External)));
    assert!(matches!(rule.community, Some(margay_bgp::policy::AnyCommunity::Large(_))));
    assert_eq!((rule.as_path_prefix.as_slice(), rule.priority), ([65001, 65002].as_slice(), Some(512)));
    assert_eq!(rule.operations.len(), 3);
}

#[test]
fn the_configuration_of_a_node_overrides_that_of_the_cluster() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec:
  listenPort: 1790
  bindMode: NodeIP
  communities: [{name: rack, value: '65000:7'}, {name: big, value: '65000:1:2'}]
  prefixAdvertisements:
  - {cidr: 10.65.0.0/16, communities: [rack, big, '64512:9']}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: node.n2}
spec:
  listenPort: 1791
  bindMode: None
  communities: [{name: nowhere, value: '65000:8'}]
  prefixAdvertisements: [{cidr: 10.66.0.0/16, communities: [nowhere]}]
";
    let mut cluster = cluster(THREE, text);
    // An object that was stored unchecked.
    cluster.configurations.get_mut("node.n2").unwrap().spec.communities.clear();
    let n1 = topology("n1", &cluster);
    assert_eq!((n1.listen_port, &n1.bind), (1790, &vec!["10.0.0.1".parse().unwrap()]));
    let [advertisement] = &n1.advertisements[..] else { panic!("{:?}", n1.advertisements) };
    assert_eq!(advertisement.cidr.to_string(), "10.65.0.0/16");
    let values: Vec<u32> = advertisement.communities.iter().map(|community| community.0).collect();
    assert_eq!(values, [65000 << 16 | 7, 64512 << 16 | 9]);
    assert_eq!(advertisement.large_communities.len(), 1);
    assert!(n1.problems.is_empty(), "{:?}", n1.problems);
    assert_eq!(peer_named(&n1, "n2").unwrap().port, 1791);
    let n2 = topology("n2", &cluster);
    assert_eq!((n2.listen_port, n2.bind.len()), (1791, 0));
    assert_eq!(n2.advertisements[0].communities, []);
    assert!(n2.problems[0].message.contains("nowhere"), "{:?}", n2.problems);
}

#[test]
fn what_has_no_effect_is_said() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec:
  logSeverityScreen: Debug
  ipv4NormalRoutePriority: 512
  programClusterRoutes: Disabled
  ignoredInterfaces: [eth9]
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: node.n1}
spec: {ignoredInterfaces: [eth9]}
";
    let problems = topology("n1", &cluster(THREE, text)).problems;
    let fields = ["default: logSeverity", "n1: programClusterRoutes"];
    assert_eq!(problems.len(), fields.len());
    for field in fields {
        let (object, field) = field.split_once(": ").unwrap();
        let said = |problem: &Problem| problem.object.contains(object) && problem.message.contains(field);
        assert!(problems.iter().any(said), "{field}: {problems:?}");
    }
}

const BFD: &str = "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeMeshFailureDetectionMode: BFDIfDirectlyConnected}
---
apiVersion: projectcalico.org/v3
kind: BFDConfiguration
metadata: {name: default}
spec:
  interfaces:
    - {matchPattern: 'eth*', minimumSendInterval: 250ms, multiplier: 4}
    - {matchPattern: '*', minimumRecvInterval: 20ms}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 10.0.0.254, asNumber: 65001, failureDetectionMode: BFDIfDirectlyConnected}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: behind}
spec: {peerIP: 10.0.0.253, asNumber: 65001, reachableBy: 10.0.0.254, failureDetectionMode: BFD}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: patient}
spec: {peerIP: 10.0.0.252, asNumber: 65001, failureDetectionMode: BFDStrict}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: far}
spec: {peerIP: 192.0.2.1, asNumber: 65001, failureDetectionMode: BFDIfDirectlyConnected, restartMode: GracefulRestart}
";

#[test]
fn sessions_are_watched_where_and_as_fast_as_objects_say() {
    let mut cluster = cluster(THREE, BFD);
    let watched = |cluster: &Cluster| -> BTreeMap<String, margay_bgp::bfd::SessionConfig> {
        let peers = topology("n1", cluster).peers.into_iter();
        peers
            .filter_map(|(_, peer)| Some((peer.config.description.clone(), peer.config.bfd?.session)))
            .collect()
    };
    let sessions = watched(&cluster);
    // n3 and the far router are in other subnets.
    assert_eq!(sessions.keys().collect::<Vec<_>>(), ["behind", "n2", "patient", "tor"]);
    assert_eq!(
        sessions.values().map(|session| session.multihop).collect::<Vec<_>>(),
        [true, false, false, false]
    );
    // The interface is not known, so only `*` fits; what is absent is as documented.
    let ms = Duration::from_millis;
    let any = sessions["n2"];
    assert_eq!((any.min_rx, any.min_tx, any.idle_tx, any.multiplier), (ms(20), ms(100), ms(60_000), 5));
    let interface = margay_api::kinds::NodeInterface {
        name: "eth1".to_owned(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
    };
    cluster.nodes.get_mut("n1").unwrap().spec.interfaces.push(interface);
    let eth = watched(&cluster)["tor"];
    assert_eq!((eth.min_rx, eth.min_tx, eth.multiplier), (ms(10), ms(250), 4));
    let none = "all() && has(nothing)".parse().unwrap();
    cluster.bfd.get_mut("default").unwrap().spec.node_selector = Some(none);
    assert_eq!(watched(&cluster)["n2"], margay_bgp::bfd::SessionConfig::default());
    let n1 = topology("n1", &cluster);
    let far = peer_named(&n1, "far").unwrap();
    assert_eq!(far.graceful_restart.long_lived, None);
    let strict = |name| peer_named(&n1, name).unwrap().bfd.map(|bfd| bfd.strict);
    assert_eq!(["far", "tor", "patient"].map(strict), [None, Some(false), Some(true)]);
}

/// Without the passwords and switches in it a cluster would be open that is closed.
#[test]
fn a_configuration_that_was_never_read_is_not_guessed() {
    let mut cluster = cluster(THREE, "");
    let key = |name: &str| Key::cluster(Kind::BgpConfiguration, name);
    let unreadable = [key("node.n2"), key("default")];
    assert_eq!(unknown_configuration("n1", &cluster, &unreadable), Some(&unreadable[1]));
    assert_eq!(unknown_configuration("n2", &cluster, &unreadable[..1]), Some(&unreadable[0]));
    assert_eq!(unknown_configuration("n1", &cluster, &unreadable[..1]), None, "another node's");
    assert_eq!(unknown_configuration("n1", &cluster, &[Key::cluster(Kind::BgpPeer, "default")]), None);
    let known = "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\nspec: {asNumber: 65001}\n";
    cluster.put(&yaml::parse("test.yaml", known).unwrap().remove(0).value);
    assert_eq!(unknown_configuration("n1", &cluster, &unreadable), None, "what was known goes on to hold");
}
