//! One worker: its shard, and the turn that carries out what the shard puts out. Every task of the worker holds it;
//! nothing in it is borrowed across an await.
//!
//! ```text
//! tasks: read, messages, timers, backend ──► handle(input) ──► shard
//!                         end_turn: messages, a slice of fan-out, outputs, one write per connection, the timer
//! ```
//! The end of a turn is a task that wakes behind all tasks that are ready now: so whatever one wake-up of the ring
//! brought is in the outboxes before the first of them is written.
//!
//! What a call, a hook's outcome or an upgrade means is above this file (`api`, `client`, `service`).

use super::message::PeerMessage;
use super::peers::Peers;
use super::rules::Rules;
use super::shared::Shared;
use super::wakeups::Wakeups;
use crate::base::id::{ConnKey, ShardId};
use crate::base::limits::Limits;
use crate::base::time::Tick;
use crate::config::Config;
use crate::io::backend::Pool;
use crate::io::cluster::calls::{WorkerCluster, hash_of_session};
use crate::io::cluster::ownership::{Action, Ownership};
use crate::io::cluster::port::ToWorker;
use crate::io::handover::session_request;
use crate::io::hooks::records::Recorded;
use crate::io::hooks::requests::Hooks;
use crate::io::runtime::clock::{self, Clock};
use crate::io::runtime::deadlines::Deadlines;
use crate::io::runtime::events::Event;
use crate::io::runtime::mailbox::MailboxReceiver;
use crate::io::runtime::oneshot::ReturnAddress;
use crate::io::runtime::panics::contain;
use crate::io::runtime::sys;
use crate::io::store::inbox::StoreReports;
use crate::io::store::queue::{StoreQueue, TrySend};
use crate::io::worker::bodies::Bodies;
use crate::io::worker::calls::gather;
use crate::io::worker::calls::pending::PendingCalls;
use crate::io::worker::connecting::PendingConnects;
use crate::io::worker::descriptors::Descriptors;
use crate::io::worker::responses::{DueResponses, ResponseWriter};
use crate::io::worker::sockets::ClientSockets;
use crate::metrics::counter::Counter;
use crate::metrics::worker::WorkerMetrics;
use crate::shard::command::{StoredSession, Token};
use crate::shard::{DrainScope, Forward, ForwardOutcome, Input, Mode, Output, QueryId, QueryRefusal, Reply, Shard};
use crate::store::Request;
use crate::wire::ws::frame::CloseCode;
use std::cell::{Cell, RefCell, RefMut};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use tracing::error;

pub struct Worker {
    id: ShardId,
    shared: Arc<Shared>,
    limits: Limits,
    rules: RefCell<Rc<Rules>>,
    clock: Clock,
    wakeups: Wakeups,
    shard: RefCell<Shard>,
    sockets: ClientSockets,
    metrics: Arc<WorkerMetrics>,
    due_responses: DueResponses,
    bodies: Rc<Bodies>,
    descriptors: Descriptors,
    deadlines: Rc<Deadlines>,
    connects: PendingConnects,
    calls: PendingCalls,
    hooks: Hooks,
    store: StoreQueue,
    peers: Peers,
    cluster: WorkerCluster,
    ownership: Ownership,
    /// When freed memory was last given back, and how many connections had been opened and ended by then.
    memory_given_back: Cell<(Tick, u64)>,
}

/// What a worker is made of. `pool` makes its client of the backend, which gives outcomes back to the worker.
pub struct WorkerSetup<P: FnOnce(&Weak<Worker>) -> Pool> {
    pub id: ShardId,
    pub shared: Arc<Shared>,
    pub rules: Rules,
    pub mailbox: MailboxReceiver<PeerMessage>,
    pub pool: P,
    pub descriptors: Descriptors,
    /// Drawn at random.
    pub seed: u64,
}

impl Worker {
    pub fn new<P: FnOnce(&Weak<Worker>) -> Pool>(setup: WorkerSetup<P>) -> io::Result<Rc<Worker>> {
        let WorkerSetup { id, shared, rules, mailbox, pool, descriptors, seed } = setup;
        let now = clock::monotonic();
        let limits = rules.limits().clone();
        let sockets = ClientSockets::new()?;
        let to_store = shared.store().cloned();
        let spans = shared.span_recorder(id, !seed);
        let is_shared = to_store.is_some() && shared.cluster().is_some();
        Ok(Rc::new_cyclic(|worker| Worker {
            id,
            clock: if to_store.is_some() { Clock::with_wall_clock() } else { Clock::default() },
            wakeups: Wakeups::default(),
            shard: RefCell::new(Shard::new(
                id,
                rules.settings(shared.hash_key(), shared.node()),
                shared.metrics().shard(id).clone(),
                now,
            )),
            metrics: shared.metrics().worker(id).clone(),
            sockets,
            due_responses: DueResponses::default(),
            bodies: Rc::default(),
            descriptors,
            deadlines: Rc::new(Deadlines::new(now)),
            connects: PendingConnects::new(now),
            calls: PendingCalls::new(id, rules.config().calls_max, now),
            hooks: Hooks::new((pool(worker), spans), id, rules.config(), limits.clone()),
            store: StoreQueue::new(
                to_store.map(|store| -> TrySend { Box::new(move |request| store.try_send(request)) }),
            ),
            peers: Peers::new(shared.mailboxes().clone(), mailbox, &limits),
            cluster: WorkerCluster::new(shared.cluster().cloned(), id, &limits, now),
            ownership: Ownership::new(is_shared.then_some(shared.node()), rules.config().store.kind, seed, now),
            memory_given_back: Cell::new((now, 0)),
            limits,
            rules: RefCell::new(Rc::new(rules)),
            shared,
        }))
    }

    // The parts, for the tasks and for what is built on the turn.

    pub fn id(&self) -> ShardId {
        self.id
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn bodies(&self) -> &Rc<Bodies> {
        &self.bodies
    }

    pub fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn rules(&self) -> Rc<Rules> {
        self.rules.borrow().clone()
    }

    /// The time of this turn. The first reading asks for the end of the turn, which forgets the time: a worker never
    /// sleeps over a time that it has read, so what wakes it is not dated back.
    pub fn now(&self) -> Tick {
        if !self.clock.is_read() {
            self.wakeups.need_turn();
        }
        self.clock.now()
    }

    /// The same in microseconds.
    pub fn now_us(&self) -> u64 {
        self.now();
        self.clock.now_us()
    }

    /// Seconds since 1970, as of this turn.
    pub fn unix_s(&self) -> u64 {
        self.now();
        self.clock.unix_s()
    }

    /// A call has been answered. It began with the turn that read its last byte.
    pub fn call_ended(&self, path: &'static str, began_us: u64) {
        self.metrics.calls_by_path.named(path).record(clock::monotonic_us().saturating_sub(began_us));
    }

    pub fn wakeups(&self) -> &Wakeups {
        &self.wakeups
    }

    /// For one statement: whoever holds it keeps everybody else from the shard. Outputs that come of it are carried out
    /// at the end of the turn, which `Wakeups::need_turn` asks for.
    pub fn shard(&self) -> RefMut<'_, Shard> {
        self.shard.borrow_mut()
    }

    pub fn sockets(&self) -> &ClientSockets {
        &self.sockets
    }

    pub fn deadlines(&self) -> &Rc<Deadlines> {
        &self.deadlines
    }

    pub fn connects(&self) -> &PendingConnects {
        &self.connects
    }

    pub fn calls(&self) -> &PendingCalls {
        &self.calls
    }

    pub fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    pub fn store(&self) -> &StoreQueue {
        &self.store
    }

    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    pub fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    pub fn cluster(&self) -> &WorkerCluster {
        &self.cluster
    }

    pub fn count(&self, counter: impl Fn(&WorkerMetrics) -> &Counter) {
        counter(&self.metrics).increment();
    }

    pub fn count_many(&self, counter: impl Fn(&WorkerMetrics) -> &Counter, count: u64) {
        counter(&self.metrics).add(count);
    }

    /// Counts it; true when no worker has counted it before (two at the same moment may both be the first).
    pub fn count_first(&self, counter: impl Fn(&WorkerMetrics) -> &Counter) -> bool {
        let is_first = self.shared.metrics().workers().iter().all(|metrics| counter(metrics).get() == 0);
        self.count(counter);
        is_first
    }

    // Inputs.

    /// Gives the shard an input; the outputs are carried out at the end of the turn.
    pub fn handle(&self, input: Input<'_>) {
        let now = self.clock.now();
        self.shard_now().handle(input, now);
        self.wakeups.need_turn();
    }

    /// The shard, with the wall clock of this turn.
    pub fn shard_now(&self) -> RefMut<'_, Shard> {
        let mut shard = self.shard.borrow_mut();
        if let Some(unix_ms_at_zero) = self.clock.unix_ms_at_zero() {
            shard.set_unix_ms_at_zero(unix_ms_at_zero);
        }
        shard
    }

    /// Bytes from a client's socket. A panic costs this connection and no other. False: read no more until resumed.
    pub fn received(&self, key: ConnKey, data: &mut [u8]) -> bool {
        let now = self.clock.now();
        let handled = contain(|| {
            let mut shard = self.shard_now();
            shard.handle(Input::Bytes { key, data }, now);
            shard.is_paused(key)
        });
        self.wakeups.need_turn();
        let Some(paused) = handled else {
            self.count(|counters| &counters.panics);
            error!(index = key.index.0, "a connection's handling panicked; it is closed");
            self.handle(Input::Panicked { key });
            return true;
        };
        !paused
    }

    /// The client's socket is about to be closed.
    pub fn socket_ended(&self, key: ConnKey) {
        self.sockets.detach(key.index);
        self.handle(Input::SocketEnded { key });
    }

    /// The sessions that were stored, before the first connection is accepted.
    pub fn restore(&self, sessions: Vec<StoredSession>, token: Option<Token>) {
        self.ownership.own(&sessions, token);
        self.shard.borrow_mut().restore(sessions, self.clock.now());
        self.carry_out();
        self.clock.end_turn();
    }

    /// Closes up to `most` clients with 1001, each with a reason of its own. Returns how many.
    pub fn close_some(&self, most: usize, scope: DrainScope, reason: impl FnMut() -> String) -> usize {
        self.wakeups.need_turn();
        self.shard.borrow_mut().close_some(most, scope, CloseCode::GOING_AWAY, reason, self.clock.now())
    }

    /// What was appended is written at the end of the turn, behind the frames that wait now.
    pub fn respond(&self, writer: &ResponseWriter) {
        self.due_responses.push(writer, self.shard.borrow().dirty_len());
        self.wakeups.need_turn();
    }

    // The turn.

    /// The end of a turn. True when there is more to do at once.
    pub fn end_turn(&self) -> bool {
        let mut more = self.take_messages();
        more |= self.shard.borrow_mut().poll_fanout(self.clock.now());
        self.carry_out();
        self.shard.borrow().publish();
        self.cork_unknown();
        self.write();
        self.carry_out();
        self.count_many(|counters| &counters.closes_unrecorded, self.hooks.remove_records(&self.store));
        self.store.send_waiting();
        self.cluster.send_changes();
        self.cluster.flush();
        self.peers.ring();
        more |= self.shard.borrow().has_dirty();
        self.wakeups.due_by(self.next_deadline(self.clock.now()));
        self.metrics.turns.record(self.clock.end_turn());
        more
    }

    /// The peers hear of new channels, and the 101 of who is subscribed to one waits until they know.
    fn cork_unknown(&self) {
        if self.cluster.port().is_none() {
            return;
        }
        self.cluster.send_changes();
        self.cluster.take_corked(self.now()).into_iter().for_each(|key| self.sockets.cork(key.index));
    }

    /// Lets clients have their 101 that have waited.
    pub fn release(&self, known: Vec<ConnKey>) {
        let mut shard = self.shard.borrow_mut();
        for key in known {
            // Somebody else may have the slot by now.
            if shard.is_current(key) {
                self.sockets.uncork(&mut shard, key.index);
            }
        }
    }

    fn on_recorded(&self, recorded: Recorded) {
        self.count_many(|counters| &counters.connections_unrecorded, recorded.missed);
        self.release(recorded.released);
    }

    /// A bounded batch of what other workers sent. True when there may be more.
    fn take_messages(&self) -> bool {
        if self.peers.send_backlog() {
            self.wakeups.need_turn();
        }
        self.take_store_reports();
        for _ in 0..self.limits.mailbox_batch {
            match self.peers.try_receive() {
                Some(message) => self.on_message(message),
                None => return false,
            }
        }
        true
    }

    fn take_store_reports(&self) {
        let reports = self.shared.store_inbox(self.id).take();
        let Some(reports) = reports else { return };
        let StoreReports { completions, expired, claimed, transferred, ownership, recorded, fenced } = reports;
        if let Some(completions) = completions {
            self.handle(Input::Completions(completions));
        }
        expired.into_iter().for_each(|expired| self.handle(Input::MessagesExpired(expired)));
        for (id, outcome) in claimed {
            self.calls.claims().complete(ReturnAddress::unpack(id.0).oneshot(), outcome);
        }
        for (id, answer) in transferred {
            self.calls.transfers().complete(ReturnAddress::unpack(id.0).oneshot(), answer);
        }
        self.on_recorded(self.hooks.records().on_answers(&recorded));
        // What the shard is told to give away it must not have anything of under way.
        self.carry_out();
        self.own(|sessions, now| {
            ownership.into_iter().for_each(|answer| sessions.on_answer(answer, now));
            fenced.iter().for_each(|session| sessions.on_fenced(session));
        });
    }

    fn on_message(&self, message: PeerMessage) {
        match message {
            PeerMessage::Query { query_id, query } => self.handle(Input::Query { query_id, query }),
            PeerMessage::Traced { trace, entry } => {
                self.calls.traces().pass_on(trace, entry, &self.peers, &self.metrics)
            }
            PeerMessage::Reply { query_id, reply } => self.calls.gathers().resolve(query_id, reply),
            PeerMessage::RedirectedQuery { key, query_id, query } => {
                self.handle(Input::RedirectedQuery { key, query_id, query });
            }
            PeerMessage::HandedOver { origin, to } => self.handle(Input::HandedOver { key: origin, to }),
            PeerMessage::HandoverEnded { origin } => self.handle(Input::HandoverEnded { key: origin }),
            PeerMessage::HandoverFailed { origin } => self.handle(Input::Abandoned { key: origin }),
            PeerMessage::CallEnded { oneshot, response } => self.calls.repeats().complete(oneshot, response),
            PeerMessage::Reload { config, number } => {
                self.reload(config);
                // Should the main thread have no room, it names this worker as one that did not confirm.
                let _ = self.shared.events().try_send(Event::Reloaded(self.id, number));
            }
            PeerMessage::Reloaded { oneshot, outcome } => self.calls.reloads().complete(oneshot, outcome),
            PeerMessage::PassSession { from, name, token, to } => {
                self.own(|sessions, now| sessions.on_request(from, (name, token), to, now));
            }
            PeerMessage::TakeSession { from, name } => self.own(|sessions, _| sessions.take(name, from)),
            PeerMessage::SessionPassed { oneshot, is_passed } => self.calls.passes().complete(oneshot, is_passed),
            PeerMessage::QueryName { from, query, to } => {
                self.own(|sessions, now| sessions.on_query(from, query, to, now));
            }
            PeerMessage::NameAnswered { oneshot, code } => self.calls.names().complete(oneshot, code),
            PeerMessage::SessionKnown { name } => self.own(|sessions, _| sessions.on_known(&name)),
            PeerMessage::Cluster(ToWorker::Adopt(dead)) => self.own(|sessions, _| {
                dead.iter().for_each(|(name, token)| sessions.adopt(name.clone(), *token));
            }),
            PeerMessage::Cluster(ToWorker::Parted(node)) => self.own(|sessions, _| sessions.on_parted(node)),
            PeerMessage::Cluster(ToWorker::Closes(records)) => self.hooks.close_former(&records, self.now()),
            PeerMessage::Cluster(message) => self.release(self.cluster.on_message(message, self.now())),
            PeerMessage::Drain => self.wakeups.drain(),
        }
    }

    /// Lets the sessions' owner know of something, and does what follows.
    pub fn own(&self, act: impl FnOnce(&Ownership, Tick)) {
        let now = self.now();
        act(&self.ownership, now);
        while let Some(action) = self.ownership.poll_action(&self.shared.seen_peers(self.cluster.peers()), now) {
            match action {
                Action::Store(command) => self.store.push(Request::Ownership { shard: self.id, command }),
                Action::Own { name, stored, waiting, is_corked } => {
                    waiting.iter().filter(|_| is_corked).for_each(|client| self.sockets.cork(client.key.index));
                    let anew = session_request::take(&mut self.shard_now(), &name, stored, waiting, now);
                    // Before anybody waits until the peers know of its channels.
                    self.carry_out();
                    // On a disk of its own a node has what its shard has: of the rest another node may make one.
                    if self.ownership.has_disk() && !self.shard.borrow().has_session(&name) {
                        self.ownership.on_dropped(&name);
                    }
                    anew.into_iter().for_each(|client| self.ownership.attach(client, now));
                    self.wakeups.need_turn();
                }
                Action::Pass(name) => self.handle(Input::PassSession { name: &name }),
                Action::Lose(name) => {
                    self.count(|counters| &counters.sessions_lost);
                    self.handle(Input::LoseSession { name: &name });
                }
                Action::Forget { name, keeps_name } => self.handle(Input::ForgetSession { name: &name, keeps_name }),
                Action::Refuse { key, why } => self.connects.attached(key, Err(why)),
                Action::Answer { to, code } => {
                    self.send_message(to.worker(), PeerMessage::NameAnswered { oneshot: to.oneshot(), code });
                }
                Action::Reply { to, is_passed } => {
                    self.count_many(|counters| &counters.sessions_passed, is_passed.into());
                    self.send_message(to.worker(), PeerMessage::SessionPassed { oneshot: to.oneshot(), is_passed });
                }
            }
        }
        self.due_by(self.ownership.next_tick());
    }

    fn reload(&self, config: Arc<Config>) {
        let rules = self.rules().reloaded(config);
        self.shard.borrow_mut().set_settings(rules.settings(self.shared.hash_key(), self.shared.node()));
        self.calls.gathers().set_max(rules.config().calls_max);
        self.descriptors.reconfigure(rules.config());
        self.hooks.reconfigure(rules.config(), self.descriptors.connections_per_backend());
        *self.rules.borrow_mut() = Rc::new(rules);
        self.wakeups.need_turn();
    }

    /// Carries out what the shard has put out, until it puts out nothing more.
    pub fn carry_out(&self) {
        loop {
            let output = self.shard.borrow_mut().poll_output();
            match output {
                None => return,
                Some(Output::Forward(forward)) => self.forward(forward),
                Some(Output::Closed { identity, client, ending }) => {
                    self.hooks.close(identity, client, ending, self.now());
                }
                Some(Output::Reply { query_id, reply }) => self.reply(query_id, reply),
                Some(Output::Attached { key }) => {
                    self.cluster.on_opened(key);
                    self.connects.attached(key, Ok(()));
                }
                Some(Output::SessionHere { name, here }) => {
                    self.cluster.on_channel(hash_of_session(self.shared.hash_key(), &name), here);
                }
                Some(Output::SessionFlushed { name }) => self.own(|sessions, _| sessions.on_flushed(&name)),
                Some(Output::SessionDropped { name }) => self.own(|sessions, _| sessions.on_dropped(&name)),
                Some(Output::AttachRefused { key, why }) => self.connects.attached(key, Err(why)),
                Some(Output::Store(command)) => self.store.push(Request::Shard { shard: self.id, command }),
                Some(Output::RedirectQuery { to, query_id, query }) => {
                    let redirected = PeerMessage::RedirectedQuery { key: to, query_id, query };
                    self.query_peer(to.shard, query_id, redirected);
                }
                Some(Output::HandoverEnded { origin }) => {
                    self.send_message(origin.shard, PeerMessage::HandoverEnded { origin });
                }
                Some(Output::SessionEnded { name, cookie, why }) => {
                    let cookie = cookie.map(|cookie| Rc::from(&cookie[..]));
                    self.hooks.session_ended(name, cookie, why, self.now());
                }
                Some(Output::Receipt { session, message_id }) => self.receipt(&session, message_id.as_deref()),
                Some(Output::Traced { trace, entry }) => {
                    self.calls.traces().pass_on(trace, entry, &self.peers, &self.metrics)
                }
                Some(Output::EndWriting { key }) => self.sockets.end_writing(key.index),
                Some(Output::Shutdown { key }) => self.sockets.shutdown(key.index),
                Some(Output::Resume { key }) => self.sockets.resume(key),
                Some(Output::Presence { channel, here }) => {
                    self.shared.presence().set(self.id, channel, here);
                    self.cluster.on_channel(channel, here);
                }
            }
        }
    }

    fn forward(&self, forward: Forward) {
        let fails = self.rules.borrow().mode() == Mode::PanicInTurnOn(forward.message_type);
        assert!(!fails, "asked to panic by a test");
        let key = forward.key;
        if let Err(spent) = self.hooks.forward(forward) {
            self.handle(Input::Forwarded { key, outcome: ForwardOutcome::Failed, spent });
        }
    }

    fn receipt(&self, session: &str, message_id: Option<&str>) {
        let dropped = self.hooks.receipt(session, message_id, clock::unix_ms().0, self.now());
        self.count_dropped_receipts(dropped);
        self.due_by(self.hooks.receipts_due());
    }

    /// The receipts that were gathered go out.
    pub fn send_receipts(&self) {
        let dropped = self.hooks.send_receipts(self.now());
        self.count_dropped_receipts(dropped);
    }

    pub fn count_dropped_receipts(&self, count: u32) {
        self.count_many(|counters| &counters.receipts_dropped, u64::from(count));
    }

    /// One write per connection that has something to write; each response goes behind the frames that waited before
    /// it.
    fn write(&self) {
        let mut shard = self.shard.borrow_mut();
        let mut flushed = 0;
        self.due_responses.drain(|response| {
            self.sockets.flush(&mut shard, response.behind().saturating_sub(flushed));
            flushed = flushed.max(response.behind());
            if let Some(rest) = response.write(&self.deadlines, &self.descriptors, self.limits.response_timeout_ms) {
                let metrics = self.metrics.clone();
                monoio::spawn(async move {
                    if !rest.await {
                        metrics.answers_not_taken.increment();
                    }
                });
            }
        });
        self.sockets.flush(&mut shard, usize::MAX);
    }

    /// Some sockets take bytes again.
    pub fn on_writable(&self) {
        self.sockets.take_writable(&mut self.shard.borrow_mut());
        self.wakeups.need_turn();
    }

    // Messages to other workers, and replies.

    /// A message that must arrive, in the order in which it is sent. This worker's own arrives at once.
    pub fn send_message(&self, to: ShardId, message: PeerMessage) {
        if to == self.id {
            return self.on_message(message);
        }
        self.wakeups.need_turn();
        self.peers.send(to, message);
    }

    /// A query that a full mailbox refuses: then the refusal is the reply.
    pub fn query_peer(&self, to: ShardId, query_id: QueryId, message: PeerMessage) {
        self.wakeups.need_turn();
        let refused = self.peers.try_send(to, message);
        if let Err(PeerMessage::Query { query, .. } | PeerMessage::RedirectedQuery { query, .. }) = refused {
            self.count(|counters| &counters.mailbox_full);
            for _ in 0..query.replies() {
                self.reply(query_id, Reply::not_queried(&query, QueryRefusal::TooBusy));
            }
        }
    }

    /// To the worker that gathers the replies.
    fn reply(&self, query_id: QueryId, reply: Reply) {
        let origin = gather::origin(query_id);
        if origin == self.id {
            return self.calls.gathers().resolve(query_id, reply);
        }
        // Who hears that somebody is subscribed waits until the peers know: they must have been told before.
        self.cluster.send_changes();
        self.send_message(origin, PeerMessage::Reply { query_id, reply });
    }

    // Time.

    pub fn next_deadline(&self, now: Tick) -> Tick {
        let shard = self.shard.borrow().next_tick().unwrap_or(Tick::NEVER);
        let sockets = self.deadlines.next_poll().unwrap_or(Tick::NEVER);
        // A node that says nothing is met in practice: its calls must not wait until somebody happens to look.
        let calls = if self.cluster.has_peers() { self.calls.gathers().next_deadline() } else { None };
        let due = shard.min(sockets).min(self.hooks.next_deadline()).min(calls.unwrap_or(Tick::NEVER));
        let due = due.min(self.ownership.next_tick());
        if !self.store.is_empty() || self.peers.has_backlog() || self.cluster.has_changes() {
            due.min(now + self.limits.backlog_retry_ms)
        } else {
            due
        }
    }

    /// A deadline that was set outside of turns: the timer task must not sleep over it.
    pub fn due_by(&self, deadline: Tick) {
        self.wakeups.due_by(deadline);
    }

    /// Everything that is due. The timer task calls it at least once a second.
    pub fn on_time(&self) {
        let now = self.clock.now();
        self.shared.heartbeats().beat(self.id, now);
        self.shard_now().handle(Input::Tick, now);
        self.give_back_memory(now);
        self.deadlines.poll(now);
        self.hooks.poll_timers(now);
        self.hooks.publish_upstreams(self.shared.upstreams(self.id), now);
        self.connects.expire(now);
        self.calls.expire(now);
        self.cluster.expire(now);
        self.own(|sessions, now| sessions.on_time(now));
        self.release(self.cluster.release(now));
        self.on_recorded(self.hooks.records().expire(now));
        self.descriptors.on_time(now);
        self.count_many(|counters| &counters.closes_given_up, self.hooks.take_closes_given_up(now));
        if now >= self.hooks.receipts_due() {
            self.send_receipts();
        }
        self.wakeups.need_turn();
    }

    /// Tables that have grown, and clients that have gone, leave memory behind: given back while clients come and go.
    fn give_back_memory(&self, now: Tick) {
        let (given_back, known) = self.memory_given_back.get();
        let came_and_went = self.shard.borrow().came_and_went();
        if now.since_ms(given_back) >= GIVE_BACK_MS && came_and_went != known {
            self.memory_given_back.set((now, came_and_went));
            sys::give_back_freed_memory();
        }
    }

    /// Nobody waits for anything that this worker does: it may end.
    pub fn is_settled(&self) -> bool {
        let tasks = self.calls.is_empty() && self.connects.is_empty() && self.due_responses.is_empty();
        let stored = self.store.is_empty() && self.shard.borrow().store_under_way() == 0;
        tasks && self.ownership.is_idle() && stored && !self.peers.has_backlog() && self.hooks.is_idle()
    }

    // Tasks.

    /// Starts a connection's task. A panic in it costs that connection and no other. The task is boxed, because an
    /// `async fn` keeps what it is given twice.
    pub fn spawn(self: &Rc<Worker>, task: Pin<Box<impl Future<Output = ()> + 'static>>) {
        monoio::spawn(self.clone().caught(task));
    }

    async fn caught(self: Rc<Worker>, mut task: Pin<Box<impl Future<Output = ()>>>) {
        let ended = poll_fn(|context| match contain(|| task.as_mut().poll(context)) {
            Some(poll) => poll.map(Some),
            None => Poll::Ready(None),
        });
        if ended.await.is_none() {
            self.count(|counters| &counters.panics);
            error!("a connection's task panicked; the connection is dropped");
        }
    }
}

const GIVE_BACK_MS: u64 = 1_000;
