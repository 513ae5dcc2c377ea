//! Interface addresses.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};

use crate::error::Result;
use crate::handle::{Netlink, parse_or_skip};
use crate::wire::Request;

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Index of the interface.
    pub index: u32,
    /// Address and prefix length.
    pub net: IpNet,
}

/// How an address is added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddressOptions {
    /// Valid on this link only (`scope link`), never chosen as a source for farther destinations.
    pub link_scope: bool,
    /// Don't make the kernel's connected route (`IFA_F_NOPREFIXROUTE`).
    pub no_prefix_route: bool,
}

impl Netlink {
    /// The addresses of the namespace, or of one interface, in order of index and address.
    ///
    /// # Errors
    /// When the kernel doesn't answer.
    pub fn addresses(&mut self, index: Option<u32>) -> Result<Vec<Address>> {
        let mut message = AddressMessage::default();
        message.header.index = index.unwrap_or(0);
        let mut all = self.socket.dump(
            &Request::new(RTM_GETADDR, 0, &message),
            || "list addresses".to_owned(),
            |_, payload, all| {
                all.extend(parse_or_skip(payload, "addresses").as_ref().and_then(read));
                Ok(())
            },
        )?;
        all.sort_unstable();
        Ok(all)
    }

    /// Adds an address. IPv6 duplicate address detection is off (`nodad`): addresses here come from an allocator, and
    /// a pod must not wait a second for its own.
    ///
    /// # Errors
    /// [`crate::Error::Exists`] when the interface has it already.
    pub fn add_address(&mut self, address: &Address, options: AddressOptions) -> Result<()> {
        self.put_address(address, options, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds an address, or leaves it in place when the interface has it already.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn replace_address(&mut self, address: &Address, options: AddressOptions) -> Result<()> {
        self.put_address(address, options, NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn put_address(&mut self, address: &Address, options: AddressOptions, flags: u16) -> Result<()> {
        let mut message = body(address);
        if options.link_scope {
            message.header.scope = AddressScope::Link;
        }
        let mut wide = AddressFlags::empty();
        if address.net.addr().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            wide |= AddressFlags::Nodad;
        }
        if options.no_prefix_route {
            wide |= AddressFlags::Noprefixroute;
        }
        if !wide.is_empty() {
            message.attributes.push(AddressAttribute::Flags(wide));
        }
        self.socket.execute(&Request::new(RTM_NEWADDR, flags, &message), || {
            format!("add address {} to interface {}", address.net, address.index)
        })
    }

    /// Removes an address.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`] with `EADDRNOTAVAIL` when the interface doesn't have it.
    pub fn delete_address(&mut self, address: &Address) -> Result<()> {
        self.socket.execute(&Request::new(RTM_DELADDR, 0, &body(address)), || {
            format!("delete address {} of interface {}", address.net, address.index)
        })
    }
}

fn body(address: &Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    let ip = address.net.addr();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = address.net.prefix_len();
    message.header.index = address.index;
    message.attributes.push(AddressAttribute::Local(ip));
    message.attributes.push(AddressAttribute::Address(ip));
    // A subnet's broadcast address, as ip(8) sets with `brd +`; host addresses have none.
    if let IpNet::V4(net) = address.net
        && net.prefix_len() < 31
    {
        message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
    }
    message
}

fn read(message: &AddressMessage) -> Option<Address> {
    // On a point-to-point interface ADDRESS is the peer's; LOCAL, where present, is always one's own.
    let mut own: Option<IpAddr> = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => own = Some(*ip),
            AddressAttribute::Address(ip) => own = own.or(Some(*ip)),
            _ => {}
        }
    }
    let net = IpNet::new(own?, message.header.prefix_len).ok()?;
    Some(Address { index: message.header.index, net })
}
