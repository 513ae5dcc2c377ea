//! Real container runtimes: each attaches a real container by executing the real plugin and what is chained behind it.
//!
//! The container holds one static file (busybox) that answers HTTP. It has to be reached at its address from a pod of
//! another node, and at its host port, and nothing of it may stay behind.

mod cri;
mod room;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_netlink::Netns;
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::PORT;

use self::room::{IMAGE, SERVER};
use crate::labs::{Labs, PATIENCE, no_pods, pod_addresses, wait_no_endpoint};

/// The node the runtimes run on, and another.
const NODE: &str = "node1";
const OTHER: &str = "node2";

/// Port of the node that leads to the container.
const HOST_PORT: u16 = 8088;

/// What a server says first to an HTTP request.
fn http(from: &Netns, target: SocketAddr) -> Result<String> {
    let answer = from.run(|| -> std::io::Result<String> {
        let patience = Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&target, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.take(12).read_to_string(&mut text)?;
        Ok(text)
    })?;
    answer.with_context(|| format!("asking {target}"))
}

/// The container answers, as seen from a pod of another node.
fn answers(cluster: &Cluster, targets: &[SocketAddr]) -> Result<()> {
    let runtime = cluster.runtime(OTHER)?;
    let asking = runtime.add("shop", "asking")?;
    for target in targets {
        // The server may not listen yet.
        wait(PATIENCE, || Ok(http(&asking.netns, *target).is_ok()))
            .with_context(|| format!("{:?}", http(&asking.netns, *target)))?;
        let said = http(&asking.netns, *target)?;
        ensure!(said.starts_with("HTTP/1."), "{target} answers {said:?}");
    }
    runtime.delete(asking)
}

/// The one container of the node has this address by the agent's books; returns `namespace/pod` of it.
fn held(cluster: &Cluster, address: IpAddr) -> Result<String> {
    let held = pod_addresses(cluster, NODE)?;
    let (pod, one) = held.iter().next().context("the agent holds no address")?;
    ensure!(held.len() == 1 && *one == address.to_string(), "the runtime says {address}, the agent {held:?}");
    Ok(pod.clone())
}

/// The node's port that portmap leads to the container.
fn host_port(cluster: &Cluster) -> Result<SocketAddr> {
    Ok(SocketAddr::new(cluster.address(NODE)?, HOST_PORT))
}

/// Nothing of the containers is left: interfaces, routes, addresses, endpoint, chained plugins' rules.
fn gone(cluster: &Cluster, pod: &str) -> Result<()> {
    no_pods(cluster, NODE)?;
    wait_no_endpoint(cluster, pod)?;
    let rules = cluster.run_in(NODE, "iptables-save", &["-t", "nat"])?;
    ensure!(!rules.contains(&HOST_PORT.to_string()), "left by portmap:\n{rules}");
    Ok(())
}

pub(crate) fn podman(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    room::enter(cluster, NODE, |room| {
        let port = format!("{HOST_PORT}:{PORT}");
        room.podman(&["run", "-d", "--name", "boxed", "--network", "margay", "-p", &port, IMAGE])?;
        let inside = room.podman(&["exec", "boxed", "/bin/busybox", "ip", "-o", "addr", "show", "eth0"])?;
        let template = "{{.NetworkSettings.Networks.margay.IPAddress}}";
        let address: IpAddr = room.podman(&["inspect", "boxed", "--format", template])?.trim().parse()?;
        ensure!(
            inside.contains(&format!("inet {address}/32")),
            "{address} is not in the container: {inside}"
        );
        let pod = held(cluster, address)?;
        ensure!(pod.ends_with("/boxed"), "the agent knows the container as {pod}");
        answers(cluster, &[SocketAddr::new(address, PORT), host_port(cluster)?])?;
        // A restart is DEL and ADD.
        room.podman(&["restart", "-t", "0", "boxed"])?;
        let again: IpAddr = room.podman(&["inspect", "boxed", "--format", template])?.trim().parse()?;
        held(cluster, again)?;
        answers(cluster, &[SocketAddr::new(again, PORT)])?;
        room.podman(&["rm", "-f", "-t", "0", "boxed"])?;
        gone(cluster, "boxed")
    })
}

pub(crate) fn containerd_ctr(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    room::enter(cluster, NODE, |room| {
        room.start_containerd()?;
        let mut run = vec!["run", "--rm", "--cni", "--snapshotter", "native", "--runc-binary"];
        let runtime = room.runtime_file();
        run.extend([runtime.as_str(), IMAGE, "boxed"]);
        run.extend(SERVER);
        let mut running = room.start_ctr(&run)?;
        let held = || -> Result<Vec<String>> { Ok(pod_addresses(cluster, NODE)?.into_values().collect()) };
        wait(PATIENCE, || Ok(held()?.len() == 1)).with_context(|| running.log_text())?;
        let address: IpAddr = held()?.first().context("no address")?.parse()?;
        answers(cluster, &[SocketAddr::new(address, PORT)])?;
        room.ctr(&["task", "kill", "-s", "KILL", "boxed"])?;
        // It removes the network once the task is gone: its DEL comes with an empty CNI_NETNS.
        running.wait(PATIENCE)?.with_context(|| format!("ctr goes on: {}", running.log_text()))?;
        gone(cluster, "boxed")
    })
}

pub(crate) fn containerd_cri(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    room::enter(cluster, NODE, |room| {
        let socket = room.start_containerd()?;
        let client = cri::Client::new(&socket)?;
        let pod = cri::Pod {
            namespace: "shop",
            name: "boxed",
            port: (HOST_PORT, PORT),
            // Handed on as `runtimeConfig.bandwidth`, with Go's names of its fields.
            annotations: &[("kubernetes.io/ingress-bandwidth", "20M")],
        };
        let id = client.run(&pod)?;
        let address = client.address(&id)?;
        ensure!(held(cluster, address)? == "shop/boxed", "{:?}", pod_addresses(cluster, NODE)?);
        answers(cluster, &[SocketAddr::new(address, PORT), host_port(cluster)?])?;
        let shaped = cluster.run_in(NODE, "tc", &["qdisc", "show"])?;
        ensure!(shaped.contains("qdisc tbf") && shaped.contains("dev mgy"), "not shaped:\n{shaped}");
        let tuned = room.in_container(address, "net.ipv4.conf.eth0.arp_notify")?;
        ensure!(tuned == "1", "not tuned: {tuned}");
        // As the kubelet does it: more than once, also when it is gone.
        client.stop(&id)?;
        client.stop(&id)?;
        client.remove(&id)?;
        client.remove(&id)?;
        gone(cluster, "boxed")
    })
}

pub(crate) fn cnitool(labs: &mut Labs) -> Result<()> {
    let cluster = &labs.demo(Datastore::Embedded)?.cluster;
    room::enter(cluster, NODE, |room| {
        let netns = Netns::new()?;
        let path = netns.path().to_string_lossy().into_owned();
        let call = |verb: &str| room.cnitool(verb, &path);
        call("status")?;
        let result: serde_json::Value = serde_json::from_str(&call("add")?)?;
        let address = result["ips"][0]["address"].as_str().unwrap_or_default();
        let address: IpAddr = address.split('/').next().unwrap_or_default().parse()?;
        held(cluster, address)?;
        call("check")?;
        // The tool names no attachment as valid, so this one is collected.
        call("gc")?;
        gone(cluster, "cnitool")?;
        call("add")?;
        call("del")?;
        call("del")?;
        gone(cluster, "cnitool")
    })
}
