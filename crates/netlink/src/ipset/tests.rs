use std::collections::BTreeSet;

use super::*;

/// Runs on a thread in a network namespace of its own; `None` where that is not allowed.
fn in_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    let result = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                    return None;
                }
                Some(work())
            })
            .join()
            .unwrap()
    });
    assert!(result.is_some() || std::env::var_os("TESTS_REQUIRE_ALL").is_none(), "needs root");
    result
}

fn net(text: &str) -> Entry {
    Entry::Net(text.parse().unwrap())
}

#[test]
fn members_of_every_type_come_back_as_written() {
    in_namespace(|| {
        let mut sets = Ipset::open().unwrap();
        let cases = [
            ("nets", SetType::HashNet, Family::V4, vec![net("10.0.0.0/8"), net("192.0.2.7/32")]),
            ("nets6", SetType::HashNet, Family::V6, vec![net("fd00::/8"), net("2001:db8::1/128")]),
            (
                "ports",
                SetType::HashIpPort,
                Family::V4,
                vec![
                    Entry::IpPort("10.0.0.1".parse().unwrap(), 6, 80),
                    Entry::IpPort("10.0.0.1".parse().unwrap(), 17, 53),
                    Entry::IpPort("10.0.0.1".parse().unwrap(), 132, 9),
                ],
            ),
            (
                "ports6",
                SetType::HashIpPort,
                Family::V6,
                vec![Entry::IpPort("fd00::1".parse().unwrap(), 6, 443)],
            ),
            (
                "ifaces",
                SetType::HashNetIface,
                Family::V4,
                vec![
                    Entry::NetIface("10.0.0.1/32".parse().unwrap(), "mgy0".into()),
                    Entry::NetIface("10.1.0.0/16".parse().unwrap(), "mgy1".into()),
                ],
            ),
            (
                "ifaces6",
                SetType::HashNetIface,
                Family::V6,
                vec![Entry::NetIface("fd00::1/128".parse().unwrap(), "mgy0".into())],
            ),
        ];
        for (name, kind, family, entries) in &cases {
            sets.create(name, *kind, *family, MAX_ELEMENTS).unwrap();
            sets.add(name, *family, entries).unwrap();
            let found: BTreeSet<_> = sets.members(name).unwrap().into_iter().collect();
            assert_eq!(found, entries.iter().cloned().collect(), "{name}");
        }
        let headers = sets.headers().unwrap();
        assert_eq!(headers.len(), cases.len());
        for (name, kind, family, _) in &cases {
            let header = headers.iter().find(|header| header.name == *name).unwrap();
            assert_eq!(
                (header.kind, header.family, header.max_elements),
                (Some(*kind), *family, MAX_ELEMENTS)
            );
        }
    });
}

#[test]
fn large_sets_are_written_and_listed_in_pieces() {
    in_namespace(|| {
        let mut sets = Ipset::open().unwrap();
        sets.create("large", SetType::HashNet, Family::V4, MAX_ELEMENTS).unwrap();
        let all: Vec<_> = (0..10_000u32)
            .map(|n| Entry::Net(IpNet::new(std::net::Ipv4Addr::from(0x0a00_0000 + n).into(), 32).unwrap()))
            .collect();
        sets.add("large", Family::V4, &all).unwrap();
        assert_eq!(sets.members("large").unwrap().len(), 10_000);
        sets.add("large", Family::V4, &all[..700]).unwrap();
        sets.remove("large", Family::V4, &all[..9_000]).unwrap();
        sets.remove("large", Family::V4, &all[..10]).unwrap();
        let left: BTreeSet<_> = sets.members("large").unwrap().into_iter().collect();
        assert_eq!(left, all[9_000..].iter().cloned().collect());
    });
}

#[test]
fn errors_say_which_set_and_member() {
    in_namespace(|| {
        let mut sets = Ipset::open().unwrap();
        assert!(sets.members("none").unwrap_err().is_missing());
        assert!(sets.add("none", Family::V4, &[net("10.0.0.1/32")]).unwrap_err().is_missing());
        assert!(sets.destroy("none").is_ok());
        sets.create("small", SetType::HashNet, Family::V4, 2).unwrap();
        let again = sets.create("small", SetType::HashNet, Family::V4, 2).unwrap_err();
        assert!(again.to_string().contains("create set small"), "{again}");
        let many: Vec<_> = (0..2000u32)
            .map(|n| Entry::Net(IpNet::new(std::net::Ipv4Addr::from(0x0a00_0000 + n).into(), 32).unwrap()))
            .collect();
        let full = sets.add("small", Family::V4, &many).unwrap_err();
        assert!(full.is_full(), "{full}");
        assert!(full.to_string().contains("member 10.0."), "{full}");
        assert!(sets.headers().is_ok(), "the connection works on after an error");
    });
}

#[test]
fn swap_exchanges_contents_and_destroy_removes() {
    in_namespace(|| {
        let mut sets = Ipset::open().unwrap();
        for (name, member) in [("one", "10.0.0.1/32"), ("two", "10.0.0.2/32")] {
            sets.create(name, SetType::HashNet, Family::V4, 100).unwrap();
            sets.add(name, Family::V4, &[net(member)]).unwrap();
        }
        sets.swap("one", "two").unwrap();
        assert_eq!(sets.members("one").unwrap(), [net("10.0.0.2/32")]);
        sets.destroy("one").unwrap();
        assert_eq!(sets.headers().unwrap().len(), 1);
    });
}

#[test]
fn garbage_from_the_kernel_is_an_error_not_a_panic() {
    for length in 0..64usize {
        let bytes: Vec<u8> = (0..length).map(|n| u8::try_from(n * 37 % 251).unwrap()).collect();
        for message in wire::messages(&bytes) {
            drop(wire::listed(message.payload, &mut SetInfo::unknown()));
        }
        let _ = (wire::error_code(&bytes), wire::error_line(&bytes), wire::revision(&bytes));
        drop(wire::listed(&bytes, &mut SetInfo::unknown()));
    }
}
