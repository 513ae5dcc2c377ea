//! Names of chains and sets: hashes of what they mean, so that they are the same after a restart and two
//! nodes (or two versions) that mean the same say the same.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use super::language::{ChainName, SetName};
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

/// Identity of a group of endpoints: hash of the policy they share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub Arc<str>);

impl GroupId {
    /// The group of all endpoints with this policy.
    pub fn of(policy: &EndpointPolicy) -> Self {
        let mut text = String::new();
        for tier in &policy.tiers {
            write_tier(&mut text, tier);
        }
        for profile in &policy.profiles {
            let _infallible = writeln!(text, "profile {:?}", profile.0);
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
}

fn write_tier(text: &mut String, tier: &EndpointTier) {
    let default = match tier.default {
        TierDefault::Deny => "deny",
        TierDefault::Pass => "pass",
    };
    let _infallible = writeln!(text, "tier {:?} {default}", tier.name);
    for (direction, policies) in [("ingress", &tier.ingress), ("egress", &tier.egress)] {
        for policy in policies {
            let _infallible = writeln!(text, "{direction} {policy:?}");
        }
    }
}

/// Set of an address set of the calculation.
pub fn address_set(id: &SetId) -> SetName {
    SetName(format!("s-{}", short_hash(&id.0)).into())
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
