//! `delete`.

use anyhow::{bail, ensure};
use margay_api::{Key, Kind, Resource};

use super::get::NamespaceArgs;
use super::{kind, session};
use crate::check::{Existing, addresses_in_use};
use crate::config::GlobalArgs;
use crate::files::FileArgs;
use crate::output::{Report, chain};
use crate::store::{Access, Session};

#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    /// Kind, plural or short name
    #[arg(value_name = "KIND", conflicts_with = "filename", requires = "names")]
    kind: Option<String>,
    /// Names
    names: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// What doesn't exist is no error
    #[arg(long, visible_alias = "skip-not-exists")]
    ignore_not_found: bool,
    /// Delete an IPPool although pods have addresses of it
    #[arg(long)]
    force: bool,
}

impl DeleteArgs {
    pub(crate) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let mut report = Report::default();
        let keys: Vec<Key> = match &self.kind {
            Some(text) => {
                let kind = kind(text)?;
                self.names.iter().map(|name| self.namespace.key(kind, name)).collect::<Result<_, _>>()?
            }
            None => {
                ensure!(!self.files.filename.is_empty(), "delete what? use KIND NAME or -f FILE");
                match self.files.read()? {
                    Ok(resources) => resources.iter().map(|item| item.resource.key()).collect(),
                    Err(errors) => {
                        errors.iter().for_each(|error| report.error(error));
                        report.complaints.push("nothing was deleted".to_owned());
                        return Ok(report);
                    }
                }
            }
        };
        let session = session(global, Access::Read)?;
        for key in keys {
            match self.delete(&session, &key) {
                Ok(true) => report.line(format!("{key} deleted")),
                Ok(false) if self.ignore_not_found => {}
                Ok(false) => report.error(format!("{key} does not exist")),
                Err(error) => report.error(format!("{key}: {}", chain(&error))),
            }
        }
        Ok(report)
    }

    fn delete(&self, session: &Session, key: &Key) -> anyhow::Result<bool> {
        if key.kind == Kind::IpPool && !self.force {
            let Some(stored) = session.get(key)? else { return Ok(false) };
            if let Ok(Resource::IpPool(pool)) = stored.resource.as_deref() {
                let blocks = session.list(&[Kind::IpamBlock], None)?;
                let readable: Vec<&Resource> =
                    blocks.iter().filter_map(|v| v.resource.as_deref().ok()).collect();
                let used = addresses_in_use(pool, &Existing::new(readable));
                if used > 0 {
                    bail!(
                        "{used} of its addresses are in use: set spec.disabled, delete those pods, then the pool (or use --force)"
                    );
                }
            }
            return session.delete(key, Some(stored.revision));
        }
        session.delete(key, None)
    }
}
