//! The parameters a runtime gives in environment variables.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::error::{CniError, code};

/// What the runtime wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach the container.
    Add,
    /// Detach it.
    Del,
    /// Verify an attachment.
    Check,
    /// Release what is no longer attached.
    Gc,
    /// Would ADD work?
    Status,
    /// Which versions are supported?
    Version,
}

impl Verb {
    /// Reads `CNI_COMMAND`.
    ///
    /// # Errors
    /// Code 4 for a verb that doesn't exist.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        match text {
            "ADD" => Ok(Self::Add),
            "DEL" => Ok(Self::Del),
            "CHECK" => Ok(Self::Check),
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            other => Err(invalid(format!(
                "CNI_COMMAND is {other:?}: must be ADD, DEL, CHECK, GC, STATUS or VERSION"
            ))),
        }
    }
}

/// The attachment a verb is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_NETNS`; may be absent for DEL only.
    pub netns: Option<String>,
    /// `CNI_NETNS_OVERRIDE`: the namespace may be the plugin's own.
    pub netns_override: bool,
    /// `CNI_ARGS`.
    pub args: Args,
}

/// The known keys of `CNI_ARGS`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    /// `K8S_POD_NAMESPACE`.
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub pod_name: Option<String>,
    /// `K8S_POD_UID`.
    pub pod_uid: Option<String>,
    /// `IP`: one address or several with commas, prefix length ignored.
    pub ips: Vec<IpAddr>,
    /// `MAC`.
    pub mac: Option<String>,
}

/// Environment variables by name.
pub type Environment = BTreeMap<String, String>;

impl Target {
    /// Reads and validates the variables `verb` needs.
    ///
    /// # Errors
    /// Code 4, naming every missing variable at once, or the one that is invalid.
    pub fn read(verb: Verb, environment: &Environment) -> Result<Self, CniError> {
        let get = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
        let netns = get("CNI_NETNS");
        let (container_id, ifname) = (get("CNI_CONTAINERID"), get("CNI_IFNAME"));
        let (Some(container_id), Some(ifname), true) =
            (container_id.clone(), ifname.clone(), netns.is_some() || verb == Verb::Del)
        else {
            let missing: Vec<&str> = [
                ("CNI_CONTAINERID", container_id.is_none()),
                ("CNI_NETNS", netns.is_none() && verb != Verb::Del),
                ("CNI_IFNAME", ifname.is_none()),
            ]
            .into_iter()
            .filter_map(|(name, missing)| missing.then_some(name))
            .collect();
            return Err(invalid(format!(
                "required environment variables are missing: {}",
                missing.join(", ")
            )));
        };
        check_container_id(&container_id)?;
        margay_netlink::link::check_name(&ifname).map_err(|error| {
            invalid(format!("CNI_IFNAME {ifname:?} is no interface name")).with_details(error)
        })?;
        let netns_override = get("CNI_NETNS_OVERRIDE").is_some_and(|value| truthy(&value) == Some(true));
        let args = Args::parse(environment.get("CNI_ARGS").map_or("", String::as_str))?;
        Ok(Self { container_id, ifname, netns, netns_override, args })
    }
}

/// SPEC.md: starts with an alphanumeric, then alphanumerics, underscore, dot, hyphen.
fn check_container_id(id: &str) -> Result<(), CniError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.chars().all(allowed) {
        return Ok(());
    }
    Err(invalid(format!(
        "CNI_CONTAINERID {id:?} must start with a letter or digit and contain only letters, digits, _ . -"
    )))
}

impl Args {
    /// Reads `K=V;K=V`.
    ///
    /// # Errors
    /// Code 4 for a pair without `=`, an unreadable value, or an unknown key without `IgnoreUnknown=1`.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        let mut args = Self::default();
        let (mut unknown, mut ignore) = (None, false);
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                invalid(format!("CNI_ARGS has {pair:?}: must be KEY=VALUE pairs with semicolons"))
            })?;
            let bad = |want: &str| invalid(format!("CNI_ARGS has {key}={value:?}: must be {want}"));
            let text = || Some(value.to_owned()).filter(|value| !value.is_empty());
            match key {
                "IgnoreUnknown" => ignore = truthy(value).ok_or_else(|| bad("0, 1, true or false"))?,
                "K8S_POD_NAMESPACE" => args.pod_namespace = text(),
                "K8S_POD_NAME" => args.pod_name = text(),
                "K8S_POD_UID" => args.pod_uid = text(),
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                "IP" => {
                    for ip in value.split(',').filter(|ip| !ip.is_empty()) {
                        args.ips.push(parse_ip(ip).ok_or_else(|| bad("an IP address"))?);
                    }
                }
                "MAC" => {
                    args.mac = text();
                    if args.mac.as_ref().is_some_and(|mac| mac.parse::<margay_netlink::Mac>().is_err()) {
                        return Err(bad("an Ethernet address"));
                    }
                }
                other => unknown = unknown.or(Some(other)),
            }
        }
        match unknown {
            Some(key) if !ignore => Err(invalid(format!(
                "CNI_ARGS has the unknown key {key:?}: remove it or add IgnoreUnknown=1"
            ))),
            _ => Ok(args),
        }
    }
}

/// An address with or without a prefix length.
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    let address = text.trim();
    address.split_once('/').map_or(address, |(ip, _)| ip).parse().ok()
}

fn truthy(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn invalid(message: String) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn names_every_missing_variable() {
        let error = Target::read(Verb::Add, &environment(&[("CNI_NETNS", "")])).unwrap_err();
        assert_eq!(error.code, 4);
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
            assert!(error.message.contains(name), "{error}");
        }
        let del = environment(&[("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "")]);
        assert_eq!(Target::read(Verb::Del, &del).unwrap().netns, None);
        assert!(Target::read(Verb::Check, &del).is_err());
    }

    #[test]
    fn ids_and_names_are_validated() {
        for (id, ifname, good) in [
            ("c1", "eth0", true),
            ("default-a.b_c", "net1", true),
            ("-c", "eth0", false),
            ("a/b", "eth0", false),
            ("c", "sixteen-bytes-xx", false),
            ("c", "..", false),
            ("c", "a:b", false),
            ("c", "a b", false),
        ] {
            let all = environment(&[("CNI_CONTAINERID", id), ("CNI_IFNAME", ifname), ("CNI_NETNS", "/x")]);
            let read = Target::read(Verb::Add, &all);
            assert_eq!(read.is_ok(), good, "{id} {ifname}: {read:?}");
            assert!(read.is_ok_and(|_| good) || !good);
        }
    }

    #[test]
    fn args_of_the_known_runtimes() {
        let containerd = "K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=1-2;IgnoreUnknown=1;K8S_POD_NAMESPACE=red;K8S_POD_NAME=web-0;NEW=1";
        let args = Args::parse(containerd).unwrap();
        assert_eq!((args.pod_namespace.as_deref(), args.pod_name.as_deref()), (Some("red"), Some("web-0")));
        assert_eq!(args.pod_uid.as_deref(), Some("1-2"));
        let podman =
            Args::parse("IgnoreUnknown=true;K8S_POD_NAME=p;MAC=02:00:00:00:00:01;IP=10.0.0.9,fd00::9/64")
                .unwrap();
        assert_eq!(podman.ips, ["10.0.0.9".parse::<IpAddr>().unwrap(), "fd00::9".parse().unwrap()]);
        assert_eq!(podman.mac.as_deref(), Some("02:00:00:00:00:01"));
        assert_eq!(Args::parse("").unwrap(), Args::default());
    }

    #[test]
    fn bad_args_are_code_4_and_name_the_key() {
        for (text, word) in [
            ("NEW=1", "NEW"),
            ("IP", "KEY=VALUE"),
            ("IP=10.0.0", "IP"),
            ("MAC=zz", "MAC"),
            ("IgnoreUnknown=maybe", "IgnoreUnknown"),
        ] {
            let error = Args::parse(text).unwrap_err();
            assert!(error.code == 4 && error.message.contains(word), "{error}");
        }
    }
}
