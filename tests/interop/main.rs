//! Interoperability: every daemon in every role, over both address families, on real sockets. `README.md` beside this file
//! says which case shows what, and what is not asked of whom.
//!
//! The program executes itself again inside namespaces of its own, so that whatever it starts ends with it; inside,
//! the cases run side by side, each in a lab of its own. What a daemon can't do stands in its table ([`foreign::Daemon::cannot`])
//! and is printed with its reason. `INTEROP_ROOT=FOLDER` takes the programs from another system's root instead.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::indexing_slicing, reason = "tests")]

mod bird;
mod exabgp;
mod foreign;
mod frr;
mod gobgp;
mod lab;
mod malformed;
mod openbgpd;
mod proxy;
mod roles;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use margay_tests::sandbox::{self, Entered};

use crate::foreign::{Ability, Daemon};
use crate::lab::{BOTH, Bench, Transport};

const DAEMONS: [&dyn Daemon; 5] =
    [&bird::Bird, &frr::Frr, &gobgp::Gobgp, &openbgpd::Openbgpd, &exabgp::Exabgp];

type Scenario = fn(&'static dyn Daemon, &Bench) -> Result<()>;

const SCENARIOS: [(&str, Scenario, &[Transport]); 7] = [
    ("client", roles::client, &BOTH),
    ("reflector", roles::reflector, &BOTH),
    ("router", roles::router, &BOTH),
    ("link-local", roles::link_local, &[Transport::Link]),
    ("key", malformed::key, &BOTH),
    ("malformed-from-them", malformed::from_them, &BOTH),
    ("malformed-from-us", malformed::from_us, &BOTH),
];

/// Cases at the same time: they mostly wait for timers.
const AT_ONCE: usize = 8;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let required = std::env::var_os("TESTS_REQUIRE_ALL").is_some_and(|value| value == "1");
    let mut lacking = None;
    if !arguments.list {
        match sandbox::enter() {
            Ok(Entered::Done(code)) => return code,
            Ok(Entered::Inside(_)) => {
                if let Err(error) = margay_tests::foreign::open_root() {
                    eprintln!("{error:#}");
                    return ExitCode::FAILURE;
                }
            }
            Err(error) => {
                eprintln!("skipped: {error:#}");
                lacking = Some(error.to_string());
            }
        }
    }
    let mut trials = Vec::new();
    for daemon in DAEMONS {
        let missing = foreign::missing(daemon);
        let reason = lacking.clone().or_else(|| {
            (!missing.is_empty()).then(|| format!("{}: {} not there", daemon.name(), missing.join(", ")))
        });
        for (name, scenario, transports) in SCENARIOS {
            let possible =
                |over: &&Transport| **over != Transport::Link || foreign::can(daemon, Ability::LinkLocal);
            for transport in transports.iter().filter(possible).copied() {
                let family = if transport == Transport::V4 { "ipv4" } else { "ipv6" };
                let name = format!("{}::{name}::{family}", daemon.name());
                let reason = reason.clone();
                let folder = Path::new("/run/interop").join(&name);
                trials.push(Trial::ignorable_test(name, move || match reason {
                    Some(reason) if required => Err(Failed::from(reason)),
                    Some(reason) => Ok(Completion::ignored_with(reason)),
                    None => run(daemon, scenario, transport, &folder),
                }));
            }
        }
    }
    if !arguments.list
        && let Err(error) = tell()
    {
        eprintln!("{error:#}");
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(
    daemon: &'static dyn Daemon,
    scenario: Scenario,
    transport: Transport,
    folder: &Path,
) -> Result<Completion, Failed> {
    let outcome = Bench::build(transport, folder).and_then(|bench| scenario(daemon, &bench));
    let Err(error) = outcome else { return Ok(Completion::Completed) };
    let log = std::fs::read(folder.join("log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    let end = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n");
    Err(Failed::from(format!("{error:#}\nits log ends:\n{end}")))
}

/// Versions, and what isn't asked of whom.
fn tell() -> Result<()> {
    for daemon in DAEMONS.into_iter().filter(|daemon| foreign::missing(*daemon).is_empty()) {
        let version = foreign::version(daemon).with_context(|| format!("version of {}", daemon.name()))?;
        println!("{} {version}", daemon.name());
        for (ability, reason) in daemon.cannot() {
            println!("  not asked to {ability:?}: {reason}");
        }
    }
    Ok(())
}
