//! From the enforced state to rules and sets, incrementally: a change touches what it names.

mod assemble;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::changes::{Changes, SetUpdate};
use super::dispatch::{Dispatch, Groups};
use super::fixed;
use super::group::{self, End, Known, Reference};
use super::language::{
    ChainName, DispatchBy, Family, Member, Owner, Rule, Set, SetName, TableId, TableRules,
};
use super::marks::Marks;
use super::names::{self, GroupId};
use super::policy::{self, Context};
use super::sets::{self, GroupsOf, SetKey};
use crate::model::{
    ActivePolicy, ActiveProfile, Delta, Direction, EndpointId, EndpointPolicy, EnforcedState, LocalEndpoint,
    NodeSettings, PolicyId, ProfileId, SetChange, SetId, SetKind,
};

/// The part of the rules one thing of the state is responsible for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Policy(PolicyId),
    Profile(ProfileId),
    Group(Direction, GroupId),
}

/// Endpoints that share a chain.
#[derive(Debug)]
struct Group {
    policy: Arc<EndpointPolicy>,
    /// Endpoints in it, and those of them that have addresses of each family.
    endpoints: usize,
    of_family: [usize; 2],
}

#[derive(Debug, Default)]
struct Rendered {
    chains: BTreeMap<(Family, ChainName), Arc<Vec<Rule>>>,
    net_sets: BTreeMap<SetName, Vec<IpNet>>,
}

/// The enforced state without the members of its sets, and the rules made from it.
#[derive(Debug)]
pub struct Compiler {
    marks: Marks,
    dispatch_by: DispatchBy,
    started: bool,
    settings: Arc<NodeSettings>,
    kinds: BTreeMap<SetId, SetKind>,
    policies: BTreeMap<PolicyId, Arc<ActivePolicy>>,
    profiles: BTreeMap<ProfileId, Arc<ActiveProfile>>,
    endpoints: BTreeMap<EndpointId, (GroupsOf, Arc<LocalEndpoint>)>,
    groups: BTreeMap<(Direction, GroupId), Group>,
    units: BTreeMap<Unit, Rendered>,
    derived: BTreeMap<SetKey, Set>,
    tables: BTreeMap<TableId, TableRules>,
}

impl Known for Compiler {
    fn policy(&self, id: &PolicyId) -> Reference {
        match self.policies.get(id) {
            Some(policy) if policy.staged => Reference::Staged,
            Some(_) => Reference::Enforced,
            None => Reference::Missing,
        }
    }

    fn profile(&self, id: &ProfileId) -> bool {
        self.profiles.contains_key(id)
    }
}

impl Compiler {
    /// No rules and no sets, until the first change.
    pub fn nothing(marks: Marks, dispatch_by: DispatchBy) -> Self {
        Self {
            marks,
            dispatch_by,
            started: false,
            settings: Arc::default(),
            kinds: BTreeMap::new(),
            policies: BTreeMap::new(),
            profiles: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            groups: BTreeMap::new(),
            units: BTreeMap::new(),
            derived: BTreeMap::new(),
            tables: BTreeMap::new(),
        }
    }

    /// Rules for a whole state; the changes name every set and table.
    pub fn new(marks: Marks, dispatch_by: DispatchBy, state: &EnforcedState) -> (Self, Changes) {
        let mut compiler = Self::nothing(marks, dispatch_by);
        let delta = Delta {
            sets: state
                .sets
                .iter()
                .map(|(id, (kind, members))| {
                    (id.clone(), SetChange::Create { kind: *kind, members: members.clone() })
                })
                .collect(),
            policies: some(&state.policies),
            profiles: some(&state.profiles),
            endpoints: some(&state.endpoints),
            settings: Some(Arc::clone(&state.settings)),
            ..Delta::default()
        };
        let changes = compiler.update(&delta);
        (compiler, changes)
    }

    /// What every table has to hold now.
    pub const fn tables(&self) -> &BTreeMap<TableId, TableRules> {
        &self.tables
    }

    /// Endpoints in the state.
    pub fn endpoints(&self) -> impl Iterator<Item = &EndpointId> {
        self.endpoints.keys()
    }

    /// Takes a change in and says what it means for the kernel.
    pub fn update(&mut self, delta: &Delta) -> Changes {
        let mut changes = Changes::default();
        let mut dirty = BTreeSet::new();
        let families_before: Vec<_> = fixed::families(&self.settings).collect();
        let settings_before = Arc::clone(&self.settings);
        if let Some(settings) = &delta.settings {
            self.settings = Arc::clone(settings);
        }
        let log_changed = settings_before.log_prefix != self.settings.log_prefix
            || settings_before.flow_log != self.settings.flow_log;
        let families_changed = !fixed::families(&self.settings).eq(families_before.iter().copied());
        self.take_sets(delta, &mut changes, &mut dirty);
        self.take_policies(delta, &mut dirty);
        let regrouped = self.take_endpoints(delta, &mut dirty);
        if log_changed || families_changed {
            dirty.extend(self.policies.keys().cloned().map(Unit::Policy));
            dirty.extend(self.profiles.keys().cloned().map(Unit::Profile));
            dirty.extend(self.groups.keys().cloned().map(|(direction, group)| Unit::Group(direction, group)));
        }
        let structure = regrouped || delta.settings.is_some() || !self.started;
        self.started = true;
        if dirty.is_empty() && !structure && delta.endpoints.is_empty() {
            return changes;
        }
        let net_sets_changed = self.render(&dirty);
        let dispatch = self.dispatch();
        if !dirty.is_empty() || structure {
            self.assemble(&dispatch, &mut changes);
        }
        if net_sets_changed || structure || !delta.endpoints.is_empty() {
            self.derive_sets(&dispatch, &mut changes);
        }
        changes
    }

    fn take_sets(&mut self, delta: &Delta, changes: &mut Changes, dirty: &mut BTreeSet<Unit>) {
        let mut kinds_changed = false;
        for (id, change) in &delta.sets {
            let name = names::address_set(id);
            let mut record = |family, update| {
                changes.sets.insert((name.clone(), family), update);
            };
            match change {
                SetChange::Create { kind, members } => {
                    kinds_changed |= self.kinds.insert(id.clone(), *kind) != Some(*kind);
                    let kind = sets::set_type(*kind);
                    for (family, members) in split(members) {
                        record(family, SetUpdate::Whole { kind, members });
                    }
                }
                SetChange::Update { added, removed } => {
                    let mut removed = split(removed);
                    for (family, added) in split(added) {
                        let removed = removed.remove(&family).unwrap_or_default();
                        if !added.is_empty() || !removed.is_empty() {
                            record(family, SetUpdate::Change { added, removed });
                        }
                    }
                }
                SetChange::Delete => {
                    kinds_changed |= self.kinds.remove(id).is_some();
                    for family in Family::ALL {
                        record(family, SetUpdate::Gone);
                    }
                }
            }
        }
        if kinds_changed {
            // Rules that refer to a set that came or went: the calculation sends the policy in the same
            // delta, except where one fails closed because of a set that is missing.
            let affected = |rules: &[crate::model::PolicyRule]| {
                rules.iter().flat_map(|rule| [&rule.source, &rule.destination]).any(|peer| {
                    peer.sets
                        .iter()
                        .chain(&peer.not_sets)
                        .chain(&peer.named_ports)
                        .chain(&peer.not_named_ports)
                        .chain(&peer.service)
                        .any(|id| delta.sets.contains_key(id))
                })
            };
            for (id, policy) in &self.policies {
                if affected(&policy.ingress) || affected(&policy.egress) {
                    dirty.insert(Unit::Policy(id.clone()));
                }
            }
            for (id, profile) in &self.profiles {
                if affected(&profile.ingress) || affected(&profile.egress) {
                    dirty.insert(Unit::Profile(id.clone()));
                }
            }
        }
    }

    fn take_policies(&mut self, delta: &Delta, dirty: &mut BTreeSet<Unit>) {
        let mut referrers_changed = false;
        for (id, policy) in &delta.policies {
            let before = self.policy(id);
            match policy {
                Some(policy) => self.policies.insert(id.clone(), Arc::clone(policy)),
                None => self.policies.remove(id),
            };
            referrers_changed |= before != self.policy(id);
            dirty.insert(Unit::Policy(id.clone()));
        }
        for (id, profile) in &delta.profiles {
            let before = self.profile(id);
            match profile {
                Some(profile) => self.profiles.insert(id.clone(), Arc::clone(profile)),
                None => self.profiles.remove(id),
            };
            referrers_changed |= before != self.profile(id);
            dirty.insert(Unit::Profile(id.clone()));
        }
        if referrers_changed {
            let refers = |policy: &EndpointPolicy| {
                policy.profiles.iter().any(|id| delta.profiles.contains_key(id))
                    || policy.tiers.iter().any(|tier| {
                        tier.ingress.iter().chain(&tier.egress).any(|id| delta.policies.contains_key(id))
                    })
            };
            for ((direction, id), group) in &self.groups {
                if refers(&group.policy) {
                    dirty.insert(Unit::Group(*direction, id.clone()));
                }
            }
        }
    }

    /// Whether a group came or went.
    fn take_endpoints(&mut self, delta: &Delta, dirty: &mut BTreeSet<Unit>) -> bool {
        let shape = |groups: &BTreeMap<(Direction, GroupId), Group>, key: &(Direction, GroupId)| {
            groups.get(key).map(|group| group.of_family.map(|endpoints| endpoints > 0))
        };
        let mut before = BTreeMap::new();
        let mut count =
            |groups: &mut BTreeMap<_, Group>, of: &GroupsOf, endpoint: &LocalEndpoint, come: bool| {
                let step =
                    |count: &mut usize| *count = if come { *count + 1 } else { count.saturating_sub(1) };
                for key in of {
                    before.entry(key.clone()).or_insert_with(|| shape(groups, key));
                    let group = groups.entry(key.clone()).or_insert_with(|| Group {
                        policy: Arc::clone(&endpoint.policy),
                        endpoints: 0,
                        of_family: [0; 2],
                    });
                    step(&mut group.endpoints);
                    for (family, count) in Family::ALL.into_iter().zip(&mut group.of_family) {
                        if sets::nets_of(endpoint, family).next().is_some() {
                            step(count);
                        }
                    }
                }
            };
        for (id, endpoint) in &delta.endpoints {
            if let Some((groups, old)) = self.endpoints.remove(id).filter(|_| !is_host(id)) {
                count(&mut self.groups, &groups, &old, false);
            }
            if let Some(endpoint) = endpoint {
                let groups =
                    sets::DIRECTIONS.map(|direction| (direction, GroupId::of(&endpoint.policy, direction)));
                if !is_host(id) {
                    count(&mut self.groups, &groups, endpoint, true);
                }
                self.endpoints.insert(id.clone(), (groups, Arc::clone(endpoint)));
            }
        }
        self.groups.retain(|_, group| group.endpoints > 0);
        let changed = before.into_iter().filter(|(key, before)| shape(&self.groups, key) != *before);
        let changed: Vec<_> = changed.map(|((direction, group), _)| Unit::Group(direction, group)).collect();
        let structure = !changed.is_empty() || delta.endpoints.keys().any(is_host);
        dirty.extend(changed);
        structure
    }

    fn dispatch(&self) -> Dispatch {
        Dispatch::of(self.dispatch_by, |family, direction| Groups {
            groups: self
                .groups
                .iter()
                .filter(move |((own, _), group)| {
                    let of_family = Family::ALL.into_iter().zip(group.of_family);
                    *own == direction && of_family.into_iter().any(|(own, count)| own == family && count > 0)
                })
                .map(|((_, id), _)| id.clone()),
            distinct: self.has_distinct_addresses(family),
        })
    }

    /// Whether each address of a family belongs to one endpoint, and no endpoint may use others.
    fn has_distinct_addresses(&self, family: Family) -> bool {
        let workloads =
            || self.endpoints.iter().filter(|(id, _)| !is_host(id)).map(|(_, (_, endpoint))| endpoint);
        let mut seen = BTreeSet::new();
        let own = |endpoint: &Arc<LocalEndpoint>| endpoint.addresses.iter().copied().collect::<Vec<_>>();
        workloads().all(|endpoint| endpoint.allowed_sources.is_empty())
            && workloads()
                .flat_map(own)
                .filter(|address| family.has(*address))
                .all(|address| seen.insert(address))
    }

    /// Renders units again; says whether their sets of networks changed.
    fn render(&mut self, dirty: &BTreeSet<Unit>) -> bool {
        let mut changed = false;
        for unit in dirty {
            let rendered = self.unit(unit);
            let before = self.units.get(unit).map(|unit| &unit.net_sets);
            changed |= rendered.as_ref().map_or_else(
                || before.is_some_and(|sets| !sets.is_empty()),
                |new| before != Some(&new.net_sets) && (before.is_some() || !new.net_sets.is_empty()),
            );
            match rendered {
                Some(rendered) => self.units.insert(unit.clone(), rendered),
                None => self.units.remove(unit),
            };
        }
        changed
    }

    fn unit(&self, unit: &Unit) -> Option<Rendered> {
        match unit {
            Unit::Policy(id) => {
                let policy = self.policies.get(id).filter(|policy| !policy.staged)?;
                let owner = Owner::Policy(id.clone());
                Some(self.rules(&owner, [&policy.ingress, &policy.egress], |d| names::policy(id, d)))
            }
            Unit::Profile(id) => {
                let profile = self.profiles.get(id)?;
                let owner = Owner::Profile(id.clone());
                Some(self.rules(&owner, [&profile.ingress, &profile.egress], |d| names::profile(id, d)))
            }
            Unit::Group(direction, id) => {
                let group = self.groups.get(&(*direction, id.clone()))?;
                let mut rendered = Rendered::default();
                let rules = group::chain(self.marks, &group.policy, *direction, End::Enforce, self);
                let rules = Arc::new(group::with_flow_log(self.settings.flow_log, rules));
                for family in fixed::families(&self.settings) {
                    rendered.chains.insert((family, id.chain(*direction)), Arc::clone(&rules));
                }
                Some(rendered)
            }
        }
    }

    fn rules(
        &self,
        owner: &Owner,
        rules: [&Vec<crate::model::PolicyRule>; 2],
        name: impl Fn(Direction) -> ChainName,
    ) -> Rendered {
        let mut rendered = Rendered::default();
        for family in fixed::families(&self.settings) {
            let mut context = Context {
                family,
                marks: self.marks,
                kinds: &self.kinds,
                log_prefix: &self.settings.log_prefix,
                net_sets: &mut rendered.net_sets,
            };
            for (direction, rules) in [Direction::Ingress, Direction::Egress].into_iter().zip(rules) {
                let chain = policy::chain(&mut context, owner, direction, rules);
                let chain = group::with_flow_log(self.settings.flow_log, chain);
                // Most rules name no address: both families share them.
                let other = rendered.chains.get(&(Family::V4, name(direction)));
                let chain =
                    other.filter(|other| ***other == chain).map_or_else(|| Arc::new(chain), Arc::clone);
                rendered.chains.insert((family, name(direction)), chain);
            }
        }
        rendered
    }

    fn derive_sets(&mut self, dispatch: &Dispatch, changes: &mut Changes) {
        let net_sets: BTreeMap<_, _> = self
            .units
            .values()
            .flat_map(|unit| unit.net_sets.iter().map(|(name, nets)| (name.clone(), nets.clone())))
            .collect();
        let endpoints = self.endpoints.values().map(|(group, endpoint)| (group, endpoint.as_ref()));
        let derived = sets::derived(&self.settings, dispatch, endpoints, &net_sets);
        for (key, set) in &derived {
            let before = self.derived.get(key);
            if before == Some(set) {
                continue;
            }
            let update = match before.filter(|before| before.kind == set.kind) {
                Some(before) => SetUpdate::Change {
                    added: set.members.difference(&before.members).cloned().collect(),
                    removed: before.members.difference(&set.members).cloned().collect(),
                },
                None => SetUpdate::Whole { kind: set.kind, members: set.members.clone() },
            };
            changes.sets.insert(key.clone(), update);
        }
        let gone = self.derived.keys().filter(|key| !derived.contains_key(*key));
        changes.sets.extend(gone.map(|key| (key.clone(), SetUpdate::Gone)));
        self.derived = derived;
    }
}

const fn is_host(id: &EndpointId) -> bool {
    matches!(id, EndpointId::Host { .. })
}

fn some<K: Ord + Clone, V>(map: &BTreeMap<K, Arc<V>>) -> BTreeMap<K, Option<Arc<V>>> {
    map.iter().map(|(key, value)| (key.clone(), Some(Arc::clone(value)))).collect()
}

/// Members by family; both families are always there. Each is collected, not extended: nodes of the set are full then,
/// where members put in one by one in order leave them half empty.
fn split(members: &BTreeSet<crate::model::SetMember>) -> BTreeMap<Family, BTreeSet<Member>> {
    let own = |family| sets::members(members).filter(move |member| member.family() == family).collect();
    Family::ALL.into_iter().map(|family| (family, own(family))).collect()
}
