//! AS_PATH (RFC 4271 section 5.1.2, RFC 6793).

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeSeq};
use smallvec::SmallVec;

use crate::wire::List;

/// How the AS numbers of a segment relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum SegmentKind {
    /// AS_SET, 1: unordered, from aggregation.
    Set = 1,
    /// AS_SEQUENCE, 2: nearest first.
    Sequence = 2,
}

/// One segment of an AS_PATH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Set or sequence.
    pub kind: SegmentKind,
    /// AS numbers, never empty.
    pub asns: &'a [u32],
}

/// An AS_PATH in canonical form: neighbouring sequences are one, sets are sorted without duplicates. Segments longer
/// than the 255 of the wire are split when encoded.
///
/// One allocation for the whole path: for each segment a word with the kind in the top octet and the number of ASes
/// below, then the AS numbers.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AsPath(List<u32>);

const COUNT_MASK: u32 = 0x00ff_ffff;

impl AsPath {
    /// The empty path: of routes that originate in the own AS.
    pub const EMPTY: Self = Self(List::EMPTY);

    /// A path of one sequence, nearest AS first.
    pub fn sequence(asns: impl IntoIterator<Item = u32>) -> Self {
        let mut builder = AsPathBuilder::default();
        builder.push(SegmentKind::Sequence, asns);
        builder.finish()
    }

    /// A path of segments; empty segments vanish.
    pub fn from_segments<I: IntoIterator<Item = u32>>(
        segments: impl IntoIterator<Item = (SegmentKind, I)>,
    ) -> Self {
        let mut builder = AsPathBuilder::default();
        for (kind, asns) in segments {
            builder.push(kind, asns);
        }
        builder.finish()
    }

    /// The segments in order.
    pub fn segments(&self) -> Segments<'_> {
        Segments { words: &self.0 }
    }

    /// Every AS number, in order, those of sets included.
    pub fn asns(&self) -> impl Iterator<Item = u32> {
        self.segments().flat_map(|segment| segment.asns.iter().copied())
    }

    /// Whether there is no AS in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Length as the decision process counts it: a set is one (RFC 4271 section 9.1.2.2 a).
    pub fn length(&self) -> usize {
        self.segments()
            .map(|segment| if segment.kind == SegmentKind::Set { 1 } else { segment.asns.len() })
            .sum()
    }

    /// The AS that the route was received from: the first of a leading sequence.
    pub fn first(&self) -> Option<u32> {
        self.segments().next().filter(|segment| segment.kind == SegmentKind::Sequence)?.asns.first().copied()
    }

    /// The AS that originated the route: the last of a trailing sequence.
    pub fn origin(&self) -> Option<u32> {
        self.segments().last().filter(|segment| segment.kind == SegmentKind::Sequence)?.asns.last().copied()
    }

    /// How often an AS is in it; more than allowed is a loop.
    pub fn count(&self, asn: u32) -> usize {
        self.asns().filter(|&other| other == asn).count()
    }

    /// The path with `asn` in front `times` times.
    #[must_use]
    pub fn prepended(&self, asn: u32, times: usize) -> Self {
        let mut builder = AsPathBuilder::default();
        builder.push(SegmentKind::Sequence, std::iter::repeat_n(asn, times));
        for segment in self.segments() {
            builder.push(segment.kind, segment.asns.iter().copied());
        }
        builder.finish()
    }
}

/// Iterates over [`AsPath::segments`].
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    words: &'a [u32],
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        let (&head, rest) = self.words.split_first()?;
        let (asns, rest) = rest.split_at_checked((head & COUNT_MASK) as usize)?;
        self.words = rest;
        let kind =
            if head >> 24 == SegmentKind::Set as u32 { SegmentKind::Set } else { SegmentKind::Sequence };
        Some(Segment { kind, asns })
    }
}

/// Collects segments into the canonical form.
#[derive(Debug, Default)]
pub(crate) struct AsPathBuilder {
    words: SmallVec<[u32; 16]>,
    /// Where the last segment's head is, when that segment is a sequence.
    open_sequence: Option<usize>,
}

impl AsPathBuilder {
    /// Appends a segment. AS numbers beyond what a path can count (2^24) are dropped; no message holds so many.
    pub(crate) fn push(&mut self, kind: SegmentKind, asns: impl IntoIterator<Item = u32>) {
        let head = match (kind, self.open_sequence) {
            (SegmentKind::Sequence, Some(head)) => head,
            _ => {
                self.words.push((kind as u32) << 24);
                self.words.len() - 1
            }
        };
        let room = COUNT_MASK as usize - (self.words.len() - head - 1);
        self.words.extend(asns.into_iter().take(room));
        if kind == SegmentKind::Set {
            let set = &mut self.words[head + 1..];
            set.sort_unstable();
            let mut kept = 0;
            for at in 0..set.len() {
                if at == 0 || set[at] != set[kept - 1] {
                    set[kept] = set[at];
                    kept += 1;
                }
            }
            self.words.truncate(head + 1 + kept);
        }
        let count = self.words.len() - head - 1;
        if count == 0 {
            self.words.truncate(head);
            return;
        }
        self.words[head] = ((kind as u32) << 24) | (u32::try_from(count).unwrap_or(COUNT_MASK) & COUNT_MASK);
        self.open_sequence = (kind == SegmentKind::Sequence).then_some(head);
    }

    pub(crate) fn finish(self) -> AsPath {
        AsPath(List::from(&self.words[..]))
    }
}

impl fmt::Display for AsPath {
    /// `64512 65001 {1,2}`, as looking glasses show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        for segment in self.segments() {
            match segment.kind {
                SegmentKind::Sequence => {
                    for asn in segment.asns {
                        write!(f, "{space}{asn}")?;
                        space = " ";
                    }
                }
                SegmentKind::Set => {
                    let mut separator = '{';
                    f.write_str(space)?;
                    for asn in segment.asns {
                        write!(f, "{separator}{asn}")?;
                        separator = ',';
                    }
                    f.write_str("}")?;
                    space = " ";
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsPath({self})")
    }
}

impl Serialize for AsPath {
    /// A list of AS numbers; a set is a list within it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for segment in self.segments() {
            match segment.kind {
                SegmentKind::Sequence => {
                    segment.asns.iter().try_for_each(|asn| list.serialize_element(asn))?
                }
                SegmentKind::Set => list.serialize_element(segment.asns)?,
            }
        }
        list.end()
    }
}
