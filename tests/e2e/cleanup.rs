//! `margay cleanup`: the kernel is as it was before Margay.

use anyhow::{Context, Result, ensure};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::said;

use crate::host::without_counters;
use crate::labs::{Labs, PATIENCE, TWO_NODES, applied, same};

/// Everything goes through tunnels, so that there is something of each kind.
const POOL: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.65.0.0/16, blockSize: 24, vxlanMode: Always, natOutgoing: true}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: some, namespace: shop}
spec: {selector: all(), ingress: [{action: Allow, source: {selector: all()}}]}
";

/// What others have on the node.
const FOREIGN: &str = "iptables -A FORWARD -s 10.9.9.9 -m comment --comment 'mgyish, not ours' -j DROP
    ipset create foreign hash:ip; ipset add foreign 10.9.9.9
    ip link add foreign0 type veth peer name foreign1; ip link set foreign1 up; ip link set foreign0 up; ip address add 198.51.100.1/24 dev foreign0
    ip nexthop add id 7 dev foreign0; ip route add 203.0.113.0/24 nhid 7 proto 99
    nft add table inet foreign; nft add chain inet foreign forward '{ type filter hook forward priority 5; }'";

/// What a node's kernel holds, apart from the empty tables that iptables-nft leaves.
fn kernel(cluster: &Cluster, node: &str) -> Result<String> {
    let script = "iptables-save; ip6tables-save; iptables-legacy-save; ipset list; ip nexthop
        ip -o link | cut -d' ' -f2; ip route show table all; ip -6 route show table all; nft list table inet foreign";
    let text = without_counters(&cluster.run_in(node, "sh", &["-c", script])?);
    let noise = |line: &&str| {
        !line.starts_with(['#', '*', ':']) && line.trim() != "COMMIT" && !line.contains("fe80::")
    };
    let mut lines: Vec<_> = text
        .lines()
        .filter(noise)
        .map(|line| {
            format!(
                "{line}
"
            )
        })
        .collect();
    lines.sort();
    Ok(lines.concat())
}

pub(crate) fn nothing_stays_behind(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    cluster.run_in("node1", "sh", &["-ec", FOREIGN])?;
    let before = kernel(&cluster, "node1")?;
    applied(&cluster, POOL)?;
    for node in ["node1", "node2"] {
        cluster.start(node)?;
        cluster.wait_ready(node, PATIENCE)?;
    }
    let pod = cluster.runtime("node1")?.add("shop", "web")?;
    let all = ["chain", "ip set", "route 10.65.", "nexthop", "interface vxlan.mgy", "interface mgy"];
    let cleanup = |cluster: &Cluster, flags: &[&str]| -> Result<(bool, String)> {
        let mut command = std::process::Command::new(cluster.program("margay")?);
        command.arg("cleanup").args(flags).stdout(std::process::Stdio::piped());
        let output = cluster.node("node1")?.netns().spawn(command.stderr(std::process::Stdio::piped()))?;
        let output = output.wait_with_output()?;
        Ok((output.status.success(), said(&output)))
    };
    // Looking is allowed while the agent runs, and changes nothing.
    let complete = || {
        Ok(all.iter().all(|word| {
            cleanup(&cluster, &["--dry-run", "--pods"]).is_ok_and(|(_, text)| text.contains(word))
        }))
    };
    wait(PATIENCE, complete).with_context(|| format!("{:?}", cleanup(&cluster, &["--dry-run", "--pods"])))?;
    let (ok, refusal) = cleanup(&cluster, &["--pods"])?;
    ensure!(!ok && refusal.contains("already runs on this node"), "while the agent runs: {refusal}");
    cluster.stop("node1")?;
    let (ok, text) = cleanup(&cluster, &[])?;
    ensure!(ok && text.contains("chain filter mgy-"), "{text}");
    let links = cluster.run_in("node1", "ip", &["-o", "link"])?;
    ensure!(links.contains(": mgy") && !links.contains("vxlan.mgy"), "pods' interfaces stay: {links}");
    let (ok, text) = cleanup(&cluster, &["--pods"])?;
    ensure!(ok && text.contains("removed interface mgy") && !text.contains("chain"), "{text}");
    same(&before, &kernel(&cluster, "node1")?)?;
    let nft = cluster.run_in("node1", "nft", &["list", "ruleset"])?;
    ensure!(!nft.contains("mgy-") && !nft.contains("margay"), "{nft}");
    let (ok, text) = cleanup(&cluster, &["--pods"])?;
    ensure!(ok && text.contains("nothing of Margay's"), "{text}");
    drop(pod);
    Ok(())
}
