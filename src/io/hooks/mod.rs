//! Our requests to the business server, and what their responses mean for a worker.

pub mod completions;
pub mod jobs;
pub mod receipts;
pub mod ticket;
