//! Nodes.

use std::net::IpAddr;

use crate::{
    Node,
    path::{Problems, SPEC},
};

pub(crate) fn check(node: &Node, problems: &mut Problems) {
    let spec = &node.spec;
    if let Some(bgp) = &spec.bgp {
        let at = SPEC.field("bgp");
        problems.require(
            bgp.ipv4_address.is_some() || bgp.ipv6_address.is_some(),
            &at,
            "at least one of ipv4Address and ipv6Address is needed; leave bgp out to run the node without BGP",
        );
        let addresses = [
            ("ipv4Address", bgp.ipv4_address.map(|net| IpAddr::V4(net.addr()))),
            ("ipv6Address", bgp.ipv6_address.map(|net| IpAddr::V6(net.addr()))),
        ];
        for (name, address) in addresses {
            let Some(address) = address else { continue };
            let fine = !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
            problems.require(fine, &at.field(name), format!("{address} can't be the address of a node"));
        }
        problems.require(
            bgp.as_number.is_none_or(|n| n.0 != 0),
            &at.field("asNumber"),
            "AS 0 is reserved (RFC 7607)",
        );
    }
    let refs = SPEC.field("orchRefs");
    for (index, reference) in spec.orch_refs.iter().enumerate() {
        let at = refs.index(index);
        problems.require(
            !reference.orchestrator.is_empty(),
            &at.field("orchestrator"),
            "required, but missing",
        );
    }
    let interfaces = SPEC.field("interfaces");
    for (index, interface) in spec.interfaces.iter().enumerate() {
        let at = interfaces.index(index);
        problems.require(!interface.name.is_empty(), &at.field("name"), "required, but missing");
    }
}
