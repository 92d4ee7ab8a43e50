//! The process's log: written by a thread of its own (`writer`), with a limit per call site (`limit`); `interval` is
//! for lines that are written once a minute, however often there is a reason.

pub mod interval;
pub mod limit;
pub mod writer;
