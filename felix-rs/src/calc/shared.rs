//! Values that many endpoints have in common, kept once: labels, profiles, names of nodes and namespaces.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::pack;

/// Never looks for unused values while there are fewer.
const FEW: usize = 1024;

/// A pool of shared values. One that nobody has any more goes when the pool has doubled since it was last looked through.
#[derive(Debug)]
pub(super) struct Shared<T: ?Sized + Ord> {
    values: BTreeSet<Arc<T>>,
    look_at: usize,
}

impl<T: ?Sized + Ord> Default for Shared<T> {
    fn default() -> Self {
        Self { values: BTreeSet::new(), look_at: FEW }
    }
}

impl<T: ?Sized + Ord> Shared<T> {
    pub(super) fn pack(&mut self) {
        pack::set(&mut self.values);
    }

    /// The pool's value that is equal to this one.
    pub(super) fn share(&mut self, value: impl Into<Arc<T>>) -> Arc<T> {
        let value = value.into();
        if let Some(known) = self.values.get(&value) {
            return Arc::clone(known);
        }
        if self.values.len() >= self.look_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.look_at = FEW.max(2 * self.values.len());
        }
        self.values.insert(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_unused_ones_go() {
        let mut pool = Shared::<str>::default();
        let kept = pool.share("kept");
        for number in 0..10 * FEW {
            pool.share(number.to_string());
        }
        assert!(Arc::ptr_eq(&kept, &pool.share("kept")));
        assert!(pool.values.len() <= FEW, "{}", pool.values.len());
    }
}
