//! Connections that go on somewhere else.

pub mod channel;
pub mod worker;
