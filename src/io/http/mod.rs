//! HTTP towards callers: one connection, from its head to its response.

pub mod connection;
pub mod response;
pub mod responses;
pub mod serve;
