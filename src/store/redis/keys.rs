//! The names of all keys, and the buckets that they fall into. `rainbow:CLUSTER:{BUCKET}:` begins each key. In a Redis
//! cluster the text in braces decides which node has the key, so all keys of a session, and those of its bucket, lie on
//! one node. What lies in Redis is found by these names: they never change.

use crate::shard::command::SessionId;

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

    /// FNV-1a, which is the same in every version.
    pub fn bucket_of_claim(&self, message_id: &str) -> Bucket {
        let hash = message_id
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        Bucket((hash % u64::from(self.buckets)) as u16)
    }

    // Of a bucket

    pub fn writer(&self, bucket: Bucket) -> Vec<u8> {
        self.key(bucket, "writer", [b"", b""])
    }

    pub fn sessions(&self, bucket: Bucket) -> Vec<u8> {
        self.key(bucket, "sessions", [b"", b""])
    }

    pub fn due(&self, bucket: Bucket) -> Vec<u8> {
        self.key(bucket, "due", [b"", b""])
    }

    // Of a call

    pub fn claim(&self, message_id: &str) -> Vec<u8> {
        self.key(self.bucket_of_claim(message_id), "m:", [message_id.as_bytes(), b""])
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
const CLUSTER_BUCKETS: u16 = 64;
