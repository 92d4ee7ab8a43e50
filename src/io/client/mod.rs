//! Clients: from the upgrade to the task that reads the socket, and the writes.

pub mod connecting;
pub mod lifecycle;
pub mod refusal;
pub mod sockets;
pub mod task;
pub mod upgrade;
