//! `listenRanges` of a daemon's configuration: neighbours that no object names.

use std::collections::BTreeSet;

use ipnet::IpNet;
use margay_api::kinds::{BgpPeerSpec, SecretKeyRef, SecretRef};
use margay_api::types::AsNumber;
use margay_api::{BgpPeer, Metadata};
use margay_bgp::Family;
use serde::Deserialize;

use super::limits;

/// Peers of a range unless it says otherwise.
const PEERS: usize = 10_000;

/// Whoever connects from a prefix is a peer until it is gone, as if a BGPPeer named it. Nodes, and whom a BGPPeer names, are
/// of no range; of several ranges the longest prefix counts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Keys")]
pub struct ListenRange {
    /// From here.
    pub(super) prefix: IpNet,
    /// Those of the cluster's AS are clients of a reflector (RFC 4456).
    pub(super) client: bool,
    /// Address families offered.
    pub(super) families: Vec<Family>,
    /// Prefixes accepted of each peer, per family.
    pub(super) max_prefixes: u32,
    /// Peers at the same time.
    pub(super) max_peers: usize,
    /// What BGPPeers have too; its name is the prefix.
    pub(super) peer: BgpPeer,
}

/// A range as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Keys {
    prefix: IpNet,
    as_number: Option<AsNumber>,
    client: Option<bool>,
    password: Option<SecretKeyRef>,
    families: Option<Vec<Family>>,
    #[serde(default)]
    filters: Vec<String>,
    ttl_security: Option<u8>,
    max_prefixes: Option<u32>,
    max_peers: Option<usize>,
}

impl TryFrom<Keys> for ListenRange {
    type Error = String;

    fn try_from(keys: Keys) -> Result<Self, String> {
        let prefix = keys.prefix;
        let wrong = |what: &str| Err(format!("listen range {prefix}: {what}"));
        if prefix != prefix.trunc() {
            return wrong(&format!("has bits behind its length: write {}", prefix.trunc()));
        }
        if keys.families.as_ref().is_some_and(Vec::is_empty) {
            return wrong("`families` is empty: leave it out for both");
        }
        if keys.password.as_ref().is_some_and(|key| key.name.is_empty() || key.key.is_empty()) {
            return wrong("`password` needs `name` and `key`: the file NAME/KEY in secretsDir");
        }
        for (key, zero) in [
            ("maxPrefixes", keys.max_prefixes == Some(0)),
            ("maxPeers", keys.max_peers == Some(0)),
            ("ttlSecurity", keys.ttl_security == Some(0)),
        ] {
            if zero {
                return wrong(&format!("`{key}` must be at least 1"));
            }
        }
        let spec = BgpPeerSpec {
            as_number: keys.as_number,
            password: keys.password.map(|key| SecretRef { secret_key_ref: Some(key) }),
            filters: keys.filters,
            ttl_security: keys.ttl_security,
            ..BgpPeerSpec::default()
        };
        Ok(Self {
            prefix,
            client: keys.client.unwrap_or(true),
            families: keys.families.unwrap_or_else(|| Family::ALL.to_vec()),
            max_prefixes: keys.max_prefixes.unwrap_or(limits::WORKLOAD),
            max_peers: keys.max_peers.unwrap_or(PEERS),
            peer: BgpPeer::new(Metadata::named(prefix.to_string()), spec),
        })
    }
}

/// Ranges as a configuration has them: no prefix twice.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Vec<ListenRange>")]
pub struct ListenRanges(pub Vec<ListenRange>);

impl TryFrom<Vec<ListenRange>> for ListenRanges {
    type Error = String;

    fn try_from(ranges: Vec<ListenRange>) -> Result<Self, String> {
        let mut seen = BTreeSet::new();
        match ranges.iter().find(|range| !seen.insert(range.prefix)) {
            Some(range) => Err(format!("listen range {} is there twice", range.prefix)),
            None => Ok(Self(ranges)),
        }
    }
}
