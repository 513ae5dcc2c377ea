//! Notice of what others change in the kernel: links, addresses, routes, nexthop objects, neighbours.
//!
//! The kernel keeps notifications for a slow reader only so long (`SO_RCVBUF`); what it had to drop becomes one
//! [`Event::Resync`]: read everything back. It is silent about what goes along with something else: the IPv4
//! routes of a link that goes down, the routes of a deleted nexthop object, the nexthop objects of a link.

use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;
use nix::errno::Errno;
use socket2::{SockFilter, SockRef};

use crate::error::{Error, Result};
use crate::handle::Netlink;
use crate::link::{self, Link};
use crate::nexthop::{self, Nexthop};
use crate::route::{self, Route};
use crate::socket::{DATAGRAM, widen};
use crate::wire::{self, Received};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

/// `RTNLGRP_LINK`, `_NEIGH`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`, `_NEXTHOP`.
const GROUPS: [u32; 7] = [1, 3, 5, 7, 9, 11, NEXTHOP_GROUP];
/// The one group that kernels before 5.3 don't have.
const NEXTHOP_GROUP: u32 = 32;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An interface appeared or changed.
    LinkSet(Link),
    /// An interface is gone.
    LinkGone(Link),
    /// The addresses of the interface with this index changed.
    Addresses(u32),
    /// A route was made; with true, it took the place of the one with its key.
    RouteSet(Route, bool),
    /// A route is gone.
    RouteGone(Route),
    /// A nexthop object was made or replaced.
    NexthopSet(Nexthop),
    /// The nexthop object with this id is gone, and with it, silently, the routes that used it.
    NexthopGone(u32),
    /// Neighbours or forwarding entries of the interface with this index changed.
    Neighbours(u32),
    /// Changes were missed: read everything back.
    Resync,
}

/// A subscription to changes in the namespace it was opened in. The descriptor is readable when there are some.
#[derive(Debug)]
pub struct Monitor {
    socket: netlink_sys::Socket,
    buffer: Vec<u8>,
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Monitor {
    /// Subscribes, in the calling thread's namespace, to all changes but those that `own` make.
    ///
    /// # Errors
    /// When no netlink socket can be opened.
    pub fn open<const N: usize>(own: [&Netlink; N]) -> Result<Self> {
        Self::subscribe(&GROUPS, &others(&own.map(|own| own.socket.port())))
    }

    /// Subscribes, in the calling thread's namespace, to interfaces that come, change and go.
    ///
    /// # Errors
    /// When no netlink socket can be opened.
    pub fn links() -> Result<Self> {
        Self::subscribe(&GROUPS[..1], &[])
    }

    /// Subscribes, in the calling thread's namespace, to interfaces and their addresses.
    ///
    /// # Errors
    /// When no netlink socket can be opened.
    pub fn addresses() -> Result<Self> {
        Self::subscribe(&[GROUPS[0], GROUPS[2], GROUPS[4]], &[])
    }

    /// No `filter`: nothing is kept back.
    fn subscribe(groups: &[u32], filter: &[SockFilter]) -> Result<Self> {
        let failed = |error| Error::io("subscribe to network changes", error);
        let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE).map_err(failed)?;
        widen(&socket)?;
        if !filter.is_empty() {
            SockRef::from(&socket).attach_filter(filter).map_err(failed)?;
        }
        socket.bind_auto().map_err(failed)?;
        socket.set_non_blocking(true).map_err(failed)?;
        for group in groups {
            match socket.add_membership(*group) {
                Err(_) if *group == NEXTHOP_GROUP => {}
                joined => joined.map_err(failed)?,
            }
        }
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Hands what has happened since to `take`, without waiting.
    ///
    /// # Errors
    /// When the socket fails for good.
    pub fn read(&mut self, mut take: impl FnMut(Event)) -> Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => take(Event::Resync),
                Ok(_) => {
                    wire::messages(&self.buffer).filter_map(|message| read(&message)).for_each(&mut take);
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN) => return Ok(()),
                    Some(Errno::EINTR) => {}
                    Some(Errno::ENOBUFS) => take(Event::Resync),
                    _ => return Err(Error::io("read network changes", error)),
                },
            }
        }
    }
}

/// A socket filter for notifications of changes that none of `ports` asked for (`nlmsg_pid`, in the order of the host): thousands of
/// routes of one's own would be as many system calls to throw away.
fn others(ports: &[u32]) -> Vec<SockFilter> {
    /// Offset of `nlmsg_pid` in `struct nlmsghdr`.
    const PORT: u32 = 12;
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let done = libc::BPF_RET | libc::BPF_K;
    // Each comparison leads to the last line, over those behind it and the line that keeps the packet.
    let to_end = (1..=ports.len()).rev();
    // What is loaded is taken for the order of the network.
    let own = ports.iter().zip(to_end).map(|(port, to_end)| (equals, to_end, port.to_be()));
    let ends = [(done, 0, u32::MAX), (done, 0, 0)];
    [(load, 0, PORT)]
        .into_iter()
        .chain(own)
        .chain(ends)
        .map(|(code, equal, value)| {
            let code = u16::try_from(code).unwrap_or_default();
            SockFilter::new(code, u8::try_from(equal).unwrap_or_default(), 0, value)
        })
        .collect()
}

fn read(message: &Received<'_>) -> Option<Event> {
    let payload = message.payload;
    let index = |offset| wire::array(payload, offset).map(u32::from_ne_bytes);
    let route = || route::read(&RouteMessage::parse(payload).ok()?);
    let link = || {
        let message = LinkMessage::parse(payload).ok()?;
        // The bridge speaks of its ports under its own family.
        (message.header.interface_family == AddressFamily::Unspec).then(|| link::read(&message))
    };
    match message.message_type {
        RTM_NEWLINK => link().map(Event::LinkSet),
        RTM_DELLINK => link().map(Event::LinkGone),
        // struct ifaddrmsg and struct ndmsg have the index in the same place.
        RTM_NEWADDR | RTM_DELADDR => index(4).map(Event::Addresses),
        RTM_NEWNEIGH | RTM_DELNEIGH => index(4).map(Event::Neighbours),
        RTM_NEWROUTE => {
            let replaces = message.flags & netlink_packet_core::NLM_F_REPLACE != 0;
            route().map(|route| Event::RouteSet(route, replaces))
        }
        RTM_DELROUTE => route().map(Event::RouteGone),
        RTM_NEWNEXTHOP => Nexthop::read(payload).map(Event::NexthopSet),
        RTM_DELNEXTHOP => nexthop::read_id(payload).map(Event::NexthopGone),
        _ => None,
    }
}
