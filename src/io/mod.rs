//! The outside world. The only place that names monoio, libc, crossbeam, sockets, `unsafe` and the clock.
//!
//! ```text
//! worker::tasks   accept, timers, messages, the end of a turn, drain
//!       │
//! http::serve ─► client::upgrade ─► handover::worker      api::calls, idempotent, pages, info   hooks::completions
//!       │              │ client::task                            │ query                            │ lifecycle
//!       └──────────────┴──────────────────┬──────────────────────┴──────────────────────────────────┘
//!                                worker::turn   the shard, and what carries out its outputs
//!                                         │
//! client::sockets   http::responses   api::gather   hooks::requests   worker::peers   store::queue   handover::channel
//!       └───────────────┴─────────────────┴─────────────────┴────────────────┴──────────────┴────────────┘
//!                                      runtime
//! ```
//! A file uses files below it, never above: what a completion or a message has to set off above `worker::turn` arrives
//! there as the value of a oneshot.

pub mod api;
pub mod backend;
pub mod client;
pub mod handover;
pub mod hooks;
pub mod http;
pub mod runtime;
pub mod store;
pub mod worker;
