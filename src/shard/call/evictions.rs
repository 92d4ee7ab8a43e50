//! Evictions whose sessions have left in memory: each is replied to when the store has completed its commands, as
//! refused where the store has refused some.

use super::query::{QueryRefusal, Reply};
use crate::shard::command::CommandNumber;
use crate::shard::ids::QueryId;

/// In the order of their commands.
#[derive(Default)]
pub struct Evictions {
    pending: Vec<PendingEviction>,
    /// Sessions that the store did not let go, since the start.
    refused: u64,
}

/// All members have been seen.
pub struct PendingEviction {
    pub query: QueryId,
    pub evicted: u32,
    /// Why some were left where they are.
    pub why: Option<QueryRefusal>,
    /// `Evictions::refused` as it was before the first of them.
    pub refused_before: u64,
    /// The last of its commands.
    pub upto: CommandNumber,
}

impl Evictions {
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The store has refused that a session leaves a channel.
    pub fn note_refusal(&mut self) {
        self.refused += 1;
    }

    pub fn push(&mut self, eviction: PendingEviction) {
        self.pending.push(eviction);
    }

    /// What is to be replied when so many commands are completed.
    pub fn settle(&mut self, completed: CommandNumber) -> Vec<(QueryId, Reply)> {
        let refused = self.refused;
        let settled = self.pending.iter().take_while(|eviction| eviction.upto <= completed).count();
        self.pending.drain(..settled).map(|eviction| (eviction.query, eviction.reply(refused))).collect()
    }
}

impl PendingEviction {
    /// Another eviction's refusals in the same time count too: a caller may repeat a call that was carried out.
    pub fn reply(self, refused: u64) -> Reply {
        let refused = (refused - self.refused_before).min(u64::from(self.evicted)) as u32;
        let mut reply = Reply::done(self.evicted - refused);
        if let Some(why) = self.why.or((refused > 0).then_some(QueryRefusal::NotStored)) {
            reply.add(Reply::Refused(why));
        }
        reply
    }
}
