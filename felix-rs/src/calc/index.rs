//! The label index: which items does which selector match, kept up to date for both sides.
//!
//! Neither side is ever scanned whole if it can be helped: a selector that can only match items with a certain
//! label (its *anchor*) is evaluated against those, and an item only against the selectors
//! anchored at one of its labels, and the few without any anchor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use margay_api::selector::Selector;

use super::anchor::{Anchor, anchors};
use super::facts::Facts;
use super::pack;

/// Number of an item; given by the caller.
pub(super) type ItemIx = u32;
/// Number of a selector; given by the caller.
pub(super) type QueryIx = u32;

/// A selector began or ceased to match an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flip {
    pub(super) query: QueryIx,
    pub(super) item: ItemIx,
    pub(super) matches: bool,
}

#[derive(Debug)]
struct Item {
    facts: Arc<Facts>,
    matched: BTreeSet<QueryIx>,
}

#[derive(Debug)]
struct Query {
    selector: Arc<Selector>,
    anchor: Option<Anchor>,
    matched: BTreeSet<ItemIx>,
}

type Postings = BTreeMap<Arc<str>, BTreeMap<Arc<str>, BTreeSet<u32>>>;

#[derive(Debug, Default)]
pub(super) struct Index {
    items: BTreeMap<ItemIx, Item>,
    queries: BTreeMap<QueryIx, Query>,
    /// Label, value, items with it.
    items_by_label: Postings,
    /// Label, value, selectors anchored there.
    queries_by_value: Postings,
    /// Label, selectors anchored at any value of it.
    queries_by_name: BTreeMap<Arc<str>, BTreeSet<QueryIx>>,
    unanchored: BTreeSet<QueryIx>,
}

fn post(postings: &mut Postings, name: &Arc<str>, value: &Arc<str>, number: u32) {
    postings.entry(Arc::clone(name)).or_default().entry(Arc::clone(value)).or_default().insert(number);
}

fn unpost(postings: &mut Postings, name: &str, value: &str, number: u32) {
    if let Some(values) = postings.get_mut(name) {
        if let Some(numbers) = values.get_mut(value) {
            numbers.remove(&number);
            if numbers.is_empty() {
                values.remove(value);
            }
        }
        if values.is_empty() {
            postings.remove(name);
        }
    }
}

impl Index {
    pub(super) fn pack(&mut self) {
        pack::map(&mut self.items);
        pack::map(&mut self.queries);
        self.queries.values_mut().for_each(|query| pack::set(&mut query.matched));
        self.items_by_label.values_mut().for_each(|values| values.values_mut().for_each(pack::set));
    }

    /// Adds an item or changes its labels.
    pub(super) fn put_item(&mut self, item: ItemIx, facts: Arc<Facts>) -> Vec<Flip> {
        let old = match self.items.remove(&item) {
            Some(old) if old.facts == facts => {
                self.items.insert(item, old);
                return Vec::new();
            }
            Some(old) => {
                self.unpost_item(item, &old.facts);
                old.matched
            }
            None => BTreeSet::new(),
        };
        for (name, value) in facts.pairs() {
            post(&mut self.items_by_label, name, value, item);
        }
        let mut matched = BTreeSet::new();
        for query in self.candidates(&facts) {
            if self.queries.get(&query).is_some_and(|entry| entry.selector.matches(&*facts)) {
                matched.insert(query);
            }
        }
        let mut flips = Vec::new();
        for &query in old.difference(&matched) {
            self.note(&mut flips, query, item, false);
        }
        for &query in matched.difference(&old) {
            self.note(&mut flips, query, item, true);
        }
        self.items.insert(item, Item { facts, matched });
        flips
    }

    /// Removes an item; every selector that matched it flips.
    pub(super) fn remove_item(&mut self, item: ItemIx) -> Vec<Flip> {
        let Some(old) = self.items.remove(&item) else { return Vec::new() };
        self.unpost_item(item, &old.facts);
        let mut flips = Vec::new();
        for query in old.matched {
            self.note(&mut flips, query, item, false);
        }
        flips
    }

    fn note(&mut self, flips: &mut Vec<Flip>, query: QueryIx, item: ItemIx, matches: bool) {
        if let Some(entry) = self.queries.get_mut(&query) {
            if matches {
                entry.matched.insert(item);
            } else {
                entry.matched.remove(&item);
            }
            flips.push(Flip { query, item, matches });
        }
    }

    fn unpost_item(&mut self, item: ItemIx, facts: &Facts) {
        for (name, value) in facts.pairs() {
            unpost(&mut self.items_by_label, name, value, item);
        }
    }

    fn candidates(&self, facts: &Facts) -> BTreeSet<QueryIx> {
        let mut candidates = self.unanchored.clone();
        for (name, value) in facts.pairs() {
            if let Some(queries) = self.queries_by_name.get(name) {
                candidates.extend(queries);
            }
            if let Some(queries) = self.queries_by_value.get(name).and_then(|values| values.get(value)) {
                candidates.extend(queries);
            }
        }
        candidates
    }

    /// Adds a selector under a number that is free; [`Index::matched`] has its items then.
    pub(super) fn add_query(&mut self, query: QueryIx, selector: Arc<Selector>) {
        let anchor = self.best_anchor(&selector);
        match &anchor {
            None => {
                self.unanchored.insert(query);
            }
            Some(Anchor::Name(name)) => {
                self.queries_by_name.entry(Arc::clone(name)).or_default().insert(query);
            }
            Some(Anchor::Values(name, values)) => {
                for value in values {
                    post(&mut self.queries_by_value, name, value, query);
                }
            }
        }
        let candidates: BTreeSet<ItemIx> = match &anchor {
            None => self.items.keys().copied().collect(),
            Some(Anchor::Name(name)) => self
                .items_by_label
                .get(name)
                .into_iter()
                .flat_map(|values| values.values().flatten().copied())
                .collect(),
            Some(Anchor::Values(name, values)) => {
                let by_value = self.items_by_label.get(name);
                let items = |value| by_value.and_then(|by_value| by_value.get(value));
                values.iter().filter_map(items).flatten().copied().collect()
            }
        };
        let mut matched = BTreeSet::new();
        for item in candidates {
            if let Some(entry) = self.items.get_mut(&item)
                && selector.matches(&*entry.facts)
            {
                entry.matched.insert(query);
                matched.insert(item);
            }
        }
        self.queries.insert(query, Query { selector, anchor, matched });
    }

    /// Forgets a selector, silently.
    pub(super) fn remove_query(&mut self, query: QueryIx) {
        let Some(old) = self.queries.remove(&query) else { return };
        for item in old.matched {
            if let Some(entry) = self.items.get_mut(&item) {
                entry.matched.remove(&query);
            }
        }
        match old.anchor {
            None => {
                self.unanchored.remove(&query);
            }
            Some(Anchor::Name(name)) => {
                if let Some(queries) = self.queries_by_name.get_mut(&name) {
                    queries.remove(&query);
                    if queries.is_empty() {
                        self.queries_by_name.remove(&name);
                    }
                }
            }
            Some(Anchor::Values(name, values)) => {
                for value in values {
                    unpost(&mut self.queries_by_value, &name, &value, query);
                }
            }
        }
    }

    /// Items that a selector matches.
    pub(super) fn matched(&self, query: QueryIx) -> impl Iterator<Item = ItemIx> + '_ {
        self.queries.get(&query).into_iter().flat_map(|entry| entry.matched.iter().copied())
    }

    /// Selectors that match an item.
    pub(super) fn queries_of(&self, item: ItemIx) -> impl Iterator<Item = QueryIx> + '_ {
        self.items.get(&item).into_iter().flat_map(|entry| entry.matched.iter().copied())
    }

    /// The anchor with the fewest items now; which one it is matters for speed only.
    fn best_anchor(&self, selector: &Selector) -> Option<Anchor> {
        anchors(selector).into_iter().min_by_key(|anchor| match anchor {
            Anchor::Name(name) => {
                let items = self
                    .items_by_label
                    .get(name)
                    .map_or(0, |values| values.values().map(BTreeSet::len).sum());
                (items, 2)
            }
            Anchor::Values(name, values) => {
                let by_value = self.items_by_label.get(name);
                let count =
                    |value| by_value.and_then(|by_value| by_value.get(value)).map_or(0, BTreeSet::len);
                (values.iter().map(count).sum(), usize::from(&**name == super::facts::ORCHESTRATOR))
            }
        })
    }
}
