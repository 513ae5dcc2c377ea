//! What happens between the phases of an ADD, between two sandboxes of a pod, and to pods whose agent has lost its journal.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_control::ClientError;
use margay_control::cni::{
    AddReply, AddRequest, Attachment, CommitReply, CommitRequest, DelRequest, GcRequest,
};
use margay_lab::probe::{Outcome, Protocol, Responder, reach};
use margay_netlink::{Mac, Netlink, Netns};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::{PORT, Pod, container_id, said};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::labs::{
    Labs, PATIENCE, TWO_NODES, applied, cni_error, margay, no_pods, pod_addresses, wait_answered,
};

/// A pool with blocks of four addresses.
const POOL: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: small}
spec: {cidr: 10.66.0.0/27, blockSize: 30}
";

/// Of interfaces that the plugin has not made.
const POD_MAC: &str = "02:00:00:00:00:01";

/// Long enough for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);

fn start(labs: &mut Labs, nodes: &[&str]) -> Result<Cluster> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    applied(&cluster, POOL)?;
    for node in nodes {
        cluster.start(node)?;
        cluster.wait_ready(node, PATIENCE)?;
    }
    Ok(cluster)
}

fn attachment(id: &str) -> Attachment {
    Attachment { container_id: id.to_owned(), ifname: "eth0".to_owned(), network: "margay".to_owned() }
}

/// Phase one as the plugin asks for it.
fn reserve(cluster: &Cluster, id: &str, netns: &str) -> Result<AddReply> {
    let request =
        json!({ "attachment": attachment(id), "netns": netns, "pod_namespace": null, "pod_name": id });
    let request: AddRequest = serde_json::from_value(request)?;
    Ok(cluster.client("node1").post("/v1/cni/add", &request)?)
}

/// Phase two, with an interface that is or is not there.
fn commit(cluster: &Cluster, id: &str, host_ifname: &str) -> Result<CommitReply, ClientError> {
    let request = CommitRequest {
        attachment: attachment(id),
        host_ifname: host_ifname.to_owned(),
        mac: POD_MAC.to_owned(),
    };
    cluster.client("node1").post("/v1/cni/commit", &request)
}

fn detach(cluster: &Cluster, id: &str) -> Result<()> {
    let request = DelRequest { attachment: attachment(id) };
    let _done: Value = cluster.client("node1").post("/v1/cni/del", &request)?;
    let _settled: Value = cluster.client("node1").post("/v1/cni/settle", &())?;
    Ok(())
}

/// An agent that ends between the phases, and an MTU that changes there.
pub(crate) fn of_an_add(labs: &mut Labs) -> Result<()> {
    let mut cluster = start(labs, &["node1"])?;
    let refused = |cluster: &Cluster, id: &str| match commit(cluster, id, "mgy0") {
        Err(ClientError::Refused { body, .. }) if body.code == 104 => Ok(()),
        other => Err(anyhow::anyhow!("{other:?}")),
    };
    refused(&cluster, "never-added").context("nothing was reserved")?;
    reserve(&cluster, "restarted", "")?;
    cluster.kill("node1")?;
    cluster.start("node1")?;
    cluster.wait_ready("node1", PATIENCE)?;
    refused(&cluster, "restarted").context("what the pod is was forgotten: its labels decide on policy")?;
    no_pods(&cluster, "node1")?;

    let netns = Netns::new()?;
    let path = netns.path().to_string_lossy().into_owned();
    let before = reserve(&cluster, "slow", &path)?;
    applied(&cluster, &POOL.replace("blockSize: 30", "blockSize: 30, vxlanMode: Always"))?;
    wait(PATIENCE, || {
        let other = reserve(&cluster, "fast", "")?;
        detach(&cluster, "fast")?;
        Ok(other.mtu < before.mtu)
    })
    .context("the tunnel's MTU")?;
    let (name, mtu) = (before.host_ifname.as_str(), before.mtu.to_string());
    // By its address the agent knows what it may remove.
    let own = Mac::HOST_SIDE.to_string();
    let host = ["link", "add", name, "address", own.as_str(), "mtu", mtu.as_str(), "up", "type", "veth"];
    let pod = ["peer", "name", "eth0", "address", POD_MAC, "mtu", mtu.as_str(), "netns", path.as_str()];
    cluster.run_in("node1", "ip", &[&host[..], &pod[..]].concat())?;
    commit(&cluster, "slow", name)?;
    let link = || -> Result<_> {
        Netlink::open_in(cluster.node("node1")?.netns())?.link(name)?.context("its interface is gone")
    };
    let fits = || Ok(link()?.mtu < before.mtu);
    wait(PATIENCE, fits).with_context(|| format!("{:?} of {}", link().map(|link| link.mtu), before.mtu))?;
    detach(&cluster, "slow")?;
    no_pods(&cluster, "node1")
}

/// A release that waits in the spool is older than the ADD of the same container, which is what some runtimes do.
pub(crate) fn spooled_before_an_add(labs: &mut Labs) -> Result<()> {
    let cluster = start(labs, &["node1"])?;
    let runtime = cluster.runtime("node1")?;
    std::fs::create_dir_all(&runtime.spool)?;
    let (id, record) = (container_id("default", "again"), runtime.spool.join("again.json"));
    let fresh = record.with_extension("new");
    std::fs::write(&fresh, serde_json::to_vec(&DelRequest { attachment: attachment(&id) })?)?;
    std::fs::rename(&fresh, &record)?;
    let pod = runtime.add("default", "again")?;
    wait(PATIENCE, || Ok(!record.exists())).context("the record stays")?;
    let _settled: Value = cluster.client("node1").post("/v1/cni/settle", &())?;
    ensure!(pod_addresses(&cluster, "node1")?.contains_key("default/again"), "the living one is released");
    reachable(&cluster, &pod)?;
    runtime.delete(pod)?;
    no_pods(&cluster, "node1")
}

fn reachable(cluster: &Cluster, pod: &Pod) -> Result<()> {
    let netns = cluster.node(&pod.node)?.netns();
    let outcome = reach(netns, pod.address, Protocol::Tcp(PORT), Some(&pod.responder), TIMEOUT)?;
    ensure!(matches!(outcome, Outcome::Reached { .. }), "{} is not reached: {outcome:?}", pod.full_name());
    Ok(())
}

/// The kubelet makes a pod's sandbox anew; of the old one, whose handle sorts behind, DEL comes late. Policy is the living one's.
pub(crate) fn of_two_sandboxes(labs: &mut Labs) -> Result<()> {
    let cluster = start(labs, &["node1"])?;
    let runtime = cluster.runtime("node1")?;
    let other = runtime.add("default", "other")?;
    let object = |colour: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: default, labels: {{colour: {colour}}}}}\n\
             spec: {{nodeName: node1, containers: []}}\n"
        )
    };
    applied(&cluster, &object("red"))?;
    let sandbox = |id: &str| -> Result<Pod> {
        let netns = Netns::new()?;
        let output = runtime.call("ADD", id, Some(("default", "web")), &netns.path().to_string_lossy())?;
        ensure!(output.status.success(), "ADD: {}", said(&output));
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let address = answer["ips"][0]["address"].as_str().and_then(|text| text.split('/').next());
        let address = address.context("no address")?.parse()?;
        let responder = Responder::start(&netns, &[PORT])?;
        Ok(Pod {
            namespace: "default".into(),
            name: "web".into(),
            node: "node1".into(),
            address,
            netns,
            responder,
        })
    };
    let old = sandbox("z-old")?;
    let new = sandbox("a-new")?;
    applied(&cluster, &object("blue"))?;
    let endpoint = || margay(&cluster, &["get", "workloadendpoints", "-n", "default", "-o", "json"]);
    wait(PATIENCE, || Ok(endpoint()?.contains("blue"))).context("the agent has not heard of the change")?;
    let path = old.netns.path().to_string_lossy().into_owned();
    let output = runtime.call("DEL", "z-old", Some(("default", "web")), &path)?;
    ensure!(output.status.success(), "DEL: {}", said(&output));
    let _settled: Value = cluster.client("node1").post("/v1/cni/settle", &())?;
    wait_answered(&other, &new)?;
    wait_answered(&new, &other)?;
    let own = format!("{}/32", new.address);
    wait(PATIENCE, || Ok(endpoint()?.contains(&own))).with_context(|| format!("{:?}", endpoint()))?;
    let path = new.netns.path().to_string_lossy().into_owned();
    let output = runtime.call("DEL", "a-new", Some(("default", "web")), &path)?;
    ensure!(output.status.success(), "DEL: {}", said(&output));
    runtime.delete(other)?;
    no_pods(&cluster, "node1")
}

/// The state folder is wiped while pods run: the datastore knows their addresses, interfaces and containers.
pub(crate) fn a_lost_journal(labs: &mut Labs) -> Result<()> {
    let mut cluster = start(labs, &["node1"])?;
    let (one, two) = {
        let runtime = cluster.runtime("node1")?;
        (runtime.add("default", "one")?, runtime.add("default", "two")?)
    };
    let endpoints = |cluster: &Cluster| -> Result<usize> {
        Ok(margay(cluster, &["get", "workloadendpoints", "-A", "-o", "json"])?.matches("\"mgy").count())
    };
    wait(PATIENCE, || Ok(endpoints(&cluster)? == 2)).context("two endpoints")?;
    wait(PATIENCE, || {
        let block = margay(&cluster, &["get", "ipamblocks", "-o", "json"])?;
        Ok([&one, &two].iter().all(|pod| block.contains(&pod.container_id())))
    })
    .context("the datastore's copy of the block")?;
    let held = pod_addresses(&cluster, "node1")?;
    cluster.stop("node1")?;
    std::fs::remove_file(journal(&cluster.folder("node1"))?)?;
    cluster.start("node1")?;
    cluster.wait_ready("node1", PATIENCE)?;
    ensure!(pod_addresses(&cluster, "node1")? == held, "{:?} of {held:?}", pod_addresses(&cluster, "node1"));
    wait_answered(&one, &two)?;
    reachable(&cluster, &two)?;
    // Somebody deletes the endpoint of a pod that lives.
    let listed = margay(&cluster, &["get", "workloadendpoints", "-n", "default", "-o", "json"])?;
    let listed: Value = serde_json::from_str(&listed)?;
    let name = listed["items"][0]["metadata"]["name"].as_str().context("no endpoint")?.to_owned();
    margay(&cluster, &["delete", "workloadendpoint", &name, "-n", "default"])?;
    wait(PATIENCE, || Ok(endpoints(&cluster)? == 2)).context("it does not come back")?;
    let runtime = cluster.runtime("node1")?;
    runtime.delete(one)?;
    runtime.delete(two)?;
    no_pods(&cluster, "node1")
}

pub(crate) fn journal(folder: &Path) -> Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| next.display().to_string())? {
            let path = entry?.path();
            match path.file_name().and_then(|name| name.to_str()) {
                Some("journal.jsonl") => return Ok(path),
                _ if path.is_dir() => folders.push(path),
                _ => {}
            }
        }
    }
    anyhow::bail!("no journal in {}", folder.display())
}

/// An address that no IPAM gave, where the conflist allows it: of a pool, it is told by BGP, and reached from another node.
pub(crate) fn addresses_of_nobody(labs: &mut Labs) -> Result<()> {
    let cluster = start(labs, &["node1", "node2"])?;
    let far = cluster.runtime("node2")?.add("default", "far")?;
    let blocks = margay(&cluster, &["get", "ipamblocks", "-o", "json"])?;
    // The last address of a block that nobody has.
    let mut begins = (0..8).map(|block| block * 4);
    let free = begins.rfind(|begin| !blocks.contains(&format!("10.66.0.{begin}/30")));
    let address = format!("10.66.0.{}", free.context("no block is free")? + 3);
    applied(
        &cluster,
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: fixed, namespace: default, annotations: {{\
             cni.projectcalico.org/ipAddrsNoIpam: '[\"{address}\"]'}}}}\nspec: {{nodeName: node1, containers: []}}\n"
        ),
    )?;
    let runtime = cluster.runtime("node1")?;
    let netns = Netns::new()?;
    let path = netns.path().to_string_lossy().into_owned();
    let output = runtime.call("ADD", &container_id("default", "fixed"), Some(("default", "fixed")), &path)?;
    let (code, message) = cni_error(&output)?;
    ensure!(code == 103 && message.contains("ip_addrs_no_ipam"), "{code} {message}");
    let allow = |config: &mut Value| config["feature_control"] = json!({"ip_addrs_no_ipam": true});
    let pod = runtime.add_with("default", "fixed", allow)?;
    ensure!(pod.address.to_string() == address, "{} is not {address}", pod.address);
    wait_answered(&far, &pod)?;
    wait_answered(&pod, &far)?;
    let again = runtime.add_with("default", "plain", allow)?;
    ensure!(again.address != pod.address, "{}", again.address);
    runtime.delete(again)?;
    runtime.delete(pod)?;
    let routes = || cluster.run_in("node2", "ip", &["route", "show"]);
    wait(PATIENCE, || Ok(!routes()?.contains(&address))).with_context(|| format!("{:?}", routes()))?;
    cluster.runtime("node2")?.delete(far)?;
    ["node1", "node2"].iter().try_for_each(|node| no_pods(&cluster, node))
}

/// A disk of its own under a folder.
struct Disk(PathBuf);

impl Disk {
    fn new(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("size=1m"))?;
        Ok(Self(folder.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Until nothing fits any more.
    fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.filler())?;
        loop {
            match file.write(&[0; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Of what the runtime does not know any more one cannot end, as the disk is full: GC says so, and the rest has ended.
pub(crate) fn collected_as_far_as_can_be(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    let disk = Disk::new(&cluster.folder("node1").join("state"))?;
    applied(&cluster, POOL)?;
    cluster.start("node1")?;
    cluster.wait_ready("node1", PATIENCE)?;
    let kept = cluster.runtime("node1")?.add("default", "kept")?;
    reserve(&cluster, "left", "")?;
    disk.fill()?;
    // The journal's last page has room still.
    let mut fillers = (0..100).map(|number| format!("filler-{number}"));
    let refused = fillers.find_map(|id| match reserve(&cluster, &id, "") {
        Ok(_) => detach(&cluster, &id).err(),
        Err(error) => Some(error),
    });
    let refused = format!("{:#}", refused.context("it is never full")?);
    ensure!(refused.contains("journal"), "{refused}");
    let collect = || {
        let request = GcRequest { network: "margay".to_owned(), valid: Vec::new() };
        cluster.client("node1").post::<_, Value>("/v1/cni/gc", &request)
    };
    let outcome = collect();
    ensure!(matches!(outcome, Err(ClientError::Refused { .. })), "{outcome:?}");
    let _settled: Value = cluster.client("node1").post("/v1/cni/settle", &())?;
    let held = pod_addresses(&cluster, "node1")?;
    ensure!(held.contains_key("default/kept") && !held.contains_key("default/left"), "{held:?}");
    reachable(&cluster, &kept)?;
    std::fs::remove_file(disk.filler())?;
    let _collected: Value = collect()?;
    no_pods(&cluster, "node1")
}
