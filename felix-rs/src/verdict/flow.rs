//! Established flows: connection tracking lets them go on whatever policy says now. Which of them would it deny?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::evaluate::evaluate;
use super::packet::Packet;
use super::trace::Verdict;
use crate::model::{Delta, Direction, EndpointId, EnforcedState, LocalEndpoint, SetChange, SetMember};

/// More addresses than this are taken for all.
const MANY: usize = 4096;

/// The addresses whose flows changes may have decided anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affected {
    everything: bool,
    addresses: BTreeSet<IpAddr>,
}

impl Affected {
    /// All addresses.
    #[must_use]
    pub fn everything() -> Self {
        Self { everything: true, addresses: BTreeSet::new() }
    }

    /// No address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.everything && self.addresses.is_empty()
    }

    /// Adds what a change affects: one of rules, all flows; one of set members or endpoints, theirs.
    pub fn add(&mut self, delta: &Delta) {
        self.everything |= !delta.policies.is_empty() || !delta.profiles.is_empty();
        for endpoint in delta.endpoints.values().flatten() {
            self.addresses.extend(&endpoint.addresses);
        }
        for change in delta.sets.values() {
            let SetChange::Update { added, removed } = change else {
                // It comes or goes with the rules that speak of it, or with a network.
                self.everything = true;
                break;
            };
            for member in added.iter().chain(removed) {
                match member {
                    network if network.is_network() => self.everything = true,
                    SetMember::Net(net) => drop(self.addresses.insert(net.addr())),
                    SetMember::IpPort(address, ..) => drop(self.addresses.insert(*address)),
                }
            }
        }
        if self.everything || self.addresses.len() > MANY {
            *self = Self::everything();
        }
    }

    fn has(&self, packet: &Packet) -> bool {
        self.everything
            || self.addresses.contains(&packet.source)
            || self.addresses.contains(&packet.destination)
    }
}

/// Judges flows of local workloads by the state. Host endpoints' flows are let be.
#[derive(Debug)]
pub struct Judge<'a> {
    state: &'a EnforcedState,
    affected: &'a Affected,
    /// The node's own addresses.
    own: &'a BTreeSet<IpAddr>,
    workloads: BTreeMap<IpAddr, &'a Arc<LocalEndpoint>>,
}

impl<'a> Judge<'a> {
    /// `own` are the node's own addresses: what it sends to its own pods is never denied.
    #[must_use]
    pub fn new(state: &'a EnforcedState, affected: &'a Affected, own: &'a BTreeSet<IpAddr>) -> Self {
        let mut workloads = BTreeMap::new();
        for (id, endpoint) in &state.endpoints {
            if matches!(id, EndpointId::Workload { .. }) {
                for address in &endpoint.addresses {
                    workloads.entry(*address).or_insert(endpoint);
                }
            }
        }
        Self { state, affected, own, workloads }
    }

    /// Whether a flow that began with this packet is affected, and would be denied if it began now.
    #[must_use]
    pub fn denies(&self, packet: &Packet) -> bool {
        if packet.source == packet.destination || !self.affected.has(packet) {
            return false;
        }
        let denied = |address, direction| {
            self.workloads.get(address).is_some_and(|endpoint| {
                evaluate(self.state, endpoint, direction, packet).verdict == Verdict::Deny
            })
        };
        denied(&packet.source, Direction::Egress)
            || !self.own.contains(&packet.source) && denied(&packet.destination, Direction::Ingress)
    }
}
