//! The tasks of one worker, and the ring that runs them. A task waits for one kind of event and tells the worker.
//!
//! ```text
//! accept ─► serve, client task (one per connection)
//! messages, handovers, writable, keep_time ─► turn: the end of a turn
//! ```

use crate::base::id::ShardId;
use crate::base::time::Tick;
use crate::io::backend::resolver::Resolver;
use crate::io::backend::{self, Options, Pool};
use crate::io::client::handover;
use crate::io::runtime::clock;
use crate::io::runtime::events::Event;
use crate::io::runtime::mailbox::MailboxReceiver;
use crate::io::runtime::net::Listener;
use crate::io::runtime::socket::{Pollable, RingPass};
use crate::io::runtime::sys;
use crate::io::service::driver::Driver;
use crate::io::service::serve::ListenerKind;
use crate::io::service::{accept, completions, drain, links, transfers, unite};
use crate::io::worker::descriptors::{Descriptors, Tables};
use crate::io::worker::message::PeerMessage;
use crate::io::worker::rules::Rules;
use crate::io::worker::shared::Shared;
use crate::io::worker::turn::{Worker, WorkerSetup};
use crate::shard::command::StoredSession;
use crate::shard::command::Token;
use crate::store::ConnectionRecord;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// What a worker's ring serves; the listeners were made in this thread, in the descriptor table that it has.
pub struct Service {
    pub id: ShardId,
    pub shared: Arc<Shared>,
    pub rules: Rules,
    pub mailbox: MailboxReceiver<PeerMessage>,
    pub resolver: Resolver,
    pub stored: StoredShare,
    pub listeners: Listeners,
    pub tables: Tables,
    pub driver: Driver,
}

/// A worker's; all workers share their ports.
pub struct Listeners {
    pub public: std::net::TcpListener,
    pub admin: Option<std::net::TcpListener>,
    pub cluster: Option<std::net::TcpListener>,
}

/// What the store had for one worker.
#[derive(Default)]
pub struct StoredShare {
    /// The sessions that its shard owns.
    pub sessions: Vec<StoredSession>,
    /// By which they are owned, where other nodes use the store too.
    pub token: Option<Token>,
    /// Sessions that were on their way to other nodes, and by which transfers.
    pub leaving: Vec<(StoredSession, Token)>,
    /// Connections of former lives, whose closes it reports.
    pub connections: Vec<ConnectionRecord>,
}

/// Serves until drained.
pub fn run(service: Service) -> io::Result<()> {
    service.driver.block_on(serve_until_drained(service))?
}

async fn serve_until_drained(service: Service) -> io::Result<()> {
    let Service { id, shared, rules, mailbox, resolver, stored, listeners, tables, driver: _ } = service;
    let room = tables.of_each(sys::descriptors_left()?, shared.workers_len());
    let descriptors = Descriptors::new(id, room, rules.config());
    let pool = {
        let options = Options::of(rules.config(), descriptors.connections_per_backend(), rules.limits());
        let shared = shared.clone();
        move |worker: &Weak<Worker>| new_pool(worker, id, &shared, options, resolver)
    };
    let worker = Worker::new(WorkerSetup { id, shared, rules, mailbox, pool, descriptors, seed: sys::draw() })?;
    worker.restore(stored.sessions, stored.token);
    transfers::restore_leaving(&worker, stored.leaving);
    worker.hooks().close_former(&stored.connections, worker.now());
    worker.shared().wait_until_all_restored();
    let has_admin = worker.rules().config().admin_listen.is_some();
    let side = if has_admin { ListenerKind::Public } else { ListenerKind::Whole };
    let Listeners { public, admin, cluster } = listeners;
    let listeners =
        [Some((public, side)), admin.zip(Some(ListenerKind::Admin)), cluster.zip(Some(ListenerKind::Cluster))];
    let mut listening: Vec<RawFd> = Vec::new();
    for (listener, side) in listeners.into_iter().flatten() {
        listening.push(listener.as_raw_fd());
        monoio::spawn(accept::run(worker.clone(), Listener::new(listener)?, side));
    }
    monoio::spawn(messages(worker.clone(), worker.peers().bell()?));
    if let Some(channels) = worker.shared().handovers() {
        monoio::spawn(handovers(worker.clone(), channels.pollable(id)?));
    }
    monoio::spawn(writable(worker.clone()));
    monoio::spawn(links::dial_wanted(worker.clone()));
    monoio::spawn(links::run_errands(worker.clone()));
    if worker.ownership().has_disk() && id == ShardId(0) {
        monoio::spawn(transfers::meet_peers(worker.clone()));
    }
    if worker.ownership().has_disk() {
        monoio::spawn(unite::run(worker.clone()));
    }
    monoio::spawn(keep_time(worker.clone(), RingPass::new()?));
    monoio::spawn(turn(worker.clone()));
    worker.shared().events().send(Event::Ready(Ok(())));
    drain::run(&worker, &listening).await;
    if tables == Tables::Own {
        sys::shut_down_all_but(worker.shared().inherited())?;
    }
    Ok(())
}

fn new_pool(worker: &Weak<Worker>, id: ShardId, shared: &Arc<Shared>, options: Options, resolver: Resolver) -> Pool {
    let (to_handle, to_wake) = (worker.clone(), worker.clone());
    let mailbox = shared.mailbox(id).clone();
    resolver.on_result(move || mailbox.ring());
    Pool::new(backend::PoolParts {
        options,
        stats: shared.metrics().backend(id).clone(),
        resolver,
        clocks: backend::Clocks { monotonic_us: Box::new(clock::monotonic_us), unix_s: Box::new(clock::unix_s) },
        seed: clock::unix_ns() as u64 ^ u64::from(id.0) << 48,
        sink: Rc::new(move |done| {
            if let Some(worker) = to_handle.upgrade() {
                completions::handle_done(&worker, done);
            }
        }),
        alarm: Box::new(move |deadline| {
            if let Some(worker) = to_wake.upgrade() {
                worker.due_by(deadline);
            }
        }),
    })
}

async fn messages(worker: Rc<Worker>, bell: Pollable) {
    loop {
        worker.peers().wait(&bell).await;
        // It may have been the resolver that rang. Deadlines are judged by the timer task alone, which knows whether
        // the process stood still.
        worker.hooks().poll_resolver(worker.now());
        worker.wakeups().need_turn();
        worker.wakeups().turn_ended_for_mailbox().await;
    }
}

async fn handovers(worker: Rc<Worker>, channel: Pollable) {
    loop {
        channel.readable().await;
        handover::take_over(&worker);
    }
}

async fn writable(worker: Rc<Worker>) {
    loop {
        worker.sockets().writable().await;
        worker.on_writable();
    }
}

async fn turn(worker: Rc<Worker>) {
    loop {
        worker.wakeups().turn_needed().await;
        if worker.end_turn() {
            // Not at once: through the ring, so that what came meanwhile is read before the next slice.
            worker.shared().mailbox(worker.id()).ring_always();
        }
        worker.wakeups().turn_ended();
    }
}

/// Sleeps to the earliest deadline. Never longer than a second: monoio's own wheel can be late, and deadlines of
/// oneshots are noticed no later than that.
async fn keep_time(worker: Rc<Worker>, ring: RingPass) {
    loop {
        let now = clock::monotonic();
        let due = worker.next_deadline(now).min(now + SLEEP_MAX_MS);
        worker.wakeups().arm(due);
        let nap = Duration::from_millis(due.since_ms(now));
        if nap.is_zero() {
            judge(&worker, due).await;
            worker.wakeups().turn_ended_for_timer().await;
            // A deadline of "at once", one after the other, must not starve the sockets.
            ring.pass().await;
            continue;
        }
        monoio::select! {
            _ = monoio::time::sleep(nap) => judge(&worker, due).await,
            _ = worker.wakeups().due_earlier() => {}
        }
    }
}

/// Carries out what was due then. Much later than that, the process stood still (SIGSTOP, a paused machine, a turn
/// without end), and what peers sent in time may lie unread in their sockets: it is read first.
async fn judge(worker: &Rc<Worker>, due: Tick) {
    if clock::monotonic().since_ms(due) >= LATE_MS {
        worker.count(|counters| &counters.timers_late);
        for _ in 0..LATE_READS {
            // Through the ring: whatever it has ready is handled before this ends.
            monoio::time::sleep(Duration::from_millis(LATE_READ_MS)).await;
        }
    }
    worker.on_time();
}

const SLEEP_MAX_MS: u64 = 1_000;
/// Below any timeout that a peer's answer is judged by, as operators set them.
const LATE_MS: u64 = 1_000;
/// A pause of this length lets the ring deliver; more than one, since what lies in a socket may take several reads.
const LATE_READ_MS: u64 = 5;
const LATE_READS: u32 = 4;
