//! The demo's business server (to be filled).
