//! What annotations of a Pod and its Namespace ask of its addresses, by Calico's names.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;

/// Addresses, as a JSON list.
const ADDRESSES: &str = "cni.projectcalico.org/ipAddrs";
/// Addresses that are nobody's to give, where the CNI configuration allows it: it is for who writes them that no other has them.
pub(crate) const UNMANAGED: &str = "cni.projectcalico.org/ipAddrsNoIpam";
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
    /// Instead of any from a pool.
    pub(crate) unmanaged: Vec<IpAddr>,
    pub(crate) pools: Vec<String>,
    pub(crate) mac: Option<String>,
}

type Annotations = BTreeMap<String, String>;

/// Reads them.
///
/// # Errors
/// A sentence that names the annotation.
pub(crate) fn asked(pod: &Annotations, namespace: &Annotations) -> Result<Asked, String> {
    if pod.contains_key(UNMANAGED) && pod.contains_key(ADDRESSES) {
        return Err(format!("annotations {ADDRESSES} and {UNMANAGED} exclude each other: leave out one"));
    }
    let unmanaged: Vec<IpAddr> = list(pod, UNMANAGED)?;
    let unusable =
        |address: &&IpAddr| address.is_unspecified() || address.is_loopback() || address.is_multicast();
    if let Some(address) = unmanaged.iter().find(unusable) {
        return Err(format!("annotation {UNMANAGED} has {address}, which no interface of a pod can have"));
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
    Ok(Asked { addresses: list(pod, ADDRESSES)?, unmanaged, pools, mac })
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
            unmanaged: Vec::new(),
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
        for pair in [
            (ADDRESSES, "10.0.0.1"),
            (POOLS[1], "{}"),
            (MAC, "zz"),
            (UNMANAGED, "10.0.0.1"),
            (UNMANAGED, r#"["::1"]"#),
        ] {
            let error = asked(&of(&[pair]), &of(&[])).unwrap_err();
            assert!(error.contains(pair.0), "{error}");
        }
        let both = of(&[(ADDRESSES, r#"["10.0.0.1"]"#), (UNMANAGED, r#"["10.0.0.2"]"#)]);
        assert!(asked(&both, &of(&[])).unwrap_err().contains("exclude"));
        let one = asked(&of(&[(UNMANAGED, r#"["192.0.2.9", "2001:db8::9"]"#)]), &of(&[])).unwrap();
        assert_eq!((one.unmanaged.len(), one.addresses.len()), (2, 0));
    }
}
