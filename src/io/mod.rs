//! The outside world. The only place that names monoio, libc, crossbeam, sockets, `unsafe` and the clock.
//!
//! ```text
//! accept ─► serve (HTTP) ─► upgrade ─► session ─► core ─► shard
//!              └─► calls ──────────────────────────┘  └─► backend (pool), lines and answers (writes), mailbox
//! ```

pub mod answers;
pub mod asks;
pub mod backend;
pub mod calls;
pub mod clock;
pub mod core;
pub mod deadlines;
pub mod events;
pub mod figures;
pub mod lines;
pub mod mailbox;
pub mod moves;
pub mod notify;
pub mod receipts;
pub mod repeats;
pub mod response;
pub mod rules;
pub mod serve;
pub mod session;
pub mod shared;
pub mod shelf;
pub mod socket;
pub mod store;
pub mod storebox;
pub mod sys;
pub mod tasks;
pub mod upgrade;
pub mod waits;
