//! Calls of the business server: queries and replies, and calls that wait for clients.

pub mod evictions;
pub mod query;
pub mod sessions;
pub mod trace;
pub mod waiting;
