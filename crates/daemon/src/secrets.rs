//! Passwords that objects refer to as `secretKeyRef`: without Kubernetes, files `<folder>/<name>/<key>`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Component, Path};

use margay_bgp::Password;

/// Where they are unless told otherwise.
pub const DEFAULT_FOLDER: &str = "/etc/margay/secrets";

/// Name and key of a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretName {
    /// `secretKeyRef.name`.
    pub name: String,
    /// `secretKeyRef.key`.
    pub key: String,
}

/// Why there is no password, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPassword {
    /// There is no such file: `optional: true` excuses that.
    #[error("{0}")]
    Absent(String),
    /// There is one, and it cannot be read or is no password.
    #[error("{0}")]
    Unusable(String),
}

/// What was found.
pub type Secrets = BTreeMap<SecretName, Result<Password, NoPassword>>;

/// Reads the wanted passwords below `folder` (see [`Password::parse`] for what a file holds).
#[must_use]
pub fn read(folder: &Path, wanted: &BTreeSet<SecretName>) -> Secrets {
    wanted.iter().map(|secret| (secret.clone(), read_one(folder, secret))).collect()
}

fn read_one(folder: &Path, secret: &SecretName) -> Result<Password, NoPassword> {
    // Names come from the datastore and must not lead out of the folder.
    let is_plain = |part: &str| {
        let mut components = Path::new(part).components();
        matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
            && !part.contains('/')
    };
    if !is_plain(&secret.name) || !is_plain(&secret.key) {
        let reason = format!("`{}/{}` is no name and key of a secret", secret.name, secret.key);
        return Err(NoPassword::Unusable(reason));
    }
    let path = folder.join(&secret.name).join(&secret.key);
    let octets = std::fs::read(&path).map_err(|error| {
        let reason = format!("{}: {error}", path.display());
        if error.kind() == ErrorKind::NotFound {
            NoPassword::Absent(reason)
        } else {
            NoPassword::Unusable(reason)
        }
    })?;
    Password::parse(&octets).map_err(|error| NoPassword::Unusable(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_files_and_names_stay_inside_the_folder() {
        let folder = std::env::temp_dir().join(format!("margay-secrets-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("bgp")).unwrap();
        std::fs::write(folder.join("bgp/rack"), "open sesame\n").unwrap();
        std::fs::write(folder.join("bgp/empty"), "\n").unwrap();
        let secret = |name: &str, key: &str| SecretName { name: name.into(), key: key.into() };
        let wanted = [
            secret("bgp", "rack"),
            secret("bgp", "empty"),
            secret("bgp", "absent"),
            secret("..", "passwd"),
            secret("bgp", "../bgp/rack"),
        ];
        let found = read(&folder, &wanted.iter().cloned().collect());
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found[&wanted[0]], Ok(Password::new(b"open sesame").unwrap()));
        let unusable = |number: usize, why: &str| match &found[&wanted[number]] {
            Err(NoPassword::Unusable(reason)) => assert!(reason.contains(why), "{reason}"),
            other => panic!("{other:?}"),
        };
        unusable(1, "1 to 80");
        assert!(
            matches!(&found[&wanted[2]], Err(NoPassword::Absent(reason)) if reason.contains("bgp/absent"))
        );
        unusable(3, "");
        unusable(4, "no name and key");
    }
}
