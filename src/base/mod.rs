//! Numbers with a meaning: ids, limits, time, seeded chance. No clock is read and nothing is allocated here.

pub mod id;
pub mod limits;
pub mod rng;
pub mod time;
