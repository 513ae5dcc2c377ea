//! What objects say of a session, put into its settings.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use margay_api::kinds::NextHopMode as ApiNextHopMode;
use margay_api::kinds::{RestartMode, SecretRef, SourceAddress};
use margay_api::{BgpPeer, Node};
use margay_bgp::{MaxPrefix, NextHopMode, PeerConfig, PeerKind};

use super::builder::{Builder, Policies, Rule};
use super::settings::secret_name;
use super::{
    bfd, concerns, filters, limits, node_addresses, pod_addresses, pod_cidrs, problem, service_ranges,
};
use crate::secrets::NoPassword;

impl<'a> Builder<'a> {
    /// A reflector accepts from a node what the datastore says is the node's, and little more than so many prefixes.
    pub(super) fn restrict(&self, config: &mut PeerConfig, name: &str, there: &Node) {
        let blocks = self.cluster.blocks.get(name);
        let services = service_ranges(self.cluster);
        let single: Vec<IpNet> = pod_addresses(there).collect();
        let own = blocks.map_or(0, BTreeSet::len);
        config.max_prefix = Some(limits::of_node(own, single.len(), &services));
        // Where another IPAM plugin gives the addresses a node announces its range as a whole, or each of them.
        let blocks = blocks.into_iter().flatten().copied();
        config.authorised_origins =
            Some(blocks.chain(services).chain(pod_cidrs(there)).chain(single).collect());
    }

    /// And what the BGPFilters of its BGPPeer let a node tell besides: of workloads that speak BGP, of routers. That is
    /// the BGPPeer of both ends, but for one that names us by our address.
    pub(super) fn authorise(
        &self,
        config: &mut PeerConfig,
        name: &str,
        there: &Node,
        rule: Option<Rule<'a>>,
    ) {
        let names_us = |peer: &&BgpPeer| {
            let named = peer.spec.peer_ip.as_ref().map(|address| address.ip);
            named.is_some_and(|ip| node_addresses(self.me).any(|own| own == ip))
                && concerns(peer, name, there)
        };
        let peers = self.cluster.peers.values().filter(names_us).chain(rule.map(|rule| rule.peer));
        let let_out: BTreeSet<IpNet> =
            peers.flat_map(|peer| filters::let_out(&peer.spec.filters, &self.cluster.filters)).collect();
        if let_out.is_empty() {
            return;
        }
        config.max_prefix =
            config.max_prefix.map(|own| MaxPrefix::new(own.limit.saturating_add(limits::ROUTER)));
        if let Some(origins) = &mut config.authorised_origins {
            origins.extend(let_out);
        }
    }

    /// That of a session of which nobody says anything. Packets that a reflector drew to itself would go no further, to peers of
    /// other ASes as to its own (RFC 4271 section 5.1.3: a third party's).
    fn usual_next_hop(&self, config: &PeerConfig) -> NextHopMode {
        let draws = config.kind == PeerKind::External && !self.forwards;
        if draws { NextHopMode::Keep } else { NextHopMode::Auto }
    }

    /// Applies the cluster's settings to a session that nodes have by themselves; false if it cannot be used.
    pub(super) fn adjust_mesh(&mut self, config: &mut PeerConfig) -> bool {
        // Nodes of one cluster may be of several ASes; the pools are the policy between them.
        config.policy_required = false;
        config.next_hop = self.usual_next_hop(config);
        let Some(spec) = self.settings.mesh() else { return true };
        if let Some(time) = spec.node_mesh_max_restart_time {
            config.graceful_restart.restart_time = time.into();
        }
        config.bfd = bfd::watch(self.cluster, self.me, config, spec.node_mesh_failure_detection_mode, true);
        let object = "BGPConfiguration(default)";
        self.password(config, spec.node_mesh_password.as_ref(), object, "nodeMeshPassword")
    }

    /// Sets the password that an object refers to; false if there is one and it cannot be had.
    fn password(
        &mut self,
        config: &mut PeerConfig,
        reference: Option<&SecretRef>,
        object: &str,
        field: &str,
    ) -> bool {
        let Some(reference) = reference else { return true };
        let optional = reference.secret_key_ref.as_ref().is_some_and(|key| key.optional == Some(true));
        let found = secret_name(reference).map(|name| self.cluster.secrets().get(&name));
        let reason = match found {
            Some(Some(Ok(password))) => {
                config.password = Some(password.clone());
                return true;
            }
            Some(Some(Err(NoPassword::Absent(_)))) | None if optional => return true,
            Some(Some(Err(reason))) => reason.to_string(),
            Some(None) => "it has not been read yet".to_owned(),
            None => "there is no secretKeyRef".to_owned(),
        };
        let message = format!("spec.{field}: {reason}. Until the password is there these sessions stay down");
        self.report(problem(object.to_owned(), message));
        false
    }

    /// Applies the fields of a BGPPeer to a session; false if it cannot be used.
    pub(super) fn adjust(&mut self, config: &mut PeerConfig, rule: Rule<'a>, router: bool) -> bool {
        let spec = &rule.peer.spec;
        let object = rule.object();
        // Import accepts by default in Calico; the BGPPeer is the explicit policy that RFC 8212 asks for.
        config.policy_required = false;
        config.ttl_security = spec.ttl_security;
        if spec.source_address == Some(SourceAddress::None) {
            config.local = None;
        }
        if let Some(keepalive) = spec.keepalive_time.map(Duration::from).filter(|time| !time.is_zero()) {
            config.timers.keepalive = Some(keepalive);
            config.timers.hold = config.timers.hold.max(keepalive * 3);
            // RFC 9687 section 3: twice the hold time or more.
            config.timers.send_hold = config.timers.send_hold.max(config.timers.hold * 2);
        }
        if let Some(time) = spec.max_restart_time {
            config.graceful_restart.restart_time = time.into();
        }
        if spec.restart_mode == Some(RestartMode::GracefulRestart) {
            config.graceful_restart.long_lived = None;
        }
        let direct = spec.reachable_by.is_none();
        config.bfd = bfd::watch(self.cluster, self.me, config, spec.failure_detection_mode, direct);
        config.allow_own_as =
            spec.num_allowed_local_as_numbers.map_or(0, |n| u8::try_from(n).unwrap_or(u8::MAX));
        config.next_hop = match spec.next_hop_mode {
            _ if !self.forwards => self.usual_next_hop(config),
            Some(ApiNextHopMode::Self_) => NextHopMode::SelfAddress,
            Some(ApiNextHopMode::Keep) => NextHopMode::Keep,
            Some(ApiNextHopMode::Auto) => NextHopMode::Auto,
            None if spec.keep_original_next_hop && config.kind == PeerKind::External => NextHopMode::Keep,
            None => NextHopMode::Auto,
        };
        if !spec.filters.is_empty() {
            let (import, export) = self.filtered(config, rule, router);
            config.import = import;
            config.export = export;
        }
        self.password(config, spec.password.as_ref(), &object, "password")
    }

    /// The filters of a BGPPeer before what its sessions have without. All sessions of a kind share them.
    fn filtered(&mut self, config: &PeerConfig, rule: Rule<'a>, router: bool) -> Policies {
        let key = (rule.name, router);
        let (policies, messages) = match self.compiled.get(&key) {
            Some(known) => known.clone(),
            None => {
                let (filters, known) = (&rule.peer.spec.filters, &self.cluster.filters);
                let compiled = filters::compile(filters, known, &self.ways(), &config.import, &config.export);
                let both = (Arc::new(compiled.import), Arc::new(compiled.export));
                self.compiled.entry(key).or_insert((both, compiled.problems)).clone()
            }
        };
        for message in messages {
            self.report(problem(rule.object(), message));
        }
        policies
    }
}
