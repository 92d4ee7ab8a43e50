//! The store's thread, and the two ways between it and the workers.

pub mod inbox;
pub mod queue;
pub mod thread;
