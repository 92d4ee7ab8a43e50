//! Durable sessions: what outlives the connection.

use super::messages::Message;
use super::parts::Ticket;
use super::query::Terms;
use super::{Output, Reply, Shard};
use crate::base::id::{ConnKey, Identity, ShardId};
use crate::base::time::Tick;
use rustc_hash::FxHasher;
use std::hash::Hasher;

/// The shard that a session belongs to, among as many as there are workers.
pub fn home(name: &str, workers: usize) -> ShardId {
    let mut hasher = FxHasher::default();
    hasher.write(name.as_bytes());
    // The high bits of Fx are the good ones.
    ShardId((((hasher.finish() >> 32) * workers as u64) >> 32) as u16)
}

/// Limits and times of durable sessions; times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SessionSettings {
    /// The wall clock, in milliseconds since 1970, when `Tick` was 0.
    pub unix_ms_at_zero: u64,
    /// A message that an online session has not acknowledged for so long is stored.
    pub patience_ms: u64,
    pub messages_max: usize,
    pub bytes_max: usize,
    pub expiry_s: u64,
    pub expiry_max_s: u64,
    pub message_ttl_ms: u64,
}

impl Default for SessionSettings {
    fn default() -> SessionSettings {
        SessionSettings {
            unix_ms_at_zero: 0,
            patience_ms: 1_000,
            messages_max: 1_000,
            bytes_max: 1 << 20,
            expiry_s: 24 * 3600,
            expiry_max_s: 30 * 24 * 3600,
            message_ttl_ms: 7 * 24 * 3_600_000,
        }
    }
}

/// Why a session is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Expired,
    Dropped,
}

impl Shard {
    pub(super) fn send_to_session(&mut self, ticket: Ticket, _: &str, _: Message, _: &Terms, _: Tick) {
        let reply = Reply::Sent { connections: 0, data: Vec::new(), kept: Default::default() };
        self.outputs.push_back(Output::Reply { ticket, reply });
    }

    pub(super) fn session_info(&self, _: &str) -> Reply {
        Reply::Session(None)
    }

    pub(super) fn drop_session(&mut self, ticket: Ticket, _: &str, _: Tick) {
        self.outputs.push_back(Output::Reply { ticket, reply: Reply::Done { connections: 0 } });
    }

    /// Takes a slot for a connection that comes from another shard; `Input::Attach` or `Abandoned` must follow.
    pub fn adopt(&mut self, identity: Identity, _stub: ConnKey, now: Tick) -> ConnKey {
        self.take_slot(|_| identity, now).0
    }

    /// The sessions that were kept, at the start of the process and before any other input.
    pub fn restore(&mut self, _found: Vec<super::steps::Found>, _now: Tick) {}
}
