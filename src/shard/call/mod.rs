//! Calls of the business server: queries and replies, and calls that wait for clients.

pub mod query;
pub mod waiting;
