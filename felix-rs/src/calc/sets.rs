//! Address sets: what rules refer to instead of selectors, with a reference count per set and per member.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;
use margay_api::selector::Selector;
use sha2::{Digest, Sha224};

use super::index::{Flip, Index, ItemIx, QueryIx};
use super::pack;
use super::shared::Shared;
use super::sources::{NodeFacts, Slice, Sources};
use super::who::words;
use crate::model::{Delta, PeerMatch, SetChange, SetId, SetKind, SetMember, SharedPeer};

/// What an endpoint or a network set puts into the sets that select it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contribution {
    /// In order, each once.
    pub(super) nets: Arc<[IpNet]>,
    pub(super) ports: BTreeSet<NamedPort>,
}

/// A named port of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NamedPort {
    pub(super) name: Arc<str>,
    pub(super) protocol: u8,
    pub(super) port: u16,
}

/// What a set stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SetSpec {
    /// Addresses of everything selected.
    Selected(Selector),
    /// (address, protocol, port) of endpoints selected that have the named port.
    Port {
        /// Which endpoints.
        selector: Selector,
        /// IP protocol number.
        protocol: u8,
        /// Name of the port.
        name: Arc<str>,
    },
    /// Addresses of the nodes that have these labels.
    Nodes(Selector),
    /// A Service's endpoints, with their ports (as a destination) or without (as a source).
    Service {
        /// Namespace of the Service.
        namespace: Arc<str>,
        /// Name of the Service.
        name: Arc<str>,
        /// With ports.
        ports: bool,
    },
}

/// Sets that rules refer to, and sides of rules, each kept once: many policies name the same.
#[derive(Debug, Default)]
pub(super) struct KnownSets {
    ids: Shared<str>,
    specs: Shared<SetSpec>,
    peers: Shared<PeerMatch>,
}

impl KnownSets {
    pub(super) fn share(&mut self, spec: SetSpec) -> (SetId, Arc<SetSpec>) {
        (SetId(self.ids.share(spec.id().0)), self.specs.share(spec))
    }

    pub(super) fn share_peer(&mut self, peer: PeerMatch) -> SharedPeer {
        self.peers.share(peer).into()
    }
}

fn hashed(prefix: &str, text: &str) -> SetId {
    let digest = Sha224::digest(format!("{prefix}:{text}"));
    SetId(format!("{prefix}:{}", URL_SAFE_NO_PAD.encode(digest)).into())
}

impl SetSpec {
    /// Calico's identity of the same set (`felix/calc/rule_scanner.go`), so that a set has one name on every node and
    /// after every restart.
    pub(super) fn id(&self) -> SetId {
        match self {
            Self::Selected(selector) => SetId(selector.id().into()),
            Self::Port { selector, protocol, name } => {
                let protocol = crate::verdict::protocol_name(*protocol);
                hashed("n", &format!("{},{protocol},{name}", selector.id()))
            }
            Self::Nodes(selector) => hashed("nodes", &selector.id()),
            Self::Service { namespace, name, ports: true } => hashed("svc", &format!("{namespace}/{name}")),
            Self::Service { namespace, name, ports: false } => {
                hashed("svcnoport", &format!("{namespace}/{name}"))
            }
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Selected(selector) => words(selector),
            Self::Port { selector, protocol, name } => {
                format!("port {name}/{} of {}", crate::verdict::protocol_name(*protocol), words(selector))
            }
            Self::Nodes(selector) => format!("nodes: {}", words(selector)),
            Self::Service { namespace, name, .. } => format!("endpoints of service {namespace}/{name}"),
        }
    }

    fn has_ports(&self) -> bool {
        matches!(self, Self::Port { .. } | Self::Service { ports: true, .. })
    }

    fn selector(&self) -> Option<&Selector> {
        match self {
            Self::Selected(selector) | Self::Port { selector, .. } => Some(selector),
            Self::Nodes(_) | Self::Service { .. } => None,
        }
    }

    fn members(&self, from: &Contribution) -> Vec<SetMember> {
        match self {
            Self::Selected(_) => from.nets.iter().copied().map(SetMember::Net).collect(),
            Self::Port { protocol, name, .. } => from
                .ports
                .iter()
                .filter(|port| port.protocol == *protocol && port.name == *name)
                .flat_map(|port| {
                    from.nets.iter().map(|net| SetMember::IpPort(net.addr(), port.protocol, port.port))
                })
                .collect(),
            Self::Nodes(_) | Self::Service { .. } => Vec::new(),
        }
    }
}

#[derive(Debug)]
struct Set {
    spec: Arc<SetSpec>,
    query: Option<QueryIx>,
    /// Rule lists that refer to it.
    users: usize,
    /// How many contributions hold each member.
    members: BTreeMap<SetMember, u32>,
    /// How many of them are networks.
    networks: usize,
    /// What the last flush told of it.
    told: Option<SetKind>,
    /// Members touched since the last flush, if that told of the set: whether it had them.
    touched: BTreeMap<SetMember, bool>,
}

impl Set {
    fn add(&mut self, member: SetMember) {
        let count = self.members.entry(member).or_default();
        if *count == 0 {
            self.networks += usize::from(member.is_network());
            if self.told.is_some() {
                self.touched.entry(member).or_insert(false);
            }
        }
        *count += 1;
    }

    fn remove(&mut self, member: SetMember) {
        if let Some(count) = self.members.get_mut(&member) {
            *count -= 1;
            if *count == 0 {
                self.members.remove(&member);
                self.networks -= usize::from(member.is_network());
                if self.told.is_some() {
                    self.touched.entry(member).or_insert(true);
                }
            }
        }
    }

    fn kind(&self) -> SetKind {
        match (self.spec.has_ports(), self.networks) {
            (true, _) => SetKind::IpPort,
            (false, 0) => SetKind::Host,
            (false, _) => SetKind::Net,
        }
    }

    fn change(&mut self) -> Option<SetChange> {
        let touched = std::mem::take(&mut self.touched);
        let kind = self.kind();
        if self.told.replace(kind) != Some(kind) {
            let members = self.members.keys().copied().collect();
            return Some(SetChange::Create { kind, members });
        }
        let mut added = BTreeSet::new();
        let mut removed = BTreeSet::new();
        for (member, was) in touched {
            match (was, self.members.contains_key(&member)) {
                (false, true) => added.insert(member),
                (true, false) => removed.insert(member),
                _ => continue,
            };
        }
        (!added.is_empty() || !removed.is_empty()).then_some(SetChange::Update { added, removed })
    }
}

/// All sets in use, over the index of everything that can be a member.
#[derive(Debug, Default)]
pub(super) struct Sets {
    sets: BTreeMap<SetId, Set>,
    by_query: BTreeMap<QueryIx, BTreeSet<SetId>>,
    queries: BTreeMap<Arc<Selector>, QueryIx>,
    next_query: QueryIx,
    dirty: BTreeSet<SetId>,
    sources: Sources,
    /// Sets of nodes in use.
    of_nodes: BTreeSet<SetId>,
}

impl Sets {
    pub(super) fn pack(&mut self) {
        self.sets.values_mut().for_each(|set| pack::map(&mut set.members));
    }

    /// A rule list refers to a set; pair each with [`Sets::release`].
    pub(super) fn acquire(
        &mut self,
        id: &SetId,
        spec: &Arc<SetSpec>,
        index: &mut Index,
        contributions: &BTreeMap<ItemIx, Contribution>,
    ) {
        self.dirty.insert(id.clone());
        if let Some(set) = self.sets.get_mut(id) {
            set.users += 1;
            return;
        }
        let query = spec.selector().map(|selector| match self.queries.get(selector) {
            Some(query) => *query,
            None => {
                let query = self.next_query;
                self.next_query += 1;
                let selector = Arc::new(selector.clone());
                index.add_query(query, Arc::clone(&selector));
                self.queries.insert(selector, query);
                query
            }
        });
        let mut set = Set {
            spec: Arc::clone(spec),
            query,
            users: 1,
            members: BTreeMap::new(),
            networks: 0,
            told: None,
            touched: BTreeMap::new(),
        };
        if let Some(query) = query {
            self.by_query.entry(query).or_default().insert(id.clone());
            for contribution in index.matched(query).filter_map(|item| contributions.get(&item)) {
                for member in spec.members(contribution) {
                    set.add(member);
                }
            }
        }
        self.sources.members(spec).into_iter().for_each(|member| set.add(member));
        if matches!(**spec, SetSpec::Nodes(_)) {
            self.of_nodes.insert(id.clone());
        }
        self.sets.insert(id.clone(), set);
    }

    /// An EndpointSlice as it is now; `None`: it is gone, or has no Service.
    pub(super) fn put_slice(&mut self, namespace: &str, name: &str, new: Option<Slice>) {
        let (namespace, name) = (namespace.into(), name.into());
        let old = self.sources.put_slice(&namespace, &name, new.clone());
        if old == new {
            return;
        }
        for ports in [true, false] {
            // First the new ones: a member in both keeps its place.
            for (slice, act) in [(&new, Set::add as fn(&mut Set, SetMember)), (&old, Set::remove)] {
                let Some(slice) = slice else { continue };
                let (namespace, name) = (Arc::clone(&namespace), Arc::clone(&slice.service));
                let id = SetSpec::Service { namespace, name, ports }.id();
                if let Some(set) = self.sets.get_mut(&id) {
                    slice.members(ports).into_iter().for_each(|member| act(set, member));
                    self.dirty.insert(id);
                }
            }
        }
    }

    /// A Node as it is now; `None`: it is gone.
    pub(super) fn put_node(&mut self, name: &str, new: Option<NodeFacts>) {
        let old = self.sources.put_node(name, new);
        for id in &self.of_nodes {
            let Some(set) = self.sets.get_mut(id) else { continue };
            let members =
                |node: Option<&NodeFacts>| node.map(|node| node.members(&set.spec)).unwrap_or_default();
            let (new, old) = (members(self.sources.node(name)), members(old.as_ref()));
            new.into_iter().for_each(|member| set.add(member));
            old.into_iter().for_each(|member| set.remove(member));
            self.dirty.insert(id.clone());
        }
    }

    /// A rule list no longer refers to a set. It goes at the next flush, unless somebody acquires it first.
    pub(super) fn release(&mut self, id: &SetId) {
        if let Some(set) = self.sets.get_mut(id) {
            set.users = set.users.saturating_sub(1);
            self.dirty.insert(id.clone());
        }
    }

    /// Selectors began or ceased to match an item with this contribution.
    pub(super) fn flipped(&mut self, flips: &[Flip], contribution: &Contribution) {
        for flip in flips {
            self.each_of_query(flip.query, |set| {
                for member in set.spec.members(contribution) {
                    if flip.matches { set.add(member) } else { set.remove(member) }
                }
            });
        }
    }

    /// The contribution of an item that `queries` match changed.
    pub(super) fn contributed(
        &mut self,
        queries: impl Iterator<Item = QueryIx>,
        old: &Contribution,
        new: &Contribution,
    ) {
        for query in queries {
            self.each_of_query(query, |set| {
                // First the new ones: a member in both keeps its place.
                for member in set.spec.members(new) {
                    set.add(member);
                }
                for member in set.spec.members(old) {
                    set.remove(member);
                }
            });
        }
    }

    /// The sets that a selector fills.
    pub(super) fn of_query(&self, query: QueryIx) -> impl Iterator<Item = &SetId> {
        self.by_query.get(&query).into_iter().flatten()
    }

    fn each_of_query(&mut self, query: QueryIx, mut act: impl FnMut(&mut Set)) {
        for id in self.by_query.get(&query).into_iter().flatten() {
            if let Some(set) = self.sets.get_mut(id) {
                act(set);
                self.dirty.insert(id.clone());
            }
        }
    }

    /// Writes what changed since the last flush.
    pub(super) fn flush(&mut self, index: &mut Index, delta: &mut Delta) {
        for id in std::mem::take(&mut self.dirty) {
            let Some(set) = self.sets.get_mut(&id) else { continue };
            if set.users > 0 {
                let new = set.told.is_none();
                if let Some(change) = set.change() {
                    if new {
                        delta.set_names.insert(id.clone(), set.spec.words().into());
                    }
                    delta.sets.insert(id, change);
                }
                continue;
            }
            let Some(set) = self.sets.remove(&id) else { continue };
            self.of_nodes.remove(&id);
            if let Some(query) = set.query
                && let Some(ids) = self.by_query.get_mut(&query)
            {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_query.remove(&query);
                    index.remove_query(query);
                    if let Some(selector) = set.spec.selector() {
                        self.queries.remove(selector);
                    }
                }
            }
            if set.told.is_some() {
                delta.sets.insert(id, SetChange::Delete);
            }
        }
    }
}
