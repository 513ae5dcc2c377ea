//! The topology: a `*.clab.yml` file of containerlab, as typed data. Pure: text and variables in, topology out.
//!
//! Read are the kinds `linux` (a namespace) and `bridge` (a switch, in a namespace of its own), veth links in both
//! notations, and inheritance from `defaults`, `kinds` and `groups`. What means nothing for namespaces, or isn't known, is
//! named in [`Topology::warnings`]; what can't be done is an error.

mod expand;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use ipnet::IpNet;
use margay_netlink::Mac;

use crate::error::{Error, Result};

pub(crate) use expand::words;

/// A lab to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Name of the lab.
    pub name: String,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Links, in the order of the file.
    pub links: Vec<Link>,
    /// Keys that were passed over, and why.
    pub warnings: Vec<String>,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A network namespace.
    Linux,
    /// A learning switch.
    Bridge,
}

/// A node, with everything it inherits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// Image, as written; the node runs this machine's programs.
    pub image: Option<String>,
    /// Commands to run once all links are up, in order, without a shell.
    pub exec: Vec<String>,
    /// Environment of those commands and of processes started in the node.
    pub env: BTreeMap<String, String>,
    /// Labels; `margay.…` ones are ours.
    pub labels: BTreeMap<String, String>,
    /// Kernel settings, in dotted form.
    pub sysctls: BTreeMap<String, String>,
}

/// A cable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its two ends.
    pub ends: [Endpoint; 2],
    /// MTU, octets; 1500 otherwise.
    pub mtu: Option<u32>,
}

/// One end of a cable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Node.
    pub node: String,
    /// Interface, 1 to 15 bytes.
    pub interface: String,
    /// MAC address; the kernel invents one otherwise.
    pub mac: Option<Mac>,
    /// Addresses to give the interface.
    pub addresses: Vec<IpNet>,
}

impl Topology {
    /// Reads a file, with this process's environment as variables.
    ///
    /// # Errors
    /// When the file can't be read, or as for [`parse`](Self::parse).
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self::parse(&path.display().to_string(), &text, &variables)
    }

    /// Reads the text of a file. `variables` are what `${NAME}` stands for.
    ///
    /// # Errors
    /// [`Error::Yaml`] or [`Error::Topology`], naming the place.
    pub fn parse(file: &str, text: &str, variables: &BTreeMap<String, String>) -> Result<Self> {
        let mut warnings = Vec::new();
        let text = expand::variables(text, variables, &mut warnings);
        let value: serde_json::Value = serde_saphyr::from_str(&text)
            .map_err(|e| Error::Yaml { file: file.to_owned(), reason: e.to_string() })?;
        reader::read(file, &value, warnings)
    }

    /// The nodes that carry this label, with its value, in order of name.
    pub fn labelled<'a>(&'a self, label: &'a str) -> impl Iterator<Item = (&'a Node, &'a str)> {
        self.nodes.values().filter_map(move |node| Some((node, node.labels.get(label)?.as_str())))
    }
}
