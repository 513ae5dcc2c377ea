//! A blocking netlink socket: one request, many in one write, or a dump; errors carry the kernel's own words.

use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN,
};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::error::{Error, Result};
use crate::wire::{self, Request};

/// Receive buffer asked for: holds the error answers of a full batch (512) many times over.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Room for one datagram; the kernel's dumps use at most 32 KiB each.
pub(crate) const DATAGRAM: usize = 64 << 10;
/// Brackets of a transaction (`linux/netfilter/nfnetlink.h`).
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
/// How often a dump that was interrupted by a change of the table is started again.
const DUMP_TRIES: usize = 10;

/// How long the kernel may take to answer. Requests wait on the kernel's RTNL lock, which a loaded machine may hold for
/// a while (namespace teardown).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);
/// Most requests put into one write.
pub const MAX_BATCH: usize = 512;

/// A connection to one netlink protocol, in the namespace of the thread that opened it.
pub struct Socket {
    inner: netlink_sys::Socket,
    port: u32,
    sequence: u32,
    timeout: Duration,
    buffer: Vec<u8>,
    out: Vec<u8>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("sequence", &self.sequence).field("timeout", &self.timeout).finish()
    }
}

impl Socket {
    /// Opens a socket for `protocol` (`NETLINK_ROUTE`, `NETLINK_NETFILTER`, see `netlink_sys::protocols`).
    ///
    /// # Errors
    /// When the kernel doesn't have the protocol.
    pub fn open(protocol: isize) -> Result<Self> {
        let what = || format!("open netlink protocol {protocol}");
        let mut inner = netlink_sys::Socket::new(protocol).map_err(|e| Error::io(what(), e))?;
        widen(&inner)?;
        inner.set_cap_ack(true).map_err(|e| Error::io(what(), e))?;
        inner.set_ext_ack(true).map_err(|e| Error::io(what(), e))?;
        inner.set_netlink_get_strict_chk(true).map_err(|e| Error::io(what(), e))?;
        let port = inner.bind_auto().map_err(|e| Error::io(what(), e))?.port_number();
        inner.connect(&netlink_sys::SocketAddr::new(0, 0)).map_err(|e| Error::io(what(), e))?;
        let mut socket = Self {
            inner,
            port,
            sequence: 0,
            timeout: DEFAULT_TIMEOUT,
            buffer: Vec::with_capacity(DATAGRAM),
            out: Vec::new(),
        };
        socket.set_timeout(DEFAULT_TIMEOUT)?;
        Ok(socket)
    }

    /// The number under which the kernel names this socket as the cause of a change.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Changes how long an answer may take (at least 1 ms).
    ///
    /// # Errors
    /// When the kernel refuses the value.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<()> {
        let timeout = timeout.max(Duration::from_millis(1));
        let micros = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX);
        let value = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
        setsockopt(&self.inner, sockopt::ReceiveTimeout, &value)
            .map_err(|e| Error::from_errno("set the timeout of a netlink socket", e, None))?;
        self.timeout = timeout;
        Ok(())
    }

    /// Sends one request and waits for its acknowledgement.
    ///
    /// # Errors
    /// The kernel's refusal, named `what`.
    pub fn execute(&mut self, request: &Request, what: impl Fn() -> String) -> Result<()> {
        self.query(request, &what, |_, _| Ok(()))
    }

    /// Sends one request and hands every answer before the acknowledgement to `answer` (message type, payload).
    ///
    /// # Errors
    /// The kernel's refusal, or what `answer` returns.
    pub fn query(
        &mut self,
        request: &Request,
        what: impl Fn() -> String,
        mut answer: impl FnMut(u16, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let sequence = self.next_sequence();
        self.out.clear();
        request.append_to(&mut self.out, NLM_F_REQUEST | NLM_F_ACK, sequence);
        self.send(&what)?;
        let deadline = Instant::now() + self.timeout;
        let mut failure = None;
        loop {
            self.receive(deadline, &what)?;
            for message in wire::messages(&self.buffer).filter(|m| m.sequence == sequence) {
                match message.message_type {
                    NLMSG_ERROR => {
                        let (code, text) = wire::error_answer(&message).ok_or_else(|| short(&what))?;
                        return match failure {
                            Some(error) => Err(error),
                            None if code == 0 => Ok(()),
                            None => Err(Error::from_errno(what(), Errno::from_raw(code), text)),
                        };
                    }
                    NLMSG_NOOP => {}
                    NLMSG_OVERRUN => {
                        return Err(Error::Lost { what: what(), reason: "receive buffer overrun" });
                    }
                    kind => failure = failure.or(answer(kind, message.payload).err()),
                }
            }
        }
    }

    /// Asks for a whole table. `answer` is called per entry (message type, payload); a dump the kernel marks as
    /// interrupted is started again, so `start` must forget what came before.
    ///
    /// # Errors
    /// The kernel's refusal, [`Error::Lost`] when the table never held still, or what `answer` returns.
    pub fn dump<T>(
        &mut self,
        request: &Request,
        what: impl Fn() -> String,
        mut answer: impl FnMut(u16, &[u8], &mut Vec<T>) -> Result<()>,
    ) -> Result<Vec<T>> {
        for _ in 0..DUMP_TRIES {
            let mut all = Vec::new();
            if self.dump_once(request, &what, |kind, payload| answer(kind, payload, &mut all))? {
                return Ok(all);
            }
        }
        Err(Error::Lost { what: what(), reason: "the table kept changing while it was read" })
    }

    /// One dump; false when it was interrupted.
    fn dump_once(
        &mut self,
        request: &Request,
        what: &impl Fn() -> String,
        mut answer: impl FnMut(u16, &[u8]) -> Result<()>,
    ) -> Result<bool> {
        let sequence = self.next_sequence();
        self.out.clear();
        request.append_to(&mut self.out, NLM_F_REQUEST | NLM_F_DUMP, sequence);
        self.send(what)?;
        let deadline = Instant::now() + self.timeout;
        let (mut whole, mut failure) = (true, None);
        loop {
            self.receive(deadline, what)?;
            for message in wire::messages(&self.buffer).filter(|m| m.sequence == sequence) {
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                let (code, text) = match message.message_type {
                    NLMSG_DONE => wire::done_answer(&message),
                    NLMSG_ERROR => wire::error_answer(&message).ok_or_else(|| short(what))?,
                    NLMSG_NOOP => continue,
                    NLMSG_OVERRUN => {
                        return Err(Error::Lost { what: what(), reason: "receive buffer overrun" });
                    }
                    kind => {
                        failure = failure.or(answer(kind, message.payload).err());
                        continue;
                    }
                };
                if code != 0 {
                    return Err(Error::from_errno(what(), Errno::from_raw(code), text));
                }
                return failure.map_or(Ok(whole), Err);
            }
        }
    }

    /// Sends many requests, [`MAX_BATCH`] per write, acknowledged by the last of each write only (the fastest way there
    /// is); returns one result per request, in order. `what` names request `n` for its error.
    ///
    /// A failing request doesn't stop those after it.
    pub fn batch(
        &mut self,
        mut requests: impl ExactSizeIterator<Item = Request>,
        what: impl Fn(usize) -> String,
    ) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(requests.len());
        while requests.len() > 0 {
            let some = requests.len().min(MAX_BATCH);
            self.batch_once(requests.by_ref().take(some), &what, &mut results);
        }
        results
    }

    fn batch_once(
        &mut self,
        chunk: impl ExactSizeIterator<Item = Request>,
        what: &impl Fn(usize) -> String,
        results: &mut Vec<Result<()>>,
    ) {
        // The sequence number says which request an error is about; a chunk must not straddle the wrap-around.
        if self.sequence > u32::MAX - u32::try_from(MAX_BATCH).unwrap_or(u32::MAX) - 1 {
            self.sequence = 0;
        }
        let (first, offset, count) = (self.sequence + 1, results.len(), chunk.len());
        self.out.clear();
        for (n, request) in chunk.enumerate() {
            let acknowledge = if n + 1 == count { NLM_F_ACK } else { 0 };
            self.sequence += 1;
            let sequence = self.sequence;
            request.append_to(&mut self.out, NLM_F_REQUEST | acknowledge, sequence);
        }
        let last = self.sequence;
        results.extend((0..count).map(|_| Ok(())));
        let batch = || format!("{} and {} more", what(offset), count - 1);
        if let Err(error) = self.send(&batch).and_then(|()| {
            let deadline = Instant::now() + self.timeout;
            loop {
                self.receive(deadline, &batch)?;
                for message in wire::messages(&self.buffer) {
                    if message.message_type != NLMSG_ERROR
                        || message.sequence < first
                        || message.sequence > last
                    {
                        continue;
                    }
                    let (code, text) = wire::error_answer(&message).ok_or_else(|| short(&batch))?;
                    let place = offset + usize::try_from(message.sequence - first).unwrap_or(usize::MAX);
                    if let (true, Some(result)) = (code != 0, results.get_mut(place)) {
                        *result = Err(Error::from_errno(what(place), Errno::from_raw(code), text));
                    }
                    if message.sequence == last {
                        return Ok(());
                    }
                }
            }
        }) {
            // The outcome of those without an answer isn't known: none of them may count as done.
            let reason = error.to_string();
            for (n, result) in results.iter_mut().enumerate().skip(offset).filter(|(_, r)| r.is_ok()) {
                *result = Err(Error::Decode { what: what(n), reason: format!("outcome unknown: {reason}") });
            }
        }
    }

    /// Sends requests as one transaction of a netfilter subsystem (`NFNL_MSG_BATCH_BEGIN`): all of them happen or none.
    /// `what` names request `n` for its error.
    ///
    /// # Errors
    /// The kernel's first refusal.
    pub fn transaction(
        &mut self,
        subsystem: u8,
        requests: &[Request],
        what: impl Fn(usize) -> String,
    ) -> Result<()> {
        if self.sequence > u32::MAX - u32::try_from(requests.len()).unwrap_or(u32::MAX) - 2 {
            self.sequence = 0;
        }
        // `struct nfgenmsg`: family, version, resource id (network byte order) with the subsystem's number.
        let bracket = |message_type| Request { message_type, flags: 0, body: vec![0, 0, 0, subsystem] };
        let begin = self.next_sequence();
        self.out.clear();
        bracket(NFNL_MSG_BATCH_BEGIN).append_to(&mut self.out, NLM_F_REQUEST, begin);
        for (left, request) in (0..requests.len()).rev().zip(requests) {
            let sequence = self.next_sequence();
            let acknowledge = if left == 0 { NLM_F_ACK } else { 0 };
            request.append_to(&mut self.out, NLM_F_REQUEST | acknowledge, sequence);
        }
        let last = self.sequence;
        let end = self.next_sequence();
        bracket(NFNL_MSG_BATCH_END).append_to(&mut self.out, NLM_F_REQUEST, end);
        let whole = || format!("{} and {} more", what(0), requests.len().saturating_sub(1));
        self.send(&whole)?;
        let deadline = Instant::now() + self.timeout;
        let mut failure = None;
        loop {
            self.receive(deadline, &whole)?;
            for message in wire::messages(&self.buffer) {
                let number = message.sequence.wrapping_sub(begin);
                if message.message_type != NLMSG_ERROR || message.sequence < begin || message.sequence > last
                {
                    continue;
                }
                let (code, text) = wire::error_answer(&message).ok_or_else(|| short(&whole))?;
                if code != 0 {
                    let place = usize::try_from(number).unwrap_or_default().checked_sub(1);
                    let name = place.map_or_else(whole, &what);
                    failure.get_or_insert_with(|| Error::from_errno(name, Errno::from_raw(code), text));
                }
                // The transaction as a whole is answered before its requests.
                if message.sequence == last || (message.sequence == begin && code != 0) {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Joins a multicast group.
    pub(crate) fn join(&mut self, group: u32) -> Result<()> {
        self.inner.add_membership(group).map_err(|e| Error::io(format!("join netlink group {group}"), e))
    }

    /// Waits for one datagram that nobody asked for, and hands its messages to `take` (message type, payload).
    pub(crate) fn listen(&mut self, mut take: impl FnMut(u16, &[u8])) -> Result<()> {
        self.receive(Instant::now() + self.timeout, &|| "listen to the kernel".to_owned())?;
        wire::messages(&self.buffer).for_each(|message| take(message.message_type, message.payload));
        Ok(())
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        self.sequence
    }

    fn send(&mut self, what: &impl Fn() -> String) -> Result<()> {
        loop {
            match self.inner.send(&self.out, 0) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(what(), e)),
            }
        }
    }

    /// Fills the buffer with the next datagram.
    fn receive(&mut self, deadline: Instant, what: &impl Fn() -> String) -> Result<()> {
        loop {
            if Instant::now() > deadline {
                return Err(Error::Timeout { what: what(), after: self.timeout });
            }
            self.buffer.clear();
            match self.inner.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => {
                    return Err(Error::Decode {
                        what: what(),
                        reason: format!("a message of {length} bytes was cut to {}", self.buffer.len()),
                    });
                }
                Ok(_) => return Ok(()),
                Err(e) => match e.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR) => {}
                    Some(Errno::EAGAIN) => return Err(Error::Timeout { what: what(), after: self.timeout }),
                    Some(Errno::ENOBUFS) => {
                        return Err(Error::Lost { what: what(), reason: "receive buffer overrun" });
                    }
                    _ => return Err(Error::io(what(), e)),
                },
            }
        }
    }
}

/// Asks for a receive buffer of [`RECEIVE_BUFFER`].
pub(crate) fn widen(socket: &netlink_sys::Socket) -> Result<()> {
    // FORCE isn't capped by net.core.rmem_max but needs CAP_NET_ADMIN; without it the plain option still helps.
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER)
            .map_err(|e| Error::from_errno("widen a netlink socket's buffer", e, None))?;
    }
    Ok(())
}

fn short(what: &impl Fn() -> String) -> Error {
    Error::Decode { what: what(), reason: "error message too short".to_owned() }
}
