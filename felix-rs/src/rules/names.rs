//! Names of chains and sets: hashes of what they mean, so that they are the same after a restart and two
//! nodes (or two versions) that mean the same say the same.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use super::language::{ChainName, SetName, SetType};
use crate::model::{Direction, EndpointPolicy, EndpointTier, PolicyId, ProfileId, SetId, TierDefault};

/// Every chain of ours begins so.
pub const CHAIN_PREFIX: &str = "mgy-";
/// Every set of ours begins with one of these: IPv4, IPv6.
pub const SET_PREFIXES: [&str; 2] = ["mgy40", "mgy60"];

/// Characters of base64 a name has of its hash: 96 bits.
const HASH_LENGTH: usize = 16;

/// Short stable hash of a text.
pub fn short_hash(text: &str) -> String {
    let mut hash = URL_SAFE_NO_PAD.encode(Sha256::digest(text));
    hash.truncate(HASH_LENGTH);
    hash
}

const fn letter(direction: Direction) -> char {
    match direction {
        Direction::Ingress => 'i',
        Direction::Egress => 'o',
    }
}

fn chain(text: String) -> ChainName {
    ChainName(text.into())
}

/// A chain that exists once: `mgy-<name>`.
pub fn fixed(name: &str) -> ChainName {
    chain(format!("{CHAIN_PREFIX}{name}"))
}

/// How people write a policy: `GlobalNetworkPolicy(name)`, `NetworkPolicy(namespace/name)`.
pub fn policy_text(id: &PolicyId) -> String {
    match &id.namespace {
        Some(namespace) => format!("{}({namespace}/{})", id.kind, id.name),
        None => format!("{}({})", id.kind, id.name),
    }
}

/// Chain of a policy's rules of one direction: `mgy-pi-…`, `mgy-po-…`.
pub fn policy(id: &PolicyId, direction: Direction) -> ChainName {
    chain(format!("{CHAIN_PREFIX}p{}-{}", letter(direction), short_hash(&policy_text(id))))
}

/// Chain of a profile's rules: `mgy-ri-…`, `mgy-ro-…`.
pub fn profile(id: &ProfileId, direction: Direction) -> ChainName {
    chain(format!("{CHAIN_PREFIX}r{}-{}", letter(direction), short_hash(&id.0)))
}

/// Identity of a group of endpoints: hash of what they share in one direction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub Arc<str>);

impl GroupId {
    /// The group of all endpoints for whose packets of this direction this policy is the same.
    pub fn of(policy: &EndpointPolicy, direction: Direction) -> Self {
        let mut text = format!("{direction}\n");
        for tier in &policy.tiers {
            write_tier(&mut text, tier, direction);
        }
        for profile in &policy.profiles {
            text.push_str("profile ");
            write_name(&mut text, &profile.0);
        }
        Self(short_hash(&text).into())
    }

    /// Set of (address, interface) of the group's endpoints.
    pub fn set(&self) -> SetName {
        SetName(format!("g-{}", self.0).into())
    }

    /// Chain of the group for packets towards (`mgy-gi-…`) or from (`mgy-go-…`) its endpoints.
    pub fn chain(&self, direction: Direction) -> ChainName {
        chain(format!("{CHAIN_PREFIX}g{}-{}", letter(direction), self.0))
    }

    /// A bit of the hash, from the first; six are in a character.
    pub(super) fn bit(&self, number: u8) -> bool {
        let character = self.0.as_bytes().get(usize::from(number / 6)).copied().unwrap_or_default();
        let sextet = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'-' => 62,
            _ => 63,
        };
        sextet >> (5 - number % 6) & 1 == 1
    }
}

fn write_tier(text: &mut String, tier: &EndpointTier, direction: Direction) {
    let default = match tier.default {
        TierDefault::Deny => "deny",
        TierDefault::Pass => "pass",
    };
    let policies = match direction {
        Direction::Ingress => &tier.ingress,
        Direction::Egress => &tier.egress,
    };
    if policies.is_empty() {
        return;
    }
    write_name(text, &tier.name);
    let _infallible = writeln!(text, "{default} {}", policies.len());
    for policy in policies {
        write_name(text, &policy.kind);
        write_name(text, policy.namespace.as_deref().unwrap_or_default());
        write_name(text, &policy.name);
    }
}

/// With its length before it, so that no two lists of names make the same text.
fn write_name(text: &mut String, name: &str) {
    let _infallible = writeln!(text, "{} {name}", name.len());
}

/// Set of the endpoints of several groups, by address only or with the interface.
pub(super) fn group_tree_set(groups: &[GroupId], plain: bool) -> SetName {
    let mut text = format!("{plain}\n");
    for group in groups {
        let _infallible = writeln!(text, "{}", group.0);
    }
    SetName(format!("t-{}", short_hash(&text)).into())
}

/// Whether a set's name is one of the search tree's.
pub fn is_group_tree_set(name: &str) -> bool {
    name.starts_with("t-")
}

/// Chain below the node at `path` of the tree of groups.
pub(super) fn group_tree_chain(direction: Direction, path: &str) -> ChainName {
    fixed(&format!("t{}-{path}1", letter(direction)))
}

/// Set of an address set of the calculation. It is another set when it is of another type: rules go over from the one to
/// the other when that is complete.
pub fn address_set(id: &SetId, kind: SetType) -> SetName {
    let prefix = if kind == SetType::Host { 'h' } else { 's' };
    SetName(format!("{prefix}-{}", short_hash(&id.0)).into())
}

/// Set of networks written out in a rule: named by its contents.
pub fn net_set(nets: &[IpNet]) -> SetName {
    let mut text = String::new();
    for net in nets {
        let _infallible = writeln!(text, "{net}");
    }
    SetName(format!("n-{}", short_hash(&text)).into())
}

/// A set that exists once.
pub fn fixed_set(name: &str) -> SetName {
    SetName(name.into())
}
