//! Where each node has a disk of its own: a worker's sessions that are on their way to it and from it, which node may
//! create or fetch a session whose name falls to this one, and the errands that take several nodes or the disk.
//!
//! ```text
//! claimed: not here ─► grants ─► who has it? ─► nobody: create it
//!                                           └─► a node: it passes it on: freeze ─► fetch ─► on this disk: owned
//! leaving: frozen ─► what became of it? ─► arrived: delete, forget
//!                                      └─► never: thaw, owned again
//! ```
//! A session that leaves is nobody's until the other disk says what became of it: who is away decides nothing. An
//! errand waits for one thing at a time, and for no thing without a deadline: one that fails leaves the session where
//! it is, or nobody's until its destination says what became of it.

mod errand;

use super::super::directory::waiting;
use super::super::planted::{ClusterBug, Planted};
use super::super::transfers::Settled;
use super::claims::{ClaimAnswer, Claims, RequestId, SessionName, Token, WriteAnswer};
use super::creation::{Creation, CreationOutput, GRANT_MS, WAIT_MS};
use super::disk_calls::{DiskCall, DiskReply, DisksOutput, NameQuery, Peers, ReplyTo, WaitId};
use super::grantors::Grantor;
use crate::base::id::Generation;
use crate::base::time::Tick;
use crate::shard::command::transfer::{Outcome, Position, TransferAnswer, TransferCommand};
use crate::shard::command::{StoreError, StoredSession};
use errand::{Arrival, Errand, Fetch, Search};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub struct Disks {
    own: Generation,
    /// Transfers to this disk that are under way.
    coming: BTreeSet<Token>,
    /// Nodes that do not come back.
    parted: BTreeSet<Generation>,
    leaving: BTreeMap<SessionName, Leaving>,
    settle_at: Tick,
    creation: Creation,
    /// Who waits for a grant of this node's.
    grants: BTreeMap<(Generation, RequestId), Grantee>,
    /// Each under what it waits for, and until when at most.
    errands: BTreeMap<WaitId, (Errand, Tick)>,
    deadlines: BTreeSet<(Tick, WaitId)>,
    last_wait: u64,
    arrivals: VecDeque<(WaitId, Arrival)>,
    outputs: VecDeque<DisksOutput>,
    planted: Planted,
}

struct Leaving {
    token: Token,
    /// It is being frozen, or somebody is being asked.
    is_busy: bool,
}

#[derive(Clone, Copy)]
enum Grantee {
    Node(ReplyTo),
    Errand(WaitId),
}

impl Disks {
    pub fn new(own: Generation) -> Disks {
        Disks {
            own,
            coming: BTreeSet::new(),
            parted: BTreeSet::new(),
            leaving: BTreeMap::new(),
            settle_at: Tick::NEVER,
            creation: Creation::default(),
            grants: BTreeMap::new(),
            errands: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            last_wait: 0,
            arrivals: VecDeque::new(),
            outputs: VecDeque::new(),
            planted: Planted::default(),
        }
    }

    pub fn plant(&mut self, bug: ClusterBug) {
        self.planted.plant(bug);
        self.creation.plant(bug);
    }

    /// Sessions that are on their way.
    pub fn moving_len(&self) -> usize {
        self.leaving.len() + self.coming.len()
    }

    pub fn is_leaving(&self, name: &str) -> bool {
        self.leaving.contains_key(name)
    }

    /// A session is claimed. `from`: whom it was asked of.
    pub fn claim(
        &mut self,
        name: SessionName,
        token: Token,
        expected: Option<Token>,
        from: Option<Generation>,
        now: Tick,
    ) {
        if self.is_leaving(&name) {
            // It is nobody's: whether it stays is not known yet, and nobody else may have it.
            return self.claimed(name, token, ClaimAnswer::Unknown, None);
        }
        let passed = expected.filter(|expected| expected.owner() == Some(self.own));
        let errand = match passed.zip(from) {
            Some((transfer, from)) => {
                self.coming.insert(transfer);
                let fetch = Fetch { name, token, transfer, from, deadline: now + FETCH_MS_MAX };
                Errand::Read { fetch, from: Position::Start }
            }
            None => Errand::Find(Search { name, token, grantors: Vec::new(), requested: 0, begun: now }),
        };
        self.begin(errand);
    }

    /// A session is to come by this transfer, to become part of one that is here; `on_united` must follow.
    pub fn expect(&mut self, transfer: Token) {
        self.coming.insert(transfer);
    }

    /// It has become part of the one that is here, or does not.
    pub fn on_united(&mut self, transfer: Token) {
        self.coming.remove(&transfer);
    }

    /// The session is passed on.
    pub fn pass(&mut self, name: SessionName, token: Token, to: Token) {
        self.leaving.insert(name.clone(), Leaving { token: to, is_busy: true });
        self.begin(Errand::Freeze { name, token, to });
    }

    /// It was leaving when an earlier process ended.
    pub fn leaves(&mut self, name: SessionName, token: Token) {
        self.leaving.insert(name, Leaving { token, is_busy: false });
        self.settle_at = Tick(0);
    }

    /// What was passed on is fenced: it is not this node's.
    pub fn on_fenced(&mut self, name: &str) {
        self.leaving.remove(name);
    }

    /// The node does not come back: what was on its way there stays. What is busy is asked about again soon, in vain.
    pub fn on_parted(&mut self, node: Generation) {
        self.parted.insert(node);
        let is_idle = |leaving: &Leaving| !leaving.is_busy && leaving.token.owner() == Some(node);
        let idle = self.leaving.iter().filter(|(_, leaving)| is_idle(leaving));
        let names: Vec<SessionName> = idle.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.settle(name));
    }

    /// It is known to everybody at its new owner.
    pub fn on_known(&mut self, name: &SessionName) {
        if self.leaving.get(name).is_some_and(|leaving| !leaving.is_busy) {
            self.settle(name);
        }
    }

    /// Learns what became of a session that leaves, and does what follows.
    fn settle(&mut self, name: &SessionName) {
        let Some(leaving) = self.leaving.get_mut(name) else { return };
        leaving.is_busy = true;
        let (name, token) = (name.clone(), leaving.token);
        let is_over = token.owner().is_some_and(|node| self.parted.contains(&node));
        self.begin(match is_over {
            true => Errand::End { name, token, outcome: Outcome::Never, by: None },
            false => Errand::Settle { name, token, nodes: Vec::new() },
        });
    }

    pub fn on_query(&mut self, claims: &Claims, (from, query): (Generation, NameQuery), to: ReplyTo, now: Tick) {
        match query {
            NameQuery::Has { name } => {
                let is_here = claims.has(&name) || self.is_leaving(&name);
                self.answer(to, is_here.into());
            }
            NameQuery::Settle { name, token }
                if (self.coming.contains(&token) || claims.requested(&name) == Some(token))
                    && !self.planted.is(ClusterBug::SettlesWhatComes) =>
            {
                self.answer(to, Settled::Pending.code());
            }
            NameQuery::Settle { token, .. } => {
                self.store(TransferCommand::Settle { token }, Errand::Decide { to }, now);
            }
            NameQuery::NoteSent { .. } if self.planted.is(ClusterBug::NotesNothing) => self.answer(to, 1),
            NameQuery::NoteSent { name } if self.is_leaving(&name) => {
                self.outputs.push_back(DisksOutput::NoteSent { name, to });
            }
            NameQuery::NoteSent { .. } => self.answer(to, 0),
            NameQuery::Rival { name, standing } => {
                self.outputs.push_back(DisksOutput::Compare { name, standing, from, to });
            }
            NameQuery::Grant { name, id } => {
                self.grants.insert((from, id), Grantee::Node(to));
                self.creation.request(from, id, name, now);
                self.take_grants();
            }
            NameQuery::Release { name, id } => {
                self.release(from, id, &name, now);
                self.answer(to, 1);
            }
        }
    }

    fn answer(&mut self, to: ReplyTo, code: u32) {
        self.outputs.push_back(DisksOutput::Answer { to, code });
    }

    fn release(&mut self, from: Generation, id: RequestId, name: &SessionName, now: Tick) {
        self.grants.remove(&(from, id));
        self.creation.finished(from, id, name, now);
        self.take_grants();
    }

    fn take_grants(&mut self) {
        while let Some(output) = self.creation.poll_output() {
            let (grantee, is_granted) = match output {
                CreationOutput::Grant { to, id } => ((to, id), true),
                CreationOutput::Refuse { to, id } => ((to, id), false),
            };
            match self.grants.remove(&grantee) {
                Some(Grantee::Node(to)) => self.answer(to, is_granted.into()),
                Some(Grantee::Errand(id)) => self.arrivals.push_back((id, Arrival::Granted(is_granted))),
                None => {}
            }
        }
    }

    /// `None`: the node cannot be reached, or refuses.
    pub fn on_reply(&mut self, id: WaitId, reply: Option<DiskReply>) {
        self.arrivals.push_back((id, Arrival::Replied(reply)));
    }

    pub fn on_stored(&mut self, id: WaitId, answer: TransferAnswer) {
        self.arrivals.push_back((id, Arrival::Stored(answer)));
    }

    pub fn on_waited(&mut self, id: WaitId, outcome: waiting::Outcome) {
        self.arrivals.push_back((id, Arrival::Waited(outcome)));
    }

    pub fn on_time(&mut self, now: Tick) {
        self.creation.handle_timers(now);
        self.take_grants();
        while let Some((_, id)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now) {
            self.deadlines.pop_first();
            let late = self.errands.get(&id).map(|(errand, _)| errand.late());
            self.arrivals.extend(late.map(|arrival| (id, arrival)));
        }
        if self.settle_at > now {
            return;
        }
        let due = self.leaving.iter().filter(|(_, leaving)| !leaving.is_busy).take(SETTLED_MAX);
        let due: Vec<SessionName> = due.map(|(name, _)| name.clone()).collect();
        due.iter().for_each(|name| self.settle(name));
        let has_more = self.leaving.values().any(|leaving| !leaving.is_busy);
        self.settle_at = if has_more { now + SETTLE_SOON_MS } else { Tick::NEVER };
    }

    pub fn next_tick(&self) -> Tick {
        let deadline = self.deadlines.first().map_or(Tick::NEVER, |(deadline, _)| *deadline);
        self.settle_at.min(self.creation.next_tick()).min(deadline)
    }

    /// Takes what has arrived, one errand's next step after the other.
    pub fn poll_output(&mut self, peers: &impl Peers, now: Tick) -> Option<DisksOutput> {
        while self.outputs.is_empty() {
            let (id, arrival) = self.arrivals.pop_front()?;
            // What comes after the deadline is nobody's.
            if let Some((errand, deadline)) = self.errands.remove(&id) {
                self.deadlines.remove(&(deadline, id));
                self.go_on(errand, arrival, peers, now);
            }
        }
        self.outputs.pop_front()
    }

    // ---- errands ----

    fn begin(&mut self, errand: Errand) {
        let id = self.wait(errand, Tick::NEVER);
        self.arrivals.push_back((id, Arrival::Begun));
    }

    fn wait(&mut self, errand: Errand, deadline: Tick) -> WaitId {
        self.last_wait += 1;
        let id = WaitId(self.last_wait);
        self.errands.insert(id, (errand, deadline));
        if deadline < Tick::NEVER {
            self.deadlines.insert((deadline, id));
        }
        id
    }

    fn call(&mut self, to: Generation, call: DiskCall, errand: Errand, now: Tick) {
        let id = self.wait(errand, now + CALL_MS_MAX);
        self.outputs.push_back(DisksOutput::Call { id, to, call });
    }

    /// Nothing waits for the answer.
    fn notify(&mut self, to: Generation, call: DiskCall) {
        self.last_wait += 1;
        self.outputs.push_back(DisksOutput::Call { id: WaitId(self.last_wait), to, call });
    }

    fn store(&mut self, command: TransferCommand, errand: Errand, now: Tick) {
        let id = self.wait(errand, now + STORE_MS_MAX);
        self.outputs.push_back(DisksOutput::Store { id, command });
    }

    fn await_known(&mut self, errand: Errand, now: Tick) {
        let id = self.wait(errand, now + KNOWN_MS_MAX);
        self.outputs.push_back(DisksOutput::AwaitKnown(id));
    }

    fn go_on(&mut self, errand: Errand, arrival: Arrival, peers: &impl Peers, now: Tick) {
        match (errand, arrival) {
            (Errand::Find(search), Arrival::Begun) => {
                let id = self.wait(Errand::Find(search), now + READY_MS_MAX);
                self.outputs.push_back(DisksOutput::AwaitReady(id));
            }
            (Errand::Find(search), _) => {
                let grantors = peers.grantors(&search.name, now);
                let search = Search { begun: now, grantors: grantors.clone().unwrap_or_default(), ..search };
                match grantors {
                    Some(_) => self.request_grant(search, peers, now),
                    // Nobody knows yet whom to ask.
                    None => self.found(search, ClaimAnswer::Unknown, now),
                }
            }
            (Errand::Grant(search), arrival) => self.on_granted(search, &arrival, peers, now),
            (Errand::Locate { search, called }, arrival) => self.on_located(search, called, arrival, peers, now),
            // Who does not know yet would find it nowhere, and could create it: while this grant lasts it may not.
            (Errand::Announce(search), Arrival::Waited(waiting::Outcome::TimedOut))
                if now.since_ms(search.begun) < GRANT_MS =>
            {
                self.await_known(Errand::Announce(search), now);
            }
            (Errand::Announce(search), _) => self.end_search(search, now),
            (Errand::Read { fetch, from }, arrival) => self.on_part(fetch, from, arrival, now),
            (Errand::Write { fetch, write, next, is_repeat }, Arrival::Stored(answer)) => {
                self.on_written(fetch, (write, next, is_repeat), answer, now);
            }
            (Errand::GiveUp { fetch, write }, Arrival::Stored(answer)) => self.on_given_up(fetch, write, &answer, now),
            // The node that it has left is found by all until it is settled.
            (Errand::Arrived { transfer }, Arrival::Waited(waiting::Outcome::TimedOut)) => {
                self.await_known(Errand::Arrived { transfer }, now);
            }
            (Errand::Arrived { transfer }, _) => drop(self.coming.remove(&transfer)),
            (Errand::Freeze { name, token, to }, Arrival::Begun) => {
                let freeze = TransferCommand::Freeze { name: name.clone(), token: to };
                self.store(freeze, Errand::Freeze { name, token, to }, now);
            }
            (Errand::Freeze { name, token, .. }, Arrival::Stored(answer)) => self.on_frozen(name, token, &answer, now),
            (Errand::Settle { name, token, .. }, Arrival::Begun) => {
                // The disk to which it was to come, first; whichever life of its node has it.
                let mut nodes = peers.linked();
                nodes.sort_by_key(|node| Some(*node) == token.owner());
                self.query_outcome(name, token, nodes, now);
            }
            (Errand::Settle { name, token, nodes }, Arrival::Replied(reply)) => {
                self.on_outcome(name, token, nodes, reply, now);
            }
            (Errand::End { name, token, outcome, by }, Arrival::Begun) => self.end(name, token, outcome, by, now),
            (Errand::End { name, token, outcome, by }, Arrival::Stored(answer)) => {
                self.on_ended(name, token, (outcome, by), answer, now);
            }
            (Errand::Decide { to }, Arrival::Stored(TransferAnswer::Settled(outcome))) => {
                self.answer(to, Settled::Known(outcome).code());
            }
            // The store could not say: the other node asks again.
            (Errand::Decide { .. }, _) => {}
            (
                Errand::Write { .. }
                | Errand::GiveUp { .. }
                | Errand::Freeze { .. }
                | Errand::Settle { .. }
                | Errand::End { .. },
                _,
            ) => {
                debug_assert!(false, "an errand gets what it waits for");
            }
        }
    }

    // ---- a session is looked for ----

    /// Nobody creates or looks for a session of that name at the same time.
    fn request_grant(&mut self, mut search: Search, peers: &impl Peers, now: Tick) {
        let Some(&next) = search.grantors.get(search.requested) else {
            return self.look_at_next(search, Vec::new(), peers, now);
        };
        search.requested += 1;
        let (name, id) = (search.name.clone(), RequestId(search.token.0));
        if next.node != self.own {
            let disks = search.grantors.iter().map(|grantor| grantor.disk).collect();
            return self.call(next.node, DiskCall::Grant { name, id, disks }, Errand::Grant(search), now);
        }
        let wait = self.wait(Errand::Grant(search), now + CALL_MS_MAX);
        self.grants.insert((self.own, id), Grantee::Errand(wait));
        self.creation.request(self.own, id, name, now);
        self.take_grants();
    }

    fn on_granted(&mut self, search: Search, arrival: &Arrival, peers: &impl Peers, now: Tick) {
        match arrival {
            Arrival::Granted(true) | Arrival::Replied(Some(DiskReply::Code(1))) => {
                self.request_grant(search, peers, now)
            }
            _ => self.found(search, ClaimAnswer::Unknown, now),
        }
    }

    /// A session leaves a disk when all know that it is on another: who is found to have none may have had it before,
    /// and where it has gone to is known by now.
    fn look_at_next(&mut self, search: Search, mut called: Vec<Generation>, peers: &impl Peers, now: Tick) {
        let mut missing = peers.may_have(&search.name).into_iter().filter(|node| !called.contains(node));
        match missing.next() {
            Some(next) => {
                called.push(next);
                let has = DiskCall::Name(NameQuery::Has { name: search.name.clone() });
                self.call(next, has, Errand::Locate { search, called }, now);
            }
            // The grants may be another node's soon.
            None if now.since_ms(search.begun) >= WAIT_MS => self.found(search, ClaimAnswer::Unknown, now),
            None => self.found(search, ClaimAnswer::Claimed, now),
        }
    }

    fn on_located(&mut self, search: Search, called: Vec<Generation>, arrival: Arrival, peers: &impl Peers, now: Tick) {
        let node = *called.last().expect("it was called");
        match arrival {
            Arrival::Replied(Some(DiskReply::Code(0))) => self.look_at_next(search, called, peers, now),
            Arrival::Replied(Some(DiskReply::Code(_))) => {
                let owner = Token::new(node, search.token.0 | 1);
                self.found(search, ClaimAnswer::Taken(Some(owner)), now);
            }
            // It may be there.
            _ => self.found(search, ClaimAnswer::Unknown, now),
        }
    }

    /// `Claimed`: it is nowhere. `Taken`: a node has it.
    fn found(&mut self, search: Search, answer: ClaimAnswer, now: Tick) {
        self.claimed(search.name.clone(), search.token, answer, None);
        match answer {
            ClaimAnswer::Claimed => self.await_known(Errand::Announce(search), now),
            _ => self.end_search(search, now),
        }
    }

    fn end_search(&mut self, search: Search, now: Tick) {
        let (name, id) = (search.name, RequestId(search.token.0));
        // Whether it was granted or not: an answer may be lost.
        for Grantor { node, .. } in search.grantors.into_iter().take(search.requested) {
            match node == self.own {
                true => self.release(node, id, &name, now),
                false => self.notify(node, DiskCall::Name(NameQuery::Release { name: name.clone(), id })),
            }
        }
    }

    fn claimed(&mut self, name: SessionName, token: Token, answer: ClaimAnswer, session: Option<Box<StoredSession>>) {
        self.outputs.push_back(DisksOutput::Claimed { name, token, answer, session });
    }

    // ---- a session comes to this disk, part by part ----

    fn read(&mut self, fetch: Fetch, from: Position, now: Tick) {
        if fetch.deadline <= now {
            return self.give_up(fetch, None, now);
        }
        let read = DiskCall::Read { name: fetch.name.clone(), token: fetch.transfer, from: from.clone() };
        self.call(fetch.from, read, Errand::Read { fetch, from }, now);
    }

    fn on_part(&mut self, fetch: Fetch, from: Position, arrival: Arrival, now: Tick) {
        match arrival {
            Arrival::Begun => self.read(fetch, from, now),
            Arrival::Replied(Some(DiskReply::Part(part))) => {
                let next = part.next.clone();
                let write = TransferCommand::Write { name: fetch.name.clone(), token: fetch.transfer, part };
                self.write(fetch, write, next, false, now);
            }
            _ => self.give_up(fetch, None, now),
        }
    }

    fn write(&mut self, fetch: Fetch, write: TransferCommand, next: Option<Position>, is_repeat: bool, now: Tick) {
        self.store(write.clone(), Errand::Write { fetch, write, next, is_repeat }, now);
    }

    fn on_written(
        &mut self,
        fetch: Fetch,
        (write, next, is_repeat): (TransferCommand, Option<Position>, bool),
        answer: TransferAnswer,
        now: Tick,
    ) {
        match (answer, next) {
            // A second time changes nothing.
            (TransferAnswer::Refused(StoreError::Unreachable), next) if !is_repeat => {
                self.write(fetch, write, next, true, now);
            }
            (TransferAnswer::Here(session), _) => {
                self.claimed(fetch.name, fetch.token, ClaimAnswer::Claimed, Some(session));
                self.await_known(Errand::Arrived { transfer: fetch.transfer }, now);
            }
            (TransferAnswer::Done, Some(next)) => self.read(fetch, next, now),
            _ => self.give_up(fetch, Some(write), now),
        }
    }

    /// Nothing of it comes any more, and what has come is removed.
    fn give_up(&mut self, fetch: Fetch, write: Option<TransferCommand>, now: Tick) {
        let settle = TransferCommand::Settle { token: fetch.transfer };
        self.store(settle, Errand::GiveUp { fetch, write }, now);
    }

    fn on_given_up(&mut self, fetch: Fetch, write: Option<TransferCommand>, answer: &TransferAnswer, now: Tick) {
        match (answer, write) {
            // Its last part had its time, and has come all the same: a second time it says what is there.
            (TransferAnswer::Settled(Outcome::Arrived), Some(write)) => self.write(fetch, write, None, true, now),
            // Before the store says that it is not here, it may be.
            (TransferAnswer::Refused(StoreError::Unreachable), write) => self.give_up(fetch, write, now),
            _ => {
                self.coming.remove(&fetch.transfer);
                self.outputs.push_back(DisksOutput::FetchFailed);
                self.claimed(fetch.name, fetch.token, ClaimAnswer::Unknown, None);
            }
        }
    }

    // ---- a session leaves this disk ----

    /// The session is this node's no longer, once that is on its disk.
    fn on_frozen(&mut self, name: SessionName, token: Token, answer: &TransferAnswer, now: Tick) {
        let answer = match answer {
            TransferAnswer::Done => WriteAnswer::Stored,
            TransferAnswer::NotHere => WriteAnswer::Fenced,
            _ => WriteAnswer::Unknown,
        };
        self.set_idle(&name, now);
        self.outputs.push_back(DisksOutput::Passed { name, token, answer });
    }

    fn set_idle(&mut self, name: &str, now: Tick) {
        if let Some(leaving) = self.leaving.get_mut(name) {
            leaving.is_busy = false;
            self.settle_at = self.settle_at.min(now + SETTLE_MS);
        }
    }

    /// By the word of the disk to which the session was to come: the last of `nodes`, or another life of it.
    fn query_outcome(&mut self, name: SessionName, token: Token, nodes: Vec<Generation>, now: Tick) {
        let Some(&next) = nodes.last() else { return self.set_idle(&name, now) };
        let settle = DiskCall::Name(NameQuery::Settle { name: name.clone(), token });
        self.call(next, settle, Errand::Settle { name, token, nodes }, now);
    }

    fn on_outcome(
        &mut self,
        name: SessionName,
        token: Token,
        mut nodes: Vec<Generation>,
        reply: Option<DiskReply>,
        now: Tick,
    ) {
        let by = nodes.pop();
        let settled = match reply {
            Some(DiskReply::Code(code)) => Settled::from_code(code),
            _ => None,
        };
        match settled {
            Some(Settled::Known(Outcome::Foreign)) | None => self.query_outcome(name, token, nodes, now),
            Some(Settled::Pending) if self.planted.is(ClusterBug::DeletesBeforeArrival) => {
                self.end(name, token, Outcome::Arrived, by, now);
            }
            Some(Settled::Pending) => self.set_idle(&name, now),
            Some(Settled::Known(Outcome::Arrived)) if self.planted.is(ClusterBug::ThawsWhatArrived) => {
                self.end(name, token, Outcome::Never, by, now);
            }
            Some(Settled::Known(outcome)) => self.end(name, token, outcome, by, now),
        }
    }

    /// The session leaves this disk, or stays.
    fn end(&mut self, name: SessionName, token: Token, outcome: Outcome, by: Option<Generation>, now: Tick) {
        let command = match outcome {
            Outcome::Arrived => TransferCommand::Delete { name: name.clone(), token },
            Outcome::Never | Outcome::Foreign => TransferCommand::Thaw { name: name.clone(), token },
        };
        self.store(command, Errand::End { name, token, outcome, by }, now);
    }

    fn on_ended(
        &mut self,
        name: SessionName,
        token: Token,
        (outcome, by): (Outcome, Option<Generation>),
        answer: TransferAnswer,
        now: Tick,
    ) {
        let ended = match (outcome, answer) {
            (Outcome::Arrived, TransferAnswer::Done | TransferAnswer::NotHere) => DisksOutput::Left(name.clone()),
            (Outcome::Never, TransferAnswer::Here(session)) => DisksOutput::Back(session),
            // The store did not do it.
            _ => return self.set_idle(&name, now),
        };
        self.leaving.remove(&name);
        self.outputs.push_back(ended);
        if let Some(by) = by {
            // Should it not arrive, a row stays there.
            self.notify(by, DiskCall::Forget { token });
        }
    }
}

/// Its client waits for a minute at most.
const FETCH_MS_MAX: u64 = 30_000;
/// Longer than a session waits for its grant.
const CALL_MS_MAX: u64 = 10_000;
const STORE_MS_MAX: u64 = 10_000;
/// Longer than whoever carries out the output waits: this is for one that says nothing.
const READY_MS_MAX: u64 = 6_000;
const KNOWN_MS_MAX: u64 = 2_000;
/// Between two questions about the same session, and how many sessions are asked about at once.
const SETTLE_MS: u64 = 1_000;
const SETTLED_MAX: usize = 64;
const SETTLE_SOON_MS: u64 = 50;

#[cfg(test)]
mod tests;
