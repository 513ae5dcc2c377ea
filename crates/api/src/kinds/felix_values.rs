//! Values of FelixConfiguration's fields.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::types::{GoDuration, Protocol, net, string_enum::string_enum};

/// A port that policy can never close (`failsafeInboundHostPorts`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProtoPort {
    /// TCP when absent. Calico writes these in lower case too.
    #[serde(default, deserialize_with = "any_case_protocol", skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The port.
    pub port: u16,
    /// Only for remote addresses in this network.
    #[serde(default, deserialize_with = "net::cidr_opt", skip_serializing_if = "Option::is_none")]
    pub net: Option<IpNet>,
}

fn any_case_protocol<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Protocol>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    text.to_ascii_uppercase().parse().map(Some).map_err(serde::de::Error::custom)
}

/// Kernel routing tables that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteTableRange {
    /// First table.
    pub min: u32,
    /// Last table.
    pub max: u32,
}

/// How long one part of the agent may be silent before it counts as unhealthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthTimeoutOverride {
    /// The part.
    pub name: String,
    /// The limit.
    pub timeout: GoDuration,
}

string_enum! { any_case
    /// Source/destination check of AWS interfaces.
    pub enum AwsSrcDstCheck {
        /// `Disable`.
        Disable = "Disable",
        /// `DoNothing`.
        DoNothing = "DoNothing",
        /// `Enable`.
        Enable = "Enable",
    }
}

string_enum! { any_case
    /// How programs are attached.
    pub enum BpfAttachType {
        /// `Netkit`.
        Netkit = "Netkit",
        /// `TC`.
        Tc = "TC",
        /// `TCX`.
        Tcx = "TCX",
    }
}

string_enum! { any_case
    /// What is load-balanced at connect time.
    pub enum BpfConnectTimeLoadBalancing {
        /// `Disabled`.
        Disabled = "Disabled",
        /// `Enabled`.
        Enabled = "Enabled",
        /// `TCP`.
        Tcp = "TCP",
    }
}

string_enum! { any_case
    /// Log level of conntrack programs.
    pub enum BpfConntrackLogLevel {
        /// `Debug`.
        Debug = "Debug",
        /// `Off`.
        Off = "Off",
    }
}

string_enum! { any_case
    /// Who expires conntrack entries.
    pub enum BpfConntrackMode {
        /// `Auto`.
        Auto = "Auto",
        /// `BPFProgram`.
        BpfProgram = "BPFProgram",
        /// `Userspace`.
        Userspace = "Userspace",
    }
}

string_enum! { any_case
    /// What happens when the conntrack map is full.
    pub enum BpfConntrackScaling {
        /// `Disabled`.
        Disabled = "Disabled",
        /// `DoubleIfFull`.
        DoubleIfFull = "DoubleIfFull",
    }
}

string_enum! { any_case
    /// Reverse-path check.
    pub enum BpfEnforceRpf {
        /// `Disabled`.
        Disabled = "Disabled",
        /// `Loose`.
        Loose = "Loose",
        /// `Strict`.
        Strict = "Strict",
    }
}

string_enum! { any_case
    /// How external service traffic reaches backends on other nodes.
    pub enum BpfExternalServiceMode {
        /// `DSR`.
        Dsr = "DSR",
        /// `Tunnel`.
        Tunnel = "Tunnel",
    }
}

string_enum! { any_case
    /// JIT hardening.
    pub enum BpfJitHardening {
        /// `Auto`.
        Auto = "Auto",
        /// `Strict`.
        Strict = "Strict",
    }
}

string_enum! { any_case
    /// Log level of programs.
    pub enum BpfLogLevel {
        /// `Debug`.
        Debug = "Debug",
        /// `Info`.
        Info = "Info",
        /// `Off`.
        Off = "Off",
    }
}

string_enum! { any_case
    /// Source of host traffic into the overlay.
    pub enum BpfOverlayHostSourceIp {
        /// `HostAddress`.
        HostAddress = "HostAddress",
        /// `TunnelAddress`.
        TunnelAddress = "TunnelAddress",
    }
}

string_enum! { any_case
    /// Where top-level chains are hooked in.
    pub enum ChainInsertMode {
        /// `Append`.
        Append = "Append",
        /// `Insert`.
        Insert = "Insert",
    }
}

string_enum! { any_case
    /// What happens to traffic from a workload to its own host after policy.
    pub enum EndpointToHostAction {
        /// `Accept`.
        Accept = "Accept",
        /// `Drop`.
        Drop = "Drop",
        /// `Return`.
        Return = "Return",
    }
}

string_enum! { any_case
    /// How accepted packets leave the chains.
    pub enum FilterAllowAction {
        /// `Accept`.
        Accept = "Accept",
        /// `Return`.
        Return = "Return",
    }
}

string_enum! { any_case
    /// How packets are refused.
    pub enum FilterDenyAction {
        /// `Drop`.
        Drop = "Drop",
        /// `Reject`.
        Reject = "Reject",
    }
}

string_enum! { any_case
    /// When policies of a flow are evaluated again.
    pub enum FlowLogsPolicyEvaluation {
        /// `Continuous`.
        Continuous = "Continuous",
        /// `None`.
        None = "None",
    }
}

string_enum! { any_case
    /// Which flows bypass the forwarding path.
    pub enum FlowTableOffload {
        /// `All`.
        All = "All",
        /// `Disabled`.
        Disabled = "Disabled",
    }
}

string_enum! { any_case
    /// Which iptables variant is used.
    pub enum IptablesBackend {
        /// `Auto`.
        Auto = "Auto",
        /// `Legacy`.
        Legacy = "Legacy",
        /// `NFT`.
        Nft = "NFT",
    }
}

string_enum! { any_case
    /// Whether local addresses are announced by ARP and NDP.
    pub enum L2Reachability {
        /// `Disabled`.
        Disabled = "Disabled",
        /// `PodsAndLoadBalancers`.
        PodsAndLoadBalancers = "PodsAndLoadBalancers",
    }
}

string_enum! { any_case
    /// Which destinations are not masqueraded.
    pub enum NatOutgoingExclusions {
        /// `IPPoolsAndHostIPs`.
        IpPoolsAndHostIps = "IPPoolsAndHostIPs",
        /// `IPPoolsOnly`.
        IpPoolsOnly = "IPPoolsOnly",
    }
}

string_enum! { any_case
    /// Whether the nftables data plane is used.
    pub enum NftablesMode {
        /// `Auto`.
        Auto = "Auto",
        /// `Disabled`.
        Disabled = "Disabled",
        /// `Enabled`.
        Enabled = "Enabled",
    }
}

string_enum! { any_case
    /// TLS client authentication of the metrics port.
    pub enum PrometheusClientAuth {
        /// `NoClientCert`.
        NoClientCert = "NoClientCert",
        /// `RequireAndVerifyClientCert`.
        RequireAndVerifyClientCert = "RequireAndVerifyClientCert",
        /// `RequireAnyClientCert`.
        RequireAnyClientCert = "RequireAnyClientCert",
        /// `VerifyClientCertIfGiven`.
        VerifyClientCertIfGiven = "VerifyClientCertIfGiven",
    }
}

string_enum! { any_case
    /// Where routes to workloads are computed from.
    pub enum RouteSourceOfTruth {
        /// `CalicoIPAM`.
        CalicoIpam = "CalicoIPAM",
        /// `WorkloadIPs`.
        WorkloadIps = "WorkloadIPs",
    }
}

string_enum! { any_case
    /// What happens to service addresses without endpoints.
    pub enum ServiceLoopPrevention {
        /// `Disabled`.
        Disabled = "Disabled",
        /// `Drop`.
        Drop = "Drop",
        /// `Reject`.
        Reject = "Reject",
    }
}

string_enum! { any_case
    /// Whether pods may ask to use foreign source addresses.
    pub enum WorkloadSourceSpoofing {
        /// `Any`.
        Any = "Any",
        /// `Disabled`.
        Disabled = "Disabled",
    }
}
