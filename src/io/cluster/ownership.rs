//! The durable sessions of a worker where other nodes share the store: each is claimed before a client is attached to
//! it, and passed on when a client of it connects elsewhere. The rules are in `cluster::ownership::claims`; here they
//! meet what waits for them: connections, other nodes, and the shard, to which the worker hands what is to be done.
//!
//! ```text
//! attach ─► claims ─► store ─► claims ─► Owned: restore, attach
//! another node's Pass ─► claims ─► Flush ─► the shard has stored all ─► claims ─► store ─► Reply
//! ```
//! Where each node has a disk of its own, `cluster::ownership::disks` stands in for the store.

use super::calls::hash_of_session;
use super::port::PeerEntry;
use crate::base::id::{ConnKey, Generation};
use crate::base::keyed_hash::HashKey;
use crate::base::time::Tick;
use crate::cluster::directory::waiting::Outcome;
use crate::cluster::ownership::claims::{
    ClaimAnswer, Claims, ClaimsOutput, EndReason, Handover, RefusalReason, RequestId, SessionName, Token,
};
use crate::cluster::ownership::disk_calls::{DiskCall, DiskReply, DisksOutput, NameQuery, Peers, ReplyTo, WaitId};
use crate::cluster::ownership::disks::Disks;
use crate::cluster::ownership::grantors::{self, Grantor, Seen};
use crate::cluster::planted::ClusterBug;
use crate::cluster::transfers::Standing;
use crate::config::StoreKind;
use crate::io::handover::session_request::Waiting;
use crate::io::runtime::notify::Notify;
use crate::io::runtime::oneshot::ReturnAddress;
use crate::shard::command::transfer::{TransferAnswer, TransferCommand};
use crate::shard::command::{OwnershipAnswer, OwnershipCommand, StoreError, StoredSession, WriteAnswer};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// Of one worker; it does nothing where nobody shares the store.
pub struct Ownership {
    inner: Option<RefCell<Inner>>,
    errand_due: Notify,
}

struct Inner {
    claims: Claims,
    /// Connections that are to be attached when their session is owned.
    waiting: BTreeMap<SessionName, Vec<Waiting>>,
    /// Sessions as they were when they were claimed, until they are owned.
    claimed: BTreeMap<SessionName, Box<StoredSession>>,
    /// Sessions that the shard is to store, by the token that they have.
    flushing: BTreeMap<SessionName, Token>,
    /// Where the answers to other nodes' requests go.
    requests: BTreeMap<RequestId, ReturnAddress>,
    last_request: u64,
    /// Whom a session comes from, until its owner here is known to everybody.
    comes_from: BTreeMap<SessionName, Generation>,
    /// Where each node has a disk of its own.
    disks: Option<Disks>,
    /// Sessions that were passed on and are still known here, and until when at most.
    passed: VecDeque<(Tick, SessionName)>,
    /// Sessions that were taken from this node, which refuses what is for them until it sees them elsewhere.
    lost: BTreeMap<SessionName, Lost>,
    lost_at: Tick,
    lost_from: Option<SessionName>,
    /// Sessions that have come to this disk, and that have not though they were to, since somebody looked.
    fetches: (u64, u64),
    errands: VecDeque<Errand>,
    actions: VecDeque<Action>,
}

struct Lost {
    until: Tick,
    /// The node that had it at the last look; its channels may have come a moment later.
    seen_at: Option<Generation>,
}

/// What the worker has to do.
pub enum Action {
    Store(OwnershipCommand),
    /// The session is this node's; `stored` where it was claimed just now.
    Own {
        name: SessionName,
        stored: Option<Box<StoredSession>>,
        waiting: Vec<Waiting>,
        /// `Errand::Passed` lets the clients have their 101.
        is_corked: bool,
    },
    /// `Input::PassSession`; `flushed` follows.
    Pass(SessionName),
    /// `Input::LoseSession`.
    Lose(SessionName),
    /// `Input::ForgetSession`.
    Forget {
        name: SessionName,
        keeps_name: bool,
    },
    /// The connection does not get its session.
    Refuse {
        key: ConnKey,
        why: StoreError,
    },
    /// To the worker that has another node's question.
    Answer {
        to: ReturnAddress,
        code: u32,
    },
    /// To the worker that has another node's request.
    Reply {
        to: ReturnAddress,
        is_passed: bool,
    },
}

/// What waits for another node, for the disk, or for the peers.
pub enum Errand {
    /// Pass the session on to this token.
    Pass { to: Generation, id: RequestId, name: SessionName, token: Token },
    /// It is here, and everybody is to know that first. The 101 of these clients waits until its former owner knows:
    /// until then that one refuses what is for it.
    Passed { to: Generation, name: SessionName, clients: Vec<ConnKey> },
    /// `on_disk_reply` follows.
    Call { id: WaitId, to: Generation, call: DiskCall },
    /// `on_stored` follows.
    Store { id: WaitId, command: TransferCommand },
    /// `on_waited` follows as soon as calls may be served.
    AwaitReady(WaitId),
    /// `on_waited` follows as soon as the peers know of every session that is here, or have had their time.
    AwaitKnown(WaitId),
    /// Note which messages the client of a session that leaves may have, and answer.
    NoteSent { name: SessionName, to: ReturnAddress },
    /// The session was in nobody's walk while it was on its way.
    LookForRivals(SessionName),
    /// Another node has a session of this name: answer which one stays.
    Compare { name: SessionName, standing: Standing, from: Generation, to: ReturnAddress },
}

/// What a worker knows of the other nodes.
pub struct SeenPeers {
    own: Grantor,
    key: HashKey,
    entries: Arc<[PeerEntry]>,
}

impl SeenPeers {
    pub fn new(own: Grantor, key: HashKey, entries: Arc<[PeerEntry]>) -> SeenPeers {
        SeenPeers { own, key, entries }
    }

    /// A node that has said so.
    fn that_has(&self, name: &str) -> Option<Generation> {
        let hash = hash_of_session(self.key, name);
        let has_it = |peer: &&PeerEntry| peer.is_linked && peer.table.is_complete() && peer.table.may_have(hash);
        self.entries.iter().find(has_it).map(|peer| peer.node.generation)
    }
}

impl Peers for SeenPeers {
    fn grantors(&self, name: &str, now: Tick) -> Option<Vec<Grantor>> {
        let seen: Vec<Seen> = self.entries.iter().map(Seen::from).collect();
        let hash = hash_of_session(self.key, name);
        grantors::are_known(&seen).then(|| grantors::grantors(hash, self.own, &seen, now))
    }

    fn may_have(&self, name: &str) -> Vec<Generation> {
        let hash = hash_of_session(self.key, name);
        let concerned = self.entries.iter().filter(|peer| peer.table.may_have(hash));
        concerned.map(|peer| peer.node.generation).collect()
    }

    fn linked(&self) -> Vec<Generation> {
        self.entries.iter().filter(|peer| peer.is_linked).map(|peer| peer.node.generation).collect()
    }
}

impl Ownership {
    /// `own`: where nodes share the store. `seed` must be drawn at random.
    pub fn new(own: Option<Generation>, kind: StoreKind, seed: u64, now: Tick) -> Ownership {
        let inner = own.map(|own| {
            RefCell::new(Inner {
                claims: Claims::new(own, seed, now),
                waiting: BTreeMap::new(),
                claimed: BTreeMap::new(),
                flushing: BTreeMap::new(),
                requests: BTreeMap::new(),
                last_request: 0,
                comes_from: BTreeMap::new(),
                disks: (kind == StoreKind::Sqlite).then(|| Disks::new(own)),
                passed: VecDeque::new(),
                lost: BTreeMap::new(),
                lost_at: Tick::NEVER,
                lost_from: None,
                fetches: (0, 0),
                errands: VecDeque::new(),
                actions: VecDeque::new(),
            })
        });
        Ownership { inner, errand_due: Notify::default() }
    }

    /// Where each node has a disk of its own.
    pub fn has_disk(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.borrow().disks.is_some())
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
        self.take_errands()
    }

    /// Those that are there.
    pub fn take_errands(&self) -> VecDeque<Errand> {
        self.inner.as_ref().map(|inner| std::mem::take(&mut inner.borrow_mut().errands)).unwrap_or_default()
    }

    /// A mistake, for the simulation.
    pub fn plant(&self, bug: ClusterBug) {
        self.with(|inner| inner.claims.plant(bug));
        self.with_disks(|disks| disks.plant(bug));
    }

    pub fn next_tick(&self) -> Tick {
        let Some(inner) = &self.inner else { return Tick::NEVER };
        let inner = inner.borrow();
        let passed = inner.passed.front().map_or(Tick::NEVER, |(until, _)| *until);
        let disks = inner.disks.as_ref().map_or(Tick::NEVER, Disks::next_tick);
        passed.min(inner.claims.next_tick()).min(disks).min(inner.lost_at)
    }

    /// Nobody waits for a session that is under way, and none is on its way to another node.
    pub fn is_idle(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| {
            let inner = inner.borrow();
            inner.waiting.is_empty() && inner.flushing.is_empty()
        })
    }

    /// Sessions were passed on, and not everybody knows yet where they are: this node says so to whoever asks for them.
    /// Or another node's request has not been answered, or they are on their way from this disk, or to it.
    pub fn stands_in(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| {
            let inner = inner.borrow();
            let is_wanted = !inner.requests.is_empty() || !inner.passed.is_empty();
            is_wanted || inner.disks.as_ref().is_some_and(|disks| disks.moving_len() > 0)
        })
    }

    /// Sessions that are on their way from this disk, or to it.
    pub fn moving_len(&self) -> usize {
        let of = |inner: &RefCell<Inner>| inner.borrow().disks.as_ref().map_or(0, Disks::moving_len);
        self.inner.as_ref().map_or(0, of)
    }

    /// Sessions that have come to this disk since the last call, and that have not though they were to.
    pub fn take_fetches(&self) -> (u64, u64) {
        self.inner.as_ref().map(|inner| std::mem::take(&mut inner.borrow_mut().fetches)).unwrap_or_default()
    }

    /// No session is this node's, on its way, or claimed.
    pub fn is_empty(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.borrow().claims.is_empty()) && !self.stands_in()
    }

    /// What is to be done next; to be asked behind everything that is told here.
    pub fn poll_action(&self, peers: &SeenPeers, now: Tick) -> Option<Action> {
        let mut inner = self.inner.as_ref()?.borrow_mut();
        inner.look_for_lost(peers, now);
        loop {
            if let Some(action) = inner.actions.pop_front() {
                return Some(action);
            }
            let output = inner.claims.poll_output();
            let mut is_last = output.is_none();
            output.into_iter().for_each(|output| inner.on_output(output, now));
            let of_disks = inner.disks.as_mut().and_then(|disks| disks.poll_output(peers, now));
            is_last &= of_disks.is_none();
            of_disks.into_iter().for_each(|output| inner.on_disks_output(output, now));
            if !inner.errands.is_empty() {
                self.errand_due.notify();
            }
            if is_last && inner.actions.is_empty() {
                return None;
            }
        }
    }

    /// Attaches the connection as soon as its session is this node's: `Own` or `Refuse` follows.
    pub fn attach(&self, waiting: Waiting, now: Tick) {
        self.with(|inner| {
            let name = waiting.request.name.clone();
            if inner.disks.as_ref().is_some_and(|disks| disks.is_leaving(&name)) {
                return inner.actions.push_back(Action::Refuse { key: waiting.key, why: StoreError::TooBusy });
            }
            inner.waiting.entry(name.clone()).or_default().push(waiting);
            inner.claims.connect(name, now);
        });
    }

    /// Another node's session is to be this one's, without a client that waits for it.
    pub fn take(&self, name: SessionName, owner: Generation) {
        self.with(|inner| inner.claims.take(name, owner));
    }

    /// A dead node's session is to be this one's.
    pub fn adopt(&self, name: SessionName, token: Token) {
        self.with(|inner| inner.claims.adopt(name, token));
    }

    pub fn on_answer(&self, answer: OwnershipAnswer, now: Tick) {
        self.with(|inner| match answer {
            OwnershipAnswer::Claim { name, token, answer, session } => {
                inner.on_claim(name, token, answer, session, now);
            }
            OwnershipAnswer::Pass { name, token, answer } => inner.claims.on_pass(&name, token, answer, now),
            OwnershipAnswer::Verify { name, token, answer } => inner.claims.on_write(&name, token, answer),
        });
    }

    /// The store has refused a write, since another node has the session.
    pub fn on_fenced(&self, name: &SessionName) {
        self.with(|inner| inner.claims.fence(name));
    }

    /// Everything of a session that is to be passed on is stored.
    pub fn on_flushed(&self, name: &SessionName) {
        self.with(|inner| {
            if let Some(token) = inner.flushing.remove(name) {
                inner.claims.on_flushed(name, token);
            }
        });
    }

    /// The shard has ended the session.
    pub fn on_dropped(&self, name: &SessionName) {
        self.with(|inner| inner.claims.drop_session(name));
    }

    /// Another node asks for a session; the answer goes to `to`.
    pub fn on_request(&self, from: Generation, (name, token): (SessionName, Token), to: ReturnAddress, now: Tick) {
        self.with(|inner| {
            inner.last_request += 1;
            let id = RequestId(inner.last_request);
            inner.requests.insert(id, to);
            inner.claims.on_request(from, id, &name, token, now);
        });
    }

    /// What an owner has said; `None`: it cannot be reached.
    pub fn on_reply(&self, id: RequestId, handover: Option<Handover>, now: Tick) {
        self.with(|inner| inner.claims.on_reply(id, handover, now));
    }

    /// The session that was passed on is known where it is.
    pub fn on_known(&self, name: &SessionName) {
        self.with(|inner| {
            if let Some(disks) = &mut inner.disks {
                disks.on_known(name);
            }
            // Should the node that has it on its disk end now, whoever had no link to it would find it nowhere.
            let keeps_name = inner.disks.is_some();
            inner.passed.retain(|(_, passed)| passed != name);
            inner.lost.remove(name);
            inner.actions.push_back(Action::Forget { name: name.clone(), keeps_name });
        });
    }

    pub fn on_time(&self, now: Tick) {
        self.with(|inner| {
            while let Some((_, name)) = inner.passed.pop_front_if(|(until, _)| *until <= now) {
                inner.actions.push_back(Action::Forget { name, keeps_name: false });
            }
            inner.disks.iter_mut().for_each(|disks| disks.on_time(now));
            if inner.claims.next_tick() <= now {
                inner.claims.handle_timers(now);
            }
        });
    }

    // ---- where each node has a disk of its own ----

    /// It was leaving when an earlier process ended.
    pub fn leaves(&self, name: SessionName, token: Token) {
        self.with_disks(|disks| disks.leaves(name, token));
    }

    /// Another node asks; `Action::Answer` follows.
    pub fn on_query(&self, from: Generation, query: NameQuery, to: ReturnAddress, now: Tick) {
        self.with(|inner| {
            if let Some(disks) = &mut inner.disks {
                disks.on_query(&inner.claims, (from, query), ReplyTo(to.pack()), now);
            }
        });
    }

    /// A token for a session that is to become part of one that is here.
    pub fn expect(&self) -> Option<Token> {
        let mut inner = self.inner.as_ref()?.borrow_mut();
        let token = inner.claims.draw();
        inner.disks.as_mut()?.expect(token);
        Some(token)
    }

    /// It is this node's, and stays for now.
    pub fn owns(&self, name: &str) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.borrow().claims.certain_token(name).is_some())
    }

    /// It is this node's, or on its way from here.
    pub fn has(&self, name: &str) -> bool {
        self.inner.as_ref().is_some_and(|inner| {
            let inner = inner.borrow();
            inner.claims.has(name) || inner.disks.as_ref().is_some_and(|disks| disks.is_leaving(name))
        })
    }

    /// So many names of sessions that are this node's, behind this one.
    pub fn owned_after(&self, behind: Option<&SessionName>, most: usize) -> Vec<SessionName> {
        self.inner.as_ref().map_or_else(Vec::new, |inner| inner.borrow().claims.owned_after(behind, most))
    }

    /// The node does not come back.
    pub fn on_parted(&self, node: Generation) {
        self.with_disks(|disks| disks.on_parted(node));
    }

    /// `None`: the node cannot be reached, or refuses.
    pub fn on_disk_reply(&self, id: WaitId, reply: Option<DiskReply>) {
        self.with_disks(|disks| disks.on_reply(id, reply));
    }

    pub fn on_stored(&self, id: WaitId, answer: TransferAnswer) {
        self.with_disks(|disks| disks.on_stored(id, answer));
    }

    pub fn answer(&self, to: ReturnAddress, code: u32) {
        self.with(|inner| inner.actions.push_back(Action::Answer { to, code }));
    }

    pub fn on_united(&self, transfer: Token) {
        self.with_disks(|disks| disks.on_united(transfer));
    }

    pub fn on_waited(&self, id: WaitId, outcome: Outcome) {
        self.with_disks(|disks| disks.on_waited(id, outcome));
    }

    fn with_disks(&self, act: impl FnOnce(&mut Disks)) {
        self.with(|inner| {
            if let Some(disks) = &mut inner.disks {
                act(disks);
            }
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) {
        if let Some(inner) = &self.inner {
            act(&mut inner.borrow_mut());
        }
    }
}

impl Inner {
    /// A record in a store that all share, or a session on some node's disk.
    fn on_command(&mut self, command: OwnershipCommand, now: Tick) {
        let Some(disks) = &mut self.disks else { return self.actions.push_back(Action::Store(command)) };
        match command {
            OwnershipCommand::Claim { name, expected, token } => {
                let from = self.comes_from.get(&name).copied();
                disks.claim(name, token, expected, from, now);
            }
            OwnershipCommand::Pass { name, token, to } => disks.pass(name, token, to),
            // Nobody else writes to this disk.
            OwnershipCommand::Verify { name, token } => self.claims.on_write(&name, token, WriteAnswer::Stored),
        }
    }

    fn on_claim(
        &mut self,
        name: SessionName,
        token: Token,
        answer: ClaimAnswer,
        session: Option<Box<StoredSession>>,
        now: Tick,
    ) {
        self.claimed.extend(session.map(|session| (name.clone(), session)));
        self.claims.on_claim(&name, token, answer, now);
    }

    fn on_disks_output(&mut self, output: DisksOutput, now: Tick) {
        match output {
            DisksOutput::Call { id, to, call } => self.errands.push_back(Errand::Call { id, to, call }),
            DisksOutput::Store { id, command } => self.errands.push_back(Errand::Store { id, command }),
            DisksOutput::AwaitReady(id) => self.errands.push_back(Errand::AwaitReady(id)),
            DisksOutput::AwaitKnown(id) => self.errands.push_back(Errand::AwaitKnown(id)),
            DisksOutput::Claimed { name, token, answer, session } => {
                if session.is_some() {
                    self.fetches.0 += 1;
                    self.errands.push_back(Errand::LookForRivals(name.clone()));
                }
                self.on_claim(name, token, answer, session, now);
            }
            DisksOutput::FetchFailed => self.fetches.1 += 1,
            DisksOutput::Passed { name, token, answer } => self.claims.on_frozen(&name, token, answer, now),
            DisksOutput::Left(name) => self.actions.push_back(Action::Forget { name, keeps_name: false }),
            DisksOutput::Back(session) => {
                let name = session.row.name.clone();
                self.claims.take_back(name.clone());
                self.errands.push_back(Errand::LookForRivals(name.clone()));
                let (stored, waiting) = (Some(session), Vec::new());
                self.actions.push_back(Action::Own { name, stored, waiting, is_corked: false });
            }
            DisksOutput::NoteSent { name, to } => {
                self.errands.push_back(Errand::NoteSent { name, to: ReturnAddress::unpack(to.0) });
            }
            DisksOutput::Compare { name, standing, from, to } => {
                let to = ReturnAddress::unpack(to.0);
                self.errands.push_back(Errand::Compare { name, standing, from, to });
            }
            DisksOutput::Answer { to, code } => {
                self.actions.push_back(Action::Answer { to: ReturnAddress::unpack(to.0), code });
            }
        }
    }

    /// Some of those that were taken from this node, in turns.
    fn look_for_lost(&mut self, peers: &SeenPeers, now: Tick) {
        if now < self.lost_at {
            return;
        }
        let from = self.lost_from.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = Vec::new();
        let mut behind = self.lost.range_mut::<SessionName, _>((from, Bound::Unbounded));
        for (name, lost) in behind.by_ref().take(LOST_PER_LOOK) {
            let before = std::mem::replace(&mut lost.seen_at, peers.that_has(name));
            if before.is_some() && before == lost.seen_at || now >= lost.until {
                found.push(name.clone());
            }
            self.lost_from = Some(name.clone());
        }
        if behind.next().is_none() {
            self.lost_from = None;
        }
        for name in found {
            self.lost.remove(&name);
            self.actions.push_back(Action::Forget { name, keeps_name: false });
        }
        self.lost_at = if self.lost.is_empty() { Tick::NEVER } else { now + LOST_LOOK_MS };
    }

    fn on_output(&mut self, output: ClaimsOutput, now: Tick) {
        match output {
            ClaimsOutput::Store(command) => self.on_command(command, now),
            ClaimsOutput::Request { to, id, name, token } => {
                self.comes_from.insert(name.clone(), to);
                self.errands.push_back(Errand::Pass { to, id, name, token });
            }
            ClaimsOutput::Reply { id, handover, .. } => {
                let is_passed = handover == Handover::Passed;
                self.actions.extend(self.requests.remove(&id).map(|to| Action::Reply { to, is_passed }));
            }
            ClaimsOutput::Owned { name, .. } => {
                let waiting = self.waiting.remove(&name).unwrap_or_default();
                let comes_from = self.comes_from.remove(&name);
                if let Some(to) = comes_from {
                    let clients = waiting.iter().map(|waiting| waiting.key).collect();
                    self.errands.push_back(Errand::Passed { to, name: name.clone(), clients });
                }
                let stored = self.claimed.remove(&name);
                if stored.is_some() {
                    // It has come back.
                    self.passed.retain(|(_, passed)| *passed != name);
                    self.lost.remove(&name);
                }
                self.actions.push_back(Action::Own { name, stored, waiting, is_corked: comes_from.is_some() });
            }
            ClaimsOutput::Flush { name, token } => {
                self.flushing.insert(name.clone(), token);
                self.actions.push_back(Action::Pass(name));
            }
            ClaimsOutput::Ended { name, reason, .. } => {
                self.flushing.remove(&name);
                self.claimed.remove(&name);
                if let (Some(disks), EndReason::Fenced) = (&mut self.disks, reason) {
                    disks.on_fenced(&name);
                }
                match reason {
                    // It is known here until it lies elsewhere.
                    EndReason::Passed if self.disks.is_some() => {}
                    EndReason::Passed => self.passed.push_back((now + PASSED_MS_MAX, name)),
                    EndReason::Fenced => {
                        self.actions.push_back(Action::Lose(name.clone()));
                        match self.disks.is_some() {
                            true => self.actions.push_back(Action::Forget { name, keeps_name: false }),
                            false => drop(self.lost.insert(name, Lost { until: now + LOST_MS_MAX, seen_at: None })),
                        }
                        self.lost_at = self.lost_at.min(now + LOST_LOOK_MS);
                    }
                }
            }
            ClaimsOutput::Refused { name, reason } => {
                self.comes_from.remove(&name);
                self.claimed.remove(&name);
                let why = match reason {
                    RefusalReason::Contended => StoreError::TooBusy,
                    RefusalReason::Damaged => StoreError::Damaged,
                    RefusalReason::StoreAway | RefusalReason::NoLease => StoreError::Unreachable,
                };
                let waiting = self.waiting.remove(&name).unwrap_or_default();
                self.actions.extend(waiting.into_iter().map(|Waiting { key, .. }| Action::Refuse { key, why }));
            }
        }
    }
}

/// A node that adopts a dead node's sessions needs some twenty seconds; until then the dead one may have been the owner
/// of what was passed to it.
const PASSED_MS_MAX: u64 = 60_000;
/// A linked node says what is new within milliseconds, and one that is not linked is named unreachable anyway. Nobody
/// may have the session at all: it may have ended where it was.
const LOST_MS_MAX: u64 = 5_000;
const LOST_LOOK_MS: u64 = 20;
const LOST_PER_LOOK: usize = 4_096;
