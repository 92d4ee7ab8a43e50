//! The client of the business server (to be filled).
