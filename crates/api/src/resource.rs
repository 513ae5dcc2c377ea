//! All kinds in one enumeration, and their identity.

use std::fmt;

use crate::{
    Metadata, Object,
    error::{ApiError, Invalid},
    kinds::{
        BfdConfigurationSpec, BgpConfigurationSpec, BgpFilterSpec, BgpPeerSpec, ClusterInformationSpec,
        ClusterNetworkPolicySpec, EndpointSliceSpec, FelixConfigurationSpec, GlobalNetworkPolicySpec,
        GlobalNetworkSetSpec, HostEndpointSpec, IpPoolSpec, IpReservationSpec, IpamBlockSpec,
        IpamConfigurationSpec, KubernetesNetworkPolicySpec, NamespaceSpec, NetworkPolicySpec, NetworkSetSpec,
        NodeSpec, PodSpec, ProfileSpec, ServiceAccountSpec, ServiceSpec, StagedGlobalNetworkPolicySpec,
        StagedKubernetesNetworkPolicySpec, StagedNetworkPolicySpec, TierSpec, WorkloadEndpointSpec,
    },
};

const CALICO: &str = "projectcalico.org/v3";
const KUBERNETES_NETWORKING: &str = "networking.k8s.io/v1";
const KUBERNETES_CORE: &str = "v1";
const KUBERNETES_DISCOVERY: &str = "discovery.k8s.io/v1";
const KUBERNETES_POLICY: &str = "policy.networking.k8s.io/v1alpha2";

/// One row per kind: variant (alias of `Object<Spec>`), spec, `kind:` text, `apiVersion:`, plural, scope, short names.
macro_rules! kinds {
    ($( $(#[$meta:meta])* $variant:ident($spec:ident) = $kind:literal, $version:ident, $plural:literal, $namespaced:literal, [$($short:literal),*]; )*) => {
        /// A kind of resource.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $( $(#[$meta])* $variant ),* }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[ $( Self::$variant ),* ];

            /// The text of `kind:` in YAML. Both Calico's and Kubernetes' policy say `NetworkPolicy`.
            #[must_use]
            pub const fn kind(self) -> &'static str {
                match self { $( Self::$variant => $kind ),* }
            }

            /// The text of `apiVersion:` in YAML.
            #[must_use]
            pub const fn api_version(self) -> &'static str {
                match self { $( Self::$variant => $version ),* }
            }

            /// Lower-case plural, unique among all kinds: the kind's part of a datastore key.
            #[must_use]
            pub const fn plural(self) -> &'static str {
                match self { $( Self::$variant => $plural ),* }
            }

            /// Whether objects have a namespace.
            #[must_use]
            pub const fn namespaced(self) -> bool {
                match self { $( Self::$variant => $namespaced ),* }
            }

            /// Names that command lines take beside the kind and its plural.
            #[must_use]
            pub const fn short_names(self) -> &'static [&'static str] {
                match self { $( Self::$variant => &[$($short),*] ),* }
            }

            /// The variant's own name, unique among all kinds.
            const fn unique_name(self) -> &'static str {
                match self { $( Self::$variant => stringify!($variant) ),* }
            }
        }

        $(
            #[doc = concat!("`", $kind, "` of `", stringify!($version), "`.")]
            pub type $variant = Object<$spec>;

            impl From<$variant> for Resource {
                fn from(object: $variant) -> Self { Self::$variant(object) }
            }
        )*

        /// A resource of any kind.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "resources live in Arc or one at a time; boxing would burden every match")]
        pub enum Resource { $( $(#[$meta])* $variant($variant) ),* }

        impl Resource {
            /// Its kind.
            #[must_use]
            pub fn kind(&self) -> Kind {
                match self { $( Self::$variant(_) => Kind::$variant ),* }
            }

            /// Name, namespace and labels.
            #[must_use]
            pub fn metadata(&self) -> &Metadata {
                match self { $( Self::$variant(object) => &object.metadata ),* }
            }

            /// Name, namespace and labels.
            pub fn metadata_mut(&mut self) -> &mut Metadata {
                match self { $( Self::$variant(object) => &mut object.metadata ),* }
            }

            /// Checks every rule of the kind.
            ///
            /// # Errors
            /// All problems found.
            pub fn validate(&self) -> Result<(), Invalid> {
                match self { $( Self::$variant(object) => object.validate() ),* }
            }

            /// Fills in what Calico's API server would.
            pub fn set_defaults(&mut self) {
                match self { $( Self::$variant(object) => object.set_defaults() ),* }
            }

            /// As written in YAML and stored: with `apiVersion` and `kind`, without empty fields.
            #[must_use]
            pub fn to_json(&self) -> serde_json::Value {
                match self { $( Self::$variant(object) => crate::json::encode(object) ),* }
            }

            pub(crate) fn decode<I: crate::json::Input>(kind: Kind, input: &I) -> Result<Self, I::Error> {
                match kind { $( Kind::$variant => crate::json::decode::<$spec, I>(input).map(Self::$variant) ),* }
            }
        }
    };
}

kinds! {
    /// Addresses for pods.
    IpPool(IpPoolSpec) = "IPPool", CALICO, "ippools", false, ["ipp", "pool", "pools"];
    /// Addresses never handed out automatically.
    IpReservation(IpReservationSpec) = "IPReservation", CALICO, "ipreservations", false, ["reservation", "reservations"];
    /// IPAM settings of the cluster.
    IpamConfiguration(IpamConfigurationSpec) = "IPAMConfiguration", CALICO, "ipamconfigurations", false, ["ipamconfig", "ipamconfigs"];
    /// A part of a pool that one node hands out.
    IpamBlock(IpamBlockSpec) = "IPAMBlock", CALICO, "ipamblocks", false, ["block", "blocks"];
    /// A machine.
    Node(NodeSpec) = "Node", CALICO, "nodes", false, ["no"];
    /// BGP settings of the cluster or one node.
    BgpConfiguration(BgpConfigurationSpec) = "BGPConfiguration", CALICO, "bgpconfigurations", false, ["bgpconfig", "bgpconfigs"];
    /// BGP sessions beyond the mesh.
    BgpPeer(BgpPeerSpec) = "BGPPeer", CALICO, "bgppeers", false, ["bgpp", "bp"];
    /// Route filters of sessions.
    BgpFilter(BgpFilterSpec) = "BGPFilter", CALICO, "bgpfilters", false, ["bgpf", "bf"];
    /// Timers of BFD.
    BfdConfiguration(BfdConfigurationSpec) = "BFDConfiguration", CALICO, "bfdconfigurations", false, ["bfdconfig", "bfdconfigs"];
    /// A group of policies with a place in the order.
    Tier(TierSpec) = "Tier", CALICO, "tiers", false, [];
    /// Calico's policy inside a namespace.
    NetworkPolicy(NetworkPolicySpec) = "NetworkPolicy", CALICO, "networkpolicies", true, ["np", "pol", "policy", "policies", "cnp", "caliconetworkpolicy"];
    /// Calico's policy for the cluster.
    GlobalNetworkPolicy(GlobalNetworkPolicySpec) = "GlobalNetworkPolicy", CALICO, "globalnetworkpolicies", false, ["gnp", "cgnp"];
    /// A NetworkPolicy that is only evaluated, not enforced.
    StagedNetworkPolicy(StagedNetworkPolicySpec) = "StagedNetworkPolicy", CALICO, "stagednetworkpolicies", true, ["snp", "scnp"];
    /// A GlobalNetworkPolicy that is only evaluated, not enforced.
    StagedGlobalNetworkPolicy(StagedGlobalNetworkPolicySpec) = "StagedGlobalNetworkPolicy", CALICO, "stagedglobalnetworkpolicies", false, ["sgnp"];
    /// A Kubernetes NetworkPolicy that is only evaluated, not enforced.
    StagedKubernetesNetworkPolicy(StagedKubernetesNetworkPolicySpec) = "StagedKubernetesNetworkPolicy", CALICO, "stagedkubernetesnetworkpolicies", true, ["sknp"];
    /// Named networks inside a namespace.
    NetworkSet(NetworkSetSpec) = "NetworkSet", CALICO, "networksets", true, ["netset", "netsets"];
    /// Named networks for the cluster.
    GlobalNetworkSet(GlobalNetworkSetSpec) = "GlobalNetworkSet", CALICO, "globalnetworksets", false, ["gns", "gnetset", "gnetsets"];
    /// An interface of a machine itself, to be policed.
    HostEndpoint(HostEndpointSpec) = "HostEndpoint", CALICO, "hostendpoints", false, ["hep", "heps"];
    /// Rules and labels shared by endpoints.
    Profile(ProfileSpec) = "Profile", CALICO, "profiles", false, ["pro"];
    /// A pod's interface.
    WorkloadEndpoint(WorkloadEndpointSpec) = "WorkloadEndpoint", CALICO, "workloadendpoints", true, ["wep", "weps"];
    /// Settings of the policy engine and the data plane.
    FelixConfiguration(FelixConfigurationSpec) = "FelixConfiguration", CALICO, "felixconfigurations", false, ["felixconfig", "felixconfigs"];
    /// Facts about the cluster.
    ClusterInformation(ClusterInformationSpec) = "ClusterInformation", CALICO, "clusterinformations", false, ["clusterinfo", "clusterinfos"];
    /// Kubernetes' policy.
    KubernetesNetworkPolicy(KubernetesNetworkPolicySpec) = "NetworkPolicy", KUBERNETES_NETWORKING, "kubernetesnetworkpolicies", true, ["knp", "k8snetworkpolicy"];
    /// Kubernetes' policy for the cluster, by its administrator.
    ClusterNetworkPolicy(ClusterNetworkPolicySpec) = "ClusterNetworkPolicy", KUBERNETES_POLICY, "clusternetworkpolicies", false, ["kcnp"];
    /// Kubernetes' namespace.
    Namespace(NamespaceSpec) = "Namespace", KUBERNETES_CORE, "namespaces", false, ["ns"];
    /// Kubernetes' pod.
    Pod(PodSpec) = "Pod", KUBERNETES_CORE, "pods", true, ["po"];
    /// Kubernetes' service account.
    ServiceAccount(ServiceAccountSpec) = "ServiceAccount", KUBERNETES_CORE, "serviceaccounts", true, ["sa"];
    /// Kubernetes' service.
    Service(ServiceSpec) = "Service", KUBERNETES_CORE, "services", true, ["svc"];
    /// A part of a Kubernetes service's endpoints.
    EndpointSlice(EndpointSliceSpec) = "EndpointSlice", KUBERNETES_DISCOVERY, "endpointslices", true, ["eps"];
}

impl Kind {
    /// The kind that a person means: kind, plural or short name in any case, `plural.group` where two kinds share a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (name, group) =
            text.split_once('.').map_or((text.as_str(), None), |(name, group)| (name, Some(group)));
        let named = |kind: &&Self| {
            let plain = kind.kind().to_ascii_lowercase();
            name == plain
                || name == kind.plural()
                || name == kind.unique_name().to_ascii_lowercase()
                || kind.short_names().contains(&name)
                || group.is_some() && kind.shares_name() && name == "networkpolicies"
        };
        match group {
            // Calico's kinds come first in the list, so `networkpolicy` is Calico's, as with calicoctl.
            None => Self::ALL.iter().find(named).copied(),
            Some(group) => Self::ALL.iter().filter(named).find(|kind| kind.group() == group).copied(),
        }
    }

    /// The kind of a document with this `apiVersion` and `kind`.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        // Manifests in the wild name the storage group of Calico's CRDs.
        let api_version = if api_version == "crd.projectcalico.org/v1" { CALICO } else { api_version };
        let kind = if api_version == CALICO && kind == "IPAMConfig" { "IPAMConfiguration" } else { kind };
        Self::ALL.iter().find(|k| k.kind() == kind && k.api_version() == api_version).copied()
    }

    /// The API group; empty for Kubernetes' core.
    #[must_use]
    pub fn group(self) -> &'static str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    /// Whether another kind has the same `kind:` text.
    fn shares_name(self) -> bool {
        matches!(self, Self::NetworkPolicy | Self::KubernetesNetworkPolicy)
    }

    /// Whether every field is known here, so that an unknown one is a mistake. Of Kubernetes' pods and the like, only a
    /// part is read.
    pub(crate) fn is_policed(self) -> bool {
        self.is_calico() || matches!(self, Self::KubernetesNetworkPolicy | Self::ClusterNetworkPolicy)
    }

    /// Whether this is one of Calico's own kinds.
    #[must_use]
    pub fn is_calico(self) -> bool {
        self.api_version() == CALICO
    }
}

impl fmt::Display for Kind {
    /// The kind's text, made unique: Kubernetes' policy is `KubernetesNetworkPolicy`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::KubernetesNetworkPolicy {
            "KubernetesNetworkPolicy"
        } else {
            self.kind()
        })
    }
}

/// The identity of a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Which kind.
    pub kind: Kind,
    /// Set exactly for namespaced kinds.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: String,
}

impl Key {
    /// Of a cluster-scoped object.
    pub fn cluster(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, namespace: None, name: name.into() }
    }

    /// Of a namespaced object.
    pub fn namespaced(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: Some(namespace.into()), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}({namespace}/{})", self.kind, self.name),
            None => write!(f, "{}({})", self.kind, self.name),
        }
    }
}

impl Resource {
    /// The resource's identity.
    #[must_use]
    pub fn key(&self) -> Key {
        let metadata = self.metadata();
        Key { kind: self.kind(), namespace: metadata.namespace.clone(), name: metadata.name.clone() }
    }

    /// Reads a stored or received object. Types and field names are checked; the rules of [`Self::validate`] aren't.
    ///
    /// # Errors
    /// When the kind is unknown or a field is unknown, missing or wrong: the first such field.
    pub fn from_json(json: &serde_json::Value) -> Result<Self, ApiError> {
        crate::json::from_json(json)
    }

    /// The resource with defaults filled in.
    #[must_use]
    pub fn with_defaults(mut self) -> Self {
        self.set_defaults();
        self
    }
}
