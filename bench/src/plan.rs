//! Who announces what: addresses, prefixes and attributes of every client, and the way back from a prefix to its client.

use std::net::Ipv4Addr;
use std::ops::Range;

use anyhow::Result;
use bytes::BytesMut;
use ipnet::{IpNet, Ipv4Net};
use margay_bgp::wire::{
    Community, FamilySet, Negotiated, NextHop, Nlri, PathAttributes, PeerKind, UpdateEncoder,
};

/// The AS of everybody.
pub(crate) const AS: u32 = 64512;
/// Address, identifier and cluster id of the process under test.
pub(crate) const REFLECTOR: Ipv4Addr = Ipv4Addr::new(10, 63, 0, 1);
/// The other end of the veth pair: everything to the clients goes there.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 63, 0, 2);
/// Addresses of clients begin here.
const CLIENTS: u32 = 0x0a40_0000;
/// Prefixes begin here.
const PREFIXES: u32 = 0x0a80_0000;
/// Addresses of a client with host routes: up to 256 blocks of 256.
const RANGE: u32 = 1 << 16;
/// Up to here a client announces blocks of 64 addresses, beyond it single addresses.
const MANY: usize = 64;

/// The net of all clients' addresses.
pub(crate) fn clients_net() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from_bits(CLIENTS), 16)
}

/// What every session negotiates: IPv4 unicast, four-octet AS numbers.
pub(crate) const SESSION: Negotiated = Negotiated {
    peer: PeerKind::Internal,
    four_octet_as: true,
    extended_message: false,
    extended_next_hop: false,
    families: FamilySet { ipv4: true, ipv6: false },
    add_path_receive: FamilySet::NONE,
    add_path_send: FamilySet::NONE,
};

/// Sizes of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Clients.
    pub(crate) clients: usize,
    /// Prefixes of each.
    pub(crate) prefixes: usize,
    /// Prefixes that share their attributes.
    pub(crate) per_set: usize,
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Plan {
    /// All routes.
    pub(crate) fn routes(&self) -> usize {
        self.clients * self.prefixes
    }

    /// The address and identifier of a client.
    pub(crate) fn address(client: usize) -> Ipv4Addr {
        Ipv4Addr::from_bits(CLIENTS + 1 + small(client))
    }

    /// The numbers of a client's routes.
    pub(crate) fn own(&self, client: usize) -> Range<usize> {
        client * self.prefixes..(client + 1) * self.prefixes
    }

    /// Whose a route is.
    pub(crate) fn owner(&self, route: usize) -> usize {
        route / self.prefixes
    }

    /// The prefix of a route.
    pub(crate) fn prefix(&self, route: usize) -> Ipv4Net {
        if self.prefixes <= MANY {
            return Ipv4Net::new_assert(Ipv4Addr::from_bits(PREFIXES + 64 * small(route)), 26);
        }
        let (client, index) = (route / self.prefixes, route % self.prefixes);
        Ipv4Net::new_assert(Ipv4Addr::from_bits(PREFIXES + RANGE * small(client) + small(index)), 32)
    }

    /// The route of a prefix, if it is anybody's.
    pub(crate) fn route(&self, prefix: &IpNet) -> Option<usize> {
        let IpNet::V4(prefix) = prefix else { return None };
        let offset = prefix.network().to_bits().checked_sub(PREFIXES)?;
        let route = if self.prefixes <= MANY {
            (offset / 64) as usize
        } else {
            (offset / RANGE) as usize * self.prefixes + (offset % RANGE) as usize
        };
        (route < self.routes() && self.prefix(route) == *prefix).then_some(route)
    }

    /// The address blocks of a client, as IPAM would have given them out.
    pub(crate) fn blocks(&self, client: usize) -> Vec<Ipv4Net> {
        if self.prefixes <= MANY {
            return self.own(client).map(|route| self.prefix(route)).collect();
        }
        let start = PREFIXES + RANGE * small(client);
        let blocks = small(self.prefixes.div_ceil(256));
        (0..blocks).map(|n| Ipv4Net::new_assert(Ipv4Addr::from_bits(start + 256 * n), 24)).collect()
    }

    /// The routes that share their attributes with one.
    pub(crate) fn set_of(&self, route: usize) -> Range<usize> {
        let own = self.own(self.owner(route));
        let start = own.start + (route - own.start) / self.per_set * self.per_set;
        start..(start + self.per_set).min(own.end)
    }

    /// The attributes with which its client announces a route. Versions are told apart by MULTI_EXIT_DISC.
    pub(crate) fn attributes(&self, route: usize, version: u8) -> PathAttributes {
        let set = (self.set_of(route).start - self.own(self.owner(route)).start) / self.per_set;
        let communities = [Community::new(64512, u16::try_from(set).unwrap_or(u16::MAX))];
        PathAttributes {
            med: Some(version.into()),
            local_pref: Some(100),
            communities: communities.into_iter().collect(),
            ..PathAttributes::default()
        }
    }

    /// The UPDATEs with which a client announces routes, which share their attributes set by set.
    pub(crate) fn announcement(&self, routes: Range<usize>, version: u8) -> Result<Vec<u8>> {
        let mut out = BytesMut::new();
        let mut encoder = UpdateEncoder::new(SESSION);
        let mut route = routes.start;
        while route < routes.end {
            let set = self.set_of(route);
            let next_hop = NextHop::V4(Self::address(self.owner(route)));
            let some = route..set.end.min(routes.end);
            route = some.end;
            let nlri = some.map(|route| Nlri::new(self.prefix(route).into()));
            encoder.announce(&self.attributes(set.start, version), &next_hop, nlri, &mut out)?;
        }
        Ok(out.to_vec())
    }

    /// The attributes with which everybody else must receive it.
    pub(crate) fn reflected(&self, route: usize, version: u8) -> PathAttributes {
        self.attributes(route, version).reflected(Self::address(self.owner(route)), REFLECTOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_leads_back_to_its_route_and_lies_in_a_block_of_its_owner() {
        for plan in
            [Plan { clients: 30, prefixes: 3, per_set: 2 }, Plan { clients: 3, prefixes: 50_000, per_set: 5 }]
        {
            for route in (0..plan.routes()).step_by(7) {
                let prefix = plan.prefix(route);
                assert_eq!(plan.route(&prefix.into()), Some(route));
                let blocks = plan.blocks(plan.owner(route));
                assert!(blocks.iter().any(|block| block.contains(&prefix)), "{prefix}");
                assert!(plan.set_of(route).contains(&route));
            }
            assert_eq!(plan.route(&plan.prefix(plan.routes()).into()), None);
        }
        let plan = Plan { clients: 2, prefixes: 12, per_set: 5 };
        assert_eq!(plan.set_of(23), 22..24);
        assert_ne!(plan.attributes(12, 1), plan.attributes(23, 1));
    }
}
