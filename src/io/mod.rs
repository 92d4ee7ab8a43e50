//! The outside world. The only place that names monoio, libc, crossbeam, sockets, `unsafe` and the clock.

pub mod backend;
