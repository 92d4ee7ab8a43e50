//! Connections that go on in another worker: the one that owns their session.
//!
//! `channel` carries the socket and what belongs to it; `worker` is what both ends do.

pub mod channel;
pub mod worker;
