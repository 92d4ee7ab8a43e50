//! Clients: `upgrade` makes one of a request, `handover` takes one to the worker that owns its session, `task` reads
//! its socket.
//!
//! `lifecycle` is a connection's slot in the shard, `refusal` why a connection does not become a client.

pub mod handover;
pub mod lifecycle;
pub mod refusal;
pub mod task;
pub mod upgrade;
