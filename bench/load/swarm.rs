//! One thread's connections: WebSocket clients and API connections on one epoll set, and the loop that turns them.
//!
//! What they are for is a scenario's `Play`; the swarm knows sockets, frames and HTTP answers only. It never blocks except
//! in `turn`, and never sends what its play did not ask for, but for pongs.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::api;
use crate::dialect::Dialect;
use crate::sys::{self, Epoll, now_ns};
use crate::ws;

/// What a scenario does when something happens. `who` is a client's index, `api` an API connection's.
pub trait Play {
    fn on_open(&mut self, _swarm: &mut Swarm, _who: u32) {}
    /// A whole message. Answers to the same client go into `swarm.out` and leave in one write.
    fn on_message(&mut self, swarm: &mut Swarm, who: u32, opcode: u8, payload: &[u8]);
    /// The HTTP answer on an API connection, which is free again.
    fn on_answer(&mut self, _swarm: &mut Swarm, _api: u32, _answer: api::Answer<'_>) {}
    /// The server ended the connection, with a close code if it sent one. A fault unless the play expects it.
    fn on_closed(&mut self, swarm: &mut Swarm, who: u32, code: Option<u16>) {
        swarm.faults.add(format!("client {who} was disconnected (close code {code:?})"));
    }
    /// Called once per turn; the time until which the swarm may sleep, if there is something to do at a time.
    fn on_turn(&mut self, _swarm: &mut Swarm, _now_ns: u64) -> Option<u64> {
        None
    }
}

/// Errors, counted; the first few are earlier in words.
#[derive(Debug, Default)]
pub struct Faults {
    pub count: u64,
    pub words: Vec<String>,
}

impl Faults {
    pub fn add(&mut self, what: String) {
        self.count += 1;
        if self.words.len() < 5 {
            self.words.push(what);
        }
    }
}

/// Notices that a number has stopped to change.
pub struct Progress {
    timeout_ns: u64,
    number: u64,
    since_ns: u64,
}

impl Progress {
    pub fn new(timeout_ns: u64) -> Progress {
        Progress { timeout_ns, number: u64::MAX, since_ns: 0 }
    }

    /// False when `number` has been the same for longer than the timeout.
    pub fn is_made(&mut self, number: u64) -> bool {
        let now = now_ns();
        if number != self.number {
            (self.number, self.since_ns) = (number, now);
        }
        now - self.since_ns < self.timeout_ns
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    Upgrading,
    /// Upgraded; what the dialect says first is not yet answered.
    Greeting,
    Open,
    /// Still connected, no longer read: a client that sleeps.
    Deaf,
    Closed,
}

struct Client {
    socket: Option<OwnedFd>,
    phase: Phase,
    /// Counts this client's connections, so that an event of an old socket is not taken for one of the new.
    life: u8,
    channels: Box<str>,
    /// The start of a frame whose rest has not come.
    rest: Vec<u8>,
    /// What the socket had no room for.
    unsent: Vec<u8>,
}

struct Api {
    socket: OwnedFd,
    busy: bool,
    rest: Vec<u8>,
}

pub struct Swarm {
    epoll: Epoll,
    port: u16,
    /// Where calls go.
    api_port: u16,
    dialect: Dialect,
    /// Who publishes, where that is not done by HTTP calls, and its calls that count as answered.
    publisher: Option<u32>,
    published: Vec<u32>,
    clients: Vec<Client>,
    apis: Vec<Api>,
    /// API connections without a call in flight.
    free_apis: VecDeque<u32>,
    read_buffer: Vec<u8>,
    request: Vec<u8>,
    /// Frames for the client whose message is being handled.
    pub out: Vec<u8>,
    pub open: usize,
    /// When the bytes being handled were read.
    pub read_at_ns: u64,
    /// Handshakes under way at once in `connect`.
    pub connecting_max: usize,
    /// How long `connect` waits when none is made.
    pub timeout_ns: u64,
    /// Numbers client names and source addresses across swarms.
    first: u32,
    pub faults: Faults,
}

impl Swarm {
    /// A swarm of clients of the server at `port`; its clients' names start at `first`.
    pub fn new(port: u16, first: u32, dialect: Dialect) -> io::Result<Swarm> {
        Ok(Swarm {
            epoll: Epoll::new()?,
            port,
            api_port: port,
            dialect,
            publisher: None,
            published: Vec::new(),
            clients: Vec::new(),
            apis: Vec::new(),
            free_apis: VecDeque::new(),
            read_buffer: vec![0; READ_BUFFER],
            request: Vec::new(),
            out: Vec::new(),
            open: 0,
            read_at_ns: 0,
            connecting_max: CONNECTING_MAX,
            timeout_ns: CONNECT_TIMEOUT_NS,
            first,
            faults: Faults::default(),
        })
    }

    /// Adds `count` clients, each with the channels that `channels` says, and returns when all are open.
    pub fn connect(
        &mut self,
        play: &mut impl Play,
        count: usize,
        channels: impl Fn(u32) -> String,
    ) -> Result<(), String> {
        let goal = self.clients.len() + count;
        let mut progress = Progress::new(self.timeout_ns);
        while self.open < goal {
            while self.clients.len() < goal && self.clients.len() - self.open < self.connecting_max {
                let channels = channels(self.clients.len() as u32);
                self.add_client(&channels).map_err(|error| format!("connect: {error}"))?;
            }
            self.turn(play, 10_000_000).map_err(|error| format!("epoll: {error}"))?;
            if self.faults.count > 0 || !progress.is_made(self.open as u64) {
                return Err(format!("{} of {goal} clients connected; {:?}", self.open, self.faults.words));
            }
        }
        Ok(())
    }

    /// Starts one more client; it is open when `on_open` says so.
    pub fn add_client(&mut self, channels: &str) -> io::Result<u32> {
        let who = self.clients.len() as u32;
        self.clients.push(Client {
            socket: None,
            phase: Phase::Closed,
            life: 0,
            channels: channels.into(),
            rest: Vec::new(),
            unsent: Vec::new(),
        });
        self.reconnect(who)?;
        Ok(who)
    }

    /// Connects client `who` (again), under the same name and with the same channels.
    pub fn reconnect(&mut self, who: u32) -> io::Result<()> {
        self.close(who);
        let socket = sys::connect(source(self.first + who), self.port)?;
        let client = &mut self.clients[who as usize];
        client.life = client.life.wrapping_add(1);
        client.phase = Phase::Connecting;
        self.epoll.add(socket.as_raw_fd(), CLIENT | u64::from(client.life) << 32 | u64::from(who))?;
        client.socket = Some(socket);
        Ok(())
    }

    /// Ends client `who`'s connection from our side (FIN), if it has one.
    pub fn close(&mut self, who: u32) {
        let client = &mut self.clients[who as usize];
        if client.socket.take().is_some() && matches!(client.phase, Phase::Open | Phase::Deaf) {
            self.open -= 1;
        }
        client.phase = Phase::Closed;
        client.rest = Vec::new();
        client.unsent = Vec::new();
    }

    /// From now on client `who` reads nothing.
    pub fn deafen(&mut self, who: u32) {
        self.clients[who as usize].phase = Phase::Deaf;
    }

    /// Calls go to this port, which may be another node's.
    pub fn call_at(&mut self, port: u16) {
        self.api_port = port;
    }

    /// Makes ready for `count` calls at a time, by as many API connections or, where messages are not published by HTTP,
    /// by one more client, whose calls count as answered at once.
    pub fn open_apis(&mut self, play: &mut impl Play, count: usize) -> Result<(), String> {
        if !self.dialect.publishes_by_http() && count > 0 {
            self.publisher = Some(self.clients.len() as u32);
            self.free_apis.extend(0..count as u32);
            return self.connect(play, 1, |_| String::new());
        }
        for index in self.apis.len()..self.apis.len() + count {
            let api = self.connect_api(index as u32).map_err(|error| format!("connect: {error}"))?;
            self.apis.push(api);
            self.free_apis.push_back(index as u32);
        }
        Ok(())
    }

    fn connect_api(&self, index: u32) -> io::Result<Api> {
        let socket = sys::connect(Ipv4Addr::LOCALHOST, self.api_port)?;
        self.epoll.add(socket.as_raw_fd(), u64::from(index))?;
        Ok(Api { socket, busy: false, rest: Vec::new() })
    }

    pub fn api_is_free(&self) -> bool {
        !self.free_apis.is_empty()
    }

    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The API connection that the next `call` takes.
    pub fn next_api(&self) -> Option<u32> {
        self.free_apis.front().copied()
    }

    /// Makes a call on a free API connection: `write` appends a whole HTTP request. `None` when all are busy.
    pub fn call(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Option<u32> {
        let index = self.free_apis.pop_front()?;
        self.request.clear();
        write(&mut self.request);
        if let Some(publisher) = self.publisher {
            let request = std::mem::take(&mut self.request);
            self.send_to(publisher, &request);
            self.request = request;
            self.published.push(index);
            return Some(index);
        }
        let api = &mut self.apis[index as usize];
        api.busy = true;
        match sys::send(api.socket.as_raw_fd(), &self.request) {
            Ok(sent) if sent == self.request.len() => {}
            other => self.faults.add(format!("an API request could not be written: {other:?}")),
        }
        Some(index)
    }

    /// Writes frames to client `who` at once; what finds no room waits for it.
    pub fn send_to(&mut self, who: u32, bytes: &[u8]) {
        let client = &mut self.clients[who as usize];
        let Some(socket) = &client.socket else { return };
        let mut sent = 0;
        if client.unsent.is_empty() {
            match sys::send(socket.as_raw_fd(), bytes) {
                Ok(count) => sent = count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The end of the connection is told by the read side, in order with what came before it.
                Err(_) => return,
            }
        }
        client.unsent.extend_from_slice(&bytes[sent..]);
    }

    /// Handles what has happened while nobody looked (pings, idle connections that the server has closed).
    pub fn catch_up(&mut self, play: &mut impl Play) -> io::Result<()> {
        while self.turn(play, 0)? > 0 {}
        Ok(())
    }

    /// Waits at most `timeout_ns` for events and handles them; how many there were.
    pub fn turn(&mut self, play: &mut impl Play, timeout_ns: u64) -> io::Result<usize> {
        while let Some(index) = self.published.pop() {
            self.free_apis.push_back(index);
            play.on_answer(self, index, api::Answer { status: 200, body: b"" });
        }
        let wake_at =
            play.on_turn(self, now_ns()).filter(|_| self.published.is_empty()).or(self.published.first().map(|_| 0));
        let until_wake = wake_at.map_or(u64::MAX, |at| at.saturating_sub(now_ns()));
        let count = self.epoll.wait(timeout_ns.min(until_wake))?;
        for index in 0..count {
            let event = self.epoll.event(index);
            let who = event.tag as u32;
            if event.tag & CLIENT == 0 {
                self.read_api(play, who);
            } else if self.clients[who as usize].life == (event.tag >> 32) as u8 {
                self.turn_client(play, who, event);
            }
        }
        Ok(count)
    }

    fn turn_client(&mut self, play: &mut impl Play, who: u32, event: sys::Event) {
        let client = &mut self.clients[who as usize];
        let Some(fd) = client.socket.as_ref().map(|socket| socket.as_raw_fd()) else { return };
        match client.phase {
            Phase::Connecting if event.ended => {
                let error = sys::socket_error(fd);
                self.faults.add(format!("client {who} could not connect: {error:?}"));
                self.close(who);
                return play.on_closed(self, who, None);
            }
            Phase::Connecting if event.writable => {
                client.phase = Phase::Upgrading;
                let request = self.dialect.upgrade_request(self.first + who, &client.channels);
                self.send_to(who, request.as_bytes());
            }
            // A deaf client hears of the end only when it looks; its socket is closed with the swarm.
            Phase::Deaf | Phase::Closed => return,
            _ if event.writable && !client.unsent.is_empty() => {
                let unsent = std::mem::take(&mut client.unsent);
                self.send_to(who, &unsent);
            }
            _ => {}
        }
        if event.readable {
            self.read_client(play, who, event.ended);
        }
    }

    /// Reads what there is (once, unless the buffer was filled or the peer has ended) and hands on whole messages.
    fn read_client(&mut self, play: &mut impl Play, who: u32, ended: bool) {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let life = self.clients[who as usize].life;
        self.read_at_ns = now_ns();
        loop {
            let client = &mut self.clients[who as usize];
            let Some(socket) = client.socket.as_ref().filter(|_| client.life == life) else { break };
            let earlier = client.rest.len();
            buffer[..earlier].copy_from_slice(&client.rest);
            client.rest.clear();
            match sys::recv(socket.as_raw_fd(), &mut buffer[earlier..]) {
                Ok(0) => {
                    self.close(who);
                    play.on_closed(self, who, None);
                    break;
                }
                Ok(count) => {
                    let full = earlier + count == buffer.len();
                    if let Err(what) = self.take_messages(play, who, &mut buffer[..earlier + count]) {
                        self.faults.add(format!("client {who}: {what}"));
                        self.close(who);
                        play.on_closed(self, who, None);
                        break;
                    }
                    if !full && !ended {
                        break;
                    }
                }
                Err(error) => {
                    self.clients[who as usize].rest.extend_from_slice(&buffer[..earlier]);
                    if error.kind() != ErrorKind::WouldBlock {
                        self.close(who);
                        play.on_closed(self, who, None);
                    }
                    break;
                }
            }
        }
        self.read_buffer = buffer;
    }

    /// Handles the whole messages in `bytes`, keeps the rest, and writes the answers in one go.
    fn take_messages(&mut self, play: &mut impl Play, who: u32, bytes: &mut [u8]) -> Result<(), String> {
        let mut at = 0;
        let life = self.clients[who as usize].life;
        if self.clients[who as usize].phase == Phase::Upgrading {
            let Some(end) = ws::upgrade_answer(bytes)? else { return self.keep(who, bytes) };
            at = end;
            self.clients[who as usize].phase = Phase::Greeting;
            let hello = self.dialect.hello(self.first + who, &self.clients[who as usize].channels);
            if hello.is_empty() {
                self.opened(play, who);
            } else {
                self.send_to(who, &hello);
            }
        }
        while self.is_reading(who, life) {
            let Some(frame) = ws::frame_at(bytes, at)? else { break };
            at = frame.payload.end;
            let payload = &bytes[frame.payload];
            match frame.opcode {
                ws::TEXT | ws::BINARY if self.clients[who as usize].phase == Phase::Greeting => {
                    if self.dialect.is_welcome(&self.clients[who as usize].channels, payload) {
                        self.opened(play, who);
                    }
                }
                ws::TEXT | ws::BINARY => play.on_message(self, who, frame.opcode, payload),
                ws::PING => ws::put_frame(&mut self.out, ws::PONG, &[payload]),
                ws::CLOSE => {
                    let code = payload.first_chunk().map(|&code| u16::from_be_bytes(code));
                    self.close(who);
                    self.out.clear();
                    play.on_closed(self, who, code);
                    return Ok(());
                }
                ws::PONG => {}
                other => return Err(format!("opcode {other}")),
            }
        }
        if !self.out.is_empty() {
            let out = std::mem::take(&mut self.out);
            self.send_to(who, &out);
            self.out = out;
            self.out.clear();
        }
        if self.clients[who as usize].life == life && at < bytes.len() {
            return self.keep(who, &bytes[at..]);
        }
        Ok(())
    }

    fn is_reading(&self, who: u32, life: u8) -> bool {
        let client = &self.clients[who as usize];
        client.life == life && matches!(client.phase, Phase::Greeting | Phase::Open)
    }

    fn opened(&mut self, play: &mut impl Play, who: u32) {
        self.clients[who as usize].phase = Phase::Open;
        self.open += 1;
        play.on_open(self, who);
    }

    fn keep(&mut self, who: u32, rest: &[u8]) -> Result<(), String> {
        if rest.len() > READ_BUFFER / 2 {
            return Err(format!("{} bytes without a whole message", rest.len()));
        }
        self.clients[who as usize].rest.extend_from_slice(rest);
        Ok(())
    }

    fn read_api(&mut self, play: &mut impl Play, index: u32) {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let api = &mut self.apis[index as usize];
        let earlier = api.rest.len();
        buffer[..earlier].copy_from_slice(&api.rest);
        api.rest.clear();
        self.read_at_ns = now_ns();
        match sys::recv(api.socket.as_raw_fd(), &mut buffer[earlier..]) {
            // Idle for too long: any HTTP server may, and every caller opens it again.
            Ok(0) if !api.busy => match self.connect_api(index) {
                Ok(api) => self.apis[index as usize] = api,
                Err(error) => self.faults.add(format!("API connection {index}: {error}")),
            },
            Ok(0) => self.faults.add(format!("the server closed API connection {index} instead of answering")),
            Ok(count) => match api::Answer::parse(&buffer[..earlier + count]) {
                Ok(None) => api.rest.extend_from_slice(&buffer[..earlier + count]),
                Ok(Some(answer)) if api.busy => {
                    api.busy = false;
                    self.free_apis.push_back(index);
                    play.on_answer(self, index, answer);
                }
                Ok(Some(_)) => self.faults.add("an answer to no API request".into()),
                Err(what) => self.faults.add(format!("API connection {index}: {what}")),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => api.rest.extend_from_slice(&buffer[..earlier]),
            Err(error) => self.faults.add(format!("API connection {index}: {error}")),
        }
        self.read_buffer = buffer;
    }
}

/// 127.0.0.2 … 127.0.0.251: one address alone has 28,000 ports, and the closing side holds each for a minute.
fn source(who: u32) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 2 + (who % 250) as u8)
}

/// In an event's tag: a client (else an API connection).
const CLIENT: u64 = 1 << 63;
const READ_BUFFER: usize = 256 << 10;
/// Below every backlog, so that no SYN is dropped and repeated a second later.
const CONNECTING_MAX: usize = 128;
const CONNECT_TIMEOUT_NS: u64 = 10_000_000_000;
