//! The business server's calls: who may make them (`access`), how they are carried out (`calls`, `query`,
//! `idempotent`), what may be looked at (`pages`, `sessions`, `info`, `history`, `cluster`), and what other nodes call
//! for their callers (`remote`).
//!
//! What a call waits for is a part of the worker (`worker::calls`).

pub mod access;
pub mod calls;
mod cluster;
mod history;
pub mod idempotent;
pub mod info;
pub mod pages;
pub mod query;
pub mod remote;
mod sessions;
pub mod trace;
pub mod transfers;
