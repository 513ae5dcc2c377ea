//! What a change of the enforced state means for the kernel.

use std::collections::{BTreeMap, BTreeSet};

use super::language::{Member, SetType, TableId};
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

/// What a change of the state means for the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Sets to change.
    pub sets: BTreeMap<SetKey, SetUpdate>,
    /// Tables of which a chain or a base rule changed.
    pub tables: BTreeSet<TableId>,
}
