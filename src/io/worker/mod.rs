//! One worker: its shard and everything that carries out what the shard puts out.

pub mod message;
pub mod peers;
pub mod presence;
pub mod rules;
pub mod shared;
pub mod tasks;
pub mod turn;
pub mod wakeups;
