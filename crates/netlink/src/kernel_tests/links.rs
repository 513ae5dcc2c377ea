use std::net::IpAddr;
use std::os::fd::AsFd;

use super::{join, namespaces};
use crate::ethtool::Ethtool;
use crate::{
    Address, AddressOptions, FdbEntry, IgnoreMissing, LinkChange, Mac, Neighbour, Netlink, VethEnd, Vxlan,
};

#[test]
fn veth_is_made_across_namespaces_with_names_macs_and_mtu() {
    let Some([host, pod]) = namespaces() else { return };
    let (mut h, mut p) = (Netlink::open_in(&host).unwrap(), Netlink::open_in(&pod).unwrap());
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let near = VethEnd { name: "mgy0123456789a", mac: Some(Mac::HOST_SIDE), netns: None };
    let far = VethEnd { name: "eth0", mac: Some(mac), netns: Some(pod.as_fd()) };
    h.add_veth(&near, &far, Some(1380)).unwrap();
    let here = h.link("mgy0123456789a").unwrap().unwrap();
    let there = p.link("eth0").unwrap().unwrap();
    assert_eq!(
        (here.mac, here.mtu, here.up, here.kind.as_deref()),
        (Some(Mac::HOST_SIDE), 1380, false, Some("veth"))
    );
    assert_eq!((there.mac, there.mtu), (Some(mac), 1380));
    assert_eq!((here.peer, there.peer), (Some(there.index), Some(here.index)));
    assert!(h.link("eth0").unwrap().is_none());

    // A name taken on the far side makes nothing on the near side.
    let other = VethEnd { name: "mgyother", ..VethEnd::default() };
    let error = h.add_veth(&other, &far, None).unwrap_err();
    assert!(error.is_exists(), "{error}");
    assert!(h.link("mgyother").unwrap().is_none());

    h.delete_link(here.index).unwrap();
    assert!(p.link("eth0").unwrap().is_none());
    let again = h.delete_link(here.index);
    assert!(again.as_ref().is_err_and(crate::Error::is_not_found), "{again:?}");
    again.ignore_missing().unwrap();
}

#[test]
fn bad_names_are_refused_before_the_kernel() {
    let Some([host]) = namespaces() else { return };
    let mut h = Netlink::open_in(&host).unwrap();
    for name in ["", ".", "a/b", "a b", "sixteen-bytes-xx", "a:b"] {
        let error = h.add_bridge(name).unwrap_err();
        assert!(error.to_string().contains("interface name"), "{error}");
    }
}

#[test]
fn link_is_changed_bridged_and_moved() {
    let Some([a, b]) = namespaces() else { return };
    let (mut n, link, ..) = join(&a, &b);
    n.add_bridge("sw1").unwrap();
    let bridge = n.link_index("sw1").unwrap();
    let change =
        LinkChange { mtu: Some(1400), mac: Some(Mac([2; 6])), master: Some(bridge), ..LinkChange::default() };
    n.change_link(link.index, &change).unwrap();
    let now = n.link_by_index(link.index).unwrap().unwrap();
    assert_eq!((now.mtu, now.mac, now.master, now.up), (1400, Some(Mac([2; 6])), Some(bridge), true));
    n.set_up(link.index, false).unwrap();
    assert!(!n.link_by_index(link.index).unwrap().unwrap().up);
    n.move_link(link.index, &b).unwrap();
    assert!(n.link("left0").unwrap().is_none());
    assert!(Netlink::open_in(&b).unwrap().link("left0").unwrap().is_some());
}

#[test]
fn vxlan_reads_back_as_asked_and_forwards_by_table() {
    let Some([host]) = namespaces() else { return };
    let mut n = Netlink::open_in(&host).unwrap();
    let vxlan = Vxlan::new(4096, 4789, IpAddr::from([172, 18, 0, 1]));
    n.add_vxlan("vxlan.mgy", &vxlan, Some(Mac([0x66, 1, 2, 3, 4, 5])), Some(1450)).unwrap();
    let link = n.link("vxlan.mgy").unwrap().unwrap();
    assert_eq!((link.vxlan.as_ref(), link.mtu), (Some(&vxlan), 1450));
    assert_eq!(link.mac, Some(Mac([0x66, 1, 2, 3, 4, 5])));
    n.set_up(link.index, true).unwrap();

    let entry = |mac, remote: [u8; 4]| FdbEntry { index: link.index, mac, remote: IpAddr::from(remote) };
    let first = entry(Mac([6; 6]), [172, 18, 0, 2]);
    n.set_fdb(&first).unwrap();
    let moved = entry(Mac([6; 6]), [172, 18, 0, 3]);
    n.set_fdb(&moved).unwrap();
    assert_eq!(n.fdb(link.index).unwrap(), [moved]);
    let flood = [entry(Mac([0; 6]), [172, 18, 0, 4]), entry(Mac([0; 6]), [172, 18, 0, 5])];
    for entry in &flood {
        n.append_fdb(entry).unwrap();
    }
    assert_eq!(n.fdb(link.index).unwrap(), [flood[0], flood[1], moved]);
    n.delete_fdb(&flood[0]).unwrap();
    assert_eq!(n.fdb(link.index).unwrap(), [flood[1], moved]);
    n.delete_fdb(&moved).unwrap();
    assert!(n.delete_fdb(&moved).unwrap_err().is_not_found());
}

#[test]
fn addresses_and_neighbours_of_both_families() {
    let Some([a, b]) = namespaces() else { return };
    let (mut n, link, ..) = join(&a, &b);
    let v4 = Address { index: link.index, net: "10.1.2.3/24".parse().unwrap() };
    let v6 = Address { index: link.index, net: "fd00::3/128".parse().unwrap() };
    n.add_address(&v4, AddressOptions::default()).unwrap();
    n.add_address(&v6, AddressOptions::default()).unwrap();
    assert!(n.add_address(&v4, AddressOptions::default()).unwrap_err().is_exists());
    n.replace_address(&v4, AddressOptions::default()).unwrap();
    let found = n.addresses(Some(link.index)).unwrap();
    assert!(found.contains(&v4) && found.contains(&v6), "{found:?}");
    n.delete_address(&v4).unwrap();
    assert!(!n.addresses(Some(link.index)).unwrap().contains(&v4));

    for ip in [IpAddr::from([169, 254, 1, 1]), "fe80::1".parse().unwrap()] {
        n.set_neighbour(link.index, ip, Mac([1; 6])).unwrap();
        n.set_neighbour(link.index, ip, Mac::HOST_SIDE).unwrap();
        let wanted = Neighbour { index: link.index, ip, mac: Some(Mac::HOST_SIDE), permanent: true };
        assert!(n.neighbours(Some(link.index)).unwrap().contains(&wanted));
        n.delete_neighbour(link.index, ip).unwrap();
        assert!(!n.neighbours(None).unwrap().iter().any(|entry| entry.ip == ip && entry.permanent));
    }
}

#[test]
fn checksums_inside_vxlan_are_left_to_the_hardware_or_not() {
    let Some([host]) = namespaces() else { return };
    let mut netlink = Netlink::open_in(&host).unwrap();
    let parameters = Vxlan::new(4096, 4789, "192.0.2.1".parse::<IpAddr>().unwrap());
    netlink.add_vxlan("vxlan.mgy", &parameters, None, None).unwrap();
    let mut ethtool = match host.run(Ethtool::open).unwrap() {
        Err(error) if error.is_not_found() && std::env::var_os("TESTS_REQUIRE_ALL").is_none() => {
            return eprintln!("skipped: {error}");
        }
        opened => opened.unwrap(),
    };
    for on in [false, false, true, true] {
        ethtool.offload_checksums("vxlan.mgy", on).unwrap();
        assert_eq!(ethtool.offloads_checksums("vxlan.mgy").unwrap(), on);
    }
    assert!(ethtool.offloads_checksums("nobody").is_err());
}
