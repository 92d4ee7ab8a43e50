//! The outside world. The only place that names monoio, libc, crossbeam, sockets, `unsafe` and the clock.
//!
//! ```text
//! accept ─► serve (HTTP) ─► upgrade ─► session ─► core ─► shard
//!              └─► calls ──────────────────────────┘  └─► backend (pool), lines and answers (writes), mailbox
//! ```

pub mod api;
pub mod backend;
pub mod client;
pub mod figures;
pub mod handover;
pub mod hooks;
pub mod http;
pub mod runtime;
pub mod store;
pub mod worker;
