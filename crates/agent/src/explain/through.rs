//! The way of a packet through this node: host endpoints have policies where packets come in, pass and leave.

use std::net::IpAddr;
use std::sync::Arc;

use felix_rs::model::{EndpointId, EnforcedState};
use felix_rs::verdict::{Packet, Passage, Passed, Verdict, has_ports, pass};
use margay_control::explain::{ExplainReply, Through};
use margay_daemon::server::Failure;
use margay_routing::{RouteTrace, Target};

use super::Flow;
use crate::policy::Snapshot;

impl Flow {
    /// What this node does with the packet; `route` is the way to where it goes in the end.
    pub(crate) fn through(
        &self,
        through: &Through,
        route: &RouteTrace,
        here: &Snapshot,
    ) -> Result<ExplainReply, Failure> {
        let passage = passage(&here.state, self.packet, through, route)?;
        let Passed { verdict, steps } = pass(&here.state, &passage);
        let end = steps.last();
        let by = match (verdict, end.map(|step| step.verdict.verdict)) {
            (Verdict::Deny, Some(Verdict::Deny)) | (Verdict::Allow, Some(_)) => "",
            (Verdict::Deny, _) => " by the fixed rules of pods' interfaces",
            (Verdict::Allow, None) => ", no policy is asked",
        };
        let ends = steps.iter().map(|step| self.end(&step.verdict, Some(step.place), Some(here)));
        Ok(ExplainReply {
            allowed: verdict == Verdict::Allow,
            summary: format!("{}: {verdict}{by}", words(&passage)),
            ends: ends.collect(),
            route: route.route.as_ref().map(ToString::to_string),
            verified: None,
        })
    }
}

fn words(passage: &Passage) -> String {
    let from = passage.incoming.as_ref().map_or("of this node".to_owned(), |name| format!("in by {name}"));
    let to = |outgoing: &Option<Arc<str>>| {
        outgoing.as_ref().map_or("for this node".to_owned(), |name| format!("out by {name}"))
    };
    let nat = passage.rewritten.as_ref();
    let nat = nat.map(|(packet, outgoing)| format!("; behind NAT {packet}, {}", to(outgoing)));
    format!("{}, {from}, {}{}", passage.packet, to(&passage.outgoing), nat.unwrap_or_default())
}

fn passage(
    state: &EnforcedState,
    packet: Packet,
    through: &Through,
    route: &RouteTrace,
) -> Result<Passage, Failure> {
    let given = |name: &Option<String>| name.as_deref().map(|name| Some(Arc::<str>::from(name)));
    let incoming = given(&through.incoming).or_else(|| at_home(state, packet.source)).ok_or_else(|| {
        Failure::bad_request("the source is not of this node: which interface does the packet come in by?")
    })?;
    let device = || match &route.route.as_ref()?.target {
        Target::Link { dev } => Some(Some(dev.as_str().into())),
        Target::Via(hops) => hops.first().map(|hop| Some(hop.dev.as_str().into())),
        Target::Blackhole => None,
    };
    let leaves = |packet: &Packet| {
        let home = at_home(state, packet.destination);
        home.or_else(|| given(&through.outgoing)).or_else(device).ok_or_else(|| {
            let message = "no route of Margay's leads there: which interface does the packet leave by?";
            Failure::bad_request(message)
        })
    };
    let rewritten = through.rewritten.map(|to| {
        let destination_port = if has_ports(packet.protocol) { to.port() } else { 0 };
        let packet = Packet { destination: to.ip(), destination_port, ..packet };
        leaves(&packet).map(|outgoing| (packet, outgoing))
    });
    Ok(Passage { packet, incoming, outgoing: leaves(&packet)?, rewritten: rewritten.transpose()? })
}

/// The interface of the pod of this node that has an address, or none if the node itself has it; `None`: neither.
fn at_home(state: &EnforcedState, address: IpAddr) -> Option<Option<Arc<str>>> {
    if state.settings.own_addresses.contains(&address) {
        return Some(None);
    }
    let pod = state.endpoints.values().find(|endpoint| {
        matches!(endpoint.id, EndpointId::Workload { .. }) && endpoint.addresses.contains(&address)
    });
    pod.map(|pod| Some(Arc::clone(&pod.interface)))
}
