//! What each part of a daemon says of itself: `/healthz`, `/readyz`, `/v1/status` and systemd's status line.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use margay_control::status::{Component, DaemonStatus, Problem};

#[derive(Debug, Default)]
struct State {
    components: BTreeMap<&'static str, (bool, String)>,
    problems: BTreeMap<&'static str, Vec<Problem>>,
    announced: bool,
}

/// Shared, cheap to clone.
#[derive(Debug, Clone)]
pub struct Health {
    program: &'static str,
    node: Arc<str>,
    state: Arc<Mutex<State>>,
}

impl Health {
    /// Of a daemon whose `components` all have to become ready.
    #[must_use]
    pub fn new(program: &'static str, node: &str, components: &[&'static str]) -> Self {
        let waiting = components.iter().map(|name| (*name, (false, "starting".to_owned()))).collect();
        let state = State { components: waiting, ..State::default() };
        Self { program, node: node.into(), state: Arc::new(Mutex::new(state)) }
    }

    fn locked<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A component says how it is. Changes are logged; the first time all are ready, systemd is told.
    pub fn set(&self, component: &'static str, ready: bool, message: impl Into<String>) {
        let message = message.into();
        let (changed, all_ready, announce) = self.locked(|state| {
            let value = (ready, message.clone());
            let changed = state.components.insert(component, value.clone()) != Some(value);
            let all_ready = state.components.values().all(|(ready, _)| *ready);
            let announce = all_ready && !state.announced;
            state.announced |= announce;
            (changed, all_ready, announce)
        });
        if changed {
            tracing::info!(component, ready, "{message}");
            let status = if all_ready { "ready".to_owned() } else { format!("{component}: {message}") };
            notify(&[sd_notify::NotifyState::Status(&status)]);
        }
        if announce {
            notify(&[sd_notify::NotifyState::Ready]);
        }
    }

    /// Replaces the problems a component reports.
    pub fn set_problems(&self, component: &'static str, mut problems: Vec<Problem>) {
        problems.sort();
        let fresh = self.locked(|state| {
            let before = state.problems.insert(component, problems.clone()).unwrap_or_default();
            problems.into_iter().filter(|problem| !before.contains(problem)).collect::<Vec<_>>()
        });
        for problem in fresh {
            tracing::warn!(component, object = %problem.object, "{}", problem.message);
        }
    }

    /// All components are ready.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.locked(|state| state.components.values().all(|(ready, _)| *ready))
    }

    /// What the first of these components that is not ready says; none: all are.
    #[must_use]
    pub fn missing(&self, components: &[&str]) -> Option<String> {
        self.locked(|state| {
            let mut wanted = components.iter().filter_map(|name| Some((name, state.components.get(name)?)));
            wanted.find(|(_, (ready, _))| !ready).map(|(name, (_, message))| format!("{name}: {message}"))
        })
    }

    /// The whole picture.
    #[must_use]
    pub fn status(&self) -> DaemonStatus {
        self.locked(|state| DaemonStatus {
            program: self.program.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.as_ref().to_owned(),
            ready: state.components.values().all(|(ready, _)| *ready),
            components: state
                .components
                .iter()
                .map(|(name, (ready, message))| Component {
                    name: (*name).to_owned(),
                    ready: *ready,
                    message: message.clone(),
                })
                .collect(),
            problems: state.problems.values().flatten().cloned().collect(),
        })
    }
}

/// Tells systemd that the daemon stops.
pub fn stopping() {
    notify(&[sd_notify::NotifyState::Stopping]);
}

/// Tells systemd whom to follow.
pub(crate) fn main_process(pid: u32) {
    notify(&[sd_notify::NotifyState::MainPid(pid)]);
}

/// Without systemd there is nobody to tell: that is no error.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("cannot notify systemd: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_component_is() {
        let health = Health::new("margay-agent", "node1", &["bgp", "policy"]);
        assert!(!health.ready());
        health.set("bgp", true, "2 of 2 sessions established");
        assert!(!health.ready());
        health.set("policy", true, "in sync");
        assert!(health.ready());
        health.set("bgp", false, "0 of 2 sessions established");
        assert_eq!(health.missing(&["policy"]), None);
        assert_eq!(health.missing(&["policy", "bgp"]).as_deref(), Some("bgp: 0 of 2 sessions established"));
        let status = health.status();
        assert!(!status.ready);
        assert_eq!(status.components[0].message, "0 of 2 sessions established");
    }
}
