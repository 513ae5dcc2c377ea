//! What every daemon goes through in each role.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use margay_bgp::{PeerConfig, PeerKind, PeerState, PeerStatus};
use margay_tests::cluster::wait;

use crate::foreign::{Ability, Daemon, Foreign, Plan, Role, Seen, can, passing, same, theirs, twice};
use crate::lab::{
    AS, BOTH, Bench, FOREIGN, PATIENCE, ROUTER_AS, Speaker, Transport, address, id, originated, ours,
};

fn plan(daemon: &dyn Daemon, role: Role, bench: &Bench, neighbors: &[u8]) -> Plan {
    let password = can(daemon, Ability::KeepKeys);
    Plan { role, transport: bench.transport, neighbors: neighbors.to_vec(), password }
}

/// The settings of our speaker's session with the daemon.
fn with(daemon: &dyn Daemon, bench: &Bench, last: u8, kind: PeerKind) -> PeerConfig {
    let peer = bench.peer(last, FOREIGN, kind);
    if can(daemon, Ability::KeepKeys) { peer } else { PeerConfig { password: None, ..peer } }
}

fn communities(last: u8) -> BTreeSet<String> {
    [format!("{AS}:{last}")].into()
}

/// Our node's route as the other side must have it.
fn own_route(transport: Transport, last: u8) -> Seen {
    Seen { next_hop: Some(address(transport, last)), communities: communities(last), ..Seen::default() }
}

/// Routes are sent again when either side asks for them, in the same session.
fn refreshed(foreign: &Foreign, asked: &Speaker, asking: &PeerConfig, others: &[PeerConfig]) -> Result<()> {
    if foreign.can(Ability::AskAgain) {
        let before = asked.peer(FOREIGN)?;
        foreign.ask_again(asking_last(asking))?;
        // An UPDATE with its route is longer than the KEEPALIVE that may come between.
        asked.until(FOREIGN, "it is sent our routes again", |peer| {
            peer.messages.bytes_out >= before.messages.bytes_out + 60
        })?;
    }
    if foreign.can(Ability::SendAgain) {
        let before = asked.peer(FOREIGN)?;
        // A soft change: what was refused must be asked for again.
        let changed = PeerConfig { allow_own_as: asking.allow_own_as + 1, ..asking.clone() };
        asked.set_peers([&[changed], others].concat())?;
        asked.until(FOREIGN, "it sends its routes again", |peer| {
            peer.messages.received.update >= before.messages.received.update + 2
        })?;
    }
    same("sessions made", &asked.peer(FOREIGN)?.established_count, &1)
}

fn asking_last(peer: &PeerConfig) -> u8 {
    match peer.local {
        Some(std::net::IpAddr::V4(local)) => local.octets()[3],
        Some(std::net::IpAddr::V6(local)) => local.octets()[15],
        None => 0,
    }
}

/// A route of theirs of each family comes and goes.
fn comes_and_goes(foreign: &Foreign, at: &Speaker) -> Result<()> {
    BOTH.map(passing).into_iter().try_for_each(|prefix| {
        at.route(prefix, "announced at first", |_| true)?;
        foreign.announce(prefix, false)?;
        at.no_route(prefix, "withdrawn by it")?;
        foreign.announce(prefix, true)?;
        at.route(prefix, "announced again", |_| true).map(|_| ())
    })
}

/// It crashes and comes back: its routes stay meanwhile.
fn it_restarts(foreign: &mut Foreign, direct: &Speaker, far: &Speaker) -> Result<()> {
    if !foreign.can(Ability::BeKept) {
        return Ok(());
    }
    let kept = theirs(Transport::V4);
    foreign.crash()?;
    direct.until(FOREIGN, "the session is lost", |peer| peer.state != PeerState::Established)?;
    for family in BOTH {
        direct.route(theirs(family), "kept while it is away", |route| route.stale)?;
    }
    far.route(kept, "still there for others", |_| true)?;
    foreign.recover()?;
    for family in BOTH {
        direct.route(theirs(family), "fresh again", |route| !route.stale)?;
    }
    direct.established(FOREIGN)?;
    far.route(kept, "there for others", |route| !route.stale).map(|_| ())
}

/// Our speaker `last` restarts; `run` starts it again. The other side keeps its routes meanwhile.
fn we_restart(
    foreign: &Foreign,
    speaker: Speaker,
    last: u8,
    keeps: &[(Transport, u8)],
    run: impl FnOnce() -> Result<Speaker>,
) -> Result<Speaker> {
    let mut before = Vec::new();
    for (family, of) in keeps {
        let prefix = ours(*family, *of);
        wait(PATIENCE, || Ok(foreign.route_now(prefix)?.is_some()))?;
        before.push((prefix, foreign.route_now(prefix)?.with_context(|| format!("no {prefix}"))?));
    }
    speaker.stop()?;
    foreign.established(last, false)?;
    if foreign.can(Ability::KeepOurs) {
        for (prefix, want) in &before {
            foreign.route(*prefix, want, "kept by it")?;
        }
    }
    let again = run()?;
    again.established(FOREIGN)?;
    foreign.established(last, true)?;
    for family in BOTH {
        again.route(theirs(family), "back after our restart", |_| true)?;
    }
    for (prefix, want) in &before {
        foreign.route(*prefix, want, "there after our restart")?;
    }
    Ok(again)
}

/// Our speaker's sessions with its clients, our speakers 2 and 3.
fn clients(bench: &Bench) -> [PeerConfig; 2] {
    [2, 3].map(|last| PeerConfig { passive: true, ..bench.peer(1, last, PeerKind::InternalClient) })
}

/// One of those, which announces its prefixes.
fn node(bench: &Bench, last: u8) -> Result<Speaker> {
    let node = bench.speaker(last, false)?;
    node.originate()?;
    node.set_peers(vec![bench.peer(last, 1, PeerKind::Internal)])?;
    Ok(node)
}

/// Of the two nodes that announce a prefix, the daemon is sent both paths (RFC 7911), each as it should be, then the one
/// that is left; and we can say so.
fn sent_paths(foreign: &Foreign, us: &Speaker, nodes: [&Speaker; 2], want: [Seen; 2]) -> Result<()> {
    let session = us.peer(FOREIGN)?.negotiated;
    ensure!(session.is_some_and(|session| session.add_path_send), "it does not take several paths");
    announce_twice([(nodes[0], 2), (nodes[1], 3)])?;
    foreign.paths(twice(), &want, "both paths")?;
    let explained = us.explain(twice())?.advertised;
    let sent = explained.iter().filter(|to| to.sent && to.peer == us.remote(FOREIGN)).count();
    same("paths explained as sent", &sent, &2)?;
    nodes[1].originate()?;
    foreign.paths(twice(), &want[..1], "the path that is left")?;
    nodes[0].originate()?;
    foreign.paths(twice(), &[], "no path")
}

pub(crate) fn client(daemon: &'static dyn Daemon, bench: &Bench) -> Result<()> {
    let theirs_kind = PeerConfig { add_path_send: 4, ..with(daemon, bench, 1, PeerKind::InternalClient) };
    let nodes = clients(bench);
    let reflector = |restarting| -> Result<Speaker> {
        let reflector = bench.speaker(1, restarting)?;
        reflector.set_originated(Vec::new())?;
        reflector.set_peers([std::slice::from_ref(&theirs_kind), &nodes].concat())?;
        Ok(reflector)
    };
    let first = reflector(false)?;
    let (node, other) = (node(bench, 2)?, node(bench, 3)?);
    let mut foreign = Foreign::start(daemon, bench, plan(daemon, Role::Client, bench, &[1]))?;

    for family in BOTH {
        let learned = node.route(theirs(family), "reflected to our node", |_| true)?;
        same("next hop", &learned.next_hop, &Some(address(family, FOREIGN)))?;
        same("ORIGINATOR_ID", &learned.originator_id, &Some(id(FOREIGN)))?;
        same("CLUSTER_LIST", &learned.cluster_list, &vec![id(1)])?;
        same("communities", &learned.communities.into_iter().collect(), &communities(FOREIGN))?;
        let reflected = Seen {
            local_pref: Some(100),
            originator: Some(id(2)),
            clusters: vec![id(1)],
            ..own_route(family, 2)
        };
        foreign.route(ours(family, 2), &reflected, "reflected to it")?;
    }
    refreshed(&foreign, &first, &theirs_kind, &nodes)?;
    comes_and_goes(&foreign, &node)?;
    let want = [2, 3].map(|last| Seen {
        local_pref: Some(100),
        originator: Some(id(last)),
        clusters: vec![id(1)],
        ..own_route(Transport::V4, last)
    });
    sent_paths(&foreign, &first, [&node, &other], want)?;
    it_restarts(&mut foreign, &first, &node)?;
    let _again = we_restart(&foreign, first, 1, &BOTH.map(|family| (family, 2)), || reflector(true))?;
    node.set_originated(Vec::new())?;
    BOTH.iter().try_for_each(|family| foreign.no_route(ours(*family, 2), "withdrawn by our node"))
}

pub(crate) fn reflector(daemon: &'static dyn Daemon, bench: &Bench) -> Result<()> {
    let transport = bench.transport;
    let upwards = |last| PeerConfig { add_path_send: 4, ..with(daemon, bench, last, PeerKind::Internal) };
    let start = |last: u8, restarting| -> Result<Speaker> {
        let speaker = bench.speaker(last, restarting)?;
        speaker.originate()?;
        speaker.set_peers(vec![upwards(last)])?;
        Ok(speaker)
    };
    let mut foreign = Foreign::start(daemon, bench, plan(daemon, Role::Reflector, bench, &[1, 2, 3]))?;
    let (first, second, third) = (start(1, false)?, start(2, false)?, start(3, false)?);

    for family in BOTH {
        let learned = first.route(theirs(family), "announced to our node", |_| true)?;
        same("next hop", &learned.next_hop, &Some(address(family, FOREIGN)))?;
        for last in [1, 2, 3] {
            let want = Seen { local_pref: Some(100), ..own_route(family, last) };
            foreign.route(ours(family, last), &want, "announced to it")?;
        }
        if !foreign.can(Ability::PassOn) {
            continue;
        }
        let learned = first.route(ours(family, 2), "reflected to our node", |_| true)?;
        same("next hop", &learned.next_hop, &Some(address(family, 2)))?;
        same("ORIGINATOR_ID", &learned.originator_id, &Some(id(2)))?;
        same("CLUSTER_LIST", &learned.cluster_list, &vec![id(FOREIGN)])?;
        same("communities", &learned.communities.into_iter().collect(), &communities(2))?;
    }
    refreshed(&foreign, &first, &upwards(1), &[])?;
    comes_and_goes(&foreign, &first)?;
    if foreign.can(Ability::PassOn) {
        several_paths(&first, &second, &third, transport)?;
    }
    third.originate()?;
    it_restarts(&mut foreign, &first, &second)?;
    if foreign.can(Ability::PassOn) {
        first.route(ours(transport, 2), "reflected after its restart", |route| !route.stale)?;
    }
    let again = we_restart(&foreign, second, 2, &BOTH.map(|family| (family, 2)), || start(2, true))?;
    if foreign.can(Ability::PassOn) {
        first.route(ours(transport, 2), "reflected after our restart", |_| true)?;
        again.route(ours(transport, 1), "reflected to who restarted", |_| true)?;
    }
    third.set_originated(Vec::new())?;
    for family in BOTH {
        foreign.no_route(ours(family, 3), "withdrawn by our node")?;
        first.no_route(ours(family, 3), "its withdrawal reflected")?;
    }
    // Below it a reflector of ours, which tells it both paths of its clients (RFC 7911).
    first.set_peers([&[upwards(1)][..], &clients(bench)].concat())?;
    again.set_peers(vec![bench.peer(2, 1, PeerKind::Internal)])?;
    third.set_peers(vec![bench.peer(3, 1, PeerKind::Internal)])?;
    let hidden = daemon.stamps_on_receipt();
    let want = [2, 3].map(|last| Seen {
        local_pref: Some(100),
        originator: (!hidden).then(|| id(last)),
        clusters: if hidden { Vec::new() } else { vec![id(1)] },
        ..own_route(Transport::V4, last)
    });
    sent_paths(&foreign, &first, [&again, &third], want)
}

/// Two nodes announce the same prefix beside their own.
fn announce_twice(nodes: [(&Speaker, u8); 2]) -> Result<()> {
    nodes.into_iter().try_for_each(|(speaker, last)| {
        let prefixes = [(ours(Transport::V4, last)), (ours(Transport::V6, last)), twice()];
        speaker.set_originated(prefixes.map(|prefix| originated(prefix, last)).to_vec())
    })
}

/// Two nodes announce a prefix: the third gets both paths (RFC 7911), then the one that is left.
fn several_paths(first: &Speaker, second: &Speaker, third: &Speaker, transport: Transport) -> Result<()> {
    let hops = [2, 3].map(|last| address(Transport::V4, last));
    announce_twice([(second, 2), (third, 3)])?;
    ensure!(
        first.peer(FOREIGN)?.negotiated.is_some_and(|session| session.add_path_receive),
        "it does not send several paths over {transport:?}"
    );
    let paths = || -> Result<BTreeSet<_>> {
        Ok(first.paths(twice())?.into_iter().filter_map(|path| path.next_hop).collect())
    };
    wait(PATIENCE, || Ok(paths()? == hops.into())).with_context(|| format!("both paths: {:?}", paths()))?;
    third.originate()?;
    wait(PATIENCE, || Ok(paths()? == [hops[0]].into())).with_context(|| format!("one path: {:?}", paths()))
}

/// The router is asked to prefer others while we drain (RFC 8326).
fn drains(foreign: &Foreign, edge: &Speaker, transport: Transport) -> Result<()> {
    let prefix = ours(transport, 1);
    let asked = || {
        let route = foreign.route_now(prefix)?.with_context(|| format!("no {prefix}"))?;
        Ok::<_, anyhow::Error>(route.communities.contains("65535:0"))
    };
    for draining in [true, false] {
        edge.drain(draining)?;
        wait(PATIENCE, || Ok(asked()? == draining))
            .with_context(|| format!("draining {draining}: {:?}", foreign.route_now(prefix)))?;
    }
    Ok(())
}

pub(crate) fn router(daemon: &'static dyn Daemon, bench: &Bench) -> Result<()> {
    let transport = bench.transport;
    let outside = PeerConfig { add_path_send: 4, ..with(daemon, bench, 1, PeerKind::External) };
    let inside = clients(bench);
    let edge = |restarting| -> Result<Speaker> {
        let edge = bench.speaker(1, restarting)?;
        edge.originate()?;
        edge.set_peers([std::slice::from_ref(&outside), &inside].concat())?;
        Ok(edge)
    };
    let first = edge(false)?;
    let (node, other) = (node(bench, 2)?, node(bench, 3)?);
    let mut foreign = Foreign::start(daemon, bench, plan(daemon, Role::Router, bench, &[1]))?;

    // Next hop self towards another AS.
    let outgoing = |extended: bool, family: Transport, last: u8| Seen {
        next_hop: Some(address(if family == Transport::V4 && extended { transport } else { family }, 1)),
        as_path: vec![AS],
        ..own_route(family, last)
    };
    let extended =
        || Ok::<_, anyhow::Error>(first.peer(FOREIGN)?.negotiated.context("no session")?.extended_next_hop);
    for family in BOTH {
        for at in [&first, &node] {
            let learned = at.route(theirs(family), "from the router", |_| true)?;
            same("next hop", &learned.next_hop, &Some(address(family, FOREIGN)))?;
            same("AS_PATH", &learned.as_path, &ROUTER_AS.to_string())?;
            same("communities", &learned.communities.into_iter().collect(), &communities(FOREIGN))?;
        }
        for last in [1, 2] {
            let want = outgoing(extended()?, family, last);
            foreign.route(ours(family, last), &want, "announced to the router")?;
        }
    }
    refreshed(&foreign, &first, &outside, &inside)?;
    if foreign.can(Ability::SendAgain) {
        // RFC 8212: without policy it is used for nothing, and nothing is said to it; the session stays.
        let strict = PeerConfig { policy_required: true, ..outside.clone() };
        first.set_peers([&[strict][..], &inside].concat())?;
        first.no_route(theirs(Transport::V4), "without policy")?;
        foreign.no_route(ours(Transport::V4, 1), "without policy")?;
        first.set_peers([std::slice::from_ref(&outside), &inside].concat())?;
        first.route(theirs(Transport::V4), "with policy", |_| true)?;
        same("sessions made", &first.peer(FOREIGN)?.established_count, &1)?;
    }
    comes_and_goes(&foreign, &node)?;
    let extended = extended()?;
    let want = [2, 3].map(|last| outgoing(extended, Transport::V4, last));
    sent_paths(&foreign, &first, [&node, &other], want)?;
    drains(&foreign, &first, transport)?;
    it_restarts(&mut foreign, &first, &node)?;
    let keeps = BOTH.map(|family| (family, 1));
    let again = we_restart(&foreign, first, 1, &keeps, || edge(true))?;
    again.set_originated(Vec::new())?;
    BOTH.iter().try_for_each(|family| foreign.no_route(ours(*family, 1), "withdrawn by our node"))
}

/// A router of another AS on a link without global addresses (RFC 2545), which is also the way for IPv4 (RFC 8950).
pub(crate) fn link_local(daemon: &'static dyn Daemon, bench: &Bench) -> Result<()> {
    let us = bench.speaker(1, false)?;
    us.originate()?;
    us.set_peers(vec![PeerConfig { password: None, ..bench.peer(1, FOREIGN, PeerKind::External) }])?;
    let plan = Plan { role: Role::Router, transport: bench.transport, neighbors: vec![1], password: false };
    let foreign = Foreign::start(daemon, bench, plan)?;
    let session = |peer: &PeerStatus| {
        let extended = peer.negotiated.as_ref().is_some_and(|session| session.extended_next_hop);
        peer.state == PeerState::Established && extended
    };
    us.until(FOREIGN, "established, with IPv6 next hops for IPv4", session)?;
    let learned = us.route(theirs(Transport::V6), "from the router", |_| true)?;
    same("next hop", &learned.next_hop, &Some(address(Transport::Link, FOREIGN)))?;
    us.route(theirs(Transport::V4), "from the router", |_| true)?;
    for family in BOTH {
        let want =
            Seen { next_hop: Some(address(Transport::Link, 1)), as_path: vec![AS], ..own_route(family, 1) };
        foreign.route(ours(family, 1), &want, "announced to the router")?;
    }
    comes_and_goes(&foreign, &us)?;
    us.set_originated(Vec::new())?;
    BOTH.iter().try_for_each(|family| foreign.no_route(ours(*family, 1), "withdrawn by us"))
}
