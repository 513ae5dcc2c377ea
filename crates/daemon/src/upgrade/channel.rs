//! Between a process and its successor: words in JSON behind their length, and file descriptors.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Descriptors in one message; the kernel takes 253 (`SCM_MAX_FD`).
const BATCH: usize = 200;
/// Octets of a word: a table of ten million routes is less.
const MAX_WORD: u32 = 1 << 30;

/// What is said, in this order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Word {
    /// The successor knows its configuration and the cluster's, and could begin.
    Prepared,
    /// The predecessor has stopped to touch its sockets. What its speaker knows follows, then so many descriptors.
    State(Counts),
    /// The successor understands the state and has the sockets.
    Ready,
    /// It does not, and ends.
    Refused(String),
    /// It may begin. So it may when the predecessor is gone after its [`Word::State`].
    Go,
    /// It begins: the predecessor must not touch the sockets any more.
    Running,
}

/// Descriptors, in this order.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) ports: usize,
    pub(super) listeners: usize,
    pub(super) connections: usize,
    pub(super) bfd: usize,
}

/// One end.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Bounds every following wait.
    pub(super) fn patience(&self, limit: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(limit)?;
        self.0.set_write_timeout(limit)
    }

    pub(super) fn say(&mut self, word: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec(word)?;
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        self.0.write_all(&length.to_be_bytes())?;
        self.0.write_all(&text)
    }

    pub(super) fn hear<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > MAX_WORD {
            return Err(io::Error::other("a word of more than 1 GiB"));
        }
        let mut text = Vec::new();
        (&mut self.0).take(length.into()).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    pub(super) fn give(&self, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        for fds in fds.chunks(BATCH) {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(BATCH))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
            // Descriptors need an octet to go with.
            sendmsg(&self.0, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
        }
        Ok(())
    }

    pub(super) fn take(&self, count: usize) -> io::Result<Vec<OwnedFd>> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(BATCH))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut octet = [0];
            let message = recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut octet)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            if message.bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    taken.extend(fds);
                }
            }
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn words_and_descriptors_arrive_in_order() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (Channel::new(one), Channel::new(other));
        let pipes: Vec<_> = (0..450).map(|_| io::pipe().unwrap()).collect();
        let fds: Vec<_> = pipes.iter().map(|(_, write)| write.as_fd()).collect();
        one.say(&Word::Prepared).unwrap();
        one.give(&fds).unwrap();
        one.say(&Word::Go).unwrap();
        assert!(matches!(other.hear().unwrap(), Word::Prepared));
        let taken = other.take(450).unwrap();
        assert!(matches!(other.hear().unwrap(), Word::Go));
        for (number, fd) in taken.into_iter().enumerate() {
            std::fs::File::from(fd).write_all(&number.to_be_bytes()).unwrap();
        }
        for (number, (mut read, _)) in pipes.into_iter().enumerate() {
            let mut got = [0; 8];
            read.read_exact(&mut got).unwrap();
            assert_eq!(usize::from_be_bytes(got), number);
        }
        drop(one);
        assert_eq!(other.hear::<Word>().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
