//! Configuration of the reflector: `/etc/margay/route-reflector.yaml`, overridden by `MARGAY_*`, overridden by flags.

use std::net::Ipv4Addr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use margay_daemon::config::{self, Common, ConfigError};
use margay_daemon::topology::{ListenRange, ListenRanges};

/// Where the configuration is unless told otherwise.
const DEFAULT_FILE: &str = "/etc/margay/route-reflector.yaml";

/// Shorter than the 30 s that Kubernetes leaves a pod to stop.
const DRAIN_SECONDS: u16 = 10;

margay_daemon::keys! {
    /// The keys of flags, environment and file.
    struct Keys {
        /// Cluster id (RFC 4456); of reflectors with the same one a node peers with all or none [default: its address]
        #[arg(long, env = "MARGAY_CLUSTER_ID", value_name = "A.B.C.D")]
        cluster_id: Ipv4Addr,
        /// How long to wait for another reflector to serve before leaving, in seconds
        #[arg(long, env = "MARGAY_DRAIN_SECONDS", value_name = "SECONDS")]
        drain_seconds: u16,
        #[arg(skip)]
        listen_ranges: ListenRanges,
    }
}

/// Margay's route reflector: tells every node the other nodes' blocks, over iBGP.
#[derive(Debug, Parser)]
#[command(name = "margay-route-reflector", version)]
struct Flags {
    /// Configuration file
    #[arg(long, env = "MARGAY_ROUTE_REFLECTOR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and leave
    #[arg(long)]
    check_config: bool,
    /// Let the running reflector be replaced by the program at its path, without a session noticing, and leave
    #[arg(long, conflicts_with = "check_config")]
    upgrade: bool,
    /// Take over from the process at standard input, which is how an upgrade begins
    #[arg(long, hide = true)]
    take_over: bool,
    #[command(flatten)]
    keys: Keys,
}

/// What the process is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Reflect.
    Serve,
    /// Reflect, in place of the process that started this one.
    TakeOver,
    /// Ask the running process to start its successor.
    Upgrade,
}

/// The configuration in force.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// What all daemons have.
    common: Common,
    pub(crate) task: Task,
    /// Cluster id; absent: its BGP identifier.
    pub(crate) cluster_id: Option<Ipv4Addr>,
    /// Longest wait for another reflector when this one is stopped.
    pub(crate) drain: Duration,
    /// Neighbours that no object names.
    pub(crate) ranges: Vec<ListenRange>,
    file: PathBuf,
}

impl Deref for Config {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

impl Config {
    /// Of this process; none if it was only to be checked.
    pub(crate) fn of_process() -> Result<Option<Self>, ConfigError> {
        let flags = Flags::parse();
        let check = flags.check_config;
        Ok(Some(Self::load(flags)?).filter(|_| !check))
    }

    /// Joins flags, environment (both in `flags`) and file.
    fn load(flags: Flags) -> Result<Self, ConfigError> {
        let task = match (flags.upgrade, flags.take_over) {
            (true, _) => Task::Upgrade,
            (false, true) => Task::TakeOver,
            (false, false) => Task::Serve,
        };
        let path = flags.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        let file: Keys = config::load(path, flags.config.is_some())?;
        let ranges = file.listen_ranges.clone().unwrap_or_default().0;
        let keys = flags.keys.over(file);
        let common = keys.common(margay_control::REFLECTOR_SOCKET)?;
        if common.ipv4_address.is_none() && common.ipv6_address.is_none() {
            let hint = "a reflector must say where nodes reach it: set ipv4Address or ipv6Address";
            return Err(ConfigError::Value(hint.to_owned()));
        }
        Ok(Self {
            common,
            task,
            cluster_id: keys.cluster_id,
            drain: Duration::from_secs(keys.drain_seconds.unwrap_or(DRAIN_SECONDS).into()),
            ranges,
            file: path.to_owned(),
        })
    }

    /// The ranges as the file has them now; nothing else of it counts before a restart. Those in force if there is no
    /// file any more.
    pub(crate) fn ranges_now(&self) -> Result<Vec<ListenRange>, ConfigError> {
        match config::load::<Keys>(&self.file, true) {
            Ok(keys) => Ok(keys.listen_ranges.unwrap_or_default().0),
            Err(ConfigError::Read { .. }) => Ok(self.ranges.clone()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key, place, unit and range.
    #[test]
    fn a_wrong_value_is_told_what_is_wanted() {
        let path = std::env::temp_dir().join(format!("margay-rr-config-{}.yaml", std::process::id()));
        let range = "listenRanges:\n  - prefix: 192.0.2.128/25\n    ";
        let cases = [
            (
                "drainSeconds: abc",
                "line 2: `drainSeconds` must be a whole number of seconds, from 0 to 65535, not `abc`",
            ),
            ("drainSeconds: 70000 # long", "a whole number of seconds, from 0 to 65535, not `70000`"),
            ("drainSeconds: -1", "from 0 to 65535, not `-1`"),
            ("drainSeconds: 10s", "not `10s`"),
            ("clusterId: 7", "line 2: `clusterId` must be an IPv4 address, as 192.0.2.1, not `7`"),
            ("peerMetrics: maybe", "line 2: `peerMetrics` must be true or false, not `maybe`"),
            ("metricsListen: 9180", "`metricsListen` must be an address and a port, as 192.0.2.1:9180"),
            ("node: [a]", "line 2: `node` must be a text, not `[a]`"),
            ("listenRanges: 5", "line 2: `listenRanges` must be a list, not `5`"),
            (&format!("{range}maxPeers: x"), "line 4: `maxPeers` must be a whole number, 1 or more, not `x`"),
            (
                &format!("{range}maxPrefixes: x"),
                "line 4: `maxPrefixes` must be a whole number, from 1 to 4294967295",
            ),
            (
                &format!("{range}ttlSecurity: 256"),
                "line 4: `ttlSecurity` must be a whole number, from 1 to 255",
            ),
            (&format!("{range}client: x"), "line 4: `client` must be true or false"),
            ("listenRanges:\n  - prefix: here", "line 3: `prefix` must be a prefix, as 192.0.2.128/25"),
            ("bmp:\n  - address: here", "line 3: `address` must be an address and a port"),
            (
                "bmp:\n  - address: 192.0.2.1:1\n    bufferKib: x",
                "a whole number of KiB, from 512 to 4294967295",
            ),
            ("mrtLog:\n  path: /x\n  files: none", "line 4: `files` must be a whole number, from 1 to 65535"),
            (
                "datastore:\n  type: embedded\n  path: /x\n  history: many",
                "line 5: `history` must be a whole number, from 1000 to 10000000, not `many`",
            ),
            (
                "datastore:\n  type: etcd\n  endpoints: ['http://192.0.2.1:2379']\n  timeoutMs: 5s",
                "line 5: `timeoutMs` must be a whole number of milliseconds, from 100 to 600000, not `5s`",
            ),
            // These say it themselves.
            ("ipv4Address: 192.0.2.21", "as 192.0.2.7/24"),
            ("logFormat: xml", "expected one of text, json"),
            ("logLevel: loud", "error, warn, info"),
            ("drainSecond: 1", "drainSeconds"),
        ];
        let said: Vec<(&str, &str, String)> = cases
            .iter()
            .map(|(text, wanted)| {
                std::fs::write(&path, format!("ipv6Address: 2001:db8::21/64\n{text}\n")).unwrap();
                let flags = Flags::parse_from([
                    "margay-route-reflector".as_ref(),
                    "--config".as_ref(),
                    path.as_os_str(),
                ]);
                (*text, *wanted, Config::load(flags).unwrap_err().to_string())
            })
            .collect();
        std::fs::remove_file(&path).unwrap();
        for (text, wanted, said) in said {
            let place = said.contains("margay-rr-config") || text.starts_with("logLevel");
            assert!(said.contains(wanted) && place, "{text}: {said}");
        }
    }
}
