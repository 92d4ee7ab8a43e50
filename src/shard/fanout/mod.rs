//! From one message to its receivers: `delivery` reaches one member, `runs` all members of a channel, in slices; `once`
//! is for messages to several channels.
//!
//! It stands above `channel` and `session`: members are connections and sessions.

pub mod delivery;
mod once;
pub mod runs;
