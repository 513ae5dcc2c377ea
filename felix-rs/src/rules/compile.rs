//! From the enforced state to rules and sets, incrementally: a change touches what it names.

mod assemble;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::changes::{Changes, SetUpdate};
use super::dispatch::{Dispatch, Groups};
use super::fixed;
use super::group::{self, End, Known, Reference};
use super::grouping::{Endpoints, Grouping, Name, Regrouped};
use super::language::{
    Action, ChainName, DispatchBy, Family, Member, Owner, Rule, Set, SetName, SetType, TableId, TableRules,
};
use super::marks::Marks;
use super::names;
use super::policy::{self, Context};
use super::sets::{self, DIRECTIONS, SetKey};
use crate::model::{
    ActivePolicy, ActiveProfile, Delta, Direction, EndpointId, EndpointPolicy, EnforcedState, LocalEndpoint,
    NodeSettings, PolicyId, ProfileId, SetChange, SetId, SetMember, WriterSettings,
};

/// The part of the rules one thing of the state is responsible for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Policy(PolicyId),
    Profile(ProfileId),
    Group(Name),
}

impl Unit {
    /// Chains of groups lead to those of policies and profiles, and these to none.
    const fn leads_on(&self) -> bool {
        matches!(self, Self::Group(_))
    }

    fn chains(&self) -> Vec<ChainName> {
        match self {
            Self::Policy(id) => DIRECTIONS.map(|direction| names::policy(id, direction)).into(),
            Self::Profile(id) => DIRECTIONS.map(|direction| names::profile(id, direction)).into(),
            Self::Group((direction, id)) => vec![id.chain(*direction)],
        }
    }
}

#[derive(Debug, Default)]
struct Rendered {
    chains: BTreeMap<(Family, ChainName), Arc<Vec<Rule>>>,
    net_sets: BTreeMap<SetName, Vec<IpNet>>,
}

/// Whether the kernel has a chain of this name that is not made of these rules.
pub type IsTaken<'a> = &'a dyn Fn(&ChainName, &[Rule]) -> bool;

/// The enforced state without the members of its sets, and the rules made from it.
#[derive(Debug)]
pub struct Compiler {
    marks: Marks,
    dispatch_by: DispatchBy,
    started: bool,
    settings: Arc<NodeSettings>,
    kinds: BTreeMap<SetId, SetType>,
    policies: BTreeMap<PolicyId, Arc<ActivePolicy>>,
    profiles: BTreeMap<ProfileId, Arc<ActiveProfile>>,
    endpoints: Endpoints,
    groups: Grouping,
    /// How the groups are found.
    dispatch: Dispatch,
    units: BTreeMap<Unit, Rendered>,
    derived: BTreeMap<SetKey, Set>,
    tables: BTreeMap<TableId, TableRules>,
    /// Members of sets that are a whole family or half of one.
    wide: BTreeMap<SetId, BTreeSet<IpNet>>,
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
    pub fn nothing(dispatch_by: DispatchBy) -> Self {
        Self {
            marks: Marks::default(),
            dispatch_by,
            started: false,
            settings: Arc::default(),
            kinds: BTreeMap::new(),
            policies: BTreeMap::new(),
            profiles: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            groups: Grouping::default(),
            dispatch: Dispatch::default(),
            units: BTreeMap::new(),
            derived: BTreeMap::new(),
            tables: BTreeMap::new(),
            wide: BTreeMap::new(),
        }
    }

    /// Rules for a whole state in a kernel without any; the changes name every set and table.
    pub fn new(dispatch_by: DispatchBy, state: &EnforcedState) -> (Self, Changes) {
        Self::beside(dispatch_by, state, &|_, _| false)
    }

    /// The same in a kernel that may have rules of ours.
    pub fn beside(dispatch_by: DispatchBy, state: &EnforcedState, is_taken: IsTaken<'_>) -> (Self, Changes) {
        let mut compiler = Self::nothing(dispatch_by);
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
        let changes = compiler.update(&delta, is_taken);
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
    pub fn update(&mut self, delta: &Delta, is_taken: IsTaken<'_>) -> Changes {
        let mut changes = Changes::default();
        let mut dirty = BTreeSet::new();
        let families_before: Vec<_> = fixed::families(&self.settings).collect();
        let settings_before = Arc::clone(&self.settings);
        let writer_before = self.writer();
        if let Some(settings) = &delta.settings {
            self.settings = Arc::clone(settings);
        }
        let writer = self.writer();
        // A mask that has no room is refused when it is read.
        self.marks = Marks::from_mask(writer.mark_mask).unwrap_or_default();
        let writing_changed = settings_before.log_prefix != self.settings.log_prefix
            || settings_before.flow_log != self.settings.flow_log
            || writer_before != writer;
        let families_changed = !fixed::families(&self.settings).eq(families_before.iter().copied());
        self.take_sets(delta, &mut changes, &mut dirty);
        self.take_policies(delta, &mut dirty);
        let regrouped = self.take_endpoints(delta, is_taken, &mut dirty);
        if writing_changed || families_changed {
            dirty.extend(self.policies.keys().cloned().map(Unit::Policy));
            dirty.extend(self.profiles.keys().cloned().map(Unit::Profile));
            dirty.extend(self.groups.iter().map(|(name, _)| Unit::Group(name.clone())));
        }
        let mut structure = regrouped.structure || delta.settings.is_some() || !self.started;
        self.started = true;
        if dirty.is_empty() && !structure && delta.endpoints.is_empty() {
            return changes;
        }
        let net_sets_changed = self.render(&dirty);
        if structure || regrouped.moved {
            let dispatch = self.find_dispatch();
            // Whether addresses are distinct depends on endpoints that change no group too.
            if dispatch != self.dispatch {
                structure = true;
                self.dispatch = dispatch;
            }
        }
        if structure || !self.is_fixed_apart() {
            self.assemble(&mut changes);
        } else {
            self.relink(&dirty, &mut changes);
        }
        if net_sets_changed || structure || regrouped.moved {
            self.derive_sets(&mut changes);
        }
        changes
    }

    fn take_sets(&mut self, delta: &Delta, changes: &mut Changes, dirty: &mut BTreeSet<Unit>) {
        let mut kinds_changed = false;
        for (id, change) in &delta.sets {
            let before = self.kinds.get(id).copied();
            let mut record = |family, kind, update| {
                changes.sets.insert((names::address_set(id, kind), family), update);
            };
            match change {
                SetChange::Create { kind, members } => {
                    let kind = sets::set_type(*kind, self.dispatch_by);
                    self.kinds.insert(id.clone(), kind);
                    self.wide.remove(id);
                    self.take_wide(id, members, &BTreeSet::new());
                    for (family, members) in split(members) {
                        if let Some(before) = before.filter(|before| *before != kind) {
                            record(family, before, SetUpdate::Gone);
                        }
                        record(family, kind, SetUpdate::Whole { kind, members });
                    }
                    kinds_changed |= before != Some(kind);
                }
                SetChange::Update { added, removed } => {
                    let Some(kind) = before else { continue };
                    let (mut new, mut old) = (split(added), split(removed));
                    let [come, gone] = self.take_wide(id, added, removed);
                    for family in Family::ALL {
                        let of = |split: &mut BTreeMap<Family, BTreeSet<Member>>, wide: &BTreeSet<IpNet>| {
                            let mut members = split.remove(&family).unwrap_or_default();
                            members.retain(|member| !matches!(member, Member::Net(net) if is_wide(net)));
                            members.extend(
                                wide.iter().filter(|net| family.has_net(net)).map(|net| Member::Net(*net)),
                            );
                            members
                        };
                        let (added, removed) = (of(&mut new, &come), of(&mut old, &gone));
                        if !added.is_empty() || !removed.is_empty() {
                            record(family, kind, SetUpdate::Change { added, removed });
                        }
                    }
                }
                SetChange::Delete => {
                    let Some(kind) = self.kinds.remove(id) else { continue };
                    self.wide.remove(id);
                    for family in Family::ALL {
                        record(family, kind, SetUpdate::Gone);
                    }
                    kinds_changed = true;
                }
            }
        }
        if kinds_changed {
            // Rules that refer to a set that came or went, or is another now: of the first two the calculation sends the
            // policy in the same delta, except where one fails closed because of a set that is missing.
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

    /// A whole family is written as its halves, which may be members themselves: what that adds and removes.
    fn take_wide(
        &mut self,
        id: &SetId,
        added: &BTreeSet<SetMember>,
        removed: &BTreeSet<SetMember>,
    ) -> [BTreeSet<IpNet>; 2] {
        let nets = |members: &BTreeSet<SetMember>| -> BTreeSet<IpNet> {
            let nets = members.iter().filter_map(|member| match member {
                SetMember::Net(net) if is_wide(net) => Some(net.trunc()),
                _ => None,
            });
            nets.collect()
        };
        let halves =
            |nets: &BTreeSet<IpNet>| nets.iter().copied().flat_map(sets::halves).collect::<BTreeSet<_>>();
        let (added, removed) = (nets(added), nets(removed));
        if added.is_empty() && removed.is_empty() {
            return [BTreeSet::new(), BTreeSet::new()];
        }
        let members = self.wide.entry(id.clone()).or_default();
        let before = halves(members);
        *members = &(&*members - &removed) | &added;
        let after = halves(members);
        [&after - &before, &before - &after]
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
            let referring = self.groups.iter().filter(|(_, group)| refers(&group.policy));
            dirty.extend(referring.map(|(name, _)| Unit::Group(name.clone())));
        }
    }

    fn take_endpoints(
        &mut self,
        delta: &Delta,
        is_taken: IsTaken<'_>,
        dirty: &mut BTreeSet<Unit>,
    ) -> Regrouped {
        let (mut groups, mut endpoints) =
            (std::mem::take(&mut self.groups), std::mem::take(&mut self.endpoints));
        let mut regrouped = groups.take(&mut endpoints, delta, |name, policy| {
            is_taken(&name.1.chain(name.0), &self.group_chain(policy, name.0))
        });
        (self.groups, self.endpoints) = (groups, endpoints);
        dirty.extend(std::mem::take(&mut regrouped.dirty).into_iter().map(Unit::Group));
        regrouped
    }

    fn group_chain(&self, policy: &EndpointPolicy, direction: Direction) -> Vec<Rule> {
        self.denying(group::chain(self.marks, policy, direction, End::Enforce, self))
    }

    /// Rules that deny as the settings want it.
    fn denying(&self, rules: Vec<Rule>) -> Vec<Rule> {
        let mut rules = group::with_flow_log(self.settings.flow_log, rules);
        if self.writer().rejects {
            group::replace(&mut rules, &Action::Drop, &Action::Reject);
        }
        rules
    }

    fn writer(&self) -> WriterSettings {
        match self.dispatch_by {
            DispatchBy::Sets => self.settings.iptables,
            DispatchBy::Map => self.settings.nftables,
        }
    }

    fn find_dispatch(&self) -> Dispatch {
        Dispatch::of(self.dispatch_by, |family, direction| Groups {
            groups: self
                .groups
                .iter()
                .filter(move |((own, _), group)| *own == direction && group.has(family))
                .map(|((_, id), _)| id.clone()),
            distinct: self.has_distinct_addresses(family),
            networks: self.workloads().any(|pod| sets::nets_of(pod, family).any(|net| !sets::is_host(&net))),
        })
    }

    fn workloads(&self) -> impl Iterator<Item = &Arc<LocalEndpoint>> {
        self.endpoints.iter().filter(|(id, _)| !is_host(id)).map(|(_, (_, endpoint))| endpoint)
    }

    /// Whether each address of a family belongs to one endpoint, and no endpoint may use others.
    fn has_distinct_addresses(&self, family: Family) -> bool {
        let mut seen = BTreeSet::new();
        let own = |endpoint: &Arc<LocalEndpoint>| endpoint.addresses.iter().copied().collect::<Vec<_>>();
        self.workloads().all(|endpoint| endpoint.allowed_sources.is_empty())
            && self
                .workloads()
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
                let policy = self.policies.get(id)?;
                let owner = Owner::Policy(id.clone());
                let rules = [&policy.ingress, &policy.egress];
                Some(self.rules(&owner, rules, policy.staged, |d| names::policy(id, d)))
            }
            Unit::Profile(id) => {
                let profile = self.profiles.get(id)?;
                let owner = Owner::Profile(id.clone());
                let rules = [&profile.ingress, &profile.egress];
                Some(self.rules(&owner, rules, false, |d| names::profile(id, d)))
            }
            Unit::Group(name) => {
                let (direction, id) = name;
                let group = self.groups.get(name)?;
                let mut rendered = Rendered::default();
                let rules = Arc::new(self.group_chain(&group.policy, *direction));
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
        staged: bool,
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
                let chain = policy::chain(&mut context, owner, direction, rules, staged);
                let chain = self.denying(chain);
                // Most rules name no address: both families share them.
                let other = rendered.chains.get(&(Family::V4, name(direction)));
                let chain =
                    other.filter(|other| ***other == chain).map_or_else(|| Arc::new(chain), Arc::clone);
                rendered.chains.insert((family, name(direction)), chain);
            }
        }
        rendered
    }

    fn derive_sets(&mut self, changes: &mut Changes) {
        let net_sets: BTreeMap<_, _> = self
            .units
            .values()
            .flat_map(|unit| unit.net_sets.iter().map(|(name, nets)| (name.clone(), nets.clone())))
            .collect();
        let endpoints = self.endpoints.values().map(|(group, endpoint)| (group, endpoint.as_ref()));
        let derived = sets::derived(&self.settings, &self.dispatch, endpoints, &net_sets);
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

fn is_wide(net: &IpNet) -> bool {
    net.prefix_len() <= 1
}

const fn is_host(id: &EndpointId) -> bool {
    matches!(id, EndpointId::Host { .. })
}

fn some<K: Ord + Clone, V>(map: &BTreeMap<K, Arc<V>>) -> BTreeMap<K, Option<Arc<V>>> {
    map.iter().map(|(key, value)| (key.clone(), Some(Arc::clone(value)))).collect()
}

/// Members by family; both families are always there. Each is collected, not extended: nodes of the set are full then,
/// where members put in one by one in order leave them half empty.
fn split(members: &BTreeSet<SetMember>) -> BTreeMap<Family, BTreeSet<Member>> {
    let own = |family| sets::members(members).filter(move |member| member.family() == family).collect();
    Family::ALL.into_iter().map(|family| (family, own(family))).collect()
}
