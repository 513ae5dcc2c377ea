//! A cluster of thousands: two reflectors, everything that goes wrong in one, and afterwards nothing may be missing.

use super::*;
use crate::io::Output;
use crate::speaker::Speaker;
use crate::status::{Event, PeerState};
use std::collections::BTreeSet;
use std::io::Write as _;

/// The size that Margay is built for.
const NODES: usize = 5000;
const REFLECTORS: usize = 2;
/// Nodes with a whole speaker; the others are thin. Each costs a fifth of a second.
const WHOLE: usize = 16;
/// Octets that a reflector keeps for a group of clients: more than those that read ever lag, less than the others miss.
const LOG: usize = 128 << 10;
/// Groups of a reflector: its clients, and the other reflector.
const GROUPS: u64 = 2;

/// Nodes, and how many of them have a whole speaker: the first ones.
#[derive(Debug, Clone, Copy)]
struct Size {
    nodes: usize,
    whole: usize,
}

struct Storm {
    cluster: Cluster,
    /// By reflector: nodes whose sessions with it a fault may have ended.
    injured: [BTreeSet<usize>; REFLECTORS],
    /// How often each reflector has started.
    starts: [u64; REFLECTORS],
}

impl Storm {
    fn new(seed: u64, size: Size, recorder: Option<Recorder>) -> Self {
        let net = NetConfig { latency_max: Duration::from_millis(10), fragment: 40, ..NetConfig::default() };
        let mut cluster = Cluster::new(seed, net, Shape::Reflectors(REFLECTORS), REFLECTORS + size.nodes);
        cluster.set_thin_from(REFLECTORS + size.whole);
        cluster.adjust_speakers(|speaker| {
            let egress = &mut speaker.egress;
            (egress.log_bytes, egress.log_min, egress.window) = (1, LOG, 16 << 10);
        });
        if let Some(recorder) = recorder {
            cluster.sim.record(recorder);
        }
        let mut storm =
            Self { cluster, injured: [const { BTreeSet::new() }; REFLECTORS], starts: [1; REFLECTORS] };
        for reflector in 0..REFLECTORS {
            storm.cluster.start(reflector, false);
        }
        storm
    }

    /// Every node boots within two seconds, in any order. Some of the first read nothing while the others come: in a big
    /// cluster these fall off the log, and must be told everything again.
    fn boot(&mut self, nodes: usize) -> Result<(), String> {
        let mut order: Vec<usize> = (REFLECTORS..REFLECTORS + nodes).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, self.below(at + 1));
        }
        let mut slow = Vec::new();
        for (round, some) in order.chunks(nodes.div_ceil(40)).enumerate() {
            for index in some {
                self.cluster.start(*index, false);
            }
            self.run(Duration::from_millis(50))?;
            if round == 10 {
                slow = self.pick((nodes / 100).max(1));
                slow.iter().for_each(|index| self.cluster.sim.set_stalled(self.cluster.node(*index), true));
            }
        }
        self.run(SECOND)?;
        slow.iter().for_each(|index| self.cluster.sim.set_stalled(self.cluster.node(*index), false));
        self.run(SECOND)?;
        let resyncs = self.resyncs(&slow);
        if nodes >= NODES && resyncs < slow.len() as u64 {
            return Err(format!("{} nodes read nothing, but only {resyncs} resyncs", slow.len()));
        }
        Ok(())
    }

    /// How often reflectors have told these nodes everything again.
    fn resyncs(&self, nodes: &[usize]) -> u64 {
        let told: BTreeSet<_> = nodes.iter().map(|index| Cluster::address(*index)).collect();
        let reflectors =
            (0..REFLECTORS).filter_map(|index| self.cluster.sim.speaker(self.cluster.node(index)));
        let peers = reflectors.flat_map(Speaker::peers);
        peers.filter(|peer| told.contains(&peer.remote)).map(|peer| peer.resyncs).sum()
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.cluster.sim.random(bound as u64)).unwrap()
    }

    /// So many nodes that run and that nothing was done to yet.
    fn pick(&mut self, count: usize) -> Vec<usize> {
        let all = self.cluster.running();
        let unharmed = |index: &usize| self.injured.iter().all(|injured| !injured.contains(index));
        let mut left: Vec<usize> =
            all.into_iter().filter(|index| *index >= REFLECTORS && unharmed(index)).collect();
        (0..count).map(|_| left.swap_remove(self.below(left.len()))).collect()
    }

    /// Time passes; what must hold at every moment is checked.
    fn run(&mut self, time: Duration) -> Result<(), String> {
        let step = Duration::from_millis(100).min(time);
        let end = self.cluster.sim.now() + time;
        while self.cluster.sim.now() < end {
            self.cluster.sim.run_for(step);
            for reflector in 0..REFLECTORS {
                let Some(speaker) = self.cluster.sim.speaker(self.cluster.node(reflector)) else { continue };
                if speaker.log_bytes() > GROUPS * LOG as u64 {
                    return Err(format!("reflector {reflector} keeps {} octets", speaker.log_bytes()));
                }
            }
        }
        Ok(())
    }

    fn injure(&mut self, nodes: &[usize]) {
        self.injured.iter_mut().for_each(|injured| injured.extend(nodes));
    }

    fn quiesce(&mut self, limit: Duration) -> Result<(), String> {
        let end = self.cluster.sim.now() + limit;
        loop {
            self.run(SECOND)?;
            let down = self.cluster.sessions_down();
            let fault =
                if down > 0 { Some(format!("{down} sessions down")) } else { self.cluster.any_fault() };
            match fault {
                None => return Ok(()),
                Some(fault) if self.cluster.sim.now() >= end => return Err(fault),
                Some(_) => {}
            }
        }
    }

    /// Sessions may only have ended where a fault ended them.
    fn resets(&self) -> Result<(), String> {
        for index in self.cluster.running().into_iter().filter(|index| *index >= REFLECTORS) {
            for (reflector, (count, why)) in self.cluster.establishments(index).into_iter().enumerate() {
                if count > self.starts[reflector] && !self.injured[reflector].contains(&index) {
                    return Err(format!(
                        "node {index} was up {count} times with reflector {reflector}: {why}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Everything at once, for some twenty seconds.
    fn storm(&mut self, nodes: usize) -> Result<(), String> {
        let share = |parts: usize| (nodes / parts).max(1);
        let slow = self.pick(share(50));
        let briefly = self.pick(share(50));
        let churned = self.pick(share(100));
        self.injure(&churned);
        let crashed = self.pick(share(100));
        self.injure(&crashed);
        let cut_off = self.pick(share(100));
        self.injure(&cut_off);
        let jumped = self.pick(share(250));
        self.injure(&jumped);
        let reset = self.pick(share(100));
        self.injure(&reset);
        for index in &slow {
            self.cluster.sim.set_stalled(self.cluster.node(*index), true);
        }
        for index in briefly.iter().chain(&cut_off) {
            self.cluster.sim.set_reachable(self.cluster.node(*index), false);
        }
        for index in &crashed {
            self.cluster.crash(*index);
        }
        // Fifty nodes a second leave, and come back with another version of their block.
        for index in &churned {
            self.cluster.remove(*index);
            self.run(Duration::from_millis(20))?;
        }
        for (kind, index) in jumped.iter().chain(&reset).enumerate() {
            let node = self.cluster.node(*index);
            if kind < jumped.len() {
                self.cluster.sim.jump_clock(node, 1000 * SECOND);
            } else {
                self.cluster.sim.reset_connections(node);
            }
        }
        self.run(2 * SECOND)?;
        self.upgrade(0)?;
        // A reflector goes, without a word, and comes back as one that restarts.
        self.cluster.kill(1);
        self.run(3 * SECOND)?;
        for index in &churned {
            self.cluster.add(*index);
        }
        self.run(SECOND)?;
        self.starts[1] += 1;
        self.cluster.start(1, true);
        for index in slow.iter().chain(&briefly) {
            let node = self.cluster.node(*index);
            self.cluster.sim.set_stalled(node, false);
            self.cluster.sim.set_reachable(node, true);
        }
        // Half of the crashed come back before anybody has noticed, half are gone for good.
        let (back, gone) = crashed.split_at(crashed.len() / 2);
        for index in back {
            self.cluster.start(*index, true);
        }
        for index in gone {
            self.cluster.forget(*index);
        }
        // Longer than the hold time.
        self.run(100 * SECOND)?;
        for index in &cut_off {
            self.cluster.sim.set_reachable(self.cluster.node(*index), true);
        }
        self.upgrade(1)
    }

    /// The network falls into halves with a reflector in each: for less than the hold time, which costs nobody a session,
    /// then for longer, and a twentieth is cut off from both. Nodes leave and come back on either side meanwhile.
    fn partitions(&mut self, nodes: usize) -> Result<(), String> {
        let all: Vec<usize> =
            self.cluster.running().into_iter().filter(|index| *index >= REFLECTORS).collect();
        let sides: Vec<usize> = all.iter().map(|_| self.below(REFLECTORS)).collect();
        let halves: Vec<(usize, usize)> =
            (0..REFLECTORS).map(|at| (at, at)).chain(all.iter().copied().zip(sides)).collect();
        let churned = self.pick((nodes / 200).max(1));
        self.divide(&halves, churned)?;
        self.run(20 * SECOND)?;
        self.unite(&halves);
        self.quiesce(60 * SECOND).map_err(|fault| format!("after the short partition: {fault}"))?;
        self.resets()?;
        let (cut_off, churned) = (self.pick(nodes / 20), self.pick((nodes / 200).max(1)));
        self.injure(&cut_off);
        for (index, side) in halves.iter().filter(|(index, _)| *index >= REFLECTORS) {
            self.injured[1 - side].insert(*index);
        }
        let island = |index: &usize| cut_off.contains(index).then_some(REFLECTORS);
        let parts: Vec<(usize, usize)> =
            halves.iter().map(|(index, side)| (*index, island(index).unwrap_or(*side))).collect();
        self.divide(&parts, churned)?;
        // Longer than the hold time.
        self.run(100 * SECOND)?;
        let down = self.cluster.sessions_down();
        if down < all.len() {
            return Err(format!("the partition ended {down} of {} sessions", all.len()));
        }
        self.unite(&parts);
        Ok(())
    }

    /// Puts nodes on their sides; then some of them leave and come back.
    fn divide(&mut self, sides: &[(usize, usize)], churned: Vec<usize>) -> Result<(), String> {
        for (index, side) in sides {
            self.cluster.sim.set_side(self.cluster.node(*index), *side);
        }
        self.injure(&churned);
        for index in &churned {
            self.cluster.remove(*index);
            self.run(Duration::from_millis(20))?;
        }
        for index in churned {
            self.cluster.add(index);
        }
        Ok(())
    }

    fn unite(&mut self, sides: &[(usize, usize)]) {
        for (index, _) in sides {
            self.cluster.sim.set_side(self.cluster.node(*index), 0);
        }
    }

    /// A new process takes over a reflector: no session ends by it, whatever is going on.
    fn upgrade(&mut self, reflector: usize) -> Result<(), String> {
        self.cluster.upgrade(reflector).map_err(|error| error.to_string())?;
        self.run(SECOND)
    }
}

fn calm(seed: u64, size: Size, recorder: Option<Recorder>) -> Result<Storm, String> {
    let mut storm = Storm::new(seed, size, recorder);
    storm.boot(size.nodes)?;
    storm.quiesce(60 * SECOND).map_err(|fault| format!("after the start: {fault}"))?;
    storm.resets()?;
    Ok(storm)
}

fn story(seed: u64, size: Size, recorder: Option<Recorder>) -> Result<(), String> {
    let mut storm = calm(seed, size, recorder)?;
    storm.storm(size.nodes)?;
    storm.quiesce(120 * SECOND).map_err(|fault| format!("after the storm: {fault}"))?;
    storm.resets()?;
    storm.partitions(size.nodes)?;
    storm.quiesce(120 * SECOND).map_err(|fault| format!("after the partitions: {fault}"))?;
    storm.resets()
}

/// A node dies and nobody has asked for it: what the oracles are for.
fn tragedy(seed: u64, size: Size, recorder: Option<Recorder>) -> Result<(), String> {
    let mut storm = calm(seed, size, recorder)?;
    let victim = storm.cluster.node(REFLECTORS + size.nodes - 1);
    storm.cluster.sim.kill(victim);
    storm.quiesce(10 * SECOND)
}

/// Runs a story; one that fails is run again to record what the reflectors were given.
fn tell(story: fn(u64, Size, Option<Recorder>) -> Result<(), String>, seed: u64, size: Size) {
    let Err(fault) = story(seed, size, None) else { return };
    let path = std::env::temp_dir().join(format!("margay-sim-{seed}-{}.jsonl", size.nodes));
    let out = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    let reflectors = (0..REFLECTORS).map(NodeId).collect();
    let again = story(seed, size, Some(Recorder::new(Box::new(out), Some(reflectors))));
    assert_eq!(again, Err(fault.clone()), "the same seed is the same story");
    panic!("seed {seed}: {fault}\nreplay {} with the example `replay`", path.display());
}

/// A recording replays without the simulation, and a change anywhere in it is noticed.
#[test]
fn recordings_replay_octet_for_octet() {
    let path = std::env::temp_dir().join(format!("margay-sim-replay-{}.jsonl", std::process::id()));
    let out = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    let nodes = (0..REFLECTORS + 3).map(NodeId).collect();
    story(5, Size { nodes: 40, whole: WHOLE }, Some(Recorder::new(Box::new(out), Some(nodes)))).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let replayed = replay(text.as_bytes(), |_, _, _| ()).unwrap();
    assert!(
        replayed.starts > REFLECTORS + 3 && replayed.inputs > 1000 && replayed.outputs > 1000,
        "{replayed:?}"
    );
    // One octet of one message: the MULTI_EXIT_DISC of a block.
    let changed = text.replacen("80040400000001", "80040400000002", 1);
    assert_ne!(changed, text);
    assert!(matches!(replay(changed.as_bytes(), |_, _, _| ()), Err(ReplayError::Diverged { .. })));
}

/// A seed that fails leaves a file behind that tells what happened, to the last octet.
#[test]
fn a_failing_seed_leaves_a_file_that_replays_it() {
    let failed = std::panic::catch_unwind(|| tell(tragedy, 3, Size { nodes: 40, whole: WHOLE })).unwrap_err();
    let said = failed.downcast_ref::<String>().unwrap();
    assert!(said.contains("seed 3: node 41 has no") || said.contains("sessions down"), "{said}");
    let path = said.split_whitespace().find(|word| word.ends_with(".jsonl")).unwrap();
    let recording = std::fs::read(path).unwrap();
    std::fs::remove_file(path).unwrap();
    // The reflectors' last word is about the node that is gone.
    let gone = Cluster::address(REFLECTORS + 39);
    let mut down = BTreeSet::new();
    let replayed = replay(recording.as_slice(), |node, _, output| {
        if let Output::Event(Event::PeerChanged { remote, state, .. }) = output
            && *remote == gone
        {
            match state {
                PeerState::Established => down.remove(&node),
                _ => down.insert(node),
            };
        }
    });
    assert_eq!(replayed.unwrap().starts, REFLECTORS);
    assert_eq!(down, (0..REFLECTORS).collect());
}

/// A number that the environment gives instead of ours.
fn number(name: &str, ours: usize) -> usize {
    std::env::var(name).map_or(ours, |text| text.parse().unwrap())
}

/// Processor time of this thread, as the kernel's scheduler counts it.
fn processor_time() -> Duration {
    let nanoseconds = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(nanoseconds.split_whitespace().next().unwrap().parse().unwrap())
}

/// `SIM_SEED`, `SIM_SEEDS` (how many), `SIM_NODES` and `SIM_WHOLE` (with a whole speaker) ask for another storm.
#[test]
fn five_thousand_nodes_weather_a_storm() {
    let size = Size { nodes: number("SIM_NODES", NODES), whole: number("SIM_WHOLE", WHOLE) };
    let first = number("SIM_SEED", 1);
    for seed in first..first + number("SIM_SEEDS", 1) {
        let begun = processor_time();
        tell(story, seed as u64, size);
        let took = (processor_time() - begun).as_secs_f64();
        // Past the capture of what tests print.
        let line = format!("simulation: seed {seed}, {} nodes: {took:.1} s of processor time\n", size.nodes);
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
}

#[test]
fn small_storms_of_whole_speakers() {
    for seed in 0..6 {
        tell(story, seed, Size { nodes: 200, whole: 200 });
    }
}
