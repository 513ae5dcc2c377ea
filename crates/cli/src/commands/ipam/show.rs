//! `ipam show`.

use std::net::IpAddr;

use margay_api::kinds::disjoint_pools;
use margay_control::status::IpamStatus;
use margay_ipam::allocations;
use serde::Serialize;

use super::cluster::Cluster;
use crate::commands::daemon;
use crate::config::GlobalArgs;
use crate::output::{OutputArgs, Report, dash, render, table};

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Who has this address, anywhere in the cluster
    #[arg(conflicts_with = "cluster")]
    address: Option<IpAddr>,
    /// Pools and blocks of the whole cluster
    #[arg(long, visible_alias = "show-blocks")]
    cluster: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// A part of the cluster's addresses: a pool, or a block of one.
#[derive(Debug, Serialize)]
struct Share {
    grouping: &'static str,
    cidr: String,
    owner: String,
    total: u128,
    used: usize,
}

/// Who has an address.
#[derive(Debug, Serialize)]
struct Holder {
    address: IpAddr,
    block: String,
    node: Option<String>,
    pod: Option<String>,
    handle: Option<String>,
}

impl ShowArgs {
    pub(super) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let format = self.output.output;
        Ok(Report::text(if let Some(address) = self.address {
            let holders = holders(&Cluster::read(global)?, address);
            render(format, &holders, |_| who(&holders))?
        } else if self.cluster {
            let shares = shares(&Cluster::read(global)?);
            render(format, &shares, |_| used(&shares))?
        } else {
            let status: IpamStatus = daemon(global)?.get("/v1/ipam")?;
            render(format, &status, |wide| show(&status, wide))?
        }))
    }
}

fn shares(cluster: &Cluster) -> Vec<Share> {
    let (mut pools, _not_in_force) = disjoint_pools(&cluster.pools);
    pools.sort_by_key(|pool| pool.spec.cidr);
    let size = |cidr: &ipnet::IpNet| 1u128.checked_shl(u32::from(cidr.max_prefix_len() - cidr.prefix_len()));
    let mut shares = Vec::new();
    for pool in pools {
        let inside = cluster.blocks.iter().filter(|block| pool.spec.cidr.contains(&block.spec.cidr));
        let blocks: Vec<Share> = inside
            .map(|block| Share {
                grouping: "block",
                cidr: block.spec.cidr.to_string(),
                owner: dash(block.spec.affinity.as_ref()),
                total: size(&block.spec.cidr).unwrap_or(u128::MAX),
                used: allocations(block).count(),
            })
            .collect();
        shares.push(Share {
            grouping: "pool",
            cidr: pool.spec.cidr.to_string(),
            owner: pool.metadata.name.clone(),
            total: size(&pool.spec.cidr).unwrap_or(u128::MAX),
            used: blocks.iter().map(|block| block.used).sum(),
        });
        shares.extend(blocks);
    }
    shares
}

fn used(shares: &[Share]) -> String {
    let rows = shares.iter().map(|share| {
        let used = u128::try_from(share.used).unwrap_or(u128::MAX);
        let percent = used.saturating_mul(100) / share.total.max(1);
        [
            share.grouping.to_owned(),
            share.cidr.clone(),
            share.owner.clone(),
            share.total.to_string(),
            format!("{used} ({percent}%)"),
            share.total.saturating_sub(used).to_string(),
        ]
    });
    let heads = ["GROUPING", "CIDR", "OWNER", "IPS TOTAL", "IPS IN USE", "IPS FREE"];
    table(heads, rows.collect(), "IP pools")
}

fn holders(cluster: &Cluster, address: IpAddr) -> Vec<Holder> {
    let blocks = cluster.blocks.iter().filter(|block| block.spec.cidr.contains(&address));
    blocks
        .map(|block| {
            let known = allocations(block).find(|known| known.address == address);
            let attributes = known.as_ref().map(|known| &known.attributes);
            let pod = attributes.and_then(|known| Some((known.namespace.as_ref()?, known.pod.as_ref()?)));
            Holder {
                address,
                block: block.spec.cidr.to_string(),
                node: attributes.and_then(|known| known.node.clone()),
                pod: pod.map(|(namespace, pod)| format!("{namespace}/{pod}")),
                handle: known.map(|known| known.handle.to_string()),
            }
        })
        .collect()
}

fn who(holders: &[Holder]) -> String {
    let rows = holders.iter().map(|holder| {
        [
            holder.address.to_string(),
            holder.block.clone(),
            dash(holder.node.as_ref()),
            dash(holder.pod.as_ref()),
            holder.handle.clone().unwrap_or_else(|| "(free)".to_owned()),
        ]
    });
    table(["ADDRESS", "BLOCK", "NODE", "POD", "HANDLE"], rows.collect(), "blocks with this address")
}

fn show(status: &IpamStatus, wide: bool) -> String {
    let blocks = status.blocks.iter().map(|block| {
        let free = block.total.saturating_sub(block.used).saturating_sub(block.cooling);
        let percent = (block.used * 100).checked_div(block.total).unwrap_or(0);
        [
            block.cidr.to_string(),
            block.pool.clone(),
            block.total.to_string(),
            format!("{} ({percent}%)", block.used),
            block.cooling.to_string(),
            free.to_string(),
        ]
    });
    let heads = ["BLOCK", "POOL", "IPS TOTAL", "IPS IN USE", "COOLING", "IPS FREE"];
    let blocks = table(heads, blocks.collect(), "blocks");
    let short = |handle: &str| {
        if wide || handle.chars().count() <= 40 {
            handle.to_owned()
        } else {
            handle.chars().take(39).chain(['…']).collect()
        }
    };
    let addresses = status
        .addresses
        .iter()
        .map(|a| [a.address.to_string(), dash(a.pod.as_ref()), short(&a.handle)])
        .collect();
    let addresses = table(["ADDRESS", "POD", "HANDLE"], addresses, "addresses in use");
    format!("Node {}\n\n{blocks}\n{addresses}", status.node)
}
