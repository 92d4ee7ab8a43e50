//! Starts workers (to be filled).
