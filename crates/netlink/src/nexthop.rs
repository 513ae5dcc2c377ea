//! Nexthop objects (`RTM_NEWNEXTHOP`, Linux 5.3): routes refer to them by id, so moving all routes of a node to another
//! gateway is one message. The typed message crate has no codec for them; `include/uapi/linux/nexthop.h` is followed here.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use crate::error::Result;
use crate::handle::Netlink;
use crate::wire::{self, Request, push_attribute};

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;

/// `struct nhmsg`: family, scope, protocol, reserved, flags (u32).
const HEADER_LEN: usize = 8;
const RTNH_F_ONLINK: u32 = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A nexthop object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nexthop {
    /// Id, unique in the namespace, not 0.
    pub id: u32,
    /// Who made it: a routing protocol number as for routes.
    pub protocol: u8,
    /// Where it leads.
    pub target: NexthopTarget,
}

/// Where a nexthop object leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NexthopTarget {
    /// To a gateway.
    Via {
        /// Gateway address.
        gateway: IpAddr,
        /// Index of the interface.
        device: u32,
        /// The gateway counts as directly reachable even if no route says so.
        onlink: bool,
    },
    /// To the link itself; the family is that of the routes that may use it.
    Device {
        /// Index of the interface.
        device: u32,
        /// For IPv6 routes; else for IPv4.
        ipv6: bool,
    },
    /// Nowhere.
    Blackhole {
        /// For IPv6 routes; else for IPv4.
        ipv6: bool,
    },
    /// Spread over other nexthops: (id, weight 1 to 256).
    Group(Vec<(u32, u16)>),
}

impl Nexthop {
    fn body(&self) -> Vec<u8> {
        let (family, flags) = match &self.target {
            NexthopTarget::Via { gateway, onlink, .. } => {
                (if gateway.is_ipv4() { AF_INET } else { AF_INET6 }, if *onlink { RTNH_F_ONLINK } else { 0 })
            }
            NexthopTarget::Device { ipv6, .. } | NexthopTarget::Blackhole { ipv6 } => {
                (if *ipv6 { AF_INET6 } else { AF_INET }, 0)
            }
            NexthopTarget::Group(_) => (0, 0),
        };
        let mut body = vec![family, 0, self.protocol, 0];
        body.extend_from_slice(&flags.to_ne_bytes());
        push_attribute(&mut body, NHA_ID, &self.id.to_ne_bytes());
        match &self.target {
            NexthopTarget::Via { gateway, device, .. } => {
                push_attribute(&mut body, NHA_OIF, &device.to_ne_bytes());
                match gateway {
                    IpAddr::V4(ip) => push_attribute(&mut body, NHA_GATEWAY, &ip.octets()),
                    IpAddr::V6(ip) => push_attribute(&mut body, NHA_GATEWAY, &ip.octets()),
                }
            }
            NexthopTarget::Device { device, .. } => push_attribute(&mut body, NHA_OIF, &device.to_ne_bytes()),
            NexthopTarget::Blackhole { .. } => push_attribute(&mut body, NHA_BLACKHOLE, &[]),
            NexthopTarget::Group(members) => {
                // struct nexthop_grp: id u32, weight minus one u8, high byte of it u8, reserved u16.
                let group: Vec<u8> = members
                    .iter()
                    .flat_map(|(id, weight)| {
                        let [a, b, c, d] = id.to_ne_bytes();
                        let [low, high] = weight.saturating_sub(1).to_le_bytes();
                        [a, b, c, d, low, high, 0, 0]
                    })
                    .collect();
                push_attribute(&mut body, NHA_GROUP, &group);
            }
        }
        body
    }

    /// Reads one from a `RTM_NEWNEXTHOP` payload; `None` for kinds this type doesn't describe (MPLS, FDB).
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let [family, _scope, protocol, _reserved] = wire::array(payload, 0)?;
        let flags = u32::from_ne_bytes(wire::array(payload, 4)?);
        let (mut id, mut device, mut gateway, mut group, mut blackhole) = (0, None, None, None, false);
        for (kind, value) in wire::attributes(payload.get(HEADER_LEN..)?) {
            match kind {
                NHA_ID => id = u32::from_ne_bytes(wire::array(value, 0)?),
                NHA_OIF => device = Some(u32::from_ne_bytes(wire::array(value, 0)?)),
                NHA_BLACKHOLE => blackhole = true,
                NHA_GATEWAY => {
                    gateway = match value.len() {
                        4 => Some(IpAddr::from(wire::array::<4>(value, 0)?)),
                        _ => Some(IpAddr::from(wire::array::<16>(value, 0)?)),
                    }
                }
                NHA_GROUP => {
                    let members = value.chunks_exact(8).filter_map(|member| {
                        let id = u32::from_ne_bytes(wire::array(member, 0)?);
                        Some((id, u16::from_le_bytes(wire::array(member, 4)?).saturating_add(1)))
                    });
                    group = Some(members.collect());
                }
                _ => {}
            }
        }
        let ipv6 = family == AF_INET6;
        let target = match (group, blackhole, gateway, device) {
            (Some(members), ..) => NexthopTarget::Group(members),
            (None, true, ..) => NexthopTarget::Blackhole { ipv6 },
            (None, false, Some(gateway), Some(device)) => {
                NexthopTarget::Via { gateway, device, onlink: flags & RTNH_F_ONLINK != 0 }
            }
            (None, false, None, Some(device)) => NexthopTarget::Device { device, ipv6 },
            (None, false, _, None) => return None,
        };
        Some(Self { id, protocol, target })
    }
}

/// One step of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NexthopChange {
    /// Make it; refused when its id is taken.
    Add(Nexthop),
    /// Change it in place: routes and groups that use it follow at once.
    Replace(Nexthop),
    /// Delete it. The kernel takes it out of groups and deletes the routes that use it.
    Delete(u32),
}

impl NexthopChange {
    fn request(&self) -> Request {
        match self {
            Self::Add(nexthop) => Request {
                message_type: RTM_NEWNEXTHOP,
                flags: NLM_F_CREATE | NLM_F_EXCL,
                body: nexthop.body(),
            },
            Self::Replace(nexthop) => Request {
                message_type: RTM_NEWNEXTHOP,
                flags: NLM_F_CREATE | NLM_F_REPLACE,
                body: nexthop.body(),
            },
            Self::Delete(id) => {
                let mut body = vec![0; HEADER_LEN];
                push_attribute(&mut body, NHA_ID, &id.to_ne_bytes());
                Request { message_type: RTM_DELNEXTHOP, flags: 0, body }
            }
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Add(nexthop) => format!("add nexthop {}", nexthop.id),
            Self::Replace(nexthop) => format!("set nexthop {}", nexthop.id),
            Self::Delete(id) => format!("delete nexthop {id}"),
        }
    }
}

/// The id in a nexthop message.
pub(crate) fn read_id(payload: &[u8]) -> Option<u32> {
    let (_, id) = wire::attributes(payload.get(HEADER_LEN..)?).find(|(kind, _)| *kind == NHA_ID)?;
    Some(u32::from_ne_bytes(wire::array(id, 0)?))
}

impl Netlink {
    /// Performs changes of nexthop objects in order, in large batches; one result each.
    pub fn apply_nexthops(&mut self, changes: &[NexthopChange]) -> Vec<Result<()>> {
        let requests = changes.iter().map(NexthopChange::request);
        self.socket.batch(requests, |n| changes.get(n).map_or_else(String::new, NexthopChange::describe))
    }

    /// The nexthop objects made by `protocol` (or by anyone), by id.
    ///
    /// # Errors
    /// [`Error::Kernel`](crate::Error::Kernel) with `EOPNOTSUPP` on a kernel before 5.3, which has none.
    pub fn nexthops(&mut self, protocol: Option<u8>) -> Result<Vec<Nexthop>> {
        let request = Request { message_type: RTM_GETNEXTHOP, flags: 0, body: vec![0; HEADER_LEN] };
        let mut all = self.socket.dump(
            &request,
            || "list nexthops".to_owned(),
            |_, payload, all| {
                all.extend(Nexthop::read(payload));
                Ok(())
            },
        )?;
        all.retain(|nexthop| protocol.is_none_or(|protocol| protocol == nexthop.protocol));
        all.sort_unstable();
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back() {
        let targets = [
            NexthopTarget::Via { gateway: IpAddr::from([10, 0, 0, 1]), device: 7, onlink: true },
            NexthopTarget::Via {
                gateway: IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]),
                device: 7,
                onlink: false,
            },
            NexthopTarget::Device { device: 3, ipv6: true },
            NexthopTarget::Blackhole { ipv6: false },
            NexthopTarget::Group(vec![(1, 1), (2, 256)]),
        ];
        for target in targets {
            let nexthop = Nexthop { id: 42, protocol: 181, target };
            assert_eq!(Nexthop::read(&nexthop.body()), Some(nexthop));
        }
    }

    #[test]
    fn short_payload_is_not_read() {
        for length in 0..HEADER_LEN {
            assert_eq!(Nexthop::read(&vec![0; length]), None);
        }
    }
}
