//! Starts the workers, keeps their configuration, drains and stops them.
//!
//! The main thread lives here. It waits for signals and for what workers report, and is never busy for long.

use crate::base::id::ShardId;
use crate::base::limits::Limits;
use crate::config::{Config, Reload};
use crate::io::backend::resolver::Resolver;
use crate::io::handover::channel::HandoverChannels;
use crate::io::runtime::clock;
pub use crate::io::runtime::events::block_signals;
use crate::io::runtime::events::{self, Event, EventReceiver, Until};
use crate::io::runtime::mailbox::{MailboxReceiver, mailbox};
use crate::io::runtime::net;
use crate::io::runtime::oneshot::ReturnAddress;
use crate::io::runtime::sys;
use crate::io::store::thread::{self as io_store, StoreThread};
use crate::io::worker::message::PeerMessage;
use crate::io::worker::shared::{Shared, SharedSetup};
pub use crate::shard::Mode;
use crate::shard::command::StoredSession;
use crate::shard::session_owner;
/// For tests: see `store::crash`.
pub use crate::store::crash::arm as crash_at;
use crate::store::{self, OpenError, Opened, Store};
use crate::worker::{self, WorkerStart};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tracing::{error, info, warn};

/// Reads the configuration again, as it was read at the start.
pub type Reread = Box<dyn FnMut() -> Result<Config, String>>;

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    events: EventReceiver,
    workers: Vec<JoinHandle<()>>,
    store: Option<StoreThread>,
    reread: Reread,
    /// A signal to end came while the workers were starting.
    ended_early: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{key} = {address}: {error}. Is another server running there? Choose another with -p or {key}.")]
    Listen { key: &'static str, address: SocketAddr, error: io::Error },
    #[error("no free port from {first} to {last}; name one with -p or http_port")]
    NoPort { first: u16, last: u16 },
    #[error("CPU {cpu} is not among those that this process may use: {allowed:?} (see --cores, taskset, cgroups)")]
    Cpu { cpu: usize, allowed: Vec<usize> },
    #[error("the store: {0}")]
    Store(#[from] OpenError),
    #[error("{0}")]
    Worker(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Server {
    /// Returns when every worker listens. Signals must have been blocked (`block_signals`) before any thread was
    /// started.
    pub fn start(config: Config, mode: Mode, reread: Reread) -> Result<Server, StartError> {
        sys::forgo_huge_pages();
        sys::raise_descriptor_limit();
        let listen = find_address(&config)?;
        if let Some(address) = config.admin_listen {
            claim(address).map_err(|error| StartError::Listen { key: "admin_listen", address, error })?;
        }
        let cpus = cpus(&config)?;
        let limits = Limits::default();
        let mut mailboxes = Vec::new();
        let mut receivers = Vec::new();
        for _ in &cpus {
            let (sender, receiver) = mailbox(limits.mailbox_messages_max)?;
            mailboxes.push(sender);
            receivers.push(receiver);
        }
        let options = store::Options::new(&config);
        let hands_over = options.is_some() && cpus.len() > 1;
        let handovers = hands_over.then(|| HandoverChannels::new(cpus.len())).transpose()?;
        let inherited = sys::open_descriptors()?;
        let opened = options.map(|options| Store::open(&options, clock::unix_ms())).transpose()?;
        let (sender, events) = events::events(limits.events_max);
        let (workers, now) = (cpus.len(), clock::monotonic());
        let setup = SharedSetup { config, mailboxes, handovers, events: sender, listen, inherited, cpus, now };
        let shared = Arc::new(Shared::new(setup, &limits));
        let resolver = Resolver::start(&limits)?;
        let (store, sessions) = match opened {
            Some((store, Opened { sessions })) => (Some(start_store(&shared, store, &limits)?), sessions),
            None => (None, Vec::new()),
        };
        let threads = start_workers(&shared, WorkersStart { receivers, resolver, sessions, mode, limits })?;
        events::watch_signals(shared.events().clone())?;
        let mut server = Server { shared, events, workers: threads, store, reread, ended_early: false };
        server.wait_until_ready()?;
        info!(listen = %listen, workers, "listening");
        Ok(server)
    }

    pub fn listen(&self) -> SocketAddr {
        self.shared.listen()
    }

    pub fn config(&self) -> Arc<Config> {
        self.shared.config()
    }

    fn wait_until_ready(&mut self) -> Result<(), StartError> {
        let end = Until::after(START_TIMEOUT);
        let mut starting = self.workers.len();
        while starting > 0 {
            match self.events.wait_until(end) {
                Some(Event::Ready(Ok(()))) => starting -= 1,
                Some(Event::Ready(Err(error))) => return Err(StartError::Worker(error)),
                Some(Event::Terminate) => self.ended_early = true,
                // What is read at the end of the start is new enough.
                Some(Event::Reload(_)) => {}
                Some(Event::StoreFailed) => return Err(StartError::Worker("the store's thread has panicked".into())),
                Some(Event::WorkerEnded(_)) | None => {
                    return Err(StartError::Worker("a worker did not start".into()));
                }
            }
        }
        Ok(())
    }

    /// Serves until SIGTERM or SIGINT, then drains. True when every worker has ended by itself within
    /// `shutdown_timeout`.
    pub fn run(mut self) -> bool {
        while !self.ended_early {
            match self.events.wait() {
                Event::Reload(caller) => self.reload(caller),
                Event::Terminate => break,
                Event::WorkerEnded(worker) => {
                    error!(worker = worker.0, "a worker has stopped; the server ends, so that it can be started anew");
                    return false;
                }
                Event::StoreFailed => {
                    error!("the store's thread has panicked; the server ends, so that it can be started anew");
                    return false;
                }
                Event::Ready(_) => {}
            }
        }
        self.drain()
    }

    fn drain(self) -> bool {
        info!("draining: no new connections, clients are told to go elsewhere");
        self.shared.start_draining();
        for mailbox in self.shared.mailboxes().iter() {
            // A full mailbox is emptied by its worker.
            let mut drain = PeerMessage::Drain;
            while let Err(back) = mailbox.try_send(drain) {
                drain = back;
                thread::sleep(Duration::from_millis(1));
            }
        }
        let end = Until::after(self.shared.config().shutdown_timeout);
        let mut left = self.workers.len();
        while left > 0 {
            match self.events.wait_until(end) {
                Some(Event::WorkerEnded(_)) => left -= 1,
                Some(Event::Terminate) => {
                    warn!("told twice: ending at once");
                    return false;
                }
                Some(Event::StoreFailed) => return false,
                Some(_) => {}
                None => return false,
            }
        }
        self.workers.into_iter().for_each(|worker| drop(worker.join()));
        // Last of all: it has to take what the workers sent at their end.
        if let Some(store) = self.store {
            store.stop();
        }
        info!("ended");
        true
    }

    /// All or nothing: a configuration with an error changes nothing.
    fn reload(&mut self, caller: Option<ReturnAddress>) {
        let outcome = (self.reread)().map(|new| {
            let reload = Reload::of(&self.shared.config(), new);
            let config = Arc::new(reload.config);
            self.shared.set_config(config.clone());
            if let Some(store) = self.shared.store() {
                store.reload(&config.store);
            }
            for mailbox in self.shared.mailboxes().iter() {
                if mailbox.try_send(PeerMessage::Reload(config.clone())).is_err() {
                    warn!("a worker's mailbox is full: reload again");
                }
            }
            reload_report(&reload.changed, &reload.needs_restart)
        });
        match &outcome {
            Ok(report) => info!("{report}"),
            Err(errors) => error!("the configuration was not changed:\n{errors}"),
        }
        if let Some(caller) = caller {
            // When the mailbox is full, the call ends at its deadline.
            let reloaded = PeerMessage::Reloaded { oneshot: caller.oneshot(), outcome };
            let _ = self.shared.mailbox(caller.worker()).try_send(reloaded);
        }
    }
}

fn reload_report(changed: &[&str], needs_restart: &[&str]) -> String {
    let mut report = match changed {
        [] => String::from("configuration reread: nothing changed"),
        changed => format!("configuration reread: changed {}", changed.join(", ")),
    };
    if !needs_restart.is_empty() {
        report += &format!("; kept until a restart: {}", needs_restart.join(", "));
    }
    report
}

fn start_store(shared: &Arc<Shared>, store: Store, limits: &Limits) -> io::Result<StoreThread> {
    let metrics = shared.metrics().store().expect("a store has metrics").clone();
    let (thread, sender) = io_store::start(store, &shared.config().store, limits, shared.report_sinks(), metrics)?;
    shared.set_store(sender);
    Ok(thread)
}

/// What the workers start with.
struct WorkersStart {
    receivers: Vec<MailboxReceiver<PeerMessage>>,
    resolver: Resolver,
    sessions: Vec<StoredSession>,
    mode: Mode,
    limits: Limits,
}

fn start_workers(shared: &Arc<Shared>, start: WorkersStart) -> io::Result<Vec<JoinHandle<()>>> {
    let WorkersStart { receivers, resolver, sessions, mode, limits } = start;
    let config = shared.config();
    let mut owned: Vec<Vec<StoredSession>> = receivers.iter().map(|_| Vec::new()).collect();
    for session in sessions {
        owned[usize::from(session_owner(&session.row.name, receivers.len()).0)].push(session);
    }
    let mut workers = Vec::new();
    for ((n, mailbox), sessions) in receivers.into_iter().enumerate().zip(owned) {
        let id = ShardId(n as u16);
        let start = WorkerStart {
            id,
            shared: shared.clone(),
            mailbox,
            resolver: resolver.clone(),
            sessions,
            cpu: shared.cpu(id),
            listen: shared.listen(),
            admin_listen: config.admin_listen,
            mode,
            limits: limits.clone(),
        };
        let name = format!("rainbow-{n}");
        workers.push(thread::Builder::new().name(name).spawn(move || worker::run(start))?);
    }
    Ok(workers)
}

/// Per worker, the CPU to pin it to. More workers than CPUs share them in turn; workers are pinned only when CPUs were
/// named, or when there is one worker per CPU.
fn cpus(config: &Config) -> Result<Vec<Option<usize>>, StartError> {
    let allowed = sys::allowed_cores();
    if let Some(&cpu) = config.cores.iter().find(|cpu| !allowed.contains(cpu)) {
        return Err(StartError::Cpu { cpu, allowed });
    }
    let chosen: Vec<usize> = if config.cores.is_empty() { allowed } else { config.cores.iter().copied().collect() };
    let workers = if config.workers == 0 { chosen.len() } else { config.workers };
    Ok((0..workers).map(|n| Some(chosen[n % chosen.len()])).collect())
}

/// The configured port, or without one the first free of 1984–2003.
fn find_address(config: &Config) -> Result<SocketAddr, StartError> {
    if let Some(port) = config.http_port {
        let address = SocketAddr::new(config.listen, port);
        return claim(address).map_err(|error| StartError::Listen { key: "http_port", address, error });
    }
    let ports = Config::AUTO_PORTS;
    let free = ports.clone().find_map(|port| probe(SocketAddr::new(config.listen, port)).ok());
    free.ok_or(StartError::NoPort { first: *ports.start(), last: *ports.end() })
}

/// A server that was killed keeps its port for some milliseconds, until the kernel has taken its rings apart: whoever
/// restarts it at once must not be told that the port is taken.
fn claim(address: SocketAddr) -> io::Result<SocketAddr> {
    let end = clock::monotonic() + PORT_RETRY_MS;
    loop {
        match probe(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && clock::monotonic() < end => {
                thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome,
        }
    }
}

/// Fails when somebody listens there already, which SO_REUSEPORT alone would not notice. Port 0 becomes a free one.
fn probe(address: SocketAddr) -> io::Result<SocketAddr> {
    let probe: TcpListener = net::listen(address, false)?;
    probe.local_addr()
}

const PORT_RETRY_MS: u64 = 1_000;
const START_TIMEOUT: Duration = Duration::from_secs(30);
