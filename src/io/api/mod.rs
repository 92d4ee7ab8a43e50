//! The business server's calls: who may make them (`access`), how they are carried out (`calls`, `query`,
//! `idempotent`), what may be looked at (`pages`, `info`).
//!
//! `gather`, `in_flight` and `pending` are what calls wait for; they are parts of the worker and know nothing of it.

pub mod access;
pub mod calls;
pub mod gather;
pub mod idempotent;
pub mod in_flight;
pub mod info;
pub mod pages;
pub mod pending;
pub mod query;
