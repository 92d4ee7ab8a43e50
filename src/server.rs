//! Starts the workers, keeps their configuration, drains and stops them.
//!
//! The main thread lives here. It waits for signals and for what workers report, and is never busy for long. It also
//! samples the figures for their history: it wakes every ten seconds for that and reads the workers' atomics, which
//! costs no worker a turn. It does not while it drains or waits for a reload: then the history has a gap.

use crate::base::id::{NodeId, ShardId};
use crate::base::limits::Limits;
pub use crate::cluster::changes::NodeChange;
use crate::cluster::changes::Reporter;
use crate::config::{self, Change, ClusterChoice, Config, Reload, StoreKind};
use crate::io::backend::resolver::Resolver;
use crate::io::cluster::interfaces::Listeners;
use crate::io::cluster::start::{OwnNode, Prepared};
use crate::io::handover::channel::HandoverChannels;
use crate::io::runtime::claim::{Claim, listen_advice};
use crate::io::runtime::clock;
pub use crate::io::runtime::events::block_signals;
use crate::io::runtime::events::{self, Event, EventReceiver, Until};
use crate::io::runtime::mailbox::{MailboxReceiver, mailbox};
use crate::io::runtime::oneshot::ReturnAddress;
pub use crate::io::runtime::panics::end_process_on_panic;
use crate::io::runtime::sys;
use crate::io::service::driver::{self, Driver};
use crate::io::service::sd_notify::ServiceManager;
use crate::io::service::tasks::StoredShare;
use crate::io::spans::exporter::SpanExporter;
use crate::io::spans::recorder::{SpanReceiver, SpanSender, span_queue};
use crate::io::store::thread::{self as io_store, StoreThread};
use crate::io::worker::descriptors::{Purpose, Shares, Tables};
use crate::io::worker::message::{PeerMessage, ReloadOutcome, ReloadReport};
use crate::io::worker::shared::{Shared, SharedSetup};
use crate::metrics::history::sampler::{Sampler, Surroundings};
pub use crate::shard::Mode;
/// For tests: see `store::crash`.
pub use crate::store::crash::arm as crash_at;
use crate::store::{self, MetNode, OpenError, Opened, Store};
use crate::worker::{self, WorkerStart};
use std::collections::VecDeque;
use std::io;
use std::iter::once;
use std::net::{Ipv4Addr, SocketAddr};
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
    /// Ends when this node has left its cluster.
    cluster: Option<JoinHandle<()>>,
    spans: Option<SpanExporter>,
    reread: Reread,
    /// What came while the main thread waited for something else.
    deferred: VecDeque<Event>,
    reloads: u64,
    /// A signal to end came while the workers were starting.
    ended_early: bool,
    manager: ServiceManager,
    sampler: Sampler,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{key} = {address}: {error}. {}", listen_advice(error, *address))]
    Listen { key: &'static str, address: SocketAddr, error: io::Error },
    #[error("no free port from {first} to {last}; name one with -p or http_port")]
    NoPort { first: u16, last: u16 },
    #[error("CPU {cpu} is not among those that this process may use: {allowed:?} (see --cores, taskset, cgroups)")]
    Cpu { cpu: usize, allowed: Vec<usize> },
    #[error("{0}")]
    Driver(io::Error),
    #[error(
        "the cluster: UDP {address}: {error}. Free that port, name another (cluster_address), or set cluster = \"off\""
    )]
    Cluster { address: SocketAddr, error: io::Error },
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
        // Before anybody could connect: it may be refused.
        let driver = driver::choose(config.driver).map_err(StartError::Driver)?;
        let claims = claim_addresses(&config, mode)?;
        let listeners = claims.addresses();
        let (listen, admin_listen) = (listeners.public, listeners.admin);
        let cpus = cpus(&config)?;
        let limits = Limits::default();
        let mailboxes = cpus.iter().map(|_| mailbox(limits.mailbox_messages_max)).collect::<io::Result<Vec<_>>>()?;
        let (mailboxes, receivers) = mailboxes.into_iter().unzip();
        let hands_over = config.store.kind != StoreKind::None && cpus.len() > 1;
        let handovers = hands_over.then(|| HandoverChannels::new(cpus.len())).transpose()?;
        let OwnNode { generation, hash_key, cluster, store_node, .. } = OwnNode::prepare(&config, listeners, &limits)?;
        let options = store::Options::new(&config, store_node);
        let mut inherited = sys::open_descriptors()?;
        inherited.retain(|&fd| claims.all().all(|claim| claim.fd() != fd));
        let opened = options.map(|options| io_store::open(&options)).transpose()?;
        let (sender, events) = events::events(limits.events_max);
        let tables = tables();
        compare_with_descriptors(&config, tables, cpus.len(), inherited.len());
        let (spans, to_export) = spans_to_export(&config, &limits);
        let setup = SharedSetup {
            config,
            mailboxes,
            handovers,
            events: sender,
            listen,
            admin_listen,
            hash_key,
            node: generation,
            cluster: cluster.as_ref().map(|cluster| cluster.port().clone()),
            inherited,
            spans,
            cpus,
            now: clock::monotonic(),
        };
        let shared = Arc::new(Shared::new(setup, &limits));
        let met = opened.as_ref().map_or_else(Vec::new, |(_, opened)| note_disk(&shared, opened));
        let cluster = cluster.map(|cluster| start_cluster(&shared, cluster, driver, met)).transpose()?;
        let resolver = Resolver::start(&limits)?;
        let spans = to_export.map(|spans| start_exporter(&shared, spans)).transpose()?;
        let (store, opened) = opened.map_or_else(Default::default, |(store, opened)| (Some(store), opened));
        let store = store.map(|store| start_store(&shared, store, opened.damaged, &limits)).transpose()?;
        let workers =
            start_workers(&shared, WorkersStart { receivers, resolver, opened, tables, driver, mode, limits })?;
        events::watch_signals(shared.events().clone())?;
        let sampler = Sampler::new(shared.metrics(), &surroundings(&shared));
        let mut server = Server {
            shared,
            events,
            workers,
            store,
            cluster,
            spans,
            reread,
            deferred: VecDeque::new(),
            reloads: 0,
            ended_early: false,
            manager: ServiceManager::from_env(),
            sampler,
        };
        server.wait_until_ready()?;
        let admin_listen = admin_listen.map(tracing::field::display);
        info!(listen = %listen, admin_listen, workers = server.workers.len(), ?driver, "listening");
        Ok(server)
    }

    pub fn listen(&self) -> SocketAddr {
        self.shared.listen()
    }

    /// The operator's listener.
    pub fn admin_listen(&self) -> Option<SocketAddr> {
        self.shared.admin_listen()
    }

    pub fn config(&self) -> Arc<Config> {
        self.shared.config()
    }

    /// Reports other nodes that come and go, on a thread of its own.
    pub fn watch_nodes(&self, mut notify: impl FnMut(NodeChange) + Send + 'static) -> io::Result<()> {
        let Some(port) = self.shared.cluster().cloned() else { return Ok(()) };
        let mut reporter = Reporter::default();
        let watch = move || loop {
            let view = port.wait_for_view();
            let linked = view.peers.iter().filter(|peer| peer.is_linked).map(|peer| peer.node);
            let linked: Vec<NodeId> = linked.collect();
            reporter.report(&linked, &view.missed, clock::monotonic()).into_iter().for_each(&mut notify);
        };
        thread::Builder::new().name("rainbow-nodes".into()).spawn(watch).map(drop)
    }

    fn notify_ready(&self) {
        self.manager.notify_ready(&format!("listens on {}", self.listen()));
    }

    fn wait_until_ready(&mut self) -> Result<(), StartError> {
        let end = Until::after(START_TIMEOUT);
        let mut starting = self.workers.len();
        while starting > 0 {
            match self.events.wait_until(end) {
                Some(Event::Ready(Ok(()))) => starting -= 1,
                Some(Event::Ready(Err(error))) => return Err(StartError::Worker(error)),
                Some(Event::Terminate | Event::Drain) => self.ended_early = true,
                // What is read at the end of the start is new enough.
                Some(Event::Reload(_) | Event::PreviewReload(_) | Event::Reloaded(..)) => {}
                Some(Event::WorkerEnded(_) | Event::DeclaredDead) | None => {
                    return Err(StartError::Worker("a worker did not start".into()));
                }
            }
        }
        self.notify_ready();
        Ok(())
    }

    /// Serves until SIGTERM or SIGINT, then drains. True when every worker has ended by itself within
    /// `shutdown_timeout`.
    pub fn run(mut self) -> bool {
        let is_whole = self.ended_early || (self.serve(None) && self.announce_drain());
        is_whole && self.drain()
    }

    /// Serves until SIGTERM or SIGINT, or to the end of that time. False when a worker has stopped.
    fn serve(&mut self, end: Option<Until>) -> bool {
        loop {
            if !self.shared.heartbeats().any_is_stuck(clock::monotonic()) {
                self.manager.notify_alive();
            }
            let wake = Until::earlier(self.manager.next_sign(), Some(self.sample()));
            let next = match self.deferred.pop_front() {
                Some(event) => Some(event),
                None => self.events.wait_at_most(Until::earlier(end, wake)),
            };
            match next {
                None if end.is_none_or(|end| !end.is_over()) => {}
                Some(Event::Reload(caller)) => self.reload(caller),
                Some(Event::PreviewReload(caller)) => self.preview_reload(caller),
                Some(Event::Terminate) | None => return true,
                Some(Event::Drain) if end.is_none() => return true,
                Some(Event::Drain) => {}
                Some(Event::WorkerEnded(worker)) => {
                    error!(worker = worker.0, "a worker has stopped; the server ends, so that it can be started anew");
                    return false;
                }
                Some(Event::DeclaredDead) => {
                    error!(
                        "the other nodes have ended this life of the node: it ends, so that it can be started anew; if \
                         that happens again and again, another host has its address"
                    );
                    return false;
                }
                // Of a reload that is over.
                Some(Event::Ready(_) | Event::Reloaded(..)) => {}
            }
        }
    }

    /// Samples the figures when it is time; returns when to come again.
    fn sample(&mut self) -> Until {
        let now = clock::monotonic();
        let mut next = self.shared.history().next_sample();
        if next <= now {
            // Read first: who looks at the history waits for no system call.
            let surroundings = surroundings(&self.shared);
            let values = self.sampler.sample(self.shared.metrics(), &surroundings);
            let mut history = self.shared.history();
            history.record(now, values);
            next = history.next_sample();
        }
        Until::after(Duration::from_millis(next.since_ms(now)))
    }

    /// Load balancers learn from /readyz that they shall send nobody any more, before anybody is turned away.
    fn announce_drain(&mut self) -> bool {
        let delay = self.shared.config().drain_delay;
        if delay.is_zero() {
            return true;
        }
        self.shared.announce_drain();
        info!(drain_delay = ?delay, "not ready: clients and calls are served until drain_delay is over");
        self.serve(Some(Until::after(delay)))
    }

    /// Everything ends within `shutdown_timeout`, and what does not is named.
    fn drain(self) -> bool {
        info!("draining: no new connections, clients are told to go elsewhere");
        self.manager.notify_stopping(self.shared.config().shutdown_timeout + STOP_GRACE);
        self.shared.start_draining();
        let end = Until::after(self.shared.config().shutdown_timeout);
        let mut left = self.workers.len();
        let mut uninformed: Vec<ShardId> = self.shared.workers().collect();
        while left > 0 {
            // A full mailbox is emptied by its worker.
            uninformed.retain(|&worker| self.shared.mailbox(worker).try_send(PeerMessage::Drain).is_err());
            let until = if uninformed.is_empty() { end } else { end.min(MAILBOX_RETRY) };
            match self.events.wait_until(until) {
                Some(Event::WorkerEnded(_)) => left -= 1,
                Some(Event::Terminate) => {
                    warn!(workers = left, "told twice: ending at once");
                    return false;
                }
                Some(_) => {}
                None if end.is_over() => {
                    error!(workers = left, "shutdown_timeout is over, and not every worker has ended");
                    return false;
                }
                None => {}
            }
        }
        self.workers.into_iter().for_each(|worker| drop(worker.join()));
        self.shared.leave_cluster();
        let exporter = self.spans.map(SpanExporter::end);
        for (thread, grace) in [(self.cluster, self.shared.config().shutdown_timeout), (exporter, SPANS_GRACE)] {
            let end = end.min(grace);
            while thread.as_ref().is_some_and(|thread| !thread.is_finished()) && !end.is_over() {
                // Nothing else is expected.
                let _ = self.events.wait_until(end.min(THREAD_LOOK));
            }
        }
        // Last of all: it has to take what the workers sent at their end.
        if let Some(store) = self.store {
            let requests = self.shared.store().map_or(0, |store| store.len());
            if !store.stop(end.instant() + STORE_GRACE) {
                error!(
                    requests,
                    "shutdown_timeout is over, and the store does not answer: this was not promised to anybody"
                );
                return false;
            }
        }
        info!("ended");
        true
    }

    /// All or nothing: a configuration with an error changes nothing.
    fn reload(&mut self, caller: Option<ReturnAddress>) {
        self.manager.notify_reloading();
        let outcome = match (self.reread)() {
            Ok(new) => {
                let changes = config::changes(&self.shared.config(), &new);
                let reload = Reload::of(&self.shared.config(), new);
                let config = Arc::new(reload.config);
                self.shared.set_config(config.clone());
                if let Some(store) = self.shared.store() {
                    store.reload(&config.store);
                }
                let text = reload_report(&reload.changed, &reload.needs_restart);
                match self.reload_workers(&config) {
                    late if late.is_empty() => Ok(ReloadReport { text, changes }),
                    late => Err(format!("{text}; not confirmed by the workers {late:?}: reload again")),
                }
            }
            Err(errors) => Err(format!("the configuration was not changed:\n{errors}")),
        };
        match &outcome {
            Ok(report) => info!("{}", report.text),
            Err(why) => error!("{why}"),
        }
        self.notify_ready();
        if let Some(caller) = caller {
            self.answer(caller, outcome);
        }
    }

    /// Nothing is changed, neither here nor in the workers.
    fn preview_reload(&mut self, caller: ReturnAddress) {
        let outcome = match (self.reread)() {
            Ok(new) => {
                let changes = config::changes(&self.shared.config(), &new);
                Ok(ReloadReport { text: preview_report(&changes), changes })
            }
            Err(errors) => Err(format!("a reload would change nothing:\n{errors}")),
        };
        self.answer(caller, outcome);
    }

    fn answer(&self, caller: ReturnAddress, outcome: ReloadOutcome) {
        // When the mailbox is full, the call ends at its deadline.
        let reloaded = PeerMessage::Reloaded { oneshot: caller.oneshot(), outcome };
        let _ = self.shared.mailbox(caller.worker()).try_send(reloaded);
    }

    /// Returns the workers that did not confirm in time.
    fn reload_workers(&mut self, config: &Arc<Config>) -> Vec<u16> {
        self.reloads += 1;
        let number = self.reloads;
        let end = Until::after(RELOAD_TIMEOUT);
        let mut uninformed: Vec<ShardId> = self.shared.workers().collect();
        let mut unconfirmed: Vec<u16> = uninformed.iter().map(|worker| worker.0).collect();
        while !unconfirmed.is_empty() && !end.is_over() {
            uninformed.retain(|&worker| {
                let reload = PeerMessage::Reload { config: config.clone(), number };
                self.shared.mailbox(worker).try_send(reload).is_err()
            });
            match self.events.wait_until(if uninformed.is_empty() { end } else { end.min(MAILBOX_RETRY) }) {
                Some(Event::Reloaded(worker, of)) if of == number => unconfirmed.retain(|&other| other != worker.0),
                Some(event @ (Event::Terminate | Event::Drain | Event::WorkerEnded(_) | Event::DeclaredDead)) => {
                    self.deferred.push_back(event);
                    break;
                }
                Some(event @ (Event::Reload(_) | Event::PreviewReload(_))) => self.deferred.push_back(event),
                Some(Event::Reloaded(..) | Event::Ready(_)) | None => {}
            }
        }
        unconfirmed
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

fn preview_report(changes: &[Change]) -> String {
    let named = |needs_restart: bool| -> Vec<&str> {
        changes.iter().filter(|change| change.needs_restart == needs_restart).map(|change| change.key).collect()
    };
    let mut report = match &named(false)[..] {
        [] => String::from("a reload would change nothing"),
        changed => format!("a reload would change {}", changed.join(", ")),
    };
    if let waiting @ [_, ..] = &named(true)[..] {
        report += &format!("; kept until a restart: {}", waiting.join(", "));
    }
    report
}

/// For a sample of the history.
fn surroundings(shared: &Shared) -> Surroundings {
    Surroundings {
        channels: shared.channels(),
        mailbox: shared.workers().map(|worker| shared.mailbox(worker).len() as u64).max().unwrap_or_default(),
        store_queued: shared.store().map_or(0, |store| store.len() as u64),
        cpu_us: sys::cpu_us(),
        resident_bytes: sys::resident_bytes().unwrap_or_default(),
    }
}

/// `damaged`: sessions that could not be read.
fn start_store(shared: &Arc<Shared>, store: Store, damaged: u64, limits: &Limits) -> io::Result<StoreThread> {
    let metrics = shared.metrics().store().expect("a store has metrics").clone();
    metrics.damaged.add(damaged);
    let (thread, sender) = io_store::start(store, &shared.config().store, limits, shared.report_sinks(), metrics)?;
    shared.set_store(sender);
    Ok(thread)
}

/// Where spans go, and where the exporter takes them; nowhere when nobody collects them.
fn spans_to_export(config: &Config, limits: &Limits) -> (Option<SpanSender>, Option<SpanReceiver>) {
    let is_collected = !config.traces.otlp_endpoint.is_empty();
    is_collected.then(|| span_queue(limits.spans_max)).unzip()
}

fn start_exporter(shared: &Shared, spans: SpanReceiver) -> io::Result<SpanExporter> {
    let (config, metrics) = (shared.config(), shared.metrics().spans().clone());
    SpanExporter::start(&config.traces.otlp_endpoint, shared.node().to_string(), spans, metrics)
}

/// The thread of the cluster.
/// Returns the other nodes that the disk knows of.
fn note_disk(shared: &Shared, opened: &Opened) -> Vec<MetNode> {
    shared.set_disk(opened.disk, opened.lives.clone());
    opened.met.clone()
}

fn start_cluster(
    shared: &Arc<Shared>,
    prepared: Prepared,
    driver: Driver,
    met: Vec<MetNode>,
) -> Result<JoinHandle<()>, StartError> {
    let address = prepared.port().listen().unwrap_or(prepared.port().own().address);
    let opened = prepared.open(&shared.config(), shared.workers_len());
    let opened = opened.map_err(|error| StartError::Cluster { address, error })?;
    let (workers, events) = (shared.clone(), shared.events().clone());
    let run = move || {
        let store = workers.store_link();
        let to_worker = move |worker, message| {
            workers.mailbox(worker).try_send(PeerMessage::Cluster(message)).map_err(|back| match back {
                PeerMessage::Cluster(message) => message,
                _ => unreachable!("it comes back as it was"),
            })
        };
        let dead = events.clone();
        let on_dead = move || dead.send(Event::DeclaredDead);
        let ended = driver.block_on(opened.run(to_worker, on_dead, (store, met))).and_then(|ended| ended);
        if let Err(error) = ended {
            error!(%error, "the cluster's thread has ended");
            events.send(Event::DeclaredDead);
        }
    };
    Ok(thread::Builder::new().name("rainbow-cluster".into()).spawn(run)?)
}

/// What the workers start with.
struct WorkersStart {
    receivers: Vec<MailboxReceiver<PeerMessage>>,
    resolver: Resolver,
    opened: Opened,
    tables: Tables,
    driver: Driver,
    mode: Mode,
    limits: Limits,
}

fn start_workers(shared: &Arc<Shared>, start: WorkersStart) -> io::Result<Vec<JoinHandle<()>>> {
    let WorkersStart { receivers, resolver, opened, tables, driver, mode, limits } = start;
    let empty = || StoredShare { token: opened.token, ..StoredShare::default() };
    let mut shares: Vec<StoredShare> = receivers.iter().map(|_| empty()).collect();
    for session in opened.sessions {
        shares[usize::from(shared.session_owner(&session.row.name).0)].sessions.push(session);
    }
    for (session, token) in opened.leaving {
        shares[usize::from(shared.session_owner(&session.row.name).0)].leaving.push((session, token));
    }
    for (n, record) in opened.connections.into_iter().enumerate() {
        shares[n % receivers.len()].connections.push(record);
    }
    let mut workers = Vec::new();
    for ((n, mailbox), stored) in receivers.into_iter().enumerate().zip(shares) {
        let id = ShardId(n as u16);
        let start = WorkerStart {
            id,
            shared: shared.clone(),
            mailbox,
            resolver: resolver.clone(),
            stored,
            cpu: shared.cpu(id),
            listen: shared.listen(),
            admin_listen: shared.admin_listen(),
            tables,
            driver,
            mode,
            limits: limits.clone(),
        };
        let name = format!("rainbow-{n}");
        workers.push(thread::Builder::new().name(name).spawn(move || worker::run(start))?);
    }
    Ok(workers)
}

/// Per worker, the CPU to pin it to. Workers are pinned when CPUs were named, or when each has one and the whole
/// machine is this process's: where others run on the same CPUs, the scheduler knows better. Without a number there is
/// one worker per CPU, or fewer where the cgroup has less CPU time than that (cpu.max).
fn cpus(config: &Config) -> Result<Vec<Option<usize>>, StartError> {
    let allowed = sys::allowed_cores();
    if let Some(&cpu) = config.cores.iter().find(|cpu| !allowed.contains(cpu)) {
        return Err(StartError::Cpu { cpu, allowed });
    }
    let granted = thread::available_parallelism().map_or(1, usize::from);
    Ok(placement(config, &allowed, granted, sys::online_cores()))
}

/// `granted`: as many CPUs as the cgroup gives time for; `online`: those of the machine.
fn placement(config: &Config, allowed: &[usize], granted: usize, online: usize) -> Vec<Option<usize>> {
    let are_named = !config.cores.is_empty();
    let chosen: Vec<usize> = if are_named { config.cores.iter().copied().collect() } else { allowed.to_vec() };
    let workers = match config.workers {
        0 if are_named => chosen.len(),
        0 => granted.min(chosen.len()),
        workers => workers,
    };
    let is_machine_ours = allowed.len() == online && granted >= online && workers == online;
    (0..workers).map(|n| (are_named || is_machine_ours).then(|| chosen[n % chosen.len()])).collect()
}

/// Where workers may not have tables of their own, which takes a system call that some containers forbid, they share
/// one, and its lock.
fn tables() -> Tables {
    match thread::spawn(sys::unshare_files).join().expect("it does not panic") {
        Ok(()) => Tables::Own,
        Err(error) => {
            warn!(
                %error,
                "unshare is forbidden here: all workers share one table of descriptors, so that RLIMIT_NOFILE counts \
                 for all of them together, and they wait for its lock. Let the seccomp profile allow unshare"
            );
            Tables::Shared
        }
    }
}

/// Says when there are fewer descriptors than connections that the operator wants: then the last ones would wait to be
/// accepted, and be refused by nobody.
fn compare_with_descriptors(config: &Config, tables: Tables, workers: usize, inherited: usize) {
    let limit = sys::descriptor_limit();
    let of = match tables {
        Tables::Own => "each worker",
        Tables::Shared => "all workers together",
    };
    let left = tables.of_each(limit.saturating_sub(inherited), workers).saturating_sub(OWN_DESCRIPTORS);
    let shares = Shares::new(left, config);
    if shares.per_backend() < config.backend_connections {
        let (wanted, possible) = (config.backend_connections, shares.per_backend());
        warn!("backend_connections = {wanted}, but RLIMIT_NOFILE = {limit} of {of} leaves {possible}: {RAISE_IT}");
    }
    let (wanted, possible) = (config.connections_max, shares.max(Purpose::Newcomer).saturating_mul(workers));
    if wanted <= possible {
        return;
    }
    if wanted == Config::default().connections_max {
        return info!(workers, "RLIMIT_NOFILE = {limit} of {of} is room for some {possible} connections");
    }
    warn!(
        workers,
        "connections_max = {wanted}, but RLIMIT_NOFILE = {limit} of {of} is room for some {possible}: {RAISE_IT}, or \
         lower connections_max"
    );
}

/// The configured addresses; without a port the first free one of 1984–2003. Without any secret, nothing that comes to
/// the address for clients shows who may call: a proxy on this machine makes everybody's requests its own. The operator
/// then has a listener that no proxy leads to.
fn claim_addresses(config: &Config, mode: Mode) -> Result<Claims, StartError> {
    let of = |key, address| Claim::wait(address).map_err(|error| StartError::Listen { key, address, error });
    let listen = match config.http_port {
        Some(port) => of("http_port", SocketAddr::new(config.listen, port))?,
        None => {
            let ports = Config::AUTO_PORTS;
            let free = ports.clone().find_map(|port| Claim::new(SocketAddr::new(config.listen, port)).ok());
            free.ok_or(StartError::NoPort { first: *ports.start(), last: *ports.end() })?
        }
    };
    let admin = match config.admin_listen {
        Some(address) => Some(of("admin_listen", address)?),
        None if config.secrets.are_unset() && mode != Mode::Echo => {
            let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let usual = Claim::wait(address(Config::ADMIN_PORT));
            Some(usual.or_else(|_| of("admin_listen", address(0)))?)
        }
        None => None,
    };
    let cluster = config.cluster.listen.filter(|_| config.cluster.choice != ClusterChoice::Off);
    let cluster = cluster.map(|address| of("cluster_listen", address)).transpose()?;
    Ok(Claims { listen, admin, cluster })
}

/// The addresses of this server.
struct Claims {
    listen: Claim,
    admin: Option<Claim>,
    cluster: Option<Claim>,
}

impl Claims {
    fn all(&self) -> impl Iterator<Item = &Claim> {
        once(&self.listen).chain(&self.admin).chain(&self.cluster)
    }

    fn addresses(&self) -> Listeners {
        let address = |claim: &Option<Claim>| claim.as_ref().map(Claim::address);
        Listeners { public: self.listen.address(), admin: address(&self.admin), cluster: address(&self.cluster) }
    }
}

/// How long the workers may take to confirm a reload.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a full mailbox is tried again.
const MAILBOX_RETRY: Duration = Duration::from_millis(5);
/// Beyond shutdown_timeout, for what the workers sent at their end.
const STORE_GRACE: Duration = Duration::from_millis(500);
/// Beyond all that: what the service manager grants before it kills.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// For the spans that wait at the end, when all else is done.
const SPANS_GRACE: Duration = Duration::from_secs(2);
/// Between looks whether a thread has ended.
const THREAD_LOOK: Duration = Duration::from_millis(10);
/// A worker's ring, listeners and bells, roughly.
const OWN_DESCRIPTORS: usize = 8;
const RAISE_IT: &str = "raise it (ulimit -n, systemd: LimitNOFILE=, docker: --ulimit nofile=)";
const START_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(cores: &[usize], workers: usize, allowed: usize, granted: usize, online: usize) -> Vec<Option<usize>> {
        let config = Config { cores: cores.iter().copied().collect(), workers, ..Config::default() };
        placement(&config, &(0..allowed).collect::<Vec<_>>(), granted, online)
    }

    #[test]
    fn the_cgroup_decides_how_many_workers_there_are_by_default() {
        assert_eq!(placed(&[], 0, 8, 2, 8), [None; 2]);
        assert_eq!(placed(&[], 3, 8, 2, 8), [None; 3]);
        assert_eq!(placed(&[4, 5], 0, 8, 1, 8), [Some(4), Some(5)]);
    }

    #[test]
    fn workers_are_pinned_when_cpus_are_named_or_all_are_ours() {
        assert_eq!(placed(&[], 0, 2, 2, 2), [Some(0), Some(1)]);
        assert_eq!(placed(&[], 1, 2, 2, 2), [None]);
        assert_eq!(placed(&[], 0, 2, 2, 4), [None; 2]);
        assert_eq!(placed(&[1], 3, 2, 2, 2), [Some(1); 3]);
    }
}
