//! Names, namespaces, labels and annotations.

use crate::{
    Kind, Metadata, Object, Spec,
    path::{METADATA, Path, Problems},
};

/// Longest DNS subdomain (RFC 1123).
const MAX_SUBDOMAIN: usize = 253;
/// Longest DNS label.
const MAX_LABEL: usize = 63;
/// Kubernetes' limit for the sum of all annotations.
const MAX_ANNOTATIONS: usize = 256 * 1024;

pub(crate) fn check(kind: Kind, metadata: &Metadata, problems: &mut Problems) {
    check_name(kind, &metadata.name, &METADATA.field("name"), problems);
    let namespace = METADATA.field("namespace");
    match &metadata.namespace {
        Some(_) if !kind.namespaced() => {
            problems.add(&namespace, format!("{kind} has no namespace: remove it"));
        }
        Some(name) => problems.require(is_label(name), &namespace, label_rule(name)),
        None => problems.require(!kind.namespaced(), &namespace, "required, but missing"),
    }
    if !kind.is_calico() {
        // Kubernetes' API server has checked the rest.
        return;
    }
    let labels = METADATA.field("labels");
    for (name, value) in &metadata.labels {
        check_label_name(name, &labels.key(name), problems);
        check_label_value(value, &labels.key(name), problems);
    }
    let annotations = METADATA.field("annotations");
    check_annotations(&metadata.annotations, &annotations, problems);
}

pub(crate) fn check_annotations(
    annotations: &std::collections::BTreeMap<String, String>,
    path: &Path<'_>,
    problems: &mut Problems,
) {
    for name in annotations.keys() {
        // Annotation keys may have capitals in the prefix; Kubernetes folds them before checking.
        check_label_name(&name.to_ascii_lowercase(), &path.key(name), problems);
    }
    let size: usize = annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
    problems.require(
        size <= MAX_ANNOTATIONS,
        path,
        format!("all annotations together have at most {MAX_ANNOTATIONS} bytes"),
    );
}

fn check_name(kind: Kind, name: &str, path: &Path<'_>, problems: &mut Problems) {
    if name.is_empty() {
        problems.add(path, "required, but missing");
        return;
    }
    let two_labels = || {
        name.split_once('.').map_or_else(|| is_label(name), |(tier, name)| is_label(tier) && is_label(name))
    };
    match kind {
        Kind::Tier | Kind::Namespace => problems.require(is_label(name), path, label_rule(name)),
        Kind::NetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy => {
            let converted = kind.namespaced()
                && ["knp.default.", "ossg.default."]
                    .iter()
                    .any(|p| name.strip_prefix(p).is_some_and(is_subdomain));
            problems.require(
                converted || two_labels(),
                path,
                format!(
                    "{name:?} is not a policy name: lower-case letters, digits and '-', at most {MAX_LABEL}, \
                     with at most one tier name and a dot in front"
                ),
            );
        }
        _ => problems.require(is_subdomain(name), path, subdomain_rule(name)),
    }
}

/// `ClusterInformation` and the like: there is one object, called `default`.
pub(crate) fn check_singleton<S: Spec>(object: &Object<S>, problems: &mut Problems) {
    let name = &object.metadata.name;
    problems.require(
        name.is_empty() || name == "default",
        &METADATA.field("name"),
        format!("the only {} is called default", S::KIND),
    );
}

/// The node of a per-node configuration object `node.<name>`.
pub(crate) fn node_of(name: &str) -> Option<&str> {
    name.strip_prefix("node.").filter(|node| !node.is_empty())
}

fn label_rule(text: &str) -> String {
    format!("{text:?} is not a DNS label: lower-case letters, digits and '-', at most {MAX_LABEL}")
}

fn subdomain_rule(text: &str) -> String {
    format!("{text:?} is not a DNS name: lower-case letters, digits, '-' and '.', at most {MAX_SUBDOMAIN}")
}

fn lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_dns_part(text: &str) -> bool {
    let inner = |b: u8| lower_alphanumeric(b) || b == b'-';
    text.bytes().all(inner)
        && text.bytes().next().is_some_and(lower_alphanumeric)
        && text.bytes().next_back().is_some_and(lower_alphanumeric)
}

pub(crate) fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL && is_dns_part(text)
}

pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_SUBDOMAIN && text.split('.').all(is_dns_part)
}

pub(crate) fn check_node_name(text: &str, path: &Path<'_>, problems: &mut Problems) {
    problems.require(is_subdomain(text), path, subdomain_rule(text));
}

/// Begins and ends with a letter or digit, with `-`, `_` and `.` between.
fn is_word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().next_back().is_some_and(|b| b.is_ascii_alphanumeric())
}

pub(crate) fn check_label_name(name: &str, path: &Path<'_>, problems: &mut Problems) {
    let (prefix, word) = name.split_once('/').map_or((None, name), |(prefix, word)| (Some(prefix), word));
    let fine = word.len() <= MAX_LABEL && is_word(word) && prefix.is_none_or(is_subdomain);
    problems.require(
        fine,
        path,
        format!("{name:?} is not a label name: letters, digits, '-', '_' and '.', at most {MAX_LABEL}, with an optional DNS name and '/' in front"),
    );
}

pub(crate) fn check_label_value(value: &str, path: &Path<'_>, problems: &mut Problems) {
    let fine = value.is_empty() || value.len() <= MAX_LABEL && is_word(value);
    problems.require(
        fine,
        path,
        format!("{value:?} is not a label value: letters, digits, '-', '_' and '.', at most {MAX_LABEL}, beginning and ending with a letter or digit"),
    );
}
