//! Address pools and reservations.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::common;
use crate::{
    IpPool, IpReservation,
    kinds::{AllowedUse, AssignmentMode, EncapMode, IpPoolSpec},
    path::{Problems, SPEC},
};

/// Block sizes that Calico's IPAM can represent.
const BLOCKS_V4: (u8, u8) = (20, 32);
const BLOCKS_V6: (u8, u8) = (116, 128);

pub(crate) fn set_defaults(pool: &mut IpPool) {
    let spec = &mut pool.spec;
    spec.block_size = Some(spec.block_size());
    spec.assignment_mode.get_or_insert(AssignmentMode::Automatic);
    if spec.allowed_uses.is_empty() {
        spec.allowed_uses = vec![AllowedUse::Workload, AllowedUse::Tunnel];
    }
    spec.ipip_mode.get_or_insert(EncapMode::Never);
    spec.vxlan_mode.get_or_insert(EncapMode::Never);
    spec.node_selector.get_or_insert_with(crate::Selector::all);
}

pub(crate) fn check(pool: &IpPool, problems: &mut Problems) {
    let spec = &pool.spec;
    check_cidr(spec, problems);
    let (ipip, vxlan) = (SPEC.field("ipipMode"), SPEC.field("vxlanMode"));
    let on = |mode: Option<EncapMode>| mode.unwrap_or_default() != EncapMode::Never;
    problems.require(
        !(on(spec.ipip_mode) && on(spec.vxlan_mode)),
        &vxlan,
        "ipipMode and vxlanMode can't both be enabled",
    );
    problems.require(
        !on(spec.ipip_mode) || matches!(spec.cidr, IpNet::V4(_)),
        &ipip,
        "IPIP is not supported on IPv6 pools",
    );
    common::selector(spec.node_selector.as_ref(), &SPEC.field("nodeSelector"), problems);
    common::selector(spec.namespace_selector.as_ref(), &SPEC.field("namespaceSelector"), problems);
    common::unique(&spec.allowed_uses, &SPEC.field("allowedUses"), problems);
    if spec.allowed_uses.contains(&AllowedUse::LoadBalancer) {
        problems.require(
            spec.allowed_uses.iter().all(|u| *u == AllowedUse::LoadBalancer),
            &SPEC.field("allowedUses"),
            "LoadBalancer can't be combined with Workload or Tunnel",
        );
        let why = "a LoadBalancer pool can't be encapsulated";
        problems.require(!on(spec.ipip_mode), &ipip, why);
        problems.require(!on(spec.vxlan_mode), &vxlan, why);
        problems.require(
            !spec.disable_bgp_export,
            &SPEC.field("disableBGPExport"),
            "a LoadBalancer pool can't disable BGP export",
        );
        problems.require(
            spec.node_selector.as_ref().is_none_or(crate::Selector::is_all),
            &SPEC.field("nodeSelector"),
            "a LoadBalancer pool must have node selector all()",
        );
    }
    problems.require(
        !(spec.allowed_uses == [AllowedUse::Tunnel] && spec.namespace_selector.is_some()),
        &SPEC.field("namespaceSelector"),
        "a pool used only for tunnels can't have a namespace selector",
    );
}

fn check_cidr(spec: &IpPoolSpec, problems: &mut Problems) {
    let at = SPEC.field("cidr");
    let cidr = spec.cidr;
    problems.require(cidr == cidr.trunc(), &at, format!("{cidr} has host bits set: use {}", cidr.trunc()));
    for reserved in [link_local_v4(), link_local_v6()] {
        problems.require(
            !overlaps(cidr, reserved),
            &at,
            format!("{cidr} overlaps with the link-local range {reserved}"),
        );
    }
    let block = spec.block_size();
    let (min, max) = if cidr.addr().is_ipv4() { BLOCKS_V4 } else { BLOCKS_V6 };
    let size = SPEC.field("blockSize");
    if !(min..=max).contains(&block) {
        let family = if cidr.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        problems.add(&size, format!("{block} is not a block size: use {min} to {max} for {family} pools"));
    } else {
        problems.require(
            cidr.prefix_len() <= block,
            &at,
            format!("{cidr} is smaller than one block (/{block}): use a larger pool or a blockSize of at least {}", cidr.prefix_len()),
        );
    }
}

fn link_local_v4() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16))
}

fn link_local_v6() -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10))
}

pub(crate) fn overlaps(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

pub(crate) fn check_reservation(reservation: &IpReservation, problems: &mut Problems) {
    common::unique(&reservation.spec.reserved_cidrs, &SPEC.field("reservedCIDRs"), problems);
}
