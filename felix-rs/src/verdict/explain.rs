//! Both ends of a packet: egress of the source's endpoint, ingress of the destination's.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::evaluate::evaluate;
use super::packet::Packet;
use super::trace::{EndpointVerdict, Verdict};
use crate::model::{Direction, EndpointId, EnforcedState, LocalEndpoint};

/// What is known of one end of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "end")]
pub enum End {
    /// An endpoint of the state: its policy ran.
    #[serde(rename_all = "camelCase")]
    Endpoint(EndpointVerdict),
    /// An address of a node without a host endpoint: no policy runs there.
    Node,
    /// No endpoint of the state has the address: outside, or on a node whose state was not asked.
    Unknown,
}

/// The verdict on a packet and how it came about at both ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The packet.
    pub packet: Packet,
    /// Allowed only if no end denies.
    pub verdict: Verdict,
    /// Egress of the source.
    pub source: End,
    /// Ingress of the destination.
    pub destination: End,
    /// Both addresses are the same endpoint's: such packets never leave the pod and no policy sees them.
    pub loopback: bool,
}

/// Explains a packet by the endpoints of one state: a node's own (the other end is then [`End::Unknown`] unless it is
/// local too), or that of a calculation over all nodes, which knows both ends.
#[must_use]
pub fn explain(state: &EnforcedState, packet: &Packet) -> Explanation {
    let source = find(state, packet.source);
    let destination = find(state, packet.destination);
    let loopback = packet.source == packet.destination
        || matches!((&source, &destination), (Some(a), Some(b)) if a.id == b.id);
    let end = |endpoint: Option<&Arc<LocalEndpoint>>, direction, address| match endpoint {
        Some(endpoint) => End::Endpoint(evaluate(state, endpoint, direction, packet)),
        None if state.settings.node_addresses.contains(&address) => End::Node,
        None => End::Unknown,
    };
    let source = end(source, Direction::Egress, packet.source);
    let destination = end(destination, Direction::Ingress, packet.destination);
    let denied = |end: &End| matches!(end, End::Endpoint(verdict) if verdict.verdict == Verdict::Deny);
    let verdict =
        if !loopback && (denied(&source) || denied(&destination)) { Verdict::Deny } else { Verdict::Allow };
    Explanation { packet: *packet, verdict, source, destination, loopback }
}

/// Workload endpoints win over host endpoints of the same address, then the first by identity.
fn find(state: &EnforcedState, address: IpAddr) -> Option<&Arc<LocalEndpoint>> {
    let mut host = None;
    for (id, endpoint) in &state.endpoints {
        if endpoint.addresses.contains(&address) {
            match id {
                EndpointId::Workload { .. } => return Some(endpoint),
                EndpointId::Host { .. } => host = host.or(Some(endpoint)),
            }
        }
    }
    host
}
