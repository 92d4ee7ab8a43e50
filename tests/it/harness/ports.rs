//! Free ports that stay ours.
//!
//! Servers under test share their port between workers (SO_REUSEPORT), so two of them on one port would silently share
//! clients. A port is therefore drawn outside the ephemeral range and reserved, by an abstract socket name, against every
//! other test process on the machine for as long as the `Port` lives.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// A reserved TCP port.
pub struct Port {
    pub number: u16,
    _reservation: UnixListener,
}

/// This port, in a network namespace that is the caller's own.
pub fn port(number: u16) -> Port {
    let name = SocketAddr::from_abstract_name(format!("rainbow-it-port-{number}")).expect("a short name");
    let reservation = UnixListener::bind_addr(&name).unwrap_or_else(|e| panic!("port {number} is taken: {e}"));
    Port { number, _reservation: reservation }
}

/// A port that nobody listens on.
pub fn free_port() -> Port {
    static DRAWN: AtomicU32 = AtomicU32::new(0);
    for _ in 0..4096 {
        let draw = DRAWN.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(397));
        let number = FIRST + (draw.wrapping_mul(2_654_435_761) >> 16) as u16 % (LAST - FIRST);
        let name = SocketAddr::from_abstract_name(format!("rainbow-it-port-{number}")).expect("a short name");
        let Ok(reservation) = UnixListener::bind_addr(&name) else { continue };
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok() {
            return Port { number, _reservation: reservation };
        }
    }
    panic!("no free port between {FIRST} and {LAST}");
}

const FIRST: u16 = 12_000;
const LAST: u16 = 32_000;
