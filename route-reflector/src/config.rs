//! Configuration of the reflector: `/etc/margay/route-reflector.yaml`, overridden by `MARGAY_*`, overridden by flags.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use ipnet::{Ipv4Net, Ipv6Net};
use margay_daemon::config::{self, ConfigError};
use margay_daemon::log::Format;
use margay_datastore::StoreConfig;
use serde::Deserialize;

/// Where the configuration is unless told otherwise.
const DEFAULT_FILE: &str = "/etc/margay/route-reflector.yaml";

/// Shorter than the 30 s that Kubernetes leaves a pod to stop.
const DRAIN_SECONDS: u16 = 10;

/// Margay's route reflector: tells every node the other nodes' blocks, over iBGP.
#[derive(Debug, Parser)]
#[command(name = "margay-route-reflector", version)]
pub(crate) struct Flags {
    /// Configuration file
    #[arg(long, env = "MARGAY_ROUTE_REFLECTOR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and leave
    #[arg(long)]
    pub(crate) check_config: bool,
    /// Name of this reflector's Node object (default: the host's name)
    #[arg(long, env = "MARGAY_NODE", value_name = "NAME")]
    node: Option<String>,
    /// IPv4 address nodes reach it by, with the mask of its subnet, as 192.0.2.7/24
    #[arg(long, env = "MARGAY_IPV4_ADDRESS", value_name = "CIDR")]
    ipv4_address: Option<Ipv4Net>,
    /// IPv6 address nodes reach it by, with the mask of its subnet
    #[arg(long, env = "MARGAY_IPV6_ADDRESS", value_name = "CIDR")]
    ipv6_address: Option<Ipv6Net>,
    /// Cluster id (RFC 4456); the same for reflectors that serve the same nodes
    #[arg(long, env = "MARGAY_CLUSTER_ID", value_name = "A.B.C.D")]
    cluster_id: Option<Ipv4Addr>,
    /// Use the embedded datastore in this file
    #[arg(long, env = "MARGAY_DATASTORE_PATH", value_name = "FILE", conflicts_with = "etcd_endpoints")]
    datastore_path: Option<PathBuf>,
    /// Use the etcd cluster at these URLs
    #[arg(long, env = "MARGAY_ETCD_ENDPOINTS", value_name = "URL,URL", value_delimiter = ',')]
    etcd_endpoints: Vec<String>,
    /// Unix socket of the control API
    #[arg(long, env = "MARGAY_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Folder of passwords that BGP objects refer to, as NAME/KEY
    #[arg(long, env = "MARGAY_SECRETS_DIR", value_name = "FOLDER")]
    secrets_dir: Option<PathBuf>,
    /// How long to wait for another reflector to serve before leaving, in seconds
    #[arg(long, env = "MARGAY_DRAIN_SECONDS", value_name = "SECONDS")]
    drain_seconds: Option<u16>,
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
    cluster_id: Option<Ipv4Addr>,
    datastore: Option<StoreConfig>,
    socket: Option<PathBuf>,
    secrets_dir: Option<PathBuf>,
    drain_seconds: Option<u16>,
    metrics_listen: Option<SocketAddr>,
    log_level: Option<String>,
    log_format: Option<Format>,
}

/// The configuration in force.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Name of its Node object.
    pub(crate) node: String,
    /// IPv4 address with the subnet's mask.
    pub(crate) ipv4_address: Option<Ipv4Net>,
    /// IPv6 address with the subnet's mask.
    pub(crate) ipv6_address: Option<Ipv6Net>,
    /// Cluster id.
    pub(crate) cluster_id: Ipv4Addr,
    /// Where the cluster's objects are.
    pub(crate) datastore: StoreConfig,
    /// Unix socket of the control API.
    pub(crate) socket: PathBuf,
    /// Passwords, as `<name>/<key>`.
    pub(crate) secrets_dir: PathBuf,
    /// Longest wait for another reflector when this one is stopped.
    pub(crate) drain: Duration,
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
        let ipv4_address = flags.ipv4_address.or(file.ipv4_address);
        let ipv6_address = flags.ipv6_address.or(file.ipv6_address);
        if ipv4_address.is_none() && ipv6_address.is_none() {
            let hint = "a reflector must say where nodes reach it: set ipv4Address or ipv6Address";
            return Err(ConfigError::Value(hint.to_owned()));
        }
        // Nodes peer with all reflectors, so all may be of one cluster.
        let cluster_id = flags.cluster_id.or(file.cluster_id).unwrap_or(Ipv4Addr::new(0, 0, 0, 1));
        let socket = flags.socket.clone().or(file.socket);
        Ok(Self {
            node: config::node_name(flags.node.clone().or(file.node))?,
            ipv4_address,
            ipv6_address,
            cluster_id,
            datastore: config::datastore(
                flags.datastore_path.as_ref(),
                &flags.etcd_endpoints,
                file.datastore,
            ),
            socket: socket.unwrap_or_else(|| margay_control::REFLECTOR_SOCKET.into()),
            secrets_dir: flags
                .secrets_dir
                .clone()
                .or(file.secrets_dir)
                .unwrap_or_else(|| margay_daemon::secrets::DEFAULT_FOLDER.into()),
            drain: Duration::from_secs(
                flags.drain_seconds.or(file.drain_seconds).unwrap_or(DRAIN_SECONDS).into(),
            ),
            metrics_listen: flags.metrics_listen.or(file.metrics_listen),
            log_level: flags.log_level.clone().or(file.log_level).unwrap_or_else(|| "info".to_owned()),
            log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
        })
    }
}
