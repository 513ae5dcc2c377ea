//! Connections as they begin (`linux/netfilter/nfnetlink_conntrack.h`) and packets that rules hand out
//! (`linux/netfilter/nfnetlink_log.h`), as one stream.

use std::time::Duration;

use crate::conntrack::{self, Flow};
use crate::error::{Error, Result};
use crate::socket::Socket;
use crate::wire::{Request, attributes, push_attribute};

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_NEW`.
const CONNECTION: u16 = 1 << 8;
/// `NFNL_SUBSYS_ULOG` and `NFULNL_MSG_PACKET`, `NFULNL_MSG_CONFIG`.
const PACKET: u16 = 4 << 8;
const CONFIGURE: u16 = PACKET | 1;
/// `NFNLGRP_CONNTRACK_NEW`.
const BEGUN: u32 = 1;

const CONFIG_COMMAND: u16 = 1;
const CONFIG_MODE: u16 = 2;
const COMMAND_BIND: u8 = 1;
const MODE_PACKET: u8 = 2;
const PAYLOAD: u16 = 9;
/// Octets of a packet that are wanted: the longest headers up to the ports that are looked for.
const SNAP: u32 = 128;
/// Length of `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;

/// What the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A connection whose first packet got through began.
    Begun(Flow),
    /// A rule of the NFLOG group saw this packet: its first octets, from the IP header on.
    Logged(&'a [u8]),
}

/// A subscription in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct FlowEvents(Socket);

impl FlowEvents {
    /// Subscribes to connections and to an NFLOG group, which nobody else may have.
    ///
    /// # Errors
    /// The kernel has no netfilter netlink, or another program has the group.
    pub fn open(group: u16) -> Result<Self> {
        let mut socket = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
        let [high, low] = group.to_be_bytes();
        let mut body = vec![0, 0, high, low];
        push_attribute(&mut body, CONFIG_COMMAND, &[COMMAND_BIND]);
        // struct nfulnl_msg_config_mode: octets to copy, mode, padding.
        let [a, b, c, d] = SNAP.to_be_bytes();
        push_attribute(&mut body, CONFIG_MODE, &[a, b, c, d, MODE_PACKET, 0]);
        let bind = Request { message_type: CONFIGURE, flags: 0, body };
        socket.execute(&bind, || format!("take NFLOG group {group}"))?;
        socket.join(BEGUN)?;
        Ok(Self(socket))
    }

    /// Waits for events, `patience` at most, and hands those of one datagram to `take`.
    ///
    /// # Errors
    /// [`Error::Lost`] when events came faster than they were read; the next ones are read again.
    pub fn read(&mut self, patience: Duration, mut take: impl FnMut(Event<'_>)) -> Result<()> {
        self.0.set_timeout(patience)?;
        let read = self.0.listen(|kind, payload| {
            if let Some(event) = event(kind, payload) {
                take(event);
            }
        });
        match read {
            Err(Error::Timeout { .. }) => Ok(()),
            other => other,
        }
    }
}

/// Reads a message of the subscription by its type.
#[must_use]
pub fn event(kind: u16, payload: &[u8]) -> Option<Event<'_>> {
    match kind {
        CONNECTION => conntrack::read(payload).map(Event::Begun),
        PACKET => {
            let mut found = attributes(payload.get(FAMILY_HEADER..)?);
            found.find(|(kind, _)| *kind == PAYLOAD).map(|(_, packet)| Event::Logged(packet))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_head_of_a_packet_is_found() {
        let mut payload = vec![2, 0, 0, 180];
        push_attribute(&mut payload, 1, &[8, 0, 3, 0]);
        push_attribute(&mut payload, PAYLOAD, b"head");
        assert_eq!(event(PACKET, &payload), Some(Event::Logged(b"head")));
        assert_eq!(event(CONFIGURE, &payload), None);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(kind in any::<u16>(), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for kind in [kind, CONNECTION, PACKET] {
                let _any = event(kind, &bytes);
            }
        }
    }
}
