//! One worker's heart: its shard and everything that carries out what the shard puts out. Every task of the worker
//! holds it; nothing in it is borrowed across an await.
//!
//! ```text
//! tasks: read, mail, timers, backend lanes ──► handle(input) ──► shard
//!                                   turn: mail, a slice of fan-out, outputs, one write per connection, the timer
//! ```
//! The turn is a task that wakes behind all tasks that are ready now: so whatever one wake-up of the ring brought is in
//! the outboxes before the first of them is written.

use super::answers::{Answers, Outlet};
use super::asks::{self, Asks};
use super::backend::{Done, Hook, IdempotencyKey, Job, Outcome, Pool, Retry};
use super::clock::{self, Clock};
use super::deadlines::Deadlines;
use super::lines::Lines;
use super::mailbox::{Bells, MailReceiver};
use super::notify::Notify;
use super::receipts::Receipts;
use super::rules::Rules;
use super::shared::{Mail, Shared, TICKET_SHARD_AT};
use super::shelf::News;
use super::storebox::{self, StoreBox};
use super::sys;
use super::upgrade::Connects;
use super::waits::Waits;
use crate::base::id::{ConnKey, Identity, ShardId};
use crate::base::time::Tick;
use crate::config::Config;
use crate::metrics::counter::Counter;
use crate::metrics::worker::WorkerMetrics;
use crate::policy::api::Targets;
use crate::policy::backend::{Actions, Verdict};

use crate::shard::command::{Claim, SessionId, StoreError, StoredSession};
use crate::shard::{
    DrainScope, Forward, ForwardOutcome, Input, Message, Output, Query, QueryId, QueryRefusal, Reply, SessionEnd,
    Shard, Terms, name_hash, session_owner,
};
use crate::store::{Claimed, Request};
use crate::wire::packet::QoS;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use tracing::{debug, error, warn};

pub struct Core {
    pub id: ShardId,
    pub shared: Arc<Shared>,
    /// Of `shared.metrics`, this worker's.
    metrics: Arc<WorkerMetrics>,
    pub clock: Clock,
    pub lines: Lines,
    pub deadlines: Rc<Deadlines>,
    pub asks: Asks,
    given: Answers,
    pub connects: Connects,
    pub store: StoreBox,
    /// Connections that wait to be their sessions'.
    pub attaches: Waits<ConnKey, Result<(), StoreError>>,
    /// Calls with a `message_id`: what the store knows of it, and what the same call answers that came before.
    pub claims: Waits<u64, Claimed>,
    pub answers: Waits<u64, Option<Arc<[u8]>>>,
    pub receipts: Receipts,
    tickets: Cell<u64>,
    pub turn: Notify,
    /// Told at the end of every turn: once for the task that waits for mail, once for the one that keeps time.
    pub mail_taken: Notify,
    pub time_turned: Notify,
    /// The earliest deadline has become earlier than the one the timer task sleeps for.
    pub sooner: Notify,
    pub armed: Cell<Tick>,
    /// When freed memory was last given back, and how many connections had been opened and ended by then.
    tidied: Cell<(Tick, u64)>,
    pub mail: MailReceiver<Mail>,
    /// Rung at the end of every turn.
    bells: Bells,
    /// Told to close everything; the drain task waits for it.
    pub drain: Notify,
    pub(super) shard: RefCell<Shard>,
    rules: RefCell<Rc<Rules>>,
    pool: OnceCell<Pool>,
    /// Mail that a full box did not take; bounded by the questions that are open and by the connections that moved.
    unsent: RefCell<VecDeque<(ShardId, Mail)>>,
    /// Calls of /updateconfig/ that wait for the main thread.
    pub reloads: Waits<u64, Result<String, String>>,
    scratch: RefCell<Vec<u8>>,
}

impl Core {
    pub fn new(id: ShardId, shared: Arc<Shared>, rules: Rules, mail: MailReceiver<Mail>) -> std::io::Result<Rc<Core>> {
        let now = clock::monotonic();
        let shard = Shard::new(id, rules.settings(), shared.metrics.shard(id).clone(), now);
        Ok(Rc::new(Core {
            id,
            metrics: shared.metrics.worker(id).clone(),
            clock: Clock::default(),
            lines: Lines::new()?,
            deadlines: Rc::new(Deadlines::new(now)),
            asks: Asks::new(id, rules.config.calls_max),
            given: Answers::default(),
            connects: Connects::default(),
            store: StoreBox::new(
                shared
                    .store
                    .get()
                    .cloned()
                    .map(|sender| -> storebox::Slot { Box::new(move |request| sender.try_send(request)) }),
            ),
            attaches: Waits::default(),
            claims: Waits::default(),
            answers: Waits::default(),
            receipts: Receipts::default(),
            tickets: Cell::new(0),
            turn: Notify::default(),
            mail_taken: Notify::default(),
            time_turned: Notify::default(),
            sooner: Notify::default(),
            armed: Cell::new(Tick::NEVER),
            tidied: Cell::new((now, 0)),
            mail,
            bells: Bells::default(),
            drain: Notify::default(),
            shard: RefCell::new(shard),
            rules: RefCell::new(Rc::new(rules)),
            pool: OnceCell::new(),
            unsent: RefCell::default(),
            reloads: Waits::default(),
            scratch: RefCell::default(),
            shared,
        }))
    }

    /// Once, before any task runs.
    pub fn set_pool(&self, pool: Pool) {
        assert!(self.pool.set(pool).is_ok(), "a worker has one pool");
    }

    pub fn pool(&self) -> &Pool {
        self.pool.get().expect("set at the start")
    }

    pub fn rules(&self) -> Rc<Rules> {
        self.rules.borrow().clone()
    }

    pub fn count(&self, counter: impl Fn(&WorkerMetrics) -> &Counter) {
        self.count_many(counter, 1);
    }

    pub fn count_many(&self, counter: impl Fn(&WorkerMetrics) -> &Counter, count: u64) {
        counter(&self.metrics).add(count);
    }

    /// The same; true when no worker has counted it before (two at the same moment may both be the first).
    pub fn count_first(&self, counter: impl Fn(&WorkerMetrics) -> &Counter) -> bool {
        let is_first = self.shared.metrics.workers().iter().all(|metrics| counter(metrics).get() == 0);
        self.count(counter);
        is_first
    }

    /// Hands the shard an input; what comes of it is carried out at the end of the turn.
    pub fn handle(&self, input: Input<'_>) {
        self.shard.borrow_mut().handle(input, self.clock.now());
        self.turn.notify();
    }

    /// What a client's socket yielded. A panic costs this connection and no other. False: read no more until resumed.
    pub fn received(&self, key: ConnKey, data: &mut [u8]) -> bool {
        let now = self.clock.now();
        let handled = catch_unwind(AssertUnwindSafe(|| {
            let mut shard = self.shard.borrow_mut();
            shard.handle(Input::Bytes { key, data }, now);
            shard.is_paused(key)
        }));
        self.turn.notify();
        let Ok(paused) = handled else {
            self.count(|counters| &counters.panics);
            error!(index = key.index.0, "a connection's handling panicked; it is closed");
            self.handle(Input::Panicked { key });
            return true;
        };
        !paused
    }

    /// A connection's task, whose panic costs that connection and no other. In a box: what an `async fn` is given lies
    /// twice in it.
    pub async fn caught(self: Rc<Core>, mut task: Pin<Box<impl Future<Output = ()>>>) {
        let ended = poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        });
        if ended.await.is_err() {
            self.count(|counters| &counters.panics);
            error!("a connection's task panicked; the connection is dropped");
        }
    }

    /// Takes a slot and ties it to a socket. `Opened` or `Abandoned` must follow.
    pub fn reserve(&self, digest: [u8; 32], fd: std::os::fd::RawFd) -> (ConnKey, Identity) {
        let (key, identity) = self.shard.borrow_mut().reserve(digest, self.clock.now());
        self.lines.attach(key.index, fd);
        (key, identity)
    }

    /// A connection that came to another worker, where `stub` is its slot. `attach` or `abandon` must follow.
    pub fn adopt(&self, identity: Identity, stub: ConnKey, fd: std::os::fd::RawFd) -> ConnKey {
        let key = self.shard.borrow_mut().adopt(identity, stub, self.clock.now());
        self.lines.attach(key.index, fd);
        key
    }

    /// The sessions that were kept, before anybody comes in.
    pub fn restore(&self, found: Vec<StoredSession>) {
        self.shard.borrow_mut().restore(found, self.clock.now());
        self.carry_out();
        self.clock.end_turn();
    }

    pub fn abandon(&self, key: ConnKey) {
        self.lines.detach(key.index);
        self.handle(Input::Abandoned { key });
    }

    /// The socket is about to be closed.
    pub fn socket_ended(&self, key: ConnKey) {
        self.lines.detach(key.index);
        self.handle(Input::SocketEnded { key });
    }

    /// Asks one shard, or all of them, and adds the replies up. `None` when too many calls are waiting.
    pub async fn ask(&self, whom: impl Iterator<Item = ShardId>, query: Query) -> Option<Reply> {
        let ask = self.asks.open()?;
        for shard in whom {
            ask.expect_one();
            self.dispatch(shard, ask.ticket(), query.clone());
        }
        ask.reply().await
    }

    /// A message to whomever it is for.
    pub async fn send_to(&self, to: &Targets<'_>, send: Send<'_>) -> Option<Reply> {
        match to {
            Targets::Session(name) => self.send_to_session(name, send).await,
            Targets::One(_) | Targets::Many(_) => self.send(to.channels(), send).await,
        }
    }

    async fn send_to_session(&self, name: &str, send: Send<'_>) -> Option<Reply> {
        let message = Message::encode(send.qos, send.message_type, send.body, &mut self.scratch.borrow_mut());
        let terms = send.terms(self.clock.now());
        let home = session_owner(name, self.shared.mail.len());
        let query = Query::SendTo { session: name.into(), message, terms };
        self.ask(std::iter::once(home), query).await
    }

    /// A message to channels, wherever they have members. Alone on this worker it costs no allocation but the
    /// message's.
    pub async fn send(&self, channels: &[std::borrow::Cow<'_, str>], send: Send<'_>) -> Option<Reply> {
        let ask = self.asks.open()?;
        let now = self.clock.now();
        let message = Message::encode(send.qos, send.message_type, send.body, &mut self.scratch.borrow_mut());
        let terms = send.terms(now);
        for channel in channels {
            let hash = name_hash(channel);
            let mut elsewhere = None;
            let may_have = |shard| shard == self.id || self.shared.presence.may_have(shard, hash);
            for shard in self.shared.workers().filter(|&shard| may_have(shard)) {
                ask.expect_one();
                if shard == self.id {
                    let mut here = self.shard.borrow_mut();
                    let message = message.clone();
                    here.handle(Input::Send { ticket: ask.ticket(), channel, message, terms: &terms }, now);
                } else {
                    let name: &Arc<str> = elsewhere.get_or_insert_with(|| Arc::from(&**channel));
                    let query = Query::Send { channel: name.clone(), message: message.clone(), terms: terms.clone() };
                    self.dispatch(shard, ask.ticket(), query);
                }
            }
        }
        self.carry_out();
        self.turn.notify();
        Some(ask.reply().await.unwrap_or(Reply::Sent { connections: 0, data: Vec::new(), kept: Default::default() }))
    }

    fn dispatch(&self, shard: ShardId, ticket: QueryId, query: Query) {
        if shard == self.id {
            self.handle(Input::Query { ticket, query });
        } else if self.put(shard, Mail::Query { ticket, query }).is_err() {
            self.count(|counters| &counters.mail_full);
            self.asks.resolve(ticket, Reply::Refused(QueryRefusal::TooBusy));
        }
    }

    /// The end of a turn. True when there is more to do at once.
    pub fn end_turn(&self) -> bool {
        let mut more = self.take_mail();
        more |= self.shard.borrow_mut().poll_fanout(self.clock.now());
        self.carry_out();
        self.write();
        self.carry_out();
        self.store.send_unsent();
        self.bells.ring(&self.shared.mail);
        more |= self.shard.borrow().has_dirty();
        self.due_by(self.next_deadline());
        self.clock.end_turn();
        more
    }

    /// An answer to a caller, at the end of the turn: behind the frames that wait now.
    pub fn answer(&self, outlet: &Outlet) {
        self.given.give(outlet, self.shard.borrow().dirty_len());
        self.turn.notify();
    }

    /// One write per connection that has something to write; each answer goes behind the frames that waited before it.
    fn write(&self) {
        let mut shard = self.shard.borrow_mut();
        let mut flushed = 0;
        self.given.drain(|answer| {
            self.lines.flush(&mut shard, answer.behind.saturating_sub(flushed));
            flushed = flushed.max(answer.behind);
            if let Some(rest) = answer.write(&self.deadlines) {
                let metrics = self.metrics.clone();
                monoio::spawn(async move {
                    if !rest.await {
                        metrics.answers_not_taken.increment();
                    }
                });
            }
        });
        self.lines.flush(&mut shard, usize::MAX);
    }

    /// Mail that must arrive, in the order in which it is posted.
    pub fn post(&self, to: ShardId, mail: Mail) {
        if to == self.id {
            return self.on_mail(mail);
        }
        let mut unsent = self.unsent.borrow_mut();
        if !unsent.is_empty() {
            unsent.push_back((to, mail));
        } else if let Err(mail) = self.put(to, mail) {
            unsent.push_back((to, mail));
        }
    }

    /// Names a wait of this worker, all over the process.
    pub fn next_ticket(&self) -> u64 {
        self.tickets.set(self.tickets.get() + 1);
        u64::from(self.id.0) << TICKET_SHARD_AT | self.tickets.get()
    }

    /// A bounded batch of what other workers sent. True when there may be more.
    fn take_mail(&self) -> bool {
        self.send_unsent();
        self.take_news();
        for _ in 0..MAIL_BATCH {
            match self.mail.try_recv() {
                Some(mail) => self.on_mail(mail),
                None => return false,
            }
        }
        true
    }

    fn take_news(&self) {
        let Some(News { told, expired, claimed }) = self.shared.shelves[usize::from(self.id.0)].take() else { return };
        if let Some(told) = told {
            self.handle(Input::Completions(told));
        }
        expired.into_iter().for_each(|expired| self.handle(Input::MessagesExpired(expired)));
        claimed.into_iter().for_each(|(ticket, claimed)| self.claims.tell(ticket, claimed));
    }

    fn on_mail(&self, mail: Mail) {
        match mail {
            Mail::Query { ticket, query } => self.handle(Input::Query { ticket, query }),
            Mail::Reply { ticket, reply } => self.asks.resolve(ticket, reply),
            Mail::Reload(config) => self.reload(config),
            Mail::Reloaded { ticket, outcome } => self.reloads.tell(ticket, outcome),
            Mail::Drain => self.drain.notify(),
            Mail::QueryAt { key, ticket, query } => self.handle(Input::RedirectedQuery { key, ticket, query }),
            Mail::Moved { key, to } => self.handle(Input::HandedOver { key, to }),
            Mail::StubEnded { key } => self.handle(Input::HandoverEnded { key }),
            Mail::MoveLost { key } => self.handle(Input::Abandoned { key }),
            Mail::Answered { ticket, answer } => self.answers.tell(ticket, answer),
        }
    }

    fn reload(&self, config: Arc<Config>) {
        let rules = Rules::new(config, self.rules().mode);
        self.shard.borrow_mut().set_settings(rules.settings());
        self.asks.set_max(rules.config.calls_max);
        self.pool().reconfigure(super::backend::Options::of(&rules.config));
        *self.rules.borrow_mut() = Rc::new(rules);
        self.turn.notify();
    }

    /// Does what the shard has put out, until it puts out nothing more.
    pub fn carry_out(&self) {
        loop {
            let output = self.shard.borrow_mut().poll_output();
            match output {
                None => return,
                Some(Output::Forward(forward)) => self.forward(forward),
                Some(Output::Closed { identity, cookie }) => self.tell_close(identity, cookie),
                Some(Output::Reply { ticket, reply }) => self.reply(ticket, reply),
                Some(Output::Attached { key }) => self.attaches.tell(key, Ok(())),
                Some(Output::AttachRefused { key, why }) => self.attaches.tell(key, Err(why)),
                Some(Output::Store(command)) => self.store.push(Request::Shard { shard: self.id, command }),
                Some(Output::RedirectQuery { to, ticket, query }) => self.redirect(to, ticket, query),
                Some(Output::HandoverEnded { origin }) => self.post(origin.shard, Mail::StubEnded { key: origin }),
                Some(Output::SessionEnded { name, cookie, why }) => self.tell_session_end(&name, cookie, why),
                Some(Output::Receipt { session, message_id }) => self.add_receipt(&session, message_id.as_deref()),
                Some(Output::EndWriting { key }) => self.lines.end_writing(key.index),
                Some(Output::Shutdown { key }) => self.lines.shutdown(key.index),
                Some(Output::Resume { key }) => self.lines.resume(key),
                Some(Output::Presence { channel, here }) => self.shared.presence.set(self.id, channel, here),
            }
        }
    }

    fn reply(&self, ticket: QueryId, reply: Reply) {
        let whose = asks::asker(ticket);
        if whose == self.id {
            return self.asks.resolve(ticket, reply);
        }
        self.post(whose, Mail::Reply { ticket, reply });
    }

    /// To where the connection that is asked about has moved; the reply goes to whoever asked.
    fn redirect(&self, to: ConnKey, ticket: QueryId, query: Query) {
        let mail = Mail::QueryAt { key: to, ticket, query };
        if self.put(to.shard, mail).is_err() {
            self.count(|counters| &counters.mail_full);
            self.reply(ticket, Reply::Refused(QueryRefusal::TooBusy));
        }
    }

    /// Into another worker's box; it hears of it at the end of the turn. Gives it back when the box is full.
    fn put(&self, to: ShardId, mail: Mail) -> Result<(), Mail> {
        self.turn.notify();
        self.bells.put(&self.shared.mail, usize::from(to.0), mail)
    }

    fn send_unsent(&self) {
        let mut unsent = self.unsent.borrow_mut();
        while let Some((whose, mail)) = unsent.pop_front() {
            if let Err(mail) = self.put(whose, mail) {
                unsent.push_front((whose, mail));
                return;
            }
        }
    }

    fn forward(&self, forward: Forward) {
        let Forward { key, session, message_type, qos, sequence, deadline, identity, cookie, body } = forward;
        let identity = identity.to_hex();
        let text = std::str::from_utf8(&identity).expect("hex is ASCII");
        let job = Job {
            hook: Hook::Forward { message_type },
            ticket: key.pack(),
            retry: if qos == QoS::AtMostOnce { Retry::Never } else { Retry::Until(deadline) },
            identity,
            cookie,
            idempotency_key: (qos != QoS::AtMostOnce).then(|| match session {
                Some(SessionId(id)) => {
                    let (run, place) = (sequence >> 16, sequence & 0xFFFF);
                    IdempotencyKey::format(format_args!("{id:032x}-{run}-{place}")).expect("it fits")
                }
                None => IdempotencyKey::format(format_args!("{text}-{sequence}")).expect("it fits"),
            }),
            query: None,
            headers: None,
            body,
        };
        if let Err(job) = self.pool().submit(job) {
            // Counted by the pool as `queue_full`; the client's repeat tries again.
            self.handle(Input::Forwarded { key, outcome: ForwardOutcome::Failed, spent: job.body });
        }
    }

    pub fn tell_close(&self, identity: Identity, cookie: Option<Rc<[u8]>>) {
        let rules = self.rules();
        if rules.config.close_url.is_empty() {
            return;
        }
        let job = Job {
            hook: Hook::Close,
            ticket: CLOSE_TICKET,
            retry: Retry::Until(self.clock.now() + CLOSE_DEADLINE_MS),
            identity: identity.to_hex(),
            cookie,
            idempotency_key: None,
            query: None,
            headers: None,
            body: Vec::new(),
        };
        if self.pool().submit(job).is_err() {
            debug!(%identity, "the backend's line is full: a close was not told");
        }
    }

    fn tell_session_end(&self, name: &str, cookie: Option<Arc<[u8]>>, why: SessionEnd) {
        if self.rules().config.close_url.is_empty() {
            return;
        }
        let why = match why {
            SessionEnd::Expired => "expired",
            SessionEnd::Dropped => "dropped",
        };
        let headers = format!("RAINBOWCLIENTSESSION: {name}\r\nRAINBOWSESSIONENDED: {why}\r\n");
        let job = Job {
            hook: Hook::SessionEnded,
            ticket: CLOSE_TICKET,
            retry: Retry::Until(self.clock.now() + CLOSE_DEADLINE_MS),
            identity: [b'0'; 64],
            cookie: cookie.map(|cookie| Rc::from(&cookie[..])),
            idempotency_key: None,
            query: None,
            headers: Some(headers.into_bytes().into()),
            body: Vec::new(),
        };
        if self.pool().submit(job).is_err() {
            debug!(name, "the backend's line is full: a session's end was not told");
        }
    }

    /// The pool's sink: a job has come back. A panic here must not end the pool's task.
    pub fn on_backend(&self, done: Done<'_>) {
        let ticket = done.ticket;
        let handled = catch_unwind(AssertUnwindSafe(|| {
            if ticket == CLOSE_TICKET {
            } else if ticket & RECEIPT_TICKET != 0 && ticket & CONNECT_TICKET == 0 {
                self.on_receipts_told(&done);
            } else if ticket & CONNECT_TICKET != 0 {
                self.connects.on_answer(self, ticket & !CONNECT_TICKET, done.outcome);
            } else {
                self.on_forwarded(ConnKey::unpack(ticket), done);
            }
        }));
        self.turn.notify();
        if handled.is_err() {
            self.count(|counters| &counters.panics);
            error!("the handling of a backend's answer panicked");
            if ticket & CONNECT_TICKET == 0 {
                self.handle(Input::Panicked { key: ConnKey::unpack(ticket) });
            }
        }
    }

    fn on_forwarded(&self, key: ConnKey, done: Done<'_>) {
        let outcome = match done.outcome {
            Outcome::Answered { verdict: Verdict::Success | Verdict::Final, head, body } => {
                self.apply(key, &Actions::read(head.headers));
                ForwardOutcome::Answered(body)
            }
            Outcome::Answered { .. } | Outcome::GaveUp { .. } => ForwardOutcome::Failed,
        };
        let spent = done.request_body;
        self.shard.borrow_mut().handle(Input::Forwarded { key, outcome, spent }, self.clock.now());
    }

    /// What the backend's answer tells us to do with the connection: unsubscribe first.
    pub fn apply(&self, key: ConnKey, actions: &Actions<'_>) {
        if actions.is_empty() {
            return;
        }
        let now = self.clock.now();
        let mut shard = self.shard.borrow_mut();
        for channel in actions.unsubscribe.iter() {
            shard.handle(Input::Unsubscribe { key, channel }, now);
        }
        for channel in actions.subscribe.iter() {
            shard.handle(Input::Subscribe { key, channel }, now);
        }
        if let Some(value) = actions.cookie {
            shard.handle(Input::Cookie { key, value }, now);
        }
        drop(shard);
        self.note_invalid(actions);
    }

    /// The business server does not accept what we ask: an operator must hear of it.
    pub fn note_invalid(&self, actions: &Actions<'_>) {
        if actions.unreadable > 0 && self.count_first(|counters| &counters.backend_unreadable) {
            warn!("the business server says RAINBOW* headers that cannot be read; they do nothing (said once)");
        }
        if let Some(invalid) = actions.invalid {
            self.count(|counters| &counters.backend_invalid);
            let meaning = match invalid {
                60001 => "invalid signature",
                60002 => "identity required",
                60003 => "POST required",
                _ => "unknown",
            };
            error!(code = invalid, meaning, "the business server calls our request invalid (RAINBOWREQUESTINVALID)");
        }
    }

    pub fn next_deadline(&self) -> Tick {
        let shard = self.shard.borrow().next_tick().unwrap_or(Tick::NEVER);
        let sockets = self.deadlines.next_poll().unwrap_or(Tick::NEVER);
        let due = shard.min(sockets).min(self.pool().next_deadline()).min(self.receipts.due());
        if self.store.has_unsent() || !self.unsent.borrow().is_empty() {
            due.min(self.clock.now() + UNSENT_MS)
        } else {
            due
        }
    }

    /// A deadline outside of turns: the timer task must not sleep over it.
    pub fn due_by(&self, deadline: Tick) {
        if deadline < self.armed.get() {
            self.sooner.notify();
        }
    }

    /// Everything that is due.
    pub fn on_time(&self) {
        let now = self.clock.now();
        self.shared.beats[usize::from(self.id.0)].store(now.0, std::sync::atomic::Ordering::Relaxed);
        self.shard.borrow_mut().handle(Input::Tick, now);
        self.tidy(now);
        self.deadlines.poll(now);
        self.pool().poll_timers(now);
        self.tell_receipts_if_due(now);
        self.turn.notify();
    }

    /// Tables that have grown, and clients that have gone, leave memory behind: looked at while clients come and go.
    fn tidy(&self, now: Tick) {
        let (tidied, known) = self.tidied.get();
        let came_and_went = self.shard.borrow().came_and_went();
        if now.since_ms(tidied) >= TIDY_MS && came_and_went != known {
            self.tidied.set((now, came_and_went));
            sys::give_back_freed_memory();
        }
    }

    /// Some sockets take bytes again.
    pub fn on_writable(&self) {
        self.lines.take_writable(&mut self.shard.borrow_mut());
        self.turn.notify();
    }

    /// Closes up to `most` clients with 1001; returns how many connections there still are, including those whose last
    /// messages are on their way to the backend.
    pub fn close_some(&self, most: usize, which: DrainScope) -> usize {
        let now = self.clock.now();
        let mut shard = self.shard.borrow_mut();
        shard.close_some(most, which, crate::wire::ws::frame::CloseCode::GOING_AWAY, "going away", now);
        self.turn.notify();
        shard.slots()
    }

    /// Nobody waits for anything that this worker does: it may end.
    pub fn is_settled(&self) -> bool {
        let tasks = self.asks.is_empty()
            && self.attaches.is_empty()
            && self.claims.is_empty()
            && self.answers.is_empty()
            && self.given.is_empty();
        let stored = !self.store.has_unsent() && self.shard.borrow().store_under_way() == 0;
        tasks && stored && self.unsent.borrow().is_empty() && self.pool().is_idle()
    }
}

/// A message for channels.
pub struct Send<'a> {
    pub qos: QoS,
    pub message_type: u16,
    pub body: &'a [u8],
    pub timeout: std::time::Duration,
    /// `None`: as configured.
    pub ttl_ms: Option<u64>,
    /// Of a call with a `message_id`.
    pub claim: Option<Claim>,
}

impl Send<'_> {
    fn terms(self, now: Tick) -> Terms {
        Terms { deadline: now + self.timeout, ttl_ms: self.ttl_ms, claim: self.claim }
    }
}

/// Marks the pool's tickets: a connect, a close, a number of receipts. A connection's slot never reaches these bits.
pub const CONNECT_TICKET: u64 = 1 << 63;
const CLOSE_TICKET: u64 = 1 << 62;
pub const RECEIPT_TICKET: u64 = 1 << 61;
const TIDY_MS: u64 = 1_000;
const CLOSE_DEADLINE_MS: u64 = 60_000;
const MAIL_BATCH: usize = 1024;
/// What another worker or the store had no room for is tried again after so long.
const UNSENT_MS: u64 = 2;
