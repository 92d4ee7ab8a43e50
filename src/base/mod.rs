//! Numbers with a meaning (ids, limits, time, seeded chance, a keyed hash) and as digits, secrets, and three structures
//! that many parts share (a pool, lists in an arena, the timing wheel).

pub mod arena;
pub mod client;
pub mod digits;
pub mod id;
pub mod keyed_hash;
pub mod limits;
pub mod network;
pub mod pool;
pub mod rng;
pub mod secret;
pub mod time;
pub mod wheel;
