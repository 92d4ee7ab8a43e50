//! What survives a crash: the real process killed again and again, the connection cut at every byte, and the bugs that other
//! brokers had. The store is SQLite; `thousand.sh` beside this file runs the first of them for a thousand kills.

#[allow(dead_code, unused_imports, reason = "shared with tests/it, which uses all of it")]
#[path = "../it/harness/mod.rs"]
mod harness;

mod audit;
mod bytes;
mod deployment;
mod kills;
mod promises;
