//! What `nft --json --numeric list table` says of our table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::apply::Count;
use crate::render::hash::{COMMENT_PREFIX, RuleHash};
use crate::rules::names::CHAIN_PREFIX;
use crate::rules::{ChainName, Family, Member, SetType, Table};

/// A chain in the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ListedChain {
    /// Type, hook, priority; absent for a chain that only jumps lead to.
    pub(super) base: Option<(String, String, i64)>,
    /// The hash of each rule, `None` for one that is not ours.
    pub(super) rules: Vec<Option<RuleHash>>,
    /// What each rule has matched.
    pub(super) counts: Vec<Count>,
}

/// A set or map in the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListedSet {
    /// `None`: not a type of ours.
    pub(super) kind: Option<SetType>,
    /// `None`: it holds something we would not have written.
    pub(super) members: Option<BTreeSet<Member>>,
}

/// Our table of one family.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) chains: BTreeMap<String, ListedChain>,
    pub(super) sets: BTreeMap<String, ListedSet>,
}

/// Reads the listing; what means nothing to us is skipped.
pub(super) fn parse(family: Family, text: &str) -> Result<Listing, serde_json::Error> {
    let document: Value = serde_json::from_str(text)?;
    let mut listing = Listing::default();
    let objects = document.get("nftables").and_then(Value::as_array);
    for object in objects.into_iter().flatten() {
        if let Some(chain) = object.get("chain") {
            listing.chains.entry(text_of(chain, "name")).or_default().base = base(chain);
        } else if let Some(rule) = object.get("rule") {
            let chain = listing.chains.entry(text_of(rule, "chain")).or_default();
            let comment = rule.get("comment").and_then(Value::as_str);
            let hash =
                comment.and_then(|comment| comment.strip_prefix(COMMENT_PREFIX)).and_then(RuleHash::parse);
            chain.rules.push(hash);
            chain.counts.push(count(rule));
        } else if let Some(set) = object.get("set").or_else(|| object.get("map")) {
            let kind = kind(family, set, object.get("map").is_some());
            let elements = set.get("elem").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let members =
                kind.and_then(|kind| elements.iter().map(|element| member(kind, element)).collect());
            listing.sets.insert(text_of(set, "name"), ListedSet { kind, members });
        }
    }
    Ok(listing)
}

fn text_of(object: &Value, key: &str) -> String {
    object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn base(chain: &Value) -> Option<(String, String, i64)> {
    chain.get("hook")?;
    Some((text_of(chain, "type"), text_of(chain, "hook"), chain.get("prio").and_then(Value::as_i64)?))
}

fn count(rule: &Value) -> Count {
    let statements = rule.get("expr").and_then(Value::as_array);
    let counter = statements.into_iter().flatten().find_map(|statement| statement.get("counter"));
    let number = |key| counter.and_then(|counter| counter.get(key)).and_then(Value::as_u64).unwrap_or(0);
    Count { packets: number("packets"), bytes: number("bytes") }
}

fn kind(family: Family, set: &Value, is_map: bool) -> Option<SetType> {
    let address = match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    };
    let types: Vec<&str> = match set.get("type")? {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    let is_interval = match set.get("flags") {
        Some(Value::String(flag)) => flag == "interval",
        Some(Value::Array(flags)) => flags.iter().any(|flag| flag == "interval"),
        _ => false,
    };
    let (first, rest) = types.split_first()?;
    if *first != address || is_map && text_of(set, "map") != "verdict" {
        return None;
    }
    match (rest, is_map, is_interval) {
        ([], false, true) => Some(SetType::Net),
        ([], false, false) => Some(SetType::Host),
        (["inet_proto", "inet_service"], false, false) => Some(SetType::IpPort),
        (["ifname"], false, true) => Some(SetType::NetIface),
        (["ifname"], false, false) => Some(SetType::HostIface),
        (["ifname"], true, true) => Some(SetType::Dispatch),
        (["ifname"], true, false) => Some(SetType::HostDispatch),
        _ => None,
    }
}

fn member(kind: SetType, element: &Value) -> Option<Member> {
    match kind {
        SetType::Net | SetType::Host => Some(Member::Net(net(element)?)),
        SetType::IpPort => match parts(element)? {
            [address, protocol, port] => Some(Member::IpPort(
                address.as_str()?.parse().ok()?,
                protocol.as_u64()?.try_into().ok()?,
                port.as_u64()?.try_into().ok()?,
            )),
            _ => None,
        },
        SetType::NetIface | SetType::HostIface => match parts(element)? {
            [address, interface] => Some(Member::NetIface(net(address)?, interface.as_str()?.into())),
            _ => None,
        },
        SetType::Dispatch | SetType::HostDispatch => {
            let [key, verdict] = element.as_array()?.as_slice() else { return None };
            let [address, interface] = parts(key)? else { return None };
            let chain = verdict.get("goto")?.get("target")?.as_str()?;
            let name = chain.strip_prefix(Table::Filter.name())?.strip_prefix('-')?;
            let name = ChainName(format!("{CHAIN_PREFIX}{name}").into());
            Some(Member::Dispatch(net(address)?, interface.as_str()?.into(), name))
        }
    }
}

fn parts(element: &Value) -> Option<&[Value]> {
    element.get("concat")?.as_array().map(Vec::as_slice)
}

fn net(value: &Value) -> Option<IpNet> {
    if let Some(address) = value.as_str() {
        return Some(IpNet::from(address.parse::<IpAddr>().ok()?));
    }
    let prefix = value.get("prefix")?;
    let address: IpAddr = prefix.get("addr")?.as_str()?.parse().ok()?;
    IpNet::new(address, prefix.get("len")?.as_u64()?.try_into().ok()?).ok()
}
