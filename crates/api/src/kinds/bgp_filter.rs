//! BGP filters.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    Kind, NoStatus, Object, Spec,
    path::Problems,
    types::{AsNumber, Community, net, string_enum::string_enum},
    validate,
};

string_enum! { exact
    /// What happens to a route that matches.
    pub enum FilterAction {
        /// It passes, after `operations`.
        Accept = "Accept",
        /// It doesn't.
        Reject = "Reject",
    }
}

string_enum! { exact
    /// How `cidr` relates to the route's prefix.
    pub enum MatchOperator {
        /// The same prefix.
        Equal = "Equal",
        /// Another prefix.
        NotEqual = "NotEqual",
        /// Inside it, or the same.
        In = "In",
        /// Not inside it.
        NotIn = "NotIn",
    }
}

string_enum! { exact
    /// Where a route was learned.
    pub enum RouteSource {
        /// From a BGP peer.
        RemotePeers = "RemotePeers",
    }
}

string_enum! { exact
    /// Kind of session.
    pub enum PeerType {
        /// With another AS.
        Ebgp = "eBGP",
        /// Within the AS.
        Ibgp = "iBGP",
    }
}

/// Ordered rules per direction and family; the first match decides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpFilterSpec {
    /// For IPv4 routes sent to the peer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub export_v4: Vec<BgpFilterRule>,
    /// For IPv4 routes received.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub import_v4: Vec<BgpFilterRule>,
    /// For IPv6 routes sent to the peer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub export_v6: Vec<BgpFilterRule>,
    /// For IPv6 routes received.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub import_v6: Vec<BgpFilterRule>,
}

/// One rule: everything given must match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpFilterRule {
    /// What happens to matching routes.
    pub action: FilterAction,
    /// Together with `matchOperator`.
    #[serde(default, deserialize_with = "net::cidr_opt", skip_serializing_if = "Option::is_none")]
    pub cidr: Option<IpNet>,
    /// Together with `cidr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_operator: Option<MatchOperator>,
    /// Bounds of the prefix length; needs `cidr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_length: Option<PrefixLength>,
    /// Where the route was learned; export only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<RouteSource>,
    /// The route's outgoing interface; may hold `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Kind of session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<PeerType>,
    /// The route carries this community.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<CommunityMatch>,
    /// AS_PATH begins with these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub as_path_prefix: Vec<AsNumber>,
    /// The route's priority, as a kernel metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Changes to accepted routes, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<FilterOperation>,
}

/// Bounds of a prefix length, both included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrefixLength {
    /// Absent: the length of `cidr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u8>,
    /// Absent: 32 or 128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u8>,
}

/// Communities a route must carry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommunityMatch {
    /// Exactly one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Community>,
}

/// One change to an accepted route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum FilterOperation {
    /// Adds a community.
    AddCommunity(AddCommunity),
    /// Puts AS numbers in front of AS_PATH.
    #[serde(rename = "prependASPath")]
    PrependAsPath(PrependAsPath),
    /// Sets the route's priority.
    SetPriority(SetPriority),
}

/// Operand of [`FilterOperation::AddCommunity`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddCommunity {
    /// What to add.
    pub value: Community,
}

/// Operand of [`FilterOperation::PrependAsPath`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrependAsPath {
    /// 1 to 10 AS numbers, first in front.
    pub prefix: Vec<AsNumber>,
}

/// Operand of [`FilterOperation::SetPriority`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetPriority {
    /// 1 to 2147483646.
    pub value: u32,
}

impl BgpFilterSpec {
    /// The rules of all lists.
    pub fn rules(&self) -> impl Iterator<Item = &BgpFilterRule> {
        [&self.export_v4, &self.import_v4, &self.export_v6, &self.import_v6].into_iter().flatten()
    }
}

impl Spec for BgpFilterSpec {
    const KIND: Kind = Kind::BgpFilter;
    type Status = NoStatus;
    fn check(object: &Object<Self>, problems: &mut Problems) {
        validate::bgp::check_filter(object, problems);
    }
}
