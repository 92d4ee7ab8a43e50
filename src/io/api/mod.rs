//! The business server's calls: who may make them, how they are carried out, what they are answered.

pub mod access;
pub mod calls;
pub mod gather;
pub mod idempotent;
pub mod in_flight;
pub mod pages;
pub mod pending;
pub mod query;
