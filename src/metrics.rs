//! Counters (to be filled).
