//! What all workers of the process share: metrics, who may come in, which channels are where, and the ways to each
//! other, to the store and to the main thread.

use super::message::PeerMessage;
use super::presence::Presence;
use crate::base::id::{DiskId, Generation, ShardId};
use crate::base::keyed_hash::HashKey;
use crate::base::limits::Limits;
use crate::base::time::Tick;
use crate::cluster::ownership::grantors::Grantor;
use crate::config::{Config, StoreKind};
use crate::io::cluster::ownership::SeenPeers;
use crate::io::cluster::port::{ClusterPort, PeerEntry, ToCluster};
use crate::io::cluster::state::StoreLink;
use crate::io::handover::channel::HandoverChannels;
use crate::io::hooks::upstreams::PublishedUpstreams;
use crate::io::runtime::events::EventSender;
use crate::io::runtime::mailbox::MailboxSender;
use crate::io::runtime::oneshot::ReturnAddress;
use crate::io::spans::recorder::{SpanRecorder, SpanSender};
use crate::io::store::inbox::StoreInbox;
use crate::io::store::thread::{NodeSink, ReportSinks, StoreSender};
use crate::io::worker::calls::in_flight::InFlightCalls;
use crate::metrics::history::History;
use crate::metrics::history::sampler::Sampler;
use crate::metrics::process::Metrics;
use crate::policy::admission::{Admission, ConnectionKind};
use crate::policy::heartbeats::Heartbeats;
use crate::policy::replays::Replays;
use crate::shard::session_owner;
use std::hash::RandomState;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, OnceLock, PoisonError};

pub struct Shared {
    admission: Arc<Admission>,
    handshakes: Arc<Admission>,
    admin_handshakes: Arc<Admission>,
    hash_key: HashKey,
    node: Generation,
    cluster: Option<Arc<ClusterPort>>,
    presence: Presence,
    /// One per worker.
    mailboxes: Arc<[MailboxSender<PeerMessage>]>,
    /// Only with a store and more than one worker.
    handovers: Option<HandoverChannels>,
    in_flight: InFlightCalls,
    /// Empty without a store.
    store: OnceLock<StoreSender>,
    disk: OnceLock<(Option<DiskId>, Vec<Generation>)>,
    /// One per worker.
    store_inboxes: Vec<StoreInbox>,
    restored: Barrier,
    replays: Mutex<Replays<RandomState>>,
    metrics: Metrics,
    history: Mutex<History>,
    /// In force now.
    config: Mutex<Arc<Config>>,
    drain_announced: AtomicBool,
    draining: AtomicBool,
    drained: AtomicUsize,
    leaves_sessions: AtomicBool,
    /// One per worker.
    upstreams: Vec<PublishedUpstreams>,
    /// Traces that are read.
    traces: Arc<AtomicUsize>,
    /// `None`: nobody collects spans.
    spans: Option<SpanSender>,
    events: EventSender,
    heartbeats: Heartbeats,
    listen: SocketAddr,
    admin_listen: Option<SocketAddr>,
    inherited: Vec<RawFd>,
    cpus: Vec<Option<usize>>,
    started: Tick,
}

/// What the main thread decides before the workers start.
pub struct SharedSetup {
    pub config: Config,
    pub mailboxes: Vec<MailboxSender<PeerMessage>>,
    pub handovers: Option<HandoverChannels>,
    pub events: EventSender,
    pub listen: SocketAddr,
    /// For names of channels and sessions.
    pub hash_key: HashKey,
    /// This life of this node.
    pub node: Generation,
    /// `None`: it stays alone.
    pub cluster: Option<Arc<ClusterPort>>,
    pub admin_listen: Option<SocketAddr>,
    pub inherited: Vec<RawFd>,
    /// `None`: nobody collects spans.
    pub spans: Option<SpanSender>,
    /// Per worker, the CPU that it is pinned to.
    pub cpus: Vec<Option<usize>>,
    pub now: Tick,
}

impl Shared {
    pub fn new(setup: SharedSetup, limits: &Limits) -> Shared {
        let SharedSetup { config, mailboxes, handovers, events, listen, .. } = setup;
        let SharedSetup { admin_listen, hash_key, node, cluster, inherited, spans, cpus, now, .. } = setup;
        let workers = mailboxes.len();
        let metrics = Metrics::new(workers, config.store.kind != StoreKind::None);
        let admission = |of| Arc::new(Admission::new(of, metrics.admission().clone()));
        Shared {
            admission: admission(ConnectionKind::Client),
            handshakes: admission(ConnectionKind::Handshake),
            admin_handshakes: admission(ConnectionKind::Handshake),
            hash_key,
            node,
            cluster,
            presence: Presence::new(workers),
            mailboxes: mailboxes.into(),
            handovers,
            in_flight: InFlightCalls::new(limits.repeats_waiting_max),
            store: OnceLock::new(),
            disk: OnceLock::new(),
            store_inboxes: (0..workers).map(|_| StoreInbox::default()).collect(),
            restored: Barrier::new(workers),
            replays: Mutex::new(Replays::new(limits.replays_max, RandomState::new())),
            history: Mutex::new(History::new(Sampler::figures(&metrics), now)),
            metrics,
            config: Mutex::new(Arc::new(config)),
            drain_announced: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            drained: AtomicUsize::new(0),
            leaves_sessions: AtomicBool::new(false),
            upstreams: (0..workers).map(|_| PublishedUpstreams::default()).collect(),
            traces: Arc::default(),
            spans,
            events,
            heartbeats: Heartbeats::new(workers, now),
            listen,
            admin_listen,
            inherited,
            cpus,
            started: now,
        }
    }

    pub fn workers(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.mailboxes.len() as u16).map(ShardId)
    }

    pub fn workers_len(&self) -> usize {
        self.mailboxes.len()
    }

    pub fn mailboxes(&self) -> &Arc<[MailboxSender<PeerMessage>]> {
        &self.mailboxes
    }

    pub fn mailbox(&self, worker: ShardId) -> &MailboxSender<PeerMessage> {
        &self.mailboxes[usize::from(worker.0)]
    }

    /// Of clients.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// Connections of the address for clients that are neither clients nor have made a call that was allowed.
    pub fn handshakes(&self) -> &Arc<Admission> {
        &self.handshakes
    }

    /// Those of `admin_listen`: strangers at the other address must not keep the operator out.
    pub fn admin_handshakes(&self) -> &Arc<Admission> {
        &self.admin_handshakes
    }

    /// For the names of channels and sessions.
    pub fn hash_key(&self) -> HashKey {
        self.hash_key
    }

    /// This life of this node: the names of its connections carry it.
    pub fn node(&self) -> Generation {
        self.node
    }

    /// The cluster's thread; `None` for a node that stays alone.
    pub fn cluster(&self) -> Option<&Arc<ClusterPort>> {
        self.cluster.as_ref()
    }

    /// This node stops: the others hear of it.
    pub fn leave_cluster(&self) {
        if let Some(cluster) = &self.cluster {
            // A thread that has no room in its mailbox finds that its links have ended.
            let _ = cluster.try_send(ToCluster::Leave);
        }
    }

    /// The worker that owns the session of that name.
    pub fn session_owner(&self, name: &str) -> ShardId {
        session_owner(self.hash_key, name, self.workers_len())
    }

    /// Channels with members on any worker, each once.
    pub fn channels(&self) -> u64 {
        self.presence.channels(self.metrics.shards().iter().map(|shard| shard.channels.get()))
    }

    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// `None` without a store, and with one worker.
    pub fn handovers(&self) -> Option<&HandoverChannels> {
        self.handovers.as_ref()
    }

    pub fn in_flight(&self) -> &InFlightCalls {
        &self.in_flight
    }

    pub fn events(&self) -> &EventSender {
        &self.events
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The past of the figures. The main thread records into it every ten seconds, for microseconds; a page copies
    /// from it.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Webhook signatures that were used. One lock for all workers: taken once per call that is signed so.
    pub fn replays(&self) -> MutexGuard<'_, Replays<RandomState>> {
        self.replays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    pub fn admin_listen(&self) -> Option<SocketAddr> {
        self.admin_listen
    }

    /// The descriptors that workers begin with. What others open later (the store's files and sockets) is not theirs,
    /// and a copy would keep it open.
    pub fn inherited(&self) -> &[RawFd] {
        &self.inherited
    }

    /// The CPU that a worker is pinned to.
    pub fn cpu(&self, worker: ShardId) -> Option<usize> {
        self.cpus.get(usize::from(worker.0)).copied().flatten()
    }

    pub fn config(&self) -> Arc<Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_config(&self, config: Arc<Config>) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// A worker has nothing left to do for itself. `leaves_sessions`: some are on this disk that no other node has.
    pub fn note_drained(&self, leaves_sessions: bool) {
        self.leaves_sessions.fetch_or(leaves_sessions, Ordering::Relaxed);
        self.drained.fetch_add(1, Ordering::Release);
    }

    /// To be asked when all have drained.
    pub fn leaves_no_sessions(&self) -> bool {
        !self.leaves_sessions.load(Ordering::Relaxed)
    }

    /// Until then a worker serves the links of other nodes, over which they fetch what the others still have.
    pub fn are_all_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire) >= self.workers_len()
    }

    /// One of a few that may be read at a time; given back when it is dropped.
    pub fn take_trace_place(&self) -> Option<TracePlace> {
        let one_more = |count: usize| (count < TRACES_MAX).then_some(count + 1);
        let taken = self.traces.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| TracePlace(self.traces.clone()))
    }

    /// One per worker. `seed` is drawn at random.
    pub fn span_recorder(&self, worker: ShardId, seed: u64) -> SpanRecorder {
        let metrics = self.metrics.worker(worker).clone();
        SpanRecorder::new(self.spans.clone(), self.config().traces.otlp_ratio, seed, metrics)
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// It is about to drain, and says so to those who ask whether it is ready.
    pub fn is_drain_announced(&self) -> bool {
        self.drain_announced.load(Ordering::Relaxed) || self.is_draining()
    }

    /// SIGTERM, with a delay: all goes on.
    pub fn announce_drain(&self) {
        self.drain_announced.store(true, Ordering::Relaxed);
    }

    /// No new connections.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// No worker accepts connections before all workers have their sessions: a message for a channel must find all its
    /// members.
    pub fn wait_until_all_restored(&self) {
        self.restored.wait();
    }

    /// `None` without a store.
    pub fn store(&self) -> Option<&StoreSender> {
        self.store.get()
    }

    /// This node's disk and its lives, where it has one of its own: once, before the workers start.
    pub fn set_disk(&self, disk: Option<DiskId>, lives: Vec<Generation>) {
        assert!(self.disk.set((disk, lives)).is_ok(), "a process starts once");
    }

    pub fn lives(&self) -> &[Generation] {
        self.disk.get().map_or(&[], |(_, lives)| lives)
    }

    pub fn disk(&self) -> Option<DiskId> {
        self.disk.get().and_then(|(disk, _)| *disk)
    }

    /// As far as it grants names.
    pub fn grantor(&self) -> Grantor {
        Grantor { disk: self.disk().unwrap_or(DiskId(self.node().0)), node: self.node() }
    }

    /// What a worker knows of the other nodes, with whom this one is.
    pub fn seen_peers(&self, entries: Arc<[PeerEntry]>) -> SeenPeers {
        SeenPeers::new(self.grantor(), self.hash_key, entries)
    }

    /// Once, before the workers start.
    pub fn set_store(&self, store: StoreSender) {
        assert!(self.store.set(store).is_ok(), "a process has one store");
    }

    /// How the worker has found the upstreams, a second ago or less.
    pub fn upstreams(&self, worker: ShardId) -> &PublishedUpstreams {
        &self.upstreams[usize::from(worker.0)]
    }

    pub fn store_inbox(&self, worker: ShardId) -> &StoreInbox {
        &self.store_inboxes[usize::from(worker.0)]
    }

    /// For the cluster's thread. `None`: nobody shares a store.
    pub fn store_link(self: &Arc<Shared>) -> Option<StoreLink> {
        self.metrics.store()?;
        if self.config().store.kind == StoreKind::Sqlite {
            return None;
        }
        let [to_store, owner] = [self.clone(), self.clone()];
        Some(StoreLink {
            command: Box::new(move |command| to_store.store().is_some_and(|store| store.try_command(command))),
            hash_key: self.hash_key,
            owner: Box::new(move |name| owner.session_owner(name)),
        })
    }

    /// For the store's thread: each report goes into a worker's inbox, and the worker is woken.
    pub fn report_sinks(self: &Arc<Shared>) -> ReportSinks {
        let [completions, claimed, expired] = [self.clone(), self.clone(), self.clone()];
        let [ownership, recorded, fenced] = [self.clone(), self.clone(), self.clone()];
        let transferred = self.clone();
        let nodes =
            self.cluster.clone().map(|cluster| -> NodeSink { Box::new(move |report| cluster.push_store(report)) });
        ReportSinks {
            completions: Box::new(move |shard, report| {
                completions.report(shard, |inbox| inbox.push_completions(report));
            }),
            claimed: Box::new(move |id, outcome| {
                let worker = ReturnAddress::unpack(id.0).worker();
                claimed.report(worker, |inbox| inbox.push_claimed(id, outcome));
            }),
            // The store does not know which shard a session belongs to: each shard takes what it knows.
            expired: Box::new(move |report| {
                expired.workers().for_each(|shard| expired.report(shard, |inbox| inbox.push_expired(report.clone())));
            }),
            transferred: Box::new(move |id, answer| {
                let worker = ReturnAddress::unpack(id.0).worker();
                transferred.report(worker, |inbox| inbox.push_transferred(id, answer));
            }),
            ownership: Box::new(move |shard, answer| {
                ownership.report(shard, |inbox| inbox.push_ownership(answer));
            }),
            recorded: Box::new(move |worker, numbers| {
                recorded.report(worker, |inbox| inbox.push_recorded(numbers));
            }),
            fenced: Box::new(move |session| {
                fenced.report(fenced.session_owner(&session), |inbox| inbox.push_fenced(session));
            }),
            nodes,
        }
    }

    fn report(&self, worker: ShardId, push: impl FnOnce(&StoreInbox)) {
        push(self.store_inbox(worker));
        // Always: a worker that is about to sleep looks into its mailbox, not into its inbox.
        self.mailbox(worker).ring_always();
    }

    pub fn heartbeats(&self) -> &Heartbeats {
        &self.heartbeats
    }

    pub fn uptime_s(&self, now: Tick) -> u64 {
        now.since_ms(self.started) / 1000
    }
}

/// A trace that is read.
pub struct TracePlace(Arc<AtomicUsize>);

impl Drop for TracePlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Of a process: people look at them.
const TRACES_MAX: usize = 4;
