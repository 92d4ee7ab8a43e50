//! What everything in `io` stands on: the clock, system calls, sockets, deadlines, and how tasks and threads wake each
//! other.
//!
//! Nothing here knows of clients, calls or hooks. Wakers are handled in `notify` and `oneshot` only.

pub mod claim;
pub mod clock;
pub mod deadlines;
pub mod descriptors;
pub mod events;
pub mod mailbox;
pub mod net;
pub mod notify;
pub mod oneshot;
pub mod panics;
pub mod socket;
pub mod sys;
