//! Import and export rules: Calico's BGPFilter, compiled. Filters run in order, in each the first rule that matches
//! decides; a route that no rule matches gets the policy's default.

mod trace;

pub use trace::{Step, Trace};

use crate::wire::{AsPath, Community, LargeCommunity, PathAttributes};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// LOCAL_PREF of a route with a priority (metric units, lower is better), as Calico maps one onto the other.
#[must_use]
pub const fn preference(priority: u32) -> u32 {
    2_147_483_647u32.saturating_sub(priority)
}

/// Accept or reject; ends the evaluation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Take the route, with the rule's operations applied.
    #[default]
    Accept,
    /// Filter the route.
    Reject,
}

/// Filters in order and what happens to routes that none of them decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Policy {
    /// In order.
    pub filters: Vec<Filter>,
    /// For routes without a matching rule.
    pub default: Action,
}

/// A named list of rules (a BGPFilter's lists of one direction, both families).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Filter {
    /// Name shown in traces.
    pub name: String,
    /// In order.
    pub rules: Vec<Rule>,
}

/// How a prefix relates to `cidr` (BGPFilter `matchOperator`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CidrOperator {
    /// The same prefix.
    Equal,
    /// Not the same prefix.
    NotEqual,
    /// The same or inside.
    In,
    /// Neither the same nor inside.
    NotIn,
}

/// A prefix match.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CidrMatch {
    /// The prefix compared with; routes of the other family never match.
    pub cidr: IpNet,
    /// How.
    pub operator: CidrOperator,
    /// Bounds of the mask length (BGPFilter `prefixLength`); only for `In` and `NotIn`.
    pub length: Option<RangeInclusive<u8>>,
}

/// A match of the interface that packets leave by (BGPFilter `interface`): which next hops are behind such a one. The longest
/// network around a next hop decides; one in no network is behind none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NextHopMatch {
    /// The networks this host has routes to, and whether the interface there is one that is meant.
    pub networks: Vec<(IpNet, bool)>,
}

/// Session type (BGPFilter `peerType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PeerType {
    /// Another AS.
    #[serde(rename = "eBGP")]
    External,
    /// The same AS.
    #[serde(rename = "iBGP")]
    Internal,
}

/// A plain or a large community (BGPFilter `communities.values`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AnyCommunity {
    /// `aa:nn`
    Plain(Community),
    /// `aa:nn:mm`
    Large(LargeCommunity),
}

/// A change to an accepted route (BGPFilter `operations`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operation {
    /// Add a community.
    AddCommunity(AnyCommunity),
    /// Put these AS numbers in front of AS_PATH, in this order.
    PrependAsPath(Vec<u32>),
    /// Set the priority (metric units, lower is better): LOCAL_PREF becomes 2147483647 minus it. It decides
    /// between routes; their metric in the kernel is the node's own.
    SetPriority(u32),
    /// Set LOCAL_PREF.
    SetLocalPref(u32),
    /// Set MULTI_EXIT_DISC.
    SetMed(u32),
}

/// One rule: every condition that is present must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// What happens to matching routes.
    pub action: Action,
    /// Prefix.
    pub prefix: Option<CidrMatch>,
    /// Only routes learned by BGP (BGPFilter `source: RemotePeers`).
    pub learned: bool,
    /// Way out.
    #[serde(default)]
    pub next_hop: Option<NextHopMatch>,
    /// Session type.
    pub peer_type: Option<PeerType>,
    /// The route carries this community.
    pub community: Option<AnyCommunity>,
    /// AS_PATH begins with this sequence; empty matches all.
    pub as_path_prefix: Vec<u32>,
    /// Priority equals this (LOCAL_PREF is 2147483647 minus it).
    pub priority: Option<u32>,
    /// Changes to accepted routes, in order.
    pub operations: Vec<Operation>,
}

/// The route as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct RouteView<'a> {
    /// The prefix.
    pub prefix: IpNet,
    /// Where it leads, before an export changes that; absent for a route originated here.
    pub next_hop: Option<IpAddr>,
    /// Its attributes.
    pub attributes: &'a PathAttributes,
    /// Learned by BGP rather than originated here.
    pub learned: bool,
    /// Type of the session it comes from (import) or goes to (export).
    pub peer_type: PeerType,
}

/// Result of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Unchanged.
    Accept,
    /// With these attributes.
    Change(Box<PathAttributes>),
    /// Filtered.
    Reject,
}

impl Policy {
    /// Whether it accepts everything unchanged, whatever the route.
    #[must_use]
    pub fn is_transparent(&self) -> bool {
        self.default == Action::Accept && self.filters.iter().all(|filter| filter.rules.is_empty())
    }

    /// Nobody has said anything: no filter, and everything accepted.
    pub(crate) fn is_none(&self) -> bool {
        self.default == Action::Accept && self.filters.is_empty()
    }

    /// Evaluates the rules for a route.
    #[must_use]
    pub fn apply(&self, route: &RouteView<'_>) -> Verdict {
        let mut rules = self.filters.iter().flat_map(|filter| &filter.rules);
        match rules.find(|rule| rule.mismatch(route).is_none()) {
            Some(rule) if rule.action == Action::Reject => Verdict::Reject,
            Some(rule) if rule.operations.is_empty() => Verdict::Accept,
            Some(rule) => Verdict::Change(Box::new(rule.operate(route.attributes))),
            None if self.default == Action::Reject => Verdict::Reject,
            None => Verdict::Accept,
        }
    }
}

impl CidrMatch {
    fn matches(&self, prefix: &IpNet) -> bool {
        let same_family =
            matches!((self.cidr, prefix), (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_)));
        if !same_family {
            return false;
        }
        let in_range = self.length.as_ref().is_none_or(|range| range.contains(&prefix.prefix_len()));
        match self.operator {
            CidrOperator::Equal => self.cidr == *prefix,
            CidrOperator::NotEqual => self.cidr != *prefix,
            CidrOperator::In => self.cidr.contains(prefix) && in_range,
            CidrOperator::NotIn => !(self.cidr.contains(prefix) && in_range),
        }
    }
}

impl NextHopMatch {
    fn matches(&self, next_hop: IpAddr) -> bool {
        let around = self.networks.iter().filter(|(network, _)| network.contains(&next_hop));
        around.max_by_key(|(network, _)| network.prefix_len()).is_some_and(|(_, meant)| *meant)
    }
}

impl AnyCommunity {
    fn is_in(&self, attributes: &PathAttributes) -> bool {
        match self {
            Self::Plain(community) => attributes.communities.has(community),
            Self::Large(community) => attributes.large_communities.has(community),
        }
    }
}

impl Rule {
    /// The first condition that doesn't hold, in words; `None` if the rule matches.
    fn mismatch(&self, route: &RouteView<'_>) -> Option<&'static str> {
        if self.prefix.as_ref().is_some_and(|prefix| !prefix.matches(&route.prefix)) {
            Some("prefix")
        } else if self.learned && !route.learned {
            Some("source")
        } else if let Some(wanted) = &self.next_hop
            && !route.next_hop.is_some_and(|next_hop| wanted.matches(next_hop))
        {
            Some("interface")
        } else if self.peer_type.is_some_and(|kind| kind != route.peer_type) {
            Some("peer type")
        } else if self.community.as_ref().is_some_and(|community| !community.is_in(route.attributes)) {
            Some("community")
        } else if !begins_with(&route.attributes.as_path, &self.as_path_prefix) {
            Some("AS path")
        } else if self
            .priority
            .is_some_and(|priority| route.attributes.local_pref != Some(preference(priority)))
        {
            Some("priority")
        } else {
            None
        }
    }

    fn operate(&self, attributes: &PathAttributes) -> PathAttributes {
        let mut out = attributes.clone();
        for operation in &self.operations {
            match operation {
                Operation::AddCommunity(AnyCommunity::Plain(community)) => {
                    out.communities = out.communities.with(*community);
                }
                Operation::AddCommunity(AnyCommunity::Large(community)) => {
                    out.large_communities = out.large_communities.with(*community);
                }
                Operation::PrependAsPath(asns) => {
                    for asn in asns.iter().rev() {
                        out.as_path = out.as_path.prepended(*asn, 1);
                    }
                }
                Operation::SetPriority(priority) => {
                    out.local_pref = Some(preference(*priority));
                }
                Operation::SetLocalPref(value) => out.local_pref = Some(*value),
                Operation::SetMed(value) => out.med = Some(*value),
            }
        }
        out
    }
}

fn begins_with(path: &AsPath, prefix: &[u32]) -> bool {
    let mut asns = path.asns();
    prefix.iter().all(|asn| asns.next() == Some(*asn))
}

#[cfg(test)]
mod tests;
