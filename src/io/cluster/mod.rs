//! The links between nodes, and the thread that keeps them.
//!
//! * `secure`: a link, from its dial to its frames.
//! * `start`: who this node is, and the start of its thread.
//! * `thread`, `state`, `control`, `link_queue`: the cluster's thread and its links to the other nodes' threads.
//! * `gossip`, `interfaces`: datagrams, and where they go.
//! * `port`: between that thread and the workers; `looked_for`: the nodes of which it tells them.
//! * `calls`: a worker's own links, over which it calls other nodes.
//! * `ownership`: a worker's durable sessions, which other nodes may take.

pub mod calls;
mod control;
mod gossip;
pub mod interfaces;
mod link_queue;
pub mod looked_for;
pub mod ownership;
pub mod port;
pub mod secure;
pub mod start;
pub mod state;
mod thread;
