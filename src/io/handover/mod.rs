//! Connections that go on in another worker: the one that owns their session.
//!
//! `channel` carries the socket and what belongs to it, `session_request` is the session it is for. What both ends do
//! is in `client::handover`.

pub mod channel;
pub mod session_request;
