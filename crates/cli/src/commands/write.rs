//! `apply`, `create`, `replace`.

use margay_api::{Kind, Resource};
use margay_datastore::Applied;

use super::session;
use crate::check::{Existing, check};
use crate::config::GlobalArgs;
use crate::files::FileArgs;
use crate::output::{Report, chain};
use crate::store::{Access, Session};

/// What may be there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Anything.
    Apply,
    /// Nothing.
    Create,
    /// It must.
    Replace,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WriteArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Check everything, write nothing
    #[arg(long)]
    dry_run: bool,
}

impl WriteArgs {
    /// Either all files are right and everything is tried, or nothing is written.
    pub(crate) fn run(&self, mode: Mode, global: &GlobalArgs) -> anyhow::Result<Report> {
        anyhow::ensure!(!self.files.filename.is_empty(), "which files? use -f FILE, -f FOLDER or -f -");
        let mut report = Report::default();
        let resources = match self.files.read()? {
            Ok(resources) => resources,
            Err(errors) => {
                errors.iter().for_each(|error| report.error(error));
                report.complaints.push("nothing was written".to_owned());
                return Ok(report);
            }
        };
        let session = session(global, Access::Write)?;
        let stored = session.list(&[Kind::IpPool, Kind::IpamBlock, Kind::Node], None)?;
        let readable: Vec<&Resource> = stored.iter().filter_map(|v| v.resource.as_deref().ok()).collect();
        let findings = check(&resources, &Existing::new(readable));
        findings.warnings.iter().for_each(|warning| report.warn(warning));
        if !findings.errors.is_empty() {
            findings.errors.iter().for_each(|error| report.error(error));
            report.complaints.push("nothing was written".to_owned());
            return Ok(report);
        }
        for item in resources {
            let name = short_name(&item.resource);
            if self.dry_run {
                report.line(format!("{name} is right (nothing was written)"));
                continue;
            }
            match write(&session, mode, item.resource) {
                Ok(done) => report.line(format!("{name} {done}")),
                Err(error) => report.error(format!("{}: {}", item.place, chain(&error))),
            }
        }
        Ok(report)
    }
}

fn write(session: &Session, mode: Mode, resource: Resource) -> anyhow::Result<&'static str> {
    let key = resource.key();
    match mode {
        Mode::Create => return session.create(resource).map(|()| "created"),
        Mode::Replace => {
            anyhow::ensure!(session.get(&key)?.is_some(), "{key} does not exist: use create or apply");
        }
        Mode::Apply => {}
    }
    Ok(match session.apply(resource)? {
        Applied::Created(_) => "created",
        Applied::Updated(_) => "configured",
        Applied::Unchanged(_) => "unchanged",
    })
}

/// `ippool/default`, `networkpolicy/shop/web`.
pub(crate) fn short_name(resource: &Resource) -> String {
    let key = resource.key();
    let kind = key.kind.to_string().to_ascii_lowercase();
    match key.namespace {
        Some(namespace) => format!("{kind}/{namespace}/{}", key.name),
        None => format!("{kind}/{}", key.name),
    }
}
