//! What the operator has decided, as far as it concerns a shard.

use super::planted::Bug;
use crate::base::id::Generation;
use crate::base::keyed_hash::HashKey;
use crate::base::limits::Limits;

/// Times in milliseconds; a `messages_per_second` or `idle_timeout_ms` of 0 means none.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub ping_interval_ms: u64,
    pub pong_timeout_ms: u64,
    pub idle_timeout_ms: u64,
    pub close_timeout_ms: u64,
    pub ack_timeout_ms: u64,
    pub ack_backoff: f64,
    pub forward_deadline_ms: u64,
    pub forward_queue: usize,
    pub forward_queue_bytes: usize,
    /// Memory of one client's queue up to which it is read on, for its acknowledgements.
    pub forward_ahead_bytes: usize,
    /// Is there a backend that wants clients' messages?
    pub forwards: bool,
    pub inflight_window: usize,
    pub received_max: usize,
    pub answers_bytes_max: usize,
    pub message_bytes_max: usize,
    pub outbox_bytes_max: usize,
    /// Of all clients of this shard together.
    pub clients_memory_max: usize,
    pub messages_per_second: u32,
    pub channels_per_connection: usize,
    pub sessions: SessionSettings,
    /// For the names of channels and sessions; the same on all shards of a process, and for as long as it lives.
    pub hash_key: HashKey,
    /// This life of this node, which the names of its connections carry.
    pub node: Generation,
    pub limits: Limits,
    pub mode: Mode,
}

/// Limits and times of durable sessions; times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SessionSettings {
    /// The wall clock, in milliseconds since 1970, when `Tick` was 0.
    pub unix_ms_at_zero: u64,
    /// A message that an online session has not acknowledged for so long is stored.
    pub store_after_ms: u64,
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
            store_after_ms: 1_000,
            messages_max: 1_000,
            bytes_max: 1 << 20,
            expiry_s: 24 * 3600,
            expiry_max_s: 30 * 24 * 3600,
            message_ttl_ms: 7 * 24 * 3_600_000,
        }
    }
}

/// What messages are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Messages are Rainbow packets.
    Packets,
    /// Every message goes back as it came (for conformance tests of framer, connection task and outbox).
    Echo,
    /// `Packets`, but a message of this type panics: shows that one panic costs one connection.
    PanicOn(u16),
    /// `Packets`, but forwarding a message of this type panics in the worker's turn: shows that this ends the process.
    PanicInTurnOn(u16),
    /// `Packets`, with a mistake: shows that the simulation's model would notice it. In debug builds only.
    #[doc(hidden)]
    Planted(Bug),
}

impl Settings {
    #[inline]
    pub(super) fn is_planted(&self, bug: Bug) -> bool {
        cfg!(debug_assertions) && self.mode == Mode::Planted(bug)
    }
}
