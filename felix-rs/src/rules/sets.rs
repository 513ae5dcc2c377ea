//! Members of the sets: those the calculation maintains, split by family, and those the fixed rules need.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::dispatch::Dispatch;
use super::fixed::{SET_NAT_POOLS, SET_NODES, SET_POOLS};
use super::language::{DispatchBy, Family, Member, Set, SetName, SetType};
use super::names::{self, GroupId};
use crate::model::{Direction, EndpointId, LocalEndpoint, NodeSettings, SetKind, SetMember};

pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Type of a set of the calculation. An ip set of networks is a hash table itself.
pub(super) const fn set_type(kind: SetKind, by: DispatchBy) -> SetType {
    match (kind, by) {
        (SetKind::IpPort, _) => SetType::IpPort,
        (SetKind::Host, DispatchBy::Map) => SetType::Host,
        (SetKind::Net | SetKind::Host, _) => SetType::Net,
    }
}

/// Whether a network is a single address.
pub(super) fn is_host(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// A network as members: the kernel's sets know no prefix length 0, so everything is two halves.
pub(super) fn halves(net: IpNet) -> impl Iterator<Item = IpNet> {
    let whole = net.trunc();
    let halves: Vec<IpNet> = match whole {
        IpNet::V4(v4) if v4.prefix_len() == 0 => {
            v4.subnets(1).map(|nets| nets.map(IpNet::V4).collect()).unwrap_or_default()
        }
        IpNet::V6(v6) if v6.prefix_len() == 0 => {
            v6.subnets(1).map(|nets| nets.map(IpNet::V6).collect()).unwrap_or_default()
        }
        _ => vec![whole],
    };
    halves.into_iter()
}

/// Members of both families.
pub(super) fn members<'a>(members: impl IntoIterator<Item = &'a SetMember>) -> impl Iterator<Item = Member> {
    members.into_iter().flat_map(|member| {
        let nets = match member {
            SetMember::Net(net) => Some(halves(*net).map(Member::Net)),
            SetMember::IpPort(..) => None,
        };
        let port = match member {
            SetMember::IpPort(address, protocol, port) => Some(Member::IpPort(*address, *protocol, *port)),
            SetMember::Net(_) => None,
        };
        nets.into_iter().flatten().chain(port)
    })
}

fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn nets<'a>(nets: impl IntoIterator<Item = &'a IpNet>) -> BTreeSet<Member> {
    nets.into_iter().flat_map(|net| halves(*net)).map(Member::Net).collect()
}

/// A set under its kernel identity.
pub type SetKey = (SetName, Family);

/// Groups of an endpoint, by the direction of packets.
pub(super) type GroupsOf = [(Direction, GroupId); 2];

/// All sets that are not the calculation's own.
pub(super) fn derived<'a>(
    settings: &NodeSettings,
    dispatch: &Dispatch,
    endpoints: impl Iterator<Item = (&'a GroupsOf, &'a LocalEndpoint)>,
    net_sets: &BTreeMap<SetName, Vec<IpNet>>,
) -> BTreeMap<SetKey, Set> {
    let mut sets = BTreeMap::new();
    let mut of_both = |name: SetName, kind, members: BTreeSet<Member>| {
        for family in Family::ALL {
            let own = members.iter().filter(|member| member.family() == family).cloned().collect();
            sets.insert((name.clone(), family), Set { kind, members: own });
        }
    };
    let nodes = settings.node_addresses.iter().copied().map(host);
    let nodes: Vec<_> = nodes.chain(settings.external_nodes.iter().copied()).collect();
    of_both(names::fixed_set(SET_NODES), SetType::Net, nets(&nodes));
    of_both(names::fixed_set(SET_NAT_POOLS), SetType::Net, nets(&settings.nat_outgoing));
    of_both(names::fixed_set(SET_POOLS), SetType::Net, nets(&settings.pools));
    for (name, content) in net_sets {
        of_both(name.clone(), SetType::Net, nets(content));
    }
    for family in Family::ALL {
        let maps = DIRECTIONS.into_iter().flat_map(|direction| dispatch.maps(family, direction));
        for (name, kind) in dispatch.sources(family).into_iter().chain(maps) {
            sets.insert((name, family), Set { kind, members: BTreeSet::new() });
        }
    }
    for (groups, endpoint) in
        endpoints.filter(|(_, endpoint)| matches!(endpoint.id, EndpointId::Workload { .. }))
    {
        for family in Family::ALL {
            let own: BTreeSet<IpNet> = nets_of(endpoint, family).flat_map(halves).collect();
            if own.is_empty() {
                continue;
            }
            let mut add = |name: SetName, kind, member: Member| {
                let set =
                    sets.entry((name, family)).or_insert_with(|| Set { kind, members: BTreeSet::new() });
                set.members.insert(member);
            };
            let interface = || Arc::clone(&endpoint.interface);
            for net in own {
                if let Some((name, kind)) = first_for(&net, dispatch.sources(family)) {
                    add(name, kind, Member::NetIface(net, interface()));
                }
                for (direction, group) in groups {
                    for (name, kind) in dispatch.sets(family, *direction, group) {
                        let member = match kind {
                            SetType::NetIface => Member::NetIface(net, interface()),
                            _ => Member::Net(net),
                        };
                        add(name, kind, member);
                    }
                    if let Some((name, kind)) = first_for(&net, dispatch.maps(family, *direction)) {
                        add(name, kind, Member::Dispatch(net, interface(), group.chain(*direction)));
                    }
                }
            }
        }
    }
    sets
}

/// The first set that takes a network.
fn first_for(net: &IpNet, sets: Vec<(SetName, SetType)>) -> Option<(SetName, SetType)> {
    sets.into_iter().find(|(_, kind)| kind.has_networks() || is_host(net))
}

/// Networks of one family that an endpoint may send from.
pub(super) fn nets_of(endpoint: &LocalEndpoint, family: Family) -> impl Iterator<Item = IpNet> {
    let addresses = endpoint.addresses.iter().copied().map(host);
    addresses.chain(endpoint.allowed_sources.iter().copied()).filter(move |net| family.has_net(net))
}
