//! Maps and sets made anew with full nodes: what was put in one by one, in order, has left every node half empty.

use std::collections::{BTreeMap, BTreeSet};

pub(super) fn map<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    *map = std::mem::take(map).into_iter().collect();
}

pub(super) fn set<T: Ord>(set: &mut BTreeSet<T>) {
    *set = std::mem::take(set).into_iter().collect();
}
