//! What is kept for those who are away: one interface, SQLite and Redis behind it. Storage only: the decisions are the
//! shard's (`shard::steps`). Everything here blocks; it lives on the store's own thread.

use crate::base::id::ShardId;
use crate::shard::steps::{Claim, Expired, Outcome, Refused, UnixMs, Work};
use std::sync::Arc;

/// What the store is asked to do; a batch of them is one commit.
#[derive(Debug)]
pub enum Request {
    /// In the order of its number within its shard.
    Shard { shard: ShardId, work: Work },
    /// A call with a `message_id`, before anything is sent.
    Claim { ticket: u64, claim: Claim },
    /// The call has its answer, which a repeat gets.
    Settle { message_id: Arc<str>, answer: Vec<u8> },
}

/// What became of one request.
#[derive(Debug, PartialEq)]
pub enum Answer {
    Shard { shard: ShardId, number: u64, outcome: Outcome },
    Claim { ticket: u64, claimed: Claimed },
    Settled,
}

#[derive(Debug, PartialEq)]
pub enum Claimed {
    /// Nobody has used this id: send.
    New,
    /// It was claimed and never settled (the server died meanwhile): send, the sessions' claims keep it from doubling.
    Again,
    /// It was answered so.
    Settled(Vec<u8>),
    Refused(Refused),
}

/// Expired messages removed in one go.
pub type Purged = Vec<Expired>;

/// What the store can do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    /// No promise is made; the text says what happened, where, and what to do.
    Refusing {
        why: Refused,
        detail: String,
    },
}

/// Now, as the store's thread read the clock.
pub type Now = UnixMs;
