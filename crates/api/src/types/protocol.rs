use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::ValueError;

/// An IP protocol: one of Calico's names (case-sensitive) or a number from 1 to 255.
///
/// `6` and `TCP` are different values, so that YAML comes back as written; compare [`Self::number`] for meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `TCP`, 6.
    Tcp,
    /// `UDP`, 17.
    Udp,
    /// `ICMP`, 1.
    Icmp,
    /// `ICMPv6`, 58.
    IcmpV6,
    /// `SCTP`, 132.
    Sctp,
    /// `UDPLite`, 136.
    UdpLite,
    /// Given as a number.
    Number(u8),
}

const NAMES: [(&str, Protocol); 6] = [
    ("TCP", Protocol::Tcp),
    ("UDP", Protocol::Udp),
    ("ICMP", Protocol::Icmp),
    ("ICMPv6", Protocol::IcmpV6),
    ("SCTP", Protocol::Sctp),
    ("UDPLite", Protocol::UdpLite),
];

impl Protocol {
    /// The IANA protocol number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::IcmpV6 => 58,
            Self::Sctp => 132,
            Self::UdpLite => 136,
            Self::Number(number) => number,
        }
    }

    /// The named form where there is one: `Number(6)` becomes `Tcp`.
    #[must_use]
    pub fn normalized(self) -> Self {
        NAMES.iter().map(|(_, p)| *p).find(|p| p.number() == self.number()).unwrap_or(self)
    }

    /// Whether rules may match port numbers of it: TCP, UDP, SCTP (Calico's rule).
    #[must_use]
    pub fn has_ports(self) -> bool {
        matches!(self.number(), 6 | 17 | 132)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Number(number) = self {
            return number.fmt(f);
        }
        let name = NAMES.iter().find(|(_, p)| p == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for Protocol {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        if let Some((_, protocol)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*protocol);
        }
        let hint = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        match text.parse() {
            Ok(number @ 1..) => Ok(Self::Number(number)),
            _ => Err(match hint {
                Some((name, _)) => ValueError::new(format!("protocols are case-sensitive: write {name}")),
                None => ValueError::new(
                    "not one of TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255",
                ),
            }),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u8(*number),
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ProtocolVisitor;
        impl de::Visitor<'_> for ProtocolVisitor {
            type Value = Protocol;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Protocol, E> {
                match u8::try_from(value) {
                    Ok(number @ 1..) => Ok(Protocol::Number(number)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)),
                }
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Protocol, E> {
                match u8::try_from(value) {
                    Ok(number @ 1..) => Ok(Protocol::Number(number)),
                    _ => Err(E::invalid_value(de::Unexpected::Signed(value), &self)),
                }
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Protocol, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(ProtocolVisitor)
    }
}
