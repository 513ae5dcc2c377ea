//! Members of the sets: those the calculation maintains, split by family, and those the fixed rules need.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::dispatch::Dispatch;
use super::fixed::{SET_NAT_POOLS, SET_NODES, SET_PODS, SET_POOLS};
use super::language::{Family, Member, Set, SetName, SetType};
use super::names::{self, GroupId};
use crate::model::{EndpointId, LocalEndpoint, NodeSettings, SetKind, SetMember};

/// Type of a set of the calculation.
pub(super) const fn set_type(kind: SetKind) -> SetType {
    match kind {
        SetKind::Net => SetType::Net,
        SetKind::IpPort => SetType::IpPort,
    }
}

/// A network as members: the kernel's sets know no prefix length 0, so everything is two halves.
fn halves(net: IpNet) -> impl Iterator<Item = IpNet> {
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

/// All sets that are not the calculation's own.
pub(super) fn derived<'a>(
    settings: &NodeSettings,
    dispatch: &Dispatch,
    endpoints: impl Iterator<Item = (&'a GroupId, &'a LocalEndpoint)>,
    net_sets: &BTreeMap<SetName, Vec<IpNet>>,
) -> BTreeMap<SetName, Set> {
    let mut sets = BTreeMap::new();
    let mut fixed = |name, kind, members| {
        sets.insert(names::fixed_set(name), Set { kind, members });
    };
    let nodes: Vec<_> = settings.node_addresses.iter().copied().map(host).collect();
    fixed(SET_NODES, SetType::Net, nets(&nodes));
    fixed(SET_NAT_POOLS, SetType::Net, nets(&settings.nat_outgoing));
    fixed(SET_POOLS, SetType::Net, nets(&settings.pools));
    fixed(SET_PODS, SetType::NetIface, BTreeSet::new());
    for (name, content) in net_sets {
        sets.insert(name.clone(), Set { kind: SetType::Net, members: nets(content) });
    }
    for (name, _) in dispatch.maps() {
        sets.insert(name, Set { kind: SetType::Dispatch, members: BTreeSet::new() });
    }
    for (group, endpoint) in
        endpoints.filter(|(_, endpoint)| matches!(endpoint.id, EndpointId::Workload { .. }))
    {
        let own: BTreeSet<IpNet> = endpoint
            .addresses
            .iter()
            .copied()
            .map(host)
            .chain(endpoint.allowed_sources.iter().copied())
            .flat_map(halves)
            .collect();
        let interface = || Arc::clone(&endpoint.interface);
        for name in dispatch.sets(group).chain([names::fixed_set(SET_PODS)]) {
            let set =
                sets.entry(name).or_insert_with(|| Set { kind: SetType::NetIface, members: BTreeSet::new() });
            set.members.extend(own.iter().map(|net| Member::NetIface(*net, interface())));
        }
        for (name, direction) in dispatch.maps() {
            let Some(map) = sets.get_mut(&name) else { continue };
            let chain = group.chain(direction);
            map.members.extend(own.iter().map(|net| Member::Dispatch(*net, interface(), chain.clone())));
        }
    }
    sets
}
