//! What every client knows, against what it should know.

use std::time::Instant;

use crate::book::Effect;
use crate::plan::Plan;

/// See the module. A client's own routes do not count: reflectors may or may not send them back.
#[derive(Debug)]
pub(crate) struct State {
    plan: Plan,
    /// By client and route: the version it has; 0 is none.
    has: Vec<u8>,
    /// By route: the version everybody should have.
    wanted: Vec<u8>,
    /// By route: the newest version ever announced.
    newest: Vec<u8>,
    /// By route: clients that do not have what they should.
    waiting: Vec<u32>,
    /// Routes that some client waits for.
    open: usize,
    /// Clients nobody waits for.
    ignored: Vec<bool>,
    /// Routes that everybody got, and when, since last asked.
    pub(crate) done: Vec<(usize, Instant)>,
}

impl State {
    pub(crate) fn new(plan: Plan) -> Self {
        let routes = plan.routes();
        Self {
            plan,
            has: vec![0; plan.clients * routes],
            wanted: vec![0; routes],
            newest: vec![0; routes],
            waiting: vec![0; routes],
            open: 0,
            ignored: vec![false; plan.clients],
            done: Vec::new(),
        }
    }

    pub(crate) fn newest(&self) -> &[u8] {
        &self.newest
    }

    /// Everybody has everything.
    pub(crate) fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// Whether a client has everything, ignored or not.
    pub(crate) fn has_all(&self, client: usize) -> bool {
        let row = client * self.wanted.len();
        let own = self.plan.own(client);
        let has = self.has.get(row..row + self.wanted.len()).unwrap_or_default();
        has.iter()
            .zip(&self.wanted)
            .enumerate()
            .all(|(route, (has, wanted))| own.contains(&route) || has == wanted)
    }

    /// How many changes a client has not heard of, counting each change of each route of others.
    pub(crate) fn behind(&self, client: usize) -> usize {
        let row = client * self.wanted.len();
        let others = (0..self.wanted.len()).filter(|route| self.plan.owner(*route) != client);
        others.map(|route| usize::from(self.wanted[route].abs_diff(self.has[row + route]))).sum()
    }

    /// From now on nobody waits for this client.
    pub(crate) fn ignore(&mut self, client: usize) {
        for route in 0..self.wanted.len() {
            if self.counts(client, route) && self.version(client, route) != self.wanted[route] {
                self.waiting[route] -= 1;
                self.open -= usize::from(self.waiting[route] == 0);
            }
        }
        self.ignored[client] = true;
    }

    fn counts(&self, client: usize, route: usize) -> bool {
        !self.ignored[client] && self.plan.owner(route) != client
    }

    fn version(&self, client: usize, route: usize) -> u8 {
        self.has[client * self.wanted.len() + route]
    }

    /// The next version of a route, which everybody is to have from now on.
    pub(crate) fn change(&mut self, route: usize) -> u8 {
        let version = self.newest[route].wrapping_add(1).max(1);
        self.want(route, version);
        version
    }

    /// Nobody is to have a route any more.
    pub(crate) fn withdraw(&mut self, route: usize) {
        self.want(route, 0);
    }

    fn want(&mut self, route: usize, version: u8) {
        self.wanted[route] = version;
        self.newest[route] = self.newest[route].max(version);
        let clients = 0..self.plan.clients;
        let waiting =
            clients.filter(|client| self.counts(*client, route) && self.version(*client, route) != version);
        let waiting = u32::try_from(waiting.count()).unwrap_or(u32::MAX);
        self.open += usize::from(waiting > 0);
        self.open -= usize::from(self.waiting[route] > 0);
        self.waiting[route] = waiting;
    }

    /// A client was told this.
    pub(crate) fn apply(&mut self, client: usize, effects: &[Effect]) {
        let routes = self.wanted.len();
        let own = self.plan.own(client);
        let ignored = self.ignored[client];
        let row = &mut self.has[client * routes..(client + 1) * routes];
        for effect in effects {
            let route = effect.route as usize;
            let before = std::mem::replace(&mut row[route], effect.version);
            if before == effect.version || ignored || own.contains(&route) {
                continue;
            }
            let wanted = self.wanted[route];
            let waiting = &mut self.waiting[route];
            if effect.version == wanted {
                *waiting -= 1;
                if *waiting == 0 {
                    self.open -= 1;
                    self.done.push((route, Instant::now()));
                }
            } else if before == wanted {
                *waiting += 1;
                self.open += usize::from(*waiting == 1);
            }
        }
    }

    /// A client has nothing but `kept` any more (RFC 7313: what a refresh did not repeat is gone).
    pub(crate) fn retain(&mut self, client: usize, kept: &[bool]) {
        let gone: Vec<Effect> = (0..self.wanted.len())
            .filter(|route| !kept.get(*route).copied().unwrap_or(false) && self.version(client, *route) != 0)
            .map(|route| Effect { route: u32::try_from(route).unwrap_or(u32::MAX), version: 0 })
            .collect();
        self.apply(client, &gone);
    }

    /// Some of what is missing, in words.
    pub(crate) fn missing(&self) -> String {
        let routes = (0..self.wanted.len()).filter(|route| self.waiting[*route] > 0);
        let some: Vec<String> = routes
            .take(3)
            .map(|route| format!("{} at {} clients", self.plan.prefix(route), self.waiting[route]))
            .collect();
        format!("{} of {} routes incomplete: {}", self.open, self.wanted.len(), some.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(state: &mut State, client: usize, route: u32, version: u8) {
        state.apply(client, &[Effect { route, version }]);
    }

    #[test]
    fn a_change_is_done_when_everybody_but_its_owner_has_it() {
        let mut state = State::new(Plan { clients: 3, prefixes: 1, per_set: 1 });
        assert!(state.is_complete());
        assert_eq!(state.change(0), 1);
        tell(&mut state, 1, 0, 1);
        tell(&mut state, 1, 0, 1);
        assert!(!state.is_complete() && state.done.is_empty());
        tell(&mut state, 2, 0, 1);
        assert!(state.is_complete() && state.done.len() == 1);
        tell(&mut state, 2, 0, 0);
        assert!(!state.is_complete(), "lost again");
        assert!(!state.has_all(2) && state.has_all(1));
        state.ignore(2);
        assert!(state.is_complete());
        assert_eq!((state.change(0), state.behind(1), state.behind(2), state.behind(0)), (2, 1, 2, 0));
        state.withdraw(0);
        assert!(state.missing().contains("1 of 3"), "{}", state.missing());
        tell(&mut state, 1, 0, 0);
        assert!(state.is_complete());
    }

    #[test]
    fn a_refresh_ends_what_it_does_not_repeat() {
        let mut state = State::new(Plan { clients: 2, prefixes: 2, per_set: 1 });
        for route in 0..2 {
            state.change(route);
            tell(&mut state, 1, u32::try_from(route).unwrap(), 1);
        }
        state.retain(1, &[true, false, false, false]);
        assert_eq!(state.open, 1);
    }
}
