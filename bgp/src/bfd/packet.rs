//! The BFD control packet (RFC 5880 section 4.1).

use serde::{Deserialize, Serialize};
use std::fmt;

/// Octets of a packet without authentication.
pub const PACKET_LEN: usize = 24;
/// Octets of the shortest packet with an authentication section.
const AUTHENTICATED_LEN: u8 = 26;
const VERSION: u8 = 1;

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// State of a session (RFC 5880 section 4.1, "Sta").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum State {
    /// Held down by an administrator; no statement about the path.
    AdminDown,
    /// Nothing is heard, or not long enough.
    #[default]
    Down,
    /// The other side is heard, and does not hear us yet as far as we know.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    const ALL: [Self; 4] = [Self::AdminDown, Self::Down, Self::Init, Self::Up];

    fn code(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdminDown => "admin-down",
            Self::Down => "down",
            Self::Init => "init",
            Self::Up => "up",
        })
    }
}

/// Why a session changed its state last (RFC 5880 section 4.1, "Diag"), 0 to 31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Diagnostic(u8);

impl Diagnostic {
    /// Nothing to say.
    pub const NONE: Self = Self(0);
    /// Nothing was received for the detection time.
    pub const TIME_EXPIRED: Self = Self(1);
    /// The other side says that it is down.
    pub const NEIGHBOR_DOWN: Self = Self(3);
    /// Taken down by an administrator.
    pub const ADMIN_DOWN: Self = Self(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            other => return write!(f, "diagnostic {other}"),
        })
    }
}

/// A control packet. Intervals are microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Sender's state.
    pub state: State,
    /// Why it is in that state.
    pub diagnostic: Diagnostic,
    /// Asks for an answer with `last`.
    pub poll: bool,
    /// Answers a poll ("Final").
    pub last: bool,
    /// The sender's BFD does not share the fate of its control plane ("C").
    pub independent: bool,
    /// An authentication section follows.
    pub authenticated: bool,
    /// The sender wants no periodic packets while the session is up.
    pub demand: bool,
    /// How many of the sender's packets in a row may be missing before it counts as gone; not 0.
    pub multiplier: u8,
    /// Sender's discriminator; not 0.
    pub own: u32,
    /// Receiver's discriminator, as far as the sender knows, else 0.
    pub your: u32,
    /// Shortest interval at which the sender wants to send.
    pub min_tx: u32,
    /// Shortest interval at which it wants to receive; 0 for no periodic packets.
    pub min_rx: u32,
    /// Shortest interval between echo packets it takes; 0 for none.
    pub min_echo_rx: u32,
}

/// Why a packet is discarded, in the order of RFC 5880 section 6.8.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Fewer octets than the shortest packet.
    #[error("{0} octets are no BFD packet: it has at least {PACKET_LEN}")]
    Short(usize),
    /// Not version 1.
    #[error("BFD version {0}, not {VERSION}")]
    Version(u8),
    /// The length field is below the minimum, or beyond the payload.
    #[error("length {length} in a payload of {payload} octets")]
    Length {
        /// As the packet says.
        length: u8,
        /// As it came.
        payload: usize,
    },
    /// Detect Mult is 0.
    #[error("detection multiplier 0")]
    Multiplier,
    /// The multipoint bit is set.
    #[error("multipoint bit set")]
    Multipoint,
    /// My Discriminator is 0.
    #[error("My Discriminator is 0")]
    Discriminator,
    /// Your Discriminator is 0 in a state that needs it.
    #[error("Your Discriminator is 0 in state {0}")]
    Unaddressed(State),
}

impl Packet {
    /// Reads a UDP payload, with all checks of RFC 5880 section 6.8.6 that need no session.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn decode(payload: &[u8]) -> Result<Self, PacketError> {
        let short = PacketError::Short(payload.len());
        let fixed: &[u8; PACKET_LEN] = payload.first_chunk().ok_or(short)?;
        let [first, flags, multiplier, length, fields @ ..] = fixed;
        let mut words = fields.chunks_exact(4).map(|word| word.iter().fold(0, |n, b| n << 8 | u32::from(*b)));
        let mut word = || words.next().unwrap_or_default();
        let packet = Self {
            state: State::ALL[usize::from(flags >> 6)],
            diagnostic: Diagnostic(first & 0x1f),
            poll: flags & POLL != 0,
            last: flags & FINAL != 0,
            independent: flags & INDEPENDENT != 0,
            authenticated: flags & AUTHENTICATED != 0,
            demand: flags & DEMAND != 0,
            multiplier: *multiplier,
            own: word(),
            your: word(),
            min_tx: word(),
            min_rx: word(),
            min_echo_rx: word(),
        };
        let version = first >> 5;
        if version != VERSION {
            return Err(PacketError::Version(version));
        }
        let least = if packet.authenticated { AUTHENTICATED_LEN } else { 24 };
        if *length < least || usize::from(*length) > payload.len() {
            return Err(PacketError::Length { length: *length, payload: payload.len() });
        }
        if packet.multiplier == 0 {
            return Err(PacketError::Multiplier);
        }
        if flags & MULTIPOINT != 0 {
            return Err(PacketError::Multipoint);
        }
        if packet.own == 0 {
            return Err(PacketError::Discriminator);
        }
        if packet.your == 0 && packet.state > State::Down {
            return Err(PacketError::Unaddressed(packet.state));
        }
        Ok(packet)
    }

    /// The packet as octets; without an authentication section, whatever `authenticated` says.
    #[must_use]
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = self.state.code() << 6
            | flag(self.poll, POLL)
            | flag(self.last, FINAL)
            | flag(self.independent, INDEPENDENT)
            | flag(self.demand, DEMAND);
        let mut out = [0; PACKET_LEN];
        let head = [VERSION << 5 | self.diagnostic.0 & 0x1f, flags, self.multiplier, 24];
        let words = [self.own, self.your, self.min_tx, self.min_rx, self.min_echo_rx];
        let octets = head.into_iter().chain(words.into_iter().flat_map(u32::to_be_bytes));
        for (place, octet) in out.iter_mut().zip(octets) {
            *place = octet;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A session that is up, made by hand from RFC 5880, section 4.1.
    const UP: [u8; 24] = [
        0x20, 0xc0, 5, 24, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0, 1, 0x86, 0xa0, 0, 0, 0x27,
        0x10, 0, 0, 0, 0,
    ];

    fn with(at: usize, octet: u8) -> [u8; 24] {
        let mut packet = UP;
        packet[at] = octet;
        packet
    }

    #[test]
    fn a_packet_reads_and_writes() {
        let packet = Packet::decode(&UP).unwrap();
        let expected = Packet {
            state: State::Up,
            diagnostic: Diagnostic::NONE,
            poll: false,
            last: false,
            independent: false,
            authenticated: false,
            demand: false,
            multiplier: 5,
            own: 0x1234_5678,
            your: 0x9abc_def0,
            min_tx: 100_000,
            min_rx: 10_000,
            min_echo_rx: 0,
        };
        assert_eq!(packet, expected);
        assert_eq!(packet.encode(), UP);
    }

    #[test]
    fn each_rule_of_6_8_6_discards() {
        let mut unaddressed = UP;
        unaddressed[8..12].fill(0);
        let mut nobody = UP;
        nobody[4..8].fill(0);
        let cases: [(&[u8], PacketError); 11] = [
            (&UP[..23], PacketError::Short(23)),
            (&[], PacketError::Short(0)),
            (&with(0, 0x40), PacketError::Version(2)),
            (&with(0, 0x00), PacketError::Version(0)),
            (&with(3, 23), PacketError::Length { length: 23, payload: 24 }),
            (&with(3, 25), PacketError::Length { length: 25, payload: 24 }),
            // Authenticated: 26 octets at least.
            (&with(1, 0xc4), PacketError::Length { length: 24, payload: 24 }),
            (&with(2, 0), PacketError::Multiplier),
            (&with(1, 0xc1), PacketError::Multipoint),
            (&nobody, PacketError::Discriminator),
            (&unaddressed, PacketError::Unaddressed(State::Up)),
        ];
        for (octets, error) in cases {
            assert_eq!(Packet::decode(octets), Err(error), "{octets:x?}");
        }
        // The first rule that fails counts.
        let mut several = with(0, 0x60);
        several[2] = 0;
        several[3] = 0;
        assert_eq!(Packet::decode(&several), Err(PacketError::Version(3)));
    }

    #[test]
    fn what_follows_the_packet_is_of_no_account() {
        let longer = [&UP[..], &[0xff; 9]].concat();
        assert_eq!(Packet::decode(&longer), Packet::decode(&UP));
    }

    proptest! {
        #[test]
        fn whatever_reads_writes_the_same(octets in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(packet) = Packet::decode(&octets) {
                let again = Packet::decode(&packet.encode()).unwrap();
                prop_assert_eq!(again, Packet { authenticated: false, ..packet });
            }
        }
    }
}
