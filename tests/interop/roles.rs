//! What every daemon goes through in each role.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use margay_bgp::{Originated, PeerConfig, PeerKind, PeerState};
use margay_tests::cluster::wait;

use crate::foreign::{Ability, Daemon, Foreign, Plan, Role, Seen, can, passing, same, theirs, twice};
use crate::lab::{AS, BOTH, Bench, FOREIGN, PATIENCE, ROUTER_AS, Speaker, Transport, address, id, ours};

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
            peer.messages.updates_in >= before.messages.updates_in + 2
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

pub(crate) fn client(daemon: &'static dyn Daemon, bench: &Bench) -> Result<()> {
    let theirs_kind = with(daemon, bench, 1, PeerKind::InternalClient);
    let node_kind = PeerConfig { passive: true, ..bench.peer(1, 2, PeerKind::InternalClient) };
    let reflector = |restarting| -> Result<Speaker> {
        let reflector = bench.speaker(1, restarting)?;
        reflector.set_originated(Vec::new())?;
        reflector.set_peers(vec![theirs_kind.clone(), node_kind.clone()])?;
        Ok(reflector)
    };
    let first = reflector(false)?;
    let node = bench.speaker(2, false)?;
    node.originate()?;
    node.set_peers(vec![bench.peer(2, 1, PeerKind::Internal)])?;
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
    refreshed(&foreign, &first, &theirs_kind, std::slice::from_ref(&node_kind))?;
    comes_and_goes(&foreign, &node)?;
    it_restarts(&mut foreign, &first, &node)?;
    let _again = we_restart(&foreign, first, 1, &BOTH.map(|family| (family, 2)), || reflector(true))?;
    node.set_originated(Vec::new())?;
    BOTH.iter().try_for_each(|family| foreign.no_route(ours(*family, 2), "withdrawn by our node"))
}

pub(crate) fn reflector(daemon: &'static dyn Daemon, bench: &Bench) -> Result<()> {
    let transport = bench.transport;
    let start = |last: u8, restarting| -> Result<Speaker> {
        let speaker = bench.speaker(last, restarting)?;
        speaker.originate()?;
        speaker.set_peers(vec![with(daemon, bench, last, PeerKind::Internal)])?;
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
    refreshed(&foreign, &first, &with(daemon, bench, 1, PeerKind::Internal), &[])?;
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
    Ok(())
}

/// Two nodes announce a prefix: the third gets both paths (RFC 7911), then the one that is left.
fn several_paths(first: &Speaker, second: &Speaker, third: &Speaker, transport: Transport) -> Result<()> {
    let hops = [2, 3].map(|last| address(Transport::V4, last));
    for (speaker, last, hop) in [(second, 2, hops[0]), (third, 3, hops[1])] {
        let own = BOTH.map(|family| {
            let mut route = Originated::new(ours(family, last), Some(address(family, last)));
            route.communities = vec![margay_bgp::wire::Community(AS << 16 | u32::from(last))];
            route
        });
        speaker.set_originated([&own[..], &[Originated::new(twice(), Some(hop))]].concat())?;
    }
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
    let outside = with(daemon, bench, 1, PeerKind::External);
    let inside = PeerConfig { passive: true, ..bench.peer(1, 2, PeerKind::InternalClient) };
    let edge = |restarting| -> Result<Speaker> {
        let edge = bench.speaker(1, restarting)?;
        edge.originate()?;
        edge.set_peers(vec![outside.clone(), inside.clone()])?;
        Ok(edge)
    };
    let first = edge(false)?;
    let node = bench.speaker(2, false)?;
    node.originate()?;
    node.set_peers(vec![bench.peer(2, 1, PeerKind::Internal)])?;
    let mut foreign = Foreign::start(daemon, bench, plan(daemon, Role::Router, bench, &[1]))?;

    for family in BOTH {
        for at in [&first, &node] {
            let learned = at.route(theirs(family), "from the router", |_| true)?;
            same("next hop", &learned.next_hop, &Some(address(family, FOREIGN)))?;
            same("AS_PATH", &learned.as_path, &ROUTER_AS.to_string())?;
            same("communities", &learned.communities.into_iter().collect(), &communities(FOREIGN))?;
        }
        for last in [1, 2] {
            // Next hop self towards another AS.
            let session = first.peer(FOREIGN)?.negotiated.context("no session")?;
            let said = family == Transport::V4 && session.extended_next_hop;
            let want = Seen {
                next_hop: Some(address(if said { transport } else { family }, 1)),
                as_path: vec![AS],
                ..own_route(family, last)
            };
            foreign.route(ours(family, last), &want, "announced to the router")?;
        }
    }
    refreshed(&foreign, &first, &outside, std::slice::from_ref(&inside))?;
    if foreign.can(Ability::SendAgain) {
        // RFC 8212: without policy it is used for nothing, and nothing is said to it; the session stays.
        let strict = PeerConfig { policy_required: true, ..outside.clone() };
        first.set_peers(vec![strict, inside.clone()])?;
        first.no_route(theirs(Transport::V4), "without policy")?;
        foreign.no_route(ours(Transport::V4, 1), "without policy")?;
        first.set_peers(vec![outside.clone(), inside.clone()])?;
        first.route(theirs(Transport::V4), "with policy", |_| true)?;
        same("sessions made", &first.peer(FOREIGN)?.established_count, &1)?;
    }
    comes_and_goes(&foreign, &node)?;
    drains(&foreign, &first, transport)?;
    it_restarts(&mut foreign, &first, &node)?;
    let keeps = BOTH.map(|family| (family, 1));
    let again = we_restart(&foreign, first, 1, &keeps, || edge(true))?;
    again.set_originated(Vec::new())?;
    BOTH.iter().try_for_each(|family| foreign.no_route(ours(*family, 1), "withdrawn by our node"))
}
