//! Tunnel devices and their static entries. Everything on a device of ours is ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use margay_netlink::delta::{Change, Tracker};
use margay_netlink::ethtool::Ethtool;
use margay_netlink::{Address, AddressOptions, Error, FdbEntry, LinkChange, Mac, Netlink, Vxlan};
use margay_routing::{IpipDevice, Tunnels, VxlanDevice};

use super::kernel::Kernel;

/// Names our devices have unless FelixConfiguration gives others.
pub(crate) const DEVICES: [&str; 6] =
    ["vxlan.mgy", "vxlan-v6.mgy", "ipip.mgy", "wireguard.mgy", "wg-v6.mgy", PEERING];

/// Holds the addresses that workloads speak BGP with: a bridge without ports, which every kernel with containers has.
const PEERING: &str = "bgp.mgy";

/// A neighbour's or forwarding entry's key: interface, then address or MAC.
type Neighbours = Tracker<(u32, IpAddr), Mac>;
type Fdb = Tracker<(u32, Mac), IpAddr>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Entries {
    neighbours: Neighbours,
    fdb: Fdb,
}

impl Entries {
    /// Reads back the entries of the devices.
    pub(super) fn learn(
        &mut self,
        netlink: &mut Netlink,
        wanted: &Tunnels,
        kernel: &Kernel,
    ) -> Result<(), Error> {
        let mut neighbours = BTreeMap::new();
        let mut fdb = BTreeMap::new();
        for index in wanted.vxlan.values().filter_map(|device| kernel.index(&device.name)) {
            for entry in netlink.neighbours(Some(index))? {
                if let (Some(mac), true) = (entry.mac, entry.permanent) {
                    neighbours.insert((index, entry.ip), mac);
                }
            }
            for entry in netlink.fdb(index)? {
                fdb.insert((index, entry.mac), entry.remote);
            }
        }
        self.neighbours.learn_all(neighbours);
        self.fdb.learn_all(fdb);
        Ok(())
    }

    /// What the entries should be.
    pub(super) fn want(&mut self, wanted: &Tunnels, kernel: &Kernel) {
        self.neighbours.replace_desired(
            wanted
                .neighbours
                .iter()
                .filter_map(|entry| Some(((kernel.index(&entry.dev)?, entry.address), Mac(entry.mac.0)))),
        );
        self.fdb.replace_desired(
            wanted
                .fdb
                .iter()
                .filter_map(|entry| Some(((kernel.index(&entry.dev)?, Mac(entry.mac.0)), entry.destination))),
        );
    }

    /// Writes the difference; removes nothing unless what is wanted is `complete`.
    pub(super) fn write(&mut self, netlink: &mut Netlink, complete: bool) -> Vec<Error> {
        let neighbours = self.neighbours.apply(|change| match change {
            Change::Add { key, value } | Change::Update { key, to: value, .. } => {
                netlink.set_neighbour(key.0, key.1, *value)
            }
            Change::Delete { .. } if !complete => Ok(()),
            Change::Delete { key, .. } => netlink.delete_neighbour(key.0, key.1),
        });
        let fdb = self.fdb.apply(|change| match change {
            Change::Add { key, value } | Change::Update { key, to: value, .. } => {
                netlink.set_fdb(&FdbEntry { index: key.0, mac: key.1, remote: *value })
            }
            Change::Delete { .. } if !complete => Ok(()),
            Change::Delete { key, value } => {
                netlink.delete_fdb(&FdbEntry { index: key.0, mac: key.1, remote: *value })
            }
        });
        let errors = neighbours.into_iter().map(|(_, error)| error);
        errors.chain(fdb.into_iter().map(|(_, error)| error)).collect()
    }
}

/// Makes the device as wanted. What can be changed on a device in use is changed; else it is made anew.
pub(super) fn ensure_vxlan(netlink: &mut Netlink, wanted: &VxlanDevice) -> Result<(), Error> {
    let underlay = match &wanted.parent {
        Some(parent) => Some(netlink.link_index(parent)?),
        None => None,
    };
    let parameters = Vxlan { underlay, ..Vxlan::new(wanted.vni, wanted.port, wanted.local) };
    let mac = Mac(wanted.mac.0);
    if let Some(link) = netlink.link(&wanted.name)?
        && link.vxlan.as_ref() != Some(&parameters)
    {
        tracing::info!(device = wanted.name, "making the VXLAN device anew: its parameters changed");
        netlink.delete_link(link.index)?;
    }
    if netlink.link(&wanted.name)?.is_none() {
        netlink.add_vxlan(&wanted.name, &parameters, Some(mac), Some(wanted.mtu))?;
    }
    let Some(link) = netlink.link(&wanted.name)? else { return Ok(()) };
    if link.mac != Some(mac) || link.mtu != wanted.mtu || !link.up {
        let change = LinkChange {
            mac: (link.mac != Some(mac)).then_some(mac),
            mtu: Some(wanted.mtu),
            up: Some(true),
            ..LinkChange::default()
        };
        netlink.change_link(link.index, &change)?;
    }
    offload(wanted)?;
    only_addresses(netlink, link.index, [wanted.address])
}

/// A kernel that cannot be asked offloads as it does by itself: that is what is wanted but for broken hardware.
fn offload(wanted: &VxlanDevice) -> Result<(), Error> {
    let (name, on) = (&wanted.name, wanted.offloads_checksums);
    match Ethtool::open().and_then(|mut ethtool| Ok((ethtool.offloads_checksums(name)?, ethtool))) {
        Ok((is_on, mut ethtool)) if is_on != on => ethtool.offload_checksums(name, on),
        Err(error) if !on => Err(error),
        _ => Ok(()),
    }
}

/// Makes the IPIP device as wanted.
pub(super) fn ensure_ipip(netlink: &mut Netlink, wanted: &IpipDevice) -> Result<(), Error> {
    if let Some(link) = netlink.link(&wanted.name)?
        && link.ipip_local != Some(wanted.local)
    {
        tracing::info!(device = wanted.name, "making the IPIP device anew: the node's address changed");
        netlink.delete_link(link.index)?;
    }
    if netlink.link(&wanted.name)?.is_none() {
        netlink.add_ipip(&wanted.name, wanted.local, Some(wanted.mtu))?;
    }
    let Some(link) = netlink.link(&wanted.name)? else { return Ok(()) };
    if link.mtu != wanted.mtu || !link.up {
        let change = LinkChange { mtu: Some(wanted.mtu), up: Some(true), ..LinkChange::default() };
        netlink.change_link(link.index, &change)?;
    }
    only_addresses(netlink, link.index, wanted.address)
}

/// Makes the device that has the addresses that workloads speak BGP with.
pub(super) fn ensure_peering(netlink: &mut Netlink, wanted: &BTreeSet<IpNet>) -> Result<(), Error> {
    if netlink.link(PEERING)?.is_none() {
        netlink.add_bridge(PEERING)?;
    }
    let index = netlink.link_index(PEERING)?;
    netlink.set_up(index, true)?;
    only_addresses(netlink, index, wanted.iter().copied())
}

/// Beside link-local ones, which the kernel makes.
pub(super) fn only_addresses(
    netlink: &mut Netlink,
    index: u32,
    wanted: impl IntoIterator<Item = IpNet>,
) -> Result<(), Error> {
    let mut missing: BTreeSet<IpNet> = wanted.into_iter().collect();
    for address in netlink.addresses(Some(index))? {
        if !missing.remove(&address.net) && !is_link_local(address.net.addr()) {
            netlink.delete_address(&address)?;
        }
    }
    missing
        .into_iter()
        .try_for_each(|net| netlink.add_address(&Address { index, net }, AddressOptions::default()))
}

/// Removes tunnel devices of ours that nothing needs any more; `former` have been wanted since this process began.
pub(super) fn sweep_devices(
    netlink: &mut Netlink,
    wanted: &Tunnels,
    former: &BTreeSet<String>,
    kernel: &Kernel,
) -> Vec<Error> {
    let wanted: BTreeSet<&str> = device_names(wanted).collect();
    let candidates = DEVICES.into_iter().chain(former.iter().map(String::as_str));
    let unwanted: BTreeSet<&str> =
        candidates.filter(|name| !wanted.contains(name) && kernel.index(name).is_some()).collect();
    unwanted.into_iter().filter_map(|name| netlink.delete_link_named(name).err()).collect()
}

/// Names of all devices.
pub(super) fn device_names(tunnels: &Tunnels) -> impl Iterator<Item = &str> {
    let vxlan = tunnels.vxlan.values().map(|device| device.name.as_str());
    let ipip = tunnels.ipip.iter().map(|device| device.name.as_str());
    let peering = (!tunnels.workload_peering.is_empty()).then_some(PEERING);
    vxlan.chain(ipip).chain(tunnels.wireguard.values().map(|device| device.name.as_str())).chain(peering)
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
