//! Does a rule match a packet, and if not, which part of it does not.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::packet::{Packet, has_ports};
use crate::model::{EnforcedState, IcmpMatch, PeerMatch, PolicyRule, PortRange, SetId, SetMember};

/// The first part of a rule that a packet does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "part")]
pub enum Mismatch {
    /// The rule is for the other address family.
    IpVersion {
        /// Family the rule wants.
        wanted: u8,
    },
    /// The rule is for another protocol.
    Protocol {
        /// Protocol the rule wants.
        wanted: u8,
    },
    /// `notProtocol` names the packet's protocol.
    NotProtocol,
    /// The ICMP type or code differs.
    Icmp,
    /// `notICMP` names the packet's type (and code).
    NotIcmp,
    /// Part of the source.
    Source(PeerMismatch),
    /// Part of the destination.
    Destination(PeerMismatch),
}

/// The part of one side of a rule that a packet does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "peer")]
pub enum PeerMismatch {
    /// The address is in none of `nets`.
    Nets,
    /// The address is in one of `notNets`.
    NotNets {
        /// The network it is in.
        net: IpNet,
    },
    /// The address is not a member of a set.
    Set {
        /// Identity of the set.
        id: SetId,
        /// Its meaning.
        meaning: String,
    },
    /// The address is a member of a negated set.
    NotSet {
        /// Identity of the set.
        id: SetId,
        /// Its meaning.
        meaning: String,
    },
    /// The port is none of `ports`.
    Ports,
    /// The port is one of `notPorts`.
    NotPorts,
    /// Address and port are no endpoint of the Service.
    Service {
        /// Identity of the set.
        id: SetId,
        /// Its meaning.
        meaning: String,
    },
}

/// `None`: the rule matches.
pub(super) fn mismatch(state: &EnforcedState, rule: &PolicyRule, packet: &Packet) -> Option<Mismatch> {
    if let Some(wanted) = rule.ip_version
        && wanted != packet.ip_version()
    {
        return Some(Mismatch::IpVersion { wanted });
    }
    if let Some(wanted) = rule.protocol
        && wanted != packet.protocol
    {
        return Some(Mismatch::Protocol { wanted });
    }
    if rule.not_protocol == Some(packet.protocol) {
        return Some(Mismatch::NotProtocol);
    }
    if let Some(icmp) = &rule.icmp
        && !icmp_matches(icmp, packet)
    {
        return Some(Mismatch::Icmp);
    }
    if let Some(icmp) = &rule.not_icmp
        && icmp_matches(icmp, packet)
    {
        return Some(Mismatch::NotIcmp);
    }
    let protocol = packet.protocol;
    peer_mismatch(state, &rule.source, packet.source, protocol, packet.source_port)
        .map(Mismatch::Source)
        .or_else(|| {
            peer_mismatch(state, &rule.destination, packet.destination, protocol, packet.destination_port)
                .map(Mismatch::Destination)
        })
}

fn icmp_matches(wanted: &IcmpMatch, packet: &Packet) -> bool {
    let Some((kind, code)) = packet.icmp else { return false };
    wanted.kind.is_none_or(|wanted| wanted == kind) && wanted.code.is_none_or(|wanted| wanted == code)
}

fn peer_mismatch(
    state: &EnforcedState,
    peer: &PeerMatch,
    address: IpAddr,
    protocol: u8,
    port: u16,
) -> Option<PeerMismatch> {
    let meaning =
        |id: &SetId| state.set_names.get(id).map_or_else(|| id.0.to_string(), |name| name.to_string());
    if !peer.nets.is_empty() && !peer.nets.iter().any(|net| net.contains(&address)) {
        return Some(PeerMismatch::Nets);
    }
    if let Some(net) = peer.not_nets.iter().find(|net| net.contains(&address)) {
        return Some(PeerMismatch::NotNets { net: *net });
    }
    if let Some(id) = peer.sets.iter().find(|id| !in_net_set(state, id, address)) {
        return Some(PeerMismatch::Set { id: id.clone(), meaning: meaning(id) });
    }
    if let Some(id) = peer.not_sets.iter().find(|id| in_net_set(state, id, address)) {
        return Some(PeerMismatch::NotSet { id: id.clone(), meaning: meaning(id) });
    }
    if let Some(id) = &peer.service
        && !in_port_set(state, id, address, protocol, port)
        && !in_net_set(state, id, address)
    {
        return Some(PeerMismatch::Service { id: id.clone(), meaning: meaning(id) });
    }
    let named = |ids: &[SetId]| ids.iter().any(|id| in_port_set(state, id, address, protocol, port));
    let numbered = |ranges: &[PortRange]| {
        has_ports(protocol) && ranges.iter().any(|r| (r.first..=r.last).contains(&port))
    };
    let any_port = peer.ports.is_empty() && peer.named_ports.is_empty();
    if !(any_port || numbered(&peer.ports) || named(&peer.named_ports)) {
        return Some(PeerMismatch::Ports);
    }
    if numbered(&peer.not_ports) || named(&peer.not_named_ports) {
        return Some(PeerMismatch::NotPorts);
    }
    None
}

fn members<'a>(state: &'a EnforcedState, id: &SetId) -> Option<&'a BTreeSet<SetMember>> {
    state.sets.get(id).map(|(_, members)| members)
}

/// One look-up per prefix length, as the kernel's `hash:net` does: the size of a set does not matter.
fn in_net_set(state: &EnforcedState, id: &SetId, address: IpAddr) -> bool {
    let Some(members) = members(state, id) else { return false };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (0..=longest).rev().any(|length| {
        IpNet::new(address, length).is_ok_and(|net| members.contains(&SetMember::Net(net.trunc())))
    })
}

fn in_port_set(state: &EnforcedState, id: &SetId, address: IpAddr, protocol: u8, port: u16) -> bool {
    members(state, id).is_some_and(|members| members.contains(&SetMember::IpPort(address, protocol, port)))
}
