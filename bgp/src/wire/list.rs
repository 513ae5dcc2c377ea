//! Immutable shared sequences: the lists inside attributes. An empty one owns nothing and a clone is one counter.

use std::{fmt, ops::Deref, sync::Arc};

use serde::{Serialize, Serializer};

/// An immutable sequence with cheap clone. Order is significant.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct List<T>(Option<Arc<[T]>>);

impl<T> List<T> {
    /// The empty list; allocates nothing.
    pub const EMPTY: Self = Self(None);

    /// The elements in order.
    pub fn as_slice(&self) -> &[T] {
        self.0.as_deref().unwrap_or(&[])
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T: Clone> From<&[T]> for List<T> {
    fn from(items: &[T]) -> Self {
        if items.is_empty() { Self(None) } else { Self(Some(Arc::from(items))) }
    }
}

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        if items.is_empty() { Self(None) } else { Self(Some(Arc::from(items))) }
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let items: Arc<[T]> = items.into_iter().collect();
        if items.is_empty() { Self(None) } else { Self(Some(items)) }
    }
}

impl<'a, T> IntoIterator for &'a List<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.as_slice().iter()
    }
}

impl<T: fmt::Debug> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

impl<T: Serialize> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.as_slice())
    }
}

/// An immutable set kept sorted and without duplicates, so that two equal sets are equal bytes. Cheap clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SortedSet<T>(List<T>);

impl<T: Ord + Clone> SortedSet<T> {
    /// The empty set; allocates nothing.
    pub const EMPTY: Self = Self(List::EMPTY);

    /// Whether `item` is in the set.
    pub fn has(&self, item: &T) -> bool {
        self.binary_search(item).is_ok()
    }

    /// The set with `item` added; the same set when it is there already.
    #[must_use]
    pub fn with(&self, item: T) -> Self {
        match self.binary_search(&item) {
            Ok(_) => self.clone(),
            Err(at) => {
                let mut items = self.to_vec();
                items.insert(at, item);
                Self(items.into())
            }
        }
    }

    /// The set with only the elements for which `keep` holds.
    #[must_use]
    pub fn filtered(&self, mut keep: impl FnMut(&T) -> bool) -> Self {
        if self.iter().all(&mut keep) {
            return self.clone();
        }
        Self(self.iter().filter(|item| keep(item)).cloned().collect())
    }
}

impl<T> Default for SortedSet<T> {
    fn default() -> Self {
        Self(List::EMPTY)
    }
}

impl<T> Deref for SortedSet<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_slice()
    }
}

impl<T: Ord> From<Vec<T>> for SortedSet<T> {
    fn from(mut items: Vec<T>) -> Self {
        items.sort_unstable();
        items.dedup();
        Self(items.into())
    }
}

impl<T: Ord + Clone> FromIterator<T> for SortedSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        // Most senders sort: then the one allocation that the set keeps is the only one.
        let list: List<T> = items.into_iter().collect();
        if list.is_sorted_by(|a, b| a < b) { Self(list) } else { list.to_vec().into() }
    }
}

impl<'a, T> IntoIterator for &'a SortedSet<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: fmt::Debug> fmt::Debug for SortedSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Serialize> Serialize for SortedSet<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}
