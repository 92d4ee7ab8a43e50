//! Descriptors that monoio reads or waits for. Writing is not here: it is one direct `send` per turn
//! (`ClientSockets::flush`, `DueResponses`).

use super::notify::{give_way, is_epoll};
use super::{descriptors, sys};
use monoio::buf::IoBufMut;
use monoio::io::AsyncReadRent;
use monoio::net::UnixStream;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// A connected socket of whatever family, as its task owns it. Closed on drop.
///
/// Underneath it is monoio's `UnixStream`, which is a bare descriptor; its `TcpStream` carries 80 bytes of cached
/// addresses that nobody needs, times a million.
pub struct Socket(UnixStream);

impl Socket {
    pub fn new(fd: OwnedFd) -> io::Result<Socket> {
        let fd = without_waiting(fd)?;
        // SAFETY: ownership of the descriptor moves into the stream; std's type does nothing but hold it.
        let stream = unsafe { std::os::unix::net::UnixStream::from_raw_fd(fd.into_raw_fd()) };
        let stream = UnixStream::from_std(stream)?;
        descriptors::socket_opened();
        Ok(Socket(stream))
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// One read into the buffer's whole capacity; 0 at the end of the stream. Never raced against a timeout: whoever
    /// wants it to end shuts the socket down.
    pub fn read<B: IoBufMut>(&mut self, buffer: B) -> impl Future<Output = (io::Result<usize>, B)> {
        self.0.read(buffer)
    }

    /// Until the socket takes bytes again (or has failed).
    pub async fn writable(&self) {
        let _ = self.0.writable(false).await;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        descriptors::socket_closed();
    }
}

/// A socket whose reads return at once where this thread's driver is epoll.
pub fn without_waiting(socket: OwnedFd) -> io::Result<OwnedFd> {
    if !is_epoll() {
        return Ok(socket);
    }
    let socket = std::net::TcpStream::from(socket);
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Any descriptor that becomes readable: an eventfd, an epoll set.
pub struct Pollable(UnixStream);

impl Pollable {
    pub fn new(fd: OwnedFd) -> io::Result<Pollable> {
        // SAFETY: as in `Socket::new`; only `readable` is ever called on it.
        let stream = unsafe { std::os::unix::net::UnixStream::from_raw_fd(fd.into_raw_fd()) };
        Ok(Pollable(UnixStream::from_std(stream)?))
    }

    pub async fn readable(&self) {
        give_way().await;
        let _ = self.0.readable(false).await;
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Goes once through the ring: what it has ready is handled before the task goes on. A task that always finds something
/// to do keeps the thread from its sockets otherwise.
pub struct RingPass(Pollable);

impl RingPass {
    pub fn new() -> io::Result<RingPass> {
        let always_readable = sys::eventfd()?;
        sys::eventfd_ring(always_readable.as_raw_fd());
        Pollable::new(always_readable).map(RingPass)
    }

    pub async fn pass(&self) {
        self.0.readable().await;
    }
}
