//! Channels: who is a member of which, and which are the largest. Fan-out is in `shard::fanout`, above sessions: it
//! delivers to both kinds of members.

pub mod largest;
pub mod members;
