//! The demo's business server: a small chat (rooms, names, history in memory) and the page to it.
//!
//! It is a business server like any user's: it reaches Rainbow over HTTP only and knows nothing of its insides; it
//! shares no more than the parsers and the signature with it. It may be killed and started again while people chat.
//! Called by `main`, in the server's process (`demo`) or in one of its own (`demo-backend`).

mod caller;
mod hooks;
mod http;
mod ports;
mod rooms;

use caller::{Caller, Target};
use hooks::Hooks;
use http::HttpServer;
pub use ports::Ports;
use std::io;
use std::net::SocketAddr;

#[derive(Clone, Debug)]
pub struct DemoConfig {
    /// Where Rainbow listens, on this machine.
    pub rainbow_port: u16,
    /// Rainbow's `security_token`; empty: hooks are answered unsigned.
    pub token: String,
    /// Where to listen; port 0 takes any free one.
    pub address: SocketAddr,
    /// Rainbow has a store: everyone gets a durable session.
    pub sessions: bool,
}

/// A running demo.
#[derive(Debug)]
pub struct Demo {
    pub address: SocketAddr,
    server: HttpServer,
    caller: Caller,
}

/// Starts the business server in threads of its own; it answers when this returns.
pub fn start(config: DemoConfig) -> io::Result<Demo> {
    let target = Target { port: config.rainbow_port, token: config.token.clone() };
    let caller = Caller::start(&target)?;
    let hooks = Hooks::new(&config, caller.line());
    let server = HttpServer::start(config.address, move |request| hooks.answer(request))?;
    Ok(Demo { address: server.address, server, caller })
}

impl Demo {
    /// Ends its threads; takes as long as the calls that still wait for clients, a few seconds at most.
    pub fn stop(self) {
        // The server holds the hooks, and they hold the line: it must go first.
        self.server.stop();
        self.caller.stop();
    }
}

/// The demo as a process of its own, until it is killed. Says where it listens when it does.
pub fn run_backend(config: DemoConfig) -> io::Result<()> {
    let demo = start(config)?;
    println!("demo backend on http://{}/", demo.address);
    loop {
        std::thread::park();
    }
}
