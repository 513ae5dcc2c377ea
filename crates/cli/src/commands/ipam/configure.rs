//! `ipam configure`.

use margay_api::kinds::IpamConfigurationSpec;
use margay_api::{IpamConfiguration, Key, Kind, Metadata, Resource};

use crate::commands::session;
use crate::config::GlobalArgs;
use crate::output::Report;
use crate::store::Access;

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(crate) struct ConfigureArgs {
    /// Whether nodes give out addresses of their own blocks only
    #[arg(long, value_name = "BOOL")]
    strict_affinity: Option<bool>,
    /// Blocks a node may have per family; 0 for any number
    #[arg(long, value_name = "NUMBER")]
    max_blocks_per_host: Option<u32>,
    /// How long a released address rests before it is given out again
    #[arg(long, value_name = "SECONDS")]
    cooldown: Option<u32>,
}

impl ConfigureArgs {
    pub(super) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let session = session(global, Access::Write)?;
        let stored = session.get(&Key::cluster(Kind::IpamConfiguration, "default"))?;
        let mut configuration = match stored.and_then(|stored| stored.resource.ok()).as_deref() {
            Some(Resource::IpamConfiguration(known)) => known.clone(),
            _ => IpamConfiguration::new(Metadata::named("default"), IpamConfigurationSpec::default()),
        };
        let spec = &mut configuration.spec;
        spec.strict_affinity = self.strict_affinity.unwrap_or(spec.strict_affinity);
        spec.max_blocks_per_host = self.max_blocks_per_host.or(spec.max_blocks_per_host);
        spec.ip_cooldown_seconds = self.cooldown.or(spec.ip_cooldown_seconds);
        let said = format!(
            "strictAffinity: {}, maxBlocksPerHost: {}, ipCooldownSeconds: {}",
            spec.strict_affinity,
            spec.max_blocks_per_host.unwrap_or(20),
            spec.ip_cooldown_seconds.unwrap_or(0)
        );
        session.apply(configuration.into())?;
        Ok(Report::text(said))
    }
}
