//! A pod is never live before its policy is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use margay_lab::probe::{Protocol, Stream};
use margay_netlink::Netns;
use margay_tests::cluster::{Cluster, Datastore};
use margay_tests::pods::{PORT, container_id, said};
use serde_json::Value;

use crate::labs::{Labs, applied, margay, no_pods, send_more, wait_policies};

/// Nothing to and nothing from the pods of these namespaces, by either kind of policy.
const LOCKED: &str = "apiVersion: v1
kind: Namespace
metadata: {name: locked}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: nothing, namespace: locked}
spec: {selector: all(), types: [Ingress, Egress]}
---
apiVersion: v1
kind: Namespace
metadata: {name: locked-k8s}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nothing, namespace: locked-k8s}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";

/// Time between two probes of the flood.
const FLOOD: Duration = Duration::from_millis(1);

/// A socket on every address of a namespace, also those it gets later: counts what arrives, and answers.
struct Ear {
    heard: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Ear {
    /// Listens; with a `victim`, also sends it a datagram every millisecond, from before there is an interface.
    fn start(netns: &Netns, victim: Option<IpAddr>) -> Result<Self> {
        let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let (heard, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut threads = Vec::new();
        if let Some(victim) = victim {
            let (sender, stop) =
                (netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??, Arc::clone(&stop));
            threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Unreachable until the pod is wired.
                    let _outcome = sender.send_to(b"from-pod", SocketAddr::new(victim, PORT));
                    std::thread::sleep(FLOOD);
                }
            }));
        }
        let (count, stopped) = (Arc::clone(&heard), Arc::clone(&stop));
        threads.push(std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    count.fetch_add(1, Ordering::Relaxed);
                    let _outcome = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
                }
            }
        }));
        Ok(Self { heard, stop, threads })
    }

    fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

/// What one round has seen.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// Probes of the flood that the pod received.
    by_pod: u64,
    /// Answers of the pod that the probers received.
    answers: u64,
    /// Datagrams of the pod that the victim received.
    by_victim: u64,
}

/// Adds a pod on node2 while others flood the address it will get, and removes it again.
fn round(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    probers: &[&Netns],
    victim: IpAddr,
    ear: &Ear,
) -> Result<Seen> {
    let runtime = cluster.runtime("node2")?;
    // A pod made first shows which address is next.
    let scout = runtime.add(namespace, &format!("{name}-scout"))?;
    let next = match scout.address {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() + 1)),
        IpAddr::V6(_) => return Err(anyhow!("an IPv6 address")),
    };
    let netns = Netns::new()?;
    let heard_before = ear.heard();
    let pod = Ear::start(&netns, Some(victim))?;
    let mut floods = Vec::new();
    for prober in probers {
        floods.push(Stream::start(prober, next, Protocol::Udp(PORT), FLOOD)?);
    }
    let first = floods.first().context("no flood")?;
    send_more(first, 50)?;
    let (id, names) = (container_id(namespace, name), Some((namespace, name)));
    let path = netns.path().to_string_lossy().into_owned();
    let output = runtime.call("ADD", &id, names, &path)?;
    ensure!(output.status.success(), "ADD: {}", said(&output));
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let given = answer["ips"][0]["address"].as_str().unwrap_or_default();
    ensure!(given == format!("{next}/32"), "the flood went to {next}, the pod is {given}");
    send_more(first, 200)?;
    // Each waits a second for what is under way.
    let ends: Vec<_> = floods.into_iter().map(|flood| std::thread::spawn(|| flood.stop())).collect();
    let mut answers = 0;
    for end in ends {
        answers += end.join().map_err(|_panic| anyhow!("a stream of probes panicked"))??.received;
    }
    let seen = Seen { by_pod: pod.heard(), answers, by_victim: ear.heard() - heard_before };
    drop(pod);
    let output = runtime.call("DEL", &id, names, &path)?;
    ensure!(output.status.success(), "DEL: {}", said(&output));
    runtime.delete(scout)?;
    Ok(seen)
}

pub(crate) fn policy_before_the_first_packet(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    applied(cluster, LOCKED)?;
    for namespace in ["locked", "locked-k8s"] {
        // Node2 has heard of the policy.
        let pod = cluster.runtime("node2")?.add(namespace, "herald")?;
        wait_policies(cluster, &pod, 1)?;
        cluster.runtime("node2")?.delete(pod)?;
    }
    let far = cluster.runtime("node1")?.add("shop", "far")?;
    let near = cluster.runtime("node2")?.add("shop", "near")?;
    // The victim is a namespace that is a pod but for its ear, which stands where a pod's responder would.
    let victim_netns = Netns::new()?;
    let (id, names) = (container_id("shop", "victim"), Some(("shop", "victim")));
    let path = victim_netns.path().to_string_lossy().into_owned();
    let output = cluster.runtime("node1")?.call("ADD", &id, names, &path)?;
    ensure!(output.status.success(), "ADD: {}", said(&output));
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let victim = answer["ips"][0]["address"].as_str().unwrap_or_default();
    let victim: IpAddr = victim.split('/').next().unwrap_or_default().parse()?;
    let ear = Ear::start(&victim_netns, None)?;

    let probers = [&far.netns, &near.netns, cluster.node("node3")?.netns()];
    // Without policy all of it gets through, or the rounds below would prove nothing.
    let open = round(cluster, "shop", "open", &probers, victim, &ear)?;
    ensure!(open.by_pod > 0 && open.answers > 0 && open.by_victim > 0, "without policy: {open:?}");
    for number in 0..6 {
        let namespace = if number % 2 == 0 { "locked" } else { "locked-k8s" };
        let seen = round(cluster, namespace, &format!("pod-{number}"), &probers, victim, &ear)?;
        ensure!(
            seen == Seen { by_pod: 0, answers: 0, by_victim: 0 },
            "round {number} in {namespace}: {seen:?}"
        );
    }

    drop(ear);
    margay(cluster, &["delete", "networkpolicy", "-n", "locked", "nothing"])?;
    margay(cluster, &["delete", "kubernetesnetworkpolicy", "-n", "locked-k8s", "nothing"])?;
    margay(cluster, &["delete", "namespace", "locked", "locked-k8s"])?;
    let output = cluster.runtime("node1")?.call("DEL", &id, names, &path)?;
    ensure!(output.status.success(), "DEL: {}", said(&output));
    cluster.runtime("node1")?.delete(far)?;
    cluster.runtime("node2")?.delete(near)?;
    ["node1", "node2"].iter().try_for_each(|node| no_pods(cluster, node))
}
