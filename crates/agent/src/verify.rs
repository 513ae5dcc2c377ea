//! `margay explain --verify`: sends the first packet of a flow from its pod and asks the kernel what became of it.
//!
//! Connection tracking remembers a connection only once its first packet has passed every rule of the node, so a packet
//! that was dropped leaves nothing behind.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use felix_rs::verdict::{Packet, TCP, UDP};
use margay_netlink::Netns;
use margay_netlink::conntrack::{Conntrack, Detail, Flow};
use socket2::{Domain, Socket, Type};

/// A packet that is not remembered by then was dropped: the kernel handles it at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// First pause between looks; each is twice as long as the one before, because a long table takes long to read.
const PAUSE: Duration = Duration::from_millis(10);

/// Whether the rules of this node let the packet of a pod, whose network namespace is at this path, through.
///
/// # Errors
/// A sentence: the namespace is gone, or the protocol has no socket to send by.
pub(crate) fn passes(namespace: &str, packet: &Packet) -> Result<bool, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let kind = match packet.protocol {
        TCP => Type::STREAM,
        UDP => Type::DGRAM,
        _ => return Err("only tcp and udp can be verified".to_owned()),
    };
    let netns = Netns::open(namespace).map_err(|error| failed("the pod's network namespace", &error))?;
    let from = SocketAddr::new(packet.source, 0);
    let to = SocketAddr::new(packet.destination, packet.destination_port);
    let open = || {
        let socket = Socket::new(Domain::for_address(to), kind, None)?;
        socket.bind(&from.into())?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let opened: std::io::Result<Socket> =
        netns.run(open).map_err(|error| failed("the pod's network namespace", &error))?;
    let socket = opened.map_err(|error| failed("a socket in the pod", &error))?;
    let local = socket.local_addr().map_err(|error| failed("the pod's address", &error))?;
    let port = local.as_socket().map_or(0, |address| address.port());
    // A connection under way is an error of a socket that does not wait, and a refusal is an answer.
    let _under_way = socket.connect(&to.into());
    if packet.protocol == UDP {
        let _refused = socket.send(&[]);
    }
    let is_ours = |flow: &Flow| {
        let detail = matches!(flow.original.detail, Detail::Ports { source, .. } if source == port);
        detail && flow.original.protocol == packet.protocol && flow.original.source == packet.source
    };
    let mut conntrack = Conntrack::open().map_err(|error| failed("connection tracking", &error))?;
    let (begun, mut pause) = (Instant::now(), PAUSE);
    let passed = loop {
        let found = conntrack.flows(to.is_ipv6(), is_ours);
        if !found.map_err(|error| failed("connection tracking", &error))?.is_empty() {
            break true;
        }
        if begun.elapsed() > PATIENCE {
            break false;
        }
        std::thread::sleep(pause);
        pause *= 2;
    };
    // A server that has accepted is told at once that there is nothing to come.
    let _of_udp = socket.set_linger(Some(Duration::ZERO));
    Ok(passed)
}
