//! Network interfaces: look up, make (veth, VXLAN, IPIP, bridge), change, move, delete.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::link::{
    InfoData, InfoIpTunnel, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags,
    LinkInfo, LinkMessage,
};

use crate::error::{Error, Result};
use crate::handle::{Netlink, parse_or_skip};
use crate::mac::Mac;
use crate::wire::Request;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;

/// Longest interface name (`IFNAMSIZ` without the terminating zero).
pub const MAX_NAME: usize = 15;

/// An interface as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index, unique in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Carrier present (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// `IFF_LOOPBACK`.
    pub loopback: bool,
    /// Index of the bridge (or other master) it is a port of.
    pub master: Option<u32>,
    /// For a veth, the index of the peer (in the peer's namespace).
    pub peer: Option<u32>,
    /// Kind of virtual device: `veth`, `vxlan`, `bridge`, …; `None` for `lo` and hardware.
    pub kind: Option<String>,
    /// Parameters, when it is a VXLAN device.
    pub vxlan: Option<Vxlan>,
    /// Outer source address, when it is an IPIP device that has one.
    pub ipip_local: Option<Ipv4Addr>,
}

/// One end of a veth pair to make.
#[derive(Debug, Clone, Copy, Default)]
pub struct VethEnd<'a> {
    /// Interface name, 1 to 15 bytes.
    pub name: &'a str,
    /// Ethernet address; the kernel invents one otherwise.
    pub mac: Option<Mac>,
    /// Namespace to make it in; this handle's otherwise.
    pub netns: Option<BorrowedFd<'a>>,
}

/// Parameters of a VXLAN device (`ip-link(8)`, type vxlan).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Outer source address.
    pub local: Option<IpAddr>,
    /// Index of the underlay device; routing decides otherwise.
    pub underlay: Option<u32>,
    /// Learn remote addresses from traffic. A routed overlay programs its FDB and wants this off.
    pub learning: bool,
    /// Outer TTL; 0 lets the kernel choose.
    pub ttl: u8,
    /// Put a checksum into the outer IPv4 UDP header.
    pub udp_checksum: bool,
}

impl Vxlan {
    /// A device without learning and without outer checksum, as a routed overlay wants it.
    pub fn new(vni: u32, port: u16, local: IpAddr) -> Self {
        Self { vni, port, local: Some(local), underlay: None, learning: false, ttl: 0, udp_checksum: false }
    }

    fn attributes(&self) -> Vec<InfoVxlan> {
        let mut all = vec![
            InfoVxlan::Id(self.vni),
            InfoVxlan::Port(self.port),
            InfoVxlan::Learning(self.learning),
            InfoVxlan::Ttl(self.ttl),
            InfoVxlan::UDPCsum(self.udp_checksum),
        ];
        match self.local {
            Some(IpAddr::V4(local)) => all.push(InfoVxlan::Local(local)),
            Some(IpAddr::V6(local)) => all.push(InfoVxlan::Local6(local)),
            None => {}
        }
        all.extend(self.underlay.map(InfoVxlan::Link));
        all
    }

    fn read(attributes: &[InfoVxlan]) -> Self {
        let mut vxlan = Self {
            vni: 0,
            port: 0,
            local: None,
            underlay: None,
            learning: false,
            ttl: 0,
            udp_checksum: false,
        };
        for attribute in attributes {
            match attribute {
                InfoVxlan::Id(vni) => vxlan.vni = *vni,
                InfoVxlan::Port(port) => vxlan.port = *port,
                InfoVxlan::Local(local) => vxlan.local = Some(IpAddr::V4(*local)),
                InfoVxlan::Local6(local) => vxlan.local = Some(IpAddr::V6(*local)),
                InfoVxlan::Link(index) => vxlan.underlay = Some(*index).filter(|i| *i != 0),
                InfoVxlan::Learning(on) => vxlan.learning = *on,
                InfoVxlan::Ttl(ttl) => vxlan.ttl = *ttl,
                InfoVxlan::UDPCsum(on) => vxlan.udp_checksum = *on,
                _ => {}
            }
        }
        vxlan
    }
}

/// What to change about an interface; `None` leaves it alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkChange<'a> {
    /// Administrative state.
    pub up: Option<bool>,
    /// Largest packet, bytes.
    pub mtu: Option<u32>,
    /// Ethernet address.
    pub mac: Option<Mac>,
    /// Bridge to join, 0 to leave.
    pub master: Option<u32>,
    /// New name (the interface may have to be down).
    pub name: Option<&'a str>,
    /// Namespace to move it to.
    pub netns: Option<BorrowedFd<'a>>,
    /// Group, by which many can be deleted at once; 0 is the one every interface begins in.
    pub group: Option<u32>,
}

impl Netlink {
    /// All interfaces of the namespace, by index.
    ///
    /// # Errors
    /// When the kernel doesn't answer.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut links = self.socket.dump(
            &Request::new(RTM_GETLINK, 0, &message),
            || "list interfaces".to_owned(),
            |_, payload, all| {
                all.extend(parse_or_skip(payload, "interfaces").map(|message| read(&message)));
                Ok(())
            },
        )?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The interface called `name`, or `None`.
    ///
    /// # Errors
    /// When the kernel doesn't answer.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.get_link(message, || format!("look up interface {name}"))
    }

    /// The interface with `index`, or `None`.
    ///
    /// # Errors
    /// When the kernel doesn't answer.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.get_link(message, || format!("look up interface with index {index}"))
    }

    /// The index of the interface called `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none.
    pub fn link_index(&mut self, name: &str) -> Result<u32> {
        self.link(name)?.map(|link| link.index).ok_or_else(|| {
            Error::from_errno(format!("look up interface {name}"), nix::errno::Errno::ENODEV, None)
        })
    }

    fn get_link(&mut self, mut message: LinkMessage, what: impl Fn() -> String) -> Result<Option<Link>> {
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut found = None;
        let outcome = self.socket.query(&Request::new(RTM_GETLINK, 0, &message), &what, |_, payload| {
            let message = LinkMessage::parse(payload)
                .map_err(|e| Error::Decode { what: what(), reason: e.to_string() })?;
            found = Some(read(&message));
            Ok(())
        });
        match outcome {
            Ok(()) => Ok(found),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a veth pair, each end directly in its namespace, both with `mtu`, both down.
    ///
    /// # Errors
    /// [`Error::Exists`] when either name is taken in its namespace; nothing is left behind then.
    pub fn add_veth(&mut self, near: &VethEnd<'_>, far: &VethEnd<'_>, mtu: Option<u32>) -> Result<()> {
        check_name(near.name)?;
        check_name(far.name)?;
        let mut peer = LinkMessage::default();
        veth_attributes(&mut peer, far, mtu);
        let mut message = LinkMessage::default();
        veth_attributes(&mut message, near, mtu);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.create(&message, || format!("make veth pair {} and {}", near.name, far.name))
    }

    /// Makes a VXLAN device (down).
    ///
    /// # Errors
    /// [`Error::Exists`] when the name, or VNI and port, are taken.
    pub fn add_vxlan(&mut self, name: &str, vxlan: &Vxlan, mac: Option<Mac>, mtu: Option<u32>) -> Result<()> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vxlan.attributes())),
        ]));
        self.create(&message, || format!("make VXLAN device {name}"))
    }

    /// Makes an IPIP device (down) that sends from `local` to the gateway of whichever route leads into it.
    ///
    /// # Errors
    /// [`Error::Exists`] when the name, or the local address, is taken; `EOPNOTSUPP` from a kernel without IPIP.
    pub fn add_ipip(&mut self, name: &str, local: Ipv4Addr, mtu: Option<u32>) -> Result<()> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::IpIp),
            LinkInfo::Data(InfoData::IpTunnel(vec![
                InfoIpTunnel::Local(local.into()),
                InfoIpTunnel::PMtuDisc(true),
            ])),
        ]));
        self.create(&message, || format!("make IPIP device {name}"))
    }

    /// Makes a WireGuard device (down), without key and peers.
    ///
    /// # Errors
    /// [`Error::Exists`] when the name is taken; `EOPNOTSUPP` from a kernel without WireGuard.
    pub fn add_wireguard(&mut self, name: &str, mtu: Option<u32>) -> Result<()> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]));
        self.create(&message, || format!("make WireGuard device {name}"))
    }

    /// Makes a bridge (down).
    ///
    /// # Errors
    /// [`Error::Exists`] when the name is taken.
    pub fn add_bridge(&mut self, name: &str) -> Result<()> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.create(&message, || format!("make bridge {name}"))
    }

    fn create(&mut self, message: &LinkMessage, what: impl Fn() -> String) -> Result<()> {
        self.socket.execute(&Request::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, message), what)
    }

    /// Changes an interface.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it isn't there, or the kernel's refusal of a value.
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        if let Some(up) = change.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        if let Some(name) = change.name {
            check_name(name)?;
            message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        }
        message.attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        message.attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        message.attributes.extend(change.master.map(LinkAttribute::Controller));
        message.attributes.extend(change.group.map(LinkAttribute::Group));
        message.attributes.extend(change.netns.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
        self.socket.execute(&Request::new(RTM_NEWLINK, 0, &message), || {
            format!("change interface with index {index}")
        })
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it isn't there.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<()> {
        self.change_link(index, &LinkChange { up: Some(up), ..LinkChange::default() })
    }

    /// Moves an interface to another namespace.
    ///
    /// # Errors
    /// [`Error::Exists`] when its name is taken there.
    pub fn move_link(&mut self, index: u32, netns: &impl AsFd) -> Result<()> {
        self.change_link(index, &LinkChange { netns: Some(netns.as_fd()), ..LinkChange::default() })
    }

    /// Deletes an interface (a veth takes its peer along).
    ///
    /// # Errors
    /// [`Error::NotFound`] when it isn't there.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.socket.execute(&Request::new(RTM_DELLINK, 0, &message), || {
            format!("delete interface with index {index}")
        })
    }

    /// Deletes all interfaces of a group, in about the time that one takes: the kernel waits once for all of them.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it has none.
    pub fn delete_group(&mut self, group: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(group));
        self.socket.execute(&Request::new(RTM_DELLINK, 0, &message), || {
            format!("delete the interfaces of group {group}")
        })
    }

    /// Deletes the interface called `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it isn't there.
    pub fn delete_link_named(&mut self, name: &str) -> Result<()> {
        check_name(name)?;
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.socket.execute(&Request::new(RTM_DELLINK, 0, &message), || format!("delete interface {name}"))
    }
}

/// Refuses what the kernel's `dev_valid_name` refuses, with a better message than `EINVAL`.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_name(name: &str) -> Result<()> {
    let reason = if name.is_empty() || name.len() > MAX_NAME {
        "must have 1 to 15 bytes"
    } else if name == "." || name == ".." || name.contains(['/', ':']) || name.contains(char::is_whitespace) {
        "must not be . or .. nor contain a slash, colon or space"
    } else if name.contains('\0') {
        "must not contain a zero byte"
    } else {
        return Ok(());
    };
    Err(Error::Invalid { what: format!("interface name {name:?}"), reason: reason.to_owned() })
}

fn veth_attributes(message: &mut LinkMessage, end: &VethEnd<'_>, mtu: Option<u32>) {
    message.attributes.push(LinkAttribute::IfName(end.name.to_owned()));
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message.attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    message.attributes.extend(end.netns.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
}

fn local_of(attributes: &[InfoIpTunnel]) -> Option<Ipv4Addr> {
    attributes.iter().find_map(|attribute| match attribute {
        InfoIpTunnel::Local(IpAddr::V4(local)) => Some(*local).filter(|local| !local.is_unspecified()),
        _ => None,
    })
}

pub(crate) fn read(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        master: None,
        peer: None,
        kind: None,
        vxlan: None,
        ipip_local: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = Mac::from_bytes(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Link(index) => link.peer = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vxlan(data)) => link.vxlan = Some(Vxlan::read(data)),
                        LinkInfo::Data(InfoData::IpTunnel(data)) => link.ipip_local = local_of(data),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if link.kind.as_deref() != Some("veth") {
        link.peer = None;
    }
    link
}
