//! Decisions as pure functions: what a backend's answer means, what a call asks for, who may come in, who is stuck.

pub mod admission;
pub mod api;
pub mod backend;
pub mod drain;
pub mod headers;
pub mod heartbeats;
pub mod origin;
pub mod proxies;
pub mod replays;
pub mod sites;
