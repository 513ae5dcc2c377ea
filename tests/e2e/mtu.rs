//! The MTU of a pod that runs, where the kernel refuses it for a while: in a virtual machine, which has devices whose ports must not
//! change theirs.

use anyhow::{Context, Result, ensure};
use margay_netlink::Netlink;
use margay_tests::cluster::{Datastore, wait};

use crate::labs::{Labs, ONE_NODE, PATIENCE, applied, no_pods};
use crate::offload::interface;

const POOL: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.65.0.0/16, blockSize: 26, vxlanMode: Never}
";

/// What could not be set is set later.
pub(crate) fn refused_for_a_while(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(ONE_NODE, Datastore::Embedded)?;
    applied(&cluster, POOL)?;
    cluster.start("node1")?;
    cluster.wait_ready("node1", 2 * PATIENCE)?;
    let pod = cluster.runtime("node1")?.add("default", "web")?;
    let host = interface(&cluster, &pod)?;
    let ip = |command: &str| cluster.run_in("node1", "ip", &command.split_whitespace().collect::<Vec<_>>());
    let mtus = || -> Result<[u32; 2]> {
        let near = Netlink::open_in(cluster.node("node1")?.netns())?.link(&host)?;
        let far = Netlink::open_in(&pod.netns)?.link("eth0")?;
        Ok([near.context("no host side")?.mtu, far.context("no eth0")?.mtu])
    };
    ip("link add team0 type team")?;
    ip(&format!("link set {host} down"))?;
    ip(&format!("link set {host} master team0"))?;
    applied(&cluster, &POOL.replace("Never", "Always"))?;
    wait(PATIENCE, || Ok(cluster.whole_log("node1").contains("MTU 1450 for pod default/web")))
        .with_context(|| format!("{:?}: {}", mtus(), cluster.log("node1")))?;
    ensure!(mtus()?[0] == 1500, "the kernel refuses it: {:?}", mtus());
    ip(&format!("link set {host} nomaster"))?;
    ip(&format!("link set {host} up"))?;
    wait(PATIENCE, || Ok(mtus()? == [1450; 2])).with_context(|| format!("{:?}", mtus()))?;
    cluster.runtime("node1")?.delete(pod)?;
    no_pods(&cluster, "node1")
}
