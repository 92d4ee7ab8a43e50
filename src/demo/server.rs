//! The running demo: the HTTP server that answers pages and hooks, and the threads that call Rainbow. A page may ask
//! for a restart: both end, with all that they know, and begin again a little later at the same address.

use super::caller::{Caller, Target};
use super::config::DemoConfig;
use super::hooks::{Hooks, Restarter};
use super::http::HttpServer;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A running demo.
#[derive(Debug)]
pub struct Demo {
    pub address: SocketAddr,
    commands: SyncSender<Command>,
    keeper: JoinHandle<()>,
}

/// What the keeper of the running business server is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Restart,
    Stop,
}

/// Starts the business server on threads of its own; it answers when this returns.
pub fn start(config: DemoConfig) -> io::Result<Demo> {
    let (commands, inbox) = sync_channel(1);
    let business = Business::start(&config, &commands)?;
    let address = business.server.address;
    let keeper = thread::Builder::new().name("demo-keeper".into()).spawn({
        let (config, commands) = (DemoConfig { address, ..config }, commands.clone());
        move || keep(business, &config, &commands, &inbox)
    })?;
    Ok(Demo { address, commands, keeper })
}

impl Demo {
    /// Ends its threads. Waits for the calls in flight, a few seconds at most.
    pub fn stop(self) {
        // The keeper takes a restart that is in the way out of the channel.
        self.commands.send(Command::Stop).expect("the keeper waits for commands");
        self.keeper.join().expect("the keeper does not panic");
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

/// The threads of one life of the business server, and what it knows.
#[derive(Debug)]
struct Business {
    server: HttpServer,
    caller: Caller,
}

impl Business {
    fn start(config: &DemoConfig, commands: &SyncSender<Command>) -> io::Result<Business> {
        let caller = Caller::start(&Target { port: config.call_port, token: config.token.clone() })?;
        let commands = commands.clone();
        // A second one while the first is under way asks for nothing more.
        let restart: Restarter = Box::new(move || _ = commands.try_send(Command::Restart));
        let hooks = Hooks::new(config, caller.sender(), restart);
        let server = HttpServer::start(config.address, move |request| hooks.answer(request))?;
        Ok(Business { server, caller })
    }

    fn stop(self) {
        // The caller's threads end when every sender is dropped, and the server's hooks have one: stop the server
        // first.
        self.server.stop();
        self.caller.stop();
    }
}

/// Carries commands out until one says to stop.
fn keep(business: Business, config: &DemoConfig, commands: &SyncSender<Command>, inbox: &Receiver<Command>) {
    let mut running = Some(business);
    loop {
        let command = match &running {
            Some(_) => inbox.recv().ok(),
            // Away; an command to stop ends that at once.
            None => inbox.recv_timeout(AWAY).ok(),
        };
        match (command, running.take()) {
            (Some(Command::Stop), business) => {
                if let Some(business) = business {
                    business.stop();
                }
                return;
            }
            (_, Some(business)) => business.stop(),
            (_, None) => {
                let started = Business::start(config, commands);
                running = started.inspect_err(|error| tracing::warn!(%error, "the demo does not come back yet")).ok();
            }
        }
    }
}

/// Long enough to see that it is away, and to say something meanwhile.
const AWAY: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpStream};

    fn request(address: SocketAddr, method: &str, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn it_comes_back_at_the_same_address_as_another_one() {
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let config = DemoConfig { rainbow_port: 1, call_port: 1, token: "".into(), address, sessions: false };
        let demo = start(config).expect("a free port");
        let before = request(demo.address, "GET", "/born").expect("it answers");
        assert!(before.starts_with("HTTP/1.1 200 "), "{before}");
        assert!(request(demo.address, "POST", "/restart").expect("it answers").starts_with("HTTP/1.1 202 "));
        let began = std::time::Instant::now();
        let after = loop {
            match request(demo.address, "GET", "/born") {
                Ok(after) if after != before && !after.is_empty() => break after,
                _ => assert!(began.elapsed() < Duration::from_secs(20), "it does not come back"),
            }
            thread::sleep(Duration::from_millis(20));
        };
        assert!(after.starts_with("HTTP/1.1 200 "), "{after}");
        // While it is away, it can be stopped.
        request(demo.address, "POST", "/restart").expect("it answers");
        demo.stop();
    }
}
