//! The client of the business server: keep-alive HTTP/1.1 connections, owned by the worker that owns the clients.
//!
//! ```text
//!   submit ──▶ waits in a RequestQueue ── pick ──▶ is on a connection ──┬─▶ answered for good ──▶ sink
//!                ▲   │                                                  ├─▶ failed, not retried ──▶ given up ──▶ sink
//!                │   └─▶ deadline, no URL, closed ──▶ given up ──▶ sink └─▶ failed or 5xx, retried ──┐
//!                └──── after a backoff; at once if the connection was stale ◀────────────────────────┘
//! ```
//!
//! Every accepted request comes back through the sink exactly once. Queues (requests and bytes), connections and
//! responses are bounded. A warm pool forwards without allocating or spawning, with one `send` per request.
//! `policy::backend` decides on retries, breaker and balancing; this moves bytes and keeps time.

mod connection_task;
mod dispatch;
mod hook;
mod options;
mod pool;
mod request_writer;
pub mod resolver;
mod response_reader;
mod shared_dispatcher;
#[cfg(test)]
mod tests;
mod time_source;

pub use dispatch::upstreams::{LastAnswer, UpstreamState};
pub use hook::{FinishedRequest, GiveUp, Hook, HookKind, HookOutcome, HookRequest, IdempotencyKey, RequestTag, Retry};
pub use options::{Options, backends};
pub use pool::{Pool, PoolParts};
pub use time_source::Clocks;
