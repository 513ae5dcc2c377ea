//! A table that is written while more of it comes in.

use super::*;

/// Several parts, and one that is not full.
const BLOCKS: u32 = 1_500;

fn block(number: u32) -> String {
    let [_, _, high, low] = number.to_be_bytes();
    format!("10.{}.{low}.0/24", 70 + high)
}

#[test]
fn wishes_that_come_while_the_kernel_writes_are_met() {
    let Some(world) = world() else { return };
    let blocks =
        |node: (&'static str, &'static str)| (0..BLOCKS).map(move |number| via(&block(number), &[node]));
    let (n2, n3) = (("n2", "172.20.0.2"), ("n3", "172.20.0.3"));
    world
        .node
        .run(|| {
            let mut other = Netlink::open().unwrap();
            let device = other.link_index("up0").unwrap();
            let in_the_way = Route::new(net(&block(700)), RouteTarget::Device { device }, 4);
            other.add_route(&in_the_way).unwrap();
            let mut fib = Fib::open(std::env::temp_dir()).unwrap();
            fib.put([via("10.65.2.0/24", &[n2])]);

            // Nothing in between waits for what came before.
            fib.want_routes(wish(blocks(n2)));
            assert!(fib.changed_ahead > 0, "the first parts are in the kernel before they are asked for");
            fib.want_routes(wish(blocks(n3)));
            let gone = (0..BLOCKS).filter(|number| number.is_multiple_of(3));
            fib.want_routes(gone.map(|number| (net(&block(number)), None)).collect());
            fib.apply(true);
            let report = fib.round();
            assert!(report.errors.iter().all(|error| error.contains("is in the way")), "{report:?}");
            assert_eq!(report.errors.len(), 1);

            let wanted = |number: &u32| !number.is_multiple_of(3) && *number != 700;
            let wanted: BTreeSet<IpNet> = (0..BLOCKS).filter(wanted).map(|number| net(&block(number))).collect();
            let (routes, objects) = kernel(&mut other);
            let id_of = |address: &str| {
                let gateway: IpAddr = address.parse().unwrap();
                let leads = |object: &&Nexthop| matches!(object.target, NexthopTarget::Via { gateway: to, .. } if to == gateway);
                objects.iter().find(leads).map(|object| object.id).unwrap()
            };
            let by_n3 = RouteTarget::Nexthop(id_of("172.20.0.3"));
            let found: BTreeSet<IpNet> =
                routes.iter().filter(|route| route.target == by_n3).map(|route| route.destination).collect();
            assert!(found == wanted, "{:?}", found.symmetric_difference(&wanted).collect::<Vec<_>>());
            assert_eq!(routes.len(), wanted.len() + 1);

            other.delete_route(&in_the_way).unwrap();
            assert!(fib.round().errors.is_empty());
            let before = kernel(&mut other);
            assert_eq!(before.0.len(), wanted.len() + 2);
            drop(fib);
            let mut fib = Fib::open(std::env::temp_dir()).unwrap();
            let all = blocks(n3).enumerate().filter(|(number, _)| !number.is_multiple_of(3)).map(|(_, route)| route);
            let report = fib.put(all.chain([via("10.65.2.0/24", &[n2])]));
            assert_eq!((report.changed, kernel(&mut other)), (0, before), "a restart changes nothing");
        })
        .unwrap();
}
