//! The outside world. The only place that names monoio, libc, crossbeam, sockets, `unsafe` and the clock.

pub mod backend;
pub mod clock;
pub mod mailbox;
pub mod resolve;
pub mod socket;
pub mod sys;
