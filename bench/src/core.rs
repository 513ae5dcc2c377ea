//! The speaker alone, in one thread and without sockets: what its table and its encoding cost. Instructions are counted
//! best by `valgrind --tool=callgrind`, which other work on the machine does not disturb.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::{Bytes, BytesMut};
use margay_bgp::wire::{AfiSafi, Capability, Message, Open, UpdateEncoder};
use margay_bgp::{ConnId, Input, Output, PeerConfig, PeerKind, Speaker, SpeakerConfig, Time};

use crate::plan::{AS, Plan, REFLECTOR, SESSION};
use crate::process;

/// Octets that come in at once.
const READ: usize = 16 << 10;
/// Virtual time that taking them in takes.
const STEP: Duration = Duration::from_millis(1);
/// Until the last batch has gone out.
const REST: Duration = Duration::from_millis(100);

/// Sizes.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Flags {
    /// Clients
    #[arg(long, default_value_t = 10)]
    clients: usize,
    /// Prefixes of each
    #[arg(long, default_value_t = 50_000)]
    prefixes: usize,
    /// Prefixes that share their attributes
    #[arg(long, default_value_t = 5)]
    per_set: usize,
}

struct Core {
    speaker: Speaker,
    now: Time,
    /// Octets sent by connection.
    sent: BTreeMap<ConnId, usize>,
}

impl Core {
    fn input(&mut self, input: Input) {
        self.speaker.handle(self.now, input);
        while let Some(output) = self.speaker.poll_output() {
            if let Output::Write { conn, data } = output {
                *self.sent.entry(conn).or_default() += data.len();
                self.speaker.handle(self.now, Input::Written { conn, bytes: data.len() });
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        if self.speaker.next_deadline().is_some_and(|at| at <= self.now) {
            self.input(Input::Tick);
        }
    }

    fn received(&mut self, client: usize, data: Bytes) {
        self.input(Input::Received { conn: conn(client), data });
    }
}

fn conn(client: usize) -> ConnId {
    ConnId::accepted(client as u64)
}

/// What a client says until its session is up.
fn hello(client: usize) -> Result<Bytes> {
    let capabilities = vec![Capability::MultiProtocol(AfiSafi::Ipv4Unicast), Capability::FourOctetAs(AS)];
    let mut out = BytesMut::new();
    Message::Open(Open::new(AS, 180, Plan::address(client), capabilities)).encode(&SESSION, &mut out)?;
    Message::Keepalive.encode(&SESSION, &mut out)?;
    UpdateEncoder::new(SESSION).end_of_rib(AfiSafi::Ipv4Unicast, &mut out);
    Ok(out.freeze())
}

/// Runs a plan once and prints what it cost.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    let plan = Plan { clients: flags.clients, prefixes: flags.prefixes, per_set: flags.per_set };
    let mut queues = Vec::new();
    for client in 0..plan.clients {
        queues.push(Bytes::from(plan.announcement(plan.own(client), 1)?));
    }
    let config = SpeakerConfig { report_routes: false, ..SpeakerConfig::new(REFLECTOR, AS) };
    let mut core = Core { speaker: Speaker::new(config, Time::ZERO), now: Time::ZERO, sent: BTreeMap::new() };
    core.input(Input::SetOriginated(Vec::new()));
    let peer = |client| {
        let config = PeerConfig::new(Plan::address(client).into(), AS, PeerKind::InternalClient);
        PeerConfig { passive: true, ..config }.into()
    };
    core.input(Input::SetPeers((0..plan.clients).map(peer).collect()));
    for client in 0..plan.clients {
        let (remote, local) = ((Plan::address(client), 1024).into(), (REFLECTOR, 179).into());
        core.input(Input::Accepted { conn: conn(client), remote, local });
        core.received(client, hello(client)?);
    }
    core.pass(REST);
    let memory = process::current_kib();
    let start = Instant::now();
    while queues.iter().any(|queue| !queue.is_empty()) {
        for (client, queue) in queues.iter_mut().enumerate() {
            let some = queue.split_to(READ.min(queue.len()));
            // A copy, as one comes from a socket.
            core.received(client, Bytes::copy_from_slice(&some));
            core.pass(STEP);
        }
    }
    core.pass(REST);
    let time = start.elapsed();
    let kept = process::current_kib().saturating_sub(memory);
    let status = core.speaker.peers();
    let held: u64 = status.iter().flat_map(|peer| &peer.families).map(|family| family.received).sum();
    ensure!(held == plan.routes() as u64, "{held} of {} routes arrived", plan.routes());
    let sent = core.sent.get(&conn(0)).copied().unwrap_or(0);
    println!(
        "{} clients x {}: {:.3} s, {:.0} routes/s, {:.1} MiB more than before, {:.1} MiB sent to each",
        plan.clients,
        plan.prefixes,
        time.as_secs_f64(),
        plan.routes() as f64 / time.as_secs_f64(),
        kept as f64 / 1024.0,
        sent as f64 / 1_048_576.0
    );
    Ok(())
}
