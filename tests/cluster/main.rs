//! Several hosts on one machine: real `rainbow-server` processes, each in a network namespace of its own, joined by
//! bridges whose cables are pulled and whose packets are dropped.
//!
//! It needs root and nft, and fails where they are missing; `cargo test` leaves it out, `cargo test --test cluster` and
//! `tests/run.sh` run it. The namespaces have no names: each lives as long as a process in it, and all these end with
//! the test, however that ends.

#[allow(dead_code, unused_imports, reason = "shared with tests/it, which uses all of it")]
#[path = "../it/harness/mod.rs"]
mod harness;

mod demo;
mod discovery;
mod faults;
mod hosts;
mod killed;
mod network;
mod partition;
mod redis;
mod restarts;
mod rivals;
mod shared_store;
