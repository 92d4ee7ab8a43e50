//! The rows of each table: what a mutation or a claim does to them, within a transaction.
//!
//! Called by `apply`; `messages` also by `load` and `purge`.

pub mod claims;
pub mod connections;
pub mod messages;
pub mod sessions;
