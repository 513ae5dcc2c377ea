use proptest::prelude::*;

use super::*;

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn handle(n: u32) -> Handle {
    Handle::pod("margay", &format!("c{n}"), "eth0")
}

struct Ask {
    families: Vec<Family>,
    addresses: Vec<IpAddr>,
    pools: Vec<IpNet>,
    reserved: RangeSet,
    now: Seconds,
    cooldown: Seconds,
}

impl Ask {
    fn v4() -> Self {
        Self {
            families: vec![Family::V4],
            addresses: Vec::new(),
            pools: vec![net("10.65.0.0/16"), net("fd00::/64")],
            reserved: RangeSet::default(),
            now: 100,
            cooldown: 0,
        }
    }

    fn run(&self, allocator: &mut Allocator, n: u32) -> Result<Assigned, AssignError> {
        allocator.assign(&Request {
            handle: handle(n),
            attributes: Attributes::default(),
            families: &self.families,
            addresses: &self.addresses,
            pools: &self.pools,
            reserved: &self.reserved,
            now: self.now,
            cooldown: self.cooldown,
        })
    }
}

fn with_blocks(blocks: &[&str]) -> Allocator {
    let mut a = Allocator::default();
    for block in blocks {
        a.add_block(net(block), 7).unwrap();
    }
    a
}

#[test]
fn addresses_come_in_order_and_a_released_one_comes_last() {
    let mut a = with_blocks(&["10.65.1.0/30"]);
    let ask = Ask::v4();
    assert_eq!(ask.run(&mut a, 0).unwrap().addresses, [ip("10.65.1.0")]);
    assert_eq!(ask.run(&mut a, 1).unwrap().addresses, [ip("10.65.1.1")]);
    assert!(a.release(&handle(0), 100).is_some());
    assert!(a.release(&handle(0), 100).is_none(), "a second release is no error and no record");
    for (n, last) in [(2, 2), (3, 3), (4, 0)] {
        assert_eq!(ask.run(&mut a, n).unwrap().addresses, [ip(&format!("10.65.1.{last}"))]);
    }
    let full = ask.run(&mut a, 5).unwrap_err();
    assert_eq!(full, AssignError::NeedBlock { family: Family::V4, pools: vec![net("10.65.0.0/16")] });
}

#[test]
fn asking_twice_gives_the_same_and_journals_once() {
    let mut a = with_blocks(&["10.65.1.0/30"]);
    let first = Ask::v4().run(&mut a, 1).unwrap();
    let again = Ask::v4().run(&mut a, 1).unwrap();
    assert_eq!(first.addresses, again.addresses);
    assert!(first.record.is_some() && again.record.is_none());
    let other = Ask { addresses: vec![ip("10.65.1.3")], ..Ask::v4() }.run(&mut a, 1).unwrap_err();
    assert!(matches!(other, AssignError::Mismatch { .. }), "{other}");
}

#[test]
fn dual_stack_is_all_or_nothing() {
    let mut a = with_blocks(&["10.65.1.0/30"]);
    let before = a.clone();
    let ask = Ask { families: vec![Family::V4, Family::V6], ..Ask::v4() };
    assert!(matches!(ask.run(&mut a, 1), Err(AssignError::NeedBlock { family: Family::V6, .. })));
    assert_eq!(a, before, "the IPv4 half must not stay");
    a.add_block(net("fd00::/122"), 9).unwrap();
    assert_eq!(ask.run(&mut a, 1).unwrap().addresses, [ip("10.65.1.0"), ip("fd00::")]);
    let v6_only_pool = Ask { pools: vec![net("10.65.0.0/16")], ..ask };
    assert_eq!(v6_only_pool.run(&mut a, 2).unwrap_err(), AssignError::NoPool(Family::V6));
}

#[test]
fn a_requested_address_is_given_or_the_reason_said() {
    let mut a = with_blocks(&["10.65.1.0/30"]);
    let ask = |addr: &str| Ask { addresses: vec![ip(addr)], ..Ask::v4() };
    assert_eq!(ask("10.65.1.2").run(&mut a, 1).unwrap().addresses, [ip("10.65.1.2")]);
    assert!(matches!(ask("10.65.1.2").run(&mut a, 2), Err(AssignError::Taken { .. })));
    assert!(matches!(ask("10.65.9.2").run(&mut a, 2), Err(AssignError::NotOurs { .. })));
    assert!(matches!(ask("10.99.1.2").run(&mut a, 2), Err(AssignError::OutsidePools { .. })));
    let reserved = Ask { reserved: RangeSet::new(&[net("10.65.1.0/24")]), ..Ask::v4() };
    assert!(matches!(reserved.run(&mut a, 3), Err(AssignError::NeedBlock { .. })));
    let explicit = Ask { addresses: vec![ip("10.65.1.3")], ..reserved };
    assert_eq!(
        explicit.run(&mut a, 3).unwrap().addresses,
        [ip("10.65.1.3")],
        "reserved, but asked for by name"
    );
}

#[test]
fn a_released_address_rests_and_a_clock_set_back_does_not_lock_it() {
    let mut a = with_blocks(&["10.65.1.0/32"]);
    let at = |now| Ask { now, cooldown: 60, ..Ask::v4() };
    at(100).run(&mut a, 1).unwrap();
    a.release(&handle(1), 100);
    assert_eq!(a.usage(120, 60)[0].cooling, 1);
    assert!(at(159).run(&mut a, 2).is_err());
    assert!(at(160).run(&mut a.clone(), 2).is_ok());
    assert!(at(50).run(&mut a, 2).is_ok(), "the clock was set back");
}

#[test]
fn a_frozen_or_foreign_block_gives_nothing() {
    let mut a = with_blocks(&["10.65.1.0/30"]);
    a.freeze(&net("10.65.1.0/30"), true);
    assert!(Ask::v4().run(&mut a, 1).is_err());
    a.freeze(&net("10.65.1.0/30"), false);
    assert!(Ask { pools: vec![net("10.66.0.0/16")], ..Ask::v4() }.run(&mut a, 1).is_err());
    assert!(Ask::v4().run(&mut a, 1).is_ok());
    assert!(matches!(a.drop_block(net("10.65.1.0/30")), Err(RecordError::InUse { used: 1, .. })));
    a.release(&handle(1), 0);
    assert!(a.drop_block(net("10.65.1.0/30")).is_ok());
    assert!(matches!(a.add_block(net("10.0.0.0/8"), 1), Err(RecordError::TooLarge(_))));
}

#[test]
fn an_assignment_that_could_not_be_written_is_taken_back() {
    let mut a = with_blocks(&["10.65.1.0/30"]);
    let record = Ask::v4().run(&mut a, 1).unwrap().record.unwrap();
    a.undo(&record, 100);
    assert_eq!(a.owners().count(), 0);
    assert!(a.inconsistencies().is_empty());
}

#[test]
fn the_journal_has_a_stable_form() {
    let mut a = with_blocks(&["10.65.1.0/30"]);
    let block = Record::Block { cidr: net("10.65.1.0/30"), fence: 7, sequence: 0, queue: None };
    let json = |r: &Record| serde_json::to_string(r).unwrap();
    assert_eq!(json(&block), r#"{"op":"block","cidr":"10.65.1.0/30","fence":7,"sequence":0}"#);
    let assign = Ask::v4().run(&mut a, 1).unwrap().record.unwrap();
    assert_eq!(
        json(&assign),
        r#"{"op":"assign","handle":"margay.c1.eth0","addresses":["10.65.1.0"],"attributes":{}}"#
    );
    let release = a.release(&handle(1), 5).unwrap();
    assert_eq!(json(&release), r#"{"op":"release","handle":"margay.c1.eth0","at":5}"#);
    for record in [block, assign, release] {
        assert_eq!(serde_json::from_str::<Record>(&json(&record)).unwrap(), record);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Assign { owner: u32, dual: bool, wish: Option<u8> },
    Release(u32),
    AddBlock(u8),
    DropBlock(u8),
    Freeze(u8, bool),
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u32..12, any::<bool>(), proptest::option::weighted(0.3, any::<u8>()))
            .prop_map(|(owner, dual, wish)| Step::Assign { owner, dual, wish }),
        4 => (0u32..12).prop_map(Step::Release),
        2 => (0u8..6).prop_map(Step::AddBlock),
        1 => (0u8..6).prop_map(Step::DropBlock),
        1 => (0u8..6, any::<bool>()).prop_map(|(b, f)| Step::Freeze(b, f)),
        1 => Just(Step::Compact),
    ]
}

fn block(n: u8) -> IpNet {
    if n < 4 { net(&format!("10.65.0.{}/30", n * 4)) } else { net(&format!("fd00::{:x}/126", (n - 4) * 4)) }
}

/// Everything that outlives a restart: freezing does not.
fn durable(mut a: Allocator) -> Allocator {
    let blocks: Vec<IpNet> = a.blocks().collect();
    for block in blocks {
        a.freeze(&block, false);
    }
    a
}

proptest! {
    #[test]
    fn no_address_ever_has_two_owners_and_every_prefix_of_the_journal_replays(
        steps in proptest::collection::vec(step(), 0..60),
        cooldown in 0u64..4,
    ) {
        let mut a = Allocator::default();
        let mut journal: Vec<Record> = Vec::new();
        // State after each length of the journal.
        let mut states = vec![(0, durable(a.clone()))];
        for (now, step) in steps.into_iter().enumerate() {
            let now = now as Seconds;
            match step {
                Step::Assign { owner, dual, wish } => {
                    let ask = Ask {
                        families: if dual { vec![Family::V4, Family::V6] } else { vec![Family::V4] },
                        addresses: wish.map(|w| ip(&format!("10.65.0.{}", w % 20))).into_iter().collect(),
                        now,
                        cooldown,
                        ..Ask::v4()
                    };
                    let before = a.clone();
                    match ask.run(&mut a, owner) {
                        Ok(given) => journal.extend(given.record),
                        Err(_) => prop_assert_eq!(&a, &before, "a refusal changes nothing"),
                    }
                }
                Step::Release(owner) => journal.extend(a.release(&handle(owner), now)),
                Step::AddBlock(n) => journal.extend(a.add_block(block(n), now)),
                Step::DropBlock(n) => journal.extend(a.drop_block(block(n))),
                Step::Freeze(n, frozen) => a.freeze(&block(n), frozen),
                Step::Compact => {
                    let compact = a.compact();
                    let (again, problems) = Allocator::replay(&compact);
                    prop_assert!(problems.is_empty(), "{:?}", problems);
                    prop_assert_eq!(again.compact().len(), compact.len());
                    prop_assert_eq!(owners(&again), owners(&a));
                    for cut in 0..compact.len() {
                        let (part, problems) = Allocator::replay(&compact[..cut]);
                        prop_assert!(problems.is_empty() && part.inconsistencies().is_empty());
                    }
                }
            }
            prop_assert_eq!(a.inconsistencies(), Vec::<String>::new());
            states.push((journal.len(), durable(a.clone())));
        }
        for (length, state) in &states {
            let (replayed, problems) = Allocator::replay(&journal[..*length]);
            prop_assert!(problems.is_empty(), "{:?}", problems);
            prop_assert_eq!(&durable(replayed), state);
        }
        // Nothing leaks: after all releases every address of every block is free.
        for owner in 0..12 {
            a.release(&handle(owner), 1000);
        }
        prop_assert_eq!(a.owners().count(), 0);
        prop_assert!(a.usage(2000, 0).iter().all(|u| u.used == 0 && u.total == 4));
        prop_assert_eq!(a.inconsistencies(), Vec::<String>::new());
    }

    /// A journal with lines lost, repeated or swapped: whatever can be saved is, and no rule is broken.
    #[test]
    fn a_damaged_journal_never_gives_two_owners(
        picks in proptest::collection::vec(0usize..24, 0..60),
    ) {
        let lines: Vec<Record> = (0..6u8).map(|n| Record::Block {
                cidr: block(n), fence: 1, sequence: 0, queue: None,
            })
            .chain((0..6u32).map(|n| Record::Assign {
                handle: handle(n),
                addresses: vec![ip(&format!("10.65.0.{}", n % 4))],
                attributes: Attributes::default(),
            }))
            .chain((0..6u32).map(|n| Record::Assign {
                handle: handle(n),
                addresses: vec![ip("10.65.0.1"), ip(&format!("fd00::{n:x}"))],
                attributes: Attributes::default(),
            }))
            .chain((0..3u32).map(|n| Record::Release { handle: handle(n), at: 1 }))
            .chain((0..3u8).map(|n| Record::Drop { cidr: block(n) }))
            .collect();
        let journal: Vec<Record> = picks.into_iter().map(|p| lines[p].clone()).collect();
        let (state, _problems) = Allocator::replay(&journal);
        prop_assert_eq!(state.inconsistencies(), Vec::<String>::new());
    }
}

fn owners(a: &Allocator) -> Vec<(Handle, Owned)> {
    a.owners().map(|(h, o)| (h.clone(), o.clone())).collect()
}
