//! What goes wrong when the kernel is written.

use std::path::PathBuf;
use std::time::Duration;

use margay_netlink::ipset::IpsetError;

use crate::rules::Family;

/// Cause of a failed attempt.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The program is not installed.
    #[error("no {program} in {path}: install the package {package}")]
    MissingProgram {
        /// What was looked for.
        program: String,
        /// What it is in.
        package: &'static str,
        /// Where.
        path: String,
    },
    /// A program could not be started.
    #[error("can't execute {}: {source}", program.display())]
    Execute {
        /// Which.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A program reported failure.
    #[error("{} failed ({status}): {stderr}{}", program.display(), line.as_ref().map(|l| format!(" (line: {l})")).unwrap_or_default())]
    Program {
        /// Which.
        program: PathBuf,
        /// Exit status in words.
        status: String,
        /// What it said, shortened.
        stderr: String,
        /// The line of its input that it complained about.
        line: Option<String>,
    },
    /// A program did not end.
    #[error("{} hangs: ended after {patience:?} (is another program holding /run/xtables.lock?)", program.display())]
    Hung {
        /// Which.
        program: PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
    /// Sets over netlink.
    #[error(transparent)]
    Sets(#[from] IpsetError),
    /// Elements of nftables sets over netlink.
    #[error(transparent)]
    Elements(#[from] margay_netlink::Error),
    /// A set of ours has another type, and rules still refer to it.
    #[error(
        "set {name} exists with another type and is in use: remove the rules that refer to it (iptables-save | grep {name})"
    )]
    SetType {
        /// The kernel's name of the set.
        name: String,
    },
    /// A program said what can't be read.
    #[error("can't read the output of {}: {reason}", program.display())]
    Unreadable {
        /// Which.
        program: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A kind of set that the backend doesn't have.
    #[error("ip sets can't hold {name}, which maps to chains: this is a fault of Margay")]
    NoSuchSet {
        /// Name of the set.
        name: String,
    },
    /// Stopped by the caller's observer.
    #[error("stopped after step {0:?}")]
    Stopped(super::Step),
}

/// A failed attempt: the kernel is as far as it got, enforces what it did before or more, and is read again before
/// the next attempt.
#[derive(Debug, thiserror::Error)]
#[error("rules not applied (attempt {attempt}, next in {next_retry:?}): {source}")]
pub struct Failure {
    /// Cause.
    #[source]
    pub source: ApplyError,
    /// Failed attempts in a row.
    pub attempt: u32,
    /// How long to wait before [`super::Applier::retry`].
    pub next_retry: Duration,
}

/// First and longest pause between attempts.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Pause after the `attempt`th failure in a row, counted from 1.
pub(super) fn backoff(attempt: u32) -> Duration {
    let factor = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    RETRY.0.saturating_mul(factor).min(RETRY.1)
}

/// The family in the words of the programs' names.
pub(super) const fn program_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}
