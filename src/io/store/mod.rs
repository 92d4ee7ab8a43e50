//! The store's thread, and the two ways between it and the workers: `queue` towards it, `inbox` back.
//!
//! The store itself is in `crate::store`; only the thread calls it.

pub mod inbox;
pub mod queue;
pub mod thread;
