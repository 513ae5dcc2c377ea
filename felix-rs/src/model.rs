//! What a node has to enforce: the boundary between [`calc`](crate) and rules, render, apply, verdict.
//!
//! Selectors are gone here: every "who" of a policy has become a reference to an address set whose members
//! the calculation maintains. Names of policies and the numbers of their rules stay, because
//! explain, counters and flow logs speak in them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

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
    /// Address, protocol and port (`hash:ip,port`), for named ports and services.
    IpPort,
}

/// A member of a set; both address families live in one set and are split when rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum SetMember {
    /// For [`SetKind::Net`].
    Net(IpNet),
    /// For [`SetKind::IpPort`]: address, IP protocol number, port.
    IpPort(IpAddr, u8, u16),
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

/// `defaultEndpointToHostAction` of FelixConfiguration: pod to its own node, after egress policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Default)]
pub enum EndpointToHostAction {
    /// Drop (Calico's built-in default).
    #[default]
    Drop,
    /// Accept.
    Accept,
    /// Go on with the node's own INPUT rules.
    Return,
}

/// A failsafe port of the node: always reachable whatever host endpoint policy says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct FailsafePort {
    /// IP protocol number.
    pub protocol: u8,
    /// Port.
    pub port: u16,
    /// Only for this peer network, if given.
    pub net: Option<IpNet>,
}

/// How natOutgoing rewrites a packet: `nat…` fields of FelixConfiguration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SourceNat {
    /// `natOutgoingAddress`: the new source of IPv4 packets; absent: the address of the interface they leave by.
    pub address: Option<Ipv4Addr>,
    /// `natPortRange`: source ports of TCP, UDP and SCTP; absent: any.
    pub ports: Option<PortRange>,
    /// `natOutgoingExclusions: IPPoolsAndHostIPs`: packets to nodes keep their source too.
    pub spares_nodes: bool,
    /// `iptablesNATOutgoingInterfaceFilter`: only packets that leave by this interface (`eth+`: whose name begins so).
    pub interface: Option<Arc<str>>,
}

/// Names of the interfaces that our CNI plugin makes begin so.
const OWN_PREFIX: &str = "mgy";

/// Settings of the node that shape its fixed rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeSettings {
    /// What names of workload interfaces begin with; never empty.
    pub workload_prefixes: Vec<Arc<str>>,
    /// Interfaces of local workload endpoints whose names begin with none of them.
    pub workload_interfaces: BTreeSet<Arc<str>>,
    /// Pod to its own node.
    pub endpoint_to_host: EndpointToHostAction,
    /// Inbound failsafe ports.
    pub failsafe_inbound: Vec<FailsafePort>,
    /// Outbound failsafe ports.
    pub failsafe_outbound: Vec<FailsafePort>,
    /// UDP port of the VXLAN device when the node uses VXLAN.
    pub vxlan_port: Option<u16>,
    /// UDP ports of the WireGuard devices of a node that encrypts.
    pub wireguard_ports: BTreeSet<u16>,
    /// The node uses IPIP.
    pub ipip: bool,
    /// Addresses of all nodes of the cluster: the only ones tunnel packets are accepted from.
    pub node_addresses: BTreeSet<IpAddr>,
    /// `externalNodesList` of FelixConfiguration: tunnel packets are accepted from these networks, too.
    pub external_nodes: BTreeSet<IpNet>,
    /// Those of this node; empty when the calculation is for the whole cluster.
    pub own_addresses: BTreeSet<IpAddr>,
    /// Networks of pools with natOutgoing.
    pub nat_outgoing: BTreeSet<IpNet>,
    /// How it is done.
    pub source_nat: SourceNat,
    /// Networks of all pools: destinations that are never masqueraded.
    pub pools: BTreeSet<IpNet>,
    /// Ranges of services that BGP advertises, unless `serviceLoopPrevention` is `Disabled`: what is still on its way to
    /// them when it is forwarded belongs to no service, and would come back.
    pub service_ranges: BTreeSet<IpNet>,
    /// `serviceLoopPrevention: Reject`: its sender is told.
    pub service_loop_rejects: bool,
    /// `disableConntrackInvalidCheck` of FelixConfiguration.
    pub allow_invalid: bool,
    /// `flowLogsLocalReporter` of FelixConfiguration: packets that policy drops are told to the agent.
    pub flow_log: bool,
    /// `logPrefix` of FelixConfiguration for rules with action Log.
    pub log_prefix: Arc<str>,
    /// Enforce IPv6 too.
    pub ipv6: bool,
    /// What writes the rules: `nftablesMode` and `iptablesBackend` of FelixConfiguration.
    pub backend: BackendChoice,
}

/// What names of workload interfaces begin with: `mgy`, and what FelixConfiguration's `interfacePrefix` (a list with commas)
/// says of other plugins.
pub fn workload_prefixes(interface_prefix: Option<&str>) -> Vec<Arc<str>> {
    let others = interface_prefix.unwrap_or_default().split(',').map(str::trim);
    let mut all = vec![OWN_PREFIX];
    for prefix in others.filter(|prefix| !prefix.is_empty()) {
        if !all.iter().any(|known| prefix.starts_with(known)) {
            all.push(prefix);
        }
    }
    all.into_iter().map(Into::into).collect()
}

/// What writes rules and sets into the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum BackendChoice {
    /// iptables of the variant that is in use on the machine; nftables where iptables is not installed.
    #[default]
    Auto,
    /// `iptables-nft` and ip sets.
    IptablesNft,
    /// `iptables-legacy` and ip sets.
    IptablesLegacy,
    /// `nft`: a table of our own for each family, with sets and maps.
    Nftables,
}

impl NodeSettings {
    /// The address is a node's of the cluster, or of one that is counted among them.
    #[must_use]
    pub fn is_node(&self, address: IpAddr) -> bool {
        self.node_addresses.contains(&address) || self.external_nodes.iter().any(|net| net.contains(&address))
    }
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            workload_prefixes: workload_prefixes(None),
            workload_interfaces: BTreeSet::new(),
            endpoint_to_host: EndpointToHostAction::Drop,
            failsafe_inbound: Vec::new(),
            failsafe_outbound: Vec::new(),
            vxlan_port: None,
            wireguard_ports: BTreeSet::new(),
            ipip: false,
            node_addresses: BTreeSet::new(),
            external_nodes: BTreeSet::new(),
            own_addresses: BTreeSet::new(),
            nat_outgoing: BTreeSet::new(),
            source_nat: SourceNat::default(),
            pools: BTreeSet::new(),
            service_ranges: BTreeSet::new(),
            service_loop_rejects: false,
            allow_invalid: false,
            flow_log: false,
            log_prefix: "margay-packet".into(),
            ipv6: true,
            backend: BackendChoice::Auto,
        }
    }
}

/// Change of one set between two flushes of the calculation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum SetChange {
    /// A set that is new, with all its members.
    Create {
        /// Kind of its members.
        kind: SetKind,
        /// All members.
        members: BTreeSet<SetMember>,
    },
    /// Members that came and went.
    Update {
        /// Members to add.
        added: BTreeSet<SetMember>,
        /// Members to delete.
        removed: BTreeSet<SetMember>,
    },
    /// No rule refers to it any more.
    Delete,
}

/// Difference of the enforced state between two flushes; applying all deltas in order to an empty state
/// gives the enforced state. `None` means gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Delta {
    /// Changed sets.
    pub sets: BTreeMap<SetId, SetChange>,
    /// Meaning in a person's words of every set that is new here; explain and comments use it. The text is a
    /// function of the id: it never changes while the set lives.
    pub set_names: BTreeMap<SetId, Arc<str>>,
    /// Changed policies.
    pub policies: BTreeMap<PolicyId, Option<Arc<ActivePolicy>>>,
    /// Changed profiles.
    pub profiles: BTreeMap<ProfileId, Option<Arc<ActiveProfile>>>,
    /// Changed endpoints.
    pub endpoints: BTreeMap<EndpointId, Option<Arc<LocalEndpoint>>>,
    /// New settings, if they changed.
    pub settings: Option<Arc<NodeSettings>>,
}

/// The enforced state as a whole: sum of all deltas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EnforcedState {
    /// All sets with kind and members.
    pub sets: BTreeMap<SetId, (SetKind, BTreeSet<SetMember>)>,
    /// Meaning of each set in a person's words.
    pub set_names: BTreeMap<SetId, Arc<str>>,
    /// Active policies.
    pub policies: BTreeMap<PolicyId, Arc<ActivePolicy>>,
    /// Active profiles.
    pub profiles: BTreeMap<ProfileId, Arc<ActiveProfile>>,
    /// Local endpoints.
    pub endpoints: BTreeMap<EndpointId, Arc<LocalEndpoint>>,
    /// Settings of the node.
    pub settings: Arc<NodeSettings>,
}

impl Delta {
    /// Nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

impl EnforcedState {
    /// Applies one delta.
    pub fn apply(&mut self, delta: &Delta) {
        for (id, change) in &delta.sets {
            match change {
                SetChange::Create { kind, members } => {
                    self.sets.insert(id.clone(), (*kind, members.clone()));
                }
                SetChange::Update { added, removed } => {
                    if let Some((_, members)) = self.sets.get_mut(id) {
                        members.extend(added);
                        for member in removed {
                            members.remove(member);
                        }
                    }
                }
                SetChange::Delete => {
                    self.sets.remove(id);
                    self.set_names.remove(id);
                }
            }
        }
        self.set_names.extend(delta.set_names.iter().map(|(id, name)| (id.clone(), Arc::clone(name))));
        merge(&mut self.policies, &delta.policies);
        merge(&mut self.profiles, &delta.profiles);
        merge(&mut self.endpoints, &delta.endpoints);
        if let Some(settings) = &delta.settings {
            self.settings = Arc::clone(settings);
        }
    }
}

fn merge<K: Ord + Clone, V>(map: &mut BTreeMap<K, Arc<V>>, changes: &BTreeMap<K, Option<Arc<V>>>) {
    for (key, change) in changes {
        match change {
            Some(value) => {
                map.insert(key.clone(), Arc::clone(value));
            }
            None => {
                map.remove(key);
            }
        }
    }
}
