//! Rainbow: a universal long-connection server.
//!
//! Modules in dependency order; imports run one way, `tests/tidy.rs` checks it. `wire` and `shard` name no runtime, no
//! socket, no clock, no randomness and no async: what they do can be simulated, fuzzed, replayed and handed on.

/// Invariant: a client and a business server like any user's; what it finds is proved by the ledger alone.
pub mod audit;
/// Invariant: plain numbers and newtypes; nothing here knows of anything above.
pub mod base;
/// Invariant: a `Config` that exists is a valid one.
pub mod config;
/// Invariant: a business server like any user's; it reaches Rainbow over HTTP only.
pub mod demo;
/// Invariant: the only place that names monoio, libc, crossbeam, sockets, `unsafe` and the clock.
pub mod io;
/// Invariant: one writer per counter, any number of readers.
pub mod metrics;
/// Invariant: decisions about backends, calls and admission as pure functions; the caller does the waiting.
pub mod policy;
/// Invariant: every worker that was started has ended when `run` returns.
pub mod server;
/// Invariant: everything one core owns, as plain data; the same inputs give the same outputs.
pub mod shard;
/// Invariant: what was answered `Done` is on disk; storage only, the decisions are the shard's.
pub mod store;
/// Invariant: bytes ⇄ values, bounded by the limits passed in; no input panics.
pub mod wire;
/// Invariant: one thread owns one shard, one ring and one descriptor table.
pub mod worker;
