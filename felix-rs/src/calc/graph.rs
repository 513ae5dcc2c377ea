//! The calculation proper, on internal forms: what changed goes in, and a flush works out what follows from it.
//!
//! Everything a flush tells is a function of what the objects say *now*, never of how they came to say it. That makes
//! the order, duplication and batching of updates irrelevant. Work is proportional to what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::repeat;
use std::net::IpAddr;
use std::sync::Arc;

use margay_api::{Key, Tier};

use super::facts::{Facts, LabelMap};
use super::index::{Flip, Index, ItemIx, QueryIx};
use super::item::{Item, ItemId, Parent};
use super::order::{Place, Tiers, endpoint_policy};
use super::pack;
use super::policy::{Policy, PolicySpec, missing_tier};
use super::profile::ProfileSpec;
use super::sets::{Contribution, SetSpec, Sets};
use super::sources::{NodeFacts, Slice};
use crate::model::{
    ActivePolicy, ActiveProfile, Delta, EndpointId, EndpointPolicy, LocalEndpoint, PolicyId, ProfileId, SetId,
};

/// `interfaceName` of a host endpoint that is all interfaces: there Felix ignores doNotTrack policies
/// (`felix/dataplane/linux/endpoint_mgr.go`).
const ALL_INTERFACES: &str = "*";

#[derive(Debug)]
struct PolicyState {
    key: Key,
    spec: Arc<PolicySpec>,
    /// Present while a local endpoint is selected.
    current: Option<Policy>,
}

#[derive(Debug)]
struct ParentState {
    labels: Arc<LabelMap>,
    children: BTreeSet<ItemIx>,
}

impl ParentState {
    fn new(parent: &Parent) -> Self {
        Self { labels: Arc::new(parent.implied_labels()), children: BTreeSet::new() }
    }
}

/// What the flushes so far have told.
#[derive(Debug, Default)]
struct Told {
    policies: BTreeMap<PolicyId, Arc<ActivePolicy>>,
    profiles: BTreeMap<ProfileId, Arc<ActiveProfile>>,
    endpoints: BTreeMap<EndpointId, Arc<LocalEndpoint>>,
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    tiers: Tiers,
    policies: BTreeMap<QueryIx, PolicyState>,
    policy_numbers: BTreeMap<Key, QueryIx>,
    policies_by_tier: BTreeMap<Arc<str>, BTreeSet<QueryIx>>,
    next_policy: QueryIx,
    profiles: BTreeMap<ProfileId, ProfileSpec>,
    profiles_in_force: BTreeMap<ProfileId, ProfileSpec>,
    profile_users: BTreeMap<ProfileId, usize>,
    items: BTreeMap<ItemIx, Item>,
    item_numbers: BTreeMap<ItemId, ItemIx>,
    next_item: ItemIx,
    contributions: BTreeMap<ItemIx, Contribution>,
    parents: BTreeMap<Parent, ParentState>,
    /// Policy selectors over local endpoints.
    targets: Index,
    /// Selectors of rules over everything.
    members: Index,
    sets: Sets,
    told: Told,

    changed_items: BTreeMap<ItemId, Option<Item>>,
    relabelled: BTreeSet<ItemIx>,
    changed_policies: BTreeMap<Key, Option<PolicySpec>>,
    touched_policies: BTreeSet<QueryIx>,
    touched_endpoints: BTreeSet<ItemIx>,
    gone_endpoints: BTreeSet<EndpointId>,
    touched_profiles: BTreeSet<ProfileId>,
}

impl Graph {
    pub(super) fn pack(&mut self) {
        pack::map(&mut self.policies);
        pack::map(&mut self.policy_numbers);
        pack::map(&mut self.items);
        pack::map(&mut self.item_numbers);
        pack::map(&mut self.contributions);
        self.policies_by_tier.values_mut().for_each(pack::set);
        self.parents.values_mut().for_each(|parent| pack::set(&mut parent.children));
        self.targets.pack();
        self.members.pack();
        self.sets.pack();
    }

    pub(super) fn put_item(&mut self, id: ItemId, item: Option<Item>) {
        self.changed_items.insert(id, item);
    }

    /// `labels` of the parent's object, with the prefix they are lent under; empty if there is none.
    pub(super) fn put_parent(&mut self, parent: Parent, labels: LabelMap) {
        let mut labels = labels;
        // The name comes last: no label of an object can pretend that it is another one.
        labels.extend(parent.implied_labels());
        let state = self.parents.entry(parent.clone()).or_insert_with(|| ParentState::new(&parent));
        if *state.labels != labels {
            state.labels = Arc::new(labels);
            self.relabelled.extend(state.children.iter().copied());
        }
        self.forget_parent_if_unused(&parent);
    }

    pub(super) fn put_policy(&mut self, key: Key, spec: Option<PolicySpec>) {
        self.changed_policies.insert(key, spec);
    }

    pub(super) fn put_slice(&mut self, namespace: &str, name: &str, slice: Option<Slice>) {
        self.sets.put_slice(namespace, name, slice);
    }

    pub(super) fn put_node(&mut self, name: &str, node: Option<NodeFacts>) {
        self.sets.put_node(name, node);
    }

    pub(super) fn put_tier(&mut self, name: &str, tier: Option<&Tier>) {
        if self.tiers.put(name, tier) {
            for &number in self.policies_by_tier.get(name).into_iter().flatten() {
                self.touched_policies.insert(number);
                self.touched_endpoints.extend(self.targets.matched(number));
            }
        }
    }

    pub(super) fn put_profile(&mut self, id: ProfileId, spec: Option<ProfileSpec>) {
        match spec {
            Some(spec) => self.profiles.insert(id.clone(), spec),
            None => self.profiles.remove(&id),
        };
        self.touched_profiles.insert(id);
    }

    /// Works out and writes everything that follows from the changes since the last flush.
    pub(super) fn flush(&mut self, delta: &mut Delta) {
        for (id, item) in std::mem::take(&mut self.changed_items) {
            match item {
                Some(item) => self.set_item(id, item),
                None => self.remove_item(&id),
            }
        }
        for number in std::mem::take(&mut self.relabelled) {
            self.relabel(number);
        }
        for (key, spec) in std::mem::take(&mut self.changed_policies) {
            self.set_policy(key, spec);
        }
        for number in std::mem::take(&mut self.touched_policies) {
            self.tell_policy(number, delta);
        }
        self.tell_endpoints(delta);
        for id in std::mem::take(&mut self.touched_profiles) {
            self.tell_profile(id, delta);
        }
        self.sets.flush(&mut self.members, delta);
    }

    fn set_item(&mut self, id: ItemId, item: Item) {
        let number = match self.item_numbers.get(&id) {
            Some(number) => *number,
            None => {
                let number = self.next_item;
                self.next_item += 1;
                self.item_numbers.insert(id, number);
                number
            }
        };
        let old = self.items.remove(&number);
        if old.as_ref() == Some(&item) {
            self.items.insert(number, item);
            return;
        }
        let old_parents = old.as_ref().map(|old| Arc::clone(&old.parents)).unwrap_or_default();
        for parent in old_parents.iter().filter(|parent| !item.parents.contains(parent)) {
            self.leave_parent(parent, number);
        }
        for parent in &*item.parents {
            let state = self.parents.entry(parent.clone()).or_insert_with(|| ParentState::new(parent));
            state.children.insert(number);
        }
        if let Some(gone) = old.as_ref().and_then(|old| old.local.as_ref())
            && item.local.as_ref().map(|local| &local.id) != Some(&gone.id)
        {
            self.gone_endpoints.insert(gone.id.clone());
        }
        if item.local.is_none() {
            let flips = self.targets.remove_item(number);
            self.note_target_flips(&flips);
        } else if old.as_ref().map(|old| &old.local) != Some(&item.local) {
            self.touched_endpoints.insert(number);
        }
        let before = self.contributions.insert(number, item.contribution.clone()).unwrap_or_default();
        self.items.insert(number, item);
        self.update_labels(number, &before);
        self.relabelled.remove(&number);
    }

    fn remove_item(&mut self, id: &ItemId) {
        let Some(number) = self.item_numbers.remove(id) else { return };
        let contribution = self.contributions.remove(&number).unwrap_or_default();
        let flips = self.members.remove_item(number);
        self.sets.flipped(&flips, &contribution);
        let flips = self.targets.remove_item(number);
        self.note_target_flips(&flips);
        self.relabelled.remove(&number);
        if let Some(item) = self.items.remove(&number) {
            for parent in &*item.parents {
                self.leave_parent(parent, number);
            }
            if let Some(local) = item.local {
                self.gone_endpoints.insert(local.id);
            }
        }
    }

    fn relabel(&mut self, number: ItemIx) {
        let contribution = self.contributions.get(&number).cloned().unwrap_or_default();
        self.update_labels(number, &contribution);
    }

    /// Brings both indexes and the sets up to date with an item; `before` is what it contributed last.
    fn update_labels(&mut self, number: ItemIx, before: &Contribution) {
        let Some(item) = self.items.get(&number) else { return };
        let inherited = item.parents.iter().filter_map(|parent| self.parents.get(parent));
        let inherited = inherited.map(|state| Arc::clone(&state.labels)).filter(|labels| !labels.is_empty());
        let facts = Arc::new(Facts { own: Arc::clone(&item.labels), inherited: inherited.collect() });

        let flips = self.members.put_item(number, Arc::clone(&facts));
        let (began, ceased): (Vec<Flip>, Vec<Flip>) = flips.into_iter().partition(|flip| flip.matches);
        self.sets.flipped(&ceased, before);
        if *before != item.contribution {
            let new: BTreeSet<QueryIx> = began.iter().map(|flip| flip.query).collect();
            let kept = self.members.queries_of(number).filter(|query| !new.contains(query));
            self.sets.contributed(kept, before, &item.contribution);
        }
        self.sets.flipped(&began, &item.contribution);

        if item.local.is_some() {
            let flips = self.targets.put_item(number, facts);
            self.note_target_flips(&flips);
        }
    }

    fn note_target_flips(&mut self, flips: &[Flip]) {
        for flip in flips {
            self.touched_policies.insert(flip.query);
            self.touched_endpoints.insert(flip.item);
        }
    }

    fn leave_parent(&mut self, parent: &Parent, number: ItemIx) {
        if let Some(state) = self.parents.get_mut(parent) {
            state.children.remove(&number);
        }
        self.forget_parent_if_unused(parent);
    }

    fn forget_parent_if_unused(&mut self, parent: &Parent) {
        let unused =
            |state: &ParentState| state.children.is_empty() && *state.labels == parent.implied_labels();
        if self.parents.get(parent).is_some_and(unused) {
            self.parents.remove(parent);
        }
    }

    fn set_policy(&mut self, key: Key, spec: Option<PolicySpec>) {
        let known = self.policy_numbers.get(&key).copied();
        let Some(spec) = spec else {
            let Some(number) = known else { return };
            self.policy_numbers.remove(&key);
            self.touched_endpoints.extend(self.targets.matched(number));
            self.targets.remove_query(number);
            self.touched_policies.insert(number);
            return;
        };
        let number = known.unwrap_or_else(|| {
            let number = self.next_policy;
            self.next_policy += 1;
            self.policy_numbers.insert(key.clone(), number);
            number
        });
        let spec = Arc::new(spec);
        let old = self.policies.get(&number).map(|old| Arc::clone(&old.spec));
        if old.as_ref() == Some(&spec) {
            return;
        }
        let retarget = old.as_ref().is_none_or(|old| old.target != spec.target);
        if let Some(old) = old {
            self.leave_tier(&old.active.tier, number);
        }
        let state = PolicyState { key, spec: Arc::clone(&spec), current: None };
        self.policies.entry(number).or_insert(state).spec = Arc::clone(&spec);
        self.policies_by_tier.entry(Arc::clone(&spec.active.tier)).or_default().insert(number);
        if retarget {
            self.touched_endpoints.extend(self.targets.matched(number));
            self.targets.remove_query(number);
            self.targets.add_query(number, Arc::new(spec.target.clone()));
        }
        self.touched_endpoints.extend(self.targets.matched(number));
        self.touched_policies.insert(number);
    }

    fn leave_tier(&mut self, tier: &Arc<str>, number: QueryIx) {
        if let Some(numbers) = self.policies_by_tier.get_mut(tier) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.policies_by_tier.remove(tier);
            }
        }
    }

    fn tell_policy(&mut self, number: QueryIx, delta: &mut Delta) {
        let Some(state) = self.policies.get_mut(&number) else { return };
        let exists = self.policy_numbers.get(&state.key) == Some(&number);
        let active = exists && self.targets.matched(number).next().is_some();
        let new = active.then(|| Policy::new(&state.spec, &self.tiers));
        let old = std::mem::replace(&mut state.current, new.clone());
        let id = state.spec.active.id.clone();
        if !exists && let Some(gone) = self.policies.remove(&number) {
            self.leave_tier(&gone.spec.active.tier, number);
        }
        if let Some(new) = &new {
            self.acquire(new.sets());
        }
        if let Some(old) = &old {
            old.sets().for_each(|(id, _)| self.sets.release(id));
        }
        tell(&mut self.told.policies, &mut delta.policies, id, new.map(|policy| policy.active));
    }

    fn acquire<'a>(&mut self, sets: impl Iterator<Item = (&'a SetId, &'a Arc<SetSpec>)>) {
        for (id, spec) in sets {
            self.sets.acquire(id, spec, &mut self.members, &self.contributions);
        }
    }

    fn tell_endpoints(&mut self, delta: &mut Delta) {
        let mut changes: BTreeMap<EndpointId, Option<Arc<LocalEndpoint>>> =
            std::mem::take(&mut self.gone_endpoints).into_iter().map(|id| (id, None)).collect();
        for number in std::mem::take(&mut self.touched_endpoints) {
            if let Some(endpoint) = self.endpoint(number) {
                changes.insert(endpoint.id.clone(), Some(Arc::new(endpoint)));
            }
        }
        for (id, new) in changes {
            let profiles_of = |endpoint: &Arc<LocalEndpoint>| endpoint.policy.profiles.clone();
            let old_profiles = self.told.endpoints.get(&id).map(profiles_of).unwrap_or_default();
            for profile in new.as_ref().map(profiles_of).unwrap_or_default() {
                *self.profile_users.entry(profile.clone()).or_default() += 1;
                self.touched_profiles.insert(profile);
            }
            for profile in old_profiles {
                if let Some(users) = self.profile_users.get_mut(&profile) {
                    *users -= 1;
                    if *users == 0 {
                        self.profile_users.remove(&profile);
                    }
                }
                self.touched_profiles.insert(profile);
            }
            tell(&mut self.told.endpoints, &mut delta.endpoints, id, new);
        }
    }

    /// Interfaces of local workload endpoints that begin with none of the prefixes.
    pub(super) fn interfaces_beside(&self, prefixes: &[Arc<str>]) -> BTreeSet<Arc<str>> {
        let is_workload = |endpoint: &&Arc<LocalEndpoint>| matches!(endpoint.id, EndpointId::Workload { .. });
        let workloads = self.told.endpoints.values().filter(is_workload);
        let interfaces = workloads.map(|endpoint| &endpoint.interface).filter(|name| !name.is_empty());
        let beside = interfaces.filter(|name| !prefixes.iter().any(|prefix| name.starts_with(&**prefix)));
        beside.cloned().collect()
    }

    /// Addresses by which host endpoints are found.
    pub(super) fn expected_addresses(&self) -> BTreeSet<IpAddr> {
        let is_found = |endpoint: &&Arc<LocalEndpoint>| {
            matches!(endpoint.id, EndpointId::Host { .. }) && endpoint.interface.is_empty()
        };
        self.told
            .endpoints
            .values()
            .filter(is_found)
            .flat_map(|endpoint| &endpoint.addresses)
            .copied()
            .collect()
    }

    fn endpoint(&self, number: ItemIx) -> Option<LocalEndpoint> {
        let local = self.items.get(&number)?.local.as_ref()?;
        let at = |place| {
            let selecting = self.targets.queries_of(number).filter_map(|query| self.policies.get(&query));
            let policies = selecting.filter_map(|state| state.current.as_ref());
            // Only the normal place ends in profiles.
            let profiles: &[ProfileId] = if place == Place::Normal { &local.profiles } else { &[] };
            Arc::new(endpoint_policy(policies, &self.tiers, profiles, place))
        };
        let elsewhere = |place| match local.id {
            EndpointId::Workload { .. } => Arc::<EndpointPolicy>::default(),
            EndpointId::Host { .. } if place == Place::Untracked && &*local.interface == ALL_INTERFACES => {
                Arc::default()
            }
            EndpointId::Host { .. } => at(place),
        };
        Some(LocalEndpoint {
            id: local.id.clone(),
            interface: Arc::clone(&local.interface),
            addresses: local.addresses.clone(),
            allowed_sources: local.allowed_sources.clone(),
            policy: at(Place::Normal),
            untracked: elsewhere(Place::Untracked),
            pre_dnat: elsewhere(Place::PreDnat),
            forward: elsewhere(Place::Forward),
        })
    }

    fn tell_profile(&mut self, id: ProfileId, delta: &mut Delta) {
        let new = self.profile_users.contains_key(&id).then(|| self.profile(&id));
        if let Some(new) = &new {
            self.acquire(new.sets.iter());
        }
        let old = match new.clone() {
            Some(new) => self.profiles_in_force.insert(id.clone(), new),
            None => self.profiles_in_force.remove(&id),
        };
        if let Some(old) = old {
            old.sets.keys().for_each(|id| self.sets.release(id));
        }
        tell(&mut self.told.profiles, &mut delta.profiles, id, new.map(|profile| profile.active));
    }

    fn profile(&self, id: &ProfileId) -> ProfileSpec {
        let object = self.profiles.get(id).cloned();
        object.or_else(|| ProfileSpec::built_in(id)).unwrap_or_else(|| ProfileSpec::closed(id))
    }

    /// Policies that are quarantined or partly unusable, with the reason.
    pub(super) fn policy_problems(&self) -> impl Iterator<Item = (Key, String)> + '_ {
        self.policies.values().flat_map(|state| {
            let invalid =
                state.spec.active.invalid.clone().or_else(|| missing_tier(&state.spec, &self.tiers));
            invalid
                .into_iter()
                .chain(state.spec.notes.iter().cloned())
                .map(|reason| (state.key.clone(), reason))
        })
    }

    /// Policies in force whose rules speak of an item, as far as its labels are known.
    pub(super) fn policies_about(&self, id: &ItemId) -> Vec<&Key> {
        let queries =
            self.item_numbers.get(id).into_iter().flat_map(|number| self.members.queries_of(*number));
        let sets: BTreeSet<&SetId> = queries.flat_map(|query| self.sets.of_query(query)).collect();
        let speaks = |policy: &Policy| policy.sets().any(|(id, _)| sets.contains(id));
        let states = self.policies.values().filter(|state| state.current.as_ref().is_some_and(speaks));
        let mut keys: Vec<&Key> = states.map(|state| &state.key).collect();
        keys.sort_unstable();
        keys
    }

    /// doNotTrack policies that select a host endpoint of all interfaces, and its name.
    pub(super) fn untracked_everywhere(&self) -> impl Iterator<Item = (&Key, &str)> + '_ {
        // Items are many, such policies few.
        let any = self.policies.values().any(|state| state.spec.active.do_not_track);
        any.then(|| self.items.iter()).into_iter().flatten().flat_map(|(number, item)| {
            let name = item.local.as_ref().and_then(|local| match &local.id {
                EndpointId::Host { name } if &*local.interface == ALL_INTERFACES => Some(&**name),
                _ => None,
            });
            let queries =
                name.into_iter().flat_map(|name| self.targets.queries_of(*number).zip(repeat(name)));
            let states = queries.filter_map(|(query, name)| Some((self.policies.get(&query)?, name)));
            let untracked = states.filter(|(state, _)| state.spec.active.do_not_track);
            untracked.map(|(state, name)| (&state.key, name))
        })
    }

    /// Profiles that local endpoints name and nobody has.
    pub(super) fn missing_profiles(&self) -> impl Iterator<Item = &ProfileId> + '_ {
        self.profile_users
            .keys()
            .filter(|id| !self.profiles.contains_key(id) && ProfileSpec::built_in(id).is_none())
    }
}

/// Writes a change into the delta if it is one.
fn tell<K: Ord + Clone, V: PartialEq>(
    told: &mut BTreeMap<K, Arc<V>>,
    delta: &mut BTreeMap<K, Option<Arc<V>>>,
    key: K,
    new: Option<Arc<V>>,
) {
    if told.get(&key) == new.as_ref() {
        return;
    }
    match &new {
        Some(new) => told.insert(key.clone(), Arc::clone(new)),
        None => told.remove(&key),
    };
    delta.insert(key, new);
}
