//! Signatures (to be filled).
