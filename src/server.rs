//! Starts the workers, keeps their configuration, drains and stops them. The main thread lives here, waiting for
//! signals and for what workers report.

use crate::base::id::ShardId;
use crate::config::Config;
pub use crate::io::events::block_signals;
use crate::io::events::{self, Event, EventReceiver, Over};
use crate::io::mailbox::{MailReceiver, mailbox};
use crate::io::moves::Moves;
use crate::io::repeats::Repeats;
use crate::io::resolve::Resolver;
use crate::io::shared::{Mail, Presence, Shared};
use crate::io::shelf::Shelf;
use crate::io::store::{self as io_store, StoreThread};
use crate::io::{clock, sys};
use crate::metrics::process::Metrics;
use crate::policy::admission::Admission;
pub use crate::shard::Mode;
use crate::shard::command::StoredSession;
use crate::shard::session_owner;
/// For tests: see `store::crash`.
pub use crate::store::crash::arm as crash_at;
use crate::store::{self, OpenError, Opened, Store};
use crate::worker::{self, Start};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock, PoisonError};
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
    #[error("CPU {core} is not among those that this process may use: {allowed:?} (see --cores, taskset, cgroups)")]
    Core { core: usize, allowed: Vec<usize> },
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
        let mut mail = Vec::new();
        let mut receivers = Vec::new();
        for _ in &cpus {
            let (sender, receiver) = mailbox()?;
            mail.push(sender);
            receivers.push(receiver);
        }
        let options = store::Options::new(&config);
        let moves = if options.is_some() && cpus.len() > 1 { Some(Moves::new(cpus.len())?) } else { None };
        let inherited = sys::open_descriptors()?;
        let opened = options.map(|options| Store::open(&options, clock::unix_ms())).transpose()?;
        let (sender, events) = events::events();
        let now = clock::monotonic();
        let metrics = Metrics::new(cpus.len(), opened.is_some());
        let shared = Arc::new(Shared {
            admission: Arc::new(Admission::new(metrics.admission().clone())),
            presence: Presence::new(cpus.len()),
            mail,
            moves,
            repeats: Repeats::default(),
            store: OnceLock::new(),
            shelves: cpus.iter().map(|_| Shelf::default()).collect(),
            restored: Barrier::new(cpus.len()),
            metrics,
            config: Mutex::new(Arc::new(config)),
            draining: AtomicBool::new(false),
            events: sender,
            beats: cpus.iter().map(|_| AtomicU64::new(now.0)).collect(),
            listen,
            inherited,
            cores: cpus.clone(),
            started: now,
        });
        let resolver = Resolver::start()?;
        let (store, sessions) = match opened {
            Some((store, Opened { sessions })) => (Some(start_store(&shared, store)?), sessions),
            None => (None, Vec::new()),
        };
        let workers = start_workers(&shared, Beginning { receivers, resolver, sessions, mode })?;
        events::watch_signals(shared.events.clone())?;
        let mut server = Server { shared, events, workers, store, reread, ended_early: false };
        server.wait_until_ready()?;
        info!(listen = %listen, workers = cpus.len(), "listening");
        Ok(server)
    }

    pub fn listen(&self) -> SocketAddr {
        self.shared.listen
    }

    pub fn config(&self) -> Arc<Config> {
        self.shared.config()
    }

    fn wait_until_ready(&mut self) -> Result<(), StartError> {
        let over = Over::after(START_TIMEOUT);
        let mut starting = self.workers.len();
        while starting > 0 {
            match self.events.wait_until(over) {
                Some(Event::Ready(Ok(()))) => starting -= 1,
                Some(Event::Ready(Err(error))) => return Err(StartError::Worker(error)),
                Some(Event::Terminate) => self.ended_early = true,
                // What is read at the end of the start is new enough.
                Some(Event::Reload(_)) => {}
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
                Event::Reload(from) => self.reload(from),
                Event::Terminate => break,
                Event::WorkerEnded(worker) => {
                    error!(worker = worker.0, "a worker has stopped; the server ends, so that it can be started anew");
                    return false;
                }
                Event::Ready(_) => {}
            }
        }
        self.drain()
    }

    fn drain(self) -> bool {
        info!("draining: no new connections, clients are told to go elsewhere");
        self.shared.draining.store(true, Ordering::Relaxed);
        for mail in &self.shared.mail {
            // A full box is emptied by its worker.
            let mut drain = Mail::Drain;
            while let Err(back) = mail.try_send(drain) {
                drain = back;
                thread::sleep(Duration::from_millis(1));
            }
        }
        let over = Over::after(self.shared.config().shutdown_timeout);
        let mut left = self.workers.len();
        while left > 0 {
            match self.events.wait_until(over) {
                Some(Event::WorkerEnded(_)) => left -= 1,
                Some(Event::Terminate) => {
                    warn!("told twice: ending at once");
                    return false;
                }
                Some(_) => {}
                None => return false,
            }
        }
        self.workers.into_iter().for_each(|worker| drop(worker.join()));
        // Last of all: what the workers have said at their end is still for it.
        if let Some(store) = self.store {
            store.stop();
        }
        info!("ended");
        true
    }

    /// All or nothing: a configuration with an error changes nothing.
    fn reload(&mut self, from: Option<(ShardId, u64)>) {
        let outcome = (self.reread)().map(|new| {
            let reload = self.shared.config().reload(new);
            let config = Arc::new(reload.config);
            *self.shared.config.lock().unwrap_or_else(PoisonError::into_inner) = config.clone();
            if let Some(store) = self.shared.store.get() {
                store.reload(&config.store);
            }
            for mail in &self.shared.mail {
                if mail.try_send(Mail::Reload(config.clone())).is_err() {
                    warn!("a worker's mailbox is full: reload again");
                }
            }
            said(&reload.changed, &reload.needs_restart)
        });
        match &outcome {
            Ok(said) => info!("{said}"),
            Err(errors) => error!("the configuration was not changed:\n{errors}"),
        }
        if let Some((worker, ticket)) = from {
            let _ = self.shared.mail[usize::from(worker.0)].try_send(Mail::Reloaded { ticket, outcome });
        }
    }
}

fn said(changed: &[&str], needs_restart: &[&str]) -> String {
    let mut said = match changed {
        [] => String::from("configuration reread: nothing changed"),
        changed => format!("configuration reread: changed {}", changed.join(", ")),
    };
    if !needs_restart.is_empty() {
        said += &format!("; kept until a restart: {}", needs_restart.join(", "));
    }
    said
}

fn start_store(shared: &Arc<Shared>, store: Store) -> io::Result<StoreThread> {
    let metrics = shared.metrics.store().expect("a process with a store has its metrics").clone();
    let (thread, sender) = io_store::start(store, &shared.config().store, shared.outlets(), metrics)?;
    assert!(shared.store.set(sender).is_ok(), "a process has one store");
    Ok(thread)
}

/// What the workers begin with.
struct Beginning {
    receivers: Vec<MailReceiver<Mail>>,
    resolver: Resolver,
    sessions: Vec<StoredSession>,
    mode: Mode,
}

fn start_workers(shared: &Arc<Shared>, beginning: Beginning) -> io::Result<Vec<JoinHandle<()>>> {
    let Beginning { receivers, resolver, sessions, mode } = beginning;
    let config = shared.config();
    let mut found: Vec<Vec<StoredSession>> = receivers.iter().map(|_| Vec::new()).collect();
    for session in sessions {
        found[usize::from(session_owner(&session.row.name, receivers.len()).0)].push(session);
    }
    let mut workers = Vec::new();
    for ((n, mail), found) in receivers.into_iter().enumerate().zip(found) {
        let start = Start {
            id: ShardId(n as u16),
            shared: shared.clone(),
            mail,
            resolver: resolver.clone(),
            found,
            core: shared.cores[n],
            listen: shared.listen,
            admin_listen: config.admin_listen,
            mode,
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
    if let Some(&core) = config.cores.iter().find(|core| !allowed.contains(core)) {
        return Err(StartError::Core { core, allowed });
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
    let over = clock::monotonic() + PORT_PATIENCE_MS;
    loop {
        match probe(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && clock::monotonic() < over => {
                thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome,
        }
    }
}

/// Fails when somebody listens there already, which SO_REUSEPORT alone would not notice. Port 0 becomes a free one.
fn probe(address: SocketAddr) -> io::Result<SocketAddr> {
    let probe: TcpListener = sys::listen(address, false)?;
    probe.local_addr()
}

const PORT_PATIENCE_MS: u64 = 1_000;
const START_TIMEOUT: Duration = Duration::from_secs(30);
