//! Connections that the kernel tracks: read, and forgotten (`linux/netfilter/nfnetlink_conntrack.h`).

use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::NLA_F_NESTED;

use crate::error::Result;
use crate::socket::Socket;
use crate::wire::{Request, array, attributes, push_attribute};

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1;
const MSG_GET: u16 = 1;
const MSG_DELETE: u16 = 2;
/// Length of `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
/// Identifier, type and code of ICMP; those of ICMPv6 follow in the same order.
const PROTO_ICMP: [u16; 3] = [4, 5, 6];
const PROTO_ICMPV6: [u16; 3] = [7, 8, 9];

/// A table of a million entries is read in seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// What else identifies it.
    pub detail: Detail,
}

/// What identifies a connection beside addresses and protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Of protocols with ports.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// Of ICMP and ICMPv6.
    Icmp {
        /// Identifier of the echo.
        id: u16,
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Of other protocols: nothing.
    None,
}

/// A tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// As its first packet came in, before any address translation.
    pub original: Tuple,
    /// As replies come in: its source is who really answers.
    pub reply: Tuple,
    /// Conntrack zone, 0 unless somebody made others.
    pub zone: u16,
    /// Tells apart connections that had the same tuple one after the other; in the kernel's own byte order.
    pub id: [u8; 4],
}

impl Flow {
    /// An address is an end of it, before or after translation.
    pub fn has(&self, is_end: impl Fn(IpAddr) -> bool) -> bool {
        [self.original, self.reply].iter().any(|tuple| is_end(tuple.source) || is_end(tuple.destination))
    }
}

/// A connection to conntrack in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Conntrack(Socket);

impl Conntrack {
    /// Connects.
    ///
    /// # Errors
    /// The kernel has no netfilter netlink.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
        socket.set_timeout(TIMEOUT)?;
        Ok(Self(socket))
    }

    /// The tracked connections of a family that `wanted` takes. It sees every connection; only what it takes is kept.
    ///
    /// # Errors
    /// The kernel has no conntrack, or does not answer.
    pub fn flows(&mut self, is_ipv6: bool, mut wanted: impl FnMut(&Flow) -> bool) -> Result<Vec<Flow>> {
        let request = Request { message_type: (SUBSYSTEM << 8) | MSG_GET, flags: 0, body: family(is_ipv6) };
        self.0.dump(
            &request,
            || "list tracked connections".to_owned(),
            |_, payload, all| {
                all.extend(read(payload).filter(|flow| wanted(flow)));
                Ok(())
            },
        )
    }

    /// Forgets the connections of a family that `wanted` takes; how many. What ended meanwhile doesn't count.
    ///
    /// # Errors
    /// The kernel's; some may be forgotten.
    pub fn forget(&mut self, is_ipv6: bool, wanted: impl FnMut(&Flow) -> bool) -> Result<usize> {
        let flows = self.flows(is_ipv6, wanted)?;
        let mut count = 0;
        for outcome in self.delete(&flows) {
            match outcome {
                Ok(()) => count += 1,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    /// Forgets connections; one result for each. One that ended meanwhile is [`NotFound`](crate::Error::NotFound).
    pub fn delete(&mut self, flows: &[Flow]) -> Vec<Result<()>> {
        self.0.batch(flows.iter().map(deletion), |number| match flows.get(number) {
            Some(Flow { original, .. }) => {
                format!("forget the connection {} -> {}", original.source, original.destination)
            }
            None => "forget connections".to_owned(),
        })
    }
}

fn family(is_ipv6: bool) -> Vec<u8> {
    let family = if is_ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    vec![u8::try_from(family).unwrap_or_default(), 0, 0, 0]
}

fn deletion(flow: &Flow) -> Request {
    let mut body = family(flow.original.source.is_ipv6());
    push_attribute(&mut body, TUPLE_ORIG | NLA_F_NESTED, &write(&flow.original));
    push_attribute(&mut body, ID, &flow.id);
    if flow.zone != 0 {
        push_attribute(&mut body, ZONE, &flow.zone.to_be_bytes());
    }
    Request { message_type: (SUBSYSTEM << 8) | MSG_DELETE, flags: 0, body }
}

fn write(tuple: &Tuple) -> Vec<u8> {
    let (mut ip, mut proto) = (Vec::new(), Vec::new());
    for (address, v4, v6) in [(tuple.source, IP_V4_SRC, IP_V6_SRC), (tuple.destination, IP_V4_DST, IP_V6_DST)]
    {
        match address {
            IpAddr::V4(address) => push_attribute(&mut ip, v4, &address.octets()),
            IpAddr::V6(address) => push_attribute(&mut ip, v6, &address.octets()),
        }
    }
    push_attribute(&mut proto, PROTO_NUM, &[tuple.protocol]);
    match tuple.detail {
        Detail::Ports { source, destination } => {
            push_attribute(&mut proto, PROTO_SRC_PORT, &source.to_be_bytes());
            push_attribute(&mut proto, PROTO_DST_PORT, &destination.to_be_bytes());
        }
        Detail::Icmp { id, kind, code } => {
            let [of_id, of_kind, of_code] = if tuple.source.is_ipv4() { PROTO_ICMP } else { PROTO_ICMPV6 };
            push_attribute(&mut proto, of_id, &id.to_be_bytes());
            push_attribute(&mut proto, of_kind, &[kind]);
            push_attribute(&mut proto, of_code, &[code]);
        }
        Detail::None => {}
    }
    let mut bytes = Vec::new();
    push_attribute(&mut bytes, TUPLE_IP | NLA_F_NESTED, &ip);
    push_attribute(&mut bytes, TUPLE_PROTO | NLA_F_NESTED, &proto);
    bytes
}

/// `None`: not a connection between addresses of one family.
pub(crate) fn read(payload: &[u8]) -> Option<Flow> {
    let bytes = payload.get(FAMILY_HEADER..)?;
    let find = |wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    Some(Flow {
        original: read_tuple(find(TUPLE_ORIG)?)?,
        reply: read_tuple(find(TUPLE_REPLY)?)?,
        zone: find(ZONE).and_then(|zone| array(zone, 0)).map_or(0, u16::from_be_bytes),
        id: array(find(ID)?, 0)?,
    })
}

fn read_tuple(bytes: &[u8]) -> Option<Tuple> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let (mut ports, mut icmp) = ((None, None), (None, None, None));
    let v4 = |value| array::<4>(value, 0).map(IpAddr::from);
    let v6 = |value| array::<16>(value, 0).map(IpAddr::from);
    let short = |value| array(value, 0).map(u16::from_be_bytes);
    for (kind, nested) in attributes(bytes) {
        for (field, value) in attributes(nested) {
            match (kind, field) {
                (TUPLE_IP, IP_V4_SRC) => source = v4(value),
                (TUPLE_IP, IP_V4_DST) => destination = v4(value),
                (TUPLE_IP, IP_V6_SRC) => source = v6(value),
                (TUPLE_IP, IP_V6_DST) => destination = v6(value),
                (TUPLE_PROTO, PROTO_NUM) => protocol = value.first().copied(),
                (TUPLE_PROTO, PROTO_SRC_PORT) => ports.0 = short(value),
                (TUPLE_PROTO, PROTO_DST_PORT) => ports.1 = short(value),
                (TUPLE_PROTO, field) if field == PROTO_ICMP[0] || field == PROTO_ICMPV6[0] => {
                    icmp.0 = short(value);
                }
                (TUPLE_PROTO, field) if field == PROTO_ICMP[1] || field == PROTO_ICMPV6[1] => {
                    icmp.1 = value.first().copied();
                }
                (TUPLE_PROTO, field) if field == PROTO_ICMP[2] || field == PROTO_ICMPV6[2] => {
                    icmp.2 = value.first().copied();
                }
                _ => {}
            }
        }
    }
    let detail = match (ports, icmp) {
        ((Some(source), Some(destination)), _) => Detail::Ports { source, destination },
        (_, (Some(id), Some(kind), Some(code))) => Detail::Icmp { id, kind, code },
        _ => Detail::None,
    };
    let (source, destination) = (source?, destination?);
    (source.is_ipv4() == destination.is_ipv4()).then_some(Tuple {
        source,
        destination,
        protocol: protocol?,
        detail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tuple() -> impl Strategy<Value = Tuple> {
        let addresses = prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
            any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        ];
        let detail = prop_oneof![
            any::<(u16, u16)>().prop_map(|(source, destination)| Detail::Ports { source, destination }),
            any::<(u16, u8, u8)>().prop_map(|(id, kind, code)| Detail::Icmp { id, kind, code }),
            Just(Detail::None),
        ];
        (addresses, any::<u8>(), detail).prop_map(|((source, destination), protocol, detail)| Tuple {
            source,
            destination,
            protocol,
            detail,
        })
    }

    proptest! {
        #[test]
        fn tuples_come_back(tuple in tuple()) {
            prop_assert_eq!(read_tuple(&write(&tuple)), Some(tuple));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            read(&bytes);
            read_tuple(&bytes);
        }
    }
}
