//! What a store reports of itself between batches: whether it can store anything now, and how much it holds.

use crate::shard::command::StoreError;

/// Whether the store can store anything now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Ready,
    /// Nothing is stored. `detail` says what happened, where, and what the operator can do.
    Refusing {
        reason: StoreError,
        detail: String,
    },
}

/// The messages stored now, of all sessions together. Those that only wait for a REL do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub messages: u64,
    pub bytes: u64,
}
