//! One HTTP connection of a caller or of a client to be: heads and bodies are read under deadlines, responses written
//! at the end of the turn. What a request means is in `service::serve`.

use super::response::{Response, ResponseForm};
use crate::base::time::ms;
use crate::io::runtime::deadlines::Watch;
use crate::io::runtime::net;
use crate::io::runtime::notify::give_way;
use crate::io::runtime::socket::Socket;
use crate::io::worker::bodies::BodyRoom;
use crate::io::worker::responses::ResponseWriter;
use crate::io::worker::turn::Worker;
use crate::policy::api::write_refusal;
use crate::policy::proxies::is_trusted;
use crate::wire::http1::{BodyDecoder, BodyFraming, HeadLimits, HeadScanner};
use crate::wire::proxy_header::{self, ProxyHeader};
use monoio::buf::IoBufMut;
use std::net::IpAddr;
use std::rc::Rc;
use tracing::debug;

pub struct HttpConnection {
    worker: Rc<Worker>,
    /// Of a connection that is answered at all: most clients' never are. Dropped before the socket.
    writer: Option<ResponseWriter>,
    /// Dropped before the socket, too.
    watch: Watch,
    socket: Socket,
    /// Read, not consumed: a head, and what came behind it.
    buffer: Vec<u8>,
    /// A body that did not come with its head.
    body: Vec<u8>,
    body_room: Option<BodyRoom>,
    /// At least one request has been read: silence is only an idle keep-alive.
    has_served: bool,
}

/// What did not come in time.
#[derive(Debug, thiserror::Error)]
enum Late {
    #[error("the request was not complete in time")]
    Request,
    #[error("the body was not complete in time")]
    Body,
}

/// The last response to a connection that was to become a client.
pub async fn refuse(worker: Rc<Worker>, socket: Socket, write: impl FnOnce(&mut Vec<u8>)) {
    let watch = worker.deadlines().watch(socket.fd());
    let (writer, buffer, body, body_room) = Default::default();
    let mut connection = HttpConnection { worker, writer, socket, watch, buffer, body, body_room, has_served: true };
    connection.write(write);
    connection.written().await;
    connection.linger().await;
}

impl HttpConnection {
    /// The first byte has to come in time.
    pub fn new(worker: Rc<Worker>, socket: Socket) -> HttpConnection {
        let watch = worker.deadlines().watch(socket.fd());
        let first_byte_timeout = ms(worker.rules().config().first_byte_timeout);
        let (buffer, body, body_room) = (Vec::with_capacity(HEAD_BUFFER), Vec::new(), None);
        let connection =
            HttpConnection { worker, writer: None, socket, watch, buffer, body, body_room, has_served: false };
        connection.due_in(first_byte_timeout);
        connection
    }

    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// What was read and not consumed.
    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// Forgets a request, of so many bytes in the buffer.
    pub fn consume(&mut self, bytes: usize) {
        self.buffer.drain(..bytes);
    }

    /// The next request has to begin in time.
    pub fn expect_next(&self) {
        self.due_in(self.worker.limits().keep_alive_ms);
    }

    /// The request is being carried out: its time is no longer the caller's.
    pub fn stop_watch(&self) {
        self.watch.clear();
    }

    /// The socket, and what came behind the head.
    pub fn into_socket(mut self, head: usize) -> (Rc<Worker>, Socket, Vec<u8>) {
        let early = self.buffer.split_off(head);
        let HttpConnection { worker, writer, socket, watch, .. } = self;
        drop((writer, watch));
        (worker, socket, early)
    }

    /// Reads the PROXY header that a trusted proxy puts before everything. Returns whom the connection is from; `None`
    /// when it has to end.
    pub async fn read_proxy_header(&mut self, peer: IpAddr) -> Option<IpAddr> {
        if !is_trusted(&self.worker.rules().config().trusted_proxies, peer) {
            self.worker.count(|counters| &counters.proxy_refused);
            return None;
        }
        loop {
            match proxy_header::parse(&self.buffer) {
                Ok(Some(ProxyHeader { len, source })) => {
                    self.buffer.drain(..len);
                    return Some(source.unwrap_or(peer));
                }
                Ok(None) => {}
                Err(error) => {
                    self.worker.count(|counters| &counters.proxy_refused);
                    debug!(%peer, %error, "a proxy's connection is closed");
                    return None;
                }
            }
            if !self.read_more().await {
                return None;
            }
        }
    }

    /// Reads until the buffer begins with a whole head. `None` when the connection has to end (it has been answered
    /// then).
    pub async fn read_head(&mut self) -> Option<usize> {
        let mut scanner = HeadScanner::default();
        let mut has_begun = false;
        loop {
            match scanner.advance(&self.buffer, &HeadLimits::REQUEST) {
                // What came at the last moment came too late: its socket is not read any more.
                Ok(Some(_)) if self.watch.expired() => {
                    self.time_out(Late::Request).await;
                    return None;
                }
                Ok(Some(len)) => return Some(len),
                Ok(None) => {}
                Err(error) => {
                    self.worker.count(|counters| &counters.http_refused);
                    self.respond(&Response::plain(error.status(), &error.to_string()), &ResponseForm::LAST).await;
                    self.linger().await;
                    return None;
                }
            }
            if !has_begun && !self.buffer.is_empty() {
                has_begun = true;
                self.due_in(ms(self.worker.rules().config().handshake_timeout));
            }
            if !self.read_more().await {
                if self.watch.expired() && has_begun {
                    self.time_out(Late::Request).await;
                } else if self.watch.expired() && !self.has_served {
                    self.worker.count(|counters| &counters.http_timeouts);
                }
                return None;
            }
        }
    }

    /// A request is about to be carried out. False when its caller is gone or was given up.
    pub async fn begin_request(&mut self) -> bool {
        if !self.has_room().await {
            return false;
        }
        self.worker.count(|counters| &counters.http_requests);
        self.has_served = true;
        true
    }

    /// Reads a body behind a head of so many bytes, and returns how many bytes of the buffer the request is. `None`
    /// when the connection has to end.
    pub async fn read_body(&mut self, head: usize, framing: BodyFraming, expects_continue: bool) -> Option<usize> {
        self.body.clear();
        let max = self.worker.rules().config().api_body_max;
        match framing {
            BodyFraming::None => return Some(head),
            BodyFraming::Length(len) if len <= max as u64 && self.buffer.len() - head >= len as usize => {
                return Some(head + len as usize);
            }
            _ => {}
        }
        let mut decoder = match BodyDecoder::new(framing, max) {
            Ok(decoder) => decoder,
            Err(error) => {
                self.refuse_body(error.status(), &error.to_string()).await;
                return None;
            }
        };
        let len_max = if let BodyFraming::Length(len) = framing { len as usize } else { max };
        if !self.take_body_room(len_max).await {
            return None;
        }
        if expects_continue {
            self.write(|out| out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"));
        }
        self.due_in(self.worker.limits().body_timeout_ms);
        loop {
            let progress = match decoder.advance(&self.buffer[head..], &mut self.body) {
                Ok(progress) => progress,
                Err(error) => {
                    self.refuse_body(error.status(), &error.to_string()).await;
                    return None;
                }
            };
            if progress.done {
                return Some(head + progress.consumed);
            }
            self.buffer.drain(head..head + progress.consumed);
            if !self.read_more().await {
                if self.watch.expired() {
                    self.time_out(Late::Body).await;
                }
                return None;
            }
        }
    }

    /// False when bodies take too much memory already, and the caller has been told so.
    async fn take_body_room(&mut self, len_max: usize) -> bool {
        let bytes_max = self.worker.rules().config().bodies_bytes_max;
        self.body_room = self.worker.bodies().take(len_max, bytes_max);
        if self.body_room.is_some() {
            return true;
        }
        self.worker.count(|counters| &counters.bodies_refused);
        let mut body = Vec::new();
        write_refusal(&mut body, "too many long bodies at once");
        let response = Response::new(503, "application/json", body).with_retry_after();
        self.respond(&response, &ResponseForm::LAST).await;
        false
    }

    /// The call is over: what its body took is free.
    pub fn end_body(&mut self) {
        if self.body_room.take().is_some() {
            self.body = Vec::new();
        }
    }

    /// The body that `read_body` has read, of a request of `request` bytes with a head of `head`.
    pub fn body(&self, head: usize, request: usize) -> &[u8] {
        if self.body.is_empty() { &self.buffer[head..request] } else { &self.body }
    }

    pub async fn respond(&mut self, response: &Response, form: &ResponseForm) {
        self.write(|out| response.write(out, form));
        if !form.keep_alive {
            self.written().await;
        }
    }

    /// Writes a piece of a response that has no end yet, and empties it. False when the caller is gone or was given up.
    pub async fn write_piece(&mut self, piece: &mut Vec<u8>) -> bool {
        self.write(|out| out.append(piece));
        self.written().await
    }

    /// All responses have been taken; false when the caller is gone or was given up.
    pub async fn written(&self) -> bool {
        match &self.writer {
            None => true,
            Some(writer) => {
                if !writer.is_written() {
                    // The caller's time to read; its time to write begins anew afterwards.
                    self.watch.clear();
                }
                writer.written().await
            }
        }
    }

    /// After the last response: what the peer still sends is read and thrown away for a moment, since closing over
    /// unread bytes resets the connection and may take the response with it.
    pub async fn linger(&mut self) {
        self.written().await;
        net::shutdown_write(self.socket.fd());
        self.due_in(self.worker.limits().linger_ms);
        let mut left = self.worker.limits().linger_bytes;
        loop {
            self.buffer.clear();
            if !self.read_more().await || left == 0 {
                return;
            }
            left = left.saturating_sub(self.buffer.len());
        }
    }

    fn due_in(&self, ms: u64) {
        let deadline = self.worker.now() + ms;
        self.watch.set(deadline);
        self.worker.due_by(deadline);
    }

    async fn time_out(&mut self, late: Late) {
        self.worker.count(|counters| &counters.http_timeouts);
        self.respond(&Response::plain(408, &late.to_string()), &ResponseForm::LAST).await;
    }

    async fn refuse_body(&mut self, status: u16, why: &str) {
        self.worker.count(|counters| &counters.http_refused);
        let mut body = Vec::new();
        write_refusal(&mut body, why);
        self.respond(&Response::new(status, "application/json", body), &ResponseForm::LAST).await;
    }

    /// One read behind what the buffer has; false at the end of the stream.
    async fn read_more(&mut self) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let filled = buffer.len();
        if buffer.capacity() - filled < READ_ROOM {
            buffer.reserve(buffer.capacity().max(HEAD_BUFFER));
        }
        let end = buffer.capacity();
        give_way().await;
        let (read, slice) = self.socket.read(buffer.slice_mut(filled..end)).await;
        self.buffer = slice.into_inner();
        matches!(read, Ok(1..))
    }

    /// At the end of the turn.
    fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let writer = self.writer.get_or_insert_with(|| ResponseWriter::new(self.socket.fd()));
        writer.append(write);
        self.worker.respond(writer);
    }

    /// The caller has taken the responses before, or they are few.
    async fn has_room(&self) -> bool {
        let bytes_max = self.worker.limits().responses_bytes_max;
        self.writer.as_ref().is_none_or(|writer| writer.has_room(bytes_max)) || self.written().await
    }
}

/// Most heads are shorter; longer ones make it grow.
const HEAD_BUFFER: usize = 1024;
const READ_ROOM: usize = 256;
