//! What a node knows of its cluster, as plain data: who its peers are, where channels are, who owns a session.
//!
//! No socket, clock, chance or async: each part takes inputs and `now`, and leaves outputs for `io/cluster` to carry
//! out. The simulation (`tests/sim/cluster`) carries them out in virtual time.
//!
//! * `calls`: what nodes ask of each other for their callers.
//! * `changes`: how the other nodes change, for people.
//! * `key`: the secret and the cluster's name become keys, one per purpose.
//! * `directory`: which peers may have members of a channel; what we tell them of ours.
//! * `transfers`: a session goes from one node's disk to another's.
//! * `node`: the parts, joined: what a node does with datagrams and links.
//! * `membership`: who is there (SWIM and the links), one state per life of a node.
//! * `ownership`: which node has a durable session, and who takes over what a dead node leaves.
//!
//! What passes between nodes, as bytes, is `wire::peer`.

pub mod calls;
pub mod changes;
pub mod directory;
pub mod key;
pub mod membership;
pub mod node;
pub mod ownership;
pub mod planted;
pub mod transfers;
