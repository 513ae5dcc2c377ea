//! Which endpoints share chains, and what their group is called.
//!
//! A group is named after what its endpoints share when it comes into being. When all of them come to share something else at
//! once (a policy that selects them comes or goes), it keeps its name: its chain changes in one transaction, and neither
//! its sets nor the search for it change. Never while endpoints join or leave it: for as long as the sets are
//! written one of these would be judged by what it neither shared before nor shares now. For the same reason a new
//! group takes no name under which the kernel still has something else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::language::Family;
use super::names::{self, GroupId};
use super::sets::{self, DIRECTIONS, GroupsOf};
use crate::model::{Delta, Direction, EndpointId, EndpointPolicy, LocalEndpoint};

/// Name of a group of one direction.
pub(super) type Name = (Direction, GroupId);

/// Endpoints that share a chain.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) policy: Arc<EndpointPolicy>,
    /// What its endpoints share, as a hash: its name too, unless that has changed since.
    content: GroupId,
    /// Endpoints in it, and those of them that have addresses of each family.
    endpoints: usize,
    of_family: [usize; 2],
}

impl Group {
    fn shape(&self) -> [bool; 2] {
        self.of_family.map(|endpoints| endpoints > 0)
    }

    pub(super) fn has(&self, family: Family) -> bool {
        Family::ALL.into_iter().zip(self.shape()).any(|(own, some)| own == family && some)
    }

    fn count(&mut self, endpoint: &LocalEndpoint, come: bool) {
        let step = |count: &mut usize| *count = if come { *count + 1 } else { count.saturating_sub(1) };
        step(&mut self.endpoints);
        for (family, count) in Family::ALL.into_iter().zip(&mut self.of_family) {
            if sets::nets_of(endpoint, family).next().is_some() {
                step(count);
            }
        }
    }
}

/// Local endpoints with the names of their groups.
pub(super) type Endpoints = BTreeMap<EndpointId, (GroupsOf, Arc<LocalEndpoint>)>;

/// What a change of endpoints means for the groups.
#[derive(Debug, Default)]
pub(super) struct Regrouped {
    /// Groups whose chain has to be made again, or that are gone.
    pub(super) dirty: BTreeSet<Name>,
    /// A group came or went.
    pub(super) structure: bool,
    /// An endpoint is in another group or at another place.
    pub(super) moved: bool,
}

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Grouping {
    groups: BTreeMap<Name, Group>,
    /// Names of the groups by what their endpoints share.
    named: BTreeMap<Name, GroupId>,
}

impl Grouping {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &Group)> {
        self.groups.iter()
    }

    pub(super) fn get(&self, name: &Name) -> Option<&Group> {
        self.groups.get(name)
    }

    /// Takes changes of endpoints in. `is_taken` says whether the kernel has something else under the name of a group with
    /// this policy.
    pub(super) fn take(
        &mut self,
        endpoints: &mut Endpoints,
        delta: &Delta,
        is_taken: impl Fn(&Name, &EndpointPolicy) -> bool,
    ) -> Regrouped {
        let changes: Vec<_> = delta.endpoints.iter().map(|(id, new)| Change::of(id, new.as_ref())).collect();
        let mut dirty: BTreeSet<Name> =
            DIRECTIONS.into_iter().flat_map(|of| self.turn(endpoints, &changes, of)).collect();
        let mut before: BTreeMap<Name, Option<[bool; 2]>> = BTreeMap::new();
        let mut structure = false;
        let mut moved = false;
        for Change { id, is_host, new } in changes {
            structure |= is_host;
            let old = endpoints.remove(id);
            if let Some((of, old)) = old.as_ref().filter(|_| !is_host) {
                for name in of {
                    let Some(group) = self.groups.get_mut(name) else { continue };
                    before.entry(name.clone()).or_insert_with(|| Some(group.shape()));
                    group.count(old, false);
                }
            }
            let Some((endpoint, content)) = new else {
                moved |= old.is_some();
                continue;
            };
            let of = if is_host {
                content
            } else {
                content.map(|content| self.join(content, endpoint, &mut before, &is_taken))
            };
            moved |= old.is_none_or(|(old_of, old)| old_of != of || !is_at_same_place(&old, endpoint));
            endpoints.insert(id.clone(), (of, Arc::clone(endpoint)));
        }
        let gone: Vec<_> = self.groups.extract_if(.., |_, group| group.endpoints == 0).collect();
        for ((direction, _), group) in gone {
            self.named.remove(&(direction, group.content));
        }
        let shape = |name: &Name| self.groups.get(name).map(Group::shape);
        let changed = before.into_iter().filter(|(name, before)| shape(name) != *before);
        let changed: Vec<_> = changed.map(|(name, _)| name).collect();
        structure |= !changed.is_empty();
        dirty.extend(changed);
        Regrouped { dirty, structure, moved }
    }

    /// Counts an endpoint into the group of those that share this with it; the name of the group.
    fn join(
        &mut self,
        content: Name,
        endpoint: &LocalEndpoint,
        before: &mut BTreeMap<Name, Option<[bool; 2]>>,
        is_taken: impl Fn(&Name, &EndpointPolicy) -> bool,
    ) -> Name {
        let direction = content.0;
        let known = self.named.get(&content).map(|name| (direction, name.clone()));
        let name = known.unwrap_or_else(|| {
            let salted = (1..).map(|salt| names::short_hash(&format!("{} {salt}", content.1.0)).into());
            let candidates = std::iter::once(Arc::clone(&content.1.0)).chain(salted);
            let mut candidates = candidates.map(|name| (direction, GroupId(name)));
            let is_free = |name: &Name| !self.groups.contains_key(name) && !is_taken(name, &endpoint.policy);
            candidates.find(is_free).unwrap_or_else(|| content.clone())
        });
        let group = self.groups.entry(name.clone()).or_insert_with(|| {
            self.named.insert(content.clone(), name.1.clone());
            before.entry(name.clone()).or_insert(None);
            Group {
                policy: Arc::clone(&endpoint.policy),
                content: content.1,
                endpoints: 0,
                of_family: [0; 2],
            }
        });
        before.entry(name.clone()).or_insert_with(|| Some(group.shape()));
        group.count(endpoint, true);
        name
    }

    /// Gives groups of one direction whose endpoints all come to share something else, with nobody else, their new policy.
    fn turn(&mut self, endpoints: &Endpoints, changes: &[Change<'_>], direction: Direction) -> Vec<Name> {
        let mut arriving: BTreeMap<GroupId, usize> = BTreeMap::new();
        let mut leaving: BTreeMap<&GroupId, Vec<Option<Shared<'_>>>> = BTreeMap::new();
        for Change { id, new, .. } in changes.iter().filter(|change| !change.is_host) {
            let content = new.as_ref().and_then(|(_, content)| of_direction(content, direction));
            if let Some(content) = content {
                *arriving.entry(content.clone()).or_default() += 1;
            }
            let Some((of, old)) = endpoints.get(id) else { continue };
            let Some(name) = of_direction(of, direction) else { continue };
            let same = new.as_ref().map(|(new, _)| *new).filter(|new| is_at_same_place(old, new));
            leaving.entry(name).or_default().push(content.cloned().zip(same.map(|new| &new.policy)));
        }
        let mut turned = Vec::new();
        for (name, to) in leaving {
            let Some(Some((content, policy))) = to.first() else { continue };
            let key = (direction, name.clone());
            let together = to.iter().all(|to| to.as_ref().is_some_and(|(other, _)| other == content));
            let nobody_else = arriving.get(content) == Some(&to.len());
            let Some(group) = self.groups.get_mut(&key).filter(|group| group.endpoints == to.len()) else {
                continue;
            };
            let new = (direction, content.clone());
            if together && nobody_else && !self.named.contains_key(&new) {
                self.named.remove(&(direction, std::mem::replace(&mut group.content, content.clone())));
                group.policy = Arc::clone(policy);
                self.named.insert(new, name.clone());
                turned.push(key);
            }
        }
        turned
    }
}

/// An endpoint that came, changed or went.
struct Change<'a> {
    id: &'a EndpointId,
    is_host: bool,
    /// With what it shares.
    new: Option<(&'a Arc<LocalEndpoint>, GroupsOf)>,
}

impl<'a> Change<'a> {
    fn of(id: &'a EndpointId, new: Option<&'a Arc<LocalEndpoint>>) -> Self {
        let shares = |new: &LocalEndpoint| DIRECTIONS.map(|of| (of, GroupId::of(&new.policy, of)));
        let is_host = matches!(id, EndpointId::Host { .. });
        Self { id, is_host, new: new.map(|new| (new, shares(new))) }
    }
}

fn of_direction(of: &GroupsOf, direction: Direction) -> Option<&GroupId> {
    of.iter().find(|(own, _)| *own == direction).map(|(_, group)| group)
}

/// What an endpoint comes to share, where it was.
type Shared<'a> = (GroupId, &'a Arc<EndpointPolicy>);

/// Whether sets and maps say the same of both.
fn is_at_same_place(old: &LocalEndpoint, new: &LocalEndpoint) -> bool {
    old.interface == new.interface
        && old.addresses == new.addresses
        && old.allowed_sources == new.allowed_sources
}
