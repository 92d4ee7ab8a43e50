//! Who writes to Redis, and with which batch. Every row begins with the *token* of its owner; a write with another
//! token is refused. Tokens are random and compared for equality, since a counter could go back after a failover.

use super::fault::Fault;
use crate::shard::command::Token;
use redis::{RedisWrite, ToRedisArgs};
use std::fs::File;
use std::io::Read;

/// Counts the batches of this process, and its purges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchNumber(pub u64);

/// Makes a repeat of the same batch known as a repeat.
#[derive(Clone, Copy)]
pub struct BatchId {
    /// Of the process.
    pub token: Token,
    pub number: BatchNumber,
}

/// From the system's generator.
pub fn draw<const N: usize>() -> Result<[u8; N], Fault> {
    let mut drawn = [0; N];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut drawn));
    read.map(|()| drawn).map_err(|error| Fault::broken(format!("/dev/urandom: {error}")))
}

impl ToRedisArgs for Token {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg(&self.0.to_be_bytes());
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
        id[..8].copy_from_slice(&self.token.0.to_be_bytes());
        id[8..16].copy_from_slice(&self.number.to_be_bytes());
        id[16..].copy_from_slice(&(position as u64).to_be_bytes());
        id
    }

    /// The number of a purge, as the rows that it touches note it.
    pub fn purge_number(self) -> [u8; 8] {
        self.token.0.wrapping_add(self.number.0).to_be_bytes()
    }
}
