//! The process's log: written by a thread of its own (`writer`), with a limit per call site (`limit`).

pub mod limit;
pub mod writer;
