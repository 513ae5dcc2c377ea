//! Append-only bytes in shared pieces, each a whole number of messages. A reader is a position (octets since the
//! beginning of time); positions are always at message boundaries.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Pieces are merged up to this size, so that a reader who is behind takes few, long ones.
const PIECE: usize = 64 << 10;

#[derive(Debug)]
struct Piece {
    start: u64,
    data: Bytes,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.data.len() as u64
    }
}

/// The log of one group.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pieces: VecDeque<Piece>,
    /// How many pieces at the end are still to be merged.
    open: usize,
    open_bytes: usize,
    tail: u64,
    head: u64,
    messages: u64,
}

/// Messages in a piece, by their length fields (RFC 4271 section 4.1).
fn count(mut data: &[u8]) -> u64 {
    let mut messages = 0;
    while let Some(&[high, low]) = data.get(16..18) {
        messages += 1;
        let len = usize::from(u16::from_be_bytes([high, low]));
        data = data.get(len.max(19)..).unwrap_or_default();
    }
    messages
}

impl Log {
    /// Where the next message will be.
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// The oldest position that can still be read.
    pub(crate) fn tail(&self) -> u64 {
        self.tail
    }

    /// Messages ever appended.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// Octets held.
    pub(crate) fn bytes(&self) -> u64 {
        self.head - self.tail
    }

    /// Appends whole messages.
    pub(crate) fn append(&mut self, pieces: impl IntoIterator<Item = Bytes>) {
        for data in pieces {
            if data.is_empty() {
                continue;
            }
            if self.open_bytes + data.len() > PIECE {
                self.seal();
            }
            let len = data.len();
            self.messages += count(&data);
            self.pieces.push_back(Piece { start: self.head, data });
            self.head += len as u64;
            self.open += 1;
            self.open_bytes += len;
        }
    }

    /// Makes one piece of the open ones.
    fn seal(&mut self) {
        if self.open > 1 {
            let first = self.pieces.len() - self.open;
            let mut merged = BytesMut::with_capacity(self.open_bytes);
            let start = self.pieces.get(first).map_or(self.head, |piece| piece.start);
            for piece in self.pieces.drain(first..) {
                merged.extend_from_slice(&piece.data);
            }
            self.pieces.push_back(Piece { start, data: merged.freeze() });
        }
        self.open = 0;
        self.open_bytes = 0;
    }

    /// What follows a position, up to the end of a piece; `None` at the head or before the tail.
    pub(crate) fn read(&self, position: u64) -> Option<Bytes> {
        if position < self.tail || position >= self.head {
            return None;
        }
        let index = self.pieces.partition_point(|piece| piece.end() <= position);
        let piece = self.pieces.get(index)?;
        Some(piece.data.slice(usize::try_from(position - piece.start).ok()?..))
    }

    /// Forgets whole pieces before a position.
    pub(crate) fn trim(&mut self, position: u64) {
        while self.pieces.front().is_some_and(|piece| piece.end() <= position) {
            if let Some(piece) = self.pieces.pop_front() {
                self.tail = piece.end();
            }
        }
        self.forget_open();
    }

    /// Forgets the oldest pieces until at most `budget` octets are held.
    pub(crate) fn limit(&mut self, budget: usize) {
        while self.bytes() > budget as u64 {
            let Some(piece) = self.pieces.pop_front() else { break };
            self.tail = piece.end();
        }
        self.forget_open();
    }

    fn forget_open(&mut self) {
        if self.open > self.pieces.len() {
            self.open = self.pieces.len();
            self.open_bytes = self.pieces.iter().map(|piece| piece.data.len()).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(log: &Log, mut position: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(data) = log.read(position) {
            assert!(!data.is_empty());
            position += data.len() as u64;
            out.extend_from_slice(&data);
        }
        assert_eq!(position, log.head());
        out
    }

    #[test]
    fn messages_are_counted() {
        let keepalive = || [&[0xff; 16][..], &[0, 19, 4]].concat();
        let long = [&[0xff; 16][..], &[1, 0, 2], &[0; 256 - 19]].concat();
        let mut log = Log::default();
        log.append([keepalive(), [keepalive(), long, keepalive()].concat()].map(Bytes::from));
        assert_eq!(log.messages(), 4);
    }

    proptest! {
        #[test]
        fn every_position_reads_the_same_stream(
            sizes in prop::collection::vec(1usize..40_000, 1..40),
            trims in prop::collection::vec(0usize..40, 0..4),
        ) {
            let mut log = Log::default();
            let mut stream: Vec<u8> = Vec::new();
            let mut starts = vec![];
            for (index, size) in sizes.iter().enumerate() {
                let data: Vec<u8> = (0..*size).map(|at| (at * 31 + index).to_le_bytes()[0]).collect();
                starts.push(stream.len());
                stream.extend_from_slice(&data);
                log.append([Bytes::from(data)]);
                if trims.contains(&index) {
                    log.trim(stream.len() as u64 / 2);
                }
            }
            for start in starts {
                if start as u64 >= log.tail() {
                    prop_assert_eq!(read_all(&log, start as u64), &stream[start..]);
                } else {
                    prop_assert!(log.read(start as u64).is_none());
                }
            }
        }
    }

    #[test]
    fn the_budget_holds_and_moves_the_tail() {
        let mut log = Log::default();
        for _ in 0..100 {
            log.append([Bytes::from(vec![0; 50_000])]);
            log.limit(200_000);
            assert!(log.bytes() <= 200_000);
        }
        assert_eq!(log.head(), 5_000_000);
        assert!(log.read(log.tail()).is_some());
        assert!(log.read(log.tail() - 1).is_none());
    }
}
