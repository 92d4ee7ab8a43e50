//! The durable sessions of this worker where other nodes share the store: each is claimed before a client is attached to
//! it, and passed on when a client of it connects elsewhere. The rules are in `cluster::ownership::claims`; here they
//! meet the shard, the store and the other nodes.
//!
//! ```text
//! attach ─► claims ─► store ─► claims ─ Owned ─► shard: restore, Attach
//! another node's Pass ─► claims ─ Flush ─► shard: PassSession ─► SessionFlushed ─► claims ─► store ─► reply
//! ```

use super::turn::Worker;
use crate::base::id::{ConnKey, Generation, Identity};
use crate::base::time::Tick;
use crate::cluster::ownership::claims::{
    Claims, ClaimsOutput, EndReason, Handover, RefusalReason, RequestId, SessionName, Token,
};
use crate::io::client::lifecycle;
use crate::io::handover::session_request::SessionRequest;
use crate::io::runtime::notify::Notify;
use crate::io::runtime::oneshot::ReturnAddress;
use crate::io::worker::message::PeerMessage;
use crate::shard::Input;
use crate::shard::command::{StoreError, StoredSession};
use crate::shard::ownership::OwnershipAnswer;
use crate::store::Request;
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::collections::VecDeque;
use tracing::{debug, warn};

/// Of one worker; it does nothing where nobody shares the store.
pub struct Ownership {
    inner: Option<RefCell<Inner>>,
    errand_due: Notify,
}

struct Inner {
    claims: Claims,
    /// Connections that are to be attached when their session is owned.
    waiting: FxHashMap<SessionName, Vec<Waiting>>,
    /// Sessions as they were when they were claimed, until they are owned.
    claimed: FxHashMap<SessionName, Box<StoredSession>>,
    /// Sessions that the shard is to store, by the token that they have.
    flushing: FxHashMap<SessionName, Token>,
    /// Where the answers to other nodes' requests go.
    requests: FxHashMap<RequestId, ReturnAddress>,
    last_request: u64,
    /// Whom a session comes from, until its owner here is known to everybody.
    comes_from: FxHashMap<SessionName, Generation>,
    /// Sessions that were passed on and are still known here, and until when at most.
    passed: VecDeque<(Tick, SessionName)>,
    errands: VecDeque<Errand>,
}

struct Waiting {
    key: ConnKey,
    identity: Identity,
    request: SessionRequest,
}

/// What is to be said to another node.
pub enum Errand {
    /// Pass the session on to this token.
    Pass { to: Generation, id: RequestId, name: SessionName, token: Token },
    /// It is here, and everybody is to know that first.
    Passed { to: Generation, name: SessionName },
}

impl Ownership {
    /// `own`: where nodes share the store. `seed` must be drawn at random.
    pub fn new(own: Option<Generation>, seed: u64, now: Tick) -> Ownership {
        let inner = own.map(|own| {
            RefCell::new(Inner {
                claims: Claims::new(own, seed, now),
                waiting: FxHashMap::default(),
                claimed: FxHashMap::default(),
                flushing: FxHashMap::default(),
                requests: FxHashMap::default(),
                last_request: 0,
                comes_from: FxHashMap::default(),
                passed: VecDeque::new(),
                errands: VecDeque::new(),
            })
        });
        Ownership { inner, errand_due: Notify::default() }
    }

    pub fn is_shared(&self) -> bool {
        self.inner.is_some()
    }

    /// Sessions that were this node's from its start on.
    pub fn own(&self, sessions: &[StoredSession], token: Option<Token>) {
        let (Some(inner), Some(token)) = (&self.inner, token) else { return };
        let mut inner = inner.borrow_mut();
        sessions.iter().for_each(|session| inner.claims.own(session.row.name.clone(), token));
    }

    /// The next errands.
    pub async fn errands(&self) -> VecDeque<Errand> {
        self.errand_due.notified().await;
        self.inner.as_ref().map(|inner| std::mem::take(&mut inner.borrow_mut().errands)).unwrap_or_default()
    }

    pub fn next_tick(&self) -> Tick {
        let Some(inner) = &self.inner else { return Tick::NEVER };
        let inner = inner.borrow();
        inner.passed.front().map_or(Tick::NEVER, |(until, _)| *until).min(inner.claims.next_tick())
    }

    fn act<T>(&self, worker: &Worker, act: impl FnOnce(&mut Inner, Tick) -> T) -> Option<T> {
        let inner = self.inner.as_ref()?;
        let done = act(&mut inner.borrow_mut(), worker.now());
        self.carry_out(worker);
        Some(done)
    }

    /// Attaches the connection as soon as its session is this node's; `PendingConnects::attached` follows.
    pub fn attach(&self, worker: &Worker, key: ConnKey, identity: Identity, request: SessionRequest) {
        self.act(worker, |inner, now| {
            let name = request.name.clone();
            inner.waiting.entry(name.clone()).or_default().push(Waiting { key, identity, request });
            inner.claims.connect(name, now);
        });
    }

    /// A dead node's session is to be this one's.
    pub fn adopt(&self, worker: &Worker, name: SessionName, token: Token) {
        self.act(worker, |inner, _| inner.claims.adopt(name, token));
    }

    pub fn on_answer(&self, worker: &Worker, answer: OwnershipAnswer) {
        self.act(worker, |inner, now| match answer {
            OwnershipAnswer::Claim { name, token, answer, session } => {
                inner.claimed.extend(session.map(|session| (name.clone(), session)));
                inner.claims.on_claim(&name, token, answer, now);
            }
            OwnershipAnswer::Pass { name, token, answer } => inner.claims.on_pass(&name, token, answer, now),
            OwnershipAnswer::Verify { name, token, answer } => inner.claims.on_write(&name, token, answer),
        });
    }

    /// The store has refused a write, since another node has the session.
    pub fn on_fenced(&self, worker: &Worker, name: &SessionName) {
        let is_ours = self.act(worker, |inner, _| inner.claims.fence(name)).unwrap_or(false);
        if !is_ours {
            debug!(session = &**name, "a write to a session that has gone");
        }
    }

    pub fn on_flushed(&self, worker: &Worker, name: &SessionName) {
        self.act(worker, |inner, _| {
            if let Some(token) = inner.flushing.remove(name) {
                inner.claims.on_flushed(name, token);
            }
        });
    }

    /// The shard has ended the session.
    pub fn on_dropped(&self, worker: &Worker, name: &SessionName) {
        self.act(worker, |inner, _| inner.claims.drop_session(name));
    }

    /// Another node asks for a session; the answer goes to `to`.
    pub fn on_request(&self, worker: &Worker, from: Generation, name: SessionName, token: Token, to: ReturnAddress) {
        self.act(worker, |inner, now| {
            inner.last_request += 1;
            let id = RequestId(inner.last_request);
            inner.requests.insert(id, to);
            inner.claims.on_request(from, id, &name, token, now);
        });
    }

    /// What an owner has said; `None`: it cannot be reached.
    pub fn on_reply(&self, worker: &Worker, id: RequestId, handover: Option<Handover>) {
        self.act(worker, |inner, now| inner.claims.on_reply(id, handover, now));
    }

    /// The session that was passed on is known where it is.
    pub fn on_passed(&self, worker: &Worker, name: &SessionName) {
        self.act(worker, |inner, _| inner.passed.retain(|(_, passed)| passed != name));
        worker.handle(Input::ForgetSession { name });
    }

    pub fn on_time(&self, worker: &Worker) {
        let Some(inner) = &self.inner else { return };
        let now = worker.now();
        loop {
            let over = inner.borrow_mut().passed.pop_front_if(|(until, _)| *until <= now);
            let Some((_, name)) = over else { break };
            worker.handle(Input::ForgetSession { name: &name });
        }
        self.act(worker, |inner, now| {
            if inner.claims.next_tick() <= now {
                inner.claims.handle_timers(now);
            }
        });
    }

    /// Nobody waits for a session that is under way, and none is on its way to another node.
    pub fn is_idle(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| {
            let inner = inner.borrow();
            inner.waiting.is_empty() && inner.flushing.is_empty()
        })
    }

    fn carry_out(&self, worker: &Worker) {
        let Some(inner) = &self.inner else { return };
        loop {
            let output = inner.borrow_mut().claims.poll_output();
            match output {
                None => break,
                Some(output) => self.carry_out_one(worker, &mut inner.borrow_mut(), output),
            }
        }
        worker.wakeups().need_turn();
        worker.due_by(self.next_tick());
    }

    /// Nothing here may come back to `act`: what the shard puts out is carried out later.
    fn carry_out_one(&self, worker: &Worker, inner: &mut Inner, output: ClaimsOutput) {
        match output {
            ClaimsOutput::Store(command) => {
                worker.store().push(Request::Ownership { shard: worker.id(), command });
            }
            ClaimsOutput::Request { to, id, name, token } => {
                inner.comes_from.insert(name.clone(), to);
                inner.errands.push_back(Errand::Pass { to, id, name, token });
                self.errand_due.notify();
            }
            ClaimsOutput::Reply { id, handover, .. } => {
                if let Some(to) = inner.requests.remove(&id) {
                    let is_passed = handover == Handover::Passed;
                    worker.send_message(to.worker(), PeerMessage::SessionPassed { oneshot: to.oneshot(), is_passed });
                }
            }
            ClaimsOutput::Owned { name, .. } => self.on_owned(worker, inner, &name),
            ClaimsOutput::Flush { name, token } => {
                inner.flushing.insert(name.clone(), token);
                worker.handle(Input::PassSession { name: &name });
            }
            ClaimsOutput::Ended { name, reason, .. } => {
                inner.flushing.remove(&name);
                inner.claimed.remove(&name);
                match reason {
                    EndReason::Passed => {
                        worker.count(|counters| &counters.sessions_passed);
                        inner.passed.push_back((worker.now() + PASSED_MS_MAX, name));
                    }
                    EndReason::Fenced => {
                        worker.count(|counters| &counters.sessions_lost);
                        warn!(session = &*name, "another node has taken the session: its client has to connect again");
                        worker.handle(Input::LoseSession { name: &name });
                    }
                }
            }
            ClaimsOutput::Refused { name, reason } => {
                inner.comes_from.remove(&name);
                inner.claimed.remove(&name);
                let why = match reason {
                    RefusalReason::Contended => StoreError::TooBusy,
                    RefusalReason::Damaged => StoreError::Damaged,
                    RefusalReason::StoreAway | RefusalReason::NoLease => StoreError::Unreachable,
                };
                for waiting in inner.waiting.remove(&name).unwrap_or_default() {
                    worker.connects().attached(waiting.key, Err(why));
                }
            }
        }
    }

    fn on_owned(&self, worker: &Worker, inner: &mut Inner, name: &SessionName) {
        let mut waiting = inner.waiting.remove(name).unwrap_or_default();
        // The client may have gone meanwhile.
        waiting.retain(|waiting| worker.shard().is_current(waiting.key));
        let mut new = None;
        if let Some(session) = inner.claimed.remove(name) {
            inner.passed.retain(|(_, passed)| passed != name);
            let now = worker.now();
            let mut shard = worker.shard();
            shard.handle(Input::ForgetSession { name }, now);
            // One that nobody has been attached to comes into the shard with its client; without one it has to end.
            if session.row.is_unused() && !waiting.is_empty() {
                new = Some(session.row.session);
            } else {
                shard.restore(vec![*session], now);
            }
        }
        for Waiting { key, identity, request } in waiting {
            lifecycle::attach_owned(
                worker,
                key,
                new.unwrap_or_else(|| lifecycle::new_session(identity, name)),
                request,
            );
        }
        if let Some(to) = inner.comes_from.remove(name) {
            inner.errands.push_back(Errand::Passed { to, name: name.clone() });
            self.errand_due.notify();
        }
    }
}

/// A node that adopts a dead node's sessions needs some twenty seconds; until then the dead one may have been the owner
/// of what was passed to it.
const PASSED_MS_MAX: u64 = 60_000;
