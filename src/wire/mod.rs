//! Bytes ⇄ values. No socket, clock, log or async; every length is checked against a limit that the caller passes in.

pub mod http1;
pub mod packet;
pub mod peer;
pub mod proxy_header;
pub mod sign;
pub mod ws;
