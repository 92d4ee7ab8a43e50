//! What a worker's ring serves, above all other rooms: `tasks` starts everything, `accept` lets connections in, `serve`
//! decides what a request is, `links` serves other nodes, `completions` what the outcome of a hook means for a client,
//! `drain` ends it all. `sd_notify` tells systemd how the process is doing.

pub mod accept;
pub mod completions;
pub mod drain;
pub mod driver;
pub mod links;
pub mod sd_notify;
pub mod serve;
pub mod tasks;
mod transfers;
mod unite;
