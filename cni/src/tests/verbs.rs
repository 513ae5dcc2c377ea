use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use margay_control::cni::DelRequest;
use margay_netlink::{Mac, Netlink, Netns, Route, RouteTarget};
use serde_json::{Value, json};

use super::agent::Agent;
use crate::environment::Environment;
use crate::error::CniError;
use crate::spool::Spool;

const HOST_SIDE: &str = "mgy0000000000a";

/// A host, a pod, an agent and a directory, all of which go with the test.
struct Scene {
    host: Netns,
    pod: Netns,
    agent: Agent,
    dir: PathBuf,
}

impl Drop for Scene {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

impl Scene {
    fn new(name: &str) -> Option<Self> {
        let (host, pod) = match (Netns::new(), Netns::new()) {
            (Err(error), _)
                if error.is_not_permitted() && std::env::var_os("TESTS_REQUIRE_ALL").is_none() =>
            {
                eprintln!("skipped: {error}");
                return None;
            }
            (host, pod) => (host.unwrap(), pod.unwrap()),
        };
        let dir = std::env::temp_dir().join(format!("margay-cni-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Some(Self { host, pod, agent: Agent::start(&dir), dir })
    }

    /// What the agent would find in the spool; it stays there.
    fn spooled(&self) -> Vec<DelRequest> {
        let mut found = Vec::new();
        let mut take = |request: &DelRequest| {
            found.push(request.clone());
            false
        };
        assert_eq!(Spool::new(self.dir.join("spool")).replay(&mut take).unwrap(), Vec::<String>::new());
        found
    }

    fn verb(&self, verb: &str, netns: &str, extra: Value) -> Result<Value, CniError> {
        self.verb_at(&self.agent.socket, verb, netns, extra)
    }

    fn verb_at(&self, socket: &Path, verb: &str, netns: &str, extra: Value) -> Result<Value, CniError> {
        let mut config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "margay-cni",
            "socket": socket, "spool_dir": self.dir.join("spool"), "timeout_seconds": 5});
        for (key, value) in extra.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let environment: Environment = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", netns),
            ("CNI_PATH", &*self.dir.to_string_lossy()),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=red;K8S_POD_NAME=web;K8S_POD_UID=u-1"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let output = self.host.run(|| crate::run(&environment, config.to_string().as_bytes())).unwrap()?;
        Ok(if output.is_empty() { Value::Null } else { serde_json::from_str(&output).unwrap() })
    }

    fn pod_path(&self) -> String {
        self.pod.path().to_string_lossy().into_owned()
    }

    fn add(&self) -> Value {
        self.verb("ADD", &self.pod_path(), json!({})).unwrap()
    }

    fn in_host(&self) -> Netlink {
        Netlink::open_in(&self.host).unwrap()
    }

    fn is_wired(&self) -> (bool, bool) {
        let pod = Netlink::open_in(&self.pod).unwrap().link("eth0").unwrap().is_some();
        (self.in_host().link(HOST_SIDE).unwrap().is_some(), pod)
    }
}

/// The pod answers a connection from the host with the source address it saw.
fn connect(scene: &Scene, ip: IpAddr) -> std::io::Result<String> {
    let listener = scene.pod.run(|| TcpListener::bind((ip, 8080)).unwrap()).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        stream.write_all(from.ip().to_string().as_bytes()).unwrap();
    });
    let mut seen = String::new();
    let target = (ip, 8080).into();
    scene
        .host
        .run(|| TcpStream::connect_timeout(&target, Duration::from_secs(3)))
        .unwrap()?
        .read_to_string(&mut seen)?;
    server.join().unwrap();
    Ok(seen)
}

#[test]
fn add_wires_both_families_and_packets_flow_without_proxy_arp() {
    let Some(scene) = Scene::new("add") else { return };
    let result = scene.add();
    let asked = scene.agent.asked();
    assert_eq!(
        asked.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(),
        ["/v1/cni/add", "/v1/cni/commit"]
    );
    assert_eq!(asked[0].1["pod_namespace"], "red");
    assert_eq!(asked[0].1["pod_uid"], "u-1");
    assert_eq!(asked[1].1["mac"], "02:00:00:00:00:07");
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(result["interfaces"][0]["name"], HOST_SIDE);
    assert_eq!(
        result["interfaces"][1],
        json!({"name": "eth0", "mac": "02:00:00:00:00:07", "mtu": 1410, "sandbox": scene.pod_path()})
    );
    assert_eq!(
        result["ips"][0],
        json!({"address": "10.65.0.7/32", "gateway": "169.254.1.1", "interface": 1})
    );
    assert_eq!(result["routes"][1], json!({"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"}));

    // What the agent does on commit: the pod's routes. The host has no default route, where proxy ARP would fail.
    let mut host = scene.in_host();
    let (device, lo) = (host.link_index(HOST_SIDE).unwrap(), host.link_index("lo").unwrap());
    host.set_up(lo, true).unwrap();
    for (pod, own) in [("10.65.0.7/32", "192.0.2.1/32"), ("fd00:65::7/128", "2001:db8::1/128")] {
        let address = margay_netlink::Address { index: lo, net: own.parse().unwrap() };
        host.add_address(&address, margay_netlink::AddressOptions::default()).unwrap();
        host.add_route(&Route {
            source: Some(address.net.addr()),
            ..Route::new(pod.parse().unwrap(), RouteTarget::Device { device }, 180)
        })
        .unwrap();
    }
    assert_eq!(connect(&scene, "10.65.0.7".parse().unwrap()).unwrap(), "192.0.2.1");
    assert_eq!(connect(&scene, "fd00:65::7".parse().unwrap()).unwrap(), "2001:db8::1");
}

#[test]
fn second_add_fails_and_touches_nothing() {
    let Some(scene) = Scene::new("twice") else { return };
    let first = scene.add();
    scene.agent.asked();
    let error = scene.verb("ADD", &scene.pod_path(), json!({})).unwrap_err();
    assert_eq!(error.code, 100, "{error}");
    assert!(error.message.contains("eth0") && error.message.contains("c1"), "{error}");
    // A DEL might have been answered and not be done yet.
    assert_eq!(scene.agent.paths_asked(), ["/v1/cni/settle"]);
    scene.verb("CHECK", &scene.pod_path(), json!({"prevResult": first})).unwrap();
}

#[test]
fn failed_commit_leaves_nothing() {
    let Some(scene) = Scene::new("commit") else { return };
    scene.agent.answer("/v1/cni/commit", 503, json!({"code": 111, "message": "policy not live within 10 s"}));
    let error = scene.verb("ADD", &scene.pod_path(), json!({})).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (111, "policy not live within 10 s"));
    assert_eq!(scene.agent.paths_asked(), ["/v1/cni/add", "/v1/cni/commit", "/v1/cni/del"]);
    assert_eq!(scene.is_wired(), (false, false));
}

#[test]
fn failed_wiring_leaves_nothing() {
    let Some(scene) = Scene::new("wiring") else { return };
    let bad = json!({"addresses": ["10.65.0.7/32"], "host_ifname": HOST_SIDE, "mac": null, "mtu": 4_000_000});
    scene.agent.answer("/v1/cni/add", 200, bad);
    let error = scene.verb("ADD", &scene.pod_path(), json!({})).unwrap_err();
    assert_eq!(error.code, 101, "{error}");
    assert_eq!(scene.agent.paths_asked(), ["/v1/cni/add", "/v1/cni/del"]);
    assert_eq!(scene.is_wired(), (false, false));
}

#[test]
fn refusals_of_the_agent_pass_through() {
    let Some(scene) = Scene::new("pool") else { return };
    scene.agent.answer("/v1/cni/add", 409, json!({"code": 110, "message": "pool default is exhausted"}));
    let error = scene.verb("ADD", &scene.pod_path(), json!({})).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (110, "pool default is exhausted"));
    assert_eq!(scene.agent.paths_asked(), ["/v1/cni/add"]);
}

#[test]
fn many_host_sides_go_at_once_and_nobody_elses() {
    let Some(scene) = Scene::new("group") else { return };
    let mut host = scene.in_host();
    for (name, mac) in [("mgy1", Some(Mac::HOST_SIDE)), ("mgy2", Some(Mac::HOST_SIDE)), ("other", None)] {
        let near = margay_netlink::VethEnd { name, mac, netns: None };
        let inside = format!("in-{name}");
        let far = margay_netlink::VethEnd { name: &inside, mac: None, netns: Some(scene.pod.as_fd()) };
        host.add_veth(&near, &far, None).unwrap();
    }
    let names = ["mgy1", "gone", "other", "mgy2"];
    for outcome in scene.host.run(|| crate::wiring::remove_host_sides(&names)).unwrap() {
        outcome.unwrap();
    }
    let left = host.links().unwrap().into_iter().map(|link| link.name);
    assert_eq!(left.filter(|name| name != "lo").collect::<Vec<_>>(), ["other"]);
    for outcome in scene.host.run(|| crate::wiring::remove_host_sides(&["gone", "mgy1"])).unwrap() {
        outcome.unwrap();
    }
}

#[test]
fn leftover_host_side_is_replaced() {
    let Some(scene) = Scene::new("leftover") else { return };
    let near = margay_netlink::VethEnd { name: HOST_SIDE, ..Default::default() };
    let far = margay_netlink::VethEnd { name: "old0", ..Default::default() };
    scene.in_host().add_veth(&near, &far, None).unwrap();
    scene.add();
    assert!(scene.in_host().link("old0").unwrap().is_none());
    assert_eq!(scene.is_wired(), (true, true));
}

#[test]
fn del_is_the_agents_business() {
    let Some(scene) = Scene::new("del") else { return };
    let result = scene.add();
    scene.agent.asked();
    for netns in [scene.pod_path().as_str(), scene.pod_path().as_str(), "", "/run/netns/gone-long-ago"] {
        let output = scene.verb("DEL", netns, json!({ "prevResult": result })).unwrap();
        assert_eq!((output, scene.agent.paths_asked()), (Value::Null, vec!["/v1/cni/del".to_owned()]));
    }
    // The one who waits for the kernel is not the plugin.
    assert_eq!(scene.is_wired(), (true, true));
    assert_eq!(scene.spooled(), []);
}

#[test]
fn without_an_agent_del_succeeds_in_every_situation() {
    let Some(scene) = Scene::new("del-alone") else { return };
    let nobody = scene.dir.join("nobody.sock");
    let del = |netns: &str, extra| scene.verb_at(&nobody, "DEL", netns, extra).unwrap();
    let result = scene.add();
    for _ in 0..2 {
        assert_eq!(del(&scene.pod_path(), json!({})), Value::Null);
        assert_eq!(scene.is_wired(), (false, false));
    }
    del("", json!({}));
    del("/run/netns/gone-long-ago", json!({}));
    // The namespace lives on but the runtime doesn't name it: the previous result does.
    scene.add();
    del("", json!({ "prevResult": result }));
    assert_eq!(scene.is_wired(), (false, false));
    assert_eq!(scene.spooled().len(), 1);
}

#[test]
fn del_never_touches_the_hosts_own_interfaces() {
    let Some(scene) = Scene::new("own") else { return };
    let near = margay_netlink::VethEnd { name: "eth0", ..Default::default() };
    let far = margay_netlink::VethEnd { name: "eth1", ..Default::default() };
    scene.in_host().add_veth(&near, &far, None).unwrap();
    let own = scene.host.path().to_string_lossy().into_owned();
    let nobody = scene.dir.join("nobody.sock");
    scene.verb_at(&nobody, "DEL", &own, json!({})).unwrap();
    let previous = json!({"interfaces": [{"name": "eth0"}], "ips": []});
    scene.verb_at(&nobody, "DEL", "", json!({ "prevResult": previous })).unwrap();
    assert!(scene.in_host().link("eth0").unwrap().is_some());
}

#[test]
fn with_the_agent_down_add_asks_to_retry_and_del_is_recorded() {
    let Some(scene) = Scene::new("down") else { return };
    scene.add();
    let nobody = scene.dir.join("nobody.sock");
    for netns in [scene.pod_path(), scene.pod_path(), String::new()] {
        scene.verb_at(&nobody, "DEL", &netns, json!({})).unwrap();
        assert_eq!(scene.is_wired(), (false, false));
    }
    let spooled = scene.spooled();
    assert_eq!(spooled.len(), 1);
    let attachment = &spooled[0].attachment;
    assert_eq!(
        (attachment.container_id.as_str(), attachment.ifname.as_str(), attachment.network.as_str()),
        ("c1", "eth0", "pods")
    );

    let error = scene.verb_at(&nobody, "ADD", &scene.pod_path(), json!({})).unwrap_err();
    assert_eq!(error.code, 11);
    assert!(error.message.contains("systemctl start margay-agent"), "{error}");
    assert_eq!(scene.is_wired(), (false, false));
    assert_eq!(scene.verb_at(&nobody, "STATUS", "", json!({})).unwrap_err().code, 50);

    // Neither agent nor spool: only then may DEL fail, because something would leak.
    let spool_dir = scene.dir.join("agent.sock/spool");
    let error = scene.verb_at(&nobody, "DEL", "", json!({ "spool_dir": spool_dir })).unwrap_err();
    assert_eq!(error.code, 11, "{error}");
}

#[test]
fn lost_answer_of_add_is_released() {
    let Some(scene) = Scene::new("lost") else { return };
    scene.agent.answer("/v1/cni/add", 200, json!("not what was expected"));
    let error = scene.verb("ADD", &scene.pod_path(), json!({})).unwrap_err();
    assert_eq!(error.code, 11, "{error}");
    assert_eq!(scene.agent.paths_asked(), ["/v1/cni/add", "/v1/cni/del"]);
}

#[test]
fn bad_namespaces_have_code_8() {
    let Some(scene) = Scene::new("netns") else { return };
    let own = scene.host.path().to_string_lossy().into_owned();
    for netns in ["/run/netns/there-is-none", "/proc/self/status", own.as_str()] {
        let error = scene.verb("ADD", netns, json!({})).unwrap_err();
        assert_eq!(error.code, 8, "{netns}: {error}");
        assert!(error.message.contains(netns), "{error}");
    }
    assert_eq!(scene.verb("ADD", "", json!({})).unwrap_err().code, 4);
    assert!(scene.agent.paths_asked().is_empty());
}

#[test]
fn check_finds_what_changed() {
    let Some(scene) = Scene::new("check") else { return };
    let result = scene.add();
    let check = || scene.verb("CHECK", &scene.pod_path(), json!({ "prevResult": result }));
    check().unwrap();
    assert_eq!(scene.verb("CHECK", &scene.pod_path(), json!({})).unwrap_err().code, 7);

    let mut pod = Netlink::open_in(&scene.pod).unwrap();
    let index = pod.link_index("eth0").unwrap();
    let address = margay_netlink::Address { index, net: "10.65.0.7/32".parse().unwrap() };
    pod.delete_neighbour(index, "169.254.1.1".parse().unwrap()).unwrap();
    pod.delete_address(&address).unwrap();
    scene.agent.answer(
        "/v1/cni/check",
        200,
        json!({"addresses": ["10.65.0.7/32"], "host_ifname": HOST_SIDE, "live": false}),
    );
    let error = check().unwrap_err();
    assert_eq!(error.code, 102);
    for word in
        ["no address 10.65.0.7/32", "neighbour entry for 169.254.1.1", "not in the kernel", "fd00:65::7"]
    {
        assert!(error.details.contains(word), "{word}: {error}");
    }
    // From elsewhere it is the interface of somebody else.
    crate::wiring::remove(&scene.pod, "eth0").unwrap();
    assert!(!check().unwrap_err().details.contains("no interface eth0"));
    scene.host.run(|| crate::wiring::remove(&scene.pod, "eth0")).unwrap().unwrap();
    assert!(check().unwrap_err().details.contains("no interface eth0"));
}

#[test]
fn gc_hands_on_the_list_and_refuses_without_one() {
    let Some(scene) = Scene::new("gc") else { return };
    let valid = json!([{"containerID": "c9", "ifname": "eth0"}]);
    scene.verb("GC", "", json!({ "cni.dev/valid-attachments": valid })).unwrap();
    let asked = scene.agent.asked();
    assert_eq!(
        asked[0].1,
        json!({"network": "pods", "valid": [{"container_id": "c9", "ifname": "eth0", "network": "pods"}]})
    );
    scene.verb("GC", "", json!({ "cni.dev/valid-attachments": null })).unwrap();
    assert_eq!(scene.agent.asked()[0].1, json!({"network": "pods", "valid": []}), "as cri-o says it");
    // The IPAM plugin collects, whether the agent could or not.
    let collector = scene.dir.join("collector");
    let script = format!("#!/bin/sh\ncat > /dev/null\necho $CNI_COMMAND >> {}/heard\n", scene.dir.display());
    std::fs::write(&collector, script).unwrap();
    std::fs::set_permissions(&collector, std::fs::Permissions::from_mode(0o755)).unwrap();
    scene.agent.answer("/v1/cni/gc", 503, json!({"code": 11, "message": "the disk is full"}));
    let error = scene
        .verb("GC", "", json!({ "cni.dev/valid-attachments": [], "ipam": {"type": "collector"} }))
        .unwrap_err();
    assert!(error.code == 11 && error.message.contains("disk"), "{error}");
    assert_eq!(std::fs::read_to_string(scene.dir.join("heard")).unwrap(), "GC\n");
    assert_eq!(scene.verb("GC", "", json!({})).unwrap_err().code, 7);
    assert_eq!(scene.verb("GC", "", json!({"cniVersion": "1.0.0"})).unwrap_err().code, 1);
    assert_eq!(scene.verb("CHECK", "", json!({"cniVersion": "0.3.1"})).unwrap_err().code, 1);
    scene.verb("STATUS", "", json!({})).unwrap();
}
