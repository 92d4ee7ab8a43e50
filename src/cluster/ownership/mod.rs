//! Who owns a durable session: one node of the cluster, from the store's word that its claim was the last.
//!
//! With Redis:
//! * `claims`: a client connects here; the session comes from wherever it is.
//! * `lease`: whether a node that is down has ended, by the store's own clock.
//! * `adoption`: survivors share the sessions of a node that has ended.
//! * `reaper`: these two for all nodes that have ended, and the closes of their connections, each reported once.
//!
//! With SQLite the data lies on the owner's disk:
//! * `creation`: per name, one node grants one at a time the right to create or fetch the session.
//! * `grantors`: which nodes are asked for that.
//! * `union`: two nodes that each have made a session of one name make one of them.
//! * `disks`, `disk_calls`: sessions on their way from one disk to another, and what the nodes do and ask for that.
//!
//! `rendezvous` picks one of the live nodes for a name, the same on every node. Answers of the store are inputs;
//! commands to it are outputs. Nothing here trusts a clock of a node.

pub mod adoption;
pub mod claims;
pub mod creation;
pub mod disk_calls;
pub mod disks;
pub mod grantors;
pub mod lease;
pub mod reaper;
pub mod rendezvous;
pub mod union;
