//! Addresses to listen on, claimed before the workers bind them, and what to do about a refusal of the system.
//!
//! The workers' sockets share a port (SO_REUSEPORT), and would share it with another server of the same user without
//! any error. So a start looks whether somebody listens, and until its workers do, no other start may use that port.

use super::{clock, net};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::thread;
use std::time::Duration;

/// Nobody listened on the address, and no other start takes its port while this value lives. Drop it when the workers
/// listen.
#[derive(Debug)]
pub struct Claim {
    address: SocketAddr,
    lock: UnixDatagram,
}

impl Claim {
    /// Port 0 becomes a free one.
    pub fn wait(address: SocketAddr) -> io::Result<Claim> {
        wait_until_free(|| Claim::new(address))
    }

    /// As `wait`, but at once.
    pub fn new(address: SocketAddr) -> io::Result<Claim> {
        if address.port() == 0 {
            let address = probe(address)?;
            return Ok(Claim { address, lock: lock(address.port())? });
        }
        let lock = lock(address.port())?;
        Ok(Claim { address: probe(address)?, lock })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its descriptor, which no worker may keep a copy of.
    pub fn fd(&self) -> RawFd {
        self.lock.as_raw_fd()
    }
}

/// Tries again while the port is taken, for a second. A server that has ended keeps its ports for some milliseconds,
/// until the kernel has taken its rings apart: whoever restarts it at once must not be told that they are taken.
pub fn wait_until_free<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let end = clock::monotonic() + RETRY_MS;
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && clock::monotonic() < end => {
                thread::sleep(RETRY_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// Fails while another process holds the lock of that port. Names of this kind are in no file system, belong to the
/// network namespace as ports do, and end with their process. Only sockets of one user share a port.
fn lock(port: u16) -> io::Result<UnixDatagram> {
    // SAFETY: takes nothing and always succeeds.
    let user = unsafe { libc::geteuid() };
    UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(format!("rainbow-start/{user}/{port}"))?)
}

/// Fails when somebody listens there already, which SO_REUSEPORT alone would not notice.
fn probe(address: SocketAddr) -> io::Result<SocketAddr> {
    net::listen(address, false)?.local_addr()
}

/// What to do when listening on an address was refused.
pub fn listen_advice(error: &io::Error, address: SocketAddr) -> String {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => "Is another server running there? Choose another port (-p for http_port).".into(),
        Some(libc::EACCES) => {
            let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
            let first = first.as_deref().unwrap_or("1024").trim();
            format!(
                "Ports below {first} need CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE): \
                 grant it, or choose a higher port than {}.",
                address.port()
            )
        }
        Some(libc::EADDRNOTAVAIL) => {
            format!("This machine has no address {}; 0.0.0.0 or :: is every one it has.", address.ip())
        }
        Some(libc::EAFNOSUPPORT) => "This kernel has no IPv6: choose an IPv4 address such as 0.0.0.0.".into(),
        Some(libc::EMFILE | libc::ENFILE) => DESCRIPTORS_ADVICE.into(),
        _ => "Choose another address or port.".into(),
    }
}

/// What to do when io_uring_setup was refused.
pub fn ring_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "The kernel or a seccomp filter forbids io_uring: see sysctl kernel.io_uring_disabled, and let a \
             container's seccomp profile allow io_uring_setup, io_uring_enter and io_uring_register."
        }
        Some(libc::ENOSYS) => {
            "This kernel, or a seccomp filter, has no io_uring: Linux 6.1 or newer is needed, and in a container a \
             seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register."
        }
        Some(libc::EINVAL) => {
            "This kernel does not know IORING_SETUP_DEFER_TASKRUN: Linux 6.1 or newer is needed (see uname -r)."
        }
        Some(libc::ENOMEM) => {
            "The memory for the rings was refused: raise RLIMIT_MEMLOCK (ulimit -l, systemd: LimitMEMLOCK=) or the \
             memory limit, or start fewer workers."
        }
        Some(libc::EMFILE | libc::ENFILE) => DESCRIPTORS_ADVICE,
        _ => "See dmesg for what the kernel says about io_uring.",
    }
}

/// What to do when a table of descriptors is full.
pub const DESCRIPTORS_ADVICE: &str =
    "There are no descriptors left: raise RLIMIT_NOFILE (ulimit -n, systemd: LimitNOFILE=, docker: --ulimit nofile=).";
const RETRY_MS: u64 = 1_000;
const RETRY_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_port_is_claimed_once_until_its_workers_listen() {
        let free = "127.0.0.1:0".parse().expect("an address");
        let claim = Claim::new(free).expect("a free port");
        let address = claim.address();
        assert_eq!(Claim::new(address).expect_err("claimed").kind(), ErrorKind::AddrInUse);
        let worker = net::listen(address, true).expect("the workers listen where it was claimed");
        drop(claim);
        assert_eq!(Claim::new(address).expect_err("taken").kind(), ErrorKind::AddrInUse);
        drop(worker);
        assert_eq!(Claim::new(address).expect("free again").address(), address);
    }

    #[test]
    fn each_refusal_has_a_sentence_of_its_own() {
        let error = io::Error::from_raw_os_error;
        let rings = [libc::EPERM, libc::ENOSYS, libc::EINVAL, libc::ENOMEM, libc::EMFILE, libc::EIO];
        let rings: HashSet<&str> = rings.into_iter().map(|code| ring_advice(&error(code))).collect();
        assert_eq!(rings.len(), 6);
        let address = "192.0.2.1:80".parse().expect("an address");
        let refusals =
            [libc::EADDRINUSE, libc::EACCES, libc::EADDRNOTAVAIL, libc::EAFNOSUPPORT, libc::EMFILE, libc::EIO];
        let refusals: HashSet<String> = refusals.map(|code| listen_advice(&error(code), address)).into();
        assert_eq!(refusals.len(), 6);
    }
}
