//! Where the demo finds Rainbow, and where it listens. Made by `main`.

use crate::base::secret::Secret;
use std::net::SocketAddr;

#[derive(Clone, Debug)]
pub struct DemoConfig {
    /// Where Rainbow listens for clients, on this machine.
    pub rainbow_port: u16,
    /// Where it takes calls.
    pub call_port: u16,
    /// Rainbow's `security_token`; empty: hooks are answered unsigned.
    pub token: Secret,
    /// Where to listen; port 0 takes any free one.
    pub address: SocketAddr,
    /// Rainbow has a store: every client gets a durable session.
    pub sessions: bool,
}
