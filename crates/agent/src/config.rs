//! Configuration of the agent: `/etc/margay/agent.yaml`, overridden by `MARGAY_*`, overridden by flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use ipnet::{Ipv4Net, Ipv6Net};
use margay_daemon::config::{self, ConfigError};
use margay_daemon::log::Format;
use margay_datastore::StoreConfig;
use serde::Deserialize;

/// Where the configuration is unless told otherwise.
const DEFAULT_FILE: &str = "/etc/margay/agent.yaml";

/// Margay's agent: BGP speaker, policy engine, routes, IPAM and CNI server of one node.
#[derive(Debug, Parser)]
#[command(name = "margay-agent", version)]
pub(crate) struct Flags {
    /// Configuration file
    #[arg(long, env = "MARGAY_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and leave
    #[arg(long)]
    pub(crate) check_config: bool,
    /// Name of this node (default: the host's name)
    #[arg(long, env = "MARGAY_NODE", value_name = "NAME")]
    node: Option<String>,
    /// IPv4 address of this node with the mask of its subnet, as 192.0.2.7/24
    #[arg(long, env = "MARGAY_IPV4_ADDRESS", value_name = "CIDR")]
    ipv4_address: Option<Ipv4Net>,
    /// IPv6 address of this node with the mask of its subnet
    #[arg(long, env = "MARGAY_IPV6_ADDRESS", value_name = "CIDR")]
    ipv6_address: Option<Ipv6Net>,
    /// Use the embedded datastore in this file
    #[arg(long, env = "MARGAY_DATASTORE_PATH", value_name = "FILE", conflicts_with = "etcd_endpoints")]
    datastore_path: Option<PathBuf>,
    /// Use the etcd cluster at these URLs
    #[arg(long, env = "MARGAY_ETCD_ENDPOINTS", value_name = "URL,URL", value_delimiter = ',')]
    etcd_endpoints: Vec<String>,
    /// Unix socket of the control API
    #[arg(long, env = "MARGAY_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Folder for what must survive a restart
    #[arg(long, env = "MARGAY_STATE_DIR", value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Folder where the CNI shim leaves releases while the agent is down
    #[arg(long, env = "MARGAY_SPOOL_DIR", value_name = "FOLDER")]
    spool_dir: Option<PathBuf>,
    /// Folder of passwords that BGP objects refer to, as NAME/KEY
    #[arg(long, env = "MARGAY_SECRETS_DIR", value_name = "FOLDER")]
    secrets_dir: Option<PathBuf>,
    /// Serve health and metrics on this TCP address too
    #[arg(long, env = "MARGAY_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    metrics_listen: Option<SocketAddr>,
    /// Log level or directives, as `info,margay_bgp=debug`
    #[arg(long, env = "MARGAY_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
    /// Form of log lines
    #[arg(long, env = "MARGAY_LOG_FORMAT", value_enum)]
    log_format: Option<Format>,
}

/// The file's keys.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    node: Option<String>,
    ipv4_address: Option<Ipv4Net>,
    ipv6_address: Option<Ipv6Net>,
    datastore: Option<StoreConfig>,
    socket: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    spool_dir: Option<PathBuf>,
    secrets_dir: Option<PathBuf>,
    metrics_listen: Option<SocketAddr>,
    log_level: Option<String>,
    log_format: Option<Format>,
}

/// The configuration in force.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Name of this node.
    pub(crate) node: String,
    /// IPv4 address with the subnet's mask; absent: from the Node object, else detected.
    pub(crate) ipv4_address: Option<Ipv4Net>,
    /// IPv6 address with the subnet's mask; absent: from the Node object.
    pub(crate) ipv6_address: Option<Ipv6Net>,
    /// Where the cluster's objects are.
    pub(crate) datastore: StoreConfig,
    /// Unix socket of the control API.
    pub(crate) socket: PathBuf,
    /// Journal of addresses and attachments.
    pub(crate) state_dir: PathBuf,
    /// Releases left by the shim.
    pub(crate) spool_dir: PathBuf,
    /// Passwords, as `<name>/<key>`.
    pub(crate) secrets_dir: PathBuf,
    /// Health and metrics on TCP.
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Log level or directives.
    pub(crate) log_level: String,
    /// Form of log lines.
    pub(crate) log_format: Format,
}

impl Config {
    /// Joins flags, environment (both in `flags`) and file.
    pub(crate) fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let path = flags.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        let file: File = config::load(path, flags.config.is_some())?;
        let pick = |flag: &Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            flag.clone().or(file).unwrap_or_else(|| default.into())
        };
        Ok(Self {
            node: config::node_name(flags.node.clone().or(file.node))?,
            ipv4_address: flags.ipv4_address.or(file.ipv4_address),
            ipv6_address: flags.ipv6_address.or(file.ipv6_address),
            datastore: config::datastore(
                flags.datastore_path.as_ref(),
                &flags.etcd_endpoints,
                file.datastore,
            ),
            socket: pick(&flags.socket, file.socket, margay_control::AGENT_SOCKET),
            state_dir: pick(&flags.state_dir, file.state_dir, "/var/lib/margay/agent"),
            spool_dir: pick(&flags.spool_dir, file.spool_dir, margay_control::SPOOL_DIR),
            secrets_dir: pick(&flags.secrets_dir, file.secrets_dir, margay_daemon::secrets::DEFAULT_FOLDER),
            metrics_listen: flags.metrics_listen.or(file.metrics_listen),
            log_level: flags.log_level.clone().or(file.log_level).unwrap_or_else(|| "info".to_owned()),
            log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
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
        let flags = Flags::parse_from(["margay-agent", "--config", &file, "--node", "from-flag"]);
        let config = Config::load(&flags).unwrap();
        assert_eq!(config.node, "from-flag");
        assert_eq!(config.state_dir, PathBuf::from("/file"));
        assert_eq!(config.datastore, StoreConfig::etcd(["http://192.0.2.1:2379"]));
        std::fs::write(&path, "nodes: x\n").unwrap();
        let error = Config::load(&flags).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("nodes"), "{error}");
    }
}
