//! What others change in the kernel: heard of, and what of ours it took with it.

use margay_netlink::monitor::Event;
use margay_netlink::{Error, RouteKey};
use margay_routing::Target;

use super::kernel::{is_own_name, leads_to};
use super::{CHUNK, Fib, OURS, nexthops, tunnels};

impl Fib {
    /// Takes in what others have changed. True if the ways to other nodes may have changed with it.
    pub(crate) fn listen(&mut self) -> Result<bool, Error> {
        let mut events = Vec::new();
        self.monitor.read(|event| {
            // A flood becomes one look at everything.
            if events.len() < CHUNK {
                events.push(event);
            } else if events.len() == CHUNK {
                events.push(Event::Resync);
            }
        })?;
        let mut underlay = false;
        for event in events {
            underlay |= self.take(event)?;
        }
        Ok(underlay)
    }

    fn take(&mut self, event: Event) -> Result<bool, Error> {
        match event {
            Event::Resync => self.doubt(),
            Event::LinkSet(link) => return Ok(self.link_set(link)),
            Event::LinkGone(link) => {
                self.kernel.remove_link(link.index);
                self.device_lost(link.index);
                self.tunnels_suspect |= self.is_tunnel(&link.name);
                return Ok(!is_own_name(&link.name));
            }
            Event::Addresses(index) => {
                self.kernel.read_addresses(&mut self.netlink, index)?;
                let Some(link) = self.kernel.link(index) else { return Ok(false) };
                self.tunnels_suspect |= self.is_tunnel(&link.name);
                // Routes with a source address, and nexthop objects, go along with it.
                self.suspect |= !is_own_name(&link.name);
                return Ok(!is_own_name(&link.name));
            }
            Event::RouteSet(route, replaces) if OURS.contains(&route.protocol) => {
                tracing::debug!(%route, replaces, "somebody else wrote a route of ours");
                self.routes.learn(route.key(), route);
            }
            Event::RouteSet(route, replaces) => {
                if replaces && self.routes.present(&route.key()).is_some() {
                    tracing::warn!(%route, "somebody else replaced a route of ours");
                    self.routes.forget(&route.key());
                }
                self.kernel.set_route(route, replaces);
                return Ok(true);
            }
            Event::RouteGone(route) if OURS.contains(&route.protocol) => {
                if self.routes.present(&route.key()) == Some(&route) {
                    self.routes.forget(&route.key());
                }
            }
            Event::RouteGone(route) => {
                self.blocked.remove(&route.key());
                self.kernel.remove_route(&route);
                return Ok(true);
            }
            Event::NexthopSet(nexthop) => match &mut self.nexthops {
                Some(nexthops) if nexthops::is_ours(&nexthop) => nexthops.learn(nexthop),
                _ => {
                    self.kernel.set_nexthop(nexthop);
                    return Ok(true);
                }
            },
            // The routes that used it went with it.
            Event::NexthopGone(_) => self.suspect = true,
            Event::Neighbours(index) => {
                self.tunnels_suspect |=
                    self.kernel.link(index).is_some_and(|link| self.is_tunnel(&link.name));
            }
        }
        Ok(false)
    }

    /// A tunnel device of ours.
    fn is_tunnel(&self, name: &str) -> bool {
        name.ends_with(".mgy") || tunnels::device_names(&self.tunnels).any(|own| own == name)
    }

    pub(super) fn link_set(&mut self, link: margay_netlink::Link) -> bool {
        let (index, up, own) = (link.index, link.up, is_own_name(&link.name));
        self.tunnels_suspect |= self.is_tunnel(&link.name);
        let name = link.name.clone();
        let before = self.kernel.set_link(link);
        let was_up = before.is_some_and(|before| before.up);
        if was_up && !up {
            self.kernel.drop_routes(index);
            self.device_lost(index);
        } else if up && !was_up {
            self.resolve_again(|wanted| wanted.waits || uses(&wanted.route, &name));
        }
        !own
    }

    /// The kernel has dropped what leads out of an interface, and said nothing of it.
    fn device_lost(&mut self, index: u32) {
        let lost: Vec<RouteKey> = self
            .routes
            .all_present()
            .filter(|(_, route)| leads_to(&route.target, index))
            .map(|(key, _)| *key)
            .collect();
        for key in lost {
            self.routes.forget(&key);
            self.resolve_again_one(&key.destination);
        }
        if self.nexthops.as_ref().is_some_and(|nexthops| nexthops.uses_device(index)) {
            self.suspect = true;
        }
    }
}

fn uses(route: &margay_routing::Route, name: &str) -> bool {
    match &route.target {
        Target::Link { dev } => dev == name,
        Target::Via(hops) => hops.iter().any(|hop| hop.dev == name),
        Target::Blackhole => false,
    }
}
