//! Numbers with a meaning (ids, limits, time, seeded chance, a keyed hash) and two structures that many parts share
//! (lists in an arena, the timing wheel).

pub mod arena;
pub mod id;
pub mod keyed_hash;
pub mod limits;
pub mod network;
pub mod rng;
pub mod time;
pub mod wheel;
