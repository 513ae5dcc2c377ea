//! What BGPConfiguration and FelixConfiguration make of routes, and what workloads announce.

use super::*;

fn bgp_configuration(spec: serde_json::Value) -> margay_api::kinds::BgpConfigurationSpec {
    serde_json::from_value(spec).unwrap()
}

#[test]
fn cluster_routes_are_written_where_either_object_says_so() {
    let without = |mode: &str, bgp: &str, felix: &str| {
        let mut cluster = three_nodes(mode);
        let bgp = bgp_configuration(json!({ "programClusterRoutes": bgp }));
        let felix = serde_json::from_value(json!({ "programClusterRoutes": felix })).unwrap();
        cluster.settings = cluster.settings.with_felix(&felix).with_bgp(Some(&bgp), BTreeSet::new());
        cluster.text() == OWN
    };
    for (mode, bgp, felix, nothing) in [
        ("", "Disabled", "EnabledIPIPOnly", true),
        ("", "EnabledIPIPOnly", "Disabled", true),
        ("", "EnabledNoEncapOnly", "Disabled", false),
        ("", "Disabled", "Enabled", false),
        ("ipip Always", "EnabledNoEncapOnly", "Disabled", true),
        ("ipip Always", "Disabled", "EnabledIPIPOnly", false),
        ("ipip Always", "Enabled", "Disabled", false),
        ("vxlan Always", "Disabled", "Disabled", false),
    ] {
        assert_eq!(without(mode, bgp, felix), nothing, "{mode}, BGP {bgp}, Felix {felix}");
    }
    let mut cluster = three_nodes("");
    let disabled = bgp_configuration(json!({ "programClusterRoutes": "Disabled" }));
    cluster.settings = cluster.settings.with_bgp(Some(&disabled), BTreeSet::new());
    assert!(cluster.explain("10.65.2.9").to_string().contains("programClusterRoutes"));
    let cluster = cluster.learned("192.0.2.0/24", &["172.20.0.2"]);
    assert!(
        cluster.text().contains(&"192.0.2.0/24 via 172.20.0.2 dev eth0 proto 181".to_owned()),
        "in no pool"
    );
}

#[test]
fn routes_have_the_metric_of_their_kind() {
    let dual = || {
        let six = three_nodes("").pool("six", "fd00:65::/48", "").block("fd00:65::1:0/122", "n1");
        six.pod("fd00:65::1:5", "mgyaaa")
    };
    let mut cluster = dual();
    let priorities =
        |four: u32, six: u32| json!({ "ipv4NormalRoutePriority": four, "ipv6NormalRoutePriority": six });
    let bgp = bgp_configuration(priorities(77, 66));
    let felix = serde_json::from_value(priorities(88, 99)).unwrap();
    cluster.settings = cluster.settings.with_felix(&felix).with_bgp(Some(&bgp), BTreeSet::new());
    let metrics =
        cluster.text().iter().map(|route| route.rsplit_once(' ').unwrap().1.to_owned()).collect::<Vec<_>>();
    assert_eq!(metrics, ["77", "88", "77", "77", "66", "99"]);
    assert!(cluster.explain("10.65.2.9").to_string().contains(" metric 77"));
    cluster.settings = cluster.settings.with_felix(&Default::default()).with_bgp(None, BTreeSet::new());
    assert_eq!(cluster.text(), dual().text(), "nothing is left of it");
}

#[test]
fn what_a_workload_announces_is_behind_it() {
    let mut router = three_nodes("").learned("192.0.2.0/24", &["10.65.1.7"]).router();
    let via = |router: &Router| router.routes().get(&net("192.0.2.0/24")).map(ToString::to_string);
    assert_eq!(via(&router).unwrap(), "192.0.2.0/24 via 10.65.1.7 dev mgyaaa onlink proto 181");
    assert_eq!(router.cost(ip("10.65.1.7")), Some(0));
    router.remove_pod(ip("10.65.1.7"), "mgyaaa");
    router.take_changes();
    assert_ne!(via(&router).unwrap_or_default(), "192.0.2.0/24 via 10.65.1.7 dev mgyaaa onlink proto 181");
    router.add_pod(ip("10.65.1.7"), "mgybbb");
    router.set_workload_peering(&BTreeSet::from([ip("169.254.0.179")]));
    assert!(router.take_changes().tunnels);
    assert_eq!(via(&router).unwrap(), "192.0.2.0/24 via 10.65.1.7 dev mgybbb onlink proto 181");
    assert_eq!(router.tunnels().workload_peering, BTreeSet::from([net("169.254.0.179/32")]));
}

#[test]
fn links_of_ignored_interfaces_lead_nowhere() {
    let ignoring = |patterns: &[&str]| {
        let mut router = three_nodes("").router();
        let bgp = bgp_configuration(json!({ "ignoredInterfaces": patterns }));
        router.set_settings(router.settings().with_bgp(Some(&bgp), BTreeSet::new()));
        router.take_changes();
        let route = router.routes().get(&net("10.65.2.0/24")).map(ToString::to_string);
        (route.unwrap_or_default(), router.cost(ip("172.20.0.2")))
    };
    assert_eq!(ignoring(&["wlan*"]), ("10.65.2.0/24 via 172.20.0.2 dev eth0 proto 181".to_owned(), Some(0)));
    assert_eq!(
        ignoring(&["wlan*", "e*0"]),
        ("10.65.2.0/24 via 172.20.0.254 dev eth0 proto 181".to_owned(), Some(1))
    );
}

#[test]
fn what_others_announce_of_services_is_not_written() {
    let mut cluster =
        three_nodes("").learned("10.96.0.7/32", &["172.20.0.2"]).learned("10.112.0.0/24", &["172.20.0.2"]);
    cluster.settings = cluster.settings.with_bgp(None, BTreeSet::from([net("10.96.0.0/12")]));
    let text = cluster.text();
    assert!(
        !text.iter().any(|line| line.starts_with("10.96."))
            && text.iter().any(|line| line.starts_with("10.112."))
    );
    assert!(cluster.explain("10.96.0.7").to_string().contains("services"));
}
