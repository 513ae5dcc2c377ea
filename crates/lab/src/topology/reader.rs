//! From YAML values to the typed topology.

use std::collections::BTreeMap;

use ipnet::IpNet;
use margay_netlink::Mac;
use margay_netlink::link::check_name;
use serde_json::{Map, Value};

use super::{Endpoint, Link, Node, NodeKind, Topology, expand};
use crate::error::{Error, Result};

/// Node keys with an effect here.
const NODE_KEYS: [&str; 8] = ["kind", "image", "group", "exec", "env", "labels", "sysctls", "network-mode"];
/// Node keys of containerlab that have none for a namespace with this machine's programs.
const NODE_KEYS_PASSED_OVER: [&str; 32] = [
    "type",
    "binds",
    "ports",
    "cmd",
    "entrypoint",
    "user",
    "cpu",
    "cpu-set",
    "memory",
    "mgmt-ipv4",
    "mgmt-ipv6",
    "startup-delay",
    "startup-config",
    "enforce-startup-config",
    "healthcheck",
    "stages",
    "cap-add",
    "devices",
    "env-files",
    "license",
    "position",
    "publish",
    "restart-policy",
    "runtime",
    "shm-size",
    "dns",
    "aliases",
    "certificate",
    "image-pull-policy",
    "auto-remove",
    "suppress-startup-config",
    "extras",
];
/// Images that are only a set of tools, or ours: a namespace with this machine's programs stands in for them.
const IMAGES: [&str; 9] = [
    "alpine",
    "busybox",
    "debian",
    "ubuntu",
    "netshoot",
    "network-multitool",
    "network-tools",
    "iproute2",
    "margay",
];

struct Reader<'a> {
    file: &'a str,
    warnings: Vec<String>,
}

pub(super) fn read(file: &str, value: &Value, warnings: Vec<String>) -> Result<Topology> {
    let mut reader = Reader { file, warnings };
    let root = reader.map(value, "the file")?;
    reader.unknown(root, "", &["name", "topology"], &["prefix", "mgmt", "settings", "debug"]);
    let name = match root.get("name") {
        Some(Value::String(name)) if !name.is_empty() => name.clone(),
        _ => return Err(reader.wrong("name", "give the lab a name")),
    };
    let topology = match root.get("topology") {
        Some(topology) => reader.map(topology, "topology")?,
        None => return Err(reader.wrong("topology", "is missing")),
    };
    reader.unknown(topology, "topology.", &["defaults", "kinds", "groups", "nodes", "links"], &[]);
    let nodes = reader.nodes(topology, &name)?;
    let links = reader.links(topology, &nodes)?;
    Ok(Topology { name, nodes, links, warnings: reader.warnings })
}

impl Reader<'_> {
    fn wrong(&self, place: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Topology { file: self.file.to_owned(), place: place.into(), reason: reason.into() }
    }

    fn map<'v>(&self, value: &'v Value, place: &str) -> Result<&'v Map<String, Value>> {
        value.as_object().ok_or_else(|| self.wrong(place, "must be a mapping"))
    }

    fn unknown(&mut self, map: &Map<String, Value>, place: &str, known: &[&str], passed_over: &[&str]) {
        for key in map.keys().map(String::as_str) {
            if passed_over.contains(&key) {
                self.warnings
                    .push(format!("{place}{key}: passed over, it has no meaning for network namespaces"));
            } else if !known.contains(&key) {
                self.warnings.push(format!("{place}{key}: unknown key, passed over"));
            }
        }
    }

    /// The layers a node inherits from live in these three tables.
    fn layer<'v>(
        &mut self,
        topology: &'v Map<String, Value>,
        place: &str,
        keys: &[&str],
    ) -> Result<Option<&'v Map<String, Value>>> {
        let mut value = None;
        for (depth, key) in keys.iter().enumerate() {
            let inside = if depth == 0 { Some(topology) } else { value };
            value = match inside.and_then(|map| map.get(*key)).filter(|value| !value.is_null()) {
                Some(found) => Some(self.map(found, place)?),
                None => return Ok(None),
            };
        }
        Ok(value)
    }

    fn nodes(&mut self, topology: &Map<String, Value>, lab: &str) -> Result<BTreeMap<String, Node>> {
        let Some(all) = topology.get("nodes") else {
            return Err(self.wrong("topology.nodes", "is missing: a lab needs nodes"));
        };
        for table in ["kinds", "groups"] {
            for (name, value) in
                self.layer(topology, &format!("topology.{table}"), &[table])?.into_iter().flatten()
            {
                let place = format!("topology.{table}.{name}");
                let layer = if value.is_null() { None } else { Some(self.map(value, &place)?) };
                self.check_layer(layer, &place);
            }
        }
        let defaults = self.layer(topology, "topology.defaults", &["defaults"])?;
        self.check_layer(defaults, "topology.defaults");
        let mut nodes = BTreeMap::new();
        for (name, value) in self.map(all, "topology.nodes")? {
            let place = format!("topology.nodes.{name}");
            let own = if value.is_null() { None } else { Some(self.map(value, &place)?) };
            self.check_layer(own, &place);
            let node = self.node(topology, lab, name, own, &place)?;
            nodes.insert(name.clone(), node);
        }
        if nodes.is_empty() {
            return Err(self.wrong("topology.nodes", "is empty: a lab needs nodes"));
        }
        Ok(nodes)
    }

    fn check_layer(&mut self, layer: Option<&Map<String, Value>>, place: &str) {
        if let Some(layer) = layer {
            self.unknown(layer, &format!("{place}."), &NODE_KEYS, &NODE_KEYS_PASSED_OVER);
        }
    }

    fn node(
        &mut self,
        topology: &Map<String, Value>,
        lab: &str,
        name: &str,
        own: Option<&Map<String, Value>>,
        place: &str,
    ) -> Result<Node> {
        let defaults = self.layer(topology, "topology.defaults", &["defaults"])?;
        let text = |layer: Option<&Map<String, Value>>, key: &str| {
            layer.and_then(|layer| layer.get(key)).and_then(Value::as_str).map(str::to_owned)
        };
        let group_name = text(own, "group").or_else(|| text(defaults, "group"));
        let group = match &group_name {
            Some(group) => {
                let found = self.layer(topology, &format!("topology.groups.{group}"), &["groups", group])?;
                if found.is_none() {
                    self.warnings.push(format!("{place}.group: there is no group {group}"));
                }
                found
            }
            None => None,
        };
        let kind_name = text(own, "kind").or_else(|| text(group, "kind")).or_else(|| text(defaults, "kind"));
        let kind = match kind_name.as_deref() {
            Some("linux") => NodeKind::Linux,
            Some("bridge") => NodeKind::Bridge,
            Some(other) => {
                let reason =
                    format!("{other} can't be run from network namespaces: only linux and bridge can");
                return Err(self.wrong(format!("{place}.kind"), reason));
            }
            None => return Err(self.wrong(format!("{place}.kind"), "is missing: write linux or bridge")),
        };
        let kind_layer =
            self.layer(topology, "topology.kinds", &["kinds", kind_name.as_deref().unwrap_or_default()])?;
        // Nearest first.
        let layers: Vec<&Map<String, Value>> =
            [own, group, kind_layer, defaults].into_iter().flatten().collect();
        let nearest =
            |key: &str| layers.iter().find_map(|layer| layer.get(key)).filter(|value| !value.is_null());

        if let Some(mode) = nearest("network-mode").filter(|mode| mode.as_str() != Some("none")) {
            let reason = format!("{mode} isn't supported: every node has a namespace of its own; remove it");
            return Err(self.wrong(format!("{place}.network-mode"), reason));
        }
        let image = nearest("image").and_then(Value::as_str).map(str::to_owned);
        if let (Some(image), NodeKind::Linux) = (&image, kind) {
            self.check_image(image, place)?;
        }
        let mut exec = Vec::new();
        for layer in layers.iter().rev() {
            for command in self.texts(layer.get("exec"), &format!("{place}.exec"))? {
                let command = expand::magic(&command, lab, name);
                if expand::words(&command).is_none() {
                    let reason = format!("`{command}` is no command: close its quotes");
                    return Err(self.wrong(format!("{place}.exec"), reason));
                }
                exec.push(command);
            }
        }
        let merged = |key: &str| -> Result<BTreeMap<String, String>> {
            let mut all = BTreeMap::new();
            for layer in layers.iter().rev() {
                all.extend(self.pairs(layer.get(key), &format!("{place}.{key}"))?);
            }
            for value in all.values_mut() {
                *value = expand::magic(value, lab, name);
            }
            Ok(all)
        };
        let (env, labels, sysctls) = (merged("env")?, merged("labels")?, merged("sysctls")?);
        if kind == NodeKind::Bridge {
            check_name(name).map_err(|e| self.wrong(place, format!("can't name a bridge: {e}")))?;
        }
        Ok(Node { name: name.to_owned(), kind, image, exec, env, labels, sysctls })
    }

    fn check_image(&self, image: &str, place: &str) -> Result<()> {
        let repository = image.rsplit('/').next().unwrap_or(image);
        let base = repository.split([':', '@']).next().unwrap_or(repository);
        let ours = image.split('/').any(|part| part.starts_with("margay"));
        if ours || IMAGES.contains(&base) {
            return Ok(());
        }
        let reason = format!(
            "{image} can't be run: nodes are network namespaces with this machine's programs; use one of the tool images \
             ({}) and start the daemon yourself",
            IMAGES.join(", ")
        );
        Err(self.wrong(format!("{place}.image"), reason))
    }

    fn texts(&self, value: Option<&Value>, place: &str) -> Result<Vec<String>> {
        match value {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) => list
                .iter()
                .map(|item| {
                    item.as_str()
                        .map(str::to_owned)
                        .ok_or_else(|| self.wrong(place, "must be a list of texts"))
                })
                .collect(),
            Some(_) => Err(self.wrong(place, "must be a list of texts")),
        }
    }

    fn pairs(&self, value: Option<&Value>, place: &str) -> Result<BTreeMap<String, String>> {
        let mut pairs = BTreeMap::new();
        let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(pairs) };
        for (key, value) in self.map(value, place)? {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                Value::Null => String::new(),
                _ => return Err(self.wrong(format!("{place}.{key}"), "must be a text or a number")),
            };
            pairs.insert(key.clone(), text);
        }
        Ok(pairs)
    }

    fn links(&mut self, topology: &Map<String, Value>, nodes: &BTreeMap<String, Node>) -> Result<Vec<Link>> {
        let Some(value) = topology.get("links").filter(|value| !value.is_null()) else {
            return Ok(Vec::new());
        };
        let list = value.as_array().ok_or_else(|| self.wrong("topology.links", "must be a list"))?;
        let mut links = Vec::new();
        let mut used: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (n, value) in list.iter().enumerate() {
            let place = format!("topology.links[{n}]");
            let link = self.link(value, &place, nodes)?;
            for end in &link.ends {
                let taken = used.insert((end.node.clone(), end.interface.clone()), n);
                if let Some(other) = taken {
                    let reason = format!("{}:{} is an end of links[{other}] too", end.node, end.interface);
                    return Err(self.wrong(place, reason));
                }
            }
            links.push(link);
        }
        Ok(links)
    }

    fn link(&mut self, value: &Value, place: &str, nodes: &BTreeMap<String, Node>) -> Result<Link> {
        let map = self.map(value, place)?;
        self.unknown(
            map,
            &format!("{place}."),
            &["type", "endpoints", "mtu", "ipv4", "ipv6"],
            &["labels", "vars"],
        );
        match map.get("type").and_then(Value::as_str) {
            None | Some("veth") => {}
            Some(other) => {
                let reason = format!("{other} links aren't built from namespaces: use veth");
                return Err(self.wrong(format!("{place}.type"), reason));
            }
        }
        let mtu = match map.get("mtu") {
            None => None,
            Some(mtu) => Some(
                mtu.as_u64()
                    .and_then(|mtu| u32::try_from(mtu).ok())
                    .filter(|mtu| (68..=65535).contains(mtu))
                    .ok_or_else(|| self.wrong(format!("{place}.mtu"), "must be 68 to 65535"))?,
            ),
        };
        let Some([a, b]) = map.get("endpoints").and_then(Value::as_array).map(Vec::as_slice) else {
            return Err(self.wrong(format!("{place}.endpoints"), "must be a list of two ends"));
        };
        let mut ends = [self.endpoint(a, place, nodes)?, self.endpoint(b, place, nodes)?];
        // The brief notation has the addresses of both ends in lists beside them.
        for key in ["ipv4", "ipv6"] {
            for (end, text) in ends.iter_mut().zip(self.texts(map.get(key), &format!("{place}.{key}"))?) {
                if !text.is_empty() {
                    end.addresses.push(self.net(&text, &format!("{place}.{key}"))?);
                }
            }
        }
        Ok(Link { ends, mtu })
    }

    fn endpoint(&mut self, value: &Value, place: &str, nodes: &BTreeMap<String, Node>) -> Result<Endpoint> {
        let place = format!("{place}.endpoints");
        let mut end = match value {
            Value::String(text) => {
                let (node, interface) = text
                    .split_once(':')
                    .ok_or_else(|| self.wrong(&place, format!("{text:?} must be node:interface")))?;
                let (node, interface) = (node.to_owned(), interface.to_owned());
                Endpoint { node, interface, mac: None, addresses: Vec::new() }
            }
            Value::Object(map) => {
                self.unknown(
                    map,
                    &format!("{place}."),
                    &["node", "interface", "mac", "ipv4", "ipv6"],
                    &["vars"],
                );
                let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                let mac = match map.get("mac").and_then(Value::as_str) {
                    Some(mac) => Some(
                        mac.parse::<Mac>().map_err(|e| self.wrong(format!("{place}.mac"), e.to_string()))?,
                    ),
                    None => None,
                };
                let mut addresses = Vec::new();
                for key in ["ipv4", "ipv6"] {
                    if let Some(net) = map.get(key).and_then(Value::as_str) {
                        addresses.push(self.net(net, &format!("{place}.{key}"))?);
                    }
                }
                Endpoint { node: text("node"), interface: text("interface"), mac, addresses }
            }
            _ => return Err(self.wrong(place, "an end must be node:interface or a mapping")),
        };
        if matches!(end.node.as_str(), "host" | "mgmt-net" | "macvlan") {
            let reason = format!("{} is refused: a lab never touches this machine's own network", end.node);
            return Err(self.wrong(place, reason));
        }
        if !nodes.contains_key(&end.node) {
            return Err(self.wrong(place, format!("there is no node {:?}", end.node)));
        }
        check_name(&end.interface).map_err(|e| self.wrong(&place, e.to_string()))?;
        end.addresses.sort_unstable();
        Ok(end)
    }

    fn net(&self, text: &str, place: &str) -> Result<IpNet> {
        text.parse()
            .map_err(|_source| self.wrong(place, format!("{text:?} must be an address with a prefix length")))
    }
}
