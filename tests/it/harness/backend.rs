//! A business server that does as it is told: a closure per hook, every request recorded, stopped and started again at will.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::TIMEOUT;
use super::http::{Wire, find, unpercent};
use super::ports::{Port, free_port};

/// A running (or stopped) business server.
pub struct Backend {
    port: Port,
    state: Arc<State>,
    running: Option<Running>,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Without the `?`.
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Which TCP connection it came on.
    pub connection: u64,
}

/// What is answered.
#[derive(Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    shape: Shape,
}

#[derive(Clone)]
enum Shape {
    Length,
    Chunked,
    /// HTTP/1.0 without a length, ended by the end of the stream, as Django's development server did.
    UntilClose,
    /// The body is the whole answer, byte for byte; then the connection is closed.
    Raw,
    Reset,
    /// Nothing is answered; the connection stays open until the other side gives up.
    Hang,
    /// A head that promises a body, and a body that never ends.
    Endless,
}

/// Requests wait at a closed gate; opening it lets all of them, and all later ones, through.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

type Hook = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

struct State {
    hooks: Mutex<Vec<(String, Hook)>>,
    seen: Mutex<Vec<Request>>,
    arrived: Condvar,
    recording: AtomicBool,
    connections: AtomicU64,
}

struct Running {
    stopping: Arc<AtomicBool>,
    streams: Arc<Mutex<HashMap<u64, TcpStream>>>,
    accepting: JoinHandle<()>,
}

impl Backend {
    /// Lets everybody in, answers a message with `re:` and its body.
    pub fn start() -> Backend {
        Backend::start_on(free_port())
    }

    pub fn start_on(port: Port) -> Backend {
        let state = State {
            hooks: Mutex::new(Vec::new()),
            seen: Mutex::new(Vec::new()),
            arrived: Condvar::new(),
            recording: AtomicBool::new(true),
            connections: AtomicU64::new(0),
        };
        let mut backend = Backend { port, state: Arc::new(state), running: None };
        backend.on_connect(|_| Reply::welcome());
        backend.on_message(|request| Reply::ok([b"re:", &request.body[..]].concat()));
        backend.on_close(|_| Reply::ok("ok"));
        backend.restart();
        backend
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port.number)
    }

    pub fn port(&self) -> u16 {
        self.port.number
    }

    pub fn on_connect(&self, hook: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        self.on("/connect", hook);
    }

    pub fn on_message(&self, hook: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        self.on("/message", hook);
    }

    pub fn on_close(&self, hook: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        self.on("/close", hook);
    }

    /// Replaces what is answered under a path.
    pub fn on(&self, prefix: &str, hook: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        let mut hooks = self.state.hooks.lock().unwrap();
        hooks.retain(|(p, _)| p != prefix);
        hooks.push((prefix.into(), Arc::new(hook)));
    }

    /// Keeps no record of requests, for tests that measure.
    pub fn forgetful(&self) {
        self.state.recording.store(false, Ordering::Relaxed);
    }

    /// Closes the listener and every connection; answers under way are lost.
    pub fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.stopping.store(true, Ordering::SeqCst);
        for (_, stream) in running.streams.lock().unwrap().drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the accepting thread, which then sees that it is to stop.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number));
        let _ = running.accepting.join();
        for (_, stream) in running.streams.lock().unwrap().drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Listens on the same port again.
    pub fn restart(&mut self) {
        assert!(self.running.is_none(), "it runs");
        // Programs that know nothing of our reservations try ports, too, and let them go again.
        let listener =
            super::eventually("the port is ours", || TcpListener::bind((Ipv4Addr::LOCALHOST, self.port.number)).ok());
        let stopping = Arc::new(AtomicBool::new(false));
        let streams = Arc::new(Mutex::new(HashMap::new()));
        let accepting = std::thread::spawn({
            let (state, stopping, streams) = (self.state.clone(), stopping.clone(), streams.clone());
            move || accept(&listener, &state, &stopping, &streams)
        });
        self.running = Some(Running { stopping, streams, accepting });
    }

    pub fn seen(&self) -> Vec<Request> {
        self.state.seen.lock().unwrap().clone()
    }

    pub fn seen_under(&self, prefix: &str) -> Vec<Request> {
        self.seen().into_iter().filter(|r| r.path.starts_with(prefix)).collect()
    }

    pub fn messages(&self) -> Vec<Request> {
        self.seen_under("/message")
    }

    pub fn closes(&self) -> Vec<Request> {
        self.seen_under("/close")
    }

    pub fn connects(&self) -> Vec<Request> {
        self.seen_under("/connect")
    }

    /// Waits until `count` requests under `prefix` have come, and returns them.
    pub fn wait_under(&self, prefix: &str, count: usize) -> Vec<Request> {
        self.wait(prefix, count, |r| r.path.starts_with(prefix))
    }

    pub fn wait(&self, what: &str, count: usize, wanted: impl Fn(&Request) -> bool) -> Vec<Request> {
        let deadline = Instant::now() + TIMEOUT;
        let mut seen = self.state.seen.lock().unwrap();
        loop {
            let found: Vec<_> = seen.iter().filter(|r| wanted(r)).cloned().collect();
            if found.len() >= count {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let all: Vec<_> = seen.iter().map(|r| format!("{} {}", r.method, r.path)).collect();
                drop(seen);
                panic!("{} of {count} requests to {what} in {TIMEOUT:?}; seen: {all:?}", found.len());
            }
            seen = self.state.arrived.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// The identity that the last connection of this device was given.
    pub fn identity_of(&self, device: &str) -> String {
        let found = self.wait(device, 1, |r| r.path.starts_with("/connect") && r.header("x-deviceid") == Some(device));
        found.last().and_then(Request::identity).expect("connect names the identity").to_owned()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn has_header(&self, name: &str) -> bool {
        self.header(name).is_some()
    }

    pub fn identity(&self) -> Option<&str> {
        self.header("RAINBOWCLIENTIDENTITY")
    }

    pub fn cookie(&self) -> Option<&str> {
        self.header("RAINBOWCLIENTCOOKIE")
    }

    /// A parameter of the query, decoded.
    pub fn param(&self, name: &str) -> Option<String> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| unpercent(key) == name)
            .map(|(_, value)| unpercent(value))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Reply {
    pub fn ok(body: impl AsRef<[u8]>) -> Reply {
        Reply::status(200, body)
    }

    /// The connect answer that lets a client in.
    pub fn welcome() -> Reply {
        Reply::ok(r#"{"status": "success"}"#).header("Content-Type", "application/json")
    }

    pub fn status(status: u16, body: impl AsRef<[u8]>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.as_ref().to_vec(), shape: Shape::Length }
    }

    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn chunked(mut self) -> Reply {
        self.shape = Shape::Chunked;
        self
    }

    pub fn until_close(mut self) -> Reply {
        self.shape = Shape::UntilClose;
        self
    }

    pub fn endless() -> Reply {
        Reply { shape: Shape::Endless, ..Reply::ok("") }
    }

    pub fn raw(bytes: impl AsRef<[u8]>) -> Reply {
        Reply { shape: Shape::Raw, ..Reply::ok(bytes) }
    }

    pub fn reset() -> Reply {
        Reply { shape: Shape::Reset, ..Reply::ok("") }
    }

    pub fn hang() -> Reply {
        Reply { shape: Shape::Hang, ..Reply::ok("") }
    }

    /// Writes it; false when the connection is not to be used again.
    fn write(self, wire: &mut Wire) -> io::Result<bool> {
        let version = if matches!(self.shape, Shape::UntilClose) { "HTTP/1.0" } else { "HTTP/1.1" };
        let mut head = format!("{version} {} Said\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let stream = &mut wire.stream;
        match self.shape {
            Shape::Length => {
                head += &format!("Content-Length: {}\r\n\r\n", self.body.len());
                stream.write_all(&[head.as_bytes(), &self.body].concat())?;
                Ok(true)
            }
            Shape::Chunked => {
                head += "Transfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes())?;
                // Pieces of odd sizes, each in a write of its own.
                for piece in self.body.chunks(self.body.len() / 3 + 1) {
                    stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
                    stream.write_all(&[piece, b"\r\n"].concat())?;
                }
                stream.write_all(b"0\r\n\r\n")?;
                Ok(true)
            }
            Shape::UntilClose => {
                stream.write_all(&[head.as_bytes(), b"\r\n", &self.body].concat())?;
                Ok(false)
            }
            Shape::Raw => {
                stream.write_all(&self.body)?;
                Ok(false)
            }
            // The last byte of the request is unread, so the kernel resets the connection when it is dropped.
            Shape::Reset => unreachable!("a reset writes nothing"),
            Shape::Hang => {
                wire.ends_before(Instant::now() + HANG_MAX);
                Ok(false)
            }
            Shape::Endless => {
                head += "Content-Length: 2147483648\r\n\r\n";
                stream.write_all(head.as_bytes())?;
                let block = vec![b'x'; 64 * 1024];
                for _ in 0..2_147_483_648 / block.len() {
                    stream.write_all(&block)?;
                }
                Ok(false)
            }
        }
    }
}

impl Gate {
    pub fn new() -> Gate {
        Gate::default()
    }

    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open; a test that forgets to open it goes on after a while.
    pub fn pass(&self) {
        let open = self.0.0.lock().unwrap();
        let _ = self.0.1.wait_timeout_while(open, HANG_MAX, |open| !*open).unwrap();
    }
}

fn accept(
    listener: &TcpListener,
    state: &Arc<State>,
    stopping: &Arc<AtomicBool>,
    streams: &Arc<Mutex<HashMap<u64, TcpStream>>>,
) {
    for stream in listener.incoming() {
        if stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let connection = state.connections.fetch_add(1, Ordering::Relaxed);
        streams.lock().unwrap().insert(connection, stream.try_clone().expect("a descriptor is left"));
        let (state, stopping, streams) = (state.clone(), stopping.clone(), streams.clone());
        std::thread::spawn(move || {
            let mut wire = Wire::new(stream);
            // An error here is the other side's end, or our own stop.
            while let Ok(Some(request)) = read_request(&mut wire, connection) {
                if stopping.load(Ordering::SeqCst) || !serve(&state, request, &mut wire).unwrap_or(false) {
                    break;
                }
            }
            streams.lock().unwrap().remove(&connection);
        });
    }
}

fn serve(state: &State, request: Request, wire: &mut Wire) -> io::Result<bool> {
    let hooks = state.hooks.lock().unwrap();
    let hook = hooks.iter().find(|(prefix, _)| request.path.starts_with(prefix)).map(|(_, hook)| hook.clone());
    drop(hooks);
    if state.recording.load(Ordering::Relaxed) {
        state.seen.lock().unwrap().push(request.clone());
        state.arrived.notify_all();
    }
    let last = request.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    let reply = hook.map_or_else(|| Reply::status(404, "no such hook"), |hook| hook(&request));
    if matches!(reply.shape, Shape::Reset) {
        return Ok(false);
    }
    wire.take_spared()?;
    let stays_open = reply.write(wire)? && !last;
    if !stays_open {
        let _ = wire.stream.shutdown(Shutdown::Both);
    }
    Ok(stays_open)
}

/// None at the end of the stream. The request's last byte stays in the kernel, see [`Wire::take_spared`].
pub fn read_request(wire: &mut Wire, connection: u64) -> io::Result<Option<Request>> {
    while wire.spared.is_none() {
        if wire.fill_sparing(whole_len)? == 0 {
            return Ok(None);
        }
    }
    let mut bytes = std::mem::take(&mut wire.buffer);
    bytes.extend(wire.spared);
    let head_len = find(&bytes, b"\r\n\r\n").expect("a whole request") + 4;
    let head = String::from_utf8_lossy(&bytes[..head_len]).into_owned();
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    let body = bytes.split_off(head_len);
    Ok(Some(Request { method, path: path.into(), query: query.into(), headers, body, connection }))
}

/// How long the request that begins so is, head and body; None while its head is incomplete.
fn whole_len(bytes: &[u8]) -> Option<usize> {
    let head_len = find(bytes, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_len]).to_ascii_lowercase();
    let length = head.split("\r\n").filter_map(|line| line.split_once(':')).find(|(name, _)| *name == "content-length");
    Some(head_len + length.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0))
}

/// Nothing waits longer than a test may.
const HANG_MAX: Duration = Duration::from_secs(20);
