//! Numbers with a meaning (ids, limits, time, seeded chance) and two structures that many parts share (lists in an
//! arena, the timing wheel).

pub mod arena;
pub mod id;
pub mod limits;
pub mod network;
pub mod rng;
pub mod time;
pub mod wheel;
