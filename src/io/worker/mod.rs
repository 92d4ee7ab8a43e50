//! One worker: its shard and everything that carries out what the shard puts out.
//!
//! `turn` is the worker; what is built on it lies beside this folder (`api`, `client`, `hooks`, `http`, `handover`),
//! and `tasks` starts all of it.

pub mod message;
pub mod peers;
pub mod presence;
pub mod rules;
pub mod shared;
pub mod tasks;
pub mod turn;
pub mod wakeups;
