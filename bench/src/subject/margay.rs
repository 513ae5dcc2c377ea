//! Ours: the real program, told by a datastore with a Node and the blocks of every client.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use ipnet::Ipv4Net;
use margay_api::kinds::{Affinity, IpamBlockSpec, NodeBgp, NodeSpec};
use margay_api::{Metadata, Node, Object};
use margay_datastore::{Store, StoreConfig};

use crate::plan::{Plan, REFLECTOR, clients_net};

pub(super) fn prepare(command: &mut Command, plan: &Plan, folder: &Path) -> Result<()> {
    let path = folder.join("store.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(fill(plan, &StoreConfig::embedded(&path)))?;
    command.env_clear().arg("--datastore-path").arg(path).arg("--socket").arg(folder.join("control.sock"));
    command.args(["--node", "reflector", "--log-level", "warn"]);
    command.arg(format!("--ipv4-address={REFLECTOR}/30")).arg(format!("--cluster-id={REFLECTOR}"));
    Ok(())
}

async fn fill(plan: &Plan, config: &StoreConfig) -> Result<()> {
    let store = Store::connect(config).await?;
    for client in 0..plan.clients {
        let name = format!("node-{client:04}");
        let address = Ipv4Net::new(Plan::address(client), clients_net().prefix_len())?;
        let bgp = NodeBgp { ipv4_address: Some(address), ..NodeBgp::default() };
        let spec = NodeSpec { bgp: Some(bgp), ..NodeSpec::default() };
        store.create(Node::new(Metadata::named(name.clone()), spec).into()).await?;
        for block in plan.blocks(client) {
            let spec = full_block(block, &name);
            let label = block.to_string().replace(['.', '/'], "-");
            store.create(Object::<IpamBlockSpec>::new(Metadata::named(label), spec).into()).await?;
        }
    }
    Ok(())
}

/// What IPAM's arithmetic needs besides the owner does not matter here.
fn full_block(cidr: Ipv4Net, node: &str) -> IpamBlockSpec {
    IpamBlockSpec {
        cidr: cidr.into(),
        affinity: Some(Affinity::Host(node.to_owned())),
        affinity_claim_time: None,
        allocations: Vec::new(),
        attributes: Vec::new(),
        unallocated: Vec::new(),
        strict_affinity: false,
        sequence_number: 0,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
    }
}
