//! A steady stream of probes, with an account of every loss.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use margay_netlink::Netns;

use super::icmp::Pinger;
use super::{Protocol, TOKEN, bound_for, failed, left, next_token};
use crate::error::{Error, Result};

/// What became of the probes of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Probes sent (a refusal to send counts: it is a loss).
    pub sent: u64,
    /// Probes answered.
    pub received: u64,
    /// Sequence numbers (from 0) that were never answered, in order.
    pub lost: Vec<u64>,
    /// Answers that came a second time.
    pub duplicates: u64,
    /// The longest run of losses, as time: losses in a row times the interval.
    pub longest_gap: Duration,
}

#[derive(Debug, Default)]
struct Progress {
    sent: AtomicU64,
    answered: AtomicU64,
}

/// Sends a probe every interval, from a thread in a namespace, until stopped.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<Result<Report>>>,
}

impl Stream {
    /// Starts probing `target` from `from`. TCP isn't a stream of packets and is refused.
    ///
    /// # Errors
    /// When no socket can be made.
    pub fn start(from: &Netns, target: IpAddr, protocol: Protocol, interval: Duration) -> Result<Self> {
        let error = failed("open a stream of probes to", target);
        let kernel = |source| Error::Kernel { place: format!("stream of probes to {target}"), source };
        let opened = from.run(|| match protocol {
            Protocol::Udp(port) => {
                let socket = bound_for(target)?;
                socket.connect(SocketAddr::new(target, port))?;
                Ok(Sender::Udp(socket))
            }
            Protocol::Icmp => Pinger::open(target).map(Sender::Icmp),
            Protocol::Tcp(_) => Err(io::Error::new(ErrorKind::Unsupported, "a stream is UDP or ICMP")),
        });
        let sender = opened.map_err(kernel)?.map_err(&error)?;
        let (stop, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(Progress::default()));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&progress));
        let interval = interval.max(Duration::from_micros(100));
        let thread = std::thread::Builder::new()
            .name("probe-stream".to_owned())
            .spawn(move || run(sender, interval, &stopped, &count).map_err(failed("probe", target)))
            .map_err(error)?;
        Ok(Self { stop, progress, thread: Some(thread) })
    }

    /// Probes answered so far.
    pub fn received(&self) -> u64 {
        self.progress.answered.load(Ordering::Relaxed)
    }

    /// Probes sent so far.
    pub fn sent(&self) -> u64 {
        self.progress.sent.load(Ordering::Relaxed)
    }

    /// Stops sending, waits a second for answers under way, and accounts.
    ///
    /// # Errors
    /// When the socket failed for a reason other than the network.
    pub fn stop(mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(report)) => report,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(Report::default()),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How long answers may be under way after the last probe.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum Sender {
    Udp(UdpSocket),
    Icmp(Pinger),
}

impl Sender {
    fn send(&mut self, token: u64) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(&token.to_be_bytes()).map(|_| ()),
            Self::Icmp(pinger) => pinger.send(token),
        }
    }

    fn receive(&self, timeout: Duration) -> io::Result<Option<u64>> {
        match self {
            Self::Udp(socket) => {
                socket.set_read_timeout(Some(timeout))?;
                let mut buffer = [0; 128];
                let length = socket.recv(&mut buffer)?;
                let token = buffer.get(..length).and_then(|datagram| datagram.first_chunk::<TOKEN>());
                Ok(token.map(|token| u64::from_be_bytes(*token)))
            }
            Self::Icmp(pinger) => pinger.receive(timeout),
        }
    }
}

/// Tokens of a stream are its number in the upper half and the sequence number in the lower.
fn run(mut sender: Sender, interval: Duration, stop: &AtomicBool, progress: &Progress) -> io::Result<Report> {
    let stream = next_token() << 32;
    let (mut sent, mut duplicates) = (0u64, 0);
    let mut answered = BTreeSet::new();
    let mut due = Instant::now();
    let mut grace: Option<Instant> = None;
    loop {
        if grace.is_none() && stop.load(Ordering::Relaxed) {
            grace = Some(Instant::now() + GRACE);
        }
        let until = match grace {
            Some(end) if answered.len() as u64 == sent || left(end).is_none() => break,
            Some(end) => end,
            None => {
                if left(due).is_none() {
                    match sender.send(stream | sent) {
                        Err(error) if !is_networks(&error) => return Err(error),
                        _ => sent += 1,
                    }
                    progress.sent.store(sent, Ordering::Relaxed);
                    // Probes that fell due while this thread didn't run aren't made up for: a burst would fill the
                    // receive buffer with answers and so make losses of its own.
                    due += interval;
                    if left(due).is_none() {
                        due = Instant::now() + interval;
                    }
                }
                due
            }
        };
        let Some(wait) = left(until) else { continue };
        match sender.receive(wait) {
            Ok(Some(token)) if token >> 32 == stream >> 32 => {
                if answered.insert(token & u64::from(u32::MAX)) {
                    progress.answered.fetch_add(1, Ordering::Relaxed);
                } else {
                    duplicates += 1;
                }
            }
            Ok(_) => {}
            Err(error) if is_networks(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(account(sent, &answered, duplicates, interval))
}

/// Errors that are the network's answer, or that it is silent, or that the time was up.
fn is_networks(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::PermissionDenied
    ) || error.raw_os_error() == Some(FULL_QUEUE)
}

/// A full device queue drops the probe like the network would.
const FULL_QUEUE: i32 = nix::errno::Errno::ENOBUFS as i32;

fn account(sent: u64, answered: &BTreeSet<u64>, duplicates: u64, interval: Duration) -> Report {
    let lost: Vec<u64> = (0..sent).filter(|sequence| !answered.contains(sequence)).collect();
    let (mut longest, mut run, mut before) = (0u32, 0u32, None);
    for sequence in &lost {
        run = if before == Some(*sequence) { run.saturating_add(1) } else { 1 };
        longest = longest.max(run);
        before = Some(sequence + 1);
    }
    let received = answered.len() as u64;
    Report { sent, received, lost, duplicates, longest_gap: interval.saturating_mul(longest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_named_and_the_longest_run_measured() {
        let answered = BTreeSet::from([0, 1, 4, 5, 7]);
        let report = account(9, &answered, 2, Duration::from_millis(5));
        assert_eq!(report.lost, [2, 3, 6, 8]);
        assert_eq!((report.sent, report.received, report.duplicates), (9, 5, 2));
        assert_eq!(report.longest_gap, Duration::from_millis(10));
        assert_eq!(
            account(3, &BTreeSet::from([0, 1, 2]), 0, Duration::from_millis(5)).longest_gap,
            Duration::ZERO
        );
    }
}
