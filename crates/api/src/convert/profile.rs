use std::collections::BTreeMap;

use super::{LABEL_NAME, NAMESPACE_LABEL_PREFIX, SERVICE_ACCOUNT_LABEL_PREFIX};
use crate::{
    Metadata, Namespace, Profile, ServiceAccount,
    kinds::{Action, ProfileSpec, Rule},
};

/// The profile that allows everything, of automatic host endpoints.
pub const DEFAULT_ALLOW_PROFILE: &str = "projectcalico-default-allow";

/// Name of the profile of a namespace.
#[must_use]
pub fn namespace_profile_name(namespace: &str) -> String {
    format!("kns.{namespace}")
}

/// Name of the profile of a service account.
#[must_use]
pub fn service_account_profile_name(namespace: &str, service_account: &str) -> String {
    format!("ksa.{namespace}.{service_account}")
}

/// A namespace as the profile of its pods: allows all traffic that no policy decides, and hands down its labels.
#[must_use]
pub fn namespace_profile(namespace: &Namespace) -> Profile {
    let metadata = &namespace.metadata;
    let mut profile = allow_all(namespace_profile_name(&metadata.name));
    profile.spec.labels_to_apply = inherited(NAMESPACE_LABEL_PREFIX, metadata);
    profile
}

/// A service account as a profile of its pods: no rules, only labels.
#[must_use]
pub fn service_account_profile(account: &ServiceAccount) -> Profile {
    let metadata = &account.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let labels_to_apply = inherited(SERVICE_ACCOUNT_LABEL_PREFIX, metadata);
    let name = service_account_profile_name(namespace, &metadata.name);
    Profile::new(Metadata::named(name), ProfileSpec { labels_to_apply, ..ProfileSpec::default() })
}

/// The built-in profile [`DEFAULT_ALLOW_PROFILE`].
#[must_use]
pub fn default_allow_profile() -> Profile {
    allow_all(DEFAULT_ALLOW_PROFILE.to_owned())
}

fn allow_all(name: String) -> Profile {
    let rules = vec![Rule::new(Action::Allow)];
    let spec = ProfileSpec { ingress: rules.clone(), egress: rules, labels_to_apply: BTreeMap::new() };
    Profile::new(Metadata::named(name), spec)
}

fn inherited(prefix: &str, metadata: &Metadata) -> BTreeMap<String, String> {
    let own = metadata.labels.iter().map(|(name, value)| (format!("{prefix}{name}"), value.clone()));
    // The name comes last: a label of the same key can't pretend to be another object.
    own.chain([(format!("{prefix}{LABEL_NAME}"), metadata.name.clone())]).collect()
}
