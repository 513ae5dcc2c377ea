//! A BGP speaker that is not ours: what a scenario wants of it, and the one that runs.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use margay_lab::Process;
use margay_netlink::Netns;
use margay_tests::cluster::wait;
use margay_tests::foreign::root;

use crate::lab::{self, AS, Bench, FOREIGN, INTERFACE, PATIENCE, PROXY, ROUTER_AS, Transport};

/// What the foreign speaker is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Client of our reflector.
    Client,
    /// Reflector of our nodes.
    Reflector,
    /// Router of another AS, next to our node.
    Router,
}

/// What a daemon may be unable to do. Every one is a step of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ability {
    /// Pass on the routes of one peer to another.
    PassOn,
    /// Keep our routes while we restart (RFC 4724's receiving speaker).
    KeepOurs,
    /// Say before it restarts that its routes may be kept (RFC 4724's restarting speaker).
    BeKept,
    /// Send its routes again when asked (RFC 2918).
    SendAgain,
    /// Ask us for our routes again (RFC 2918).
    AskAgain,
    /// Accept a connection with a key (RFC 2385) after an earlier session with it has ended.
    KeepKeys,
    /// Have sessions between link-local addresses, and IPv4 prefixes with IPv6 next hops (RFC 8950) on them.
    LinkLocal,
    /// Go on with the session when one of our UPDATEs is malformed (RFC 7606).
    TreatAsWithdraw,
}

/// How a daemon is configured.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) role: Role,
    pub(crate) transport: Transport,
    /// Our speakers it has sessions with.
    pub(crate) neighbors: Vec<u8>,
    /// Whether the sessions have a key.
    pub(crate) password: bool,
}

impl Plan {
    pub(crate) fn asn(&self) -> u32 {
        if self.role == Role::Router { ROUTER_AS } else { AS }
    }

    pub(crate) fn own(&self) -> IpAddr {
        lab::address(self.transport, FOREIGN)
    }

    /// The interface of a link-local session.
    pub(crate) fn interface(&self) -> Option<&'static str> {
        (self.transport == Transport::Link).then_some(INTERFACE)
    }

    /// Whether it waits for us to dial: it could not tell the proxy from us.
    pub(crate) fn passive(&self) -> bool {
        self.neighbors.contains(&PROXY)
    }

    pub(crate) fn neighbors(&self) -> impl Iterator<Item = (u8, IpAddr)> + '_ {
        self.neighbors.iter().map(|last| (*last, lab::address(self.transport, *last)))
    }
}

/// The foreign speaker's prefixes, next hop itself, community AS:9.
pub(crate) fn theirs(transport: Transport) -> IpNet {
    match transport {
        Transport::V4 => IpNet::new_assert(Ipv4Addr::new(10, 50, 0, 0).into(), 24),
        Transport::V6 | Transport::Link => {
            IpNet::new_assert(std::net::Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 0).into(), 64)
        }
    }
}

/// Another one, which it can withdraw and announce again.
pub(crate) fn passing(transport: Transport) -> IpNet {
    match transport {
        Transport::V4 => IpNet::new_assert(Ipv4Addr::new(10, 50, 1, 0).into(), 24),
        Transport::V6 | Transport::Link => {
            IpNet::new_assert(std::net::Ipv6Addr::new(0xfd00, 0x50, 1, 0, 0, 0, 0, 0).into(), 64)
        }
    }
}

/// What it announces of a family at first.
pub(crate) fn announced(transport: Transport) -> [IpNet; 2] {
    [theirs(transport), passing(transport)]
}

/// A prefix that two of our nodes announce.
pub(crate) fn twice() -> IpNet {
    IpNet::new_assert(Ipv4Addr::new(10, 77, 0, 0).into(), 24)
}

/// A route as the daemon shows it; what its tool doesn't show is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) next_hop: Option<IpAddr>,
    pub(crate) as_path: Vec<u32>,
    pub(crate) local_pref: Option<u32>,
    pub(crate) originator: Option<Ipv4Addr>,
    pub(crate) clusters: Vec<Ipv4Addr>,
    pub(crate) communities: BTreeSet<String>,
}

/// One implementation.
pub(crate) trait Daemon: Sync {
    /// Its name, and what its programs are.
    fn name(&self) -> &'static str;

    /// The programs it needs.
    fn programs(&self) -> &'static [&'static str];

    /// Its version, as it says.
    fn version(&self) -> [&'static str; 2];

    /// What it can't do, and why.
    fn cannot(&self) -> &'static [(Ability, &'static str)];

    /// Writes its configuration: sessions with `plan`'s neighbours, both families on each, graceful restart, several
    /// paths sent and received where it can; prefixes [`theirs`] and [`passing`]. `recover`: it starts again after a crash.
    fn command(&self, host: &Host, plan: &Plan, recover: bool) -> Result<Command>;

    /// What has to be done once it runs.
    fn started(&self, _host: &Host, _plan: &Plan) -> Result<()> {
        Ok(())
    }

    /// Whether its session with a neighbour is up.
    fn established(&self, host: &Host, last: u8, neighbor: IpAddr) -> Result<bool>;

    /// Its paths to a prefix, and which of them is the best.
    fn paths(&self, host: &Host, prefix: IpNet) -> Result<Vec<(bool, Seen)>>;

    /// Whether it shows a LOCAL_PREF of its own for what another AS announces without one.
    fn invents_local_pref(&self) -> bool {
        false
    }

    /// Whether, as reflector, it shows ORIGINATOR_ID and CLUSTER_LIST on a route it has not reflected yet.
    fn stamps_on_receipt(&self) -> bool {
        false
    }

    /// Announces or withdraws a prefix, one of [`passing`].
    fn announce(&self, host: &Host, plan: &Plan, prefix: IpNet, up: bool) -> Result<()>;

    /// Asks a neighbour for its routes again.
    fn ask_again(&self, host: &Host, last: u8, neighbor: IpAddr) -> Result<()>;

    /// Makes it try again at once, where it waits for long after an error.
    fn retry(&self, _host: &Host, _neighbor: IpAddr) -> Result<()> {
        Ok(())
    }

    /// What it says about the end of the last session with a neighbour.
    fn last_error(&self, host: &Host, last: u8, neighbor: IpAddr) -> Result<String>;

    /// The words in [`last_error`](Self::last_error) for a NOTIFICATION of this code and subcode from us.
    fn words(&self, code: u8, subcode: u8) -> String;
}

/// Where a daemon runs.
pub(crate) struct Host {
    netns: Netns,
    /// Its files.
    pub(crate) folder: PathBuf,
}

impl Host {
    /// A program of the daemon, or a script that runs one.
    pub(crate) fn command(&self, path: impl AsRef<OsStr>) -> Command {
        margay_tests::foreign::command(path)
    }

    /// Writes a file of the daemon.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        Ok(path)
    }

    /// Runs one of its tools beside it; returns what that printed, whatever its exit status.
    pub(crate) fn ask(&self, command: &mut Command) -> Result<String> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let output = self.netns.spawn(command)?.wait_with_output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Whether a daemon can do something.
pub(crate) fn can(daemon: &dyn Daemon, ability: Ability) -> bool {
    daemon.cannot().iter().all(|(what, _)| *what != ability)
}

/// The programs that are not there.
pub(crate) fn missing(daemon: &dyn Daemon) -> Vec<&'static str> {
    let root = root().unwrap_or_else(|| PathBuf::from("/"));
    let there = |path: &&str| root.join(path.trim_start_matches('/')).symlink_metadata().is_ok();
    daemon.programs().iter().copied().filter(|path| !there(path)).collect()
}

/// What a daemon says its version is.
pub(crate) fn version(daemon: &dyn Daemon) -> Result<String> {
    let host = Host { netns: Netns::current()?, folder: PathBuf::new() };
    let [program, flag] = daemon.version();
    let output = host.command(program).arg(flag).output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let version = said.split(|at: char| at.is_whitespace() || at == ',');
    let version = version.filter(|word| word.contains('.') && word.contains(|at: char| at.is_ascii_digit()));
    Ok(version.take(1).collect::<String>())
}

/// A running daemon.
pub(crate) struct Foreign {
    pub(crate) daemon: &'static dyn Daemon,
    pub(crate) plan: Plan,
    host: Host,
    process: Option<Process>,
}

impl Foreign {
    pub(crate) fn start(daemon: &'static dyn Daemon, bench: &Bench, plan: Plan) -> Result<Self> {
        let host = Host { netns: bench.foreign()?.try_clone()?, folder: bench.folder.clone() };
        let mut foreign = Self { daemon, plan, host, process: None };
        foreign.run(false)?;
        Ok(foreign)
    }

    fn run(&mut self, recover: bool) -> Result<()> {
        let command = self.daemon.command(&self.host, &self.plan, recover)?;
        let log = self.host.folder.join("log");
        self.process = Some(Process::spawn(self.daemon.name(), &self.host.netns, command, &log)?);
        self.daemon.started(&self.host, &self.plan)
    }

    /// Whether it can do something.
    pub(crate) fn can(&self, ability: Ability) -> bool {
        can(self.daemon, ability)
    }

    /// Ends it as a crash does.
    pub(crate) fn crash(&mut self) -> Result<()> {
        self.process.take().context("not running")?.kill()?;
        Ok(())
    }

    /// Starts it again after a crash.
    pub(crate) fn recover(&mut self) -> Result<()> {
        self.run(true)
    }

    pub(crate) fn announce(&self, prefix: IpNet, up: bool) -> Result<()> {
        self.daemon.announce(&self.host, &self.plan, prefix, up)
    }

    pub(crate) fn ask_again(&self, last: u8) -> Result<()> {
        self.daemon.ask_again(&self.host, last, lab::address(self.plan.transport, last))
    }

    pub(crate) fn retry(&self, last: u8) -> Result<()> {
        self.daemon.retry(&self.host, lab::address(self.plan.transport, last))
    }

    pub(crate) fn last_error(&self, last: u8) -> Result<String> {
        self.daemon.last_error(&self.host, last, lab::address(self.plan.transport, last))
    }

    pub(crate) fn is_established(&self, last: u8) -> Result<bool> {
        self.daemon.established(&self.host, last, lab::address(self.plan.transport, last))
    }

    pub(crate) fn established(&self, last: u8, up: bool) -> Result<()> {
        wait(PATIENCE, || Ok(self.is_established(last)? == up))
            .with_context(|| format!("its session with {last} should {}be up", if up { "" } else { "not " }))
    }

    /// The best route it has now.
    pub(crate) fn route_now(&self, prefix: IpNet) -> Result<Option<Seen>> {
        let paths = self.daemon.paths(&self.host, prefix)?;
        let best = paths.into_iter().find(|(best, _)| *best);
        Ok(best.map(|(_, seen)| self.adjusted(seen)))
    }

    /// Waits until it has these paths and no other.
    pub(crate) fn paths(&self, prefix: IpNet, want: &[Seen], what: &str) -> Result<()> {
        let mut last = Vec::new();
        let outcome = wait(PATIENCE, || {
            pause();
            let paths = self.daemon.paths(&self.host, prefix)?;
            last = paths.into_iter().map(|(_, seen)| self.adjusted(seen)).collect();
            Ok(last.len() == want.len() && want.iter().all(|want| last.contains(want)))
        });
        outcome.with_context(|| format!("{what}: {prefix} should be {want:#?}, is {last:#?}"))
    }

    /// Without what only its tool shows, or calls otherwise.
    fn adjusted(&self, mut seen: Seen) -> Seen {
        if self.plan.role == Role::Router && self.daemon.invents_local_pref() {
            seen.local_pref = None;
        }
        if self.plan.role == Role::Reflector && self.daemon.stamps_on_receipt() {
            (seen.originator, seen.clusters) = (None, Vec::new());
        }
        // Some tools have a name for RFC 8326's.
        if seen.communities.remove("graceful-shutdown") || seen.communities.remove("GRACEFUL_SHUTDOWN") {
            seen.communities.insert("65535:0".to_owned());
        }
        seen
    }

    /// Waits until it has this route.
    pub(crate) fn route(&self, prefix: IpNet, want: &Seen, what: &str) -> Result<()> {
        let mut last = None;
        let outcome = wait(PATIENCE, || {
            pause();
            last = self.route_now(prefix)?;
            Ok(last.as_ref() == Some(want))
        });
        outcome.with_context(|| format!("{what}: {prefix} should be {want:#?}, is {last:#?}"))
    }

    /// Waits until it has no route.
    pub(crate) fn no_route(&self, prefix: IpNet, what: &str) -> Result<()> {
        let mut last = None;
        let outcome = wait(PATIENCE, || {
            pause();
            last = self.route_now(prefix)?;
            Ok(last.is_none())
        });
        outcome.with_context(|| format!("{what}: {prefix} is still there: {last:#?}"))
    }
}

/// Between two executions of a tool.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(40));
}

/// Waits until a daemon's tool answers.
pub(crate) fn answers(host: &Host, mut command: impl FnMut() -> Command, word: &str) -> Result<()> {
    let mut said = String::new();
    wait(PATIENCE, || {
        pause();
        said = host.ask(&mut command())?;
        Ok(said.contains(word))
    })
    .with_context(|| format!("no `{word}` in: {said}"))
}

/// Fails unless something holds.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, want: &T) -> Result<()> {
    ensure!(got == want, "{what}: {got:?} instead of {want:?}");
    Ok(())
}
