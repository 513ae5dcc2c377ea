//! The whole of it on small clusters.

mod next_hops;
mod objects;
mod pools;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::{IpPool, IpamBlock, Metadata, Node};
use proptest::prelude::*;
use serde_json::json;

use crate::{
    Backend, BgpRoute, Changes, Hop, RouteTrace, Router, Settings, Target, Tunnels, UnderlayRoute, Uplink,
};

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

#[derive(Debug, Clone, Default)]
struct Cluster {
    nodes: Vec<Node>,
    pools: Vec<IpPool>,
    blocks: Vec<IpamBlock>,
    bgp: Vec<BgpRoute>,
    pods: Vec<(IpAddr, String)>,
    underlay: BTreeSet<UnderlayRoute>,
    settings: Settings,
}

impl Cluster {
    fn node(mut self, name: &str, address: &str, vtep: Option<&str>) -> Self {
        let spec = json!({ "bgp": { "ipv4Address": address }, "ipv4VXLANTunnelAddr": vtep });
        self.nodes.push(Node::new(Metadata::named(name), serde_json::from_value(spec).unwrap()));
        self
    }

    fn pool(mut self, name: &str, cidr: &str, mode: &str) -> Self {
        let mut spec = json!({ "cidr": cidr, "natOutgoing": true });
        if let Some((encapsulation, mode)) = mode.split_once(' ') {
            spec[format!("{encapsulation}Mode")] = json!(mode);
        }
        self.pools.push(IpPool::new(Metadata::named(name), serde_json::from_value(spec).unwrap()));
        self
    }

    fn block(mut self, cidr: &str, node: &str) -> Self {
        let spec = json!({ "cidr": cidr, "affinity": format!("host:{node}") });
        let name = cidr.replace(['.', '/', ':'], "-");
        self.blocks.push(IpamBlock::new(Metadata::named(name), serde_json::from_value(spec).unwrap()));
        self
    }

    fn learned(mut self, prefix: &str, next_hops: &[&str]) -> Self {
        let next_hops = next_hops.iter().map(|n| ip(n).into()).collect();
        self.learn(BgpRoute { prefix: net(prefix), next_hops, stale: false });
        self
    }

    /// A prefix has one entry, with all its next hops.
    fn learn(&mut self, route: BgpRoute) {
        match self.bgp.iter_mut().find(|known| known.prefix == route.prefix) {
            Some(known) => known.next_hops.extend(route.next_hops),
            None => self.bgp.push(route),
        }
    }

    fn stale(mut self) -> Self {
        self.bgp.iter_mut().for_each(|route| route.stale = true);
        self
    }

    fn pod(mut self, address: &str, interface: &str) -> Self {
        self.pods.push((ip(address), interface.to_owned()));
        self
    }

    /// `172.20.0.0/24` on eth0, everything else through its router.
    fn lan(mut self) -> Self {
        let route = |prefix: &str, gateway: Option<&str>| UnderlayRoute {
            prefix: net(prefix),
            gateway: gateway.map(ip),
            dev: "eth0".to_owned(),
            metric: 0,
            onlink: false,
        };
        let routes = [route("172.20.0.0/24", None), route("0.0.0.0/0", Some("172.20.0.254"))];
        self.underlay = BTreeSet::from(routes);
        self
    }

    fn router(&self) -> Router {
        let mut router = Router::new("n1", self.settings.clone());
        let uplink = Uplink { name: Some("eth0".to_owned()), mtu: 1500 };
        router.set_uplinks(crate::Family::ALL.map(|family| (family, uplink.clone())).into());
        router.set_nodes(&self.nodes.iter().collect::<Vec<_>>());
        router.set_pools(&self.pools);
        self.blocks.iter().for_each(|block| router.set_block(block));
        self.bgp.iter().for_each(|route| router.set_bgp(route.clone()));
        self.pods.iter().for_each(|(address, interface)| router.add_pod(*address, interface));
        router.set_underlay(self.underlay.clone());
        router.take_changes();
        router
    }

    fn tunnels(&self) -> Tunnels {
        self.router().tunnels().clone()
    }

    fn explain(&self, address: &str) -> RouteTrace {
        self.router().explain(ip(address))
    }

    /// Routes as `ip route` writes them, problems as `! object: message`.
    fn text(&self) -> Vec<String> {
        let router = self.router();
        let routes = router.routes().values().map(ToString::to_string);
        let problems = router.problems();
        routes.chain(problems.iter().map(|p| format!("! {}: {}", p.object, p.message))).collect()
    }
}

/// n1 and n2 in one subnet, n3 behind a router.
fn three_nodes(mode: &str) -> Cluster {
    Cluster::default()
        .node("n1", "172.20.0.1/24", Some("10.65.1.0"))
        .node("n2", "172.20.0.2/24", Some("10.65.2.0"))
        .node("n3", "172.21.0.3/24", Some("10.65.3.0"))
        .pool("default", "10.65.0.0/16", mode)
        .block("10.65.1.0/24", "n1")
        .block("10.65.2.0/24", "n2")
        .block("10.65.3.0/24", "n3")
        .learned("10.65.2.0/24", &["172.20.0.2"])
        .learned("10.65.3.0/24", &["172.21.0.3"])
        .pod("10.65.1.7", "mgyaaa")
        .lan()
}

const OWN: [&str; 2] = ["blackhole 10.65.1.0/24 proto 181", "10.65.1.7/32 dev mgyaaa scope link proto 180"];
