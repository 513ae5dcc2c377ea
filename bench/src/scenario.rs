//! What is done to a reflector, and what is measured meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::lab::Lab;
use crate::plan::Plan;
use crate::process;
use crate::subject::{Folder, Running, Subject};
use crate::swarm::Swarm;

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);
/// What sessions get that somebody refused at first (BIRD after 60 s or more, `error wait time`): the other figures count too.
const LATE: Duration = Duration::from_secs(240);
/// Whoever takes longer than this to converge is not asked for more.
const PATIENT: Duration = Duration::from_secs(15);
/// Time for a reflector to notice that everybody is there.
const CALM: Duration = Duration::from_millis(300);
/// Changes measured one by one.
const SINGLE: usize = 40;
/// Changes of the churn, and between two of them.
const CHURN: usize = 200;
const CHURN_EVERY: Duration = Duration::from_millis(10);
/// Rounds in which everybody changes everything while one client does not read.
const ROUNDS: usize = 20;

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    /// As people see it.
    pub(crate) name: &'static str,
    /// Its size.
    pub(crate) plan: Plan,
    /// One client does not read.
    pub(crate) slow_reader: bool,
    /// Changes, churn and failure are measured, too.
    pub(crate) changes: bool,
    /// Ours is measured with one processor, too.
    pub(crate) pinned: bool,
}

/// So many that more than one processor should help.
const MANY: usize = 5000;

const fn plan(clients: usize, prefixes: usize, per_set: usize) -> Plan {
    Plan { clients, prefixes, per_set }
}

const fn scenario(name: &'static str, plan: Plan, slow_reader: bool, changes: bool) -> Scenario {
    Scenario { name, plan, slow_reader, changes, pinned: plan.clients >= MANY }
}

/// The scenarios of the table.
pub(crate) const FULL: &[Scenario] = &[
    scenario("1,000 clients x 1", plan(1000, 1, 1), false, true),
    scenario("5,000 clients x 1", plan(5000, 1, 1), false, false),
    scenario("500 clients x 20", plan(500, 20, 1), false, false),
    scenario("10 clients x 50,000", plan(10, 50_000, 5), false, false),
    scenario("slow reader of 1,000", plan(1000, 1, 1), true, false),
];

/// The same in small.
pub(crate) const QUICK: &[Scenario] = &[
    scenario("30 clients x 1", plan(30, 1, 1), false, true),
    scenario("10 clients x 20", plan(10, 20, 1), false, false),
    scenario("3 clients x 500", plan(3, 500, 5), false, false),
    scenario("slow reader of 20", plan(20, 50, 1), true, false),
];

/// What was measured. Times in seconds unless said otherwise; absent is not measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// From the first SYN until every session is up.
    pub(crate) sessions: Option<f64>,
    /// Connections refused or ended before the session was up.
    pub(crate) refused: Option<f64>,
    /// From the first announcement until every client has everything.
    pub(crate) convergence: Option<f64>,
    /// One change at a time until everybody has it, in milliseconds.
    pub(crate) single_p50: Option<f64>,
    pub(crate) single_p99: Option<f64>,
    /// The same while 100 changes a second go on.
    pub(crate) churn_p50: Option<f64>,
    pub(crate) churn_p99: Option<f64>,
    /// From a client's crash until everybody knows, in milliseconds.
    pub(crate) failure: Option<f64>,
    /// A round of everybody changing everything, without and with a client that does not read: medians.
    pub(crate) round: Option<f64>,
    pub(crate) round_slow: Option<f64>,
    /// Changes that the slow client had not been told when everybody else had been told all.
    pub(crate) slow_behind: Option<f64>,
    /// From the slow client's first read until it has everything.
    pub(crate) slow_done: Option<f64>,
    /// Peak resident memory, MiB.
    pub(crate) peak_mib: Option<f64>,
    /// Processor time of the convergence: the reflector's, the generator's.
    pub(crate) cpu: Option<f64>,
    pub(crate) cpu_generator: Option<f64>,
    /// Of it, the part of the reflector's thread that worked most: what more processors could not shorten.
    pub(crate) cpu_busiest: Option<f64>,
}

impl Figures {
    /// Every figure with its name.
    pub(crate) fn each(&mut self) -> [&mut Option<f64>; 16] {
        [
            &mut self.sessions,
            &mut self.refused,
            &mut self.convergence,
            &mut self.single_p50,
            &mut self.single_p99,
            &mut self.churn_p50,
            &mut self.churn_p99,
            &mut self.failure,
            &mut self.round,
            &mut self.round_slow,
            &mut self.slow_behind,
            &mut self.slow_done,
            &mut self.peak_mib,
            &mut self.cpu,
            &mut self.cpu_generator,
            &mut self.cpu_busiest,
        ]
    }
}

/// The value below which this share of the sorted values lies.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index, at most the length"
    )]
    let index = ((values.len() as f64 * share).ceil() as usize).max(1) - 1;
    values.get(index.min(values.len().saturating_sub(1))).copied()
}

/// The same of values that stay in their order; NaN where there are none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    percentile(&mut values.to_vec(), share).unwrap_or(f64::NAN)
}

/// Runs a scenario against a subject. What was measured before something went wrong is kept in `figures`.
///
/// # Errors
/// The subject did not start, did not finish in time, or told a client something wrong.
pub(crate) fn run(scenario: &Scenario, subject: Subject, figures: &mut Figures) -> Result<()> {
    let (lab, folder) = (Lab::new()?, Folder::new()?);
    let running = subject.start(&lab, &scenario.plan, folder.path())?;
    let outcome = lab.clients.run(|| Run { scenario, running: &running, figures }.run())?;
    figures.peak_mib = Some(process::peak_kib(running.group()) as f64 / 1024.0);
    outcome.with_context(|| match running.last_words() {
        words if words.is_empty() => "it printed nothing".to_owned(),
        words => format!("it printed: {words}"),
    })
}

struct Run<'a> {
    scenario: &'a Scenario,
    running: &'a Running,
    figures: &'a mut Figures,
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Fails when not everybody has everything in time.
fn complete(swarm: &mut Swarm) -> Result<()> {
    if swarm.run(Instant::now() + LIMIT, |swarm| swarm.state.is_complete())? {
        return Ok(());
    }
    bail!("not in {} s: {}", LIMIT.as_secs(), swarm.state.missing())
}

fn pause(swarm: &mut Swarm, time: Duration) -> Result<()> {
    swarm.run(Instant::now() + time, |_| false).map(drop)
}

impl Run<'_> {
    fn run(&mut self) -> Result<()> {
        let mut swarm = Swarm::new(self.scenario.plan)?;
        self.sessions(&mut swarm)?;
        pause(&mut swarm, CALM)?;
        let slow = self.scenario.slow_reader;
        self.convergence(&mut swarm)?;
        pause(&mut swarm, CALM)?;
        if slow {
            return self.slow_reader(&mut swarm);
        }
        let quick = self.figures.convergence.is_some_and(|time| time < PATIENT.as_secs_f64());
        if self.scenario.changes && quick {
            self.single(&mut swarm)?;
            self.churn(&mut swarm)?;
            self.failure(&mut swarm)?;
        }
        Ok(())
    }

    fn sessions(&mut self, swarm: &mut Swarm) -> Result<()> {
        let all = self.scenario.plan.clients;
        let start = Instant::now();
        swarm.connect_all()?;
        let up = swarm.run(start + LIMIT, |swarm| swarm.established() == all)?;
        self.figures.refused = Some(swarm.refused as f64);
        if up {
            self.figures.sessions = Some(start.elapsed().as_secs_f64());
        } else if !swarm.run(start + LATE, |swarm| swarm.established() == all)? {
            bail!("{} of {all} sessions after {} s", swarm.established(), LATE.as_secs());
        }
        Ok(())
    }

    fn convergence(&mut self, swarm: &mut Swarm) -> Result<()> {
        let plan = self.scenario.plan;
        let mut messages = Vec::new();
        for client in 0..plan.clients {
            messages.push(plan.announcement(plan.own(client), 1)?);
        }
        for route in 0..plan.routes() {
            swarm.state.change(route);
        }
        swarm.settle();
        let group = self.running.group();
        let (cpu, own, threads) = (process::cpu(group), process::own_cpu(), process::Threads::of(group));
        let start = Instant::now();
        for (client, message) in messages.iter().enumerate() {
            swarm.send(client, message)?;
        }
        let outcome = complete(swarm);
        let time = start.elapsed();
        let busiest = process::Threads::of(group).busiest_since(&threads);
        let (cpu, own) = (process::cpu(group).saturating_sub(cpu), process::own_cpu().saturating_sub(own));
        self.figures.cpu = Some(cpu.as_secs_f64());
        self.figures.cpu_generator = Some(own.as_secs_f64());
        self.figures.cpu_busiest = Some(busiest.as_secs_f64());
        outcome?;
        self.figures.convergence = Some(time.as_secs_f64());
        Ok(())
    }

    /// A route that differs from call to call, spread over all.
    fn some_route(&self, turn: usize) -> usize {
        (turn * 7919 + 13) % self.scenario.plan.routes()
    }

    fn change(swarm: &mut Swarm, plan: &Plan, route: usize) -> Result<Instant> {
        let version = swarm.state.change(route);
        let message = plan.announcement(route..route + 1, version)?;
        let start = Instant::now();
        swarm.send(plan.owner(route), &message)?;
        Ok(start)
    }

    fn single(&mut self, swarm: &mut Swarm) -> Result<()> {
        let plan = self.scenario.plan;
        let mut times = Vec::new();
        for turn in 0..SINGLE {
            swarm.settle();
            let start = Self::change(swarm, &plan, self.some_route(turn))?;
            complete(swarm)?;
            let done = swarm.state.done.last().map_or_else(Instant::now, |(_, at)| *at);
            times.push(ms(done.duration_since(start)));
            pause(swarm, Duration::from_millis(20))?;
        }
        self.figures.single_p50 = percentile(&mut times, 0.5);
        self.figures.single_p99 = percentile(&mut times, 0.99);
        Ok(())
    }

    fn churn(&mut self, swarm: &mut Swarm) -> Result<()> {
        let plan = self.scenario.plan;
        swarm.settle();
        let (mut sent, mut times) = (Vec::new(), Vec::new());
        let start = Instant::now();
        for turn in 0..CHURN {
            // No route changes twice here: each change can be waited for.
            let route = turn * plan.routes().div_ceil(CHURN) % plan.routes();
            if sent.iter().all(|(other, _)| *other != route) {
                sent.push((route, Self::change(swarm, &plan, route)?));
            }
            let next = u32::try_from(turn + 1)?;
            swarm.run(start + CHURN_EVERY * next, |_| false)?;
        }
        complete(swarm)?;
        for (route, at) in sent {
            let done = swarm.state.done.iter().rev().find(|(other, _)| *other == route);
            let (_, done) = done.with_context(|| format!("{} was never complete", plan.prefix(route)))?;
            times.push(ms(done.duration_since(at)));
        }
        self.figures.churn_p50 = percentile(&mut times, 0.5);
        self.figures.churn_p99 = percentile(&mut times, 0.99);
        Ok(())
    }

    fn failure(&mut self, swarm: &mut Swarm) -> Result<()> {
        let plan = self.scenario.plan;
        swarm.settle();
        let victim = plan.clients / 2;
        swarm.state.ignore(victim);
        plan.own(victim).for_each(|route| swarm.state.withdraw(route));
        let start = Instant::now();
        swarm.crash(victim)?;
        complete(swarm)?;
        self.figures.failure = Some(ms(start.elapsed()));
        Ok(())
    }

    /// Everybody changes everything; returns how long it takes until the others know.
    fn round(swarm: &mut Swarm, plan: &Plan) -> Result<f64> {
        swarm.settle();
        let mut messages = Vec::new();
        for client in 0..plan.clients {
            let versions: Vec<u8> = plan.own(client).map(|route| swarm.state.change(route)).collect();
            let version = versions.first().copied().unwrap_or(1);
            messages.push(plan.announcement(plan.own(client), version)?);
        }
        let start = Instant::now();
        for (client, message) in messages.iter().enumerate() {
            swarm.send(client, message)?;
        }
        complete(swarm)?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn slow_reader(&mut self, swarm: &mut Swarm) -> Result<()> {
        let plan = self.scenario.plan;
        let slow = 0;
        let measure = |swarm: &mut Swarm, rounds: usize| -> Result<Vec<f64>> {
            let start = Instant::now();
            let mut times = Vec::new();
            while times.len() < rounds && start.elapsed() < PATIENT {
                times.push(Self::round(swarm, &plan)?);
            }
            Ok(times)
        };
        let mut before = measure(swarm, ROUNDS / 4)?;
        self.figures.round = percentile(&mut before, 0.5);
        swarm.settle();
        swarm.state.ignore(slow);
        swarm.set_reading(slow, false)?;
        let mut during = measure(swarm, ROUNDS)?;
        self.figures.round_slow = percentile(&mut during, 0.5);
        self.figures.slow_behind = Some(swarm.state.behind(slow) as f64);
        let start = Instant::now();
        swarm.forget_log();
        swarm.set_reading(slow, true)?;
        if !swarm.run(start + LIMIT, |swarm| swarm.state.has_all(slow))? {
            bail!("the slow reader does not have everything {} s after it began to read", LIMIT.as_secs());
        }
        self.figures.slow_done = Some(start.elapsed().as_secs_f64());
        if !swarm.is_up(slow) {
            bail!("the slow reader's session is down");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(super::percentile(&mut values, 0.5), Some(3.0));
        assert_eq!(super::percentile(&mut values, 0.99), Some(5.0));
        assert_eq!(super::percentile(&mut [], 0.5), None);
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|part| super::quantile(&values, part)), [50.0, 99.0, 100.0]);
        assert_eq!(super::quantile(&[7.0], 0.5), 7.0);
    }
}
