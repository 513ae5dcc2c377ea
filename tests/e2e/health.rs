//! What an agent tells those who watch over it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use margay_lab::probe::{Protocol, Stream};
use margay_tests::cluster::{Cluster, Datastore, wait};
use margay_tests::pods::PORT;
use nix::sys::signal::Signal;

use crate::labs::{
    Labs, PATIENCE, PROBE_EVERY, TWO_NODES, applied, kernel_state, none_lost, same, send_more,
};

const METRICS: &str = "172.30.1.11:9091";

const POOL: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.65.0.0/16}
";

/// `GET path` over TCP from the node: status and body.
fn get(cluster: &Cluster, path: &str) -> Result<(u16, String)> {
    let address: SocketAddr = METRICS.parse()?;
    let mut stream = cluster
        .node("node2")?
        .netns()
        .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))??;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {METRICS}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("an answer without a body")?;
    let status = head.split_whitespace().nth(1).context("an answer without a status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// Everything systemd has been told so far, one line each.
fn told(socket: &UnixDatagram, lines: &mut Vec<String>) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
                lines.extend(text.lines().map(str::to_owned));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

pub(crate) fn ready_and_stopping(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(TWO_NODES, Datastore::Embedded)?;
    cluster.start("node2")?;
    let notify = cluster.folder("notify");
    let socket = UnixDatagram::bind(&notify)?;
    socket.set_nonblocking(true)?;
    let mut agent = cluster.daemon("node1")?;
    agent.env("NOTIFY_SOCKET", &notify).args(["--metrics-listen", METRICS]);
    let log = cluster.folder("node1").join("log");
    let mut process = cluster.node("node1")?.spawn("node1", agent, &log)?;
    let mut lines = Vec::new();

    // Without a pool the node can serve nobody.
    let waits = |cluster: &Cluster| -> Result<bool> {
        let Ok(status) = cluster.status("node1") else { return Ok(false) };
        let ready = |name: &str| status.components.iter().any(|part| part.name == name && part.ready);
        Ok(ready("datastore") && ready("bgp") && !status.ready)
    };
    wait(PATIENCE, || waits(&cluster)).with_context(|| process.log_text())?;
    told(&socket, &mut lines)?;
    ensure!(!lines.iter().any(|line| line == "READY=1"), "READY=1 before it is ready: {lines:?}");
    ensure!(lines.iter().any(|line| line.starts_with("STATUS=")), "no status line: {lines:?}");
    ensure!(get(&cluster, "/healthz")? == (200, "ok\n".to_owned()), "{:?}", get(&cluster, "/healthz")?);
    let (status, body) = get(&cluster, "/readyz")?;
    ensure!(status == 503 && body.contains("[-] ipam"), "/readyz: {status} {body}");
    ensure!(get(&cluster, "/metrics")?.1.contains("margay_component_ready{component=\"ipam\"} 0"), "metrics");
    ensure!(cluster.client("node1").get_text("/readyz").is_err(), "/readyz on the socket says ready");
    ensure!(get(&cluster, "/v1/ipam")?.0 == 404, "the control API is open to the network");

    applied(&cluster, POOL)?;
    cluster.wait_ready("node1", PATIENCE)?;
    cluster.wait_ready("node2", PATIENCE)?;
    wait(PATIENCE, || {
        told(&socket, &mut lines)?;
        Ok(lines.iter().any(|line| line == "READY=1"))
    })
    .context("READY=1")?;
    let client = cluster.client("node1");
    let (status, body) = get(&cluster, "/readyz")?;
    ensure!(status == 200 && !body.contains("[-]"), "/readyz: {status} {body}");
    ensure!(client.get_text("/healthz")? == "ok\n", "/healthz on the socket");
    ensure!(!client.get_text("/readyz")?.contains("[-]"), "/readyz on the socket");
    for (place, text) in [("TCP", get(&cluster, "/metrics")?.1), ("the socket", client.get_text("/metrics")?)]
    {
        for line in [
            "margay_component_ready{component=\"policy\"} 1",
            "margay_bgp_peer_up{peer=\"172.30.1.12\"} 1",
            "margay_bgp_peer_accepted_prefixes{peer=\"172.30.1.12\",family=\"ipv4-unicast\"} 1",
            "margay_bgp_peer_advertised_prefixes{peer=\"172.30.1.12\",family=\"ipv4-unicast\"} 1",
            "# EOF",
        ] {
            ensure!(text.lines().any(|one| one == line), "/metrics over {place} lacks {line}:\n{text}");
        }
    }

    let one = cluster.runtime("node1")?.add("default", "one")?;
    let two = cluster.runtime("node2")?.add("default", "two")?;
    let stream = Stream::start(&two.netns, one.address, Protocol::Udp(PORT), PROBE_EVERY)?;
    send_more(&stream, 50)?;
    let before = kernel_state(&cluster, "node1")?;
    process.signal(Signal::SIGTERM)?;
    let status = process.wait(Duration::from_secs(10))?.context("it goes on after SIGTERM")?;
    ensure!(status.code() == Some(0), "it ended with {status}: {}", process.log_text());
    told(&socket, &mut lines)?;
    ensure!(lines.iter().filter(|line| *line == "READY=1").count() == 1, "{lines:?}");
    ensure!(lines.iter().any(|line| line == "STOPPING=1"), "{lines:?}");
    ensure!(!cluster.socket("node1").exists(), "the control socket is left");
    same(&before, &kernel_state(&cluster, "node1")?).context("after SIGTERM")?;
    send_more(&stream, 100)?;
    none_lost(stream)?;
    drop((one, two));
    Ok(())
}
