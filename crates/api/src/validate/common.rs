//! Checks that several kinds use.

use std::collections::BTreeSet;

use crate::{
    kinds::SecretRef,
    path::{Path, Problems},
    selector::Selector,
};

/// Longest Linux interface name (`IFNAMSIZ` - 1).
pub(crate) const MAX_INTERFACE_NAME: usize = 15;
/// Longest selector text in any field.
const MAX_SELECTOR: usize = 1024;
/// Largest route priority: Linux metrics, less the values that Calico keeps.
const MAX_PRIORITY: u32 = 2_147_483_646;

pub(crate) fn at_most<T>(list: &[T], limit: usize, path: &Path<'_>, problems: &mut Problems) {
    problems.require(list.len() <= limit, path, format!("{} items, at most {limit} are allowed", list.len()));
}

pub(crate) fn unique<T: Ord + std::fmt::Display>(list: &[T], path: &Path<'_>, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (index, item) in list.iter().enumerate() {
        problems.require(seen.insert(item), &path.index(index), format!("{item} is listed twice"));
    }
}

/// Length, and no `global()`, which only a rule's `namespaceSelector` may hold.
pub(crate) fn selector(selector: Option<&Selector>, path: &Path<'_>, problems: &mut Problems) {
    let Some(selector) = selector else { return };
    selector_length(selector, path, problems);
    problems.require(
        !selector.mentions_global(),
        path,
        "global() can only be used in the namespaceSelector of a rule's source or destination",
    );
}

pub(crate) fn selector_length(selector: &Selector, path: &Path<'_>, problems: &mut Problems) {
    let length = selector.source().chars().count();
    problems.require(
        length <= MAX_SELECTOR,
        path,
        format!("{length} characters, at most {MAX_SELECTOR} are allowed"),
    );
}

pub(crate) fn interface(name: &str, wildcard: bool, path: &Path<'_>, problems: &mut Problems) {
    let allowed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-') || wildcard && b == b'*';
    let fine = !name.is_empty() && name.len() <= MAX_INTERFACE_NAME && name.bytes().all(allowed);
    let star = if wildcard { "; '*' stands for any characters" } else { "" };
    problems.require(
        fine,
        path,
        format!("{name:?} is not an interface name: 1 to {MAX_INTERFACE_NAME} letters, digits, '_', '.' or '-'{star}"),
    );
}

pub(crate) fn priority(value: Option<u32>, path: &Path<'_>, problems: &mut Problems) {
    let fine = value.is_none_or(|value| (1..=MAX_PRIORITY).contains(&value));
    problems.require(fine, path, format!("a priority is a number from 1 to {MAX_PRIORITY}"));
}

pub(crate) fn not_zero(value: Option<u16>, path: &Path<'_>, problems: &mut Problems) {
    problems.require(value != Some(0), path, "0 is not a port here: use 1 to 65535");
}

pub(crate) fn secret(secret: Option<&SecretRef>, path: &Path<'_>, problems: &mut Problems) {
    let Some(secret) = secret else { return };
    let reference = path.field("secretKeyRef");
    match &secret.secret_key_ref {
        None => problems.add(&reference, "required, but missing"),
        Some(key) => problems.require(!key.key.is_empty(), &reference.field("key"), "required, but missing"),
    }
}
