//! The client of the business server: keep-alive HTTP/1.1 connections, owned by the worker that owns the clients.
//!
//! The life of a request:
//!
//! ```text
//!   submit ──▶ waits in a RequestQueue ── pick ──▶ is on a connection ──┬─▶ answered for good ──▶ sink
//!                ▲   │                                                  ├─▶ failed, not retried ──▶ given up ──▶ sink
//!                │   └─▶ deadline, no URL, closed ──▶ given up ──▶ sink  └─▶ failed or 5xx, retried ──┐
//!                └──── after a backoff; at once if the connection was stale ◀─────────────────────────┘
//! ```
//!
//! Every request that `submit` accepts comes back through the sink exactly once. Nothing is unbounded: not the queues
//! (count and bytes), not the connections, not a response. A warm pool forwards without allocating, without spawning, and
//! with one `send` per request. Retries, breaker and balancing are decided by `policy::backend`; this moves bytes and
//! keeps time.

mod connection_task;
mod dispatch;
mod hook;
mod options;
mod pool;
mod request_writer;
pub mod resolver;
mod response_reader;
mod shared_dispatcher;
mod stats;
#[cfg(test)]
mod tests;
mod time_source;

pub use dispatch::upstreams::UpstreamState;
pub use hook::{FinishedRequest, GiveUp, Hook, HookKind, HookOutcome, HookRequest, IdempotencyKey, RequestTag, Retry};
pub use options::Options;
pub use pool::{Pool, PoolParts};
pub use stats::{BackendStats, Counter, Histogram, HistogramTotal};
pub use time_source::TimeSource;
