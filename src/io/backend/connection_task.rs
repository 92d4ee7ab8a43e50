//! The task of one connection to a backend: connects, then always has exactly one read outstanding.
//!
//! Owns the connection's socket and its `ResponseReader`. Because it reads even when no response is expected, a
//! connection that the backend closes is noticed at once and never picked again. Never drops a pending read, which could
//! lose bytes: whoever wants to end a connection shuts its socket down, and the read ends. Decides nothing: it reports
//! to the dispatcher, and hands responses to the sink. Started by `pool`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use monoio::buf::{IoBuf, IoBufMut};
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, Splitable};
use monoio::net::TcpStream;

use super::dispatch::connections::Unsent;
use super::dispatch::ids::ConnectionIndex;
use super::dispatch::tasks::ConnectionEnd;
use super::hook::HookOutcome;
use super::response_reader::{Progress, ResponseReader};
use super::shared_dispatcher::SharedDispatcher;
use crate::policy::backend::Failure;
use crate::wire::http1::ResponseHead;

/// The connection's whole life. Its entry in the dispatcher is removed here and nowhere else.
pub async fn run(dispatcher: Rc<SharedDispatcher>, connection: ConnectionIndex, addresses: Arc<[IpAddr]>, port: u16) {
    let task = ConnectionTask { dispatcher, connection };
    // The socket outlives its entry, so that the number in the entry never means somebody else's socket.
    let (end, _socket) = match task.connect(&addresses, port).await {
        Ok((stream, address)) => {
            let (reader, writer) = stream.into_split();
            task.dispatcher.with_now(|dispatcher, now| dispatcher.connected(connection, address, writer, now));
            let (end, reader) = task.read_responses(reader).await;
            (end, Some(reader))
        }
        Err(failure) => (ConnectionEnd::Failed(failure), None),
    };
    task.dispatcher.with_now(|dispatcher, now| dispatcher.connection_ended(connection, end, now));
    task.dispatcher.deliver_given_up();
}

/// Sends what the kernel did not take at once. Ends early, by an error, when the socket is shut down.
pub async fn send_rest(dispatcher: Rc<SharedDispatcher>, connection: ConnectionIndex, unsent: Unsent) {
    let Unsent { serial, mut writer, bytes, sent } = unsent;
    let (result, slice) = writer.write_all(bytes.slice(sent..)).await;
    let (bytes, is_sent) = (slice.into_inner(), result.is_ok());
    dispatcher.with(|dispatcher| dispatcher.rest_sent(connection, serial, writer, bytes, is_sent));
}

struct ConnectionTask {
    dispatcher: Rc<SharedDispatcher>,
    connection: ConnectionIndex,
}

impl ConnectionTask {
    /// Tries the addresses in turn, beginning with the one that worked last. Returns which one it was.
    async fn connect(&self, addresses: &[IpAddr], port: u16) -> Result<(TcpStream, usize), Failure> {
        let first = self.dispatcher.with(|dispatcher| dispatcher.address_hint(self.connection));
        for tried in 0..addresses.len() {
            let index = (first + tried) % addresses.len();
            let address = SocketAddr::new(addresses[index], port);
            let is_last = tried + 1 == addresses.len();
            match self.connect_to_one(address, is_last).await {
                Ok(stream) => return Ok((stream, index)),
                Err(error) => tracing::debug!(%address, %error, "backend not reached"),
            }
        }
        Err(Failure::Refused)
    }

    async fn connect_to_one(&self, address: SocketAddr, is_last: bool) -> io::Result<TcpStream> {
        let (connection, socket) = (self.connection, begin_connect(address)?);
        let fd = socket.as_raw_fd();
        if !self.dispatcher.with_now(|dispatcher, now| dispatcher.connecting(connection, fd, is_last, now)) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let result = finish_connect(socket, fd).await;
        if result.is_err() {
            self.dispatcher.with(|dispatcher| dispatcher.address_failed(connection));
        }
        result
    }

    /// Reads responses until the connection ends. Gives the socket back, so that it is closed after its entry is removed.
    async fn read_responses(&self, mut socket: OwnedReadHalf<TcpStream>) -> (ConnectionEnd, OwnedReadHalf<TcpStream>) {
        let mut reader = ResponseReader::default();
        loop {
            let buf = reader.take_buffer();
            let filled = buf.len();
            let (result, slice) = socket.read(buf.slice_mut(filled..)).await;
            reader.put_buffer(slice.into_inner());
            let end = match result {
                Ok(0) | Err(_) => Some(self.on_eof(&mut reader)),
                Ok(_) => self.on_bytes(&mut reader),
            };
            if let Some(end) = end {
                return (end, socket);
            }
        }
    }

    /// Bytes have arrived. `Some` when the connection is over.
    fn on_bytes(&self, reader: &mut ResponseReader) -> Option<ConnectionEnd> {
        let (is_expected, body_max) =
            self.dispatcher.with(|dispatcher| (dispatcher.is_expected(self.connection), dispatcher.body_bytes_max()));
        if !is_expected {
            return Some(ConnectionEnd::Unasked);
        }
        match reader.advance(body_max, |head, body, reusable| self.on_response(head, body, reusable)) {
            Ok(Progress::More | Progress::Done { reusable: true }) => None,
            Ok(Progress::Done { reusable: false }) => Some(ConnectionEnd::Spent),
            Err(failure) => Some(ConnectionEnd::Failed(failure)),
        }
    }

    /// The backend has closed the connection, or we have shut it down.
    fn on_eof(&self, reader: &mut ResponseReader) -> ConnectionEnd {
        if reader.is_untouched() {
            return ConnectionEnd::ClosedUntouched;
        }
        if !self.dispatcher.with(|dispatcher| dispatcher.is_expected(self.connection)) {
            // We shut it down, and its request has been given up.
            return ConnectionEnd::Spent;
        }
        match reader.finish(|head, body, reusable| self.on_response(head, body, reusable)) {
            Ok(()) => ConnectionEnd::Spent,
            Err(failure) => ConnectionEnd::Failed(failure),
        }
    }

    /// A whole response. The dispatcher goes on first, so that the backend has work while the sink has it too.
    fn on_response(&self, head: &ResponseHead<'_>, body: &[u8], reusable: bool) {
        let finished = self
            .dispatcher
            .with_now(|dispatcher, now| dispatcher.responded(self.connection, head.status, reusable, now));
        if let Some((request, verdict)) = finished {
            self.dispatcher.finish(request, HookOutcome::Answered { verdict, head, body });
        }
        self.dispatcher.deliver_given_up();
    }
}

async fn finish_connect(socket: OwnedFd, fd: RawFd) -> io::Result<TcpStream> {
    let socket = std::net::TcpStream::from(socket);
    // Only the connect had to return at once; a read through the ring has to wait.
    socket.set_nonblocking(false)?;
    let stream = TcpStream::from_std(socket)?;
    stream.writable(false).await?;
    socket_error(fd)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A socket whose connection to `address` is under way. monoio's own `connect` would hide it until it stands, and then
/// nobody could end it in time.
fn begin_connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let result = match address {
        SocketAddr::V4(address) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            connect_to(fd, &name)
        }
        SocketAddr::V6(address) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            connect_to(fd, &name)
        }
    };
    result?;
    Ok(socket)
}

/// `name` is a `sockaddr_in` or `sockaddr_in6`.
fn connect_to<T>(fd: RawFd, name: &T) -> io::Result<()> {
    // SAFETY: the pointer and length are those of a live value, which the kernel only reads, and only during the call.
    let result = unsafe { libc::connect(fd, (&raw const *name).cast(), size_of::<T>() as libc::socklen_t) };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        error => Err(error),
    }
}

/// How the connect ended.
fn socket_error(fd: RawFd) -> io::Result<()> {
    let (mut code, mut len): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: both pointers are those of live variables of the right sizes, which the kernel writes during the call.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut code).cast(), &raw mut len) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}
