//! How much one call may name.

/// Channels of one /broadcast/.
pub const CHANNELS_PER_BROADCAST: usize = 1000;
/// Of a session's name and of a `message_id`.
pub const NAME_BYTES_MAX: usize = 128;
