//! One test per promise of the pool, over real sockets and a real ring.
//!
//! Time is virtual, so that minutes pass at once. `rig` has the backend and the driver; the other files have the tests.

mod allocations;
mod connections;
mod outages;
mod responses;
mod rig;
