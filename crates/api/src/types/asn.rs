use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::ValueError;

/// An autonomous system number (32 bits, RFC 6793). YAML: an integer, or a string in decimal or
/// dotted form (`"64.512"` is 64 * 65536 + 512). Written as an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AsNumber(pub u32);

impl AsNumber {
    /// What nodes use when nothing else is configured (RFC 6996 private use).
    pub const DEFAULT: Self = Self(64512);
}

impl fmt::Display for AsNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for AsNumber {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong =
            || ValueError::new("not an AS number: use 1 to 4294967295 or dotted high.low, each up to 65535");
        if let Some((high, low)) = text.split_once('.') {
            let high: u16 = high.parse().map_err(|_cause| wrong())?;
            let low: u16 = low.parse().map_err(|_cause| wrong())?;
            return Ok(Self(u32::from(high) << 16 | u32::from(low)));
        }
        text.parse().map(Self).map_err(|_cause| wrong())
    }
}

impl Serialize for AsNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for AsNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Asn;
        impl de::Visitor<'_> for Asn {
            type Value = AsNumber;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an AS number (0 to 4294967295, or a dotted string)")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<AsNumber, E> {
                u32::try_from(value)
                    .map(AsNumber)
                    .map_err(|_cause| E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }
            // A dotted number without quotes reads as a float, whose low part has lost trailing zeros.
            fn visit_f64<E: de::Error>(self, _: f64) -> Result<AsNumber, E> {
                Err(E::custom("a dotted AS number must be in quotes"))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<AsNumber, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Asn)
    }
}
