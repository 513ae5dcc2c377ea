//! Value types of the resources' fields: what Calico's YAML writes as strings and int-or-strings, typed.

mod asn;
mod community;
mod duration;
mod interface_pattern;
mod mac;
pub mod net;
mod peer_address;
mod port;
mod protocol;
pub(crate) mod string_enum;
#[cfg(test)]
mod tests;
mod wireguard_key;

pub use asn::AsNumber;
pub use community::{Community, CommunityRef};
pub use duration::GoDuration;
pub use interface_pattern::interface_matches;
pub use mac::MacAddr;
pub use peer_address::PeerAddress;
pub use port::{MAX_PORT_NAME, Port};
pub use protocol::Protocol;
pub use wireguard_key::WireguardKey;

/// Serde through `Display` and `FromStr`, for types written as one string.
macro_rules! serde_as_string {
    ($name:ty, $expecting:literal) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}
pub(crate) use serde_as_string;

/// For `skip_serializing_if`: Calico leaves false flags out.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Writes whole numbers without a fraction (`order: 100`, not `100.0`), as Go does.
#[allow(clippy::cast_possible_truncation, reason = "only taken for integral values below 2^53")]
pub(crate) fn serialize_order<S: serde::Serializer>(
    order: &Option<f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match order {
        None => serializer.serialize_none(),
        Some(value) if value.fract() == 0.0 && value.abs() < EXACT => serializer.serialize_i64(*value as i64),
        Some(value) => serializer.serialize_f64(*value),
    }
}
