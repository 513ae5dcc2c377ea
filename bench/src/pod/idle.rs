//! What an agent costs that has nothing to do: in a big cluster, on a node full of pods.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_api::kinds::Affinity;
use margay_api::{IpamBlock, Metadata};
use margay_netlink::Netns;
use serde_json::json;

use super::plugin::{Plugin, fill, pool_spec, start_agent};
use super::{Line, Programs};
use crate::fib::{self, AGENT, lab};
use crate::policy::Folder;
use crate::process::{cpu_of, current_kib_of};

/// The cluster's nodes have a block each, in the datastore and from the reflector.
pub(super) fn measure(
    programs: &Programs<'_>,
    (nodes, pods, seconds): (u32, usize, u64),
) -> Result<Vec<Line>> {
    let folder = Folder::new("idle")?;
    let (here, there) = lab()?;
    let mut objects = fib::objects(nodes, pool_spec(json!({ "cidr": "10.0.0.0/8", "blockSize": 24 }))?);
    for node in 0..nodes {
        let cidr = fib::block(node, 0, 1);
        let spec = json!({
            "cidr": cidr, "affinity": Affinity::Host(format!("node-{node}")).to_string(),
            "allocations": vec![None::<u32>; 256], "attributes": [], "unallocated": (0..256).collect::<Vec<u32>>(),
            "strictAffinity": true,
        });
        let name = cidr.to_string().replace(['.', '/'], "-");
        objects.push(IpamBlock::new(Metadata::named(name), serde_json::from_value(spec)?).into());
    }
    fill(&folder.0, objects)?;
    let agent = start_agent(&here, &folder.0, "n1", AGENT)?;
    let process = agent.0.id();
    there
        .run(|| {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let speaker = runtime.block_on(fib::establish())?;
            runtime.block_on(speaker.set_originated(fib::originated(nodes, 1)))?;
            let plugin = Plugin::margay(programs.shim, here, &folder.0, "n1");
            plugin.wait_ready()?;
            let namespaces: Vec<Netns> = (0..pods).map(|_| Ok(Netns::new()?)).collect::<Result<_>>()?;
            for (number, netns) in namespaces.iter().enumerate() {
                plugin.pod("ADD", number, netns)?;
            }
            // The datastore hears of the pods a moment later.
            std::thread::sleep(Duration::from_secs(seconds.min(10)));
            let before = cpu_of(process);
            std::thread::sleep(Duration::from_secs(seconds));
            let used = (cpu_of(process) - before).as_secs_f64();
            let mib = current_kib_of(process) as f64 / 1024.0;
            ensure!(mib > 0.0, "the agent has ended");
            runtime.shutdown_background();
            let what = format!("{nodes} nodes, {pods} pods");
            Ok(vec![
                Line::limit(format!("{what}: memory"), "MiB", mib, 40.0),
                Line::limit(format!("{what}: part of a core"), "%", used / seconds as f64 * 100.0, 0.5),
            ])
        })?
        .context("an agent at rest")
}
