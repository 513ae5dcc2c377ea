//! Where the datastore and the daemon are: flags, then environment, then `/etc/margay/margay.yaml`, then the agent's
//! own file, so that the tool works without configuration on every node.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use margay_datastore::StoreConfig;
use serde::Deserialize;

const FILE: &str = "/etc/margay/margay.yaml";
const AGENT_FILE: &str = "/etc/margay/agent.yaml";
/// What the agent uses when nothing is configured.
const DEFAULT_STORE: &str = "/var/lib/margay/margay.db";

/// Flags every command takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct GlobalArgs {
    /// Configuration file with `datastore` and `socket` (default: /etc/margay/margay.yaml, else the agent's)
    #[arg(long, env = "MARGAY_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The datastore: a file (embedded) or etcd's URLs [env: MARGAY_DATASTORE_PATH, MARGAY_ETCD_ENDPOINTS]
    #[arg(
        long,
        alias = "datastore-path",
        alias = "etcd-endpoints",
        value_name = "FILE|URL,URL",
        global = true
    )]
    datastore: Option<String>,
    /// Unix socket of the daemon to ask (default: /run/margay/agent.sock)
    #[arg(long, env = "MARGAY_SOCKET", value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
}

/// Our own file: unknown keys are errors.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    datastore: Option<StoreConfig>,
    socket: Option<PathBuf>,
}

/// The agent's file has many more keys, which are the agent's business.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AgentFile {
    datastore: Option<StoreConfig>,
    socket: Option<PathBuf>,
}

impl GlobalArgs {
    /// Where the cluster's objects are.
    pub(crate) fn store(&self) -> anyhow::Result<StoreConfig> {
        if let Some(text) = &self.datastore {
            return Ok(parse_store(text));
        }
        // The agent's variables, so that both tools of a node agree.
        match (environment("MARGAY_DATASTORE_PATH"), environment("MARGAY_ETCD_ENDPOINTS")) {
            (Some(_), Some(_)) => {
                bail!(
                    "MARGAY_DATASTORE_PATH and MARGAY_ETCD_ENDPOINTS are both set: unset one, or use --datastore"
                )
            }
            (Some(path), None) => return Ok(StoreConfig::embedded(path)),
            (None, Some(urls)) => return Ok(StoreConfig::etcd(urls.split(','))),
            (None, None) => {}
        }
        Ok(self.file()?.datastore.unwrap_or_else(|| StoreConfig::embedded(DEFAULT_STORE)))
    }

    /// Where the daemon listens.
    pub(crate) fn socket(&self) -> anyhow::Result<PathBuf> {
        match &self.socket {
            Some(socket) => Ok(socket.clone()),
            None => Ok(self.file()?.socket.unwrap_or_else(|| margay_control::AGENT_SOCKET.into())),
        }
    }

    fn file(&self) -> anyhow::Result<File> {
        if let Some(path) = &self.config {
            return read(path)?.ok_or_else(|| anyhow!("the configuration {} does not exist", path.display()));
        }
        if let Some(file) = read::<File>(Path::new(FILE))? {
            return Ok(file);
        }
        let agent: AgentFile = read(Path::new(AGENT_FILE))?.unwrap_or_default();
        Ok(File { datastore: agent.datastore, socket: agent.socket })
    }
}

fn parse_store(text: &str) -> StoreConfig {
    let urls = text.starts_with("http://") || text.starts_with("https://");
    if urls { StoreConfig::etcd(text.split(',')) } else { StoreConfig::embedded(text) }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The file's content; absent when there is no file.
fn read<T: Default + serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the configuration {}", path.display()));
        }
    };
    if text.trim().is_empty() {
        return Ok(Some(T::default()));
    }
    match serde_saphyr::from_str(&text) {
        Ok(file) => Ok(Some(file)),
        Err(error) => Err(anyhow!("the configuration {} is wrong: {error}", path.display())),
    }
}
