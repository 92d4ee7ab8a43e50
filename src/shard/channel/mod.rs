//! Channels: who is a member of which, which are the largest, and those that stand for users. Fan-out is in
//! `shard::fanout`, above sessions: it delivers to both kinds of members.

pub mod largest;
pub mod members;
pub mod traffic;
pub mod user;
