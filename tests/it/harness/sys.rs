//! The system calls that std has no word for: signals, descriptor limits, chosen source addresses, poll.
//!
//! The only `unsafe` of the tests.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::time::Duration;

/// Sends `signal` to a child of ours.
pub fn kill(pid: u32, signal: i32) {
    // SAFETY: kill takes plain numbers; the pid is a child that has not been waited for, so it names no other process.
    let answer = unsafe { libc::kill(pid as libc::pid_t, signal) };
    assert_eq!(answer, 0, "kill({pid}, {signal}): {}", io::Error::last_os_error());
}

/// Raises the soft limit of descriptors to the hard one and returns it.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a live rlimit of our own.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    limit.rlim_cur
}

/// Connects from a chosen loopback address.
pub fn connect_from(source: Ipv4Addr, to: SocketAddrV4) -> io::Result<TcpStream> {
    // SAFETY: socket takes plain numbers; a valid descriptor is owned by the TcpStream at once.
    let stream = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        TcpStream::from_raw_fd(fd)
    };
    let from = address(SocketAddrV4::new(source, 0));
    let to = address(to);
    let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: both addresses are live sockaddr_in of the stated size, the descriptor is open.
    unsafe {
        if libc::bind(stream.as_raw_fd(), (&raw const from).cast(), size) < 0
            || libc::connect(stream.as_raw_fd(), (&raw const to).cast(), size) < 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(stream)
}

/// Closing the stream then sends a reset in place of a FIN.
pub fn reset_on_close(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    set_option(stream.as_raw_fd(), libc::SO_LINGER, &linger);
}

/// A receive buffer so small that a client which does not read is soon felt by the server.
pub fn small_receive_buffer(stream: &TcpStream) {
    set_option(stream.as_raw_fd(), libc::SO_RCVBUF, &4096i32);
}

fn set_option<T>(fd: RawFd, name: i32, value: &T) {
    // SAFETY: the pointer and the size describe one live value of the type that the option takes.
    let answer = unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, name, (value as *const T).cast(), size_of::<T>() as libc::socklen_t)
    };
    assert_eq!(answer, 0, "setsockopt {name}: {}", io::Error::last_os_error());
}

/// Waits until one of the descriptors has something to read, or the time is over. The answer has one flag per descriptor.
pub fn readable(fds: &[RawFd], patience: Duration) -> Vec<bool> {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    let timeout = patience.as_millis().min(i32::MAX as u128) as i32;
    // SAFETY: pointer and length describe one live array.
    let count = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
    if count < 0 {
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "poll: {error}");
        return vec![false; fds.len()];
    }
    polled.iter().map(|p| p.revents != 0).collect()
}

fn address(at: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: at.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*at.ip()).to_be() },
        sin_zero: [0; 8],
    }
}
