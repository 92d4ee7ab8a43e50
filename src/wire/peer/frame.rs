//! The frames of a link between two nodes.
//!
//! ```text
//! length u32 (of what follows) · kind u8 · fields in order of the variants below
//! ```
//!
//! `Frame::decode` looks at the front of what was received: a frame and its length, `None` for more bytes, or a
//! violation, upon which the link is closed. It allocates nothing, and a length beyond the limit is refused as soon as
//! it is read. Lists are handed out undecoded and checked (`Changes`, `Positions`), so that reading them cannot fail.

use super::cursor::{Cursor, put_node};
use crate::base::id::NodeId;
use thiserror::Error;

/// Versions of the frames that a node can speak, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    pub min: u16,
    pub max: u16,
}

impl VersionRange {
    pub const OURS: VersionRange = VersionRange { min: 1, max: 1 };

    /// The newest version that both speak.
    pub fn agree(self, other: VersionRange) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

/// The first frame in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub versions: VersionRange,
    pub node: NodeId,
    /// Orders the generations of one address: the later start is the living one.
    pub start: u64,
    /// The sender's wall clock, by which its datagrams are judged.
    pub unix_s: u64,
    /// Which of its links to this node this is, and of how many. The first carries the directory.
    pub link: u16,
    pub links: u16,
}

/// Why a link is not made, or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Goodbye {
    /// The node stops; it comes back as another generation.
    Leaving = 1,
    /// No version in common.
    Version = 2,
    /// The receiver's generation is dead to the sender: its sessions have other owners.
    GenerationDead = 3,
    /// The cluster has as many members as it may.
    Full = 4,
    /// A frame that makes no sense.
    Violation = 5,
    /// Another link of the same number took its place.
    Replaced = 6,
    /// Another life at the receiver's address started later: the receiver needs a later start.
    Outlived = 7,
}

impl Goodbye {
    fn from_u8(reason: u8) -> Option<Goodbye> {
        use Goodbye::{Full, GenerationDead, Leaving, Outlived, Replaced, Version, Violation};
        let all = [Leaving, Version, GenerationDead, Full, Violation, Replaced, Outlived];
        all.into_iter().find(|known| *known as u8 == reason)
    }
}

/// A number of a batch of directory changes; the first of a generation is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeNumber(pub u64);

impl ChangeNumber {
    pub fn next(self) -> ChangeNumber {
        ChangeNumber(self.0 + 1)
    }
}

/// One bit of a presence bitmap, and what it is from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Below 2³¹.
    pub bit: u32,
    pub is_set: bool,
}

/// Changes of one turn, undecoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changes<'a>(&'a [u8]);

impl<'a> Changes<'a> {
    pub fn iter(self) -> impl ExactSizeIterator<Item = Change> + 'a {
        let (words, _) = self.0.as_chunks::<4>();
        words.iter().map(|word| {
            let word = u32::from_be_bytes(*word);
            Change { bit: word & !SET, is_set: word & SET != 0 }
        })
    }

    /// As many as fit into a frame go into one batch.
    pub fn encode(changes: impl Iterator<Item = Change>) -> Vec<u8> {
        changes.flat_map(|change| (change.bit | if change.is_set { SET } else { 0 }).to_be_bytes()).collect()
    }

    /// Of what `encode` has made.
    pub fn new(encoded: &'a [u8]) -> Option<Changes<'a>> {
        encoded.len().is_multiple_of(4).then_some(Changes(encoded))
    }
}

/// `CHUNK_BITS` bits of a bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// Every bit; the first is the highest of the first byte.
    Bits(&'a [u8; CHUNK_BYTES]),
    /// The bits that are set, when they are few.
    Positions(Positions<'a>),
}

/// Ascending positions within a chunk, undecoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions<'a>(&'a [u8]);

impl<'a> Positions<'a> {
    pub fn iter(self) -> impl ExactSizeIterator<Item = u16> + 'a {
        let (words, _) = self.0.as_chunks::<2>();
        words.iter().map(|word| u16::from_be_bytes(*word))
    }

    pub fn new(encoded: &'a [u8]) -> Option<Positions<'a>> {
        let positions = Positions(encoded);
        let ascend = positions.iter().zip(positions.iter().skip(1)).all(|(one, next)| one < next);
        (encoded.len().is_multiple_of(2) && ascend).then_some(positions)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    Hello(Hello),
    Goodbye(Goodbye),
    /// `method` and `body` are the caller's and the callee's business.
    Call {
        id: u64,
        deadline_ms: u32,
        method: u8,
        body: &'a [u8],
    },
    Reply {
        id: u64,
        outcome: u8,
        body: &'a [u8],
    },
    /// All changes of a turn. `size_log2` is the bitmap's size when they had been made.
    Changes {
        number: ChangeNumber,
        size_log2: u8,
        changes: Changes<'a>,
    },
    /// The receiver has applied every change up to this one.
    Acknowledged {
        number: ChangeNumber,
    },
    /// A snapshot follows, whole, in `Chunk`s from the first on; changes come in between.
    SnapshotBegin {
        number: ChangeNumber,
        size_log2: u8,
    },
    Chunk {
        index: u32,
        chunk: Chunk<'a>,
    },
    SnapshotEnd {
        number: ChangeNumber,
        checksum: u64,
    },
    /// What the sender's bitmap sums up to after change `number`.
    Checksum {
        number: ChangeNumber,
        checksum: u64,
    },
    /// The receiver of a directory has lost track of it and needs a snapshot.
    Resync,
    /// `sent_ms` is the sender's monotonic clock; it comes back in the echo, which gives the round trip.
    Heartbeat {
        sent_ms: u64,
    },
    HeartbeatEcho {
        sent_ms: u64,
    },
}

/// What no node of ours sends: the link is closed, and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    #[error("a frame of {len} bytes; {max} are allowed")]
    TooLong { len: usize, max: usize },
    #[error("a frame of kind {0}")]
    Kind(u8),
    #[error("a frame of kind {0} whose fields make no sense")]
    Fields(u8),
}

impl<'a> Frame<'a> {
    /// The frame at the front of `received`, and its length with its head. `None`: more bytes are needed. `bytes_max`
    /// is the limit of what follows the length.
    pub fn decode(received: &'a [u8], bytes_max: usize) -> Result<Option<(Frame<'a>, usize)>, Violation> {
        let Some((length, rest)) = received.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let len = u32::from_be_bytes(*length) as usize;
        if len > bytes_max {
            return Err(Violation::TooLong { len, max: bytes_max });
        }
        let Some(content) = rest.get(..len) else { return Ok(None) };
        let Some((&kind, fields)) = content.split_first() else { return Err(Violation::Kind(0)) };
        if !(HELLO..=HEARTBEAT_ECHO).contains(&kind) {
            return Err(Violation::Kind(kind));
        }
        let frame = decode_fields(kind, fields).ok_or(Violation::Fields(kind))?;
        Ok(Some((frame, LENGTH_BYTES + len)))
    }

    /// Appends the frame.
    pub fn encode_into(self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        self.put_fields(out);
        let len = u32::try_from(out.len() - start - LENGTH_BYTES).expect("bodies are far below 4 GiB");
        out[start..start + LENGTH_BYTES].copy_from_slice(&len.to_be_bytes());
    }

    fn put_fields(self, out: &mut Vec<u8>) {
        let mut put = |kind: u8, parts: &[&[u8]]| {
            out.push(kind);
            parts.iter().for_each(|part| out.extend_from_slice(part));
        };
        match self {
            Frame::Hello(hello) => put_hello(out, &hello),
            Frame::Goodbye(reason) => put(GOODBYE, &[&[reason as u8]]),
            Frame::Call { id, deadline_ms, method, body } => {
                put(CALL, &[&id.to_be_bytes(), &deadline_ms.to_be_bytes(), &[method], body]);
            }
            Frame::Reply { id, outcome, body } => put(REPLY, &[&id.to_be_bytes(), &[outcome], body]),
            Frame::Changes { number, size_log2, changes } => {
                put(CHANGES, &[&number.0.to_be_bytes(), &[size_log2], changes.0]);
            }
            Frame::Acknowledged { number } => put(ACKNOWLEDGED, &[&number.0.to_be_bytes()]),
            Frame::SnapshotBegin { number, size_log2 } => {
                put(SNAPSHOT_BEGIN, &[&number.0.to_be_bytes(), &[size_log2]]);
            }
            Frame::Chunk { index, chunk } => match chunk {
                Chunk::Bits(bits) => put(CHUNK, &[&index.to_be_bytes(), &[BITS], bits]),
                Chunk::Positions(positions) => put(CHUNK, &[&index.to_be_bytes(), &[POSITIONS], positions.0]),
            },
            Frame::SnapshotEnd { number, checksum } => {
                put(SNAPSHOT_END, &[&number.0.to_be_bytes(), &checksum.to_be_bytes()]);
            }
            Frame::Checksum { number, checksum } => {
                put(CHECKSUM, &[&number.0.to_be_bytes(), &checksum.to_be_bytes()]);
            }
            Frame::Resync => put(RESYNC, &[]),
            Frame::Heartbeat { sent_ms } => put(HEARTBEAT, &[&sent_ms.to_be_bytes()]),
            Frame::HeartbeatEcho { sent_ms } => put(HEARTBEAT_ECHO, &[&sent_ms.to_be_bytes()]),
        }
    }
}

fn put_hello(out: &mut Vec<u8>, hello: &Hello) {
    out.push(HELLO);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&hello.versions.min.to_be_bytes());
    out.extend_from_slice(&hello.versions.max.to_be_bytes());
    put_node(out, hello.node);
    out.extend_from_slice(&hello.start.to_be_bytes());
    out.extend_from_slice(&hello.unix_s.to_be_bytes());
    out.extend_from_slice(&hello.link.to_be_bytes());
    out.extend_from_slice(&hello.links.to_be_bytes());
}

fn decode_fields(kind: u8, fields: &[u8]) -> Option<Frame<'_>> {
    let mut cursor = Cursor::new(fields);
    let frame = match kind {
        // Later versions may append to it: an older node must be able to say that it is too old.
        HELLO => return decode_hello(&mut cursor).map(Frame::Hello),
        GOODBYE => Frame::Goodbye(Goodbye::from_u8(cursor.u8()?)?),
        CALL => {
            let (id, deadline_ms, method) = (cursor.u64()?, cursor.u32()?, cursor.u8()?);
            return Some(Frame::Call { id, deadline_ms, method, body: cursor.rest() });
        }
        REPLY => return Some(Frame::Reply { id: cursor.u64()?, outcome: cursor.u8()?, body: cursor.rest() }),
        CHANGES => {
            let (number, size_log2) = (ChangeNumber(cursor.u64()?), size(&mut cursor)?);
            let changes = Changes::new(cursor.rest())?;
            let are_within = changes.iter().all(|change| change.bit >> size_log2 == 0);
            return are_within.then_some(Frame::Changes { number, size_log2, changes });
        }
        ACKNOWLEDGED => Frame::Acknowledged { number: ChangeNumber(cursor.u64()?) },
        SNAPSHOT_BEGIN => Frame::SnapshotBegin { number: ChangeNumber(cursor.u64()?), size_log2: size(&mut cursor)? },
        CHUNK => return decode_chunk(&mut cursor),
        SNAPSHOT_END => Frame::SnapshotEnd { number: ChangeNumber(cursor.u64()?), checksum: cursor.u64()? },
        CHECKSUM => Frame::Checksum { number: ChangeNumber(cursor.u64()?), checksum: cursor.u64()? },
        RESYNC => Frame::Resync,
        HEARTBEAT => Frame::Heartbeat { sent_ms: cursor.u64()? },
        HEARTBEAT_ECHO => Frame::HeartbeatEcho { sent_ms: cursor.u64()? },
        _ => return None,
    };
    cursor.end().map(|()| frame)
}

fn decode_hello(cursor: &mut Cursor<'_>) -> Option<Hello> {
    if cursor.bytes(MAGIC.len())? != MAGIC {
        return None;
    }
    let versions = VersionRange { min: cursor.u16()?, max: cursor.u16()? };
    let (node, start, unix_s) = (cursor.node()?, cursor.u64()?, cursor.u64()?);
    let (link, links) = (cursor.u16()?, cursor.u16()?);
    (link < links && versions.min <= versions.max).then_some(Hello { versions, node, start, unix_s, link, links })
}

fn decode_chunk<'a>(cursor: &mut Cursor<'a>) -> Option<Frame<'a>> {
    let index = cursor.u32()?;
    let chunk = match cursor.u8()? {
        BITS => Chunk::Bits(cursor.rest().try_into().ok()?),
        POSITIONS => Chunk::Positions(Positions::new(cursor.rest())?),
        _ => return None,
    };
    Some(Frame::Chunk { index, chunk })
}

fn size(cursor: &mut Cursor<'_>) -> Option<u8> {
    cursor.u8().filter(|size_log2| (SIZE_LOG2_MIN..=SIZE_LOG2_MAX).contains(size_log2))
}

/// Bits of a chunk of a snapshot: a position in it takes two bytes.
pub const CHUNK_BITS: usize = 1 << SIZE_LOG2_MIN;
pub const CHUNK_BYTES: usize = CHUNK_BITS / 8;

/// The smallest bitmap is one chunk, 8 KiB; the largest, 128 MiB, is for 32 million channels. What a peer declares
/// beyond that is a violation.
pub const SIZE_LOG2_MIN: u8 = 16;
pub const SIZE_LOG2_MAX: u8 = 30;

const _: () = assert!(SIZE_LOG2_MAX < 31, "the highest bit of a change says whether it sets");

const LENGTH_BYTES: usize = 4;
const MAGIC: &[u8; 4] = b"RBOW";
const SET: u32 = 1 << 31;

const HELLO: u8 = 1;
const GOODBYE: u8 = 2;
const CALL: u8 = 3;
const REPLY: u8 = 4;
const CHANGES: u8 = 5;
const ACKNOWLEDGED: u8 = 6;
const SNAPSHOT_BEGIN: u8 = 7;
const CHUNK: u8 = 8;
const SNAPSHOT_END: u8 = 9;
const CHECKSUM: u8 = 10;
const RESYNC: u8 = 11;
const HEARTBEAT: u8 = 12;
const HEARTBEAT_ECHO: u8 = 13;

const BITS: u8 = 0;
const POSITIONS: u8 = 1;

#[cfg(test)]
mod tests;
