//! The rig of the tests: a backend and a pool with its driver.
//!
//! The backend runs in threads of its own and does what a closure says. The pool is driven as a worker drives it, by a
//! clock that jumps to the next deadline whenever no request waits for the network.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use crate::base::client::ClientContext;
use crate::base::limits::Limits;
use crate::base::time::Tick;
use crate::config::url::HttpUrl;
use crate::io::backend::resolver::Resolver;
use crate::io::backend::{Clocks, GiveUp, Hook, HookOutcome, HookRequest, Options, Pool, PoolParts, RequestTag, Retry};
use crate::metrics::backend::BackendMetrics;
use crate::policy::backend::{Failure, Verdict};

/// Runs a test's body as a worker thread runs its own.
pub fn on_ring<T>(body: impl Future<Output = T>) -> T {
    let runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().enable_timer().build();
    runtime.expect("a ring").block_on(body)
}

/// How one request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Answered { verdict: Verdict, status: u16, body: Vec<u8> },
    GaveUp(GiveUp),
}

pub fn ok(body: &str) -> End {
    End::Answered { verdict: Verdict::Success, status: 200, body: body.into() }
}

pub fn failed(failure: Failure) -> End {
    End::GaveUp(GiveUp::Failed(failure))
}

/// A pool and its surroundings.
pub struct Rig {
    pub pool: Pool,
    pub stats: Arc<BackendMetrics>,
    pub ended: Rc<RefCell<Vec<(u64, End)>>>,
    clock_us: Rc<Cell<u64>>,
    wakeup: Rc<Wakeup>,
}

#[derive(Default)]
struct Wakeup {
    is_woken: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Wakeup {
    fn wake(&self) {
        self.is_woken.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    async fn wait(&self) {
        poll_fn(|context| {
            if self.is_woken.take() {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Rig {
    pub fn new(options: Options) -> Rig {
        Rig::with(options, |_| Err(io::ErrorKind::NotFound.into()), |_, _| {})
    }

    /// `resolve` resolves names; `on_finished` is called with every request that has come back, and may submit.
    pub fn with(
        options: Options,
        resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
        on_finished: impl Fn(u64, &End) + 'static,
    ) -> Rig {
        let (stats, wakeup) = (Arc::new(BackendMetrics::default()), Rc::new(Wakeup::default()));
        let (ended, clock_us) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(1_000_000)));
        let (of_sink, of_alarm, of_clock) = (Rc::clone(&wakeup), Rc::clone(&wakeup), Rc::clone(&clock_us));
        let results = Rc::clone(&ended);
        let pool = Pool::new(PoolParts {
            options,
            stats: Arc::clone(&stats),
            resolver: Resolver::start_with(&Limits::DEFAULT, resolve).expect("a thread"),
            clocks: Clocks { monotonic_us: Box::new(move || of_clock.get()), unix_s: Box::new(|| 1_700_000_000) },
            seed: 11,
            sink: Rc::new(move |finished| {
                let end = match finished.outcome {
                    HookOutcome::Answered { verdict, head, body } => {
                        End::Answered { verdict, status: head.status, body: body.to_vec() }
                    }
                    HookOutcome::GaveUp { reason } => End::GaveUp(reason),
                };
                results.borrow_mut().push((finished.tag.0, end.clone()));
                on_finished(finished.tag.0, &end);
                of_sink.wake();
            }),
            alarm: Box::new(move |_| of_alarm.wake()),
        });
        Rig { pool, stats, ended, clock_us, wakeup }
    }

    pub fn now(&self) -> Tick {
        Tick(self.clock_us.get() / 1000)
    }

    pub fn submit(&self, request: HookRequest) {
        assert!(self.pool.submit(request).is_ok(), "there is room");
    }

    /// Lets time pass, and what is due then happen.
    pub fn advance(&self, ms: u64) {
        self.clock_us.set(self.clock_us.get() + ms * 1000);
        self.pool.poll_timers(self.now());
    }

    /// Turns as a worker turns, until `is_reached`; virtual time goes on while no request is out.
    pub async fn until(&self, what: &str, is_reached: impl Fn(&Rig) -> bool) {
        self.turn_until(what, true, is_reached).await;
    }

    /// The same while time stands still.
    pub async fn until_at_once(&self, what: &str, is_reached: impl Fn(&Rig) -> bool) {
        self.turn_until(what, false, is_reached).await;
    }

    async fn turn_until(&self, what: &str, time_passes: bool, is_reached: impl Fn(&Rig) -> bool) {
        let mut quiet_turns = 0;
        loop {
            self.pool.poll_timers(self.now());
            if is_reached(self) {
                return;
            }
            let next = self.pool.next_deadline();
            let is_waiting = self.pool.upstreams().iter().any(|upstream| upstream.outstanding > 0);
            if next <= self.now() || (time_passes && !is_waiting && next != Tick::NEVER) {
                self.clock_us.set(self.clock_us.get().max(next.0 * 1000));
                continue;
            }
            // A connection that ends quietly wakes nobody, so the wait is cut into short ones, and bounded as a whole.
            quiet_turns = match monoio::time::timeout(QUIET, self.wakeup.wait()).await {
                Ok(()) => 0,
                Err(_) => quiet_turns + 1,
            };
            assert!(quiet_turns < QUIET_TURNS_MAX, "never reached: {what}; ended so far: {:?}", self.ended.borrow());
        }
    }

    pub async fn until_ended(&self, count: usize) {
        self.until("all requests back", |rig| rig.ended.borrow().len() >= count).await;
        assert_eq!(self.ended.borrow().len(), count, "a request came back twice");
    }

    /// Submits one request and waits for its end.
    pub async fn run(&self, request: HookRequest) -> End {
        let (before, tag) = (self.ended.borrow().len(), request.tag.0);
        self.submit(request);
        self.until_ended(before + 1).await;
        let (ended, end) = self.ended.borrow()[before].clone();
        assert_eq!(ended, tag);
        end
    }
}

const QUIET: Duration = Duration::from_millis(2);
const QUIET_TURNS_MAX: u32 = 5000;

pub fn forward(tag: u64, retry: Retry) -> HookRequest {
    HookRequest {
        hook: Hook::Forward { message_type: 7 },
        tag: RequestTag(tag),
        retry,
        identity: [b'a'; 64],
        client: ClientContext::default(),
        idempotency_key: None,
        query: None,
        client_headers: None,
        headers: None,
        body: format!("message {tag}").into_bytes(),
    }
}

pub fn connect(tag: u64) -> HookRequest {
    HookRequest { hook: Hook::Connect, body: Vec::new(), ..forward(tag, Retry::Never) }
}

/// Long enough for any retry of a test that is not about deadlines.
pub const LATE: Retry = Retry::Until(Tick(3_600_000));

/// A business server on a free port of its own.
pub struct Backend {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    listener: TcpListener,
    is_over: Arc<AtomicBool>,
}

impl Backend {
    /// `serve` has a connection to itself, in a thread of its own, until it returns.
    pub fn start(serve: impl Fn(Connection) + Send + Sync + 'static) -> Backend {
        let backend = Backend::closed();
        backend.open(serve);
        backend
    }

    /// Holds a port at which connections are refused.
    pub fn closed() -> Backend {
        // SAFETY: takes numbers only.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0);
        // SAFETY: a descriptor that nobody else has.
        let listener = unsafe { TcpListener::from_raw_fd(fd) };
        let name = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets()) },
            sin_zero: [0; 8],
        };
        // SAFETY: the pointer and length are those of a live value.
        let bound = unsafe { libc::bind(fd, (&raw const name).cast(), size_of_val(&name) as libc::socklen_t) };
        assert_eq!(bound, 0);
        let address = listener.local_addr().expect("bound");
        Backend { address, connections: Arc::default(), listener, is_over: Arc::default() }
    }

    /// Begins to accept.
    pub fn open(&self, serve: impl Fn(Connection) + Send + Sync + 'static) {
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::listen(self.listener.as_raw_fd(), 1024) }, 0);
        let (listener, serve) = (self.listener.try_clone().expect("a descriptor"), Arc::new(serve));
        let (connections, is_over) = (Arc::clone(&self.connections), Arc::clone(&self.is_over));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let index = connections.fetch_add(1, Ordering::SeqCst);
                let (stream, serve) = (stream.expect("accepted"), Arc::clone(&serve));
                stream.set_read_timeout(Some(Duration::from_secs(20))).expect("bounded");
                thread::spawn(move || serve(Connection { stream, index, unread: Vec::new() }));
            }
        });
    }

    pub fn url(&self, path: &str) -> HttpUrl {
        url_at("127.0.0.1", self.address.port(), path)
    }

    /// For one backend on all hooks.
    pub fn options(&self) -> Options {
        Options {
            connect_urls: vec![self.url("/connect/")],
            forward_urls: vec![self.url("/m/{message_type}/")],
            close_urls: vec![self.url("/close/")],
            ..Options::default()
        }
    }

    pub fn connection_count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, if there is one, so that it ends.
        drop(TcpStream::connect(self.address));
    }
}

pub fn url_at(host: &str, port: u16, path: &str) -> HttpUrl {
    HttpUrl::parse(&format!("http://{host}:{port}{path}")).expect("a URL")
}

/// One accepted connection, as its thread sees it.
pub struct Connection {
    pub stream: TcpStream,
    /// 0-based, in the order of acceptance.
    pub index: usize,
    unread: Vec<u8>,
}

pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
}

impl Connection {
    /// The next request; `None` when the pool has closed.
    pub fn request(&mut self) -> Option<Request> {
        let head_len = loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.read_more()?;
        };
        let head = String::from_utf8(self.unread.drain(..head_len).collect()).expect("ASCII");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
        while self.unread.len() < length {
            self.read_more()?;
        }
        Some(Request { head, body: self.unread.drain(..length).collect() })
    }

    fn read_more(&mut self) -> Option<()> {
        let mut piece = [0; 65536];
        match self.stream.read(&mut piece) {
            Ok(0) | Err(_) => None,
            Ok(len) => {
                self.unread.extend_from_slice(&piece[..len]);
                Some(())
            }
        }
    }

    /// Whether it all went out.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub fn respond(&mut self, status: u16, body: &[u8]) -> bool {
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
        self.send(&[head.as_bytes(), body].concat())
    }

    /// Answers every request with its own body.
    pub fn echo(mut self) {
        while let Some(request) = self.request() {
            if !self.respond(200, &request.body) {
                return;
            }
        }
    }

    /// Waits for the pool to close.
    pub fn wait_for_end(mut self) {
        while self.read_more().is_some() {}
    }
}

/// A channel from the test to a backend's thread, for "go on".
pub fn signal() -> (mpsc::Sender<()>, Arc<std::sync::Mutex<mpsc::Receiver<()>>>) {
    let (sender, receiver) = mpsc::channel();
    (sender, Arc::new(std::sync::Mutex::new(receiver)))
}
