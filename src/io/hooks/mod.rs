//! Our requests to the business server: connects, forwards, closes, receipts.
//!
//! `requests` makes them, `ticket` says what each was about when it comes back, `receipts` gathers receipts into
//! batches, `closes` keeps the ends that are not confirmed yet, `records` notes in the store whose end is owed. The
//! connections are those of `backend`; the outcomes go to `service::completions`.

pub mod closes;
pub mod receipts;
pub mod records;
pub mod requests;
mod spans;
pub mod ticket;
pub mod upstreams;
