//! Passwords that objects refer to as `secretKeyRef`: without Kubernetes, files `<folder>/<name>/<key>`.

use std::collections::{BTreeMap, BTreeSet};
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

/// What was found: the password, or why there is none, in words.
pub type Secrets = BTreeMap<SecretName, Result<Password, String>>;

/// Reads the wanted passwords below `folder` (see [`Password::parse`] for what a file holds).
#[must_use]
pub fn read(folder: &Path, wanted: &BTreeSet<SecretName>) -> Secrets {
    wanted.iter().map(|secret| (secret.clone(), read_one(folder, secret))).collect()
}

fn read_one(folder: &Path, secret: &SecretName) -> Result<Password, String> {
    // Names come from the datastore and must not lead out of the folder.
    let is_plain = |part: &str| {
        let mut components = Path::new(part).components();
        matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
            && !part.contains('/')
    };
    if !is_plain(&secret.name) || !is_plain(&secret.key) {
        return Err(format!("`{}/{}` is no name and key of a secret", secret.name, secret.key));
    }
    let path = folder.join(&secret.name).join(&secret.key);
    let octets = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Password::parse(&octets).map_err(|error| format!("{}: {error}", path.display()))
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
        assert!(found[&wanted[1]].as_ref().unwrap_err().contains("1 to 80"));
        assert!(found[&wanted[2]].as_ref().unwrap_err().contains("bgp/absent"));
        assert!(found[&wanted[3]].is_err());
        assert!(found[&wanted[4]].as_ref().unwrap_err().contains("no name and key"));
    }
}
