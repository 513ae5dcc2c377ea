//! Desired against actual: the one loop behind every writer to the kernel.
//!
//! A [`Tracker`] holds what should be there and what is there, and knows at any time the difference, at a cost that
//! depends on what changed and not on what exists. It performs nothing: the caller writes a [`Change`] to the kernel and
//! reports back with [`Tracker::succeeded`] or [`Tracker::failed`].
//!
//! Nothing is offered before both sides are known ([`Tracker::learn_all`] and [`Tracker::desired_complete`]): a half-read
//! datastore must not delete routes, and an unread kernel must not be written over.

use std::collections::{BTreeMap, BTreeSet};

/// One difference between desired and actual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a, K, V> {
    /// Wanted and absent.
    Add {
        /// What is missing.
        key: &'a K,
        /// How it should be.
        value: &'a V,
    },
    /// Present and different.
    Update {
        /// What differs.
        key: &'a K,
        /// How it is.
        from: &'a V,
        /// How it should be.
        to: &'a V,
    },
    /// Present and no longer wanted.
    Delete {
        /// What has to go.
        key: &'a K,
        /// How it is.
        value: &'a V,
    },
}

impl<'a, K, V> Change<'a, K, V> {
    /// The key this change is about.
    pub fn key(&self) -> &'a K {
        match self {
            Self::Add { key, .. } | Self::Update { key, .. } | Self::Delete { key, .. } => key,
        }
    }
}

/// The generic delta tracker. Keys come out in their order, always: equal states give equal change lists.
///
/// Equality of `V` decides what is right, so a caller normalises what it reads back to what it would have written.
#[derive(Debug, Clone)]
pub struct Tracker<K, V> {
    /// Both sides in one map, so that a key is searched for once.
    sides: BTreeMap<K, Sides<V>>,
    /// How many have an actual side.
    present: usize,
    /// Exactly the keys whose sides differ.
    pending: BTreeSet<K>,
    failures: BTreeMap<K, u32>,
    learned: bool,
    complete: bool,
}

/// What is wanted of a key and what is there: one of them at least.
#[derive(Debug, Clone)]
struct Sides<V> {
    desired: Option<V>,
    actual: Option<V>,
}

impl<V: PartialEq> Sides<V> {
    const NEITHER: Self = Self { desired: None, actual: None };

    fn differ(&self) -> bool {
        self.desired != self.actual
    }
}

impl<K, V> Default for Tracker<K, V> {
    fn default() -> Self {
        Self {
            sides: BTreeMap::new(),
            present: 0,
            pending: BTreeSet::new(),
            failures: BTreeMap::new(),
            learned: false,
            complete: false,
        }
    }
}

impl<K: Ord + Clone, V: PartialEq> Tracker<K, V> {
    /// An empty tracker that knows neither side yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wants `key` to be `value`.
    pub fn set(&mut self, key: K, value: V) {
        let sides = self.sides.entry(key.clone()).or_insert(Sides::NEITHER);
        if sides.desired.as_ref() == Some(&value) {
            return;
        }
        let differed = sides.differ();
        sides.desired = Some(value);
        let differs = sides.differ();
        // A new wish deserves a fresh start for its retry count.
        self.failures.remove(&key);
        self.note(&key, differed, differs);
    }

    /// Wants `key` gone (if it is ours and there). Returns what was wanted before.
    pub fn unset(&mut self, key: &K) -> Option<V> {
        let mut old = None;
        self.change(key, |sides| old = sides.desired.take());
        if old.is_some() {
            self.failures.remove(key);
        }
        old
    }

    /// Replaces everything wanted, and declares it complete.
    pub fn replace_desired(&mut self, wanted: impl IntoIterator<Item = (K, V)>) {
        let mut wanted: BTreeMap<K, V> = wanted.into_iter().collect();
        let unwanted = |key: &&K| !wanted.contains_key(*key);
        let gone: Vec<K> = self.all_wanted().map(|(key, _)| key).filter(unwanted).cloned().collect();
        for key in gone {
            self.unset(&key);
        }
        while let Some((key, value)) = wanted.pop_first() {
            self.set(key, value);
        }
        self.complete = true;
    }

    /// Declares the desired side complete: the datastore is in sync, so what isn't wanted may be swept.
    pub fn desired_complete(&mut self) {
        self.complete = true;
    }

    /// Replaces everything known about the kernel by a fresh read-back. Right entries are adopted without a change.
    pub fn learn_all(&mut self, found: impl IntoIterator<Item = (K, V)>) {
        self.sides.values_mut().for_each(|sides| sides.actual = None);
        for (key, value) in found {
            self.sides.entry(key).or_insert(Sides::NEITHER).actual = Some(value);
        }
        self.sides.retain(|_, sides| sides.desired.is_some() || sides.actual.is_some());
        self.present = self.all_present().count();
        self.learned = true;
        let differing = self.sides.iter().filter(|(_, sides)| sides.differ());
        self.pending = differing.map(|(key, _)| key.clone()).collect();
        self.failures.retain(|k, _| self.pending.contains(k));
    }

    /// Takes note of one entry seen in the kernel (a notification, or a write by somebody else).
    pub fn learn(&mut self, key: K, value: V) {
        self.sides.entry(key.clone()).or_insert(Sides::NEITHER);
        self.change(&key, |sides| sides.actual = Some(value));
    }

    /// Takes note that an entry is no longer in the kernel.
    pub fn forget(&mut self, key: &K) {
        self.change(key, |sides| sides.actual = None);
    }

    /// True once both sides are known and changes are offered.
    pub fn is_ready(&self) -> bool {
        self.learned && self.complete
    }

    /// True when ready and without a difference.
    pub fn is_in_sync(&self) -> bool {
        self.is_ready() && self.pending.is_empty()
    }

    /// How many keys differ (counted also before [`is_ready`](Self::is_ready)).
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Everything to do, in key order; empty until [`is_ready`](Self::is_ready).
    pub fn changes(&self) -> impl Iterator<Item = Change<'_, K, V>> {
        let offered = if self.is_ready() { Some(&self.pending) } else { None };
        offered.into_iter().flatten().filter_map(|key| self.difference(key))
    }

    /// What is to be done about one key, whether it is offered yet or not.
    pub fn difference(&self, key: &K) -> Option<Change<'_, K, V>> {
        let (key, sides) = self.sides.get_key_value(key)?;
        match (&sides.desired, &sides.actual) {
            (Some(to), Some(from)) => (to != from).then_some(Change::Update { key, from, to }),
            (Some(value), None) => Some(Change::Add { key, value }),
            (None, Some(value)) => Some(Change::Delete { key, value }),
            (None, None) => None,
        }
    }

    /// The additions and updates among [`changes`](Self::changes).
    pub fn upserts(&self) -> impl Iterator<Item = (&K, &V)> {
        self.changes().filter_map(|change| match change {
            Change::Add { key, value } | Change::Update { key, to: value, .. } => Some((key, value)),
            Change::Delete { .. } => None,
        })
    }

    /// The deletions among [`changes`](Self::changes).
    pub fn deletes(&self) -> impl Iterator<Item = (&K, &V)> {
        self.changes().filter_map(|change| match change {
            Change::Delete { key, value } => Some((key, value)),
            Change::Add { .. } | Change::Update { .. } => None,
        })
    }

    /// The kernel now has what is wanted for `key` (present as desired, or gone).
    pub fn succeeded(&mut self, key: &K)
    where
        V: Clone,
    {
        self.change(key, |sides| sides.actual.clone_from(&sides.desired));
        self.failures.remove(key);
    }

    /// Writing `key` failed: it stays pending. Returns how often it failed in a row.
    pub fn failed(&mut self, key: &K) -> u32 {
        let count = self.failures.entry(key.clone()).or_insert(0);
        *count = count.saturating_add(1);
        *count
    }

    /// How often writing `key` failed since it last succeeded or the wish changed.
    pub fn failures(&self, key: &K) -> u32 {
        self.failures.get(key).copied().unwrap_or(0)
    }

    /// Keys whose last write failed, with their counts, in key order.
    pub fn failing(&self) -> impl Iterator<Item = (&K, u32)> {
        self.failures.iter().map(|(key, count)| (key, *count))
    }

    /// Performs every change with `write` and records each outcome; returns the errors in key order.
    pub fn apply<E>(&mut self, mut write: impl FnMut(Change<'_, K, V>) -> Result<(), E>) -> Vec<(K, E)>
    where
        V: Clone,
    {
        let outcomes: Vec<(K, Result<(), E>)> =
            self.changes().map(|change| (change.key().clone(), write(change))).collect();
        let mut errors = Vec::new();
        for (key, outcome) in outcomes {
            match outcome {
                Ok(()) => self.succeeded(&key),
                Err(error) => {
                    self.failed(&key);
                    errors.push((key, error));
                }
            }
        }
        errors
    }

    /// What is wanted of a key.
    pub fn wanted(&self, key: &K) -> Option<&V> {
        self.sides.get(key)?.desired.as_ref()
    }

    /// What is known to be there of a key.
    pub fn present(&self, key: &K) -> Option<&V> {
        self.sides.get(key)?.actual.as_ref()
    }

    /// Everything wanted, in key order.
    pub fn all_wanted(&self) -> impl Iterator<Item = (&K, &V)> {
        self.sides.iter().filter_map(|(key, sides)| Some((key, sides.desired.as_ref()?)))
    }

    /// Everything known to be there, in key order.
    pub fn all_present(&self) -> impl Iterator<Item = (&K, &V)> {
        self.sides.iter().filter_map(|(key, sides)| Some((key, sides.actual.as_ref()?)))
    }

    /// How many keys are known to be there.
    pub const fn present_len(&self) -> usize {
        self.present
    }

    /// Changes the sides of a key, if it has any.
    fn change(&mut self, key: &K, change: impl FnOnce(&mut Sides<V>)) {
        let Some(sides) = self.sides.get_mut(key) else { return };
        let (differed, was_there) = (sides.differ(), sides.actual.is_some());
        change(sides);
        let (differs, is_there) = (sides.differ(), sides.actual.is_some());
        if sides.desired.is_none() && !is_there {
            self.sides.remove(key);
        }
        self.present = self.present + usize::from(is_there) - usize::from(was_there);
        self.note(key, differed, differs);
    }

    /// Keeps what is to be done in step with the sides of a key.
    fn note(&mut self, key: &K, differed: bool, differs: bool) {
        if !differs {
            self.failures.remove(key);
        }
        match (differed, differs) {
            (false, true) => drop(self.pending.insert(key.clone())),
            (true, false) => drop(self.pending.remove(key)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ready() -> Tracker<u8, u8> {
        let mut tracker = Tracker::new();
        tracker.learn_all([]);
        tracker.desired_complete();
        tracker
    }

    #[test]
    fn offers_nothing_before_both_sides_are_known() {
        let mut tracker = Tracker::new();
        tracker.set(1, 1);
        assert_eq!(tracker.changes().count(), 0);
        tracker.learn_all([(2, 2)]);
        assert_eq!(tracker.changes().count(), 0);
        tracker.desired_complete();
        let changes: Vec<_> = tracker.changes().collect();
        assert_eq!(changes, [Change::Add { key: &1, value: &1 }, Change::Delete { key: &2, value: &2 }]);
    }

    #[test]
    fn adopts_what_is_right_and_changes_only_the_difference() {
        let mut tracker = Tracker::new();
        tracker.replace_desired([(1, 10), (2, 20), (3, 30)]);
        tracker.learn_all([(1, 10), (2, 21), (9, 90)]);
        let changes: Vec<_> = tracker.changes().collect();
        assert_eq!(
            changes,
            [
                Change::Update { key: &2, from: &21, to: &20 },
                Change::Add { key: &3, value: &30 },
                Change::Delete { key: &9, value: &90 },
            ]
        );
    }

    #[test]
    fn failure_stays_pending_and_is_counted() {
        let mut tracker = ready();
        tracker.set(1, 1);
        tracker.set(2, 2);
        let errors = tracker.apply(|change| if *change.key() == 1 { Err("no") } else { Ok(()) });
        assert_eq!(errors, [(1, "no")]);
        assert_eq!((tracker.failures(&1), tracker.pending_len()), (1, 1));
        assert!(tracker.apply(|_| Ok::<(), ()>(())).is_empty());
        assert!(tracker.is_in_sync());
        assert_eq!(tracker.failures(&1), 0);
    }

    #[test]
    fn foreign_change_is_repaired() {
        let mut tracker = ready();
        tracker.set(1, 1);
        assert!(tracker.apply(|_| Ok::<(), ()>(())).is_empty());
        tracker.learn(1, 7);
        assert_eq!(tracker.changes().count(), 1);
        tracker.learn(1, 1);
        assert!(tracker.is_in_sync());
        tracker.forget(&1);
        assert_eq!(tracker.changes().collect::<Vec<_>>(), [Change::Add { key: &1, value: &1 }]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(u8, u8),
        Unset(u8),
        Learn(u8, u8),
        Forget(u8),
        LearnAll(Vec<(u8, u8)>),
        Replace(Vec<(u8, u8)>),
        ApplyFailing(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let pair = || (0..6u8, 0..3u8);
        prop_oneof![
            pair().prop_map(|(k, v)| Step::Set(k, v)),
            (0..6u8).prop_map(Step::Unset),
            pair().prop_map(|(k, v)| Step::Learn(k, v)),
            (0..6u8).prop_map(Step::Forget),
            proptest::collection::vec(pair(), 0..5).prop_map(Step::LearnAll),
            proptest::collection::vec(pair(), 0..5).prop_map(Step::Replace),
            (0..6u8).prop_map(Step::ApplyFailing),
        ]
    }

    proptest! {
        /// After any history, the pending set is exactly the difference, and applying it brings both sides together.
        #[test]
        fn pending_is_the_difference(steps in proptest::collection::vec(step(), 0..60)) {
            let mut tracker = ready();
            for step in steps {
                match step {
                    Step::Set(k, v) => tracker.set(k, v),
                    Step::Unset(k) => { tracker.unset(&k); }
                    Step::Learn(k, v) => tracker.learn(k, v),
                    Step::Forget(k) => tracker.forget(&k),
                    Step::LearnAll(all) => tracker.learn_all(all),
                    Step::Replace(all) => tracker.replace_desired(all),
                    Step::ApplyFailing(bad) => {
                        let _errors = tracker.apply(|c| if *c.key() == bad { Err(()) } else { Ok(()) });
                    }
                }
                for key in 0..6u8 {
                    let differs = tracker.wanted(&key) != tracker.present(&key);
                    prop_assert_eq!(differs, tracker.changes().any(|c| *c.key() == key));
                    prop_assert!(differs || tracker.failures(&key) == 0);
                }
                prop_assert_eq!(tracker.present_len(), tracker.all_present().count());
            }
            prop_assert!(tracker.apply(|_| Ok::<(), ()>(())).is_empty());
            prop_assert!(tracker.all_wanted().eq(tracker.all_present()));
            prop_assert!(tracker.is_in_sync());
        }
    }
}
