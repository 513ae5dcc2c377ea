//! The answering side: TCP and UDP on given ports, and an ear for echo requests (which the kernel answers itself).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use margay_netlink::{Netlink, Netns};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{TOKEN, icmp, left};
use crate::error::{Error, Result};

/// Echo requests remembered; older ones are forgotten first.
const REMEMBERED: usize = 4096;

/// Answers probes in one namespace, on all its addresses, until dropped.
#[derive(Debug)]
pub struct Responder {
    seen: Arc<Seen>,
    /// Closing it wakes and ends the thread.
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// Sources of echo requests, by token. Tokens only grow, so the first is the oldest.
#[derive(Debug, Default)]
struct Seen {
    sources: Mutex<BTreeMap<u64, IpAddr>>,
    more: Condvar,
}

struct Sockets {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
    icmp: Vec<(UdpSocket, bool)>,
    wake: UnixStream,
}

impl Responder {
    /// Listens on `ports` (TCP and UDP) of every address the namespace has now.
    ///
    /// # Errors
    /// When a port is taken or a socket can't be made.
    pub fn start(netns: &Netns, ports: &[u16]) -> Result<Self> {
        let kernel = |source| Error::Kernel { place: "responder".to_owned(), source };
        let mut netlink = Netlink::open_in(netns).map_err(kernel)?;
        let addresses: Vec<IpAddr> = netlink
            .addresses(None)
            .map_err(kernel)?
            .into_iter()
            .map(|address| address.net.addr())
            .filter(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))
            .collect();
        let probe = |source| Error::Probe { what: "listen for probes".to_owned(), source };
        let (wake, woken) = UnixStream::pair().map_err(probe)?;
        // A socket per address, not one for all: an answer must come from the address that was asked.
        let sockets =
            netns.run(|| Sockets::open(&addresses, ports, woken)).map_err(kernel)?.map_err(probe)?;
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let thread = std::thread::Builder::new()
            .name("responder".to_owned())
            .spawn(move || sockets.serve(&shared))
            .map_err(probe)?;
        Ok(Self { seen, wake: Some(wake), thread: Some(thread) })
    }

    /// The source of the echo request with this token, waiting for it until `deadline`.
    pub(super) fn icmp_source(&self, token: u64, deadline: Instant) -> Option<IpAddr> {
        let mut sources = self.seen.sources.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(source) = sources.get(&token) {
                return Some(*source);
            }
            let waited = self.seen.more.wait_timeout(sources, left(deadline)?);
            sources = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            // A panic in the thread was printed when it happened.
            let _ended = thread.join();
        }
    }
}

impl Sockets {
    fn open(addresses: &[IpAddr], ports: &[u16], wake: UnixStream) -> io::Result<Self> {
        let mut sockets = Self { tcp: Vec::new(), udp: Vec::new(), icmp: Vec::new(), wake };
        for ip in addresses {
            for port in ports {
                let listener = TcpListener::bind(SocketAddr::new(*ip, *port))?;
                listener.set_nonblocking(true)?;
                sockets.tcp.push(listener);
                let socket = UdpSocket::bind(SocketAddr::new(*ip, *port))?;
                socket.set_nonblocking(true)?;
                sockets.udp.push(socket);
            }
        }
        for ipv4 in [true, false] {
            if addresses.iter().any(|ip| ip.is_ipv4() == ipv4) {
                let socket = icmp::raw_socket(ipv4)?;
                socket.set_nonblocking(true)?;
                sockets.icmp.push((socket, ipv4));
            }
        }
        Ok(sockets)
    }

    fn serve(&self, seen: &Seen) {
        loop {
            let all: Vec<BorrowedFd<'_>> = std::iter::once(self.wake.as_fd())
                .chain(self.tcp.iter().map(AsFd::as_fd))
                .chain(self.udp.iter().map(AsFd::as_fd))
                .chain(self.icmp.iter().map(|(socket, _)| socket.as_fd()))
                .collect();
            let mut waiting: Vec<PollFd<'_>> =
                all.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
            match poll(&mut waiting, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
            if waiting.first().and_then(PollFd::revents).is_some_and(|events| !events.is_empty()) {
                return;
            }
            self.tcp.iter().for_each(answer_tcp);
            self.udp.iter().for_each(answer_udp);
            for (socket, ipv4) in &self.icmp {
                hear(socket, *ipv4, seen);
            }
        }
    }
}

/// Each connection is told its source address and closed. What a single client does wrong is its own affair.
fn answer_tcp(listener: &TcpListener) {
    while let Ok((mut stream, from)) = listener.accept() {
        let _ignored = stream
            .set_write_timeout(Some(Duration::from_secs(1)))
            .and_then(|()| stream.write_all(from.ip().to_canonical().to_string().as_bytes()));
    }
}

/// Each datagram is answered with its token and its source address.
fn answer_udp(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                let mut reply = buffer.get(..length.min(TOKEN)).unwrap_or_default().to_vec();
                reply.extend_from_slice(from.ip().to_canonical().to_string().as_bytes());
                let _ignored = socket.send_to(&reply, from);
            }
            // An ICMP error about an earlier answer is reported once; then come the next datagrams.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}

fn hear(socket: &UdpSocket, ipv4: bool, seen: &Seen) {
    let mut buffer = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let Some(token) = icmp::request_token(buffer.get(..length).unwrap_or_default(), ipv4) else {
            continue;
        };
        let mut sources = seen.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.insert(token, from.ip());
        while sources.len() > REMEMBERED {
            sources.pop_first();
        }
        seen.more.notify_all();
    }
}
