//! TCP: listening, accepting, connecting, sending, shutting down. Addresses become the kernel's here and nowhere else.
//!
//! Nothing here waits but `Listener::accept` and `Connecting::finish`. Descriptors are plain numbers: whoever calls
//! owns them. A socket that must end in time is shut down by its descriptor (see `deadlines`); its pending operation
//! then completes, and is never dropped.

use super::notify::is_epoll;
use super::sys::check;
use monoio::net::{TcpListener, TcpStream};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// A listening socket. With `reuse_port` (SO_REUSEPORT) every worker has its own queue of new connections.
pub fn listen(address: SocketAddr, reuse_port: bool) -> io::Result<std::net::TcpListener> {
    let socket = tcp_socket(address, 0)?;
    let fd = socket.as_raw_fd();
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if reuse_port {
        set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    // Inherited by what is accepted: frames go out as they are written.
    set_nodelay(fd)?;
    let (storage, len) = sockaddr(address);
    // SAFETY: the storage holds a whole address of that length.
    check(unsafe { libc::bind(fd, (&raw const storage).cast(), len) })?;
    // SAFETY: takes numbers only.
    check(unsafe { libc::listen(fd, BACKLOG) })?;
    Ok(std::net::TcpListener::from(socket))
}

/// A listening socket, as the tasks of one worker's ring see it.
pub struct Listener(TcpListener);

impl Listener {
    /// Call it in the thread that will accept.
    pub fn new(listener: std::net::TcpListener) -> io::Result<Listener> {
        listener.set_nonblocking(is_epoll())?;
        TcpListener::from_std(listener).map(Listener)
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// The next connection and its peer. Never drop it while it is pending: the accepted descriptor would leak.
    pub async fn accept(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        // SAFETY: the number has just been given up by the stream, and nobody else knows it.
        Ok((unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) }, peer))
    }
}

/// A connection that is being made. monoio's own `connect` would hide the socket until it stands, and then nobody could
/// end it in time: here `shutdown` of its descriptor makes `finish` fail.
pub struct Connecting(OwnedFd);

impl Connecting {
    /// Does not wait.
    pub fn begin(address: SocketAddr) -> io::Result<Connecting> {
        let socket = tcp_socket(address, libc::SOCK_NONBLOCK)?;
        let (storage, len) = sockaddr(address);
        // SAFETY: the storage holds a whole address of that length, which the kernel only reads.
        match check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const storage).cast(), len) }) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Connecting(socket)),
        }
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Waits until the connection stands, or has failed.
    pub async fn finish(self) -> io::Result<TcpStream> {
        let fd = self.fd();
        let socket = std::net::TcpStream::from(self.0);
        // The connect had to return at once; a read through the ring has to wait.
        socket.set_nonblocking(is_epoll())?;
        let stream = TcpStream::from_std(socket)?;
        stream.writable(false).await?;
        socket_error(fd)?;
        set_nodelay(fd)?;
        Ok(stream)
    }
}

/// Sends what the kernel takes at once. `WouldBlock` when it takes nothing.
pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let nobody = std::ptr::null::<libc::sockaddr>();
    // Not libc's `send`: that one is a point of cancellation and makes ready for it, which costs 50 ns per message.
    // SAFETY: the pointer and the length are of one live slice; no address is named.
    let sent = unsafe { libc::syscall(libc::SYS_sendto, fd, bytes.as_ptr(), bytes.len(), flags, nobody, 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Like `send`, for two pieces that go out one after the other.
pub fn send_both(fd: RawFd, first: &[u8], second: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let mut pieces = [IoSlice::new(first), IoSlice::new(second)];
    // SAFETY: all zeroes is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // `IoSlice` has the layout of `iovec`.
    (message.msg_iov, message.msg_iovlen) = (pieces.as_mut_ptr().cast(), pieces.len());
    // SAFETY: the pieces live until it returns, and nothing writes to them.
    let sent = unsafe { libc::syscall(libc::SYS_sendmsg, fd, &raw const message, flags) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Ends both directions; a pending read completes with 0. Errors mean that it has ended already.
pub fn shutdown(fd: RawFd) {
    // SAFETY: takes numbers only.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// Ends the reading direction, so that a pending read completes while an answer can still be written.
pub fn shutdown_read(fd: RawFd) {
    // SAFETY: takes numbers only.
    unsafe { libc::shutdown(fd, libc::SHUT_RD) };
}

/// Ends the writing direction: the peer sees the end of the stream behind what was written.
pub fn shutdown_write(fd: RawFd) {
    // SAFETY: takes numbers only.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Small writes go out at once.
pub fn set_nodelay(fd: RawFd) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// A socket of the address's family; `flags` are SOCK_*.
fn tcp_socket(address: SocketAddr, flags: i32) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: takes numbers only; the new descriptor is owned by nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, 0))?)) }
}

/// How the connect ended.
fn socket_error(fd: RawFd) -> io::Result<()> {
    let (mut code, mut len): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: both pointers are those of live variables of the right sizes, which the kernel writes during the call.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut code).cast(), &raw mut len) })?;
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

fn set_option(fd: RawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value is a live integer of the size that is passed along.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), size_of::<i32>() as u32) };
    check(result).map(drop)
}

fn sockaddr(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeros is a valid sockaddr_storage; it is large and aligned enough for both kinds.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    match address {
        SocketAddr::V4(v4) => {
            let inet = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: see above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(inet) };
            (storage, size_of::<libc::sockaddr_in>() as u32)
        }
        SocketAddr::V6(v6) => {
            let inet = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: see above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(inet) };
            (storage, size_of::<libc::sockaddr_in6>() as u32)
        }
    }
}

/// New connections that may wait to be accepted; the kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build();
        runtime.expect("io_uring is allowed here").block_on(future)
    }

    #[test]
    fn a_connection_stands_at_both_ends() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = listen(address.parse().expect("an address"), true).expect("a free port");
            let address = listener.local_addr().expect("it is bound");
            let (accepted, local) = block_on(async {
                let connecting = Connecting::begin(address).expect("under way");
                let stream = connecting.finish().await.expect("somebody listens");
                let listener = Listener::new(listener).expect("a listener");
                let (_socket, peer) = listener.accept().await.expect("a connection");
                (peer, stream.local_addr().expect("it is bound"))
            });
            assert_eq!(accepted, local);
        }
    }

    #[test]
    fn a_connect_to_nobody_fails() {
        let listener = listen("127.0.0.1:0".parse().expect("an address"), false).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        let connected = block_on(async {
            match Connecting::begin(address) {
                Ok(connecting) => connecting.finish().await.map(drop),
                Err(error) => Err(error),
            }
        });
        assert_eq!(connected.expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_connect_that_is_shut_down_ends() {
        // Documentation addresses (RFC 5737) answer nobody, or are refused at once where there is no route.
        let connected = block_on(async {
            let connecting = Connecting::begin("192.0.2.1:9".parse().expect("an address"))?;
            shutdown(connecting.fd());
            connecting.finish().await.map(drop)
        });
        assert!(connected.is_err());
    }
}
