//! What must not be guessed, nor be the same in two processes.

use std::hash::{BuildHasher, RandomState};

/// The standard library has its keys from the system.
pub fn draw() -> u64 {
    RandomState::new().hash_one(0)
}
