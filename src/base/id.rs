//! Who is meant: shards, connections, identities, nodes. Keys are guarded against reuse: a slot's generation is part of
//! the key.

use super::digits::hex_of;
use super::rng::Rng;
use std::fmt;
use std::net::SocketAddr;

/// A worker's number, 0-based, as started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// A connection's slot in its shard's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnIndex(pub u32);

impl ConnIndex {
    /// For indexing a table.
    pub fn slot(self) -> usize {
        self.0 as usize
    }
}

/// Where a connection lives: shard, slot in its table, and the generation of that slot. Checked on every use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnKey {
    pub index: ConnIndex,
    /// Counts the table's users; wraps.
    pub generation: u32,
    pub shard: ShardId,
}

impl ConnKey {
    /// In an identity.
    const BYTES: usize = 10;

    /// Index, generation and shard, each big-endian.
    fn to_bytes(self) -> [u8; ConnKey::BYTES] {
        let mut bytes = [0; ConnKey::BYTES];
        bytes[..4].copy_from_slice(&self.index.0.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.generation.to_be_bytes());
        bytes[8..].copy_from_slice(&self.shard.0.to_be_bytes());
        bytes
    }

    fn from_bytes([i0, i1, i2, i3, g0, g1, g2, g3, s0, s1]: [u8; ConnKey::BYTES]) -> ConnKey {
        ConnKey {
            index: ConnIndex(u32::from_be_bytes([i0, i1, i2, i3])),
            generation: u32::from_be_bytes([g0, g1, g2, g3]),
            shard: ShardId(u16::from_be_bytes([s0, s1])),
        }
    }
}

/// Bytes of an identity behind its digest: the node's generation and the key.
const PLACE: usize = Generation::BYTES + ConnKey::BYTES;

/// Bytes of an identity before its place.
const DIGEST: usize = 32 - PLACE;

/// One life of a node: drawn at the start of its process, so that a restarted node is another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);

impl Generation {
    /// In an identity.
    const BYTES: usize = 4;
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({self})")
    }
}

/// The disk of a node that keeps its sessions on one of its own: the generation of the first life that has used it. It
/// stays the same from one life to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub u32);

impl From<Generation> for u64 {
    fn from(generation: Generation) -> u64 {
        generation.0.into()
    }
}

impl From<DiskId> for u64 {
    fn from(disk: DiskId) -> u64 {
        disk.0.into()
    }
}

/// A node of a cluster: which life of it, and where its peers reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    pub generation: Generation,
    pub address: SocketAddr,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.generation, self.address)
    }
}

/// The name of one connection: 32 bytes, written as 64 hex digits.
///
/// The first 18 bytes are a SHA-256 over platform, device, address and time; the last 14 are the generation of its node
/// and its `ConnKey`, masked with them: whoever holds the name finds the connection without a table, on whatever node
/// of the cluster it is. A name of a former life of a node leads nowhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(pub [u8; 32]);

impl Identity {
    /// `digest` is the SHA-256; its first 18 bytes are kept.
    pub fn new(digest: [u8; 32], node: Generation, key: ConnKey) -> Identity {
        let mut identity = Identity(digest);
        let mask = identity.mask();
        let place = node.0.to_be_bytes().into_iter().chain(key.to_bytes());
        for (byte, (place, mask)) in identity.0[DIGEST..].iter_mut().zip(place.zip(mask)) {
            *byte = place ^ mask;
        }
        identity
    }

    /// The node where the connection of that name would be; a foreign name yields one that never was.
    pub fn node(&self) -> Generation {
        let place = self.place();
        Generation(u32::from_be_bytes(std::array::from_fn(|n| place[n])))
    }

    /// Where on its node it would be; a foreign name yields a key that matches nothing.
    pub fn key(&self) -> ConnKey {
        let place = self.place();
        ConnKey::from_bytes(std::array::from_fn(|n| place[Generation::BYTES + n]))
    }

    fn place(&self) -> [u8; PLACE] {
        let mask = self.mask();
        std::array::from_fn(|n| self.0[DIGEST + n] ^ mask[n])
    }

    /// Made of the digest, so that the last bytes look like the rest.
    fn mask(&self) -> [u8; PLACE] {
        let mut rng = Rng::new(self.word(0) ^ self.word(1).rotate_left(21) ^ self.word(2).rotate_left(42));
        let (low, high) = (rng.next_u64().to_be_bytes(), rng.next_u64().to_be_bytes());
        std::array::from_fn(|n| if n < 8 { low[n] } else { high[n - 8] })
    }

    /// Eight bytes of the digest; the last word is shorter.
    fn word(&self, n: usize) -> u64 {
        let bytes = &self.0[n * 8..DIGEST.min(n * 8 + 8)];
        bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte))
    }

    /// 64 lower-case hex digits.
    pub fn to_hex(self) -> [u8; 64] {
        hex_of(self.0)
    }

    /// Reads 64 hex digits of either case; `None` for anything else.
    pub fn from_hex(hex: &[u8]) -> Option<Identity> {
        let hex: &[u8; 64] = hex.try_into().ok()?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let digit = |c: u8| (c as char).to_digit(16);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Some(Identity(bytes))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_hex()).expect("hex is ASCII"))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_leads_back_to_its_key() {
        let key = ConnKey { index: ConnIndex(0xDEAD_BEEF), generation: 0xA55A_1234, shard: ShardId(29) };
        let node = Generation(0x1234_ABCD);
        let identity = Identity::new([0x5C; 32], node, key);
        assert_eq!((identity.node(), identity.key()), (node, key));
        assert_eq!(Identity::from_hex(identity.to_string().as_bytes()), Some(identity));
        assert_eq!(Identity::from_hex(identity.to_string().to_uppercase().as_bytes()), Some(identity));
        assert_eq!(Identity::from_hex(b"abc"), None);
        assert_eq!(Identity::from_hex(&[b'g'; 64]), None);
    }
}
