//! A packet's way through one node: every place where policy may decide it, those of host endpoints included.
//!
//! Written from Calico's documentation of host endpoints (`reference/host-endpoints/overview`, `…/forwarded`, `…/pre-dnat`,
//! `…/untracked`), not from the rules, so that it can be their oracle.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::evaluate::{evaluate, evaluate_tiers, is_failsafe};
use super::packet::{ICMPV6, Packet};
use super::trace::{EndpointVerdict, Verdict};
use crate::model::{
    Direction, EndpointId, EndpointPolicy, EndpointToHostAction, EnforcedState, FailsafePort, LocalEndpoint,
};

/// The first packet of a flow, and its way through a node.
#[derive(Debug, Clone)]
pub struct Passage {
    /// The packet as it comes in or is made.
    pub packet: Packet,
    /// Interface it comes in by; `None`: the node makes it.
    pub incoming: Option<Arc<str>>,
    /// Interface it is to leave by; `None`: it is for the node.
    pub outgoing: Option<Arc<str>>,
    /// The packet behind destination NAT, and the interface it leaves by then.
    pub rewritten: Option<(Packet, Option<Arc<str>>)>,
}

/// Where policy runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// doNotTrack policies: before connection tracking.
    BeforeTracking,
    /// preDNAT policies: before destinations are rewritten.
    BeforeNat,
    /// applyOnForward policies: what passes through.
    Forwarded,
    /// Policies of a pod, and the normal ones of a host endpoint.
    Endpoint,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BeforeTracking => "doNotTrack",
            Self::BeforeNat => "preDNAT",
            Self::Forwarded => "applyOnForward",
            Self::Endpoint => "normal",
        })
    }
}

/// One decision on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Where.
    pub place: Place,
    /// What was decided, and by what.
    pub verdict: EndpointVerdict,
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Passed {
    /// Whether it got through the node.
    pub verdict: Verdict,
    /// What decided, in the order it was met; where no policy decided there is no step.
    pub steps: Vec<Step>,
}

/// Follows a packet through the node whose state this is. What others' rules do is not known here.
#[must_use]
pub fn pass(state: &EnforcedState, passage: &Passage) -> Passed {
    let mut way = Way { state, steps: Vec::new() };
    let verdict = if way.passes(passage).is_none() { Verdict::Deny } else { Verdict::Allow };
    Passed { verdict, steps: way.steps }
}

/// What a place says that does not drop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Allowed: later places of the same host endpoint are not asked.
    Allow,
    /// Nothing.
    Nothing,
}

struct Way<'a> {
    state: &'a EnforcedState,
    steps: Vec<Step>,
}

impl Way<'_> {
    /// `None`: dropped on the way.
    fn passes(&mut self, passage: &Passage) -> Option<()> {
        let Passage { packet, incoming, outgoing, .. } = passage;
        let (early, rewritten) = match incoming {
            Some(interface) => {
                let untracked = self.host(Place::BeforeTracking, Direction::Ingress, interface, packet)?;
                // What is not tracked is not rewritten.
                let rewritten = passage.rewritten.as_ref().filter(|_| untracked != Said::Allow);
                let early = match untracked {
                    Said::Allow => Said::Allow,
                    Said::Nothing => self.host(Place::BeforeNat, Direction::Ingress, interface, packet)?,
                };
                (early, rewritten)
            }
            None => {
                let interface = outgoing.as_deref().unwrap_or_default();
                let untracked = self.host(Place::BeforeTracking, Direction::Egress, interface, packet)?;
                (untracked, passage.rewritten.as_ref().filter(|_| untracked != Said::Allow))
            }
        };
        let (packet, outgoing) =
            rewritten.map_or((packet, outgoing), |(packet, outgoing)| (packet, outgoing));
        match (incoming, outgoing) {
            (Some(incoming), None) => self.for_node(incoming, packet, early),
            (Some(incoming), Some(outgoing)) => self.through(incoming, outgoing, packet, early),
            (None, Some(outgoing)) if early == Said::Nothing => {
                self.host(Place::Endpoint, Direction::Egress, outgoing, packet).map(drop)
            }
            (None, _) => Some(()),
        }
    }

    fn for_node(&mut self, incoming: &str, packet: &Packet, early: Said) -> Option<()> {
        if !self.state.settings.is_workload(incoming) {
            return match early {
                Said::Allow => Some(()),
                Said::Nothing => self.host(Place::Endpoint, Direction::Ingress, incoming, packet).map(drop),
            };
        }
        // Neighbours are found, and multicast groups joined (RFC 2710), whatever the policy is.
        if is_icmpv6(packet, &[130, 131, 132, 133, 135, 136]) {
            return Some(());
        }
        self.pod(Direction::Egress, incoming, packet)?;
        (self.state.settings.endpoint_to_host != EndpointToHostAction::Drop).then_some(())
    }

    fn through(&mut self, incoming: &str, outgoing: &str, packet: &Packet, early: Said) -> Option<()> {
        if early == Said::Nothing {
            self.host(Place::Forwarded, Direction::Ingress, incoming, packet)?;
        }
        if self.state.settings.is_workload(incoming) {
            self.pod(Direction::Egress, incoming, packet)?;
        }
        if self.state.settings.is_workload(outgoing) {
            self.pod(Direction::Ingress, outgoing, packet)?;
        }
        self.host(Place::Forwarded, Direction::Egress, outgoing, packet).map(drop)
    }

    /// What a pod's policy says; an interface or an address that is no pod's is closed.
    fn pod(&mut self, direction: Direction, interface: &str, packet: &Packet) -> Option<()> {
        let own = match direction {
            Direction::Ingress => packet.destination,
            Direction::Egress => packet.source,
        };
        let endpoint = self.state.endpoints.values().find(|endpoint| {
            matches!(endpoint.id, EndpointId::Workload { .. })
                && &*endpoint.interface == interface
                && may_use(endpoint, own)
        })?;
        self.take(Place::Endpoint, evaluate(self.state, endpoint, direction, packet)).map(drop)
    }

    /// What the policies of the host endpoint an interface belongs to say in one place.
    fn host(&mut self, place: Place, direction: Direction, interface: &str, packet: &Packet) -> Option<Said> {
        let Some(endpoint) = self.host_of(place, interface) else { return Some(Said::Nothing) };
        let policy = match place {
            Place::BeforeTracking => &endpoint.untracked,
            Place::BeforeNat => &endpoint.pre_dnat,
            Place::Forwarded => &endpoint.forward,
            Place::Endpoint => &endpoint.policy,
        };
        if place != Place::Endpoint && !has_policies(policy, direction) {
            return Some(Said::Nothing);
        }
        // Neighbour discovery (RFC 4861) is let through: without it no other packet reaches the node.
        if place != Place::Forwarded && is_icmpv6(packet, &[133, 134, 135, 136, 137]) {
            return Some(Said::Nothing);
        }
        let spared = match place {
            Place::Forwarded => false,
            Place::BeforeTracking => {
                is_failsafe(self.state, direction, packet) || self.answers_failsafe(direction, packet)
            }
            Place::BeforeNat => is_failsafe(self.state, direction, packet),
            // `evaluate` sees to it, and says so.
            Place::Endpoint => false,
        };
        if spared {
            return Some(Said::Nothing);
        }
        let verdict = match place {
            Place::Endpoint => Some(evaluate(self.state, endpoint, direction, packet)),
            Place::Forwarded => evaluate_tiers(self.state, endpoint, policy, true, direction, packet),
            Place::BeforeTracking | Place::BeforeNat => {
                evaluate_tiers(self.state, endpoint, policy, false, direction, packet)
            }
        };
        verdict.map_or(Some(Said::Nothing), |verdict| self.take(place, verdict))
    }

    /// Before connection tracking, answers of failsafe ports are known by their source.
    fn answers_failsafe(&self, direction: Direction, packet: &Packet) -> bool {
        let (ports, peer) = match direction {
            Direction::Ingress => (&self.state.settings.failsafe_outbound, packet.source),
            Direction::Egress => (&self.state.settings.failsafe_inbound, packet.destination),
        };
        ports.iter().any(|FailsafePort { protocol, port, net }| {
            *protocol == packet.protocol
                && *port == packet.source_port
                && net.as_ref().is_none_or(|net| net.contains(&peer))
        })
    }

    fn take(&mut self, place: Place, verdict: EndpointVerdict) -> Option<Said> {
        let said = (verdict.verdict == Verdict::Allow).then_some(Said::Allow);
        self.steps.push(Step { place, verdict });
        said
    }

    /// The host endpoint of an interface: the first by name that is for it, else the first one for all interfaces. That counts
    /// those of pods in where policies are about what passes through the node.
    fn host_of(&self, place: Place, interface: &str) -> Option<&LocalEndpoint> {
        let settings = &self.state.settings;
        let find = |is: &dyn Fn(&LocalEndpoint) -> bool| {
            let all = self.state.endpoints.values().map(Arc::as_ref);
            all.filter(|endpoint| matches!(endpoint.id, EndpointId::Host { .. }))
                .find(|endpoint| is(endpoint))
        };
        if settings.is_workload(interface) && matches!(place, Place::BeforeTracking | Place::Endpoint) {
            return None;
        }
        find(&|endpoint| settings.interfaces_of(endpoint).any(|name| &**name == interface))
            .or_else(|| find(&|endpoint| &*endpoint.interface == "*"))
    }
}

fn is_icmpv6(packet: &Packet, kinds: &[u8]) -> bool {
    packet.protocol == ICMPV6 && packet.icmp.is_some_and(|(kind, _)| kinds.contains(&kind))
}

fn may_use(endpoint: &LocalEndpoint, address: IpAddr) -> bool {
    endpoint.addresses.contains(&address) || endpoint.allowed_sources.iter().any(|net| net.contains(&address))
}

fn has_policies(policy: &EndpointPolicy, direction: Direction) -> bool {
    policy.tiers.iter().any(|tier| match direction {
        Direction::Ingress => !tier.ingress.is_empty(),
        Direction::Egress => !tier.egress.is_empty(),
    })
}
