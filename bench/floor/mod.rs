//! The floors: the least that the kernel charges for the work of the server, by programs that do nothing else.
//!
//! Each is one blocking epoll loop without a limit, a timer, a check or a buffer of its own; they know of HTTP and of
//! WebSocket what the generator needs to be content (a constant 101, one unmasked frame per message) and panic at
//! anything else. They run as processes of their own (`load floor NAME PORT`), so that they are pinned and measured from
//! outside, as the server is.

mod echo;
mod fanout;
mod http_echo;
mod send_one;
mod turn;
mod upgrade;
mod uring;

use std::io;

/// Runs the floor of that name on 127.0.0.1:`port` until it is killed.
pub fn run(name: &str, port: u16) -> io::Result<()> {
    match name {
        "epoll" => turn::run(port, fanout::Fanout::new(1)),
        "epoll8" => turn::run(port, fanout::Fanout::new(8)),
        "uring" => turn::run(port, uring::Fanout::new()?),
        "echo" => turn::run(port, echo::Echo),
        "http-echo" => turn::run(port, http_echo::HttpEcho),
        "upgrade" => turn::run(port, upgrade::Upgrade),
        "send-one" => turn::run(port, send_one::SendOne::default()),
        other => Err(io::Error::other(format!("no floor is called {other}"))),
    }
}
