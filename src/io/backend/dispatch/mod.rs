//! Which request goes out on which connection, and when. Plain tables, one owner each; `Dispatcher` alone joins them.
//!
//! ```text
//!   Dispatcher ──▶ Routes        per hook: targets (URLs), balancer, RequestQueue of waiting requests
//!              ──▶ Requests      what was accepted and not yet given back, with its attempt
//!              ──▶ DeadLetters   those of the requests that are messages refused for good
//!              ──▶ Connections   sockets, their state, and the request that each one carries
//!              ──▶ Upstreams     host and port: breaker, idle connections, counts
//!              ──▶ WorkerTimer   the earliest deadline of all of these
//! ```

pub mod connections;
mod dead_letters;
pub mod dispatcher;
mod failures;
pub mod ids;
mod queue;
pub mod requests;
mod routes;
pub mod tasks;
pub mod upstreams;
pub mod worker_timer;
