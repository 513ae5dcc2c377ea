//! The rtnetlink handle; its operations live beside their objects (`link`, `address`, `route`, …).

use std::time::Duration;

use netlink_packet_core::Parseable;

use crate::error::Result;
use crate::netns::Netns;
use crate::socket::Socket;

/// A blocking `NETLINK_ROUTE` handle, bound to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    pub(crate) socket: Socket,
}

impl Netlink {
    /// Opens a handle in the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel has no rtnetlink or no descriptor is left.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open(netlink_sys::protocols::NETLINK_ROUTE)? })
    }

    /// Opens a handle in `netns`; it may then be used from any thread.
    ///
    /// # Errors
    /// As for [`open`](Self::open) and [`Netns::run`].
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.run(Self::open)?
    }

    /// Changes how long the kernel may take to answer ([`crate::socket::DEFAULT_TIMEOUT`]).
    ///
    /// # Errors
    /// When the kernel refuses the value.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<()> {
        self.socket.set_timeout(timeout)
    }
}

/// Reads a typed message of a dump. One that can't be read (a newer kernel's novelty on a foreign object) must not hide
/// all the others: it is logged and left out.
pub(crate) fn parse_or_skip<M: Parseable<[u8]>>(payload: &[u8], table: &'static str) -> Option<M> {
    match M::parse(payload) {
        Ok(message) => Some(message),
        Err(error) => {
            tracing::warn!(table, %error, "left out an unreadable kernel object");
            None
        }
    }
}
