//! What a change of the enforced state means for the kernel.

use std::collections::{BTreeMap, BTreeSet};

use super::language::{ChainName, Member, SetType, TableId};
use super::sets::SetKey;

/// Change of one set of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetUpdate {
    /// The set has exactly these members.
    Whole {
        /// Type.
        kind: SetType,
        /// All members.
        members: BTreeSet<Member>,
    },
    /// Members came and went.
    Change {
        /// To add.
        added: BTreeSet<Member>,
        /// To delete.
        removed: BTreeSet<Member>,
    },
    /// No rule refers to it any more.
    Gone,
}

/// What of a table may differ from what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// Anything.
    All,
    /// These chains, which came, changed or went, and nothing else.
    Chains(BTreeSet<ChainName>),
}

impl Touched {
    /// Adds what another change has touched.
    pub fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Chains(own), Self::Chains(other)) => own.extend(other),
            _ => *self = Self::All,
        }
    }
}

/// What a change of the state means for the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Sets to change.
    pub sets: BTreeMap<SetKey, SetUpdate>,
    /// Tables of which a chain or a base rule changed.
    pub tables: BTreeMap<TableId, Touched>,
}
