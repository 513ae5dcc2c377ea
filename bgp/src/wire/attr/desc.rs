//! The attribute table: one row per attribute. It drives the decoder, the encoder's flags and the RFC 7606 tests.

use super::AttributeCode;
use crate::wire::{FaultAction, PeerKind};

/// Attribute flag: optional (not well-known).
pub const OPTIONAL: u8 = 0x80;
/// Attribute flag: transitive.
pub const TRANSITIVE: u8 = 0x40;
/// Attribute flag: passed on by a speaker that did not know it.
pub const PARTIAL: u8 = 0x20;
/// Attribute flag: the length has two octets.
pub const EXTENDED_LENGTH: u8 = 0x10;

const WELL_KNOWN: u8 = TRANSITIVE;
const OPTIONAL_TRANSITIVE: u8 = OPTIONAL | TRANSITIVE;
const OPTIONAL_NON_TRANSITIVE: u8 = OPTIONAL;

/// Which lengths an attribute's value can have, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Least.
    pub min: usize,
    /// Most.
    pub max: usize,
    /// A length is a multiple of this.
    pub multiple: usize,
}

impl Lengths {
    const fn exactly(len: usize) -> Self {
        Self { min: len, max: len, multiple: 1 }
    }

    const fn multiples(multiple: usize) -> Self {
        Self { min: multiple, max: u16::MAX as usize, multiple }
    }

    const fn at_least(min: usize) -> Self {
        Self { min, max: u16::MAX as usize, multiple: 1 }
    }

    /// Whether a value of `len` octets is possible.
    pub fn allow(&self, len: usize) -> bool {
        (self.min..=self.max).contains(&len) && len.is_multiple_of(self.multiple)
    }
}

/// What to do with an attribute by kind of peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByPeer<T> {
    /// From a peer in the own AS.
    pub internal: T,
    /// From a peer in another AS.
    pub external: T,
}

impl<T: Copy> ByPeer<T> {
    const fn both(value: T) -> Self {
        Self { internal: value, external: value }
    }

    /// The value for one kind.
    pub fn get(&self, peer: PeerKind) -> T {
        match peer {
            PeerKind::Internal => self.internal,
            PeerKind::External => self.external,
        }
    }
}

/// One attribute.
#[derive(Clone, Copy, Debug)]
pub struct AttributeDesc {
    /// Type code.
    pub code: AttributeCode,
    /// Name in the RFC.
    pub name: &'static str,
    /// Optional and Transitive bits that it must have.
    pub flags: u8,
    /// Lengths of the value on a session with four-octet AS numbers.
    pub lengths: Lengths,
    /// Lengths on a session without, where they differ.
    pub lengths_two_octet_as: Option<Lengths>,
    /// Whether the attribute may come from such a peer; otherwise it is discarded unread.
    pub allowed: ByPeer<bool>,
    /// What follows from a bad length or value.
    pub malformed: FaultAction,
    /// What follows from bad Optional or Transitive bits.
    pub bad_flags: FaultAction,
    /// What follows from a second occurrence.
    pub duplicate: FaultAction,
    /// What follows when an UPDATE announces prefixes without it; NEXT_HOP is needed by classic IPv4 prefixes only.
    pub missing: Option<FaultAction>,
    /// Where the actions are defined.
    pub section: &'static str,
}

impl AttributeDesc {
    /// Lengths of the value on a session with or without four-octet AS numbers.
    pub fn lengths(&self, four_octet_as: bool) -> Lengths {
        match self.lengths_two_octet_as {
            Some(lengths) if !four_octet_as => lengths,
            _ => self.lengths,
        }
    }
}

const fn row(code: AttributeCode, name: &'static str, flags: u8, lengths: Lengths) -> AttributeDesc {
    AttributeDesc {
        code,
        name,
        flags,
        lengths,
        lengths_two_octet_as: None,
        allowed: ByPeer::both(true),
        malformed: FaultAction::TreatAsWithdraw,
        bad_flags: FaultAction::TreatAsWithdraw,
        duplicate: FaultAction::Discard,
        missing: None,
        section: "",
    }
}

/// Only within one AS: a peer of another AS may not send it.
const INTERNAL_ONLY: ByPeer<bool> = ByPeer { internal: true, external: false };

/// Every attribute that is understood, by ascending code.
pub const ATTRIBUTES: [AttributeDesc; 16] = [
    AttributeDesc {
        missing: Some(FaultAction::TreatAsWithdraw),
        section: "RFC 7606 7.1",
        ..row(AttributeCode::ORIGIN, "ORIGIN", WELL_KNOWN, Lengths::exactly(1))
    },
    AttributeDesc {
        missing: Some(FaultAction::TreatAsWithdraw),
        section: "RFC 7606 7.2",
        ..row(AttributeCode::AS_PATH, "AS_PATH", WELL_KNOWN, Lengths::at_least(0))
    },
    AttributeDesc {
        missing: Some(FaultAction::TreatAsWithdraw),
        section: "RFC 7606 7.3",
        ..row(AttributeCode::NEXT_HOP, "NEXT_HOP", WELL_KNOWN, Lengths::exactly(4))
    },
    AttributeDesc {
        section: "RFC 7606 7.4",
        ..row(AttributeCode::MULTI_EXIT_DISC, "MULTI_EXIT_DISC", OPTIONAL_NON_TRANSITIVE, Lengths::exactly(4))
    },
    AttributeDesc {
        allowed: INTERNAL_ONLY,
        section: "RFC 7606 7.5",
        ..row(AttributeCode::LOCAL_PREF, "LOCAL_PREF", WELL_KNOWN, Lengths::exactly(4))
    },
    AttributeDesc {
        malformed: FaultAction::Discard,
        bad_flags: FaultAction::Discard,
        section: "RFC 7606 7.6, 3(f)",
        ..row(AttributeCode::ATOMIC_AGGREGATE, "ATOMIC_AGGREGATE", WELL_KNOWN, Lengths::exactly(0))
    },
    AttributeDesc {
        lengths_two_octet_as: Some(Lengths::exactly(6)),
        malformed: FaultAction::Discard,
        bad_flags: FaultAction::Discard,
        section: "RFC 7606 7.7, 3(f)",
        ..row(AttributeCode::AGGREGATOR, "AGGREGATOR", OPTIONAL_TRANSITIVE, Lengths::exactly(8))
    },
    AttributeDesc {
        section: "RFC 7606 7.8",
        ..row(AttributeCode::COMMUNITIES, "COMMUNITIES", OPTIONAL_TRANSITIVE, Lengths::multiples(4))
    },
    AttributeDesc {
        allowed: INTERNAL_ONLY,
        section: "RFC 7606 7.9",
        ..row(AttributeCode::ORIGINATOR_ID, "ORIGINATOR_ID", OPTIONAL_NON_TRANSITIVE, Lengths::exactly(4))
    },
    AttributeDesc {
        allowed: INTERNAL_ONLY,
        section: "RFC 7606 7.10",
        ..row(AttributeCode::CLUSTER_LIST, "CLUSTER_LIST", OPTIONAL_NON_TRANSITIVE, Lengths::multiples(4))
    },
    AttributeDesc {
        malformed: FaultAction::SessionReset,
        duplicate: FaultAction::SessionReset,
        section: "RFC 7606 7.11, 3(g)",
        ..row(AttributeCode::MP_REACH_NLRI, "MP_REACH_NLRI", OPTIONAL_NON_TRANSITIVE, Lengths::at_least(5))
    },
    AttributeDesc {
        malformed: FaultAction::SessionReset,
        duplicate: FaultAction::SessionReset,
        section: "RFC 7606 7.12, 3(g)",
        ..row(
            AttributeCode::MP_UNREACH_NLRI,
            "MP_UNREACH_NLRI",
            OPTIONAL_NON_TRANSITIVE,
            Lengths::at_least(3),
        )
    },
    AttributeDesc {
        section: "RFC 7606 7.14",
        ..row(
            AttributeCode::EXTENDED_COMMUNITIES,
            "EXTENDED_COMMUNITIES",
            OPTIONAL_TRANSITIVE,
            Lengths::multiples(8),
        )
    },
    AttributeDesc {
        malformed: FaultAction::Discard,
        bad_flags: FaultAction::Discard,
        section: "RFC 6793 6",
        ..row(
            AttributeCode::AS4_PATH,
            "AS4_PATH",
            OPTIONAL_TRANSITIVE,
            Lengths { min: 6, max: 65535, multiple: 2 },
        )
    },
    AttributeDesc {
        malformed: FaultAction::Discard,
        bad_flags: FaultAction::Discard,
        section: "RFC 6793 6",
        ..row(AttributeCode::AS4_AGGREGATOR, "AS4_AGGREGATOR", OPTIONAL_TRANSITIVE, Lengths::exactly(8))
    },
    AttributeDesc {
        section: "RFC 8092 6",
        ..row(
            AttributeCode::LARGE_COMMUNITIES,
            "LARGE_COMMUNITIES",
            OPTIONAL_TRANSITIVE,
            Lengths::multiples(12),
        )
    },
];

/// Codes below this have an entry in [`ROWS`]; no attribute that is understood has a higher one.
const CODES: usize = 33;
/// No row.
const NONE: u8 = u8::MAX;

/// The row of each code. The codec looks up every attribute of every message.
const ROWS: [u8; CODES] = {
    let mut rows = [NONE; CODES];
    let mut row = 0_u8;
    while (row as usize) < ATTRIBUTES.len() {
        rows[ATTRIBUTES[row as usize].code.0 as usize] = row;
        row += 1;
    }
    rows
};

/// The row of an attribute, none for one that is not understood.
pub fn find(code: AttributeCode) -> Option<&'static AttributeDesc> {
    static TABLE: [AttributeDesc; 16] = ATTRIBUTES;
    TABLE.get(usize::from(*ROWS.get(usize::from(code.0))?))
}
