//! Routers beside the cluster (BIRD as a top of rack of another AS, FRR inside the AS) and restarts on either side:
//! nobody's kernel loses a route, no packet is lost.

use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use margay_control::bgp::Peer;
use margay_control::status::IpamStatus;
use margay_lab::Process;
use margay_lab::probe::{Protocol, Stream};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::foreign;
use margay_tests::pods::Pod;

use crate::labs::{Labs, PATIENCE, PROBE_EVERY, applied, none_lost, send_more, sessions};

pub(crate) const LAB: &str = "tests/labs/routers.clab.yml";

pub(crate) const NODES: [&str; 2] = ["node1", "node2"];

/// The session with BIRD runs over IPv4, that with FRR over IPv6; each carries both families.
const CLUSTER: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: four}
spec: {cidr: 10.65.0.0/16, blockSize: 24}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: six}
spec: {cidr: 'fd65::/48', blockSize: 120}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: bird}
spec: {peerIP: 172.30.1.1, asNumber: 64513}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: frr}
spec: {peerIP: 'fd30::2', asNumber: 64512}
";

/// Every network that pods are in.
const PODS: [&str; 2] = ["10.65.", "fd65:"];

const BIRD: &str = "router id 172.30.1.1;
graceful restart wait 20;
log stderr all;
protocol device {}
protocol direct { ipv4; ipv6; interface \"eth2\"; }
protocol kernel { persist; graceful restart; ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel { persist; graceful restart; ipv6 { import none; export where source = RTS_BGP; }; }
template bgp node {
  local 172.30.1.1 as 64513;
  graceful restart;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 { import all; export where source ~ [RTS_DEVICE, RTS_STATIC]; next hop self; };
  ipv6 { import all; export where source ~ [RTS_DEVICE, RTS_STATIC]; next hop address fd30::1; };
}
protocol bgp node1 from node { neighbor 172.30.1.11 as 64512; }
protocol bgp node2 from node { neighbor 172.30.1.12 as 64512; }
";

/// What BIRD announces until it restarts.
const BIRD_BEFORE: &str = "protocol static { ipv4; route 10.93.0.0/24 blackhole; }
protocol static { ipv6; route fd93::/64 blackhole; }
";

const FRR: &str = "router bgp 64512
 bgp router-id 172.30.1.2
 no bgp default ipv4-unicast
 no bgp network import-check
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 coalesce-time 0
 neighbor nodes peer-group
 neighbor nodes remote-as 64512
 neighbor nodes timers connect 1
 neighbor nodes advertisement-interval 0
 neighbor nodes capability extended-nexthop
 neighbor fd30::11 peer-group nodes
 neighbor fd30::12 peer-group nodes
";

/// A router: where it is, and how it is run.
pub(crate) struct Router {
    node: &'static str,
    folder: PathBuf,
    /// Of a route it announces only before its restart, by family.
    passing: [IpNet; 2],
    processes: Vec<Process>,
}

impl Router {
    pub(crate) fn bird(cluster: &Cluster) -> Result<Self> {
        let passing = ["10.93.0.0/24".parse()?, "fd93::/64".parse()?];
        Self { node: "bird", folder: cluster.folder("bird"), passing, processes: Vec::new() }.begun(cluster)
    }

    fn frr(cluster: &Cluster) -> Result<Self> {
        let passing = ["10.94.0.0/24".parse()?, "fd94::/64".parse()?];
        let mut frr = Self { node: "frr", folder: cluster.folder("frr"), passing, processes: Vec::new() };
        std::fs::create_dir_all(&frr.folder)?;
        let conf = frr.folder.join("zebra.conf");
        std::fs::write(&conf, "")?;
        // It insists on a user of its own.
        std::fs::set_permissions(&frr.folder, Permissions::from_mode(0o777))?;
        let mut zebra = frr.of_frr("zebra");
        zebra.arg("-f").arg(conf);
        let log = frr.folder.join("zebra.log");
        frr.processes.push(cluster.node("frr")?.spawn("zebra", zebra, &log).context("Debian's frr")?);
        let ready = frr.folder.join("zserv");
        wait(PATIENCE, || Ok(ready.exists()))
            .with_context(|| format!("zebra: {}", std::fs::read_to_string(&log).unwrap_or_default()))?;
        frr.begun(cluster)
    }

    fn of_frr(&self, program: &str) -> Command {
        let mut command = foreign::command(format!("/usr/lib/frr/{program}"));
        command.args(["-P", "0", "--log", "stdout"]).arg("-z").arg(self.folder.join("zserv"));
        command.arg("-i").arg(self.folder.join(format!("{program}.pid")));
        command.arg("--vty_socket").arg(&self.folder);
        command
    }

    fn begun(mut self, cluster: &Cluster) -> Result<Self> {
        std::fs::create_dir_all(&self.folder)?;
        self.start(cluster, true)?;
        Ok(self)
    }

    /// Starts the speaker; only before its restart it announces everything.
    fn start(&mut self, cluster: &Cluster, before: bool) -> Result<()> {
        let conf = self.folder.join("bgp.conf");
        let command = if self.node == "bird" {
            std::fs::write(&conf, format!("{BIRD}{}", if before { BIRD_BEFORE } else { "" }))?;
            let mut bird = foreign::command("/usr/sbin/bird");
            bird.arg("-f").arg("-c").arg(&conf).arg("-s").arg(self.folder.join("ctl"));
            bird.args((!before).then_some("-R"));
            bird
        } else {
            let mut text = FRR.to_owned();
            for (family, own, passing) in
                [("ipv4", "10.92.0.0/24", self.passing[0]), ("ipv6", "fd92::/64", self.passing[1])]
            {
                let passing = if before { format!("  network {passing}\n") } else { String::new() };
                text += &format!(
                    " address-family {family} unicast\n  network {own}\n{passing}  neighbor nodes activate\n exit-address-family\n"
                );
            }
            std::fs::write(&conf, text)?;
            let mut bgpd = self.of_frr("bgpd");
            bgpd.arg("-S").arg("-f").arg(&conf);
            bgpd
        };
        let log = self.folder.join("log");
        self.processes.push(cluster.node(self.node)?.spawn(self.node, command, &log)?);
        Ok(())
    }

    /// Ends the speaker as a crash does and starts it again without what was only passing.
    fn restarts(&mut self, cluster: &Cluster, away: impl FnOnce() -> Result<()>) -> Result<()> {
        self.processes.pop().context("not running")?.kill()?;
        away()?;
        self.start(cluster, false)
    }
}

/// Everything that happens to a node's routes from now on.
struct Watch {
    node: &'static str,
    process: Process,
    seen: usize,
}

impl Watch {
    fn start(cluster: &Cluster, node: &'static str) -> Result<Self> {
        let mut ip = Command::new("ip");
        ip.args(["monitor", "route"]);
        let log = cluster.folder("watch");
        std::fs::create_dir_all(&log)?;
        let process = cluster.node(node)?.spawn("ip monitor", ip, &log.join(node))?;
        Ok(Self { node, process, seen: 0 })
    }

    /// Routes to these networks that were deleted since this was asked last.
    fn deleted(&mut self, networks: &[&str]) -> Vec<String> {
        let text = self.process.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let new = lines.get(self.seen..).unwrap_or_default().to_vec();
        self.seen = lines.len();
        let concerned = |line: &&&str| {
            let route = line.strip_prefix("Deleted ");
            route.is_some_and(|route| networks.iter().any(|network| route.starts_with(network)))
        };
        new.iter().filter(concerned).map(|line| (*line).to_owned()).collect()
    }

    fn none_deleted(&mut self, networks: &[&str], when: &str) -> Result<()> {
        let deleted = self.deleted(networks);
        ensure!(deleted.is_empty(), "{when}, {} deleted {deleted:#?}", self.node);
        Ok(())
    }
}

/// Whether a node's kernel has a route.
fn has(cluster: &Cluster, node: &str, prefix: IpNet) -> Result<bool> {
    let family = if prefix.addr().is_ipv4() { "-4" } else { "-6" };
    Ok(!cluster.run_in(node, "ip", &[family, "route", "show", &prefix.to_string()])?.trim().is_empty())
}

fn addresses(cluster: &Cluster, pod: &Pod) -> Result<Vec<IpAddr>> {
    let ipam: IpamStatus = cluster.client(&pod.node).get("/v1/ipam")?;
    let own = ipam.addresses.into_iter().filter(|one| one.pod.as_deref() == Some(&pod.full_name()));
    Ok(own.map(|one| one.address).collect())
}

/// Waits until all sessions are up and have been told everything both ways: a second restart before that makes peers
/// drop what is still stale from the first (RFC 4724 section 4.2), and BIRD waits three seconds for one who restarts.
fn all_up(cluster: &Cluster) -> Result<()> {
    for node in NODES {
        let up = || {
            let peers = sessions(cluster, node)?;
            let told = |peer: &Peer| {
                let whole = peer.families.iter().all(|one| one.end_of_rib_received && one.end_of_rib_sent);
                peer.state == "Established" && whole && peer.stale == 0
            };
            Ok(peers.len() == 3 && peers.iter().all(told))
        };
        wait(PATIENCE, up).with_context(|| format!("{node}: {:#?}", sessions(cluster, node)))?;
    }
    Ok(())
}

/// Probes that pass from a host to a pod and back, when all of some have done so before.
pub(crate) fn steady(cluster: &Cluster, from: &str, to: IpAddr) -> Result<Stream> {
    let netns = cluster.node(from)?.netns();
    wait(PATIENCE, || {
        let trial = Stream::start(netns, to, Protocol::Icmp, PROBE_EVERY)?;
        send_more(&trial, 3)?;
        Ok(trial.received() >= 2)
    })
    .with_context(|| format!("from {from} to {to}"))?;
    Ok(Stream::start(netns, to, Protocol::Icmp, PROBE_EVERY)?)
}

/// What everybody's kernel holds, and what the routers last said: for a failure.
pub(crate) fn state(cluster: &Cluster) -> String {
    let mut text = String::new();
    for node in ["node1", "bird", "frr"] {
        for family in ["-4", "-6"] {
            let routes = cluster.run_in(node, "ip", &[family, "route", "show"]).unwrap_or_default();
            text += &format!("## {node} ip {family} route\n{routes}");
        }
        let log = cluster.whole_log(node);
        let lines: Vec<&str> = log.lines().collect();
        text += &lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
        text.push('\n');
    }
    text
}

pub(crate) fn restarts_on_either_side(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(LAB, Datastore::Embedded)?;
    applied(&cluster, CLUSTER)?;
    restarts(&mut cluster).with_context(|| state(&cluster))
}

fn restarts(cluster: &mut Cluster) -> Result<()> {
    let mut routers = [Router::bird(cluster)?, Router::frr(cluster)?];
    NODES.iter().try_for_each(|node| cluster.start(node))?;
    NODES.iter().try_for_each(|node| cluster.wait_ready(node, PATIENCE))?;
    let pod = cluster.runtime("node1")?.add("shop", "pod")?;
    let targets = addresses(cluster, &pod)?;
    ensure!(targets.len() == 2, "an address of each family: {targets:?}");
    let mut streams = Vec::new();
    for from in ["behind-bird", "behind-frr"] {
        for to in &targets {
            streams.push(steady(cluster, from, *to)?);
        }
    }
    all_up(cluster)?;
    for prefix in routers.iter().flat_map(|router| router.passing) {
        wait(PATIENCE, || has(cluster, "node1", prefix)).with_context(|| format!("no {prefix} on node1"))?;
    }
    let go_on = |count| send_more(streams.first().context("no stream")?, count);
    let mut of_routers = [Watch::start(cluster, "bird")?, Watch::start(cluster, "frr")?];
    let mut of_node = Watch::start(cluster, "node1")?;
    go_on(20)?;

    // Our restarts: in order, and by a crash.
    for crash in [false, true] {
        if crash {
            cluster.kill("node1")?
        } else {
            cluster.stop("node1")?
        }
        go_on(100)?;
        cluster.start("node1")?;
        cluster.wait_ready("node1", PATIENCE)?;
        all_up(cluster)?;
        go_on(50)?;
        let when = if crash { "when the agent was killed" } else { "when the agent was stopped" };
        of_routers.iter_mut().try_for_each(|watch| watch.none_deleted(&PODS, when))?;
        of_node.none_deleted(&["10.", "fd"], when)?;
    }

    // FRR 8.4's zebra takes what is stale away an instant before it puts the same in again.
    for (prefix, node) in [("10.65.0.0/16", "172.30.1.11"), ("fd65::/48", "fd30::11")] {
        cluster.run_in("frr", "ip", &["route", "add", prefix, "via", node, "metric", "4096"])?;
    }
    // Theirs: what they announce no more goes, and nothing else.
    for router in &mut routers {
        router.restarts(cluster, || {
            let lost = || Ok(sessions(cluster, "node1")?.iter().any(|peer| peer.state != "Established"));
            wait(PATIENCE, lost).context("the session is lost")?;
            go_on(100)?;
            of_node.none_deleted(&["10.", "fd"], "while the router was away")
        })?;
        for prefix in router.passing {
            wait(PATIENCE, || Ok(!has(cluster, "node1", prefix)?))
                .with_context(|| format!("{prefix} stays on node1 for good"))?;
        }
        all_up(cluster)?;
        go_on(100)?;
        let gone = of_node.deleted(&["10.", "fd"]);
        let passing = router.passing.map(|prefix| prefix.to_string());
        let wanted = |line: &String| passing.iter().any(|prefix| line.contains(prefix.as_str()));
        ensure!(gone.iter().all(wanted), "{} came back, node1 deleted {gone:#?}", router.node);
        let [of_bird, _] = &mut of_routers;
        of_bird.none_deleted(&PODS, router.node)?;
    }
    streams.into_iter().try_for_each(none_lost)?;
    cluster.runtime("node1")?.delete(pod)
}
