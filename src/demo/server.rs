//! The running demo: the HTTP server that answers pages and hooks, and the threads that call Rainbow.

use super::caller::{Caller, Target};
use super::config::DemoConfig;
use super::hooks::Hooks;
use super::http::HttpServer;
use std::io;
use std::net::SocketAddr;

/// A running demo.
#[derive(Debug)]
pub struct Demo {
    pub address: SocketAddr,
    server: HttpServer,
    caller: Caller,
}

/// Starts the business server on threads of its own; it answers when this returns.
pub fn start(config: DemoConfig) -> io::Result<Demo> {
    let target = Target { port: config.call_port, token: config.token.clone() };
    let caller = Caller::start(&target)?;
    let hooks = Hooks::new(&config, caller.sender());
    let server = HttpServer::start(config.address, move |request| hooks.answer(request))?;
    Ok(Demo { address: server.address, server, caller })
}

impl Demo {
    /// Ends its threads. Waits for the calls in flight, a few seconds at most.
    pub fn stop(self) {
        // The caller's threads end when every sender is dropped, and the server's hooks have one: stop the server
        // first.
        self.server.stop();
        self.caller.stop();
    }
}

/// Runs the demo as a process of its own, until it is killed. Prints its address once it listens.
pub fn run_backend(config: DemoConfig) -> io::Result<()> {
    let demo = start(config)?;
    println!("demo backend on http://{}/", demo.address);
    loop {
        std::thread::park();
    }
}
