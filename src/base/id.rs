//! Who is meant: shards, connections, identities, nodes. Keys are guarded against reuse: a slot's generation is part of
//! the key.

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
    /// Counts the slot's users; wraps.
    pub generation: u16,
    pub shard: ShardId,
}

impl ConnKey {
    /// The key as one number, for an identity's last eight bytes and for logs.
    pub fn pack(self) -> u64 {
        u64::from(self.index.0) << 32 | u64::from(self.generation) << 16 | u64::from(self.shard.0)
    }

    pub fn unpack(packed: u64) -> ConnKey {
        ConnKey {
            index: ConnIndex((packed >> 32) as u32),
            generation: (packed >> 16) as u16,
            shard: ShardId(packed as u16),
        }
    }
}

/// One life of a node: drawn at the start of its process, so that a restarted node is another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);

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
/// The first 24 bytes are a SHA-256 over platform, device, address and time; the last eight are the `ConnKey`, masked
/// with the first eight, so that whoever holds the name finds the connection without a table of a million names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(pub [u8; 32]);

impl Identity {
    /// `digest` is the SHA-256; its first 24 bytes are kept.
    pub fn new(digest: [u8; 32], key: ConnKey) -> Identity {
        let mut identity = Identity(digest);
        let masked = key.pack() ^ identity.mask();
        identity.0[24..].copy_from_slice(&masked.to_be_bytes());
        identity
    }

    /// Where the connection of that name would be; a foreign name yields a key that matches nothing.
    pub fn key(&self) -> ConnKey {
        ConnKey::unpack(self.word(3) ^ self.mask())
    }

    /// Made of the 24 bytes before, so that the last eight look like the rest.
    fn mask(&self) -> u64 {
        Rng::new(self.word(0) ^ self.word(1).rotate_left(21) ^ self.word(2).rotate_left(42)).next_u64()
    }

    fn word(&self, n: usize) -> u64 {
        u64::from_be_bytes(self.0[n * 8..n * 8 + 8].try_into().expect("eight bytes"))
    }

    /// 64 lower-case hex digits.
    pub fn to_hex(self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        hex
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
        let key = ConnKey { index: ConnIndex(0xDEAD_BEEF), generation: 0xA55A, shard: ShardId(29) };
        let identity = Identity::new([0x5C; 32], key);
        assert_eq!(identity.key(), key);
        assert_eq!(Identity::from_hex(identity.to_string().as_bytes()), Some(identity));
        assert_eq!(Identity::from_hex(identity.to_string().to_uppercase().as_bytes()), Some(identity));
        assert_eq!(Identity::from_hex(b"abc"), None);
        assert_eq!(Identity::from_hex(&[b'g'; 64]), None);
    }
}
