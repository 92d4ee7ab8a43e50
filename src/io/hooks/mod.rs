//! Our requests to the business server, and what their responses mean for a worker.
//!
//! `requests` makes them and `completions` handles their outcomes; the connections are those of `backend`.

pub mod completions;
pub mod receipts;
pub mod requests;
pub mod ticket;
