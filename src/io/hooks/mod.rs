//! Our requests to the business server: connects, forwards, closes, receipts.
//!
//! `requests` makes them, `ticket` says what each was about when it comes back, `receipts` gathers receipts into
//! batches. The connections are those of `backend`; the outcomes go to `service::completions`.

pub mod receipts;
pub mod requests;
pub mod ticket;
