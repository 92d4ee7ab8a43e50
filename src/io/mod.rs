//! The outside world. The only place that names monoio, libc, crossbeam, sockets, `unsafe` and the clock.
//!
//! ```text
//! service   tasks: timers, messages, end of a turn, drain   accept   serve: requests   completions: hooks' outcomes
//!    │
//! client    upgrade, handover, task, lifecycle          api   calls, query, idempotent, pages, info, access
//!    │                                                   │
//!    ├── http   connection, response ────────────────────┘
//!    │
//! worker    turn: the shard, and what carries out its outputs
//!    │      its parts: sockets, responses, connecting, calls, peers, wakeups; shared: what all workers have
//!    │
//! hooks   requests, ticket, receipts       handover   channel       store   queue, inbox, thread
//!    │                                        │                        │
//! backend   pool, dispatch                    │                        │           cluster   its thread, links, calls
//!    └────────────────────────────────────────┴────────────────────────┴───────────────┘
//! spans     recorder, exporter            log       writer, limit, interval
//! runtime   ring, clock, mailbox, oneshot, deadlines, net, sys
//! ```
//! A room uses rooms below it, never above, and so do its files: what a completion or a message has to set off above
//! `worker::turn` arrives there as the value of a oneshot.

pub mod api;
pub mod backend;
pub mod client;
pub mod cluster;
pub mod handover;
pub mod hooks;
pub mod http;
pub mod log;
pub mod runtime;
pub mod service;
pub mod spans;
pub mod store;
pub mod worker;
