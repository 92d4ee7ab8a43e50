//! One HTTP connection: heads and bodies under deadlines, then a client's upgrade, a call, or a page. It ends when the
//! peer or we say so, or when the socket becomes a client's session.

use crate::io::api::calls;
use crate::io::client::upgrade;
use crate::io::http::response::{Response, plain};
use crate::io::http::responses::ResponseWriter;
use crate::io::runtime::deadlines::Watch;
use crate::io::runtime::net;
use crate::io::runtime::socket::Socket;
use crate::io::worker::rules::ms;
use crate::io::worker::turn::Core;
use crate::policy::api::Route;
use crate::shard::Mode;
use crate::wire::http1::{BodyDecoder, BodyFraming, HeadLimits, HeadScanner, REQUEST_SLOTS, RequestHead};
use monoio::buf::IoBufMut;
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::rc::Rc;

/// Which listener the connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// All paths.
    Whole,
    /// `admin_listen` has taken the control API away: clients only.
    Public,
    /// `admin_listen`: everything but clients.
    Admin,
}

/// Serves the connection to its end. `peer` is its address.
pub async fn run(core: Rc<Core>, socket: Socket, peer: IpAddr, side: Side) {
    let rules = core.rules();
    let watch = core.deadlines.watch(socket.fd());
    let connection = Connection {
        core,
        writer: None,
        socket,
        watch,
        peer,
        side,
        buffer: Vec::with_capacity(HEAD_BUFFER),
        body: Vec::new(),
        spare: Vec::new(),
        served: false,
    };
    connection.due_in(ms(rules.config.first_byte_timeout));
    connection.serve().await;
}

/// The last answer to a connection that was to become a client.
pub async fn refuse(core: Rc<Core>, socket: Socket, response: &Response) {
    let watch = core.deadlines.watch(socket.fd());
    let (peer, side) = (Ipv4Addr::UNSPECIFIED.into(), Side::Public);
    let (writer, buffer, body, spare) = Default::default();
    let mut connection = Connection { core, writer, socket, watch, peer, side, buffer, body, spare, served: true };
    connection.answer(response, false).await;
    connection.linger().await;
}

struct Connection {
    core: Rc<Core>,
    /// Of one that is answered at all: most clients' never are. Dropped before the socket.
    writer: Option<ResponseWriter>,
    socket: Socket,
    watch: Watch,
    peer: IpAddr,
    side: Side,
    /// Read, not consumed: a head, and what came behind it.
    buffer: Vec<u8>,
    /// A body that did not come with its head.
    body: Vec<u8>,
    /// The body of the last answer, for the next one.
    spare: Vec<u8>,
    /// At least one request has been read: silence is only an idle keep-alive.
    served: bool,
}

/// A request whose head has been read.
struct Request {
    /// Bytes of the head in the buffer.
    head: usize,
    what: What,
    keep_alive: bool,
}

enum What {
    Upgrade(Box<upgrade::Plan>),
    Call(CallPlan),
    Answer(Response),
}

struct CallPlan {
    route: Route,
    /// Of the query, in the buffer.
    query: Range<usize>,
    framing: BodyFraming,
    expects_continue: bool,
    pass: calls::Pass,
}

impl Connection {
    async fn serve(mut self) {
        loop {
            let Some(head) = self.read_head().await else { return };
            if !self.has_room().await {
                return;
            }
            self.core.count(|counters| &counters.http_requests);
            self.served = true;
            let Request { head, what, keep_alive } = self.plan(head);
            let keep_alive = keep_alive && !self.core.shared.is_draining();
            match what {
                What::Upgrade(plan) => return self.upgrade(head, *plan).await,
                What::Answer(response) => {
                    // Only a request without a body is answered from its head alone and followed by another.
                    self.answer(&response, keep_alive).await;
                    if !keep_alive {
                        return self.linger().await;
                    }
                    self.buffer.drain(..head);
                }
                What::Call(call) => match self.call(head, call, keep_alive).await {
                    Some(consumed) if keep_alive => drop(self.buffer.drain(..consumed)),
                    _ => return self.linger().await,
                },
            }
            self.due_in(KEEP_ALIVE_MS);
        }
    }

    /// Reads until the buffer begins with a whole head; `None` when the connection is to end (it has been answered
    /// then).
    async fn read_head(&mut self) -> Option<usize> {
        let mut scanner = HeadScanner::default();
        let mut begun = false;
        loop {
            match scanner.advance(&self.buffer, &HeadLimits::REQUEST) {
                // What came at the last moment came too late: its socket is not read any more.
                Ok(Some(_)) if self.watch.expired() => {
                    self.time_out("the request was not complete in time").await;
                    return None;
                }
                Ok(Some(len)) => return Some(len),
                Ok(None) => {}
                Err(error) => {
                    self.core.count(|counters| &counters.http_refused);
                    self.answer(&plain(error.status(), &error.to_string()), false).await;
                    self.linger().await;
                    return None;
                }
            }
            if !begun && !self.buffer.is_empty() {
                begun = true;
                self.due_in(ms(self.core.rules().config.handshake_timeout));
            }
            if !self.read_more().await {
                if self.watch.expired() && begun {
                    self.time_out("the request was not complete in time").await;
                } else if self.watch.expired() && !self.served {
                    self.core.count(|counters| &counters.http_timeouts);
                }
                return None;
            }
        }
    }

    fn due_in(&self, ms: u64) {
        let deadline = self.core.clock.now() + ms;
        self.watch.set(deadline);
        self.core.due_by(deadline);
    }

    async fn time_out(&mut self, why: &str) {
        self.core.count(|counters| &counters.http_timeouts);
        self.answer(&plain(408, why), false).await;
    }

    /// One read behind what the buffer has; false at the end of the stream.
    async fn read_more(&mut self) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let filled = buffer.len();
        if buffer.capacity() - filled < READ_ROOM {
            buffer.reserve(buffer.capacity().max(HEAD_BUFFER));
        }
        let end = buffer.capacity();
        let (read, slice) = self.socket.read(buffer.slice_mut(filled..end)).await;
        self.buffer = slice.into_inner();
        matches!(read, Ok(1..))
    }

    /// What the head asks for.
    fn plan(&self, head: usize) -> Request {
        let mut slots = REQUEST_SLOTS;
        let parsed = match RequestHead::parse(&self.buffer[..head], &mut slots) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.core.count(|counters| &counters.http_refused);
                let what = What::Answer(plain(error.status(), &error.to_string()));
                return Request { head, what, keep_alive: false };
            }
        };
        let whole = match parsed.framing {
            BodyFraming::None => true,
            BodyFraming::Length(len) => len <= (self.buffer.len() - head) as u64,
            BodyFraming::Chunked | BodyFraming::UntilClose => false,
        };
        let what = self.route(&parsed, whole);
        let keep_alive = parsed.keep_alive() && (parsed.framing == BodyFraming::None || matches!(what, What::Call(_)));
        Request { head, what, keep_alive }
    }

    /// `whole`: its body is in the buffer too.
    fn route(&self, head: &RequestHead<'_>, whole: bool) -> What {
        let echo = self.core.rules().mode == Mode::Echo;
        let route = if echo { Some(Route::Connect) } else { Route::find(head.path) };
        let route = route.filter(|route| match self.side {
            Side::Whole => true,
            Side::Public => route.is_public(),
            Side::Admin => *route != Route::Connect,
        });
        let Some(route) = route else { return What::Answer(plain(404, "no such path")) };
        if route == Route::Connect {
            return match upgrade::plan(&self.core, head, self.peer) {
                Ok(plan) => What::Upgrade(Box::new(plan)),
                Err(response) => {
                    if matches!(response.status, 400 | 405 | 426) {
                        self.core.count(|counters| &counters.http_refused);
                    }
                    What::Answer(response)
                }
            };
        }
        let method_fits = if route.is_post() { head.method == "POST" } else { matches!(head.method, "GET" | "POST") };
        if !method_fits {
            let mut response = plain(405, "this path takes another method");
            response.headers.push(("Allow", if route.is_post() { "POST" } else { "GET" }.into()));
            return What::Answer(response);
        }
        // Where the query lies in the buffer: the head is parsed anew for nobody.
        let query = match head.query {
            "" => 0..0,
            query => {
                let start = query.as_ptr() as usize - self.buffer.as_ptr() as usize;
                start..start + query.len()
            }
        };
        What::Call(CallPlan {
            route,
            query,
            framing: head.framing,
            expects_continue: head.expects_continue(),
            pass: calls::pass(&self.core, route, head, self.peer, whole),
        })
    }

    async fn upgrade(mut self, head: usize, plan: upgrade::Plan) {
        self.watch.clear();
        if !self.written().await {
            return;
        }
        let early = self.buffer.split_off(head);
        let Connection { core, writer, socket, watch, .. } = self;
        drop((writer, watch));
        let refused = upgrade::connect(core.clone(), socket, plan, early).await;
        let Err((socket, response)) = refused else { return };
        refuse(core, socket, &response).await;
    }

    /// Reads the body and carries the call out. Returns how much of the buffer was the request; `None` when the
    /// connection has to end.
    async fn call(&mut self, head: usize, call: CallPlan, keep_alive: bool) -> Option<usize> {
        let rules = self.core.rules();
        if let calls::Pass::Refused(why) = &call.pass {
            self.core.count(|counters| &counters.signatures_refused);
            let response = calls::refused(call.route, why);
            let keep_alive = keep_alive && call.framing == BodyFraming::None;
            self.answer(&response, keep_alive).await;
            return keep_alive.then_some(head);
        }
        let consumed = self.read_body(head, &call, rules.config.api_body_max).await?;
        self.watch.clear();
        let query = std::str::from_utf8(&self.buffer[call.query.clone()]).expect("the head was text");
        let body = if self.body.is_empty() { &self.buffer[head..consumed] } else { &self.body[..] };
        let spare = std::mem::take(&mut self.spare);
        let request = calls::Request { route: call.route, pass: &call.pass, query, body, spare };
        let response = calls::run(&self.core, request).await;
        self.answer(&response, keep_alive).await;
        if let Cow::Owned(mut body) = response.body {
            body.shrink_to(SPARE_KEPT);
            self.spare = body;
        }
        Some(consumed)
    }

    /// Afterwards the body is in `buffer[head..consumed]`, or in `body` when it did not come in one piece with the
    /// head.
    async fn read_body(&mut self, head: usize, call: &CallPlan, max: usize) -> Option<usize> {
        self.body.clear();
        match call.framing {
            BodyFraming::None => return Some(head),
            BodyFraming::Length(len) if len <= max as u64 && self.buffer.len() - head >= len as usize => {
                return Some(head + len as usize);
            }
            _ => {}
        }
        let mut decoder = match BodyDecoder::new(call.framing, max) {
            Ok(decoder) => decoder,
            Err(error) => {
                self.refuse_body(error.status(), &error.to_string()).await;
                return None;
            }
        };
        if call.expects_continue {
            self.write(|out| out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"));
        }
        self.due_in(BODY_TIMEOUT_MS);
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
                    self.time_out("the body was not complete in time").await;
                }
                return None;
            }
        }
    }

    async fn refuse_body(&mut self, status: u16, why: &str) {
        self.core.count(|counters| &counters.http_refused);
        let mut body = Vec::new();
        crate::policy::api::write_refusal(&mut body, why);
        self.answer(&Response::new(status, "application/json", body), false).await;
    }

    async fn answer(&mut self, response: &Response, keep_alive: bool) {
        self.write(|out| response.write(out, keep_alive));
        if !keep_alive {
            self.written().await;
        }
    }

    /// At the end of the turn.
    fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let writer = self.writer.get_or_insert_with(|| ResponseWriter::new(self.socket.fd()));
        writer.append(write);
        self.core.respond(writer);
    }

    /// Before a request is carried out: the caller has taken what it was answered before, or that is little. False when
    /// it is gone or was given up.
    async fn has_room(&self) -> bool {
        self.writer.as_ref().is_none_or(|writer| writer.has_room(RESPONSES_BYTES_MAX)) || self.written().await
    }

    /// All that was said has been taken; false when the caller is gone or was given up.
    async fn written(&self) -> bool {
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

    /// After the last answer: what the peer still sends is read and thrown away for a moment, since closing over unread
    /// bytes resets the connection and may take the answer with it.
    async fn linger(&mut self) {
        self.written().await;
        net::shutdown_write(self.socket.fd());
        self.due_in(LINGER_MS);
        let mut left = LINGER_BYTES;
        loop {
            self.buffer.clear();
            if !self.read_more().await || left == 0 {
                return;
            }
            left = left.saturating_sub(self.buffer.len());
        }
    }
}

/// Most heads are shorter; longer ones make it grow.
const HEAD_BUFFER: usize = 1024;
const READ_ROOM: usize = 256;
/// Responses to requests that came in one piece go out in one piece, up to so many bytes.
const RESPONSES_BYTES_MAX: usize = 64 << 10;
const SPARE_KEPT: usize = 64 << 10;
const KEEP_ALIVE_MS: u64 = 75_000;
const BODY_TIMEOUT_MS: u64 = 30_000;
const LINGER_MS: u64 = 1_000;
const LINGER_BYTES: usize = 1 << 20;
