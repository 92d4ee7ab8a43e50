//! HTTP towards callers, and towards clients until they are upgraded: `connection` reads requests and writes responses,
//! `response` is one of them, and `request_id` names both. What a request means is in `service::serve`.
//!
//! Responses are written at the end of the worker's turn (`worker::responses`), never by the task that made them.

pub mod connection;
pub mod request_id;
pub mod response;
