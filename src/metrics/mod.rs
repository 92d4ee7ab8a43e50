//! Every counter, gauge and histogram of the process, and the Prometheus text.
//!
//! A figure has one writer (a worker, the store's thread) and any number of readers: a scrape reads the atomics and asks
//! nobody. What a figure counts is said once, at its definition, and shown by /metrics and /info/.

pub mod backend;
pub mod counter;
pub mod figure;
pub mod histogram;
pub mod shard;
pub mod worker;
