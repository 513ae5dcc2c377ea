//! What a receiver makes of what it is told.

use super::*;
use ipnet::IpNet;
use std::collections::BTreeMap;

/// A receiver's routes: next hop and attributes, and whether they were told since a refresh began.
#[derive(Debug, Default)]
pub(super) struct Table {
    routes: BTreeMap<IpNet, (String, bool)>,
    initial_done: bool,
}

impl Table {
    pub(super) fn hear(&mut self, said: &[Message]) {
        for message in said {
            match message {
                Message::Update(update) if update.end_of_rib.is_some() => self.initial_done = true,
                Message::Update(update) => {
                    for nlri in &update.withdrawn {
                        self.routes.remove(&nlri.prefix);
                    }
                    for (next_hop, nlri) in update.announced() {
                        let route = format!("{next_hop:?} {:?}", update.attributes);
                        self.routes.insert(nlri.prefix, (route, true));
                    }
                }
                // RFC 7313 section 4: what is not repeated in between is gone; not before the table has been told once.
                Message::RouteRefresh(refresh) if self.initial_done => {
                    let of = |prefix: &IpNet| Some(Family::of(prefix)) == Family::from_wire(refresh.family);
                    match refresh.kind {
                        RefreshKind::BeginOfRefresh => {
                            let old = self.routes.iter_mut().filter(|(prefix, _)| of(prefix));
                            old.for_each(|(_, (_, fresh))| *fresh = false);
                        }
                        RefreshKind::EndOfRefresh => {
                            self.routes.retain(|prefix, (_, fresh)| *fresh || !of(prefix));
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn prefixes(&self) -> Vec<String> {
        self.routes.keys().map(ToString::to_string).collect()
    }

    pub(super) fn routes(self) -> BTreeMap<IpNet, String> {
        self.routes.into_iter().map(|(prefix, (route, _))| (prefix, route)).collect()
    }
}
