//! What a change of policy would change for flows that were seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::explain::{End, explain};
use super::flow::{Affected, Judge};
use super::packet::{Packet, has_ports, protocol_name};
use super::trace::{Turned, Verdict};
use crate::model::EnforcedState;

/// Flows that were seen and would have another verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenChange {
    /// Who began them: an endpoint, or an address.
    pub from: String,
    /// Who was to answer.
    pub to: String,
    /// Protocol and destination port, as `tcp/80`.
    pub flow: String,
    /// How many there were.
    pub count: usize,
    /// The verdicts, and what decides.
    pub turned: Turned,
}

/// Compares two states by flows that were seen, each told by its first packet. `own` are the addresses of the node that saw
/// them: what it sends to its own pods is never denied.
#[must_use]
pub fn impact_on(
    [before, after]: [&EnforcedState; 2],
    own: &BTreeSet<IpAddr>,
    seen: impl IntoIterator<Item = Packet>,
) -> Vec<SeenChange> {
    let everything = Affected::everything();
    let [was, is] = [before, after].map(|state| Judge::new(state, &everything, own));
    let mut changed: BTreeMap<_, (Packet, usize)> = BTreeMap::new();
    for packet in seen {
        let verdicts = [&was, &is].map(|judge| judge.denies(&packet));
        if verdicts[0] != verdicts[1] {
            let Packet { source, destination, protocol, destination_port, icmp, .. } = packet;
            let key = (source, destination, protocol, destination_port, icmp, verdicts[1]);
            changed.entry(key).or_insert((packet, 0)).1 += 1;
        }
    }
    let change = |((.., denied), (packet, count)): ((_, _, _, _, _, bool), (Packet, usize))| {
        let explained = [before, after].map(|state| explain(state, &packet));
        // Who denies decides: then, or until then.
        let [was, is] = explained.each_ref().map(|it| [&it.source, &it.destination]);
        let denies = |end: &End| matches!(end, End::Endpoint(end) if end.verdict == Verdict::Deny);
        let denying = if denied { is } else { was };
        let place = denying.iter().position(|end| denies(end)).unwrap_or_default();
        let by = match is.get(place) {
            Some(End::Endpoint(end)) => Some(end),
            _ => None,
        };
        let name = |end: &End, address: IpAddr| match end {
            End::Endpoint(end) => end.endpoint.to_string(),
            End::Node | End::Unknown => address.to_string(),
        };
        let protocol = protocol_name(packet.protocol);
        let flow = match packet.icmp {
            Some((kind, _)) => format!("{protocol} type {kind}"),
            None if has_ports(packet.protocol) => format!("{protocol}/{}", packet.destination_port),
            None => protocol,
        };
        let [before, after] =
            if denied { [Verdict::Allow, Verdict::Deny] } else { [Verdict::Deny, Verdict::Allow] };
        let [from, to] = [name(is[0], packet.source), name(is[1], packet.destination)];
        SeenChange { from, to, flow, count, turned: Turned::by(before, after, by) }
    };
    changed.into_iter().map(change).collect()
}
