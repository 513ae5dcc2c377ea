//! `ipam split`.

use anyhow::{Context, bail, ensure};
use ipnet::IpNet;
use margay_api::{IpPool, Key, Kind, Metadata, Resource};

use crate::commands::session;
use crate::config::GlobalArgs;
use crate::output::Report;
use crate::store::Access;

#[derive(Debug, clap::Args)]
pub(crate) struct SplitArgs {
    /// Name of the IPPool
    pool: String,
    /// Number of parts: a power of two
    parts: u32,
}

impl SplitArgs {
    /// The parts are made first: they overlap the older pool, so they come into force, all at once, when it goes. Blocks
    /// stay with their nodes: each is in exactly one of the parts.
    pub(super) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let session = session(global, Access::Read)?;
        let key = Key::cluster(Kind::IpPool, self.pool.as_str());
        let stored = session.get(&key)?.with_context(|| format!("{key} does not exist"))?;
        let pool = match stored.resource.as_deref() {
            Ok(Resource::IpPool(pool)) => pool,
            Ok(_) => bail!("{key} is something else"),
            Err(unreadable) => bail!("{key}: {}", unreadable.reason),
        };
        let mut report = Report::default();
        for part in split(pool, self.parts)? {
            let line = format!("IPPool({}) made: {}", part.metadata.name, part.spec.cidr);
            // One of an attempt that ended early is as good.
            session.apply(part.into())?;
            report.line(line);
        }
        session.delete(&key, Some(stored.revision))?;
        report.line(format!("{key} deleted"));
        Ok(report)
    }
}

/// The pool in parts of equal size, `<name>-<number>`, otherwise as it is.
fn split(pool: &IpPool, parts: u32) -> anyhow::Result<Vec<IpPool>> {
    ensure!(parts >= 2 && parts.is_power_of_two(), "{parts} parts: use 2, 4, 8 or another power of two");
    let cidr: IpNet = pool.spec.cidr.trunc();
    let length =
        u8::try_from(parts.trailing_zeros()).ok().and_then(|more| cidr.prefix_len().checked_add(more));
    let length = length.filter(|length| *length <= pool.spec.block_size());
    let Some(length) = length else {
        bail!("{cidr} has blocks of /{}: that is not enough for {parts} parts", pool.spec.block_size());
    };
    let (name, spec) = (&pool.metadata.name, &pool.spec);
    let part = |(number, cidr)| {
        let mut metadata = Metadata::named(format!("{name}-{number}"));
        metadata.labels.clone_from(&pool.metadata.labels);
        metadata.annotations.clone_from(&pool.metadata.annotations);
        let mut part = IpPool::new(metadata, spec.clone());
        part.spec.cidr = cidr;
        part
    };
    Ok((0u32..).zip(cidr.subnets(length)?).map(part).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_pool_and_are_no_smaller_than_a_block() {
        let spec = serde_json::json!({ "cidr": "10.65.0.0/16", "blockSize": 18, "vxlanMode": "Always" });
        let pool = IpPool::new(Metadata::named("pods"), serde_json::from_value(spec).unwrap());
        let parts = split(&pool, 4).unwrap();
        let cidrs: Vec<String> = parts.iter().map(|part| part.spec.cidr.to_string()).collect();
        assert_eq!(cidrs, ["10.65.0.0/18", "10.65.64.0/18", "10.65.128.0/18", "10.65.192.0/18"]);
        assert_eq!(
            (parts[3].metadata.name.as_str(), parts[3].spec.vxlan_mode),
            ("pods-3", pool.spec.vxlan_mode)
        );
        assert!(split(&pool, 3).is_err() && split(&pool, 1).is_err());
        assert!(split(&pool, 8).unwrap_err().to_string().contains("blocks of /18"));
    }
}
