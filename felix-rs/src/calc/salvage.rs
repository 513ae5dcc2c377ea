//! What can still be made out of an object that cannot be read as a whole.

use std::collections::BTreeMap;

use ipnet::IpNet;
use margay_api::kinds::{
    FelixConfigurationSpec, GlobalNetworkSetSpec, HostEndpointSpec, NamespaceSpec, NetworkSetSpec,
    ServiceAccountSpec,
};
use margay_api::types::net::parse_net;
use margay_api::{Key, Kind, Metadata, Object, Resource, Spec};
use serde_json::Value;

/// Labels of namespaces and service accounts, labels and networks of sets, node and interface of host endpoints
/// (which then deny: no profile is taken over), and what names of workloads' interfaces begin with. `None` for everything
/// else.
pub(super) fn resource(key: &Key, raw: Option<&Value>) -> Option<Resource> {
    let raw = raw?;
    let spec = raw.get("spec");
    let text = |name: &str| spec.and_then(|spec| spec.get(name)).and_then(Value::as_str);
    let list = |name: &str| {
        let values = spec.and_then(|spec| spec.get(name)).and_then(Value::as_array);
        values.into_iter().flatten().filter_map(Value::as_str)
    };
    let nets = || list("nets").filter_map(|net| parse_net(net).ok()).collect::<Vec<IpNet>>();
    Some(match key.kind {
        Kind::Namespace => object(key, raw, NamespaceSpec::default()).into(),
        Kind::ServiceAccount => object(key, raw, ServiceAccountSpec::default()).into(),
        Kind::NetworkSet => object(key, raw, NetworkSetSpec { nets: nets() }).into(),
        Kind::GlobalNetworkSet => object(key, raw, GlobalNetworkSetSpec { nets: nets() }).into(),
        Kind::HostEndpoint => {
            let spec = HostEndpointSpec {
                node: text("node")?.to_owned(),
                interface_name: text("interfaceName").map(ToOwned::to_owned),
                expected_ips: list("expectedIPs").filter_map(|address| address.parse().ok()).collect(),
                ..HostEndpointSpec::default()
            };
            object(key, raw, spec).into()
        }
        // Without it, interfaces of other plugins are no workloads', and open.
        Kind::FelixConfiguration => {
            let interface_prefix = text("interfacePrefix").map(ToOwned::to_owned);
            object(key, raw, FelixConfigurationSpec { interface_prefix, ..FelixConfigurationSpec::default() })
                .into()
        }
        _ => return None,
    })
}

fn object<S: Spec>(key: &Key, raw: &Value, spec: S) -> Object<S> {
    let labels = raw.get("metadata").and_then(|metadata| metadata.get("labels")).and_then(Value::as_object);
    let labels: BTreeMap<String, String> = labels
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    let mut metadata = Metadata::named(key.name.clone());
    metadata.namespace.clone_from(&key.namespace);
    metadata.labels = labels;
    Object::new(metadata, spec)
}
