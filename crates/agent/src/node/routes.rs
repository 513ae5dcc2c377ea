//! From what is known to what the kernel should hold.

use std::net::IpAddr;
use std::sync::Arc;

use margay_api::kinds::FelixConfigurationSpec;
use margay_control::status::Problem;
use margay_daemon::topology::{node_addresses, service_ranges};
use margay_routing::{Family, RouteTrace, with_wireguard_keys};

use super::Node;

impl Node {
    /// Tells the router how this node reaches its neighbours now.
    pub(super) fn underlay_changed(&mut self) {
        let underlay = self.forwarding.underlay();
        self.router.set_underlay(underlay.routes.clone());
        let own = self.cluster.bgp.nodes.get(&self.config.node);
        let uplinks = own.into_iter().flat_map(|node| node_addresses(node)).filter_map(|address| {
            let uplink = underlay.uplink(address)?;
            Some((Family::of_addr(&address), self.mtu_interfaces.uplink(&underlay, uplink)))
        });
        self.router.set_uplinks(uplinks.collect());
    }

    /// Tells the router of the cluster's nodes and pools, and of what FelixConfiguration and BGPConfiguration ask of this
    /// node.
    pub(super) fn cluster_changed(&mut self) {
        let felix =
            FelixConfigurationSpec::of_node(&self.cluster.felix, &self.config.node, &self.own_labels());
        let (bgp, services) = (self.cluster.bgp.settings(), service_ranges(&self.cluster.bgp));
        self.router.set_settings(self.router.settings().with_felix(&felix).with_bgp(bgp, services));
        self.mtu_interfaces.follow(&felix);
        self.offload.follow(&felix);
        self.report_settings(&felix);
        let nodes: Vec<_> = self.cluster.bgp.nodes.values().map(Box::as_ref).collect();
        self.router.set_nodes(&nodes);
        self.router.set_pools(self.cluster.bgp.pools.values());
        // The node's own address may be another one.
        self.underlay_changed();
    }

    /// Says what is asked for and cannot be done.
    fn report_settings(&self, felix: &FelixConfigurationSpec) {
        let threading = (felix.wireguard_threading_enabled == Some(true)).then(|| Problem {
            object: "FelixConfiguration".to_owned(),
            message:
                "wireguardThreadingEnabled has no effect: the kernel decides how packets share the processors"
                    .to_owned(),
        });
        let problems = threading.into_iter().chain(self.mtu_interfaces.problem());
        self.health.set_problems("felix", problems.collect());
    }

    /// Says in our Node with which keys others can encrypt for us.
    pub(super) fn publish_keys(&mut self) {
        let keys = &self.forwarding.underlay().wireguard;
        if let Some(node) = self.cluster.bgp.nodes.get(&self.config.node)
            && let Some(changed) = with_wireguard_keys(node, &self.router.settings().wireguard, keys)
        {
            self.write_own_node(changed);
        }
    }

    /// Hands what follows from the changes to the forwarding thread; returns the generation to wait for.
    pub(super) fn update_routes(&mut self) -> u64 {
        let changes = self.router.take_changes();
        if changes.problems {
            self.report_route_problems();
        }
        let tunnels = changes.tunnels.then(|| Arc::new(self.router.tunnels().clone()));
        self.follow_mtu();
        let complete = self.in_sync && (!self.speaks_bgp() || self.speaker.is_complete());
        self.forwarding.want(changes.routes, tunnels, complete)
    }

    /// How packets to `destination` leave this node.
    pub(super) fn trace(&self, destination: IpAddr) -> RouteTrace {
        self.router.explain(destination)
    }
}
