//! The plugin's configuration as it arrives on standard input.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::delegate::Delegate;
use crate::environment::{Verb, parse_ip};
use crate::error::{CniError, code};
use crate::result::CniResult;
use crate::version::Version;

/// Where releases wait for an agent that is down, unless `spool_dir` says otherwise.
pub const SPOOL_DIR: &str = "/var/lib/margay/cni/spool";

/// Key of the attachments that still exist, and the one of the specification's first draft.
const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";
const ATTACHMENTS: &str = "cni.dev/attachments";

/// A validated configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `cniVersion`.
    pub version: Version,
    /// `name` of the network.
    pub network: String,
    /// `socket`: where the agent listens, [`margay_control::AGENT_SOCKET`] by default.
    pub socket: PathBuf,
    /// `spool_dir`: where releases wait for the agent, [`SPOOL_DIR`] by default.
    pub spool_dir: PathBuf,
    /// `timeout_seconds`: how long the agent may take to answer, 1 to 600, 60 by default.
    pub timeout: Duration,
    /// `ipam.ipv4_pools` and `ipam.ipv6_pools`: names or CIDRs of IPPools to take from; empty: any.
    pub pools: Vec<String>,
    /// Another plugin assigns the addresses (`ipam.type`).
    pub ipam: Option<Delegate>,
    /// `feature_control.ip_addrs_no_ipam`: an annotation may name addresses that no IPAM gave.
    pub may_bypass_ipam: bool,
    /// Labels of `args.cni.labels`.
    pub labels: BTreeMap<String, String>,
    /// Addresses asked for by `runtimeConfig.ips` or `args.cni.ips`.
    pub ips: Vec<IpAddr>,
    /// `runtimeConfig.mac`.
    pub mac: Option<String>,
    /// DNS settings to hand on in the result: `runtimeConfig.dns`, else `dns`.
    pub dns: Dns,
    /// `prevResult`: for ADD, of a plugin before this one in the list.
    pub previous: Option<CniResult>,
    /// The same as it arrived, to be handed on.
    pub previous_json: Value,
    /// Attachments that still exist, for GC: (containerID, ifname).
    pub valid_attachments: Option<Vec<(String, String)>>,
}

/// DNS settings of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The keys we know. Ours, the specification's, and what runtimes are known to leave in; any other is a mistake
/// someone should hear about.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "some keys are listed only so that they aren't refused as unknown")]
struct Raw {
    cni_version: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "socket")]
    socket: Option<PathBuf>,
    #[serde(rename = "spool_dir")]
    spool_dir: Option<PathBuf>,
    #[serde(rename = "timeout_seconds")]
    timeout_seconds: Option<u64>,
    ipam: Option<RawIpam>,
    #[serde(default)]
    ip_masq: bool,
    dns: Option<Dns>,
    args: Option<Value>,
    runtime_config: Option<Map<String, Value>>,
    #[serde(rename = "feature_control", default)]
    features: RawFeatures,
    prev_result: Option<Value>,
    // VALID_ATTACHMENTS and ATTACHMENTS
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<RawAttachment>>,
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<RawAttachment>>,
    capabilities: Option<IgnoredAny>,
    cni_versions: Option<IgnoredAny>,
    disable_check: Option<IgnoredAny>,
    #[serde(rename = "disableGC")]
    disable_gc: Option<IgnoredAny>,
}

/// What has to be allowed first, by Calico's names.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFeatures {
    #[serde(default)]
    ip_addrs_no_ipam: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIpam {
    #[serde(rename = "type")]
    #[allow(dead_code, reason = "one of another type is removed before")]
    kind: Option<String>,
    #[serde(default)]
    ipv4_pools: Vec<String>,
    #[serde(default)]
    ipv6_pools: Vec<String>,
}

#[derive(Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID", alias = "containerId")]
    container_id: String,
    ifname: String,
}

/// The `cniVersion` of a configuration that may otherwise be wrong, so that errors can be answered in it.
pub fn peek_version(text: &[u8]) -> Version {
    peek(text, "cniVersion").and_then(|text| Version::parse(Some(&text)).ok()).unwrap_or(Version::NEWEST)
}

/// The agent's socket of a configuration that may otherwise be wrong, so that errors can be told there.
pub fn peek_socket(text: &[u8]) -> PathBuf {
    peek(text, "socket").map_or_else(|| margay_control::AGENT_SOCKET.into(), PathBuf::from)
}

fn peek(text: &[u8], key: &str) -> Option<String> {
    let value: Value = serde_json::from_slice(text).ok()?;
    Some(value.get(key)?.as_str()?.to_owned())
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Code 6 when it is no JSON, 1 for an unsupported version, 2 for a setting this plugin can't honour, 7 for a wrong
    /// or unknown key, named. What only ADD and CHECK read (addresses asked for, `prevResult`) may be unreadable for other verbs:
    /// a container that was made by whomever must be able to go.
    pub fn parse(verb: Verb, text: &[u8]) -> Result<Self, CniError> {
        let value: Value = serde_json::from_slice(text).map_err(|e| {
            CniError::new(code::DECODE, "the network configuration is not JSON").with_details(e)
        })?;
        let version = match value.get("cniVersion") {
            Some(Value::String(version)) => Version::parse(Some(version))?,
            Some(other) => return Err(wrong(format!("cniVersion is {other}: must be a string"))),
            None => Version::parse(None)?,
        };
        let ipam = Delegate::of(&value)?;
        let mut value = value;
        if let Some(object) = value.as_object_mut() {
            if ipam.is_some() {
                // What is in it then is the other plugin's business.
                object.remove("ipam");
            }
            // Go writes an empty list so.
            for key in [VALID_ATTACHMENTS, ATTACHMENTS] {
                if let Some(list) = object.get_mut(key).filter(|list| list.is_null()) {
                    *list = Value::Array(Vec::new());
                }
            }
        }
        let raw: Raw = serde_json::from_value(value).map_err(|e| {
            wrong("the network configuration is wrong: correct the conflist".to_owned()).with_details(e)
        })?;
        Self::validate(verb, version, raw, ipam)
    }

    fn validate(verb: Verb, version: Version, raw: Raw, ipam: Option<Delegate>) -> Result<Self, CniError> {
        if raw.ip_masq {
            return Err(CniError::new(
                code::UNSUPPORTED_FIELD,
                "ipMasq is not supported: remove it from the conflist and set natOutgoing on the IPPool",
            ));
        }
        if raw.name.is_empty() {
            return Err(wrong("name is missing: give the network a name".to_owned()));
        }
        let timeout = raw.timeout_seconds.unwrap_or(60);
        if !(1..=600).contains(&timeout) {
            return Err(wrong(format!("timeout_seconds is {timeout}: must be 1 to 600")));
        }
        let mut pools = Vec::new();
        if let Some(own) = raw.ipam {
            pools.extend(own.ipv4_pools);
            pools.extend(own.ipv6_pools);
        }
        let runtime = raw.runtime_config.unwrap_or_default();
        let args = raw.args.as_ref().and_then(|args| args.get("cni"));
        let attaches = matches!(verb, Verb::Add | Verb::Check);
        let ips = match insensitive(&runtime, "ips").or_else(|| args?.get("ips")) {
            Some(value) if attaches => read_ips(value)?,
            _ => Vec::new(),
        };
        let mac = match insensitive(&runtime, "mac").and_then(Value::as_str).filter(|_| attaches) {
            Some(mac) if mac.parse::<margay_netlink::Mac>().is_err() => {
                return Err(wrong(format!("runtimeConfig.mac is {mac:?}: must be an Ethernet address")));
            }
            mac => mac.map(str::to_owned),
        };
        let dns = insensitive(&runtime, "dns")
            .and_then(Value::as_object)
            .map(runtime_dns)
            .filter(|d| !d.is_empty());
        let previous_json = raw.prev_result.unwrap_or_default();
        let previous = match Some(&previous_json).filter(|json| !json.is_null()).map(CniResult::from_json) {
            Some(Err(_)) if !attaches => None,
            previous => previous.transpose()?,
        };
        let attachments = raw.valid_attachments.or(raw.attachments);
        Ok(Self {
            version,
            network: raw.name,
            socket: raw.socket.unwrap_or_else(|| margay_control::AGENT_SOCKET.into()),
            spool_dir: raw.spool_dir.unwrap_or_else(|| SPOOL_DIR.into()),
            timeout: Duration::from_secs(timeout),
            pools,
            ipam,
            may_bypass_ipam: raw.features.ip_addrs_no_ipam,
            labels: args.and_then(|args| args.get("labels")).map(read_labels).unwrap_or_default(),
            ips,
            mac,
            dns: dns.or(raw.dns).unwrap_or_default(),
            previous,
            previous_json,
            valid_attachments: attachments
                .map(|all| all.into_iter().map(|a| (a.container_id, a.ifname)).collect()),
        })
    }
}

/// go-cni writes `runtimeConfig` keys in Go's case, cri-o and podman in camelCase; Go plugins accept any.
fn insensitive<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(key))
        .map(|(_, value)| value)
        .filter(|v| !v.is_null())
}

fn read_ips(value: &Value) -> Result<Vec<IpAddr>, CniError> {
    let bad = || wrong(format!("ips is {value}: must be a list of addresses as text"));
    let list = value.as_array().ok_or_else(bad)?;
    list.iter().map(|ip| ip.as_str().and_then(parse_ip).ok_or_else(bad)).collect()
}

/// Labels come as a list of key and value (CONVENTIONS.md) or, from some runtimes, as an object.
fn read_labels(value: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match value {
        Value::Array(list) => list
            .iter()
            .filter_map(|label| Some((text(label.get("key")?)?, text(label.get("value")?)?)))
            .collect(),
        Value::Object(map) => {
            map.iter().filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
        }
        _ => BTreeMap::new(),
    }
}

fn runtime_dns(map: &Map<String, Value>) -> Dns {
    let list = |key| {
        let values = insensitive(map, key).and_then(Value::as_array);
        values.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    Dns {
        nameservers: list("servers"),
        domain: String::new(),
        search: list("searches"),
        options: list("options"),
    }
}

fn wrong(message: String) -> CniError {
    CniError::new(code::INVALID_CONFIG, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> CniError {
        Config::parse(Verb::Add, text.as_bytes()).unwrap_err()
    }

    #[test]
    fn the_example_is_valid() {
        let list: Value =
            serde_json::from_str(include_str!("../../examples/cni/10-margay.conflist")).unwrap();
        let mut plugin = list["plugins"][0].clone();
        plugin["cniVersion"] = list["cniVersion"].clone();
        plugin["name"] = list["name"].clone();
        let config = Config::parse(Verb::Add, plugin.to_string().as_bytes()).unwrap();
        assert_eq!(config.network, "margay");
    }

    #[test]
    fn defaults() {
        let config =
            Config::parse(Verb::Add, br#"{"cniVersion":"1.1.0","name":"pods","type":"margay-cni"}"#).unwrap();
        assert_eq!(config.version, Version::V1_1_0);
        assert_eq!(config.socket, PathBuf::from("/run/margay/agent.sock"));
        assert_eq!(config.spool_dir, PathBuf::from(SPOOL_DIR));
        assert_eq!(config.timeout, Duration::from_secs(60));
        assert!(config.dns.is_empty() && config.previous.is_none() && config.pools.is_empty());
    }

    #[test]
    fn our_keys_and_everything_runtimes_add() {
        let text = r#"{"cniVersion":"1.0.0","name":"pods","type":"margay-cni","socket":"/s","spool_dir":"/p","timeout_seconds":5,
            "ipam":{"type":"margay","ipv4_pools":["a"],"ipv6_pools":["b"]},"dns":{"nameservers":["10.0.0.1"]},"ipMasq":false,
            "capabilities":{"ips":true},"feature_control":{"ip_addrs_no_ipam":true},"disableCheck":true,"args":{"cni":{"labels":[{"key":"app","value":"web"}],"ips":["10.0.0.7"]}},
            "runtimeConfig":{"PortMappings":[{"HostPort":1}],"Mac":"02:00:00:00:00:01","IPs":["10.0.0.8/24"],"DNS":{"Servers":["1.1.1.1"],"Searches":["x"],"Options":["y"]}},
            "cni.dev/attachments":[{"containerID":"c","ifname":"eth0"}]}"#;
        let config = Config::parse(Verb::Add, text.as_bytes()).unwrap();
        assert_eq!((config.socket.to_str(), config.spool_dir.to_str()), (Some("/s"), Some("/p")));
        assert_eq!(config.pools, ["a", "b"]);
        assert!(config.may_bypass_ipam);
        assert_eq!(config.labels.get("app").map(String::as_str), Some("web"));
        assert_eq!(config.ips, ["10.0.0.8".parse::<IpAddr>().unwrap()]);
        assert_eq!(config.mac.as_deref(), Some("02:00:00:00:00:01"));
        assert_eq!(config.dns.nameservers, ["1.1.1.1"]);
        assert_eq!(config.dns.search, ["x"]);
        assert_eq!(config.valid_attachments, Some(vec![("c".to_owned(), "eth0".to_owned())]));
    }

    #[test]
    fn mistakes_have_their_codes_and_name_the_key() {
        for (text, code, word) in [
            ("{", 6, "JSON"),
            (r#"{"cniVersion":"9.0.0"}"#, 1, "9.0.0"),
            (r#"{"cniVersion":1}"#, 7, "cniVersion"),
            (r#"{"cniVersion":"1.0.0"}"#, 7, "name"),
            (r#"{"name":"x","sokcet":"/s"}"#, 7, "sokcet"),
            (r#"{"name":"x","socket":5}"#, 7, "string"),
            (r#"{"name":"x","feature_control":{"floating_ips":true}}"#, 7, "floating_ips"),
            (r#"{"name":"x","timeout_seconds":0}"#, 7, "timeout_seconds"),
            (r#"{"name":"x","ipMasq":true}"#, 2, "natOutgoing"),
            (r#"{"name":"x","ipam":{"type":"../host-local"}}"#, 7, "ipam.type"),
            (r#"{"name":"x","ipam":{"subnet":"10.0.0.0/8"}}"#, 7, "subnet"),
            (r#"{"name":"x","runtimeConfig":{"mac":"zz"}}"#, 7, "mac"),
            (r#"{"name":"x","runtimeConfig":{"ips":["zz"]}}"#, 7, "ips"),
        ] {
            let found = error(text);
            assert_eq!(found.code, code, "{text}: {found}");
            assert!(found.to_string().contains(word), "{text}: {found}");
        }
    }

    #[test]
    fn what_a_verb_does_not_read_may_be_wrong() {
        let text = br#"{"cniVersion":"1.1.0","name":"pods","runtimeConfig":{"mac":"zz","ips":["zz"]},
            "prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1/24","interface":7}]}}"#;
        for verb in [Verb::Del, Verb::Gc, Verb::Status] {
            let config = Config::parse(verb, text).unwrap();
            assert!(config.previous.is_none() && config.mac.is_none() && config.ips.is_empty());
        }
        for verb in [Verb::Add, Verb::Check] {
            assert_eq!(Config::parse(verb, text).unwrap_err().code, code::INVALID_CONFIG);
        }
    }

    /// A Go slice that is nil: nothing is valid any more, as after a reboot.
    #[test]
    fn no_attachments_are_an_empty_list() {
        for key in [VALID_ATTACHMENTS, ATTACHMENTS] {
            let text = format!(r#"{{"cniVersion":"1.1.0","name":"pods","{key}":null}}"#);
            assert_eq!(Config::parse(Verb::Gc, text.as_bytes()).unwrap().valid_attachments, Some(vec![]));
        }
        let absent = Config::parse(Verb::Gc, br#"{"cniVersion":"1.1.0","name":"pods"}"#).unwrap();
        assert_eq!(absent.valid_attachments, None);
    }

    #[test]
    fn a_missing_version_means_the_oldest() {
        assert_eq!(Config::parse(Verb::Add, br#"{"name":"x"}"#).unwrap().version, Version::V0_1_0);
        assert_eq!(peek_version(br#"{"cniVersion":"0.4.0","junk":1}"#), Version::V0_4_0);
        assert_eq!(peek_version(b"junk"), Version::NEWEST);
    }
}
