//! One test per promise of the pool, over real sockets and a real ring; time is virtual, so that minutes pass at once.

mod allocations;
mod connections;
mod outages;
mod responses;
mod rig;
