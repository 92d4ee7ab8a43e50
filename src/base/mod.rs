//! Numbers with a meaning: ids, time, seeded chance. No clock is read and nothing is allocated here.

pub mod id;
pub mod rng;
pub mod time;
