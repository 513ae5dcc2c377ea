//! What `margay bgp` shows of a real reflector and real agents.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use margay_control::bgp::Route;
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::said;

use crate::labs::{Labs, PATIENCE, sessions, wait_metric};

fn bgp(cluster: &Cluster, node: &str, arguments: &[&str]) -> Result<String> {
    let output = cluster.margay_on(node, &[&["bgp"], arguments].concat())?;
    ensure!(output.status.success(), "margay bgp {arguments:?} on {node}: {}", said(&output));
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn routes(cluster: &Cluster, node: &str, arguments: &[&str]) -> Result<Vec<Route>> {
    let text = bgp(cluster, node, &[arguments, &["-o", "json"]].concat())?;
    serde_json::from_str(&text).with_context(|| text)
}

/// The demo's cluster with every session up and every block everywhere.
fn settled(labs: &mut Labs) -> Result<&Cluster> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    for (node, count) in [("node1", 2), ("rr1", 4)] {
        wait(PATIENCE, || {
            let up = sessions(cluster, node)?.iter().filter(|peer| peer.state == "Established").count();
            Ok(up == count && routes(cluster, node, &["routes", "--best"])?.len() == 3)
        })
        .with_context(|| format!("{node}: {:#?}", sessions(cluster, node)))?;
    }
    Ok(cluster)
}

pub(crate) fn at_sessions_and_routes(labs: &mut Labs) -> Result<()> {
    let cluster = settled(labs)?;
    let summary = bgp(cluster, "rr1", &["summary"])?;
    ensure!(summary.starts_with("4 of 4 sessions established"), "{summary}");
    let peers = bgp(cluster, "node1", &["peers", "-o", "wide"])?;
    ensure!(peers.lines().count() == 3 && peers.contains("graceful restart"), "{peers}");

    let node1 = cluster.address("node1")?.to_string();
    let session = bgp(cluster, "rr1", &["neighbor", &node1])?;
    ensure!(session.contains("state          Established") && session.contains("ipv4-unicast"), "{session}");
    let received = routes(cluster, "rr1", &["neighbor", &node1, "received"])?;
    let [own] = received.as_slice() else { anyhow::bail!("one block: {received:#?}") };
    ensure!(own.best && own.from.is_some_and(|from| from.to_string() == node1), "{own:#?}");
    let advertised = routes(cluster, "rr1", &["neighbor", &node1, "advertised"])?;
    ensure!(
        advertised.len() == 3 && advertised.iter().all(|it| !it.cluster_list.is_empty()),
        "{advertised:#?}"
    );
    let filtered = bgp(cluster, "rr1", &["neighbor", &node1, "filtered"])?;
    ensure!(filtered == "No BGP routes.\n", "{filtered}");

    let block = own.prefix.to_string();
    let all = routes(cluster, "node1", &["routes"])?;
    let inside = routes(cluster, "node1", &["routes", &block, "--best", "--family", "ipv4"])?;
    ensure!(all.len() > 3 && inside.len() == 1, "{all:#?}");
    let detail = bgp(cluster, "node1", &["route", &own.prefix.addr().to_string()])?;
    ensure!(detail.starts_with(&format!(">  {block} originated here")), "{detail}");
    let why = bgp(cluster, "rr1", &["explain", &block])?;
    ensure!(
        why.contains("Paths, best first:") && why.contains(&format!("  {node1}: sent: next hop {node1}")),
        "{why}"
    );
    // What another reflector reflects is worse than what the node itself says (RFC 4456 section 9).
    let rr2 = cluster.address("rr2")?.to_string();
    let reflected = routes(cluster, "rr1", &["neighbor", &rr2, "received"])?;
    ensure!(reflected.len() == 3 && reflected.iter().all(|it| !it.best), "{reflected:#?}");
    ensure!(why.contains("shorter CLUSTER_LIST: length 0 against length 1, which decides"), "{why}");

    for arguments in [["neighbor", "192.0.2.77"], ["route", "192.0.2.0/24"], ["explain", "nonsense"]] {
        let output = cluster.margay_on("rr1", &[&["bgp"], arguments.as_slice()].concat())?;
        ensure!(!output.status.success() && said(&output).contains(arguments[1]), "{}", said(&output));
    }
    Ok(())
}

/// `margay bgp … --watch` on a node's daemon, with what it prints in a file; ends with it.
struct Watch {
    child: Child,
    file: PathBuf,
}

impl Watch {
    fn begin(cluster: &Cluster, node: &str, name: &str, arguments: &[&str]) -> Result<Self> {
        let file = cluster.folder(node).join(name);
        let mut command = Command::new(cluster.program("margay")?);
        command.arg("bgp").args(arguments).arg("--watch").arg("--socket").arg(cluster.socket(node));
        let child = command.stdin(Stdio::null()).stdout(File::create(&file)?).spawn()?;
        Ok(Self { child, file })
    }

    /// Waits until what it has printed from an octet on is as it should be; how much that is.
    fn until(&self, from: usize, says: impl Fn(&str) -> bool) -> Result<usize> {
        let printed = || Ok::<_, anyhow::Error>(std::fs::read_to_string(&self.file)?);
        wait(PATIENCE, || Ok(printed()?.get(from..).is_some_and(&says)))
            .with_context(|| format!("{} after {from}: {:?}", self.file.display(), printed()))?;
        Ok(printed()?.len())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A node that goes and comes back, as those see it who watch its reflector.
pub(crate) fn at_what_changes(labs: &mut Labs) -> Result<()> {
    settled(labs)?;
    let cluster = &mut labs.demo(Datastore::Embedded)?.cluster;
    let node2 = cluster.address("node2")?.to_string();
    let own = routes(cluster, "rr1", &["neighbor", &node2, "received"])?;
    let [own] = own.as_slice() else { anyhow::bail!("one block: {own:#?}") };
    let block = format!("\"prefix\":\"{}\"", own.prefix);
    let paths = Watch::begin(cluster, "rr1", "routes.watch", &["routes", "-o", "json", "--peer", &node2])?;
    let peers = Watch::begin(cluster, "rr1", "summary.watch", &["summary"])?;
    let row = |line: &str, state: &str| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        cells.first() == Some(&&*node2) && cells.get(5) == Some(&state)
    };
    let (mut path, mut peer) = (
        paths.until(0, |text| text.contains(&block))?,
        peers.until(0, |text| {
            text.starts_with("4 of 4 sessions established") && text.lines().any(|line| row(line, "1"))
        })?,
    );
    cluster.kill("node2")?;
    peer = peers.until(peer, |text| text.lines().any(|line| line.starts_with(&node2) && !row(line, "1")))?;
    path = paths.until(path, |text| text.contains(&block) && text.contains("\"stale\":true"))?;
    let labels = [("peer", &*node2), ("family", "ipv4-unicast")];
    wait_metric(cluster, "rr1", "bgp_peer_stale_prefixes", &labels, |stale| stale == 1)?;
    cluster.start("node2")?;
    peers.until(peer, |text| text.lines().any(|line| row(line, "1")))?;
    paths.until(path, |text| {
        text.lines().any(|line| line.contains(&block) && line.contains("\"stale\":false"))
    })?;
    settled(labs).map(drop)
}

pub(crate) fn at_the_table_as_others_read_it(labs: &mut Labs) -> Result<()> {
    let cluster = settled(labs)?;
    let file = cluster.folder("rr1").join("table.mrt");
    let path = file.to_string_lossy();
    let told = bgp(cluster, "rr1", &["dump", "--mrt", &path])?;
    ensure!(told.contains("bytes written"), "{told}");
    let output = Command::new("bgpdump").args(["-m", &path]).output().context("bgpdump")?;
    let text = String::from_utf8(output.stdout)?;
    let dumped: BTreeSet<(&str, &str)> = text
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split('|').collect();
            Some((*fields.get(5)?, *fields.get(8)?))
        })
        .collect();
    let held = routes(cluster, "rr1", &["routes", "--best"])?;
    let held: Vec<(String, String)> = held
        .iter()
        .map(|it| (it.prefix.to_string(), it.next_hop.map(|hop| hop.to_string()).unwrap_or_default()))
        .collect();
    let held: BTreeSet<(&str, &str)> = held.iter().map(|(prefix, hop)| (&**prefix, &**hop)).collect();
    ensure!(dumped.len() == 3 && dumped == held, "{text}");
    Ok(())
}
