//! Channels: who is a member of which. Fan-out is in `shard::fanout`, above sessions: it delivers to both kinds of
//! members.

pub mod members;
