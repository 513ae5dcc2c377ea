//! What a node has to enforce: the boundary between [`calc`](crate) and rules, render, apply, verdict.
//!
//! Selectors are gone here: every "who" of a policy has become a reference to an address set whose members
//! the calculation maintains. Names of policies and the numbers of their rules stay, because
//! explain, counters and flow logs speak in them.

mod delta;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

pub use self::delta::{Delta, EnforcedState, SetChange};
pub(crate) use self::settings::VXLAN_PORT;
pub use self::settings::{
    BackendChoice, EndpointToHostAction, FailsafePort, NodeSettings, SourceNat, WriterSettings,
    workload_prefixes,
};

/// Which packets a policy sees first: towards the endpoint or from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Direction {
    /// Packets towards the endpoint.
    Ingress,
    /// Packets from the endpoint.
    Egress,
}

/// Identity of an address set: stable over restarts, derived from what the set means (selector id, named
/// port, service), not from when it was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SetId(pub Arc<str>);

/// What the members of a set are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum SetKind {
    /// Addresses and networks (`hash:net`).
    Net,
    /// Addresses alone, as networks of full length.
    Host,
    /// Address, protocol and port (`hash:ip,port`), for named ports and services.
    IpPort,
}

/// A member of a set; both address families live in one set and are split when rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum SetMember {
    /// For [`SetKind::Net`] and [`SetKind::Host`].
    Net(IpNet),
    /// For [`SetKind::IpPort`]: address, IP protocol number, port.
    IpPort(IpAddr, u8, u16),
}

impl SetMember {
    /// Whether it is more than one address.
    pub fn is_network(&self) -> bool {
        matches!(self, Self::Net(net) if net.prefix_len() < net.max_prefix_len())
    }
}

/// A port match: one port is `first == last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PortRange {
    /// Lowest port of the range.
    pub first: u16,
    /// Highest port of the range, inclusive.
    pub last: u16,
}

/// ICMP (or ICMPv6) type and, optionally, code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct IcmpMatch {
    /// Absent: any type.
    pub kind: Option<u8>,
    /// Absent: any code of that type.
    pub code: Option<u8>,
}

/// One side (source or destination) of a rule. All parts are ANDed, an empty part matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PeerMatch {
    /// The address is in one of these; empty: any.
    pub nets: Vec<IpNet>,
    /// The address is in none of these.
    pub not_nets: Vec<IpNet>,
    /// The address is in every one of these sets.
    pub sets: Vec<SetId>,
    /// The address is in none of these sets.
    pub not_sets: Vec<SetId>,
    /// The port is in one of these ranges or one of `named_ports`; both empty: any.
    pub ports: Vec<PortRange>,
    /// (address, protocol, port) is in one of these [`SetKind::IpPort`] sets.
    pub named_ports: Vec<SetId>,
    /// The port is in none of these.
    pub not_ports: Vec<PortRange>,
    /// (address, protocol, port) is in none of these.
    pub not_named_ports: Vec<SetId>,
    /// (address, protocol, port) is in this set of a Service's endpoints.
    pub service: Option<SetId>,
}

/// A side that many rules have in common, kept once. Who changes it changes a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SharedPeer(Arc<PeerMatch>);

impl From<PeerMatch> for SharedPeer {
    fn from(peer: PeerMatch) -> Self {
        Self(Arc::new(peer))
    }
}

impl From<Arc<PeerMatch>> for SharedPeer {
    fn from(peer: Arc<PeerMatch>) -> Self {
        Self(peer)
    }
}

impl Deref for SharedPeer {
    type Target = PeerMatch;

    fn deref(&self) -> &PeerMatch {
        &self.0
    }
}

impl DerefMut for SharedPeer {
    fn deref_mut(&mut self) -> &mut PeerMatch {
        Arc::make_mut(&mut self.0)
    }
}

/// What a rule does with a packet it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum RuleAction {
    /// Accept in this direction; the other end's policy still runs.
    Allow,
    /// Drop silently.
    Deny,
    /// Leave the tier: next tier, or the profiles after the last.
    Pass,
    /// Log and go on with the next rule.
    Log,
}

/// One rule of an active policy, in the order written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PolicyRule {
    /// Number of the rule as the person wrote it, from 0; a rule that had to be split keeps one number.
    pub index: u32,
    /// See [`RuleAction`].
    pub action: RuleAction,
    /// 4 or 6; absent: both families.
    pub ip_version: Option<u8>,
    /// IP protocol number; absent: any.
    pub protocol: Option<u8>,
    /// Any protocol but this one.
    pub not_protocol: Option<u8>,
    /// Needs protocol 1 or 58.
    pub icmp: Option<IcmpMatch>,
    /// Negated ICMP match.
    pub not_icmp: Option<IcmpMatch>,
    /// Match on the source.
    pub source: SharedPeer,
    /// Match on the destination.
    pub destination: SharedPeer,
    /// `metadata.annotations` of the rule, for comments and flow logs.
    pub annotations: BTreeMap<String, String>,
}

impl PolicyRule {
    /// The rule for every packet.
    #[must_use]
    pub fn any(action: RuleAction) -> Self {
        Self {
            index: 0,
            action,
            ip_version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: SharedPeer::default(),
            destination: SharedPeer::default(),
            annotations: BTreeMap::new(),
        }
    }
}

/// Identity of a policy: the stored object it comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PolicyId {
    /// Kind of the stored object, for example `NetworkPolicy` or `GlobalNetworkPolicy`, or
    /// `KubernetesNetworkPolicy` for `networking.k8s.io/v1`.
    pub kind: Arc<str>,
    /// Namespace of a namespaced policy.
    pub namespace: Option<Arc<str>>,
    /// Name of the object.
    pub name: Arc<str>,
}

/// Identity of a profile (`kns.<namespace>`, `ksa.<namespace>.<account>`, or a Profile object's name).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ProfileId(pub Arc<str>);

/// A policy at least one local endpoint is selected by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActivePolicy {
    /// Identity.
    pub id: PolicyId,
    /// Tier it belongs to.
    pub tier: Arc<str>,
    /// Staged policies are counted and explained, never enforced.
    pub staged: bool,
    /// Rules for packets towards the endpoint.
    pub ingress: Vec<PolicyRule>,
    /// Rules for packets from the endpoint.
    pub egress: Vec<PolicyRule>,
    /// Host endpoints only: before conntrack.
    pub do_not_track: bool,
    /// Host endpoints only: before DNAT.
    pub pre_dnat: bool,
    /// Host endpoints only: for forwarded packets too.
    pub apply_on_forward: bool,
    /// Why the policy is quarantined, if so: it then denies everything in the directions it governs, and its
    /// rules already say so (one rule that denies), so nothing but explain and status needs to look here.
    pub invalid: Option<String>,
}

/// Rules of a profile, run after all tiers have passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActiveProfile {
    /// Identity.
    pub id: ProfileId,
    /// Rules for packets towards the endpoint.
    pub ingress: Vec<PolicyRule>,
    /// Rules for packets from the endpoint.
    pub egress: Vec<PolicyRule>,
}

/// What happens to a packet that a tier's enforced policies selected but did not decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum TierDefault {
    /// Drop it.
    Deny,
    /// Go on with the next tier.
    Pass,
}

/// One tier as it applies to one endpoint: only policies that select the endpoint, in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EndpointTier {
    /// Name of the tier.
    pub name: Arc<str>,
    /// End of tier.
    pub default: TierDefault,
    /// Policies with type Ingress.
    pub ingress: Vec<PolicyId>,
    /// Policies with type Egress.
    pub egress: Vec<PolicyId>,
}

/// Everything that decides packets of an endpoint. Endpoints with equal values share their chains.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EndpointPolicy {
    /// Tiers in order; tiers without a policy for this endpoint are absent.
    pub tiers: Vec<EndpointTier>,
    /// Profiles in order, run when no tier decided; nothing matched: drop.
    pub profiles: Vec<ProfileId>,
}

/// A local endpoint: the key under which the agent, the CNI shim and `margay endpoints` know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum EndpointId {
    /// A pod's interface: namespace and name of the WorkloadEndpoint.
    Workload {
        /// Namespace of the WorkloadEndpoint.
        namespace: Arc<str>,
        /// Name of the WorkloadEndpoint.
        name: Arc<str>,
    },
    /// An interface of the node itself: name of the HostEndpoint.
    Host {
        /// Name of the HostEndpoint.
        name: Arc<str>,
    },
}

/// A local endpoint and its policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalEndpoint {
    /// Identity.
    pub id: EndpointId,
    /// Interface on the node's side; for a host endpoint its interface, `*`, or empty when it is to be found
    /// by its addresses.
    pub interface: Arc<str>,
    /// Addresses of the endpoint (host endpoints: expectedIPs).
    pub addresses: BTreeSet<IpAddr>,
    /// Prefixes this pod may use as a source besides its addresses (`allowSpoofedSourcePrefixes`).
    pub allowed_sources: BTreeSet<IpNet>,
    /// What decides its packets (host endpoints: the normal policies).
    pub policy: Arc<EndpointPolicy>,
    /// Host endpoints only: doNotTrack policies.
    pub untracked: Arc<EndpointPolicy>,
    /// Host endpoints only: preDNAT policies.
    pub pre_dnat: Arc<EndpointPolicy>,
    /// Host endpoints only: applyOnForward policies.
    pub forward: Arc<EndpointPolicy>,
}
