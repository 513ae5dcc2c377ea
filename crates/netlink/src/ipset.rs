//! Address sets of the kernel (ipset) over netlink: create, list, add and delete members in large batches,
//! without executing `ipset`. One member costs about 20 us.
//!
//! A socket belongs to the network namespace of the thread that opened it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

#[cfg(test)]
mod tests;
mod wire;

/// Members per ADD or DEL message: more gains nothing, and the list attribute is limited to 64 KiB.
const BATCH: usize = 500;
const NETLINK_NETFILTER: isize = 12;
const RECEIVE_BUFFER: usize = 1 << 20;
/// Seconds after which a kernel that doesn't answer is an error.
const TIMEOUT: i64 = 20;
/// `IPSET_MAXNAMELEN` without its NUL.
pub const MAX_NAME: usize = 31;
/// Limit of members a set gets when it is created (Calico's value).
pub const MAX_ELEMENTS: u32 = 1 << 20;

/// Address family of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `inet`.
    V4,
    /// `inet6`.
    V6,
}

impl Family {
    const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// Types of sets in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetType {
    /// `hash:net`: addresses and networks.
    HashNet,
    /// `hash:ip,port`: address, protocol, port.
    HashIpPort,
    /// `hash:net,iface`: network and the interface it is behind.
    HashNetIface,
}

impl SetType {
    /// The kernel's name of the type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HashNet => "hash:net",
            Self::HashIpPort => "hash:ip,port",
            Self::HashNetIface => "hash:net,iface",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::HashNet, Self::HashIpPort, Self::HashNetIface].into_iter().find(|kind| kind.name() == name)
    }
}

/// A member of a set. Prefix length 0 does not exist in the kernel's sets: write two halves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// Of `hash:net`.
    Net(IpNet),
    /// Of `hash:ip,port`: address, IP protocol number, port.
    IpPort(IpAddr, u8, u16),
    /// Of `hash:net,iface`.
    NetIface(IpNet, Arc<str>),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => write!(f, "{net}"),
            Self::IpPort(address, protocol, port) => write!(f, "{address},{protocol}:{port}"),
            Self::NetIface(net, interface) => write!(f, "{net},{interface}"),
        }
    }
}

/// Header of a set as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetInfo {
    /// Name.
    pub name: String,
    /// Type; `None` for one this crate does not handle.
    pub kind: Option<SetType>,
    /// Family.
    pub family: Family,
    /// Most members it can hold.
    pub max_elements: u32,
    /// Rules (and other sets) that refer to it; it can be destroyed at 0.
    pub references: u32,
}

impl SetInfo {
    const fn unknown() -> Self {
        Self { name: String::new(), kind: None, family: Family::V4, max_elements: 0, references: 0 }
    }
}

/// What went wrong with a set.
#[derive(Debug, thiserror::Error)]
pub enum IpsetError {
    /// The socket failed.
    #[error("netlink socket for address sets: {0}; is the process allowed to (CAP_NET_ADMIN)?")]
    Socket(#[from] std::io::Error),
    /// The kernel refused.
    #[error("{operation} {set}{}: {}", member.as_ref().map(|m| format!(" member {m}")).unwrap_or_default(), describe(*code))]
    Kernel {
        /// What was asked for.
        operation: &'static str,
        /// Name of the set.
        set: String,
        /// The member that was refused, if the kernel said which.
        member: Option<String>,
        /// `errno`, or a code above 4096 of the set code.
        code: i32,
    },
    /// An answer that could not be read.
    #[error("unreadable answer of the kernel about address sets: {what}")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
}

impl IpsetError {
    fn has(&self, wanted: &[i32]) -> bool {
        matches!(self, Self::Kernel { code, .. } if wanted.contains(code))
    }

    /// There is no such set.
    pub fn is_missing(&self) -> bool {
        self.has(&[libc::ENOENT])
    }

    /// The set holds as many members as it was created for (`IPSET_ERR_HASH_FULL`).
    pub fn is_full(&self) -> bool {
        self.has(&[4352])
    }

    /// Rules still refer to the set.
    pub fn is_busy(&self) -> bool {
        self.has(&[4100, libc::EBUSY])
    }
}

fn describe(code: i32) -> String {
    match code {
        libc::ENOENT => "there is no such set".to_owned(),
        libc::EEXIST => "a set of that name exists with another type".to_owned(),
        4097 => "the kernel speaks another version of the set protocol".to_owned(),
        4098 => "the kernel lacks this type of set (module ip_set_hash_*)".to_owned(),
        4099 => "the kernel's limit of sets is reached".to_owned(),
        4100 => "rules still refer to it".to_owned(),
        4352 => "the set is full".to_owned(),
        code if (4096..5000).contains(&code) => format!("set error {code}"),
        _ => std::io::Error::from_raw_os_error(code).to_string(),
    }
}

/// A blocking netlink connection to the kernel's sets.
pub struct Ipset {
    socket: Socket,
    sequence: u32,
    revisions: BTreeMap<(SetType, Family), u8>,
}

impl fmt::Debug for Ipset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ipset").finish_non_exhaustive()
    }
}

struct Operation<'a> {
    name: &'static str,
    set: &'a str,
    entries: &'a [Entry],
}

impl Ipset {
    /// Opens a connection in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel has no netfilter netlink, or the process lacks CAP_NET_ADMIN.
    pub fn open() -> Result<Self, IpsetError> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT))
            .map_err(std::io::Error::from)?;
        Ok(Self { socket, sequence: 0, revisions: BTreeMap::new() })
    }

    fn request(&mut self, command: u8, flags: u16, family: Family) -> wire::Request {
        self.sequence = self.sequence.wrapping_add(1);
        wire::Request::new(command, flags, self.sequence, family)
    }

    /// Sends and hands every answer with a payload to `answer`, until acknowledged.
    fn exchange(
        &mut self,
        request: wire::Request,
        operation: &Operation<'_>,
        mut answer: impl FnMut(&[u8]) -> Result<(), IpsetError>,
    ) -> Result<(), IpsetError> {
        let bytes = request.finish();
        self.socket.send(&bytes, 0)?;
        let mut failure = None;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for message in wire::messages(&datagram) {
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    wire::NLMSG_ERROR | wire::NLMSG_DONE => {
                        let code = wire::error_code(message.payload);
                        if code != 0 {
                            let line = wire::error_line(message.payload);
                            failure = failure.or_else(|| {
                                Some(IpsetError::Kernel {
                                    operation: operation.name,
                                    set: operation.set.to_owned(),
                                    member: line
                                        .and_then(|l| operation.entries.get(l))
                                        .map(ToString::to_string),
                                    code,
                                })
                            });
                        }
                        return failure.map_or(Ok(()), Err);
                    }
                    // The rest of the dump has to be read off the socket before the error is returned.
                    _ if failure.is_none() => failure = answer(message.payload).err(),
                    _ => {}
                }
            }
        }
    }

    /// Highest revision of a type that the kernel has.
    fn revision(&mut self, kind: SetType, family: Family) -> Result<u8, IpsetError> {
        if let Some(revision) = self.revisions.get(&(kind, family)) {
            return Ok(*revision);
        }
        let mut request = self.request(wire::CMD_TYPE, wire::NLM_F_ACK, family);
        request.kind(kind, family);
        let mut found = None;
        let operation = Operation { name: "ask for set type", set: kind.name(), entries: &[] };
        self.exchange(request, &operation, |payload| {
            found = found.or_else(|| wire::revision(payload));
            Ok(())
        })?;
        let revision = found.ok_or(IpsetError::Malformed { what: "type revision" })?;
        self.revisions.insert((kind, family), revision);
        Ok(revision)
    }

    /// Creates an empty set.
    ///
    /// # Errors
    /// It exists already, or the kernel lacks the type.
    pub fn create(&mut self, name: &str, kind: SetType, family: Family, max: u32) -> Result<(), IpsetError> {
        let revision = self.revision(kind, family)?;
        let flags = wire::NLM_F_ACK | wire::NLM_F_CREATE | wire::NLM_F_EXCL;
        let mut request = self.request(wire::CMD_CREATE, flags, family);
        request.name(name);
        request.kind(kind, family);
        request.create_data(revision, max);
        self.exchange(request, &Operation { name: "create set", set: name, entries: &[] }, |_| Ok(()))
    }

    /// Destroys a set; one that does not exist is no error.
    ///
    /// # Errors
    /// It is in use ([`IpsetError::is_busy`]).
    pub fn destroy(&mut self, name: &str) -> Result<(), IpsetError> {
        let mut request = self.request(wire::CMD_DESTROY, wire::NLM_F_ACK, Family::V4);
        request.name(name);
        match self.exchange(request, &Operation { name: "destroy set", set: name, entries: &[] }, |_| Ok(()))
        {
            // Kernels before 5.14 say so, later ones don't.
            Err(error) if error.is_missing() => Ok(()),
            result => result,
        }
    }

    /// Exchanges the contents of two sets of one type, atomically for the rules that refer to them.
    ///
    /// # Errors
    /// One does not exist, or the types differ.
    pub fn swap(&mut self, first: &str, second: &str) -> Result<(), IpsetError> {
        let mut request = self.request(wire::CMD_SWAP, wire::NLM_F_ACK, Family::V4);
        request.name(first);
        request.second_name(second);
        self.exchange(request, &Operation { name: "swap set", set: first, entries: &[] }, |_| Ok(()))
    }

    /// Adds members; one that is there already is no error. Not atomic: members before one that failed are in.
    ///
    /// # Errors
    /// The set is missing or full, or a member does not fit its type.
    pub fn add(&mut self, name: &str, family: Family, entries: &[Entry]) -> Result<(), IpsetError> {
        self.change("add to set", wire::CMD_ADD, name, family, entries)
    }

    /// Deletes members; one that isn't there is no error.
    ///
    /// # Errors
    /// The set is missing.
    pub fn remove(&mut self, name: &str, family: Family, entries: &[Entry]) -> Result<(), IpsetError> {
        self.change("delete from set", wire::CMD_DEL, name, family, entries)
    }

    fn change(
        &mut self,
        operation: &'static str,
        command: u8,
        set: &str,
        family: Family,
        entries: &[Entry],
    ) -> Result<(), IpsetError> {
        for batch in entries.chunks(BATCH) {
            let mut request = self.request(command, wire::NLM_F_ACK, family);
            request.name(set);
            request.entries(batch);
            self.exchange(request, &Operation { name: operation, set, entries: batch }, |_| Ok(()))?;
        }
        Ok(())
    }

    /// Headers of all sets of the namespace, foreign ones included.
    ///
    /// # Errors
    /// The socket fails or an answer can't be read.
    pub fn headers(&mut self) -> Result<Vec<SetInfo>, IpsetError> {
        let mut request = self.request(wire::CMD_LIST, wire::NLM_F_DUMP, Family::V4);
        request.headers_only();
        let mut found = Vec::new();
        self.exchange(request, &Operation { name: "list sets", set: "", entries: &[] }, |payload| {
            let mut info = SetInfo::unknown();
            wire::listed(payload, &mut info)?;
            found.push(info);
            Ok(())
        })?;
        Ok(found)
    }

    /// Members of a set, in the kernel's order.
    ///
    /// # Errors
    /// There is no such set.
    pub fn members(&mut self, name: &str) -> Result<Vec<Entry>, IpsetError> {
        let mut request = self.request(wire::CMD_LIST, wire::NLM_F_DUMP, Family::V4);
        request.name(name);
        let mut found = Vec::new();
        let mut info = SetInfo::unknown();
        self.exchange(request, &Operation { name: "list set", set: name, entries: &[] }, |payload| {
            found.extend(wire::listed(payload, &mut info)?);
            Ok(())
        })?;
        Ok(found)
    }
}
