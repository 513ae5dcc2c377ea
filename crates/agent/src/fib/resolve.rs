//! From what routing wants to what the kernel takes: interfaces by number, next hops as objects.

use std::sync::Arc;

use ipnet::IpNet;
use margay_netlink::{NexthopTarget, Path, Route, RouteTarget};
use margay_routing::{Family, Hop, HopKey, Target};

use super::nexthops::Nexthops;
use super::{Fib, Wanted, key_of};

/// Next hops, and the objects that a route with them was given.
pub(super) type Last = (Arc<[Hop]>, Arc<[u32]>);

impl Fib {
    pub(super) fn release(&mut self, wanted: &Wanted) {
        if let Some(nexthops) = &mut self.nexthops {
            wanted.objects.iter().for_each(|id| nexthops.release(*id));
        }
    }

    pub(super) fn resolve_again(&mut self, which: impl Fn(&Wanted) -> bool) {
        let some: Vec<IpNet> =
            self.wanted.iter().filter(|(_, wanted)| which(wanted)).map(|(prefix, _)| *prefix).collect();
        some.iter().for_each(|prefix| self.resolve_again_one(prefix));
    }

    pub(super) fn resolve_again_one(&mut self, prefix: &IpNet) {
        if let Some(route) = self.wanted.get(prefix).map(|wanted| wanted.route.clone()) {
            let before = self.resolve(route, &mut None);
            before.iter().for_each(|before| self.release(before));
        }
    }

    /// From names to what the kernel takes: interfaces by number, next hops as objects. Returns what was wanted for the
    /// destination before, with the objects it still holds. `last`: next hops that were resolved just now, with their objects;
    /// many routes share theirs with the one before.
    pub(super) fn resolve(
        &mut self,
        route: margay_routing::Route,
        last: &mut Option<Last>,
    ) -> Option<Wanted> {
        let key = key_of(&route);
        let mut objects: Arc<[u32]> = Arc::default();
        let target = match &route.target {
            Target::Blackhole => Some(RouteTarget::Blackhole),
            Target::Link { dev } => self.kernel.usable(dev).map(|device| RouteTarget::Device { device }),
            Target::Via(hops) => {
                match (&mut self.nexthops, last.as_ref().filter(|(last, _)| Arc::ptr_eq(last, hops))) {
                    (Some(nexthops), Some((_, ids))) => {
                        nexthops.hold_too(ids);
                        objects.clone_from(ids);
                        objects.last().map(|id| RouteTarget::Nexthop(*id))
                    }
                    (Some(nexthops), None) => {
                        let usable = self.kernel.usable_hops(hops);
                        let routes = &self.routes;
                        let hint = || match routes.present(&key)?.target {
                            RouteTarget::Nexthop(id) => Some(id),
                            _ => None,
                        };
                        objects = acquire(nexthops, &usable, hint).into();
                        *last = (!objects.is_empty()).then(|| (Arc::clone(hops), Arc::clone(&objects)));
                        // The last one is the group, where there are several.
                        objects.last().map(|id| RouteTarget::Nexthop(*id))
                    }
                    (None, _) => classic(&self.kernel.usable_hops(hops)),
                }
                // What is to be encrypted never leaves as it is.
                .or_else(|| self.is_encrypted(hops).then_some(RouteTarget::Unreachable))
            }
        };
        let waits = target.is_none();
        match target {
            Some(target) => {
                let number = route.protocol.number();
                let one = Route { metric: route.metric, ..Route::new(route.prefix, target, number) };
                self.routes.set(key, one.normalised());
            }
            None => {
                self.routes.unset(&key);
            }
        }
        self.wanted.insert(route.prefix, Wanted { route, objects, waits })
    }

    /// One of the next hops is a WireGuard device.
    fn is_encrypted(&self, hops: &[Hop]) -> bool {
        let devices = self.tunnels.wireguard.values();
        devices.into_iter().any(|device| hops.iter().any(|hop| hop.dev == device.name))
    }
}

/// The objects a route with these next hops refers to: one per hop and, if there are several, their group, last.
fn acquire(nexthops: &mut Nexthops, hops: &[(&Hop, u32)], hint: impl Fn() -> Option<u32>) -> Vec<u32> {
    let mut ids: Vec<u32> = Vec::with_capacity(hops.len());
    for (hop, device) in hops {
        let target = match hop.gateway {
            Some(gateway) => NexthopTarget::Via { gateway, device: *device, onlink: hop.onlink },
            None => NexthopTarget::Device { device: *device, ipv6: is_v6(&hop.key) },
        };
        ids.push(nexthops.acquire(&hop.key, target, &hint));
    }
    if ids.len() > 1 {
        ids.push(nexthops.acquire_group(ids.clone(), &hint));
    }
    ids
}

fn is_v6(key: &HopKey) -> bool {
    match key {
        HopKey::Node { family, .. } => *family == Family::V6,
        HopKey::Gateway { address, .. } => address.is_ipv6(),
    }
}

/// The target of a route on a kernel without nexthop objects.
fn classic(hops: &[(&Hop, u32)]) -> Option<RouteTarget> {
    match hops {
        [] => None,
        [(hop, device)] => Some(match hop.gateway {
            Some(gateway) => RouteTarget::Via { gateway, device: Some(*device), onlink: hop.onlink },
            None => RouteTarget::Device { device: *device },
        }),
        several => {
            let path = |(hop, device): &(&Hop, u32)| Path {
                gateway: hop.gateway,
                device: *device,
                weight: 1,
                onlink: hop.onlink,
            };
            Some(RouteTarget::Multipath(several.iter().map(path).collect()))
        }
    }
}
