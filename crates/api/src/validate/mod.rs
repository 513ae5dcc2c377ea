//! The rules of each kind beyond its types: Calico's Go validator and CRD rules, and defaults.

pub(crate) mod bfd;
pub(crate) mod bgp;
mod common;
pub(crate) mod endpoints;
pub(crate) mod felix;
pub(crate) mod ip_pool;
pub(crate) mod ipam;
pub(crate) mod k8s_cluster_policy;
pub(crate) mod k8s_policy;
pub(crate) mod metadata;
pub(crate) mod node;
pub(crate) mod policy;
mod rule;
pub(crate) mod sets;
pub(crate) mod tier;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_bgp;
