//! Tunnel devices, their static entries, and MTUs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::context::Context;
use crate::desired::{Encapsulation, FdbEntry, IpipDevice, Neighbour, VxlanDevice};
use crate::input::{Family, Uplink};
use crate::settings::Settings;
use crate::wireguard;

/// MTU of an uplink nobody has told us of: Ethernet's.
const DEFAULT_MTU: u32 = 1500;
/// Outer IPv4 header.
const IPIP_OVERHEAD: u32 = 20;
/// Outer IPv4 (20), UDP (8), VXLAN (8) and inner Ethernet (14) headers.
const VXLAN_OVERHEAD: u32 = 50;
/// The same with an outer IPv6 header (40).
const VXLAN_V6_OVERHEAD: u32 = 70;
/// Outer IPv4 (20), UDP (8), and WireGuard's header with its authentication tag (32).
const WIREGUARD_OVERHEAD: u32 = 60;
/// The same with an outer IPv6 header (40).
const WIREGUARD_V6_OVERHEAD: u32 = 80;
/// The smallest MTU IPv6 works with (RFC 8200 section 5).
const SMALLEST_IPV6_MTU: u32 = 1280;

/// MTUs by purpose, octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mtus {
    pub(crate) vxlan: u32,
    pub(crate) vxlan_v6: u32,
    pub(crate) ipip: u32,
    wireguard: [u32; 2],
    pub(crate) pod: u32,
}

impl Mtus {
    pub(crate) fn new(
        settings: &Settings,
        uplinks: &BTreeMap<Family, Uplink>,
        used: &BTreeSet<(Encapsulation, Family)>,
    ) -> Self {
        let outer = |family| {
            let uplink = uplinks.get(&family).or_else(|| uplinks.values().next());
            uplink.map_or(DEFAULT_MTU, |uplink| uplink.mtu)
        };
        let (v4, v6) = (outer(Family::V4), outer(Family::V6));
        let inner = |set: Option<u32>, outer: u32, overhead: u32| {
            set.filter(|mtu| *mtu > 0).unwrap_or_else(|| outer.saturating_sub(overhead))
        };
        let vxlan = inner(settings.vxlan_mtu, v4, VXLAN_OVERHEAD);
        // The kernel turns IPv6 off on a device with less; the outer packets are then fragmented.
        let vxlan_v6 = inner(settings.vxlan_mtu_v6, v6, VXLAN_V6_OVERHEAD).max(SMALLEST_IPV6_MTU);
        let ipip = inner(settings.ipip_mtu, v4, IPIP_OVERHEAD);
        let own = |family| settings.wireguard.families.get(&family).and_then(|device| device.mtu);
        let wireguard = [
            inner(own(Family::V4), v4, WIREGUARD_OVERHEAD),
            inner(own(Family::V6), v6, WIREGUARD_V6_OVERHEAD).max(SMALLEST_IPV6_MTU),
        ];
        let smallest = used
            .iter()
            .map(|(encapsulation, family)| match (encapsulation, family) {
                (Encapsulation::None, family) => outer(*family),
                (Encapsulation::Ipip, _) => ipip,
                (Encapsulation::Vxlan, Family::V4) => vxlan,
                (Encapsulation::Vxlan, Family::V6) => vxlan_v6,
                (Encapsulation::Wireguard, Family::V4) => wireguard[0],
                (Encapsulation::Wireguard, Family::V6) => wireguard[1],
            })
            .min()
            .unwrap_or_else(|| v4.min(v6));
        let has_v6 = used.iter().any(|(_, family)| *family == Family::V6);
        let smallest = if has_v6 { smallest.max(SMALLEST_IPV6_MTU) } else { smallest };
        let pod = settings.pod_mtu.filter(|mtu| *mtu > 0).unwrap_or(smallest);
        Self { vxlan, vxlan_v6, ipip, wireguard, pod }
    }

    /// Of a WireGuard device.
    pub(crate) fn wireguard(&self, family: Family) -> u32 {
        match family {
            Family::V4 => self.wireguard[0],
            Family::V6 => self.wireguard[1],
        }
    }
}

/// Which encapsulations this node uses, per family.
pub(crate) fn used(cx: &Context) -> BTreeSet<(Encapsulation, Family)> {
    let settings = &cx.settings;
    let used = |wanted| {
        if settings.backend.carries(wanted) && settings.allows(wanted) { wanted } else { Encapsulation::None }
    };
    let of_pools = cx.pools.iter().map(|pool| (used(pool.encapsulation), Family::of(&pool.cidr)));
    of_pools.chain(settings.forced()).chain(wireguard::used(cx)).collect()
}

/// The VXLAN devices this node can have now.
pub(crate) fn vxlan_devices(
    cx: &Context,
    used: &BTreeSet<(Encapsulation, Family)>,
    mtus: &Mtus,
) -> BTreeMap<Family, VxlanDevice> {
    let mut devices = BTreeMap::new();
    for family in Family::ALL {
        let (Some(local), Some(vtep), true) = (
            cx.own.address(family),
            cx.own.vteps.get(&family),
            used.contains(&(Encapsulation::Vxlan, family)),
        ) else {
            continue;
        };
        let (name, mtu) = match family {
            Family::V4 => (&cx.settings.vxlan_device, mtus.vxlan),
            Family::V6 => (&cx.settings.vxlan_device_v6, mtus.vxlan_v6),
        };
        let device = VxlanDevice {
            name: name.clone(),
            vni: cx.settings.vxlan_vni,
            port: cx.settings.vxlan_port,
            local,
            parent: cx.uplinks.get(&family).and_then(|uplink| uplink.name.clone()),
            mac: vtep.mac,
            address: IpNet::from(vtep.address),
            mtu,
            offloads_checksums: cx.settings.offloads_checksums,
        };
        devices.insert(family, device);
    }
    devices
}

/// Forwarding database and neighbours of those devices: every other node with a tunnel end, whether or not a route
/// needs it now, so that a node that changes subnet finds its entries there.
pub(crate) fn vxlan_entries(
    cx: &Context,
    devices: &BTreeMap<Family, VxlanDevice>,
) -> (BTreeSet<FdbEntry>, BTreeSet<Neighbour>) {
    let (mut fdb, mut neighbours) = (BTreeSet::new(), BTreeSet::new());
    for (_, peer) in cx.peers.iter().filter(|(name, _)| name.as_str() != cx.node) {
        for (family, device) in devices {
            if let (Some(destination), Some(vtep)) = (peer.address(*family), peer.vteps.get(family)) {
                let dev = device.name.clone();
                fdb.insert(FdbEntry { dev: dev.clone(), mac: vtep.mac, destination });
                neighbours.insert(Neighbour { dev, address: vtep.gateway(), mac: vtep.mac });
            }
        }
    }
    (fdb, neighbours)
}

/// The IPIP device, when a pool needs one.
pub(crate) fn ipip_device(
    cx: &Context,
    used: &BTreeSet<(Encapsulation, Family)>,
    mtus: &Mtus,
) -> Option<IpipDevice> {
    let Some(IpAddr::V4(local)) = cx.own.address(Family::V4) else { return None };
    used.contains(&(Encapsulation::Ipip, Family::V4)).then(|| IpipDevice {
        name: cx.settings.ipip_device.clone(),
        local,
        address: cx.own.ipip.map(|address| IpNet::from(IpAddr::V4(address))),
        mtu: mtus.ipip,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_what_fits_through_every_path_in_use() {
        let mtu = |uplink: u32, used: &[(Encapsulation, Family)]| {
            let uplinks = BTreeMap::from([(Family::V4, Uplink { name: None, mtu: uplink })]);
            Mtus::new(&Settings::default(), &uplinks, &used.iter().copied().collect()).pod
        };
        let (none, ipip) = ((Encapsulation::None, Family::V4), (Encapsulation::Ipip, Family::V4));
        let (vxlan, vxlan_v6) = ((Encapsulation::Vxlan, Family::V4), (Encapsulation::Vxlan, Family::V6));
        assert_eq!(mtu(9000, &[]), 9000);
        assert_eq!(mtu(1500, &[none, ipip]), 1480);
        assert_eq!(mtu(1500, &[none, vxlan]), 1450);
        assert_eq!(mtu(1500, &[vxlan, vxlan_v6]), 1430);
        assert_eq!(mtu(1280, &[vxlan]), 1230);
        assert_eq!(mtu(1280, &[vxlan, vxlan_v6]), 1280, "IPv6 works with no less");
        let fixed = Settings { vxlan_mtu: Some(1400), pod_mtu: Some(0), ..Settings::default() };
        let unknown = BTreeMap::new();
        assert_eq!(Mtus::new(&fixed, &unknown, &BTreeSet::from([vxlan])).pod, 1400, "0 means automatic");
        let two = [(Family::V4, 9000), (Family::V6, 1500)];
        let two = two.map(|(family, mtu)| (family, Uplink { name: None, mtu })).into();
        let mtus = Mtus::new(&Settings::default(), &two, &BTreeSet::from([none, vxlan_v6]));
        assert_eq!((mtus.vxlan, mtus.vxlan_v6, mtus.pod), (8950, 1430, 1430), "each family by its own link");
    }
}
