//! Both ends of a packet: egress of the source's endpoint, ingress of the destination's.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::evaluate::evaluate;
use super::packet::Packet;
use super::trace::{EndpointVerdict, Verdict};
use crate::model::{Direction, EndpointId, EndpointToHostAction, EnforcedState, LocalEndpoint};

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
    /// One end is a pod and the other its own node: fixed rules decide with the pod's egress policy, or instead of its
    /// ingress policy. Known only to the node's own calculation.
    pub own_node: Option<OwnNode>,
}

/// Traffic between a pod and the node it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum OwnNode {
    /// A node always reaches its own pods, whatever their policy says.
    ToPod,
    /// After the pod's egress policy, `defaultEndpointToHostAction` decides.
    FromPod(EndpointToHostAction),
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
        None if state.settings.is_node(address) => End::Node,
        None => End::Unknown,
    };
    let is_workload = |endpoint: Option<&Arc<LocalEndpoint>>| {
        endpoint.is_some_and(|endpoint| matches!(endpoint.id, EndpointId::Workload { .. }))
    };
    let own = &state.settings.own_addresses;
    let own_node = if own.contains(&packet.source) && is_workload(destination) {
        Some(OwnNode::ToPod)
    } else if own.contains(&packet.destination) && is_workload(source) {
        Some(OwnNode::FromPod(state.settings.endpoint_to_host))
    } else {
        None
    };
    let source = end(source, Direction::Egress, packet.source);
    let destination = end(destination, Direction::Ingress, packet.destination);
    let denied = |end: &End| matches!(end, End::Endpoint(verdict) if verdict.verdict == Verdict::Deny);
    let is_denied = match own_node {
        _ if loopback => false,
        Some(OwnNode::ToPod) => denied(&source),
        Some(OwnNode::FromPod(EndpointToHostAction::Drop)) => true,
        Some(OwnNode::FromPod(_)) | None => denied(&source) || denied(&destination),
    };
    let verdict = if is_denied { Verdict::Deny } else { Verdict::Allow };
    Explanation { packet: *packet, verdict, source, destination, loopback, own_node }
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
