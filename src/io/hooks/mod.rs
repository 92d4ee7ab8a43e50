//! Our requests to the business server, and what their responses mean for a worker.
//!
//! `jobs` makes them and `completions` handles their outcomes; the connections are those of `backend`.

pub mod completions;
pub mod jobs;
pub mod receipts;
pub mod ticket;
