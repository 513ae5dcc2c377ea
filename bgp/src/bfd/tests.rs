use super::*;
use crate::time::{Rng, Time};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

mod puppet;

const MS: Duration = Duration::from_millis(1);

fn address(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

/// The address of the end that is not this one.
fn other(end: usize) -> IpAddr {
    address(u8::from(end == 0))
}

/// How packets travel.
#[derive(Debug, Clone, Copy)]
struct Path {
    /// Of a hundred packets, so many are lost.
    loss: u64,
    /// Longest delay, in ms; packets overtake each other.
    delay: u64,
    /// Nothing reaches this end.
    deaf: Option<usize>,
}

const GOOD: Path = Path { loss: 0, delay: 1, deaf: None };
const CUT: Path = Path { loss: 100, ..GOOD };

/// Two endpoints, 192.0.2.0 and .1, and what lies between them.
struct Pair {
    now: Time,
    ends: [Bfd; 2],
    rng: Rng,
    path: Path,
    /// In flight: by arrival and number, the receiver and the payload.
    flying: BTreeMap<(Time, u64), (usize, Vec<u8>)>,
    sent: [Vec<(Time, Packet)>; 2],
    changes: [Vec<SessionStatus>; 2],
    number: u64,
}

impl Pair {
    fn new(seed: u64, configs: [SessionConfig; 2]) -> Self {
        let mut pair = Self {
            now: Time::ZERO,
            ends: [Bfd::new(seed), Bfd::new(seed + 1)],
            rng: Rng::new(seed),
            path: GOOD,
            flying: BTreeMap::new(),
            sent: [Vec::new(), Vec::new()],
            changes: [Vec::new(), Vec::new()],
            number: 0,
        };
        for (end, config) in configs.into_iter().enumerate() {
            pair.set(end, Some(config));
        }
        pair
    }

    fn set(&mut self, end: usize, config: Option<SessionConfig>) {
        self.input(end, Input::Set(other(end), config));
    }

    fn input(&mut self, end: usize, input: Input<'_>) {
        self.ends[end].handle(self.now, input);
        while let Some(output) = self.ends[end].poll_output() {
            match output {
                Output::Send { packet, .. } => {
                    self.sent[end].push((self.now, Packet::decode(&packet).unwrap()));
                    let lost = self.rng.next_u64() % 100 < self.path.loss || self.path.deaf == Some(1 - end);
                    let delay = MS * u32::try_from(self.rng.next_u64() % (self.path.delay + 1)).unwrap();
                    self.number += 1;
                    if !lost {
                        self.flying.insert((self.now + delay, self.number), (1 - end, packet.to_vec()));
                    }
                }
                Output::Changed(_, status) => self.changes[end].push(status),
                Output::Gone(_) => {}
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrival = self.flying.keys().next().map(|(at, _)| *at);
            let timer = |n: usize| self.ends[n].next_deadline();
            let next = [arrival, timer(0), timer(1)].into_iter().flatten().min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let (_, (to, payload)) = self.flying.pop_first().unwrap();
                let from = other(to);
                self.input(to, Input::Received { from, multihop: false, payload: &payload });
            } else {
                let due = usize::from(timer(0) != Some(next));
                self.input(due, Input::Tick);
            }
        }
        self.now = end;
    }

    fn status(&self, end: usize) -> SessionStatus {
        self.ends[end].status(other(end)).unwrap()
    }

    fn states(&self) -> [State; 2] {
        [0, 1].map(|end| self.status(end).state)
    }

    fn up(seed: u64, configs: [SessionConfig; 2]) -> Self {
        let mut pair = Self::new(seed, configs);
        pair.pass(Duration::from_secs(5));
        assert_eq!(pair.states(), [State::Up; 2]);
        pair
    }

    fn forget_history(&mut self) {
        self.sent = [Vec::new(), Vec::new()];
        self.changes = [Vec::new(), Vec::new()];
    }

    /// The longest and shortest time between periodic packets of an end.
    fn gaps(&self, end: usize) -> (Duration, Duration) {
        let sent: Vec<Time> = self.sent[end].iter().filter(|(_, p)| !p.last).map(|(at, _)| *at).collect();
        let gaps = sent.windows(2).map(|pair| pair[1].since(pair[0]));
        (gaps.clone().min().unwrap(), gaps.max().unwrap())
    }
}

fn config(tx: u64, rx: u64, multiplier: u8) -> SessionConfig {
    SessionConfig {
        min_tx: Duration::from_millis(tx),
        min_rx: Duration::from_millis(rx),
        multiplier,
        ..SessionConfig::default()
    }
}

#[test]
fn a_session_comes_up_and_agrees_on_the_slower_of_both() {
    let mut pair = Pair::up(1, [config(100, 50, 3), config(20, 200, 5)]);
    let [a, b] = [pair.status(0), pair.status(1)];
    assert_eq!((a.tx_interval, b.tx_interval), (200 * MS, 50 * MS));
    // The other side's multiplier (RFC 5880 section 6.8.4).
    assert_eq!((a.detection_time, b.detection_time), (50 * MS * 5, 200 * MS * 3));
    assert_eq!((a.remote_state, a.failures), (State::Up, 0));
    // Slow until up, with Polls answered until the intervals are confirmed.
    assert!(pair.sent[0].iter().all(|(_, p)| p.state == State::Up || p.min_tx >= 1_000_000));
    assert!(pair.sent[0].iter().any(|(_, p)| p.poll) && pair.sent[1].iter().any(|(_, p)| p.last));
    pair.forget_history();
    pair.pass(Duration::from_secs(60));
    let quiet = |end: usize| pair.sent[end].iter().all(|(_, p)| !p.poll && !p.last && p.state == State::Up);
    assert!(quiet(0) && quiet(1));
    let (least, most) = pair.gaps(0);
    assert!(least >= 150 * MS && most <= 200 * MS && most > least, "{least:?} {most:?}");
    assert_eq!(pair.changes, [[], []]);
}

#[test]
fn a_multiplier_of_one_leaves_room_for_the_way() {
    let mut pair = Pair::up(2, [config(100, 100, 1), config(100, 100, 3)]);
    pair.forget_history();
    pair.pass(Duration::from_secs(60));
    let (least, most) = pair.gaps(0);
    assert!(least >= 75 * MS && most <= 90 * MS, "{least:?} {most:?}");
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn silence_is_found_within_the_detection_time() {
    let mut pair = Pair::up(3, [config(300, 300, 3); 2]);
    pair.forget_history();
    pair.path = CUT;
    pair.pass(Duration::from_millis(901));
    for end in [0, 1] {
        let status = pair.status(end);
        assert_eq!((status.state, status.diagnostic), (State::Down, Diagnostic::TIME_EXPIRED));
        assert_eq!((status.failures, status.detection_time), (1, Duration::ZERO));
        let down: Vec<State> = pair.changes[end].iter().map(|status| status.state).collect();
        assert_eq!(down, [State::Down]);
    }
    // And comes back when the path does, without another failure.
    pair.path = GOOD;
    pair.pass(Duration::from_secs(3));
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!(pair.status(0).failures, 1);
}

#[test]
fn a_path_that_works_one_way_only_is_down_both_ways() {
    let mut pair = Pair::up(4, [config(300, 300, 3); 2]);
    pair.forget_history();
    // 1 hears nothing and says so; 0 learns it from 1.
    pair.path = Path { deaf: Some(1), ..GOOD };
    pair.pass(Duration::from_secs(5));
    let first = pair.changes[0].first().unwrap();
    assert_eq!((first.state, first.diagnostic), (State::Down, Diagnostic::NEIGHBOR_DOWN));
    assert_eq!([pair.status(0).failures, pair.status(1).failures], [1, 1]);
    assert!(pair.states().iter().all(|state| *state != State::Up));
    pair.path = GOOD;
    pair.pass(Duration::from_secs(5));
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn an_administrator_takes_a_session_down_and_that_is_no_failure() {
    for stop in [false, true] {
        let mut pair = Pair::up(5, [config(300, 300, 3); 2]);
        match stop {
            false => pair.set(0, None),
            true => pair.input(0, Input::Stop),
        }
        pair.pass(Duration::from_secs(10));
        let status = pair.status(1);
        assert_eq!((status.state, status.failures), (State::Down, 0), "{stop}");
        assert_eq!(status.remote_diagnostic, Diagnostic::ADMIN_DOWN);
        assert!(pair.ends[0].status(address(1)).is_none(), "gone for good");
        assert_eq!(pair.ends[0].next_deadline(), None);
        pair.set(0, Some(config(300, 300, 3)));
        pair.pass(Duration::from_secs(5));
        assert_eq!(pair.states(), [State::Up; 2]);
    }
}

#[test]
fn a_session_that_is_removed_and_comes_back_at_once_counts_anew() {
    let mut pair = Pair::up(6, [config(300, 300, 3); 2]);
    pair.path = CUT;
    pair.pass(Duration::from_secs(2));
    pair.path = GOOD;
    pair.pass(Duration::from_secs(5));
    assert_eq!(pair.status(0).failures, 1);
    pair.set(0, None);
    pair.set(0, Some(config(300, 300, 3)));
    pair.pass(Duration::from_secs(5));
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!([pair.status(0).failures, pair.status(1).failures], [0, 1]);
}

#[test]
fn intervals_change_by_poll_without_a_flap() {
    let mut pair = Pair::up(7, [config(100, 100, 3); 2]);
    for (tx, rx) in [(1000, 2000), (50, 50), (10, 3000), (300, 300)] {
        pair.forget_history();
        pair.set(0, Some(config(tx, rx, 3)));
        // Twice in a row: the answer to the first question does not stand for the second.
        pair.set(0, Some(config(tx + 10, rx, 3)));
        pair.pass(Duration::from_secs(30));
        let [a, b] = [pair.status(0), pair.status(1)];
        assert_eq!((a.state, b.state, a.failures, b.failures), (State::Up, State::Up, 0, 0));
        assert_eq!(a.tx_interval, Duration::from_millis(tx + 10).max(100 * MS));
        assert_eq!(b.tx_interval, Duration::from_millis(rx).max(100 * MS));
        assert_eq!(b.detection_time, Duration::from_millis(tx + 10).max(100 * MS) * 3);
        assert!(pair.sent[0].iter().any(|(_, p)| p.poll), "{tx} {rx}");
        assert!(!pair.sent[0].last().unwrap().1.poll);
    }
}

#[test]
fn another_goes_on_and_the_other_side_sees_nothing() {
    let configs = [config(300, 300, 3), config(300, 300, 3)];
    let mut pair = Pair::up(7, configs);
    let before = pair.status(1);
    assert_eq!(before.failures, 0);
    pair.ends[0] = Bfd::restore(pair.ends[0].hand_over());
    pair.pass(Duration::from_secs(5));
    assert_eq!((pair.status(1), pair.states()), (before, [State::Up; 2]));
    // And it still finds a loss.
    pair.ends[0] = Bfd::restore(pair.ends[0].hand_over());
    pair.path = CUT;
    pair.pass(Duration::from_secs(1));
    assert_eq!((pair.states(), pair.status(0).failures), ([State::Down; 2], 1));
}

#[test]
fn slower_sending_waits_for_the_answer() {
    let mut pair = Pair::up(8, [config(100, 100, 3); 2]);
    pair.path = CUT;
    pair.set(0, Some(config(1000, 100, 3)));
    pair.pass(100 * MS);
    assert_eq!(pair.status(0).tx_interval, 100 * MS, "not before the peer has confirmed");
    assert!(pair.sent[0].last().unwrap().1.poll);
    pair.path = GOOD;
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.status(0).tx_interval, Duration::from_secs(1));
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn a_thousand_sessions_stay_up_and_one_that_is_lost_is_found() {
    let peer = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
    let hub = IpAddr::from([10, 255, 0, 1]);
    let mut center = Bfd::new(1);
    let mut ends: Vec<Bfd> = (0..1000).map(|n| Bfd::new(n + 2)).collect();
    for (n, end) in (0..).zip(&mut ends) {
        center.handle(Time::ZERO, Input::Set(peer(n), Some(SessionConfig::default())));
        end.handle(Time::ZERO, Input::Set(hub, Some(SessionConfig::default())));
    }
    let mut run = |until: Time, lost: Option<u32>| {
        loop {
            while let Some(output) = center.poll_output() {
                let Output::Send { remote, packet, .. } = output else { continue };
                let IpAddr::V4(remote) = remote else { continue };
                let n = u32::from(remote) - 0x0a00_0000;
                let at = center.next_deadline().unwrap().min(until);
                ends[n as usize].handle(at, Input::Received { from: hub, multihop: false, payload: &packet });
            }
            let mut any = false;
            for (n, end) in (0..).zip(&mut ends) {
                while let Some(output) = end.poll_output() {
                    let Output::Send { packet, .. } = output else { continue };
                    any = true;
                    if lost != Some(n) {
                        let input = Input::Received { from: peer(n), multihop: false, payload: &packet };
                        center.handle(Time::ZERO, input);
                    }
                }
            }
            if any {
                continue;
            }
            let next = ends.iter().chain([&center]).filter_map(Bfd::next_deadline).min().unwrap();
            if next > until {
                break;
            }
            // Ten milliseconds at once: a thousand sessions have something to do at any instant.
            let next = (next + 10 * MS).min(until);
            center.handle(next, Input::Tick);
            ends.iter_mut().for_each(|end| end.handle(next, Input::Tick));
        }
        (0..1000).filter(|n| center.status(peer(*n)).unwrap().state != State::Up).collect::<Vec<u32>>()
    };
    assert_eq!(run(Time::from_secs(4), None), Vec::<u32>::new());
    assert_eq!(run(Time::from_secs(10), Some(500)), [500]);
}

prop_compose! {
    fn any_config()(tx in 10u64..2000, rx in 10u64..2000, multiplier in 1u8..6) -> SessionConfig {
        config(tx, rx, multiplier)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happened on the way, once it is good both are up with the intervals that both know.
    #[test]
    fn two_ends_always_converge(
        seed in 0u64..1_000_000,
        first in any_config(),
        second in any_config(),
        troubles in proptest::collection::vec((0u64..=100, 0u64..500, 10u64..5_000), 0..8),
        changed in any_config(),
    ) {
        let mut pair = Pair::new(seed, [first, second]);
        let half = troubles.len() / 2;
        for (n, (loss, delay, time)) in troubles.into_iter().enumerate() {
            pair.path = Path { loss, delay, deaf: None };
            if n == half {
                pair.set(0, Some(changed));
            }
            pair.pass(Duration::from_millis(time));
        }
        pair.path = GOOD;
        pair.set(0, Some(changed));
        pair.pass(Duration::from_secs(30));
        prop_assert_eq!(pair.states(), [State::Up; 2]);
        let [a, b] = [pair.status(0), pair.status(1)];
        prop_assert_eq!(a.tx_interval, changed.min_tx.max(second.min_rx));
        prop_assert_eq!(b.tx_interval, second.min_tx.max(changed.min_rx));
        prop_assert_eq!(a.detection_time, b.tx_interval * u32::from(second.multiplier));
        prop_assert_eq!(b.detection_time, a.tx_interval * u32::from(changed.multiplier));
        // And nothing is asked any more.
        pair.forget_history();
        pair.pass(Duration::from_secs(10));
        prop_assert!(pair.sent.iter().flatten().all(|(_, packet)| !packet.poll));
        prop_assert_eq!(pair.changes, [[], []]);
    }
}
