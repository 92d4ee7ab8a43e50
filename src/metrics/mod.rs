//! Every counter, gauge and histogram of the process, and the Prometheus text.
//!
//! A figure has one writer (a worker, the store's thread) and any number of readers: a scrape reads the atomics and
//! waits for nobody. Only the admission's two counters have several writers. The name, the HELP text and the kind of a
//! figure are written once, at its definition. /metrics shows all but the `unexported` ones. `history` has their past.

pub mod admission;
pub mod backend;
pub mod counter;
pub mod export;
pub mod figure;
pub mod histogram;
pub mod history;
pub mod process;
pub mod shard;
pub mod store;
pub mod text;
pub mod worker;
