//! HTTP towards callers, and towards clients until they are upgraded: `connection` reads requests and writes responses,
//! `serve` decides what a request is.
//!
//! Responses are written at the end of the worker's turn (`responses`), never by the task that made them.

pub mod connection;
pub mod response;
pub mod responses;
pub mod serve;
