use super::*;
use crate::config::PeerKind;
use crate::rib::FilterReason;
use crate::status::{NextHopState, RouteSource};
use crate::wire::{AsPath, Community, NextHop, PathAttributes};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Spec {
    local_pref: Option<u32>,
    as_path: Vec<u32>,
    origin: u8,
    med: Option<u32>,
    external: bool,
    stale: bool,
    long_lived: bool,
    /// Another speaker says that it is (RFC 9494 section 4.3).
    told_long_lived: bool,
    filtered: bool,
    clusters: usize,
    originator: Option<u8>,
    /// Which of [`COSTS`] its next hop has.
    hop: u8,
}

const COSTS: [Option<u32>; 3] = [Some(1), Some(5), None];

fn spec() -> impl Strategy<Value = Spec> {
    (
        prop::option::of(99..102u32),
        prop::collection::vec(1..4u32, 0..3),
        0..3u8,
        prop::option::of(0..3u32),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.2),
        0..2usize,
        (prop::option::of(1..3u8), 0..3u8, any::<bool>()),
    )
        .prop_map(|s| Spec {
            local_pref: s.0,
            as_path: s.1,
            origin: s.2,
            med: s.3,
            external: s.4,
            stale: s.5,
            long_lived: s.6,
            filtered: s.7,
            clusters: s.8,
            originator: s.9.0,
            hop: s.9.1,
            told_long_lived: s.9.2,
        })
}

struct World {
    attrs: Interner,
    sources: Table<SourceId, SourceInfo>,
    paths: Vec<Path>,
}

fn world(specs: &[Spec]) -> World {
    let mut world = World { attrs: Interner::default(), sources: Table::default(), paths: Vec::new() };
    world.attrs.next_hops.switch_on();
    for (index, spec) in specs.iter().enumerate() {
        let number = u8::try_from(index + 1).unwrap();
        let source = SourceId(u32::from(number));
        let kind = if spec.external { PeerKind::External } else { PeerKind::Internal };
        world.sources.insert(
            source,
            SourceInfo {
                source: RouteSource::Peer(IpAddr::from([10, 0, 0, number])),
                kind: Some(kind),
                id: Ipv4Addr::new(1, 1, 1, 1),
                on_host: false,
            },
        );
        let attrs = world.attrs.intern(
            Some(NextHop::V4(Ipv4Addr::new(7, 7, 7, spec.hop))),
            &PathAttributes {
                origin: Origin::new(spec.origin).unwrap(),
                as_path: AsPath::sequence(spec.as_path.iter().copied()),
                med: spec.med,
                local_pref: spec.local_pref,
                originator_id: spec.originator.map(|last| Ipv4Addr::new(9, 9, 9, last)),
                cluster_list: (0..spec.clusters).map(|_| Ipv4Addr::new(8, 8, 8, 8)).collect(),
                communities: spec.told_long_lived.then_some(Community::LLGR_STALE).into_iter().collect(),
                ..PathAttributes::default()
            },
        );
        world.paths.push(Path {
            source,
            path_id: 0,
            attrs,
            changed: 0,
            filtered: spec.filtered.then_some(FilterReason::Policy),
            unreachable: COSTS[usize::from(spec.hop)].is_none(),
            stale: spec.stale,
            long_lived: spec.long_lived,
            unrefreshed: false,
        });
    }
    let states = COSTS
        .iter()
        .zip(0..)
        .map(|(cost, hop)| NextHopState { address: IpAddr::from([7, 7, 7, hop]), cost: *cost });
    world.attrs.next_hops.set(&states.collect::<Vec<_>>());
    world
}

fn plain() -> Spec {
    Spec {
        local_pref: None,
        as_path: vec![],
        origin: 0,
        med: None,
        external: false,
        stale: false,
        long_lived: false,
        told_long_lived: false,
        filtered: false,
        clusters: 0,
        originator: None,
        hop: 0,
    }
}

proptest! {
    #[test]
    fn ranking_does_not_depend_on_the_order_of_arrival(
        (specs, order) in prop::collection::vec(spec(), 1..7).prop_flat_map(|specs| {
            let indices: Vec<usize> = (0..specs.len()).collect();
            (Just(specs), Just(indices).prop_shuffle())
        })
    ) {
        let world = world(&specs);
        let mut straight = world.paths.clone();
        rank(&mut straight, &world.attrs, &world.sources);
        let mut shuffled: Vec<Path> = order.iter().map(|index| world.paths[*index]).collect();
        rank(&mut shuffled, &world.attrs, &world.sources);
        prop_assert_eq!(&straight, &shuffled);
        for later in 1..straight.len() {
            for earlier in 0..later {
                let (order, _) = compare(&straight, earlier, later, &world.attrs, &world.sources);
                prop_assert_eq!(order, Ordering::Less, "total and transitive");
            }
        }
    }

    #[test]
    fn the_best_path_is_the_one_the_rfc_selects(specs in prop::collection::vec(spec(), 1..7)) {
        let world = world(&specs);
        let mut ranked = world.paths.clone();
        rank(&mut ranked, &world.attrs, &world.sources);
        // RFC 4271 9.1.2.2 as elimination, step by step.
        let mut left: Vec<usize> = (0..specs.len()).collect();
        let keep = |left: &mut Vec<usize>, cost: &dyn Fn(&Spec) -> i64| {
            let best = left.iter().map(|index| cost(&specs[*index])).min().unwrap();
            left.retain(|index| cost(&specs[*index]) == best);
        };
        keep(&mut left, &|s| i64::from(s.filtered));
        keep(&mut left, &|s| i64::from(COSTS[usize::from(s.hop)].is_none()));
        keep(&mut left, &|s| i64::from(s.long_lived || s.told_long_lived));
        keep(&mut left, &|s| -i64::from(s.local_pref.unwrap_or(100)));
        keep(&mut left, &|s| s.as_path.len() as i64);
        keep(&mut left, &|s| i64::from(s.origin));
        let snapshot = left.clone();
        left.retain(|index| !snapshot.iter().any(|other| {
            let (a, b) = (&specs[*index], &specs[*other]);
            a.as_path.first() == b.as_path.first() && b.med.unwrap_or(0) < a.med.unwrap_or(0)
        }));
        keep(&mut left, &|s| i64::from(!s.external));
        keep(&mut left, &|s| COSTS[usize::from(s.hop)].map_or(0, i64::from));
        keep(&mut left, &|s| i64::from(s.stale));
        keep(&mut left, &|s| s.originator.map_or(0x0101_0101, |last| 0x0909_0900 + i64::from(last)));
        keep(&mut left, &|s| s.clusters as i64);
        prop_assert_eq!(ranked[0].source, world.paths[left[0]].source);
    }
}

#[test]
fn equal_paths_are_multipath_and_filtered_ones_are_not() {
    let w = world(&[plain(), plain(), Spec { filtered: true, ..plain() }]);
    let mut paths = w.paths.clone();
    rank(&mut paths, &w.attrs, &w.sources);
    assert_eq!(multipath_equal(&paths, &w.attrs, &w.sources), 2);
    for useless in [Spec { filtered: true, ..plain() }, Spec { hop: 2, ..plain() }] {
        let w = world(&[useless]);
        assert_eq!(multipath_equal(&w.paths, &w.attrs, &w.sources), 0);
    }
    let w = world(&[plain(), Spec { hop: 1, ..plain() }]);
    assert_eq!(multipath_equal(&w.paths, &w.attrs, &w.sources), 1, "the nearer one only");
}
