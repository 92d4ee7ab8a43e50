//! How much one call may name.

/// Channels of one /broadcast/.
pub const CHANNELS_PER_BROADCAST: usize = 1000;
/// Durable sessions up to the end of a page of a list.
pub const SESSIONS_LISTED_MAX: usize = 5_000;
/// Of a session's name and of a `message_id`.
pub const NAME_BYTES_MAX: usize = 128;
