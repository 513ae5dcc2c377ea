//! `get`.

use std::collections::BTreeMap;

use anyhow::Context;
use margay_api::{Key, Kind, Resource, yaml};
use margay_datastore::Versioned;
use serde_json::{Value, json};

use super::{kind, session};
use crate::columns::{heads, row};
use crate::config::GlobalArgs;
use crate::output::{Format, OutputArgs, Report, dynamic_table};
use crate::store::{Access, Session};

#[derive(Debug, clap::Args)]
pub(crate) struct GetArgs {
    /// Kind, plural or short name (ippool, gnp, nodes); several with commas
    #[arg(value_name = "KIND")]
    kinds: String,
    /// Names; all when absent
    names: Vec<String>,
    #[command(flatten)]
    namespace: NamespaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The `-n` and `-A` flags.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NamespaceArgs {
    /// Namespace
    #[arg(short, long, default_value = "default", value_name = "NS")]
    pub(crate) namespace: String,
    /// All namespaces
    #[arg(short = 'A', long, visible_short_alias = 'a', conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
}

impl NamespaceArgs {
    /// The key of a named object.
    pub(crate) fn key(&self, kind: Kind, name: &str) -> anyhow::Result<Key> {
        anyhow::ensure!(
            !self.all_namespaces || !kind.namespaced(),
            "a name needs one namespace: use -n, not -A"
        );
        let namespace = kind.namespaced().then(|| self.namespace.clone());
        Ok(Key { kind, namespace, name: name.to_owned() })
    }
}

impl GetArgs {
    pub(crate) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let kinds: Vec<Kind> = self.kinds.split(',').map(kind).collect::<Result<_, _>>()?;
        let session = session(global, Access::Read)?;
        let mut report = Report::default();
        let mut found: BTreeMap<Kind, Vec<Resource>> = BTreeMap::new();
        for &kind in &kinds {
            let list = found.entry(kind).or_default();
            for stored in self.fetch(&session, kind, &mut report)? {
                match stored.resource {
                    Ok(resource) => list.push((*resource).clone()),
                    Err(why) => report.error(format!("{} can't be read: {why}", stored.key)),
                }
            }
        }
        report.text = match self.output.output {
            Format::Table => self.tables(&found, false),
            Format::Wide => self.tables(&found, true),
            Format::Yaml => as_yaml(found.values().flatten())?,
            Format::Json => self.as_json(&found)?,
        };
        Ok(report)
    }

    fn fetch(&self, session: &Session, kind: Kind, report: &mut Report) -> anyhow::Result<Vec<Versioned>> {
        if self.names.is_empty() {
            let namespace = (!self.namespace.all_namespaces).then_some(self.namespace.namespace.as_str());
            return session.list(&[kind], namespace);
        }
        let mut found = Vec::new();
        for name in &self.names {
            let key = self.namespace.key(kind, name)?;
            match session.get(&key)? {
                Some(stored) => found.push(stored),
                None => report.error(format!("{key} does not exist")),
            }
        }
        Ok(found)
    }

    fn tables(&self, found: &BTreeMap<Kind, Vec<Resource>>, wide: bool) -> String {
        let table = |(kind, resources): (&Kind, &Vec<Resource>)| {
            if resources.is_empty() {
                // A name that isn't there was complained about already.
                let nothing = format!("No {} found.\n", kind.plural());
                return if self.names.is_empty() { nothing } else { String::new() };
            }
            dynamic_table(&heads(*kind, wide), resources.iter().map(|r| row(r, wide)).collect())
        };
        found.iter().map(table).collect::<Vec<_>>().join("\n")
    }

    /// One object as itself, several as a list.
    fn as_json(&self, found: &BTreeMap<Kind, Vec<Resource>>) -> anyhow::Result<String> {
        let all: Vec<Value> = found.values().flatten().map(Resource::to_json).collect();
        let value = match (all.as_slice(), self.names.len()) {
            ([one], 1) => one.clone(),
            _ => {
                let (kind, version) = match found.keys().next() {
                    Some(kind) if found.len() == 1 => (format!("{}List", kind.kind()), kind.api_version()),
                    _ => ("List".to_owned(), "v1"),
                };
                json!({ "apiVersion": version, "kind": kind, "items": all })
            }
        };
        Ok(serde_json::to_string_pretty(&value).context("writing JSON")? + "\n")
    }
}

/// One document each.
fn as_yaml<'a>(resources: impl Iterator<Item = &'a Resource>) -> anyhow::Result<String> {
    let documents: Vec<String> =
        resources.map(yaml::to_string).collect::<Result<_, _>>().context("writing YAML")?;
    Ok(documents.join("---\n"))
}
