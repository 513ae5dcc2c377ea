use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::ValueError;

/// Longest port name Calico takes (`numorstring.Port`).
pub const MAX_PORT_NAME: usize = 128;

/// A port in a rule: a number, an inclusive range `"min:max"`, or the name of a container's or host endpoint's port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// One port.
    Number(u16),
    /// From the first to the second, both included; first <= second.
    Range(u16, u16),
    /// `^[a-zA-Z0-9_.-]{1,128}$`, not all digits.
    Named(String),
}

impl Port {
    /// First and last port of a number or range; `None` for a name.
    #[must_use]
    pub fn bounds(&self) -> Option<(u16, u16)> {
        match self {
            Self::Number(port) => Some((*port, *port)),
            Self::Range(min, max) => Some((*min, *max)),
            Self::Named(_) => None,
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(port) => port.fmt(f),
            Self::Range(min, max) => write!(f, "{min}:{max}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl FromStr for Port {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let number = |text: &str| -> Result<u16, ValueError> {
            text.parse().map_err(|_cause| {
                ValueError::new("a port is a number from 0 to 65535, \"min:max\", or a name")
            })
        };
        if let Some((min, max)) = text.split_once(':') {
            let (min, max) = (number(min)?, number(max)?);
            if min > max {
                return Err(ValueError::new("a port range must begin with the smaller port"));
            }
            return Ok(if min == max { Self::Number(min) } else { Self::Range(min, max) });
        }
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return number(text).map(Self::Number);
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if text.is_empty() || text.len() > MAX_PORT_NAME || !text.bytes().all(allowed) {
            return Err(ValueError::new("a port name has 1 to 128 letters, digits, '_', '.' or '-'"));
        }
        Ok(Self::Named(text.to_owned()))
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(port) => serializer.serialize_u16(*port),
            Self::Range(..) | Self::Named(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PortVisitor;
        impl de::Visitor<'_> for PortVisitor {
            type Value = Port;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port: a number from 0 to 65535, \"min:max\", or a name")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Port, E> {
                u16::try_from(value)
                    .map(Port::Number)
                    .map_err(|_cause| E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Port, E> {
                u16::try_from(value)
                    .map(Port::Number)
                    .map_err(|_cause| E::invalid_value(de::Unexpected::Signed(value), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Port, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(PortVisitor)
    }
}
