use std::{fmt, str::FromStr};

use super::serde_as_string;
use crate::error::ValueError;

/// A BGP community literal: `aa:nn` (RFC 1997) or `aa:nn:mm` (large, RFC 8092).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Community {
    /// Two 16-bit parts.
    Standard(u16, u16),
    /// Three 32-bit parts.
    Large(u32, u32, u32),
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(a, n) => write!(f, "{a}:{n}"),
            Self::Large(a, n, m) => write!(f, "{a}:{n}:{m}"),
        }
    }
}

impl FromStr for Community {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || {
            ValueError::new(
                "not a community: use aa:nn (each up to 65535) or aa:nn:mm (each up to 4294967295)",
            )
        };
        let parts: Vec<&str> = text.split(':').collect();
        // Only digits: Rust's integer parser would also take a leading plus sign.
        if parts.iter().any(|p| p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit())) {
            return Err(wrong());
        }
        match parts.as_slice() {
            [a, n] => {
                Ok(Self::Standard(a.parse().map_err(|_cause| wrong())?, n.parse().map_err(|_cause| wrong())?))
            }
            [a, n, m] => Ok(Self::Large(
                a.parse().map_err(|_cause| wrong())?,
                n.parse().map_err(|_cause| wrong())?,
                m.parse().map_err(|_cause| wrong())?,
            )),
            _ => Err(wrong()),
        }
    }
}
serde_as_string!(Community, "a community such as 64512:120");

/// A community in `prefixAdvertisements`: a literal, or the name of one defined in `communities`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommunityRef {
    /// A literal value.
    Value(Community),
    /// A name to look up in `BGPConfiguration.spec.communities`.
    Name(String),
}

impl fmt::Display for CommunityRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => value.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for CommunityRef {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.contains(':') {
            return text.parse().map(Self::Value);
        }
        Ok(Self::Name(text.to_owned()))
    }
}
serde_as_string!(CommunityRef, "a community such as 64512:120 or the name of one");
