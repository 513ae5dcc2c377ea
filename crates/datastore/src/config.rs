//! Where the datastore is.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Prefix of all keys unless configured otherwise.
pub const DEFAULT_PREFIX: &str = "/margay";

/// The `datastore` section of a daemon's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum StoreConfig {
    /// A SQLite file on this machine.
    Embedded(EmbeddedConfig),
    /// An etcd cluster, or kine.
    Etcd(EtcdConfig),
}

impl StoreConfig {
    /// The embedded store in `path`, everything else as by default.
    #[must_use]
    pub fn embedded(path: impl Into<PathBuf>) -> Self {
        Self::Embedded(EmbeddedConfig::new(path))
    }

    /// etcd at `endpoints`, everything else as by default.
    #[must_use]
    pub fn etcd(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::Etcd(EtcdConfig::new(endpoints))
    }
}

/// Configuration of the embedded datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// The database file, on a local file system. It and its folder are made when missing, for the owner only.
    /// Beside it lie `<path>-wal`, `<path>-shm` (SQLite's) and `<path>-wake` (ours).
    pub path: PathBuf,
    /// How many of the newest changes can be watched from, 1000 to 10,000,000 (default 20,000).
    #[serde(default = "default_history")]
    pub history: u64,
    /// Longest time for one operation, in milliseconds, 100 to 600,000 (default 5000).
    #[serde(default = "default_timeout")]
    pub timeout_ms: u64,
}

impl EmbeddedConfig {
    /// The file `path`, everything else as by default.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), history: default_history(), timeout_ms: default_timeout() }
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// Configuration of the etcd datastore.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EtcdConfig {
    /// `http://host:port` or `https://host:port`, at least one. The first that answers is used; on failure the next.
    pub endpoints: Vec<String>,
    /// Begins every key, default `/margay`. With `/calico` the keys of Calico's kinds are Calico's own.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// User of etcd's own authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// That user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// PEM file with the authorities that sign etcd's certificate. Required for https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with this client's certificate; goes with `keyFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// PEM file with this client's private key; goes with `certFile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Longest time for one operation over all endpoints, in milliseconds, 100 to 600,000 (default 5000).
    #[serde(default = "default_timeout")]
    pub timeout_ms: u64,
}

impl EtcdConfig {
    /// The cluster at `endpoints`, everything else as by default.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: default_prefix(),
            username: None,
            password: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            timeout_ms: default_timeout(),
        }
    }

    #[cfg(feature = "etcd")]
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand, so that no password gets into a log.
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("ca_file", &self.ca_file)
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .field("timeout_ms", &self.timeout_ms)
            .finish()
    }
}

fn default_prefix() -> String {
    DEFAULT_PREFIX.to_owned()
}

fn default_history() -> u64 {
    20_000
}

fn default_timeout() -> u64 {
    5_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_reads_as_documented() {
        let embedded: StoreConfig =
            serde_json::from_str(r#"{"type":"embedded","path":"/var/lib/margay/store.db"}"#).unwrap();
        assert_eq!(embedded, StoreConfig::embedded("/var/lib/margay/store.db"));

        let etcd: StoreConfig = serde_json::from_str(
            r#"{"type":"etcd","endpoints":["https://10.0.0.1:2379"],"prefix":"/calico","username":"u",
                "password":"secret","caFile":"/ca","certFile":"/c","keyFile":"/k"}"#,
        )
        .unwrap();
        let StoreConfig::Etcd(etcd) = etcd else { panic!("not etcd") };
        assert_eq!((etcd.prefix.as_str(), etcd.timeout_ms), ("/calico", 5000));
        assert!(!format!("{etcd:?}").contains("secret"));

        let unknown =
            serde_json::from_str::<StoreConfig>(r#"{"type":"embedded","path":"/x","pth":1}"#).unwrap_err();
        assert!(unknown.to_string().contains("pth"), "{unknown}");
    }
}
