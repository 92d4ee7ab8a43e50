//! Connections: their table and phases, what waits to be written to them, and the two directions of their messages.
//!
//! ```text
//!   bytes ─► transport ─► packets ─► uplink (client → backend)
//!                                    downlink (backend → client) ─► outbox ─► transport ─► bytes
//! ```
//! `Table` is below the other parts and owns the connections, their outboxes and their timers. `Downlinks` and
//! `Uplinks` own the messages and change a connection through `Table`. What concerns channels and sessions is reported
//! by events (`Table::poll_event`), which the shard hands to them.

pub mod conn;
pub mod downlink;
pub mod event;
pub mod forward_queue;
pub mod keepalive;
pub mod known_ids;
pub mod outbox;
pub mod pending;
pub mod table;
pub mod transport;
pub mod uplink;
