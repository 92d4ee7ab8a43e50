//! Bytes between nodes: sealed datagrams, and the frames of links.
//!
//! * `seal`: a datagram is encrypted and authenticated, and is opened once, within a minute.
//! * `datagram`: what is in one; the broadcast of 2014 is recognised, too.
//! * `frame`: what passes over a link, inside its encryption.
//!
//! Everything is bounded before it is read. Integers are big-endian.

pub mod cursor;
pub mod datagram;
pub mod frame;
pub mod seal;
