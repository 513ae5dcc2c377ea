use super::*;
use crate::config::PeerConfig;
use crate::io::{Input, StopMode};
use crate::status::RouteQuery;
use std::collections::BTreeSet;
use std::time::Duration;

mod scale;

const SECOND: Duration = Duration::from_secs(1);

fn converge(cluster: &mut Cluster, limit: Duration) {
    let end = cluster.sim.now() + limit;
    while cluster.sim.now() < end {
        if cluster.sessions_down() == 0 && cluster.any_fault().is_none() {
            return;
        }
        cluster.sim.run_for(Duration::from_millis(100));
    }
    let states: Vec<String> = cluster
        .running()
        .into_iter()
        .flat_map(|index| cluster.sim.speaker(cluster.node(index)).unwrap().peers())
        .filter(|peer| peer.state != crate::PeerState::Established)
        .take(5)
        .map(|peer| format!("{peer:?}"))
        .collect();
    panic!(
        "not converged: {:?}; {} sessions down: {states:#?}",
        cluster.any_fault(),
        cluster.sessions_down()
    );
}

fn cluster(seed: u64, shape: Shape, count: usize) -> Cluster {
    let mut cluster = Cluster::new(seed, NetConfig::default(), shape, count);
    cluster.start_all();
    converge(&mut cluster, 30 * SECOND);
    cluster
}

fn lost_anywhere(cluster: &mut Cluster) -> BTreeSet<(usize, String)> {
    let mut lost = BTreeSet::new();
    for index in cluster.running() {
        let node = cluster.node(index);
        lost.extend(cluster.sim.take_lost(node).into_iter().map(|prefix| (index, prefix.to_string())));
    }
    lost
}

#[test]
fn a_mesh_of_five_converges() {
    for seed in 0..20 {
        let mut cluster = cluster(seed, Shape::Mesh, 5);
        cluster.sim.run_for(5 * SECOND);
        for index in 0..5 {
            let node = cluster.node(index);
            assert!(cluster.sim.in_sync(node), "seed {seed}");
            for peer in cluster.sim.speaker(node).unwrap().peers() {
                assert!(peer.families.iter().all(|f| f.end_of_rib_received && f.end_of_rib_sent));
            }
        }
    }
}

#[test]
fn fifty_clients_of_a_reflector_know_everything() {
    let mut cluster = cluster(1, Shape::Reflectors(1), 51);
    cluster.sim.run_for(SECOND);
    assert_eq!(cluster.any_fault(), None);
    let reflector = cluster.sim.speaker(cluster.node(0)).unwrap();
    let groups: BTreeSet<_> = reflector.peers().into_iter().map(|peer| peer.group).collect();
    assert_eq!(groups.len(), 1, "all clients share one stream");
}

#[test]
fn a_reflector_may_die_and_return_without_any_route_changing() {
    let mut cluster = cluster(2, Shape::Reflectors(1), 21);
    lost_anywhere(&mut cluster);
    cluster.kill(0);
    cluster.sim.run_for(20 * SECOND);
    assert_eq!(cluster.any_fault(), None, "stale routes stay in use");
    let client = cluster.sim.speaker(cluster.node(3)).unwrap();
    let learned = client.routes(&RouteQuery { peer: Some(Cluster::address(0)), ..RouteQuery::default() });
    assert!(learned.len() == 19 && learned.iter().all(|route| route.stale), "{learned:?}");
    cluster.start(0, true);
    converge(&mut cluster, 60 * SECOND);
    cluster.sim.run_for(400 * SECOND);
    assert_eq!(cluster.any_fault(), None);
    let client = cluster.sim.speaker(cluster.node(3)).unwrap();
    assert!(client.routes(&RouteQuery::default()).iter().all(|route| !route.stale));
    assert_eq!(lost_anywhere(&mut cluster), BTreeSet::new());
}

#[test]
fn without_any_reflector_routes_live_on_for_the_long_lived_stale_time() {
    let mut cluster = cluster(3, Shape::Reflectors(2), 8);
    lost_anywhere(&mut cluster);
    cluster.kill(0);
    cluster.kill(1);
    cluster.sim.run_for(3600 * SECOND);
    assert_eq!(cluster.any_fault(), None);
    assert_eq!(lost_anywhere(&mut cluster), BTreeSet::new());
    let client = cluster.sim.speaker(cluster.node(3)).unwrap();
    let routes = client.routes(&RouteQuery { peer: Some(Cluster::address(0)), ..RouteQuery::default() });
    assert!(routes.iter().all(|route| route.long_lived_stale));
    cluster.sim.run_for(86_400 * SECOND);
    assert!(cluster.sim.fib(cluster.node(3)).is_empty(), "gone after the long-lived stale time");
}

#[test]
fn a_client_restarts_without_its_block_being_withdrawn() {
    let mut cluster = cluster(4, Shape::Reflectors(2), 12);
    lost_anywhere(&mut cluster);
    cluster.kill(5);
    cluster.sim.run_for(10 * SECOND);
    cluster.start(5, true);
    converge(&mut cluster, 60 * SECOND);
    cluster.sim.run_for(400 * SECOND);
    assert_eq!(cluster.any_fault(), None);
    assert_eq!(lost_anywhere(&mut cluster), BTreeSet::new());
}

#[test]
fn a_client_that_stops_for_good_withdraws_at_once() {
    let mut cluster = cluster(5, Shape::Reflectors(1), 6);
    let node = cluster.node(5);
    cluster.sim.input(node, Input::Stop(StopMode::Shutdown("bye".to_owned())));
    cluster.sim.run_for(SECOND);
    assert!(!cluster.sim.fib(cluster.node(2)).contains_key(&Cluster::block(5)));
}

#[test]
fn a_node_that_is_removed_disappears_everywhere() {
    let mut cluster = cluster(6, Shape::Reflectors(2), 10);
    cluster.remove(7);
    cluster.sim.run_for(2 * SECOND);
    assert_eq!(cluster.any_fault(), None);
    for index in cluster.running() {
        assert!(!cluster.sim.fib(cluster.node(index)).contains_key(&Cluster::block(7)));
    }
    cluster.add(7);
    converge(&mut cluster, 60 * SECOND);
}

#[test]
fn pruning_drops_stale_routes_before_their_timers() {
    let mut cluster = cluster(7, Shape::Reflectors(1), 6);
    cluster.crash(4);
    cluster.sim.run_for(100 * SECOND);
    assert!(cluster.sim.fib(cluster.node(2)).contains_key(&Cluster::block(4)), "kept while stale");
    let reflector = cluster.node(0);
    cluster.sim.input(reflector, Input::PruneStale(Cluster::address(4)));
    cluster.sim.run_for(SECOND);
    assert!(!cluster.sim.fib(cluster.node(2)).contains_key(&Cluster::block(4)));
}

#[test]
fn a_slow_client_is_resynchronised_and_nobody_waits_for_it() {
    let mut cluster = Cluster::new(
        8,
        NetConfig { buffer: 4 << 10, fragment: 0, ..NetConfig::default() },
        Shape::Reflectors(1),
        12,
    );
    cluster.adjust_speakers(|speaker| {
        speaker.egress.log_bytes = 1;
        speaker.egress.window = 4 << 10;
    });
    cluster.start_all();
    converge(&mut cluster, 30 * SECOND);
    let slow = cluster.node(11);
    cluster.sim.set_stalled(slow, true);
    // Every round changes 200 blocks of node 2, each with attributes of its own: 50 rounds are more than the log holds.
    let node = cluster.node(2);
    for round in 0..50u32 {
        let routes = (0..200u32)
            .map(|n| {
                let prefix = format!("10.200.{n}.0/24").parse().unwrap();
                crate::Originated {
                    med: Some(round * 1000 + n),
                    ..crate::Originated::new(prefix, Some(Cluster::address(2)))
                }
            })
            .filter(|route| round < 49 || route.prefix.addr() < std::net::IpAddr::from([10, 200, 100, 0]))
            .collect();
        cluster.sim.input(node, Input::SetOriginated(routes));
        cluster.sim.run_for(Duration::from_millis(60));
    }
    let fib = |cluster: &Cluster, index: usize| cluster.sim.fib(cluster.node(index));
    let reflector = cluster.sim.speaker(cluster.node(0)).unwrap();
    assert!(reflector.log_bytes() <= 300 << 10, "{}", reflector.log_bytes());
    assert_eq!(fib(&cluster, 3).len(), 9 + 100, "others have everything meanwhile");
    cluster.sim.set_stalled(slow, false);
    cluster.sim.run_for(5 * SECOND);
    assert_eq!(fib(&cluster, 11).len(), 9 + 100);
    let reflector = cluster.sim.speaker(cluster.node(0)).unwrap();
    let status = reflector.peers().into_iter().find(|peer| peer.remote == Cluster::address(11)).unwrap();
    assert_eq!((status.established_count, status.lag_bytes), (1, 0));
    assert!(status.resyncs >= 1);
    let med = |cluster: &Cluster, index: usize| {
        let speaker = cluster.sim.speaker(cluster.node(index)).unwrap();
        speaker.routes(&RouteQuery { prefix: "10.200.7.0/24".parse().ok(), ..RouteQuery::default() })[0].med
    };
    assert_eq!((med(&cluster, 11), med(&cluster, 3)), (Some(49_007), Some(49_007)));
}

/// Faults at random, then quiet: everybody must know everything again.
fn chaos(seed: u64, shape: Shape, count: usize) {
    let mut cluster = Cluster::new(seed, NetConfig::default(), shape, count);
    cluster.adjust_peers(|peer: &mut PeerConfig| peer.timers.hold = Duration::from_secs(9));
    cluster.start_all();
    let mut down: Vec<usize> = Vec::new();
    let mut removed: Vec<usize> = Vec::new();
    for _ in 0..40 {
        let victim = usize::try_from(cluster.sim.random(count as u64)).unwrap();
        let node = cluster.node(victim);
        let gone = down.contains(&victim) || removed.contains(&victim);
        match cluster.sim.random(8) {
            0 if !gone => {
                cluster.kill(victim);
                down.push(victim);
            }
            1 if !gone => {
                cluster.crash(victim);
                down.push(victim);
            }
            2 if !gone && !cluster.reflects(victim) => {
                cluster.remove(victim);
                removed.push(victim);
            }
            3 => cluster.sim.reset_connections(node),
            4 => cluster.sim.set_reachable(node, false),
            5 => cluster.sim.set_stalled(node, true),
            6 => cluster.sim.set_reachable(node, true),
            _ => cluster.sim.set_stalled(node, false),
        }
        let wait = Duration::from_millis(cluster.sim.random(6000));
        cluster.sim.run_for(wait);
        if cluster.sim.random(2) == 0
            && let Some(back) = down.pop()
        {
            cluster.start(back, true);
        }
        if cluster.sim.random(3) == 0
            && let Some(back) = removed.pop()
        {
            cluster.add(back);
        }
    }
    for index in 0..count {
        let node = cluster.node(index);
        cluster.sim.set_reachable(node, true);
        cluster.sim.set_stalled(node, false);
    }
    for back in down {
        cluster.start(back, true);
    }
    converge(&mut cluster, 200 * SECOND);
    cluster.sim.run_for(400 * SECOND);
    assert_eq!(cluster.any_fault(), None);
    for index in cluster.running() {
        let stale: Vec<_> = cluster.sim.speaker(cluster.node(index)).unwrap().routes(&RouteQuery::default());
        assert!(stale.iter().all(|route| !route.stale), "node {index}");
    }
}

#[test]
fn random_faults_leave_no_trace() {
    for seed in 0..30 {
        let run = std::panic::catch_unwind(|| {
            chaos(seed, if seed % 3 == 0 { Shape::Mesh } else { Shape::Reflectors(2) }, 7);
        });
        assert!(run.is_ok(), "seed {seed}");
    }
}

/// What every node has been told by every peer, attributes and all.
fn everything(cluster: &Cluster) -> Vec<String> {
    let mut out = Vec::new();
    for index in cluster.running() {
        let speaker = cluster.sim.speaker(cluster.node(index)).unwrap();
        for mut route in speaker.routes(&RouteQuery::default()) {
            route.age_secs = 0;
            out.push(format!("{index}: {route:?}"));
        }
    }
    out
}

#[test]
fn shared_streams_say_what_separate_ones_say() {
    for seed in 0..6 {
        let run = |ungrouped: bool| {
            let mut cluster = Cluster::new(seed, NetConfig::default(), Shape::Reflectors(2), 12);
            if ungrouped {
                cluster.set_ungrouped();
            }
            cluster.start_all();
            converge(&mut cluster, 30 * SECOND);
            // Also the paths that are not best.
            cluster.sim.run_for(3 * SECOND);
            let mut seen = vec![everything(&cluster)];
            cluster.remove(5);
            cluster.sim.run_for(3 * SECOND);
            seen.push(everything(&cluster));
            cluster.kill(6);
            cluster.sim.run_for(3 * SECOND);
            cluster.start(6, true);
            cluster.add(5);
            converge(&mut cluster, 60 * SECOND);
            cluster.sim.run_for(60 * SECOND);
            seen.push(everything(&cluster));
            seen
        };
        assert_eq!(run(false), run(true), "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut cluster = cluster(11, Shape::Reflectors(2), 9);
        cluster.kill(4);
        cluster.sim.run_for(2 * SECOND);
        (everything(&cluster), cluster.sim.random(u64::MAX))
    };
    assert_eq!(run(), run());
}
