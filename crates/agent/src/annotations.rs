//! What annotations of a Pod and its Namespace ask of its addresses, by Calico's names.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;

/// Addresses, as a JSON list.
const ADDRESSES: &str = "cni.projectcalico.org/ipAddrs";
/// Addresses that no pool has: not ours to give.
const FOREIGN: &str = "cni.projectcalico.org/ipAddrsNoIpam";
/// Names or CIDRs of IPPools, as JSON lists, of the Pod or else of its Namespace.
const POOLS: [&str; 2] = ["cni.projectcalico.org/ipv4pools", "cni.projectcalico.org/ipv6pools"];
/// Networks that a pod may send from besides its own addresses, as a JSON list.
const SOURCES: &str = "cni.projectcalico.org/allowedSourcePrefixes";
/// Ethernet address.
const MAC: &str = "cni.projectcalico.org/hwAddr";

/// See the module; what is empty was not asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) pools: Vec<String>,
    pub(crate) mac: Option<String>,
}

type Annotations = BTreeMap<String, String>;

/// Reads them.
///
/// # Errors
/// A sentence that names the annotation.
pub(crate) fn asked(pod: &Annotations, namespace: &Annotations) -> Result<Asked, String> {
    if pod.contains_key(FOREIGN) {
        return Err(format!(
            "annotation {FOREIGN} is not supported: use {ADDRESSES}, with addresses of an IPPool"
        ));
    }
    let mut pools: Vec<String> = Vec::new();
    for key in POOLS {
        let own: Vec<String> = list(pod, key)?;
        pools.extend(if own.is_empty() { list(namespace, key)? } else { own });
    }
    let mac = pod.get(MAC).cloned();
    if let Some(mac) = &mac
        && mac.parse::<margay_netlink::Mac>().is_err()
    {
        return Err(format!("annotation {MAC} is {mac:?}: must be an Ethernet address"));
    }
    Ok(Asked { addresses: list(pod, ADDRESSES)?, pools, mac })
}

/// The networks that a pod may send from besides its own addresses, where workloads may ask for that.
///
/// # Errors
/// A sentence that names the annotation.
pub(crate) fn sources(pod: &Annotations, may_ask: bool) -> Result<Vec<IpNet>, String> {
    let nets: Vec<IpNet> = list(pod, SOURCES)?;
    if !nets.is_empty() && !may_ask {
        return Err(format!(
            "annotation {SOURCES} is without effect: workloadSourceSpoofing of the FelixConfiguration is not Any"
        ));
    }
    Ok(nets.iter().map(IpNet::trunc).collect())
}

fn list<T: DeserializeOwned>(annotations: &Annotations, key: &str) -> Result<Vec<T>, String> {
    let Some(text) = annotations.get(key) else { return Ok(Vec::new()) };
    serde_json::from_str(text).map_err(|error| {
        format!("annotation {key} is {text:?}: must be a JSON list such as [\"…\"] ({error})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_pod_is_asked_before_its_namespace() {
        let namespace = of(&[(POOLS[0], r#"["a"]"#), (POOLS[1], r#"["b"]"#), (ADDRESSES, r#"["10.0.0.9"]"#)]);
        let pod = of(&[(POOLS[0], r#"["c"]"#), (ADDRESSES, r#"["10.0.0.1"]"#), (MAC, "02:00:00:00:00:01")]);
        let expected = Asked {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            pools: vec!["c".into(), "b".into()],
            mac: Some("02:00:00:00:00:01".into()),
        };
        assert_eq!(asked(&pod, &namespace), Ok(expected));
        assert_eq!(asked(&of(&[]), &of(&[])), Ok(Asked::default()));
    }

    #[test]
    fn others_networks_are_asked_for_where_that_is_allowed() {
        let pod = of(&[(SOURCES, r#"["10.99.0.1/24", "fd99::/64"]"#)]);
        let nets = ["10.99.0.0/24", "fd99::/64"].map(|net| net.parse().unwrap());
        assert_eq!(sources(&pod, true), Ok(nets.to_vec()));
        assert!(sources(&pod, false).unwrap_err().contains("workloadSourceSpoofing"));
        assert_eq!(sources(&of(&[]), false), Ok(Vec::new()));
        assert!(sources(&of(&[(SOURCES, r#"["10.99.0.1"]"#)]), true).unwrap_err().contains(SOURCES));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for pair in [(ADDRESSES, "10.0.0.1"), (POOLS[1], "{}"), (MAC, "zz"), (FOREIGN, "[]")] {
            let error = asked(&of(&[pair]), &of(&[])).unwrap_err();
            assert!(error.contains(pair.0), "{error}");
        }
    }
}
