//! Neighbour entries (ARP, NDP) and the forwarding database of bridges and VXLAN devices.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use crate::error::Result;
use crate::handle::{Netlink, parse_or_skip};
use crate::mac::Mac;
use crate::wire::Request;

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;

/// A neighbour entry: on this interface, this address is at this MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// Index of the interface.
    pub index: u32,
    /// Address.
    pub ip: IpAddr,
    /// Ethernet address; `None` while unresolved.
    pub mac: Option<Mac>,
    /// Programmed, never timed out (`NUD_PERMANENT`).
    pub permanent: bool,
}

/// A forwarding entry of a VXLAN device itself (`self permanent`): frames to this MAC go to this remote host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdbEntry {
    /// Index of the VXLAN device.
    pub index: u32,
    /// Destination MAC; all zeroes is where unknown and broadcast frames go.
    pub mac: Mac,
    /// Outer destination address.
    pub remote: IpAddr,
}

impl Netlink {
    /// The neighbour entries of the namespace, or of one interface, in order.
    ///
    /// # Errors
    /// When the kernel doesn't answer.
    pub fn neighbours(&mut self, index: Option<u32>) -> Result<Vec<Neighbour>> {
        let mut all = self.dump_neighbours(AddressFamily::Unspec, index, read_neighbour)?;
        all.retain(|neighbour| index.is_none_or(|index| index == neighbour.index));
        all.sort_unstable();
        Ok(all)
    }

    /// Sets a permanent neighbour entry, replacing any other for that address.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] without the interface; `ENETDOWN` while it is down (IPv6).
    pub fn set_neighbour(&mut self, index: u32, ip: IpAddr, mac: Mac) -> Result<()> {
        let mut message = neighbour_body(index, ip);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        self.socket.execute(&Request::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &message), || {
            format!("set neighbour {ip} at {mac} on interface {index}")
        })
    }

    /// Removes a neighbour entry.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] when there is none.
    pub fn delete_neighbour(&mut self, index: u32, ip: IpAddr) -> Result<()> {
        self.socket.execute(&Request::new(RTM_DELNEIGH, 0, &neighbour_body(index, ip)), || {
            format!("delete neighbour {ip} of interface {index}")
        })
    }

    /// The forwarding entries of one VXLAN device, in order.
    ///
    /// # Errors
    /// When the kernel doesn't answer.
    pub fn fdb(&mut self, index: u32) -> Result<Vec<FdbEntry>> {
        let mut all = self.dump_neighbours(AddressFamily::Bridge, Some(index), read_fdb)?;
        all.retain(|entry| entry.index == index);
        all.sort_unstable();
        Ok(all)
    }

    /// Sets the one remote of a MAC.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] without the device.
    pub fn set_fdb(&mut self, entry: &FdbEntry) -> Result<()> {
        self.put_fdb(entry, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Adds another remote for a MAC (frames to it are copied to each).
    ///
    /// # Errors
    /// [`crate::Error::Exists`] when that remote is there already.
    pub fn append_fdb(&mut self, entry: &FdbEntry) -> Result<()> {
        self.put_fdb(entry, NLM_F_CREATE | NLM_F_APPEND)
    }

    fn put_fdb(&mut self, entry: &FdbEntry, flags: u16) -> Result<()> {
        let mut message = fdb_body(entry);
        message.header.state = NeighbourState::Permanent;
        self.socket.execute(&Request::new(RTM_NEWNEIGH, flags, &message), || {
            format!("set forwarding of {} to {} on interface {}", entry.mac, entry.remote, entry.index)
        })
    }

    /// Removes one remote of a MAC.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] when the MAC has no entry (an unknown remote of a known MAC the kernel passes over).
    pub fn delete_fdb(&mut self, entry: &FdbEntry) -> Result<()> {
        self.socket.execute(&Request::new(RTM_DELNEIGH, 0, &fdb_body(entry)), || {
            format!("delete forwarding of {} to {} on interface {}", entry.mac, entry.remote, entry.index)
        })
    }

    fn dump_neighbours<T>(
        &mut self,
        family: AddressFamily,
        index: Option<u32>,
        read: impl Fn(&NeighbourMessage) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        message.attributes.extend(index.map(NeighbourAttribute::IfIndex));
        self.socket.dump(
            &Request::new(RTM_GETNEIGH, 0, &message),
            || "list neighbours".to_owned(),
            |_, payload, all| {
                all.extend(parse_or_skip(payload, "neighbours").as_ref().and_then(&read));
                Ok(())
            },
        )
    }
}

fn neighbour_body(index: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(ip.into()));
    message
}

fn fdb_body(entry: &FdbEntry) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = entry.index;
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(entry.mac.0.to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(entry.remote.into()));
    message
}

fn read_neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let ip = message.attributes.iter().find_map(destination)?;
    let permanent = message.header.state == NeighbourState::Permanent;
    Some(Neighbour {
        index: message.header.ifindex,
        ip,
        mac: message.attributes.iter().find_map(mac),
        permanent,
    })
}

fn read_fdb(message: &NeighbourMessage) -> Option<FdbEntry> {
    Some(FdbEntry {
        index: message.header.ifindex,
        mac: message.attributes.iter().find_map(mac)?,
        remote: message.attributes.iter().find_map(destination)?,
    })
}

fn destination(attribute: &NeighbourAttribute) -> Option<IpAddr> {
    match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        // The address family of a forwarding entry is AF_BRIDGE, so its remote comes as bare bytes.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            _ => None,
        },
        _ => None,
    }
}

fn mac(attribute: &NeighbourAttribute) -> Option<Mac> {
    match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => Mac::from_bytes(bytes),
        _ => None,
    }
}
