//! Which key an object is stored under: `<prefix>/resources/v3/<group>/<plural>/[<namespace>/]<name>`.
//!
//! With the prefix `/calico` that is Calico's own layout (libcalico-go/lib/backend/model), so both can share an etcd.

use margay_api::{Key, Kind};

use crate::error::{Error, Result};
use crate::raw::Prefix;

/// Stands for Kubernetes' core group, which has no name.
const CORE: &str = "core";

/// What to list or watch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// Objects of this kind.
    pub kind: Kind,
    /// Only those of this namespace; `None` for all.
    pub namespace: Option<String>,
}

impl Scope {
    /// All objects of every kind.
    #[must_use]
    pub fn all() -> Vec<Self> {
        Kind::ALL.iter().copied().map(Self::from).collect()
    }

    /// Whether the object belongs to it.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        self.kind == key.kind && (self.namespace.is_none() || self.namespace == key.namespace)
    }
}

impl From<Kind> for Scope {
    fn from(kind: Kind) -> Self {
        Self { kind, namespace: None }
    }
}

/// The mapping for one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// `<prefix>/resources/v3/`
    root: String,
}

impl Layout {
    pub(crate) fn new(prefix: &str) -> Result<Self> {
        if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains("//") {
            return Err(Error::Invalid(format!(
                "datastore.prefix is {prefix:?}; it must look like \"/margay\" or \"/a/b\""
            )));
        }
        Ok(Self { root: format!("{prefix}/resources/v3/") })
    }

    pub(crate) fn key(&self, key: &Key) -> Result<String> {
        let invalid = |what: &str| Err(Error::Invalid(format!("{key}: {what}")));
        let usable = |part: &str| !part.is_empty() && !part.contains(|c: char| c == '/' || c.is_control());
        if !usable(&key.name) {
            return invalid("a name must not be empty nor contain '/'");
        }
        match (&key.namespace, key.kind.namespaced()) {
            (Some(namespace), true) if usable(namespace) => {
                Ok(format!("{}{namespace}/{}", self.folder(key.kind), key.name))
            }
            (None, false) => Ok(format!("{}{}", self.folder(key.kind), key.name)),
            (Some(_), true) => invalid("a namespace must not be empty nor contain '/'"),
            (None, true) => invalid("this kind needs a namespace"),
            (Some(_), false) => invalid("this kind has no namespace"),
        }
    }

    /// The object that is stored under `key`, if it is one of ours.
    pub(crate) fn parse(&self, key: &str) -> Option<Key> {
        let mut parts = key.strip_prefix(&self.root)?.split('/');
        let (group, plural) = (parts.next()?, parts.next()?);
        let kind =
            Kind::ALL.iter().copied().find(|kind| kind.plural() == plural && self::group(*kind) == group)?;
        let namespace = if kind.namespaced() { Some(parts.next()?.to_owned()) } else { None };
        let name = parts.next()?.to_owned();
        let complete = parts.next().is_none() && !name.is_empty() && namespace.as_deref() != Some("");
        complete.then_some(Key { kind, namespace, name })
    }

    /// The folders of `scopes`, each once and none inside another.
    pub(crate) fn folders(&self, scopes: &[Scope]) -> Result<Vec<Prefix>> {
        let mut folders = Vec::new();
        for scope in scopes {
            let folder = self.folder(scope.kind);
            match &scope.namespace {
                None => folders.push(Prefix::new(folder)),
                Some(namespace)
                    if scope.kind.namespaced() && !namespace.is_empty() && !namespace.contains('/') =>
                {
                    folders.push(Prefix::new(format!("{folder}{namespace}")));
                }
                Some(namespace) => {
                    return Err(Error::Invalid(format!(
                        "{} in namespace {namespace:?}: no such scope",
                        scope.kind
                    )));
                }
            }
        }
        // Sorted, so that what contains a folder comes before it.
        folders.sort();
        folders.dedup_by(|later, earlier| earlier.contains(later.as_str()));
        Ok(folders)
    }

    fn folder(&self, kind: Kind) -> String {
        format!("{}{}/{}/", self.root, group(kind), kind.plural())
    }
}

fn group(kind: Kind) -> &'static str {
    match kind.group() {
        "" => CORE,
        group => group,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calicos_own_layout() {
        let layout = Layout::new("/calico").unwrap();
        for (key, stored) in [
            (Key::cluster(Kind::IpPool, "a"), "/calico/resources/v3/projectcalico.org/ippools/a"),
            (
                Key::namespaced(Kind::NetworkPolicy, "ns", "default.p"),
                "/calico/resources/v3/projectcalico.org/networkpolicies/ns/default.p",
            ),
            (Key::namespaced(Kind::Pod, "ns", "p"), "/calico/resources/v3/core/pods/ns/p"),
        ] {
            assert_eq!(layout.key(&key).unwrap(), stored);
        }
    }

    #[test]
    fn every_kind_is_found_again_and_in_its_own_folder_only() {
        let layout = Layout::new("/margay").unwrap();
        let folders = layout.folders(&Scope::all()).unwrap();
        assert_eq!(folders.len(), Kind::ALL.len());
        for &kind in Kind::ALL {
            let namespace = kind.namespaced().then(|| "ns".to_owned());
            let key = Key { kind, namespace, name: "n".to_owned() };
            let stored = layout.key(&key).unwrap();
            assert_eq!(layout.parse(&stored), Some(key.clone()));
            assert_eq!(folders.iter().filter(|folder| folder.contains(&stored)).count(), 1);
            assert!(Scope::from(kind).contains(&key));
            assert_eq!(layout.parse(&format!("{stored}/more")), None);
        }
        for foreign in [
            "/calico/resources/v3/projectcalico.org/ippools/a",
            "/margay/ipam/v2/x",
            "/margay/resources/v3/core/pods/ns/",
            "",
        ] {
            assert_eq!(layout.parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn impossible_keys_and_prefixes_are_refused() {
        let layout = Layout::new("/margay").unwrap();
        for key in [
            Key::cluster(Kind::IpPool, ""),
            Key::cluster(Kind::IpPool, "a/b"),
            Key::cluster(Kind::Pod, "p"),
            Key::namespaced(Kind::Pod, "", "p"),
            Key::namespaced(Kind::Pod, "a/b", "p"),
            Key::namespaced(Kind::IpPool, "ns", "p"),
        ] {
            assert!(matches!(layout.key(&key), Err(Error::Invalid(_))), "{key}");
        }
        for prefix in ["", "margay", "/margay/", "/a//b", "/"] {
            assert!(Layout::new(prefix).is_err(), "{prefix}");
        }
    }

    #[test]
    fn overlapping_scopes_are_merged() {
        let layout = Layout::new("/margay").unwrap();
        let pods =
            |namespace: Option<&str>| Scope { kind: Kind::Pod, namespace: namespace.map(str::to_owned) };
        let folders = layout.folders(&[pods(Some("a")), pods(None), pods(Some("b")), pods(None)]).unwrap();
        assert_eq!(folders, [Prefix::new("/margay/resources/v3/core/pods")]);
        let folders = layout.folders(&[pods(Some("ab")), pods(Some("a")), pods(Some("a"))]).unwrap();
        assert_eq!(folders.len(), 2);
        assert!(layout.folders(&[Scope { kind: Kind::IpPool, namespace: Some("a".to_owned()) }]).is_err());
    }
}
