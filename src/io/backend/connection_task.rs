//! The task of one connection to a backend: connects, then always has exactly one read outstanding.
//!
//! Owns the connection's socket and its `ResponseReader`. Because it reads even when no response is expected, a
//! connection that the backend closes is noticed at once and never picked again. Never drops a pending read, which
//! could lose bytes: whoever wants to end a connection shuts its socket down, and the read ends. Decides nothing: it
//! reports to the dispatcher, and hands responses to the sink. Started by `pool`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use monoio::buf::{IoBuf, IoBufMut};
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, Splitable};
use monoio::net::TcpStream;

use super::dispatch::connections::Unsent;
use super::dispatch::ids::ConnectionIndex;
use super::dispatch::tasks::ConnectionEnd;
use super::hook::{FinishedRequest, HookOutcome};
use super::response_reader::{ResponseProgress, ResponseReader};
use super::shared_dispatcher::SharedDispatcher;
use crate::io::runtime::net::Connecting;
use crate::policy::backend::Failure;
use crate::wire::http1::ResponseHead;

/// The connection's whole life. Its entry in the dispatcher is removed here and nowhere else.
pub async fn run(dispatcher: Rc<SharedDispatcher>, connection: ConnectionIndex, addresses: Arc<[IpAddr]>, port: u16) {
    let task = ConnectionTask { dispatcher, connection };
    // The socket outlives its entry, so that the number in the entry never means somebody else's socket.
    let (end, _socket) = match task.connect(&addresses, port).await {
        Ok(stream) => {
            let (reader, writer) = stream.into_split();
            task.dispatcher.with_now(|dispatcher, now| dispatcher.connected(connection, writer, now));
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

/// The kernel has nothing left for this process: the backend has not failed.
fn is_ours(error: &io::Error) -> bool {
    const OURS: [i32; 5] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| OURS.contains(&code))
}

struct ConnectionTask {
    dispatcher: Rc<SharedDispatcher>,
    connection: ConnectionIndex,
}

impl ConnectionTask {
    /// Tries the addresses in turn.
    async fn connect(&self, addresses: &[IpAddr], port: u16) -> Result<TcpStream, Failure> {
        let connection = self.connection;
        let order = self.dispatcher.with_now(|dispatcher, now| dispatcher.address_order(connection, addresses, now));
        for (tried, index) in order.into_iter().enumerate() {
            let address = SocketAddr::new(addresses[index], port);
            let is_last = tried + 1 == addresses.len();
            match self.connect_to_one(address, is_last).await {
                Ok(stream) => return Ok(stream),
                Err(error) if is_ours(&error) => return Err(Failure::OutOfDescriptors),
                Err(error) => tracing::debug!(%address, %error, "backend not reached"),
            }
        }
        Err(Failure::Refused)
    }

    async fn connect_to_one(&self, address: SocketAddr, is_last: bool) -> io::Result<TcpStream> {
        let (connection, connecting) = (self.connection, Connecting::begin(address)?);
        let fd = connecting.fd();
        if !self.dispatcher.with_now(|dispatcher, now| dispatcher.connecting(connection, fd, is_last, now)) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let result = connecting.finish().await;
        if result.is_err() {
            let address = address.ip();
            self.dispatcher.with_now(|dispatcher, now| dispatcher.address_failed(connection, address, now));
        }
        result
    }

    /// Reads responses until the connection ends. Gives the socket back, so that it is closed after its entry is
    /// removed.
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
            return Some(ConnectionEnd::Unsolicited);
        }
        match reader.advance(body_max, |head, body, reusable| self.on_response(head, body, reusable)) {
            Ok(ResponseProgress::More | ResponseProgress::Complete { reusable: true }) => None,
            Ok(ResponseProgress::Complete { reusable: false }) => Some(ConnectionEnd::Spent),
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
            .with_now(|dispatcher, now| dispatcher.responded(self.connection, (head.status, body), reusable, now));
        if let Some(((tag, request_body), verdict)) = finished {
            let outcome = HookOutcome::Answered { verdict, head, body };
            self.dispatcher.finish(FinishedRequest { tag, outcome, request_body });
        }
        self.dispatcher.deliver_given_up();
    }
}
