//! Commands to Redis, packed as they go to a server, each with the bucket whose server must have it. Most are calls of
//! scripts.

use super::keys::Bucket;
use super::script::Script;
use redis::{Cmd, ToRedisArgs};

/// The commands are carried out in the order in which they are added, per bucket.
#[derive(Default)]
pub struct Pipeline {
    bytes: Vec<u8>,
    /// Of each command, its bucket and where its bytes end.
    ends: Vec<(Bucket, usize)>,
    writes: bool,
}

impl Pipeline {
    /// A script that only reads, or whose write need not be durable when the answer comes.
    pub fn read<A: ToRedisArgs>(&mut self, bucket: Bucket, script: Script, keys: &[&[u8]], args: A) {
        script.call(keys, args, &mut self.bytes);
        self.ends.push((bucket, self.bytes.len()));
    }

    /// A script whose writes must be durable when the answer comes.
    pub fn write<A: ToRedisArgs>(&mut self, bucket: Bucket, script: Script, keys: &[&[u8]], args: A) {
        self.read(bucket, script, keys, args);
        self.writes = true;
    }

    /// Any other command that reads.
    pub fn command(&mut self, bucket: Bucket, command: &Cmd) {
        command.write_packed_command(&mut self.bytes);
        self.ends.push((bucket, self.bytes.len()));
    }

    /// Any other command that writes.
    pub fn write_command(&mut self, bucket: Bucket, command: &Cmd) {
        self.command(bucket, command);
        self.writes = true;
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    pub fn writes(&self) -> bool {
        self.writes
    }

    /// The bucket of each command.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> {
        self.ends.iter().map(|(bucket, _)| *bucket)
    }

    /// The buckets that are touched, each once, in ascending order.
    pub fn distinct_buckets(&self) -> Vec<Bucket> {
        let mut buckets: Vec<Bucket> = self.buckets().collect();
        buckets.sort_unstable();
        buckets.dedup();
        buckets
    }

    /// Appends the bytes of the commands whose buckets are chosen.
    pub fn pack(&self, chosen: impl Fn(Bucket) -> bool, out: &mut Vec<u8>) {
        let mut start = 0;
        for (bucket, end) in &self.ends {
            if chosen(*bucket) {
                out.extend_from_slice(&self.bytes[start..*end]);
            }
            start = *end;
        }
    }
}
