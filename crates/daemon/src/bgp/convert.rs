//! The speaker's types as those of the control API.

use std::net::IpAddr;

use margay_bgp::policy::Trace;
use margay_bgp::{FamilyStatus, PeerKind, PeerStatus, RouteInfo, RouteSource};
use margay_control::bgp::{Advertised, Explanation, Messages, Peer, PeerFamily, Policy, Route};

pub(super) fn peer(status: &PeerStatus) -> Peer {
    let sum = |count: fn(&FamilyStatus) -> u64| status.families.iter().map(count).sum();
    let kind = match status.kind {
        PeerKind::Internal => "iBGP",
        PeerKind::InternalClient => "iBGP client",
        PeerKind::External => "eBGP",
    };
    let families = status.families.iter().map(|family| PeerFamily {
        family: family.family.to_string(),
        received: family.received,
        filtered: family.filtered,
        stale: family.stale,
        advertised: family.advertised,
        end_of_rib_received: family.end_of_rib_received,
        end_of_rib_sent: family.end_of_rib_sent,
    });
    Peer {
        address: status.remote,
        name: status.description.clone(),
        kind: kind.to_owned(),
        remote_as: status.remote_as,
        state: status.state.to_string(),
        since_seconds: status.since_secs.unwrap_or_default(),
        received: sum(|family| family.received),
        filtered: sum(|family| family.filtered),
        stale: sum(|family| family.stale),
        advertised: sum(|family| family.advertised),
        last_error: status.last_error.clone(),
        bfd: status.bfd.as_ref().map(ToString::to_string),
        last_error_seconds: status.last_error_secs,
        last_reset: status.last_reset.clone(),
        last_reset_seconds: status.last_reset_secs,
        capabilities: capabilities(status),
        remote_id: status.remote_id.map(|id| id.to_string()),
        local: status.local,
        established_count: status.established_count,
        families: families.collect(),
        messages: Messages {
            received: status.messages.received.total(),
            updates_received: status.messages.received.update,
            bytes_received: status.messages.bytes_in,
            bytes_sent: status.messages.bytes_out,
            unauthorised: status.messages.unauthorised,
            unroutable: status.messages.unroutable,
            treated_as_withdraw: status.messages.treated_as_withdraw,
        },
        lag_bytes: status.lag_bytes,
        resyncs: status.resyncs,
        group: status.group,
    }
}

fn capabilities(status: &PeerStatus) -> Vec<String> {
    let Some(agreed) = &status.negotiated else { return Vec::new() };
    let mut capabilities: Vec<String> = agreed.families.iter().map(ToString::to_string).collect();
    capabilities.push(format!("hold {} s", agreed.hold_secs));
    let flags = [
        (agreed.four_octet_as, "4-octet AS"),
        (agreed.route_refresh, "route refresh"),
        (agreed.enhanced_refresh, "enhanced refresh"),
        (agreed.extended_message, "extended messages"),
        (agreed.extended_next_hop, "IPv6 next hops for IPv4"),
        (agreed.add_path_receive, "add-path receive"),
        (agreed.add_path_send, "add-path send"),
        (agreed.graceful_restart_secs.is_some(), "graceful restart"),
        (agreed.notification_gr, "notification GR"),
        (agreed.long_lived_gr, "long-lived GR"),
    ];
    capabilities.extend(flags.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()));
    capabilities
}

pub(super) fn route(info: RouteInfo) -> Route {
    Route {
        prefix: info.prefix,
        next_hop: info.next_hop,
        from: match info.source {
            RouteSource::Local => None,
            RouteSource::Peer(address) => Some(address),
        },
        path_id: info.path_id,
        best: info.best,
        multipath: info.multipath,
        filtered: info.filtered,
        stale: info.stale || info.long_lived_stale,
        reason: info.reason,
        origin: info.origin,
        local_pref: info.local_pref,
        med: info.med,
        as_path: info.as_path,
        originator_id: info.originator_id.map(|id| id.to_string()),
        cluster_list: info.cluster_list.iter().map(ToString::to_string).collect(),
        communities: info.communities,
        age_seconds: info.age_secs,
    }
}

fn policy(peer: IpAddr, trace: &Trace, note: &str) -> Policy {
    let rules = trace.steps.iter().map(|step| match &step.mismatch {
        Some(mismatch) => format!("filter {} rule {}: {mismatch} does not match", step.filter, step.rule),
        None => format!("filter {} rule {}: matches", step.filter, step.rule),
    });
    Policy { peer, verdict: format!("{}{note}", trace.summary()), rules: rules.collect() }
}

pub(super) fn explanation(found: margay_bgp::Explanation) -> Explanation {
    let imported = found.imported.iter().map(|imported| {
        let note = if imported.over_changed { " (asked about the path as policy left it)" } else { "" };
        policy(imported.peer, &imported.trace, note)
    });
    let advertised = found.advertised.iter().map(|to| Advertised {
        peer: to.peer,
        sent: to.sent,
        reason: to.reason.clone(),
        policy: to.trace.as_ref().map(|trace| policy(to.peer, trace, "")),
    });
    Explanation {
        prefix: found.prefix,
        imported: imported.collect(),
        decision: found.steps.clone(),
        advertised: advertised.collect(),
        paths: found.paths.into_iter().map(route).collect(),
    }
}
