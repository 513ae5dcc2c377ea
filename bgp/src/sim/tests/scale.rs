//! A cluster of thousands: two reflectors, everything that goes wrong in one, and afterwards nothing may be missing.

use super::*;
use crate::config::SpeakerConfig;
use crate::io::Output;
use crate::status::{Event, PeerState};
use std::collections::BTreeSet;

/// The size that Margay is built for.
const NODES: usize = 5000;
const REFLECTORS: usize = 2;
/// Nodes with a whole speaker; the others are thin.
const WHOLE: usize = 16;

struct Storm {
    cluster: Cluster,
    /// Nodes whose sessions a fault may have ended.
    injured: BTreeSet<usize>,
    /// How often each reflector has started.
    starts: [u64; REFLECTORS],
    log_budget: u64,
}

impl Storm {
    fn new(seed: u64, nodes: usize, recorder: Option<Recorder>) -> Self {
        let net = NetConfig { latency_max: Duration::from_millis(10), fragment: 40, ..NetConfig::default() };
        let mut cluster = Cluster::new(seed, net, Shape::Reflectors(REFLECTORS), REFLECTORS + nodes);
        cluster.set_thin_from(REFLECTORS + WHOLE);
        cluster.adjust_speakers(|speaker| speaker.egress.log_bytes = 1 << 20);
        if let Some(recorder) = recorder {
            cluster.sim.record(recorder);
        }
        let config = SpeakerConfig::new([10, 0, 0, 1].into(), SIM_AS);
        let mut storm = Self {
            cluster,
            injured: BTreeSet::new(),
            starts: [1; REFLECTORS],
            log_budget: config.egress.log_bytes.min(1 << 20) as u64,
        };
        for reflector in 0..REFLECTORS {
            storm.cluster.start(reflector, false);
        }
        storm
    }

    /// Every node boots within two seconds, in any order.
    fn boot(&mut self, nodes: usize) -> Result<(), String> {
        let mut order: Vec<usize> = (REFLECTORS..REFLECTORS + nodes).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, self.below(at + 1));
        }
        for some in order.chunks(nodes.div_ceil(40)) {
            for index in some {
                self.cluster.start(*index, false);
            }
            self.run(Duration::from_millis(50))?;
        }
        Ok(())
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.cluster.sim.random(bound as u64)).unwrap()
    }

    /// So many nodes that run and that nothing was done to yet.
    fn pick(&mut self, count: usize) -> Vec<usize> {
        let all = self.cluster.running();
        let mut left: Vec<usize> =
            all.into_iter().filter(|index| *index >= REFLECTORS && !self.injured.contains(index)).collect();
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
                // Each group may keep a little whatever the budget is.
                if speaker.log_bytes() > self.log_budget + (128 << 10) {
                    return Err(format!("reflector {reflector} keeps {} octets", speaker.log_bytes()));
                }
            }
        }
        Ok(())
    }

    fn injure(&mut self, nodes: &[usize]) {
        self.injured.extend(nodes);
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
            if self.injured.contains(&index) {
                continue;
            }
            for (reflector, (count, why)) in self.cluster.establishments(index).into_iter().enumerate() {
                if count > self.starts[reflector] {
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

    /// A new process takes over a reflector: no session ends by it, whatever is going on.
    fn upgrade(&mut self, reflector: usize) -> Result<(), String> {
        self.cluster.upgrade(reflector).map_err(|error| error.to_string())?;
        self.run(SECOND)
    }
}

fn calm(seed: u64, nodes: usize, recorder: Option<Recorder>) -> Result<Storm, String> {
    let mut storm = Storm::new(seed, nodes, recorder);
    storm.boot(nodes)?;
    storm.quiesce(60 * SECOND).map_err(|fault| format!("after the start: {fault}"))?;
    storm.resets()?;
    Ok(storm)
}

fn story(seed: u64, nodes: usize, recorder: Option<Recorder>) -> Result<(), String> {
    let mut storm = calm(seed, nodes, recorder)?;
    storm.storm(nodes)?;
    storm.quiesce(120 * SECOND).map_err(|fault| format!("after the storm: {fault}"))?;
    storm.resets()
}

/// A node dies and nobody has asked for it: what the oracles are for.
fn tragedy(seed: u64, nodes: usize, recorder: Option<Recorder>) -> Result<(), String> {
    let mut storm = calm(seed, nodes, recorder)?;
    let victim = storm.cluster.node(REFLECTORS + nodes - 1);
    storm.cluster.sim.kill(victim);
    storm.quiesce(10 * SECOND)
}

/// Runs a story; one that fails is run again to record what the reflectors were given.
fn tell(story: fn(u64, usize, Option<Recorder>) -> Result<(), String>, seed: u64, nodes: usize) {
    let Err(fault) = story(seed, nodes, None) else { return };
    let path = std::env::temp_dir().join(format!("margay-sim-{seed}-{nodes}.jsonl"));
    let out = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    let reflectors = (0..REFLECTORS).map(NodeId).collect();
    let again = story(seed, nodes, Some(Recorder::new(Box::new(out), Some(reflectors))));
    assert_eq!(again, Err(fault.clone()), "the same seed is the same story");
    panic!("seed {seed}: {fault}\nreplay {} with the example `replay`", path.display());
}

/// A recording replays without the simulation, and a change anywhere in it is noticed.
#[test]
fn recordings_replay_octet_for_octet() {
    let path = std::env::temp_dir().join(format!("margay-sim-replay-{}.jsonl", std::process::id()));
    let out = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    let nodes = (0..REFLECTORS + 3).map(NodeId).collect();
    story(5, 40, Some(Recorder::new(Box::new(out), Some(nodes)))).unwrap();
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
    let failed = std::panic::catch_unwind(|| tell(tragedy, 3, 40)).unwrap_err();
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

#[test]
fn five_thousand_nodes_weather_a_storm() {
    tell(story, 1, std::env::var("SIM_NODES").map_or(NODES, |text| text.parse().unwrap()));
}

#[test]
fn small_storms_of_many_seeds() {
    for seed in 0..6 {
        tell(story, seed, 200);
    }
}
