//! How much one call may name.

pub use crate::policy::backend::actions::NAME_BYTES_MAX;

/// Channels of one /broadcast/.
pub const CHANNELS_PER_BROADCAST: usize = 1000;
/// Durable sessions up to the end of a page of a list.
pub const SESSIONS_LISTED_MAX: usize = 5_000;
