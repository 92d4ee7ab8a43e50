//! The business server's calls: who may make them, how they are carried out, what they are answered.

pub mod calls;
pub mod gather;
pub mod idempotent;
