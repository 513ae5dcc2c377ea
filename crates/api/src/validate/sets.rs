//! Network sets.

use ipnet::IpNet;

use super::common;
use crate::{
    GlobalNetworkSet, Metadata, NetworkSet,
    path::{METADATA, Problems, SPEC},
};

/// The engine derives this label from the object's namespace.
pub(crate) const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

pub(crate) fn check(set: &NetworkSet, problems: &mut Problems) {
    check_set(&set.metadata, &set.spec.nets, problems);
}

pub(crate) fn check_global(set: &GlobalNetworkSet, problems: &mut Problems) {
    check_set(&set.metadata, &set.spec.nets, problems);
}

fn check_set(metadata: &Metadata, nets: &[IpNet], problems: &mut Problems) {
    problems.require(
        !metadata.labels.contains_key(NAMESPACE_LABEL),
        &METADATA.field("labels").key(NAMESPACE_LABEL),
        "this label is reserved: it follows from the object's namespace",
    );
    common::unique(nets, &SPEC.field("nets"), problems);
}
