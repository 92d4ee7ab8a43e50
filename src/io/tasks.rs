//! The tasks of one worker, and the ring that runs them. A task waits for one kind of thing and hands it to the core.
//!
//! ```text
//! accept ─► serve/session (one per connection)        mail, writable, keep_time ─► turn: the end of a turn
//! ```

use super::backend::{self, Options, Pool};
use super::clock;
use super::core::Core;
use super::events::Event;
use super::mailbox::MailReceiver;
use super::moves;
use super::resolve::Resolver;
use super::rules::{Rules, ms};
use super::serve::{self, Side};
use super::shared::{Mail, Shared};
use super::socket::Socket;
use super::sys;
use crate::base::id::ShardId;
use crate::shard::DrainScope;
use crate::shard::command::StoredSession;
use monoio::net::TcpListener;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, info, warn};

/// What a worker's ring serves; the listeners were made in this thread, after it had a descriptor table of its own.
pub struct Parts {
    pub id: ShardId,
    pub shared: Arc<Shared>,
    pub rules: Rules,
    pub mail: MailReceiver<Mail>,
    pub resolver: Resolver,
    /// The sessions that are at home here.
    pub found: Vec<StoredSession>,
    pub listener: std::net::TcpListener,
    pub admin: Option<std::net::TcpListener>,
}

/// Serves until drained.
pub fn run(parts: Parts) -> io::Result<()> {
    let Parts { id, shared, rules, mail, resolver, found, listener, admin } = parts;
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .enable_timer()
        .with_entries(RING_ENTRIES)
        .uring_builder(ring())
        .build()
        .map_err(|error| {
            io::Error::new(error.kind(), format!("io_uring (see kernel.io_uring_disabled, RLIMIT_MEMLOCK): {error}"))
        })?;
    runtime.block_on(async move {
        let core = Core::new(id, shared, rules, mail)?;
        core.set_pool(new_pool(&core, resolver));
        core.restore(found);
        core.shared.restored.wait();
        let listeners: Vec<RawFd> =
            [Some(&listener), admin.as_ref()].into_iter().flatten().map(|l| l.as_raw_fd()).collect();
        let side = if admin.is_some() { Side::Public } else { Side::Whole };
        monoio::spawn(accept(core.clone(), TcpListener::from_std(listener)?, side));
        if let Some(admin) = admin {
            monoio::spawn(accept(core.clone(), TcpListener::from_std(admin)?, Side::Admin));
        }
        let bell = core.mail.pollable()?;
        let mail = core.clone();
        monoio::spawn(async move {
            loop {
                mail.mail.wait(&bell).await;
                // The bell may have been the resolver's.
                mail.pool().poll_timers(mail.clock.now());
                mail.turn.notify();
                mail.mail_taken.notified().await;
            }
        });
        if let Some(moves) = &core.shared.moves {
            let door = moves.pollable(core.id)?;
            let core = core.clone();
            monoio::spawn(async move {
                loop {
                    door.readable().await;
                    moves::let_in(&core);
                }
            });
        }
        let writable = core.clone();
        monoio::spawn(async move {
            loop {
                writable.lines.writable().await;
                writable.on_writable();
            }
        });
        monoio::spawn(keep_time(core.clone()));
        monoio::spawn(turn(core.clone()));
        core.shared.events.send(Event::Ready(Ok(())));
        drain(&core, &listeners).await;
        Ok(())
    })
}

/// Completions wait until this thread asks for them, which it does when it parks: without these flags the kernel
/// interrupts the core for each one, and every operation costs about twice (perf/README.md tells how that was found).
fn ring() -> io_uring_monoio::Builder {
    let mut ring = io_uring_monoio::IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun();
    ring
}

fn new_pool(core: &Rc<Core>, resolver: Resolver) -> Pool {
    let (sink_core, alarm_core) = (Rc::downgrade(core), Rc::downgrade(core));
    let id = usize::from(core.id.0);
    let bell = core.shared.mail[id].clone();
    resolver.on_news(move || bell.ring());
    Pool::new(backend::Parts {
        options: Options::of(&core.shared.config()),
        stats: core.shared.metrics.backend(core.id).clone(),
        resolver,
        clock: backend::Clock { monotonic_us: Box::new(clock::monotonic_us), unix_s: Box::new(clock::unix_s) },
        seed: clock::unix_ns() as u64 ^ (id as u64) << 48,
        sink: Rc::new(move |done| {
            if let Some(core) = sink_core.upgrade() {
                core.on_backend(done);
            }
        }),
        alarm: Box::new(move |deadline| {
            if let Some(core) = alarm_core.upgrade() {
                core.due_by(deadline);
            }
        }),
    })
}

async fn accept(core: Rc<Core>, listener: TcpListener, side: Side) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // SAFETY: the number has just been given up by the stream, and nobody else knows it.
                let fd = unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) };
                match Socket::new(fd) {
                    Ok(socket) => {
                        let task = serve::run(core.clone(), socket, peer.ip(), side);
                        monoio::spawn(core.clone().caught(Box::pin(task)));
                    }
                    Err(error) => warn!(%error, "a new connection was lost"),
                }
            }
            Err(_) if core.shared.is_draining() => return,
            Err(error) => {
                core.count(|metrics| &metrics.accept_errors);
                warn!(%error, worker = core.id.0, "accept failed; see RLIMIT_NOFILE when it says too many open files");
                // Until descriptors are free again there is nothing to accept: trying at once would only burn the core.
                monoio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn turn(core: Rc<Core>) {
    loop {
        core.turn.notified().await;
        if core.end_turn() {
            // Not at once: through the ring, so that what came meanwhile is read before the next slice.
            core.shared.mail[usize::from(core.id.0)].ring_always();
        }
        core.mail_taken.notify();
        core.time_turned.notify();
    }
}

/// Sleeps to the earliest deadline. Never longer than a second in monoio, whose own wheel can be late.
async fn keep_time(core: Rc<Core>) {
    loop {
        let now = clock::monotonic();
        let due = core.next_deadline().min(now + SLEEP_MAX_MS);
        core.armed.set(due);
        let nap = Duration::from_millis(due.since_ms(now));
        if nap.is_zero() {
            core.on_time();
            // Let what is ready run in between: a deadline of "at once" must not starve the ring.
            core.time_turned.notified().await;
            continue;
        }
        monoio::select! {
            _ = monoio::time::sleep(nap) => core.on_time(),
            _ = core.sooner.notified() => {}
        }
    }
}

/// Waits for the word, then closes the clients at a pace and returns when all is told and answered, or time is over.
async fn drain(core: &Rc<Core>, listeners: &[RawFd]) {
    core.drain.notified().await;
    let (id, timeout) = (core.id, ms(core.rules().config.shutdown_timeout));
    let begun = clock::monotonic();
    let (patience, over) = (begun + timeout / 2, begun + timeout.saturating_sub(DRAIN_RESERVE_MS));
    for &listener in listeners {
        sys::shutdown(listener);
    }
    let clients = core.close_some(0, DrainScope::All);
    let per_step = (clients * DRAIN_STEP_MS as usize / (timeout / 4).max(1) as usize).max(DRAIN_LEAST_PER_STEP);
    debug!(worker = core.id.0, clients, per_step, "draining");
    loop {
        // Who waits for an answer gets it first, for half of the time.
        let which = if clock::monotonic() < patience { DrainScope::Settled } else { DrainScope::All };
        let left = core.close_some(per_step, which);
        core.tell_receipts();
        // Last of all: once the door is closed, nobody can come any more.
        if left == 0 && core.is_settled() && core.shared.moves.as_ref().is_none_or(|moves| moves.close(id)) {
            return info!(worker = core.id.0, "drained");
        }
        if clock::monotonic() >= over {
            return warn!(worker = core.id.0, left, "shutdown_timeout is over; what is left is dropped");
        }
        monoio::time::sleep(Duration::from_millis(DRAIN_STEP_MS)).await;
    }
}

const RING_ENTRIES: u32 = 4096;
const SLEEP_MAX_MS: u64 = 1_000;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const DRAIN_STEP_MS: u64 = 20;
const DRAIN_LEAST_PER_STEP: usize = 50;
const DRAIN_RESERVE_MS: u64 = 500;
