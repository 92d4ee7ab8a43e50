//! Connections that go on somewhere else.

pub mod worker;
