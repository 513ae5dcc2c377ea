//! Reading addresses and networks: functions for `#[serde(deserialize_with = ...)]`.
//!
//! [`parse_net`] is how rules write networks (a bare address is one host, host bits are cleared);
//! [`parse_cidr`] keeps host bits, because an IPPool's validation must see them.

use std::{fmt, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, de};

use crate::error::ValueError;

/// `a.b.c.d/n` or `v6/n`, host bits kept.
///
/// # Errors
/// When the text isn't an address with a prefix length in range.
pub fn parse_cidr(text: &str) -> Result<IpNet, ValueError> {
    text.parse().map_err(|_cause| {
        if text.parse::<IpAddr>().is_ok() {
            ValueError::new("the prefix length is missing: write address/length, for example 10.1.0.0/16")
        } else {
            ValueError::new("not a network: use address/length, for example 10.1.0.0/16 or fd00::/48")
        }
    })
}

/// A network as rules write it: host bits are cleared, a bare address becomes /32 or /128.
///
/// # Errors
/// When the text is neither an address nor a network.
pub fn parse_net(text: &str) -> Result<IpNet, ValueError> {
    parse_address(text).map(|net| net.trunc())
}

/// An interface address: `address/length` with host bits kept, or a bare address (/32, /128).
///
/// # Errors
/// When the text is neither an address nor a network.
pub fn parse_address(text: &str) -> Result<IpNet, ValueError> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(IpNet::from(address)),
        Err(_) => text.parse().map_err(|_cause| {
            ValueError::new("not an address or network: use for example 10.1.2.3, 10.1.0.0/16 or fd00::/48")
        }),
    }
}

fn want_v4(net: IpNet) -> Result<Ipv4Net, ValueError> {
    match net {
        IpNet::V4(net) => Ok(net),
        IpNet::V6(_) => Err(ValueError::new("an IPv4 address is needed here")),
    }
}

fn want_v6(net: IpNet) -> Result<Ipv6Net, ValueError> {
    match net {
        IpNet::V6(net) => Ok(net),
        IpNet::V4(_) => Err(ValueError::new("an IPv6 address is needed here")),
    }
}

/// Serde glue: a string put through one of the parsers above.
trait Rule {
    type Out;
    fn read(text: &str) -> Result<Self::Out, ValueError>;
}

struct Wrapped<R: Rule>(R::Out);

impl<'de, R: Rule> Deserialize<'de> for Wrapped<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<R>(std::marker::PhantomData<R>);
        impl<R: Rule> de::Visitor<'_> for Text<R> {
            type Value = Wrapped<R>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string with an IP address or network")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Wrapped<R>, E> {
                R::read(text).map(Wrapped).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text(std::marker::PhantomData))
    }
}

macro_rules! rules {
    ($($rule:ident -> $out:ty = $read:expr;)*) => { $(
        struct $rule;
        impl Rule for $rule {
            type Out = $out;
            fn read(text: &str) -> Result<$out, ValueError> { ($read)(text) }
        }
    )* };
}
rules! {
    Cidr -> IpNet = parse_cidr;
    Net -> IpNet = parse_net;
    Address -> IpNet = parse_address;
    AddressV4 -> Ipv4Net = |text| parse_address(text).and_then(want_v4);
    AddressV6 -> Ipv6Net = |text| parse_address(text).and_then(want_v6);
}

fn list<'de, R: Rule, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<R::Out>, D::Error> {
    Ok(Vec::<Wrapped<R>>::deserialize(deserializer)?.into_iter().map(|w| w.0).collect())
}

fn optional<'de, R: Rule, D: Deserializer<'de>>(deserializer: D) -> Result<Option<R::Out>, D::Error> {
    Ok(Option::<Wrapped<R>>::deserialize(deserializer)?.map(|w| w.0))
}

pub(crate) fn cidr<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    Wrapped::<Cidr>::deserialize(deserializer).map(|w| w.0)
}

pub(crate) fn cidr_opt<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpNet>, D::Error> {
    optional::<Cidr, D>(deserializer)
}

pub(crate) fn net<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    Wrapped::<Net>::deserialize(deserializer).map(|w| w.0)
}

pub(crate) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    Wrapped::<Address>::deserialize(deserializer).map(|w| w.0)
}

pub(crate) fn nets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    list::<Net, D>(deserializer)
}

pub(crate) fn nets_opt<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<IpNet>>, D::Error> {
    list::<Net, D>(deserializer).map(Some)
}

pub(crate) fn address_v4<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ipv4Net>, D::Error> {
    optional::<AddressV4, D>(deserializer)
}

pub(crate) fn address_v6<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ipv6Net>, D::Error> {
    optional::<AddressV6, D>(deserializer)
}
