//! What daemon's configuration and FelixConfiguration choose.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use margay_api::kinds::{BgpConfigurationSpec, FelixConfigurationSpec, NftablesMode, ProgramClusterRoutes};

use crate::desired::{Encapsulation, Protocol, Route};
use crate::input::{Backend, Family};

/// WireGuard between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardSettings {
    /// The families it is on for (`wireguardEnabled`, `wireguardEnabledV6`).
    pub families: BTreeMap<Family, WireguardFamily>,
    /// Packets between the nodes themselves too (`wireguardHostEncryptionEnabled`).
    pub encrypts_nodes: bool,
    /// Seconds between packets that keep a path open (`wireguardKeepAlive`); 0: none.
    pub keepalive: u16,
    /// Priority of the policy routing rule for packets between nodes (`wireguardRoutingRulePriority`).
    pub rule_priority: u32,
    /// Bit of the packet mark that encrypted packets have, of the mask the rules of policy are written with (`iptablesMarkMask`,
    /// `nftablesMarkMask`); absent: policy needs all of the mask.
    pub mark: Option<u32>,
}

/// Which bit of the mask it is, from the lowest: behind those that the rules of policy may use. Nodes need not agree.
const WIREGUARD_BIT: u32 = 4;
/// Default of `iptablesMarkMask` and `nftablesMarkMask`.
const MARK_MASK: u32 = 0xffff_0000;
/// Bits of the mask that policy needs: accept and pass.
const POLICY_BITS: u32 = 2;

/// The bit of a mask that encrypted packets have: the highest where there are few.
fn wireguard_mark(mask: u32) -> Option<u32> {
    let last = mask.count_ones().checked_sub(1).filter(|last| *last >= POLICY_BITS)?;
    let without_lower = (0..last.min(WIREGUARD_BIT)).fold(mask, |rest, _| rest & rest.wrapping_sub(1));
    Some(without_lower & without_lower.wrapping_neg())
}

/// WireGuard for one family, inside and outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardFamily {
    /// Name of the device, at most 15 octets (`wireguardInterfaceName`).
    pub device: String,
    /// UDP port, of all nodes (`wireguardListeningPort`).
    pub port: u16,
    /// MTU of the device (`wireguardMTU`); absent: from the uplink.
    pub mtu: Option<u32>,
}

impl Default for WireguardSettings {
    fn default() -> Self {
        Self {
            families: BTreeMap::new(),
            encrypts_nodes: false,
            keepalive: 0,
            rule_priority: 99,
            mark: wireguard_mark(MARK_MASK),
        }
    }
}

/// Names, numbers and choices that come from the daemon's configuration and FelixConfiguration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What brings packets to other nodes.
    pub backend: Backend,
    /// VXLAN network identifier (`vxlanVNI`).
    pub vxlan_vni: u32,
    /// VXLAN UDP port (`vxlanPort`).
    pub vxlan_port: u16,
    /// Name of the VXLAN device for IPv4, at most 15 octets.
    pub vxlan_device: String,
    /// Name of the VXLAN device for IPv6, at most 15 octets.
    pub vxlan_device_v6: String,
    /// Name of the IPIP device, at most 15 octets.
    pub ipip_device: String,
    /// MTU of the VXLAN device for IPv4 (`vxlanMTU`); absent: from the uplink.
    pub vxlan_mtu: Option<u32>,
    /// MTU of the VXLAN device for IPv6 (`vxlanMTUV6`); absent: from the uplink.
    pub vxlan_mtu_v6: Option<u32>,
    /// MTU of the IPIP device (`ipipMTU`); absent: from the uplink.
    pub ipip_mtu: Option<u32>,
    /// Off where the hardware gets checksums inside VXLAN wrong (`featureDetectOverride: ChecksumOffloadBroken=true`).
    pub offloads_checksums: bool,
    /// `ipipEnabled`: `false`: this node takes part in no IPIP; `true`: its device is there although no pool asks.
    pub ipip_enabled: Option<bool>,
    /// The same for VXLAN, `vxlanEnabled`; `true` concerns IPv4.
    pub vxlan_enabled: Option<bool>,
    /// Encryption between nodes.
    pub wireguard: WireguardSettings,
    /// MTU of pods; absent: the smallest any path in use needs.
    pub pod_mtu: Option<u32>,
    /// Most next hops in one route; further ones (by address) are left out.
    pub max_paths: usize,
    /// Routes to other nodes' blocks that Calico's BGP side would write (`programClusterRoutes` of BGPConfiguration). Here
    /// one daemon does the work of both sides: what either is to write is written.
    pub bgp_writes: ProgramClusterRoutes,
    /// Those that Felix would write (`programClusterRoutes` of FelixConfiguration).
    pub felix_writes: ProgramClusterRoutes,
    /// Metrics of routes (`ipv4NormalRoutePriority`, `ipv6NormalRoutePriority`): FelixConfiguration's for pods,
    /// BGPConfiguration's for the cluster's. Absent: the kernel's own.
    pub metrics: BTreeMap<(Protocol, Family), u32>,
    /// Interfaces whose links are no way to a next hop (`ignoredInterfaces`); `*` stands for any characters.
    pub ignored_interfaces: Vec<String>,
    /// Ranges of services' addresses: what BGP brings of them is for routers outside.
    pub services: BTreeSet<IpNet>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            vxlan_vni: 4096,
            vxlan_port: 4789,
            vxlan_device: "vxlan.mgy".to_owned(),
            vxlan_device_v6: "vxlan-v6.mgy".to_owned(),
            ipip_device: "ipip.mgy".to_owned(),
            vxlan_mtu: None,
            vxlan_mtu_v6: None,
            ipip_mtu: None,
            offloads_checksums: true,
            ipip_enabled: None,
            vxlan_enabled: None,
            wireguard: WireguardSettings::default(),
            pod_mtu: None,
            max_paths: 16,
            bgp_writes: ProgramClusterRoutes::EnabledNoEncapOnly,
            felix_writes: ProgramClusterRoutes::EnabledIpipOnly,
            metrics: BTreeMap::new(),
            ignored_interfaces: Vec::new(),
            services: BTreeSet::new(),
        }
    }
}

impl Settings {
    /// With what FelixConfiguration asks of this node; what it doesn't mention has its default.
    #[must_use]
    pub fn with_felix(&self, felix: &FelixConfigurationSpec) -> Self {
        let default = Self::default();
        let port = |given: Option<u32>, default: u16| {
            given.and_then(|port| u16::try_from(port).ok()).unwrap_or(default)
        };
        // Felix's 0 is "find out".
        let mtu = |given: Option<u32>| given.filter(|mtu| *mtu > 0);
        let v4 = WireguardFamily {
            device: felix.wireguard_interface_name.clone().unwrap_or_else(|| "wireguard.mgy".to_owned()),
            port: port(felix.wireguard_listening_port, 51820),
            mtu: mtu(felix.wireguard_mtu),
        };
        let v6 = WireguardFamily {
            device: felix.wireguard_interface_name_v6.clone().unwrap_or_else(|| "wg-v6.mgy".to_owned()),
            port: port(felix.wireguard_listening_port_v6, 51821),
            mtu: mtu(felix.wireguard_mtu_v6),
        };
        let on = [(felix.wireguard_enabled, Family::V4, v4), (felix.wireguard_enabled_v6, Family::V6, v6)];
        let families = on.into_iter().filter(|(on, ..)| *on == Some(true));
        // As felix-rs chooses: nftables only when told.
        let mask = match felix.nftables_mode {
            Some(NftablesMode::Enabled) => felix.nftables_mark_mask,
            _ => felix.iptables_mark_mask,
        };
        let keepalive = felix.wireguard_keep_alive.map_or(0, |every| every.0.as_secs());
        let wireguard = WireguardSettings {
            families: families.map(|(_, family, device)| (family, device)).collect(),
            encrypts_nodes: felix.wireguard_host_encryption_enabled.unwrap_or(false),
            keepalive: u16::try_from(keepalive).unwrap_or(u16::MAX),
            rule_priority: felix
                .wireguard_routing_rule_priority
                .unwrap_or(WireguardSettings::default().rule_priority),
            mark: wireguard_mark(mask.unwrap_or(MARK_MASK)),
        };
        Self {
            vxlan_vni: felix.vxlan_vni.unwrap_or(default.vxlan_vni),
            vxlan_port: port(felix.vxlan_port, default.vxlan_port),
            vxlan_mtu: mtu(felix.vxlan_mtu),
            vxlan_mtu_v6: mtu(felix.vxlan_mtu_v6),
            ipip_mtu: mtu(felix.ipip_mtu),
            offloads_checksums: !overrides(felix, "ChecksumOffloadBroken"),
            ipip_enabled: felix.ipip_enabled,
            vxlan_enabled: felix.vxlan_enabled,
            wireguard,
            felix_writes: felix.program_cluster_routes.unwrap_or(default.felix_writes),
            metrics: self.with_metrics(
                Protocol::Pods,
                felix.ipv4_normal_route_priority,
                felix.ipv6_normal_route_priority,
            ),
            ..self.clone()
        }
    }

    /// With what the cluster's BGPConfiguration asks of every node, and the ranges of services that it advertises.
    #[must_use]
    pub fn with_bgp(&self, bgp: Option<&BgpConfigurationSpec>, services: BTreeSet<IpNet>) -> Self {
        let (none, default) = (BgpConfigurationSpec::default(), Self::default());
        let bgp = bgp.unwrap_or(&none);
        Self {
            bgp_writes: bgp.program_cluster_routes.unwrap_or(default.bgp_writes),
            metrics: self.with_metrics(
                Protocol::Cluster,
                bgp.ipv4_normal_route_priority,
                bgp.ipv6_normal_route_priority,
            ),
            ignored_interfaces: bgp.ignored_interfaces.clone(),
            services,
            ..self.clone()
        }
    }

    fn with_metrics(
        &self,
        protocol: Protocol,
        v4: Option<u32>,
        v6: Option<u32>,
    ) -> BTreeMap<(Protocol, Family), u32> {
        let others = self.metrics.iter().filter(|((of, _), _)| *of != protocol);
        let given = [(Family::V4, v4), (Family::V6, v6)].into_iter();
        let given = given.filter_map(|(family, metric)| Some(((protocol, family), metric?)));
        others.map(|(of, metric)| (*of, *metric)).chain(given).collect()
    }

    /// The route with the metric of its kind.
    pub(crate) fn with_metric(&self, route: Route) -> Route {
        let metric = self.metrics.get(&(route.protocol, Family::of(&route.prefix)));
        Route { metric: metric.copied().unwrap_or_default(), ..route }
    }

    /// Routes to other nodes are this daemon's to write.
    pub(crate) fn writes(&self, encapsulation: Encapsulation) -> bool {
        use ProgramClusterRoutes::{Enabled, EnabledIpipOnly, EnabledNoEncapOnly};
        let either = |side| self.bgp_writes == side || self.felix_writes == side;
        match encapsulation {
            Encapsulation::None => either(Enabled) || either(EnabledNoEncapOnly),
            Encapsulation::Ipip => either(Enabled) || either(EnabledIpipOnly),
            // Felix's in any case.
            Encapsulation::Vxlan | Encapsulation::Wireguard => true,
        }
    }

    /// This node takes part in such tunnels.
    pub(crate) fn allows(&self, encapsulation: Encapsulation) -> bool {
        match encapsulation {
            Encapsulation::None | Encapsulation::Wireguard => true,
            Encapsulation::Ipip => self.ipip_enabled != Some(false),
            Encapsulation::Vxlan => self.vxlan_enabled != Some(false),
        }
    }

    /// Tunnels that are there although no pool asks.
    pub(crate) fn forced(&self) -> impl Iterator<Item = (Encapsulation, Family)> {
        let forced = [(Encapsulation::Ipip, self.ipip_enabled), (Encapsulation::Vxlan, self.vxlan_enabled)]
            .into_iter();
        let forced =
            forced.filter(|(encapsulation, on)| *on == Some(true) && self.backend.carries(*encapsulation));
        forced.map(|(encapsulation, _)| (encapsulation, Family::V4))
    }
}

/// `featureDetectOverride` says so of this feature.
fn overrides(felix: &FelixConfigurationSpec, feature: &str) -> bool {
    let all = felix.feature_detect_override.as_deref().unwrap_or_default();
    all.split(',')
        .filter_map(|one| one.split_once('='))
        .any(|(name, value)| name.trim().eq_ignore_ascii_case(feature) && value.trim() == "true")
}

#[cfg(test)]
mod tests {
    use margay_api::Resource;
    use margay_api::yaml;

    use super::*;

    #[test]
    fn felix_configuration_says_how_tunnels_are_made() {
        let text = "
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec:
  vxlanVNI: 77
  vxlanPort: 8472
  vxlanMTU: 1400
  featureDetectOverride: SNATFullyRandom=false,ChecksumOffloadBroken=true
  ipipMTU: 0
  ipipEnabled: false
  wireguardEnabled: true
  wireguardMTU: 1380
  wireguardKeepAlive: 25s
  wireguardHostEncryptionEnabled: true
";
        let Resource::FelixConfiguration(felix) = yaml::parse("felix.yaml", text).unwrap().remove(0).value
        else {
            panic!()
        };
        let base = Settings { backend: Backend::Vxlan, ..Settings::default() };
        let settings = base.with_felix(&felix.spec);
        let expected = Settings {
            backend: Backend::Vxlan,
            vxlan_vni: 77,
            vxlan_port: 8472,
            vxlan_mtu: Some(1400),
            offloads_checksums: false,
            ipip_enabled: Some(false),
            wireguard: WireguardSettings {
                families: BTreeMap::from([(
                    Family::V4,
                    WireguardFamily { device: "wireguard.mgy".to_owned(), port: 51820, mtu: Some(1380) },
                )]),
                encrypts_nodes: true,
                keepalive: 25,
                rule_priority: 99,
                mark: Some(0x10_0000),
            },
            ..Settings::default()
        };
        assert_eq!(settings, expected);
        assert_eq!(settings.with_felix(&FelixConfigurationSpec::default()), base, "nothing is left of it");
    }

    #[test]
    fn encrypted_packets_have_a_bit_of_the_mask_that_policy_does_not_need() {
        assert_eq!(wireguard_mark(0xffff_0000), Some(0x10_0000), "as Calico has it");
        assert_eq!(wireguard_mark(0xf0), Some(0x80));
        assert_eq!(wireguard_mark(0x8000_0005), Some(0x8000_0000));
        assert_eq!(wireguard_mark(0x30), None, "both are policy's");
        let mark = |text: &str| {
            let felix: FelixConfigurationSpec = serde_json::from_str(text).unwrap();
            Settings::default().with_felix(&felix).wireguard.mark
        };
        assert_eq!(mark("{\"iptablesMarkMask\": 65280, \"nftablesMarkMask\": 7}"), Some(0x1000));
        assert_eq!(
            mark("{\"iptablesMarkMask\": 65280, \"nftablesMarkMask\": 7, \"nftablesMode\": \"Enabled\"}"),
            Some(4)
        );
    }
}
