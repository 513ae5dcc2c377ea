//! Tests against the real kernel, each in namespaces of its own.

mod links;
mod monitor;
mod namespaces;
mod routes;

use crate::{Link, Netlink, Netns, VethEnd};

/// New namespaces, or `None` (with the reason printed) when this process may not make any. With `TESTS_REQUIRE_ALL=1`
/// that is a failure.
fn namespaces<const N: usize>() -> Option<[Netns; N]> {
    let made: crate::Result<Vec<Netns>> = (0..N).map(|_| Netns::new()).collect();
    match made {
        Ok(all) => Some(all.try_into().unwrap()),
        Err(error) if error.is_not_permitted() && std::env::var_os("TESTS_REQUIRE_ALL").is_none() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A veth pair `left0` (in `a`) and `right0` (in `b`), both up.
fn join(a: &Netns, b: &Netns) -> (Netlink, Link, Netlink, Link) {
    use std::os::fd::AsFd;
    let (mut left, mut right) = (Netlink::open_in(a).unwrap(), Netlink::open_in(b).unwrap());
    let near = VethEnd { name: "left0", ..VethEnd::default() };
    let far = VethEnd { name: "right0", netns: Some(b.as_fd()), ..VethEnd::default() };
    left.add_veth(&near, &far, None).unwrap();
    let (l, r) = (left.link_index("left0").unwrap(), right.link_index("right0").unwrap());
    left.set_up(l, true).unwrap();
    right.set_up(r, true).unwrap();
    let (l, r) = (left.link("left0").unwrap().unwrap(), right.link("right0").unwrap().unwrap());
    (left, l, right, r)
}
