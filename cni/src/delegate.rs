//! Another IPAM plugin (`ipam.type`), executed as the specification says (SPEC.md, section 4).

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::environment::Environment;
use crate::error::{CniError, code};
use crate::result::CniResult;
use crate::version::Version;

/// In place of a network: the node's first range of a family, as Calico's plugin writes it.
const POD_CIDRS: [(&str, bool); 2] = [("usePodCidr", true), ("usePodCidrIPv6", false)];

/// The newest version that plugins of before 2024 know; for addresses the later ones say nothing else.
const SPOKEN: Version = Version::V1_0_0;

/// The plugin, and what is written to it.
#[derive(Debug, Clone)]
pub struct Delegate {
    kind: String,
    config: Value,
}

impl Delegate {
    /// Of a network configuration; none when the agent assigns the addresses.
    ///
    /// # Errors
    /// Code 7 for a type that is no name of a program.
    pub(crate) fn of(config: &Value) -> Result<Option<Self>, CniError> {
        let kind = config.get("ipam").and_then(|ipam| ipam.get("type")).and_then(Value::as_str);
        let Some(kind) = kind.filter(|kind| *kind != "margay") else { return Ok(None) };
        if kind.is_empty() || kind.contains('/') || kind.starts_with('.') {
            let message = format!("ipam.type is {kind:?}: must be the name of a plugin");
            return Err(CniError::new(code::INVALID_CONFIG, message));
        }
        Ok(Some(Self { kind: kind.to_owned(), config: config.clone() }))
    }

    /// The node's own ranges are asked for.
    pub(crate) fn wants_pod_cidrs(&self) -> bool {
        self.with_pod_cidrs(&[]).is_err()
    }

    /// With the node's ranges put in.
    ///
    /// # Errors
    /// Code 7 when the node has none of a family that is asked for.
    pub(crate) fn with_pod_cidrs(&self, cidrs: &[IpNet]) -> Result<Self, CniError> {
        let mut config = self.config.clone();
        each_pod_cidr(&mut config, &mut |ipv4| {
            let family = if ipv4 { "IPv4" } else { "IPv6" };
            let found = cidrs.iter().find(|cidr| cidr.addr().is_ipv4() == ipv4);
            let message = format!(
                "this node's Node object has no {family} range in status.podCIDRs: have it written there, or give \
                 ipam.subnet a network"
            );
            found.copied().ok_or_else(|| CniError::new(code::INVALID_CONFIG, message))
        })?;
        Ok(Self { kind: self.kind.clone(), config })
    }

    /// With the widest ranges put in: enough for what only gives back, and known without the agent.
    pub(crate) fn with_any_cidr(&self) -> Self {
        let any = ["0.0.0.0/0", "::/0"].map(|net| net.parse::<IpNet>());
        let any: Vec<IpNet> = any.into_iter().flatten().collect();
        self.with_pod_cidrs(&any).unwrap_or_else(|_| self.clone())
    }

    /// ADD: addresses, each with the length the plugin gave it.
    pub(crate) fn add(&self, environment: &Environment) -> Result<CniResult, CniError> {
        let answer = self.run("ADD", SPOKEN, environment)?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| {
            CniError::new(code::DECODE, format!("the answer of IPAM plugin {} is not JSON", self.kind))
                .with_details(error)
        })?;
        let given = CniResult::from_json(&answer)?;
        if given.ips.is_empty() {
            let message = format!("IPAM plugin {} gave no address: correct ipam in the conflist", self.kind);
            return Err(CniError::new(code::INVALID_CONFIG, message));
        }
        Ok(given)
    }

    /// DEL and CHECK.
    pub(crate) fn tell(&self, verb: &str, environment: &Environment) -> Result<(), CniError> {
        self.run(verb, SPOKEN, environment).map(|_| ())
    }

    /// GC and STATUS, which older plugins do not know: there is nothing they could be asked then.
    pub(crate) fn ask(&self, verb: &str, environment: &Environment) -> Result<(), CniError> {
        match self.run(verb, Version::V1_1_0, environment) {
            Err(error) if [code::INCOMPATIBLE_VERSION, code::INVALID_ENVIRONMENT].contains(&error.code) => {
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    fn run(&self, verb: &str, newest: Version, environment: &Environment) -> Result<Vec<u8>, CniError> {
        let path = self.find(environment)?;
        let failed = |error: std::io::Error| {
            let message =
                format!("IPAM plugin {} cannot be executed: see that it is a program", path.display());
            CniError::new(code::IO, message).with_details(error)
        };
        let mut config = self.config.clone();
        let version = Version::parse(config.get("cniVersion").and_then(Value::as_str))?.min(newest);
        if let Some(object) = config.as_object_mut() {
            object.insert("cniVersion".to_owned(), version.as_str().into());
        }
        let mut command = Command::new(&path);
        command.env_clear().envs(environment).env("CNI_COMMAND", verb);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut input) = child.stdin.take() {
            // One that ends without reading says why, or with its status.
            let _unread = input.write_all(config.to_string().as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() { Ok(output.stdout) } else { Err(self.refusal(verb, &output.stdout)) }
    }

    /// What a plugin that failed said, and that it was this one.
    fn refusal(&self, verb: &str, stdout: &[u8]) -> CniError {
        #[derive(Deserialize)]
        struct Said {
            code: u32,
            msg: String,
            #[serde(default)]
            details: String,
        }
        let kind = &self.kind;
        match serde_json::from_slice::<Said>(stdout) {
            Ok(said) => {
                let message = format!("IPAM plugin {kind} refused {verb}: {}", said.msg);
                CniError { code: said.code, message, details: said.details }
            }
            Err(_) => {
                let message =
                    format!("IPAM plugin {kind} failed in {verb} and said no reason: see its own log");
                CniError::new(code::IO, message)
            }
        }
    }

    /// In the folders of `CNI_PATH`.
    fn find(&self, environment: &Environment) -> Result<PathBuf, CniError> {
        let folders = environment.get("CNI_PATH").map_or("", String::as_str);
        let mut candidates = std::env::split_paths(folders).map(|folder| folder.join(&self.kind));
        candidates.find(|path| path.is_file()).ok_or_else(|| {
            let message =
                format!("IPAM plugin {} is in no folder of CNI_PATH ({folders}): install it", self.kind);
            CniError::new(code::INVALID_CONFIG, message)
        })
    }
}

/// Puts networks in place of the words for them, in `subnet` itself and in every one of `ranges`. Asked with: is it IPv4?
fn each_pod_cidr(
    config: &mut Value,
    network: &mut impl FnMut(bool) -> Result<IpNet, CniError>,
) -> Result<(), CniError> {
    let Some(ipam) = config.get_mut("ipam").and_then(Value::as_object_mut) else { return Ok(()) };
    let mut subnets: Vec<&mut Value> = Vec::new();
    for (key, value) in ipam {
        match key.as_str() {
            "subnet" => subnets.push(value),
            "ranges" => {
                let sets = value.as_array_mut().into_iter().flatten();
                let ranges = sets.flat_map(|set| set.as_array_mut().into_iter().flatten());
                subnets.extend(ranges.filter_map(|range| range.get_mut("subnet")));
            }
            _ => {}
        }
    }
    for subnet in subnets {
        // Calico's plugin does not mind the case.
        let wanted = subnet.as_str().and_then(|text| {
            POD_CIDRS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, ipv4)| *ipv4)
        });
        if let Some(ipv4) = wanted {
            *subnet = network(ipv4)?.to_string().into();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn delegate(ipam: Value) -> Result<Option<Delegate>, CniError> {
        Delegate::of(&json!({"cniVersion": "1.1.0", "name": "x", "type": "margay-cni", "ipam": ipam}))
    }

    #[test]
    fn only_other_plugins_are_delegates() {
        assert!(delegate(json!({"type": "margay"})).unwrap().is_none());
        assert!(delegate(json!({})).unwrap().is_none());
        assert!(delegate(json!({"type": "host-local"})).unwrap().is_some());
        for kind in ["", "../host-local", "/bin/sh", "."] {
            assert_eq!(delegate(json!({ "type": kind })).unwrap_err().code, 7, "{kind}");
        }
    }

    #[test]
    fn the_nodes_ranges_are_put_in_where_they_are_asked_for() {
        let cidrs = ["10.244.3.0/24", "fd00:3::/64"].map(|net| net.parse::<IpNet>().unwrap());
        let one = delegate(json!({"type": "host-local", "subnet": "usePodCidr"})).unwrap().unwrap();
        assert!(one.wants_pod_cidrs());
        assert_eq!(one.with_pod_cidrs(&cidrs).unwrap().config["ipam"]["subnet"], "10.244.3.0/24");
        let two =
            json!([[{"subnet": "usePodCidr"}], [{"subnet": "usePodCidrIPv6"}], [{"subnet": "10.0.0.0/8"}]]);
        let two = delegate(json!({"type": "host-local", "ranges": two})).unwrap().unwrap();
        let expected = json!([[{"subnet": cidrs[0]}], [{"subnet": cidrs[1]}], [{"subnet": "10.0.0.0/8"}]]);
        assert_eq!(two.with_pod_cidrs(&cidrs).unwrap().config["ipam"]["ranges"], expected);
        let error = two.with_pod_cidrs(&cidrs[..1]).unwrap_err();
        assert!(error.code == 7 && error.message.contains("IPv6"), "{error}");
        assert_eq!(one.with_any_cidr().config["ipam"]["subnet"], "0.0.0.0/0");
        let fixed = delegate(json!({"type": "host-local", "subnet": "10.0.0.0/8"})).unwrap().unwrap();
        assert!(!fixed.wants_pod_cidrs());
        assert_eq!(fixed.with_pod_cidrs(&[]).unwrap().config, fixed.config);
    }

    #[test]
    fn a_plugin_that_is_not_there_is_named_with_where_it_was_looked_for() {
        let one = delegate(json!({"type": "host-local"})).unwrap().unwrap();
        let environment = Environment::from([("CNI_PATH".to_owned(), "/nonexistent:/also".to_owned())]);
        let error = one.add(&environment).unwrap_err();
        assert!(
            error.message.contains("host-local") && error.message.contains("/nonexistent:/also"),
            "{error}"
        );
    }

    #[test]
    fn what_the_plugin_says_is_handed_on_with_its_name() {
        let one = delegate(json!({"type": "host-local"})).unwrap().unwrap();
        let error = one.refusal("ADD", br#"{"code":11,"msg":"full","details":"d"}"#);
        assert_eq!((error.code, error.details.as_str()), (11, "d"));
        assert!(error.message.contains("host-local") && error.message.contains("full"), "{error}");
        assert_eq!(one.refusal("DEL", b"panic").code, code::IO);
    }
}
