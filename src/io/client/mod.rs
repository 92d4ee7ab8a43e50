//! Clients: `upgrade` makes one of a request, `task` reads its socket, `sockets` writes to it.
//!
//! `lifecycle` is a connection's slot in the shard, `connecting` what waits before it is open.

pub mod connecting;
pub mod lifecycle;
pub mod refusal;
pub mod sockets;
pub mod task;
pub mod upgrade;
