//! Indices into the tables of `dispatch`, one type each, so that one cannot be taken for another.
//!
//! An index is valid from the insertion to the removal of its entry; then it may stand for another entry. Whoever can
//! outlive an entry (the task that sends the rest of a request) has a serial number too. Made by the tables only.

/// A request in `Requests`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestIndex(pub(super) usize);

/// A connection in `Connections`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionIndex(pub(super) usize);

/// An upstream in `Upstreams`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamIndex(pub(super) usize);

/// Which of the connections that have had one index: a number that no other connection of this pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionSerial(pub(super) u64);
