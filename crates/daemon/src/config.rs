//! Configuration files: YAML, unknown keys are errors, environment and flags override (in that order).

use std::path::{Path, PathBuf};

use margay_datastore::StoreConfig;
use serde::de::DeserializeOwned;

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
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
        Ok(text) => serde_saphyr::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.to_path_buf(), reason: error.to_string() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => Ok(T::default()),
        Err(source) => Err(ConfigError::Read { path: path.to_path_buf(), source }),
    }
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
    fn only_a_file_that_was_asked_for_must_exist() {
        let path = Path::new("/nonexistent/margay.yaml");
        assert_eq!(load::<Example>(path, false).unwrap(), Example::default());
        assert!(load::<Example>(path, true).is_err());
        let empty = write("empty", "\n");
        assert_eq!(load::<Example>(&empty, true).unwrap(), Example::default());
        std::fs::remove_file(empty).unwrap();
    }
}
