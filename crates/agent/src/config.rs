//! Configuration of the agent: `/etc/margay/agent.yaml`, overridden by `MARGAY_*`, overridden by flags.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use clap::Parser;
use margay_daemon::config::{self, Common, ConfigError};
use margay_daemon::speaker::DEFAULT_MAX_PATHS;
use margay_routing::Backend;

use crate::cleanup::Cleanup;

/// Where what must survive a restart is unless told otherwise.
const STATE_DIR: &str = "/var/lib/margay/agent";

/// Where what `nf_conntrack_tcp_loose` was is noted, while flows are cut.
fn loose_note(state_dir: &Path) -> PathBuf {
    state_dir.join("nf_conntrack_tcp_loose")
}

/// Where the configuration is unless told otherwise.
const DEFAULT_FILE: &str = "/etc/margay/agent.yaml";

margay_daemon::keys! {
    /// The keys of flags, environment and file.
    struct Keys {
        /// Folder for what must survive a restart
        #[arg(long, env = "MARGAY_STATE_DIR", value_name = "FOLDER")]
        state_dir: PathBuf,
        /// Folder where the CNI shim leaves releases while the agent is down
        #[arg(long, env = "MARGAY_SPOOL_DIR", value_name = "FOLDER")]
        spool_dir: PathBuf,
        /// Conflist to install once this node is ready for pods
        #[arg(long, env = "MARGAY_CNI_CONFLIST", value_name = "FILE")]
        cni_conflist: PathBuf,
        /// Folder where the container runtime looks for conflists
        #[arg(long, env = "MARGAY_CNI_CONF_DIR", value_name = "FOLDER")]
        cni_conf_dir: PathBuf,
        /// What brings packets to other nodes: bgp, vxlan or none
        #[arg(long, env = "MARGAY_BACKEND", value_name = "BACKEND")]
        backend: Backend,
        /// Most next hops of BGP that one route uses together, 1 to 64
        #[arg(long, env = "MARGAY_MAXIMUM_PATHS", value_name = "N")]
        maximum_paths: usize,
        /// Write the flow log (flowLogsLocalReporter) to this file too, one JSON object a line
        #[arg(long, env = "MARGAY_FLOW_LOG_FILE", value_name = "FILE")]
        flow_log_file: PathBuf,
        /// Cut established flows that a change of policy denies
        #[arg(long, env = "MARGAY_CUT_DENIED_FLOWS", value_name = "BOOL")]
        cut_denied_flows: bool,
    }
}

/// Margay's agent: BGP speaker, policy engine, routes, IPAM and CNI server of one node.
#[derive(Debug, Parser)]
#[command(name = "margay-agent", version)]
pub(crate) struct Flags {
    /// Configuration file
    #[arg(long, env = "MARGAY_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and leave
    #[arg(long)]
    check_config: bool,
    /// Remove everything of Margay's from the kernel and leave (the agent has to be stopped)
    #[arg(long)]
    cleanup: bool,
    /// With --cleanup: the pods' interfaces too
    #[arg(long, requires = "cleanup")]
    pods: bool,
    /// With --cleanup: only list what would be removed
    #[arg(long, requires = "cleanup")]
    dry_run: bool,
    #[command(flatten)]
    keys: Keys,
}

impl Flags {
    /// Of this process.
    pub(crate) fn of_process() -> Self {
        Self::parse()
    }

    /// What to clean up, if that is what was asked for.
    pub(crate) fn cleanup(&self) -> Option<Cleanup> {
        self.cleanup.then(|| {
            let path = self.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
            // It is cleaned up after an agent whose configuration is gone, too.
            let file = || config::load::<Keys>(path, false).ok()?.state_dir;
            let state_dir = self.keys.state_dir.clone().or_else(file).unwrap_or_else(|| STATE_DIR.into());
            Cleanup { pods: self.pods, dry_run: self.dry_run, loose_note: loose_note(&state_dir) }
        })
    }
}

/// The configuration in force.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// What all daemons have. Without addresses, those of the Node object are used, else one is detected.
    common: Common,
    /// Journal of addresses and attachments.
    pub(crate) state_dir: PathBuf,
    /// Releases left by the shim.
    pub(crate) spool_dir: PathBuf,
    /// A conflist that is to be installed, and the folder it is to be in.
    pub(crate) conflist: Option<(PathBuf, PathBuf)>,
    /// What brings packets to other nodes.
    pub(crate) backend: Backend,
    /// Most next hops of a route.
    pub(crate) maximum_paths: usize,
    /// Where the flow log is written to while it is on.
    pub(crate) flow_log_file: Option<PathBuf>,
    /// A change of policy reaches established flows too.
    pub(crate) cut_denied_flows: bool,
}

impl Deref for Config {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

impl Config {
    /// What the flags ask for; none if it was only to be checked.
    pub(crate) fn of(flags: Flags) -> Result<Option<Self>, ConfigError> {
        let check = flags.check_config;
        Ok(Some(Self::load(flags)?).filter(|_| !check))
    }

    /// See [`loose_note`].
    pub(crate) fn loose_note(&self) -> PathBuf {
        loose_note(&self.state_dir)
    }

    /// Joins flags, environment (both in `flags`) and file.
    fn load(flags: Flags) -> Result<Self, ConfigError> {
        let path = flags.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        let file: Keys = config::load(path, flags.config.is_some())?;
        let keys = flags.keys.over(file);
        let maximum_paths = keys.maximum_paths.unwrap_or(DEFAULT_MAX_PATHS);
        if !(1..=64).contains(&maximum_paths) {
            return Err(ConfigError::Value(format!("maximumPaths is {maximum_paths}: use 1 to 64")));
        }
        let conf_dir = keys.cni_conf_dir.clone().unwrap_or_else(|| "/etc/cni/net.d".into());
        Ok(Self {
            conflist: keys.cni_conflist.clone().map(|conflist| (conflist, conf_dir)),
            common: keys.common(margay_control::AGENT_SOCKET)?,
            state_dir: keys.state_dir.unwrap_or_else(|| STATE_DIR.into()),
            spool_dir: keys.spool_dir.unwrap_or_else(|| margay_control::SPOOL_DIR.into()),
            backend: keys.backend.unwrap_or_default(),
            maximum_paths,
            flow_log_file: keys.flow_log_file,
            cut_denied_flows: keys.cut_denied_flows.unwrap_or(false),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_override_the_file() {
        let path = std::env::temp_dir().join(format!("margay-agent-{}.yaml", std::process::id()));
        let text = "node: from-file\nstateDir: /file\ndatastore: {type: etcd, endpoints: ['http://192.0.2.1:2379']}\n";
        std::fs::write(&path, text).unwrap();
        let file = path.to_string_lossy().into_owned();
        let flags = || Flags::parse_from(["margay-agent", "--config", &file, "--node", "from-flag"]);
        let config = Config::load(flags()).unwrap();
        assert_eq!(config.node, "from-flag");
        assert_eq!(config.state_dir, PathBuf::from("/file"));
        assert_eq!(config.datastore, config::StoreConfig::etcd(["http://192.0.2.1:2379"]));
        std::fs::write(&path, "maximumPaths: 65\n").unwrap();
        let error = Config::load(flags()).unwrap_err().to_string();
        assert!(error.contains("maximumPaths is 65"), "{error}");
        std::fs::write(&path, "backend: bird\n").unwrap();
        assert_eq!(Config::load(flags()).unwrap().backend, Backend::Bgp, "as Calico says it");
        std::fs::write(&path, "backend: ipip\n").unwrap();
        let error = Config::load(flags()).unwrap_err().to_string();
        assert!(error.contains("ipip") && error.contains("vxlan"), "{error}");
        std::fs::write(&path, "nodes: x\n").unwrap();
        let error = Config::load(flags()).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("nodes"), "{error}");
    }
}
