//! The names of all keys, and the buckets that they fall into. `rainbow:CLUSTER:{BUCKET}:` begins each key. In a Redis
//! cluster the text in braces decides which node has the key, so all keys of a session, and those of its bucket, lie on
//! one node. What lies in Redis is found by these names: they never change.

use crate::base::id::{Generation, Identity};
use crate::shard::command::{SessionId, place_of};

/// A part of the keys; each part may lie on another node of a Redis cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket(pub u16);

pub struct Keys {
    cluster_name: String,
    buckets: u16,
}

impl Keys {
    pub fn new(cluster_name: &str, in_redis_cluster: bool) -> Keys {
        let buckets = if in_redis_cluster { CLUSTER_BUCKETS } else { 1 };
        Keys { cluster_name: cluster_name.into(), buckets }
    }

    pub fn buckets(&self) -> impl Iterator<Item = Bucket> + use<> {
        (0..self.buckets).map(Bucket)
    }

    pub fn bucket_of_session(&self, session: SessionId) -> Bucket {
        Bucket((session.0 % u128::from(self.buckets)) as u16)
    }

    /// Of a session's name, and of a call's message_id.
    pub fn bucket_of_name(&self, name: &str) -> Bucket {
        Bucket((place_of(name) % u64::from(self.buckets)) as u16)
    }

    // Of a bucket

    pub fn format(&self, bucket: Bucket) -> Vec<u8> {
        self.key(bucket, "format", [b"", b""])
    }

    /// Of format 1.
    pub fn writer(&self, bucket: Bucket) -> Vec<u8> {
        self.key(bucket, "writer", [b"", b""])
    }

    pub fn nodes(&self, bucket: Bucket) -> Vec<u8> {
        self.key(bucket, "nodes", [b"", b""])
    }

    pub fn sessions(&self, bucket: Bucket) -> Vec<u8> {
        self.key(bucket, "sessions", [b"", b""])
    }

    /// Of format 1.
    pub fn due(&self, bucket: Bucket) -> Vec<u8> {
        self.key(bucket, "due", [b"", b""])
    }

    // Of a node, in a bucket

    /// Begins the names of all leases.
    pub fn leases(&self, bucket: Bucket) -> Vec<u8> {
        self.key(bucket, "l:", [b"", b""])
    }

    pub fn lease(&self, bucket: Bucket, node: Generation) -> Vec<u8> {
        self.key(bucket, "l:", [&text_of(node), b""])
    }

    pub fn writes(&self, bucket: Bucket, node: Generation) -> Vec<u8> {
        self.key(bucket, "w:", [&text_of(node), b""])
    }

    pub fn owned(&self, bucket: Bucket, node: Generation) -> Vec<u8> {
        self.key(bucket, "o:", [&text_of(node), b""])
    }

    /// Of connections.
    pub fn connections(&self, bucket: Bucket, node: Generation) -> Vec<u8> {
        self.key(bucket, "k:", [&text_of(node), b""])
    }

    /// Of the dead's connections: those of its last answer.
    pub fn taken(&self, bucket: Bucket, node: Generation) -> Vec<u8> {
        self.key(bucket, "t:", [&text_of(node), b""])
    }

    pub fn bucket_of_connection(&self, identity: &Identity) -> Bucket {
        let place = identity.0.iter().fold(0_u16, |sum, byte| sum.wrapping_add(u16::from(*byte)));
        Bucket(place % self.buckets)
    }

    pub fn due_of(&self, bucket: Bucket, node: Generation) -> Vec<u8> {
        self.key(bucket, "d:", [&text_of(node), b""])
    }

    // Of a session's name

    pub fn name(&self, name: &str) -> Vec<u8> {
        self.key(self.bucket_of_name(name), "n:", [name.as_bytes(), b""])
    }

    /// `None` where the name lies in another bucket than the session.
    pub fn name_beside(&self, name: &str, session: SessionId) -> Option<Vec<u8>> {
        (self.bucket_of_name(name) == self.bucket_of_session(session)).then(|| self.name(name))
    }

    // Of a call

    pub fn claim(&self, message_id: &str) -> Vec<u8> {
        self.key(self.bucket_of_name(message_id), "m:", [message_id.as_bytes(), b""])
    }

    // Of a session

    pub fn row(&self, session: SessionId) -> Vec<u8> {
        self.of_session(session, "s:")
    }

    pub fn queue(&self, session: SessionId) -> Vec<u8> {
        self.of_session(session, "q:")
    }

    pub fn channels(&self, session: SessionId) -> Vec<u8> {
        self.of_session(session, "c:")
    }

    pub fn received(&self, session: SessionId) -> Vec<u8> {
        self.of_session(session, "r:")
    }

    pub fn guard(&self, session: SessionId, message_id: &str) -> Vec<u8> {
        self.key(self.bucket_of_session(session), "g:", [&session.0.to_be_bytes(), message_id.as_bytes()])
    }

    fn of_session(&self, session: SessionId, kind: &str) -> Vec<u8> {
        self.key(self.bucket_of_session(session), kind, [&session.0.to_be_bytes(), b""])
    }

    fn key(&self, bucket: Bucket, kind: &str, ends: [&[u8]; 2]) -> Vec<u8> {
        let mut key = format!("rainbow:{}:{{{}}}:{kind}", self.cluster_name, bucket.0).into_bytes();
        key.extend(ends.concat());
        key
    }
}

/// A generation as it stands in the names of keys.
pub fn text_of(node: Generation) -> [u8; 8] {
    format!("{:08x}", node.0).into_bytes().try_into().expect("eight digits")
}

/// `None` for what is no generation.
pub fn node_of(text: &[u8]) -> Option<Generation> {
    std::str::from_utf8(text).ok().and_then(|text| u32::from_str_radix(text, 16).ok()).map(Generation)
}

impl Bucket {
    /// The slot of the bucket's keys, of 16,384: CRC-16/XMODEM of the text in braces (the Redis cluster specification).
    pub fn slot(self) -> u16 {
        let crc = self.0.to_string().bytes().fold(0_u16, |crc, byte| {
            let next = |crc: u16, _| if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 };
            (0..8).fold(crc ^ u16::from(byte) << 8, next)
        });
        crc % 16384
    }
}

/// Enough to spread over a dozen nodes; few enough that a batch touches no more of them than it has requests.
const CLUSTER_BUCKETS: u16 = SessionId::PLACES as u16;
