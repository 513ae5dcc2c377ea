//! Waiting longer and longer, and not in step with others.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
/// Longest wait between two attempts: how long a datastore may be back before it is noticed.
const LONGEST: Duration = Duration::from_secs(10);

/// Exponential backoff from 100 ms to 10 s.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// How long to wait now.
    pub(crate) fn step(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(LONGEST);
        jitter(now)
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }
}

/// A random time between half of `longest` and all of it.
pub(crate) fn jitter(longest: Duration) -> Duration {
    // The standard library's only source of randomness: the keys of a hasher.
    let random =
        u32::from_ne_bytes(RandomState::new().hash_one(0).to_ne_bytes()[..4].try_into().unwrap_or_default());
    longest / 2 + (longest / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_start_over() {
        let mut backoff = Backoff::new();
        let mut expected = FIRST;
        for _ in 0..12 {
            let wait = backoff.step();
            assert!(wait >= expected / 2 && wait <= expected, "{wait:?} of {expected:?}");
            expected = (expected * 2).min(LONGEST);
        }
        assert_eq!(expected, LONGEST);
        backoff.reset();
        assert!(backoff.step() <= FIRST);
        let different: std::collections::BTreeSet<_> = (0..20).map(|_| jitter(LONGEST)).collect();
        assert!(different.len() > 10);
    }
}
