//! Who writes to Redis, and with which batch. Every row and the key `writer` contain the *fencing token* of the server
//! that owns them; a write with another token is refused. Tokens are random and compared for equality, since a counter
//! could go back after a failover.

use super::fault::Fault;
use redis::{RedisWrite, ToRedisArgs};
use std::fs::File;
use std::io::Read;

/// This process among all that write to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FencingToken([u8; 8]);

/// Counts the batches of this process, and its purges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchNumber(pub u64);

/// Makes a repeat of the same batch known as a repeat.
#[derive(Clone, Copy)]
pub struct BatchId {
    pub token: FencingToken,
    pub number: BatchNumber,
}

impl FencingToken {
    pub fn random() -> Result<FencingToken, Fault> {
        let mut token = [0; 8];
        let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut token));
        read.map(|()| FencingToken(token)).map_err(|error| Fault::broken(format!("/dev/urandom: {error}")))
    }
}

impl ToRedisArgs for FencingToken {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg(&self.0);
    }
}

impl BatchNumber {
    pub fn next(self) -> BatchNumber {
        BatchNumber(self.0 + 1)
    }

    pub fn to_be_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl BatchId {
    /// Names one request of the batch.
    pub fn request_id(self, position: usize) -> [u8; 24] {
        let mut id = [0; 24];
        id[..8].copy_from_slice(&self.token.0);
        id[8..16].copy_from_slice(&self.number.to_be_bytes());
        id[16..].copy_from_slice(&(position as u64).to_be_bytes());
        id
    }

    /// The number of a purge, as the rows that it touches note it.
    pub fn purge_number(self) -> [u8; 8] {
        u64::from_be_bytes(self.token.0).wrapping_add(self.number.0).to_be_bytes()
    }
}
