//! One connection to a backend: a task that always has exactly one read outstanding, and the system calls around it.
//!
//! Because it reads even when nothing is asked, a connection that the backend closes is noticed at once and never
//! picked again. A pending read is never dropped, which could lose bytes: whoever wants to end a lane shuts its socket
//! down, and the read ends. What to do with answers and ends is for `dispatch`; no borrow of it is held across an
//! await.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use monoio::buf::{IoBuf, IoBufMut};
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::TcpStream;

use super::response::{AnswerReader, Progress};
use super::{Done, Inner, Outcome};
use crate::io::runtime::net;
use crate::policy::backend::Failure;
use crate::wire::http1::ResponseHead;

/// How a lane came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneEnd {
    /// No connection came about, or its answer failed.
    Failed(Failure),
    /// Closed or reset with no byte of an answer on it: idle, or crossing our request.
    ClosedUntouched,
    /// Closed after an answer that did not leave it usable.
    Spent,
    /// The backend spoke without being asked.
    Unasked,
}

impl LaneEnd {
    /// What that means to a request that was on the lane.
    pub fn failure(self) -> Failure {
        match self {
            LaneEnd::Failed(failure) => failure,
            LaneEnd::ClosedUntouched | LaneEnd::Spent => Failure::Reset,
            LaneEnd::Unasked => Failure::Rubbish,
        }
    }
}

/// The task. `lane` is its slot in the dispatcher, freed here and nowhere else.
pub(super) async fn run(inner: Rc<Inner>, lane: usize, addresses: Arc<[IpAddr]>, port: u16) {
    // The socket outlives its slot, so that the number in the slot never means somebody else's socket.
    let (end, _stream) = match connect(&inner, lane, &addresses, port).await {
        Ok((stream, address)) => {
            let (read_half, write_half) = stream.into_split();
            inner.dispatcher.borrow_mut().lane_connected(lane, address, write_half, inner.clock.now());
            let (end, read_half) = serve(&inner, lane, read_half).await;
            (end, Some(read_half))
        }
        Err(failure) => (LaneEnd::Failed(failure), None),
    };
    inner.dispatcher.borrow_mut().lane_ended(lane, end, inner.clock.now());
    inner.deliver();
}

/// Tries the addresses in turn, beginning with the one that worked last.
async fn connect(inner: &Inner, lane: usize, addresses: &[IpAddr], port: u16) -> Result<(TcpStream, usize), Failure> {
    let first = inner.dispatcher.borrow().address_hint(lane);
    for tried in 0..addresses.len() {
        let index = (first + tried) % addresses.len();
        let address = SocketAddr::new(addresses[index], port);
        let is_last = tried + 1 == addresses.len();
        match connect_one(inner, lane, address, is_last).await {
            Ok(stream) => return Ok((stream, index)),
            Err(error) => tracing::debug!(%address, %error, "backend not reached"),
        }
    }
    Err(Failure::Refused)
}

async fn connect_one(inner: &Inner, lane: usize, address: SocketAddr, is_last: bool) -> io::Result<TcpStream> {
    let socket = begin_connect(address)?;
    let fd = socket.as_raw_fd();
    if !inner.dispatcher.borrow_mut().lane_tries(lane, fd, is_last, inner.clock.now()) {
        return Err(io::ErrorKind::Interrupted.into());
    }
    let end = finish_connect(socket, fd).await;
    if end.is_err() {
        inner.dispatcher.borrow_mut().lane_gave_up_address(lane);
    }
    end
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

/// Reads answers until the connection ends. Gives the socket back, so that it is closed after its slot is freed.
async fn serve(inner: &Inner, lane: usize, mut half: OwnedReadHalf<TcpStream>) -> (LaneEnd, OwnedReadHalf<TcpStream>) {
    let mut reader = AnswerReader::default();
    loop {
        let buf = reader.take_buffer();
        let filled = buf.len();
        let (result, slice) = half.read(buf.slice_mut(filled..)).await;
        reader.put_buffer(slice.into_inner());
        let end = match result {
            Ok(0) | Err(_) => Some(at_end(inner, lane, &mut reader)),
            Ok(_) => at_bytes(inner, lane, &mut reader),
        };
        if let Some(end) = end {
            return (end, half);
        }
    }
}

/// Bytes have arrived. `Some` when the lane is over.
fn at_bytes(inner: &Inner, lane: usize, reader: &mut AnswerReader) -> Option<LaneEnd> {
    let (is_expected, body_max) = {
        let dispatcher = inner.dispatcher.borrow();
        (dispatcher.is_expected(lane), dispatcher.body_bytes_max())
    };
    if !is_expected {
        return Some(LaneEnd::Unasked);
    }
    match reader.advance(body_max, |head, body, reusable| hand_over(inner, lane, head, body, reusable)) {
        Ok(Progress::More | Progress::Done { reusable: true }) => None,
        Ok(Progress::Done { reusable: false }) => Some(LaneEnd::Spent),
        Err(failure) => Some(LaneEnd::Failed(failure)),
    }
}

/// The connection has ended.
fn at_end(inner: &Inner, lane: usize, reader: &mut AnswerReader) -> LaneEnd {
    if reader.is_untouched() {
        return LaneEnd::ClosedUntouched;
    }
    // Cut off by ourselves: there is nobody left to answer.
    if !inner.dispatcher.borrow().is_expected(lane) {
        return LaneEnd::Spent;
    }
    match reader.finish(|head, body, reusable| hand_over(inner, lane, head, body, reusable)) {
        Ok(()) => LaneEnd::Spent,
        Err(failure) => LaneEnd::Failed(failure),
    }
}

/// A whole answer: the dispatcher goes on first, so that the backend has work while the sink has it too.
fn hand_over(inner: &Inner, lane: usize, head: &ResponseHead<'_>, body: &[u8], reusable: bool) {
    let answered = inner.dispatcher.borrow_mut().lane_answered(lane, head.status, reusable, inner.clock.now());
    if let Some((job, verdict)) = answered {
        let outcome = Outcome::Answered { verdict, head, body };
        (inner.sink)(Done { ticket: job.ticket, outcome, request_body: job.body });
    }
    inner.deliver();
}

/// Sends what the kernel did not take at once. Ends early, by an error, when the socket is shut down.
pub(super) async fn send_rest(
    inner: Rc<Inner>,
    lane: usize,
    serial: u64,
    mut half: OwnedWriteHalf<TcpStream>,
    out: Vec<u8>,
    sent: usize,
) {
    let (result, slice) = half.write_all(out.slice(sent..)).await;
    inner.dispatcher.borrow_mut().lane_sent_rest(lane, serial, half, slice.into_inner(), result.is_ok());
}

/// One `send` that does not wait: how much of `bytes` the kernel has taken.
pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    match net::send(fd, bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

/// Ends both directions, which ends reads, writes and connects that are under way. Without a socket (-1) it does
/// nothing.
pub fn shutdown(fd: RawFd) {
    if fd >= 0 {
        net::shutdown(fd);
    }
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
