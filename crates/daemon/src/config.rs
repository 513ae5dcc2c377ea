//! Configuration files: YAML, unknown keys are errors, environment and flags override (in that order).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

use crate::log::Format;
use crate::wanted::wanted;

// What `keys!` names in the crates that use it.
#[doc(hidden)]
pub use {ipnet::Ipv4Net, ipnet::Ipv6Net, margay_datastore::StoreConfig};

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// The file's text is wrong; the message has line and column.
    #[error("the configuration {} is wrong: {reason}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        reason: String,
    },
    /// A value is wrong or missing.
    #[error("the configuration is wrong: {0}")]
    Value(String),
}

/// Reads the file at `path`; `required` is false for the default path, which need not exist.
pub fn load<T: DeserializeOwned + Default>(path: &Path, required: bool) -> Result<T, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Ok(T::default()),
        Ok(text) => serde_saphyr::from_str(&text).map_err(|error| {
            let lines = wanted(&text, &error).map(|wanted| format!("{wanted}\n")).unwrap_or_default();
            ConfigError::Parse { path: path.to_path_buf(), reason: format!("{lines}{error}") }
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => Ok(T::default()),
        Err(error) => Err(ConfigError::Read { path: path.to_path_buf(), error }),
    }
}

/// An address with the mask of its subnet: the parser's own words do not say that the mask is missing.
#[doc(hidden)]
pub fn subnet<'de, D: Deserializer<'de>, T: FromStr>(value: D) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(value)?;
    let wrong =
        |_| D::Error::custom(format!("`{text}` is no address with its subnet's mask, as 192.0.2.7/24"));
    text.parse().map(Some).map_err(wrong)
}

/// The level of the log, or its directives.
#[doc(hidden)]
pub fn log_level(configured: Option<&String>) -> Result<String, ConfigError> {
    let filter = configured.map_or("info", String::as_str);
    crate::log::filter(filter).map(|_| filter.to_owned()).map_err(ConfigError::Value)
}

/// The node's name: as configured, else the host's.
///
/// # Errors
/// The host has none of its own.
pub fn node_name(configured: Option<String>) -> Result<String, ConfigError> {
    if let Some(name) = configured {
        return Ok(name);
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim().to_ascii_lowercase();
    if name.is_empty() || name == "(none)" || name == "localhost" {
        let hint = "this host has no name of its own: set `node` in the file, MARGAY_NODE or --node";
        return Err(ConfigError::Value(hint.to_owned()));
    }
    Ok(name)
}

/// The datastore: flags first, then the file, else the embedded one in its usual place.
#[must_use]
pub fn datastore(path: Option<&PathBuf>, etcd: &[String], file: Option<StoreConfig>) -> StoreConfig {
    match path {
        Some(path) => StoreConfig::embedded(path),
        None if !etcd.is_empty() => StoreConfig::etcd(etcd.iter().cloned()),
        None => file.unwrap_or_else(|| StoreConfig::embedded("/var/lib/margay/margay.db")),
    }
}

/// What every daemon is configured with.
#[derive(Debug, Clone)]
pub struct Common {
    /// Name of its Node object.
    pub node: String,
    /// IPv4 address other nodes reach it by, with the subnet's mask.
    pub ipv4_address: Option<Ipv4Net>,
    /// IPv6 address other nodes reach it by, with the subnet's mask.
    pub ipv6_address: Option<Ipv6Net>,
    /// Where the cluster's objects are.
    pub datastore: StoreConfig,
    /// Unix socket of the control API.
    pub socket: PathBuf,
    /// Passwords, as `<name>/<key>`.
    pub secrets_dir: PathBuf,
    /// Health and metrics on TCP.
    pub metrics_listen: Option<SocketAddr>,
    /// Metrics of every BGP peer, not only their sums.
    pub peer_metrics: bool,
    /// BMP stations.
    pub bmp: Vec<crate::monitor::BmpStation>,
    /// Log of BGP updates.
    pub mrt_log: Option<crate::monitor::MrtLog>,
    /// Log level or directives.
    pub log_level: String,
    /// Form of log lines.
    pub log_format: Format,
}

/// Defines the keys of a daemon's configuration: those of [`Common`] and the daemon's own, as the one struct that is
/// read from flags and environment (clap) and from the file (serde).
///
/// A macro, because serde can't flatten a struct and still say where in the file an unknown key stands. The crate that
/// uses it needs `clap` and `serde`.
#[macro_export]
macro_rules! keys {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$attribute:meta])* $key:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, ::clap::Args, ::serde::Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        $vis struct $name {
            /// Name of this node's Node object (default: the host's name)
            #[arg(long, env = "MARGAY_NODE", value_name = "NAME")]
            node: Option<String>,
            /// IPv4 address other nodes reach it by, with the mask of its subnet, as 192.0.2.7/24
            #[arg(long, env = "MARGAY_IPV4_ADDRESS", value_name = "CIDR")]
            #[serde(default, deserialize_with = "margay_daemon::config::subnet")]
            ipv4_address: Option<$crate::config::Ipv4Net>,
            /// IPv6 address other nodes reach it by, with the mask of its subnet
            #[arg(long, env = "MARGAY_IPV6_ADDRESS", value_name = "CIDR")]
            #[serde(default, deserialize_with = "margay_daemon::config::subnet")]
            ipv6_address: Option<$crate::config::Ipv6Net>,
            #[arg(skip)]
            datastore: Option<$crate::config::StoreConfig>,
            /// Use the embedded datastore in this file
            #[arg(long, env = "MARGAY_DATASTORE_PATH", value_name = "FILE", conflicts_with = "etcd_endpoints")]
            #[serde(skip)]
            datastore_path: Option<::std::path::PathBuf>,
            /// Use the etcd cluster at these URLs
            #[arg(long, env = "MARGAY_ETCD_ENDPOINTS", value_name = "URL,URL", value_delimiter = ',')]
            #[serde(skip)]
            etcd_endpoints: Vec<String>,
            /// Unix socket of the control API
            #[arg(long, env = "MARGAY_SOCKET", value_name = "PATH")]
            socket: Option<::std::path::PathBuf>,
            $($(#[$attribute])* $key: Option<$type>,)*
            /// Folder of passwords that BGP objects refer to, as NAME/KEY
            #[arg(long, env = "MARGAY_SECRETS_DIR", value_name = "FOLDER")]
            secrets_dir: Option<::std::path::PathBuf>,
            /// Serve health and metrics on this TCP address too
            #[arg(long, env = "MARGAY_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
            metrics_listen: Option<::std::net::SocketAddr>,
            /// Metrics of every BGP peer, not only their sums
            #[arg(long, env = "MARGAY_PEER_METRICS", value_name = "BOOL")]
            peer_metrics: Option<bool>,
            #[arg(skip)]
            bmp: Option<Vec<$crate::monitor::BmpStation>>,
            #[arg(skip)]
            mrt_log: Option<$crate::monitor::MrtLog>,
            /// Log level or directives, as `info,margay_bgp=debug`
            #[arg(long, env = "MARGAY_LOG_LEVEL", value_name = "LEVEL")]
            log_level: Option<String>,
            /// Form of log lines
            #[arg(long, env = "MARGAY_LOG_FORMAT", value_enum)]
            log_format: Option<$crate::log::Format>,
        }

        impl $name {
            /// These (flags and environment), and the file's where they say nothing.
            fn over(self, file: Self) -> Self {
                Self {
                    node: self.node.or(file.node),
                    ipv4_address: self.ipv4_address.or(file.ipv4_address),
                    ipv6_address: self.ipv6_address.or(file.ipv6_address),
                    datastore: self.datastore.or(file.datastore),
                    datastore_path: self.datastore_path,
                    etcd_endpoints: self.etcd_endpoints,
                    socket: self.socket.or(file.socket),
                    $($key: self.$key.or(file.$key),)*
                    secrets_dir: self.secrets_dir.or(file.secrets_dir),
                    metrics_listen: self.metrics_listen.or(file.metrics_listen),
                    peer_metrics: self.peer_metrics.or(file.peer_metrics),
                    bmp: self.bmp.or(file.bmp),
                    mrt_log: self.mrt_log.or(file.mrt_log),
                    log_level: self.log_level.or(file.log_level),
                    log_format: self.log_format.or(file.log_format),
                }
            }

            /// What all daemons have, with defaults; the control API's is `socket`.
            fn common(&self, socket: &str) -> Result<$crate::config::Common, $crate::config::ConfigError> {
                use $crate::config::{datastore, node_name};
                Ok($crate::config::Common {
                    node: node_name(self.node.clone())?,
                    ipv4_address: self.ipv4_address,
                    ipv6_address: self.ipv6_address,
                    datastore: datastore(self.datastore_path.as_ref(), &self.etcd_endpoints, self.datastore.clone()),
                    socket: self.socket.clone().unwrap_or_else(|| socket.into()),
                    secrets_dir: self
                        .secrets_dir
                        .clone()
                        .unwrap_or_else(|| $crate::secrets::DEFAULT_FOLDER.into()),
                    metrics_listen: self.metrics_listen,
                    peer_metrics: self.peer_metrics.unwrap_or(true),
                    bmp: $crate::monitor::checked(self.bmp.clone().unwrap_or_default())?,
                    mrt_log: self.mrt_log.clone(),
                    log_level: $crate::config::log_level(self.log_level.as_ref())?,
                    log_format: self.log_format.unwrap_or_default(),
                })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        node: Option<String>,
    }

    fn write(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("margay-config-{}-{name}.yaml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn unknown_keys_name_file_and_line() {
        let path = write("unknown", "node: n1\nnodee: n2\n");
        let error = load::<Example>(&path, true).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("unknown.yaml"), "{error}");
        assert!(error.contains("nodee") && error.contains('2'), "{error}");
    }

    #[test]
    fn what_is_no_subnet_is_told_how_to_be_one() {
        #[derive(Debug, Default, serde::Deserialize)]
        struct Address {
            #[serde(default, deserialize_with = "super::subnet")]
            own: Option<Ipv4Net>,
        }
        let of = |text: &str| serde_saphyr::from_str::<Address>(text).map_err(|error| error.to_string());
        assert_eq!(of("own: 192.0.2.7/24").unwrap().own, Some("192.0.2.7/24".parse().unwrap()));
        assert_eq!(of("{}").unwrap().own, None);
        for wrong in ["192.0.2.7", "192.0.2.300/24", "fd00::7/64"] {
            let said = of(&format!("own: {wrong}")).unwrap_err();
            assert!(said.contains(wrong) && said.contains("as 192.0.2.7/24"), "{said}");
        }
    }

    #[test]
    fn only_a_file_that_was_asked_for_must_exist() {
        let path = Path::new("/nonexistent/margay.yaml");
        assert_eq!(load::<Example>(path, false).unwrap(), Example::default());
        let absent = anyhow::Error::from(load::<Example>(path, true).unwrap_err());
        assert_eq!(format!("{absent:#}").matches("No such file").count(), 1, "{absent:#}");
        let empty = write("empty", "\n");
        assert_eq!(load::<Example>(&empty, true).unwrap(), Example::default());
        std::fs::remove_file(empty).unwrap();
    }
}
