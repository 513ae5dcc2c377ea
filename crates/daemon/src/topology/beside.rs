//! Addresses of a node's pods that are in no block of IPAM (another plugin or an annotation gave them) and that it announces one by one: its
//! Node object names them, so that reflectors know whose they are.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use margay_api::Node;

/// Annotation of a Node, written by its agent: addresses, separated by commas.
const ANNOTATION: &str = "margay.io/pod-addresses";

/// The addresses that a node announces beside its blocks and ranges. Nothing wider than one address can be named this way.
pub fn pod_addresses(node: &Node) -> impl Iterator<Item = IpNet> {
    let text = node.metadata.annotations.get(ANNOTATION).map_or("", String::as_str);
    text.split(',').filter_map(|address| address.trim().parse::<IpAddr>().ok()).map(IpNet::from)
}

/// The object as it names these addresses; none if it does already.
#[must_use]
pub fn with_pod_addresses(node: &Node, addresses: &BTreeSet<IpNet>) -> Option<Node> {
    if pod_addresses(node).collect::<BTreeSet<_>>() == *addresses {
        return None;
    }
    let mut node = node.clone();
    let text: Vec<String> = addresses.iter().map(|address| address.addr().to_string()).collect();
    match text.is_empty() {
        true => drop(node.metadata.annotations.remove(ANNOTATION)),
        false => drop(node.metadata.annotations.insert(ANNOTATION.to_owned(), text.join(","))),
    }
    Some(node)
}

/// Takes over what `own` says of them.
pub(crate) fn copy_pod_addresses(stored: &mut Node, own: &Node) {
    match own.metadata.annotations.get(ANNOTATION) {
        Some(text) => drop(stored.metadata.annotations.insert(ANNOTATION.to_owned(), text.clone())),
        None => drop(stored.metadata.annotations.remove(ANNOTATION)),
    }
}

#[cfg(test)]
mod tests {
    use margay_api::Metadata;
    use margay_api::kinds::NodeSpec;

    use super::*;

    #[test]
    fn a_node_names_addresses_and_nothing_wider() {
        let node = Node::new(Metadata::named("n1"), NodeSpec::default());
        let set =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<BTreeSet<IpNet>>();
        let two = set(&["10.65.250.7/32", "fd65::7/128"]);
        let named = with_pod_addresses(&node, &two).unwrap();
        assert_eq!(pod_addresses(&named).collect::<BTreeSet<_>>(), two);
        assert_eq!(with_pod_addresses(&named, &two), None, "nothing new");
        let mut wide = node.clone();
        wide.metadata
            .annotations
            .insert(ANNOTATION.to_owned(), "10.65.0.0/16, 10.65.1.1 ,rubbish".to_owned());
        assert_eq!(pod_addresses(&wide).collect::<BTreeSet<_>>(), set(&["10.65.1.1/32"]));
        assert_eq!(with_pod_addresses(&named, &BTreeSet::new()), Some(node.clone()));
        assert_eq!(with_pod_addresses(&node, &BTreeSet::new()), None);
    }
}
