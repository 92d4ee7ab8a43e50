//! What the service manager hears (systemd's sd_notify(3)): ready, reloading, stopping, and that every worker turns.
//! Its watchdog restarts a process that does not say so in time.
//!
//! A socket per message, which never waits: a manager that does not read loses messages, and nothing else stops.
//! Called by the main thread.

use crate::io::runtime::events::Until;
use crate::io::runtime::sys;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;
use tracing::warn;

/// The manager that started us, if one wants to hear of us.
pub struct ServiceManager {
    address: Option<SocketAddr>,
    /// Half of the time within which it wants a sign of life.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// As NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say.
    pub fn from_env() -> ServiceManager {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let interval = number("WATCHDOG_USEC").filter(|usec| *usec > 0 && is_for_us).map(Duration::from_micros);
        let address = std::env::var_os("NOTIFY_SOCKET").and_then(|name| match address(&name) {
            Ok(address) => Some(address),
            Err(error) => {
                warn!(%error, ?name, "NOTIFY_SOCKET cannot be used");
                None
            }
        });
        let watchdog = interval.map(|interval| interval / 2).filter(|_| address.is_some());
        ServiceManager { address, watchdog }
    }

    /// Clients are served, with this status for `systemctl status`.
    pub fn notify_ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// `notify_ready` must follow.
    pub fn notify_reloading(&self) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}\n", sys::since_boot_us()));
    }

    /// It will end within this time.
    pub fn notify_stopping(&self, within: Duration) {
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}\n", within.as_micros()));
    }

    pub fn notify_alive(&self) {
        if self.watchdog.is_some() {
            self.send("WATCHDOG=1\n");
        }
    }

    /// When the next sign of life is due; `None`: never.
    pub fn next_sign(&self) -> Option<Until> {
        self.watchdog.map(Until::after)
    }

    fn send(&self, message: &str) {
        let Some(address) = &self.address else { return };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to_addr(message.as_bytes(), address)
        });
        if let Err(error) = sent {
            warn!(%error, "the service manager cannot be told");
        }
    }
}

/// A path, or with `@` in front a name without a file.
fn address(name: &OsString) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}
