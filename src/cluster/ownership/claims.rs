//! The sessions that this node owns, wants, or hands over; the truth about them is a record in the store.
//!
//! ```text
//! connect ─► Claiming ─ claimed ─► Owned ─ requested ─► Flushing ─► Passing ─► passed
//!   taken │      ▲                   └─ fenced ─► ended
//!         ▼      │ passed, not there, or a second without an answer
//!      Requesting┘
//! ```
//! A claim compares the record's token with the one that was read, and writes a new, random one. Every write of the
//! owner carries its token, and is refused (`Fenced`) when the record has another: then the session ends here, and
//! nothing is written back. Numbers that grow would not do, since they go back when the store fails over.
//!
//! The owner passes the session on by writing the requester's token into the record: a session that exists has an owner
//! at any time, so that one that is left by a node that dies is found among what that node has left.
//!
//! A node that stood still does not know whether it still owns what it owned: it asks (`Verify`) before it
//! acknowledges.

use super::super::planted::{ClusterBug, Planted};
use crate::base::id::Generation;
use crate::base::rng::Rng;
use crate::base::time::Tick;
pub use crate::shard::command::{ClaimAnswer, OwnershipCommand, Token, WriteAnswer};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

pub type SessionName = Arc<str>;

/// The caller's number for a request to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What the owner said to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// The record has the token that came with the request.
    Passed,
    /// It is not the owner, whatever the record says.
    NotOwner,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimsOutput {
    Store(OwnershipCommand),
    /// The owner is to pass the session on to this token.
    Request {
        to: Generation,
        id: RequestId,
        name: SessionName,
        token: Token,
    },
    /// To `Claims::on_request`.
    Reply {
        to: Generation,
        id: RequestId,
        handover: Handover,
    },
    /// The session is ours: load it. Its writes carry this token.
    Owned {
        name: SessionName,
        token: Token,
    },
    /// Stop acknowledging, store what is not stored, then `on_flushed`. The client gets 4409.
    Flush {
        name: SessionName,
        token: Token,
    },
    /// Forget the session; nothing of it is written back. The client gets 4409.
    Ended {
        name: SessionName,
        token: Token,
        reason: EndReason,
    },
    /// The connection that wanted the session cannot have it now: 503.
    Refused {
        name: SessionName,
        reason: RefusalReason,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    Fenced,
    Passed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The store does not answer.
    StoreAway,
    /// Too many nodes want it at the same time.
    Contended,
    /// This node is dead to the others, or has not begun.
    NoLease,
    /// What lies in the store cannot be read.
    Damaged,
}

#[derive(Clone, Copy)]
enum Stage {
    /// `since`: before that the record had another token.
    Claiming {
        token: Token,
        since: Tick,
    },
    Requesting {
        owner: Token,
        /// What the owner is to write.
        ours: Token,
        id: RequestId,
        deadline: Tick,
    },
    Owned {
        token: Token,
        is_certain: bool,
    },
    /// Until the shard has stored everything, then until the record has the requester's token.
    Flushing {
        token: Token,
    },
    Passing {
        token: Token,
        to: Requester,
    },
}

/// Who wants a session from us.
#[derive(Clone, Copy)]
struct Requester {
    node: Generation,
    id: RequestId,
    token: Token,
}

struct Claim {
    stage: Stage,
    /// Claims that found another owner.
    rounds: u32,
    /// Who wants it from us. A later request takes the place of an earlier one, which will ask the next owner.
    requester: Option<Requester>,
    /// A connection here wants it back while it is being handed over.
    wants_back: bool,
    /// No client waits for it here: if this node does not have it any more, whoever has it may keep it.
    only_from: Option<Generation>,
}

pub struct Claims {
    own: Generation,
    claims: BTreeMap<SessionName, Claim>,
    tokens: Rng,
    requests: u64,
    /// What waits for an answer to a request, by its number and by its deadline.
    requested: BTreeMap<RequestId, SessionName>,
    deadlines: BTreeSet<(Tick, RequestId)>,
    /// Sessions from here on are to be verified.
    verifying: Option<SessionName>,
    looked_at: Tick,
    outputs: VecDeque<ClaimsOutput>,
    planted: Planted,
}

impl Claims {
    /// `seed` is drawn at random: tokens of two nodes must not be the same.
    pub fn new(own: Generation, seed: u64, now: Tick) -> Claims {
        Claims {
            own,
            claims: BTreeMap::new(),
            tokens: Rng::new(seed),
            requests: 0,
            requested: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            verifying: None,
            looked_at: now,
            outputs: VecDeque::new(),
            planted: Planted::default(),
        }
    }

    pub fn plant(&mut self, bug: ClusterBug) {
        self.planted.plant(bug);
    }

    /// A client of this session connects here. `Owned` or `Refused` follows.
    pub fn connect(&mut self, name: SessionName, now: Tick) {
        self.note_stall(now);
        match self.claims.get_mut(&name) {
            None => self.claim(name, None, 0),
            Some(Claim { stage: Stage::Owned { token, .. }, .. }) => {
                let token = *token;
                self.outputs.push_back(ClaimsOutput::Owned { name, token });
            }
            Some(claim) if matches!(claim.stage, Stage::Flushing { .. } | Stage::Passing { .. }) => {
                claim.wants_back = true;
            }
            // It is on its way.
            Some(claim) => claim.only_from = None,
        }
    }

    /// Adopts the session of a node that has ended; `token` is that of its record. A client may have taken it elsewhere
    /// meanwhile: then it stays there.
    pub fn adopt(&mut self, name: SessionName, token: Token) {
        if !self.claims.contains_key(&name) {
            self.claim_from(name, Some(token), token.owner());
        }
    }

    /// Its owner stops, and has offered it: it passes the session on as to a client's node.
    pub fn take(&mut self, name: SessionName, owner: Generation) {
        if !self.claims.contains_key(&name) {
            self.claim_from(name, None, Some(owner));
        }
    }

    fn claim_from(&mut self, name: SessionName, expected: Option<Token>, owner: Option<Generation>) {
        self.claim(name.clone(), expected, 0);
        if let Some(claim) = self.claims.get_mut(&name) {
            claim.only_from = owner;
        }
    }

    /// It was this node's before anything else happened.
    pub fn own(&mut self, name: SessionName, token: Token) {
        let stage = Stage::Owned { token, is_certain: true };
        self.claims.insert(name, Claim { stage, rounds: 0, requester: None, wants_back: false, only_from: None });
    }

    /// It was passed on, and has not arrived.
    pub fn take_back(&mut self, name: SessionName) {
        let token = self.draw();
        self.own(name, token);
    }

    pub fn len(&self) -> usize {
        self.claims.len()
    }

    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// The token to write with. `None`: nothing may be acknowledged for this session now.
    pub fn certain_token(&self, name: &str) -> Option<Token> {
        match self.claims.get(name)?.stage {
            Stage::Owned { token, is_certain } if is_certain => Some(token),
            _ => None,
        }
    }

    /// This node has the session, though it may be passing it on.
    pub fn has(&self, name: &str) -> bool {
        let has_it = |claim: &Claim| !matches!(claim.stage, Stage::Claiming { .. } | Stage::Requesting { .. });
        self.claims.get(name).is_some_and(has_it)
    }

    /// The token that the owner of this session is asked to pass it to.
    pub fn requested(&self, name: &str) -> Option<Token> {
        match self.claims.get(name)?.stage {
            Stage::Requesting { ours, .. } => Some(ours),
            _ => None,
        }
    }

    /// So many of the names that are owned, behind this one.
    pub fn owned_after(&self, behind: Option<&SessionName>, most: usize) -> Vec<SessionName> {
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let claims = self.claims.range::<SessionName, _>((from, Bound::Unbounded));
        let owned = claims.filter(|(_, claim)| matches!(claim.stage, Stage::Owned { .. }));
        owned.take(most).map(|(name, _)| name.clone()).collect()
    }

    pub fn owned(&self) -> impl Iterator<Item = (&SessionName, Token)> {
        self.claims.iter().filter_map(|(name, claim)| match claim.stage {
            Stage::Owned { token, .. } => Some((name, token)),
            _ => None,
        })
    }

    pub fn on_claim(&mut self, name: &SessionName, token: Token, answer: ClaimAnswer, now: Tick) {
        self.note_stall(now);
        let Some(claim) = self.claims.get_mut(name) else { return };
        let since = match claim.stage {
            Stage::Claiming { token: of, since } if of == token => since,
            _ => return,
        };
        let rounds = claim.rounds + 1;
        match answer {
            ClaimAnswer::Claimed => {
                // Who has asked us for it since, and had no answer for so long, may have taken it.
                let is_certain = now.since_ms(since) < FORCE_MS;
                claim.stage = Stage::Owned { token, is_certain };
                if !is_certain {
                    let command = OwnershipCommand::Verify { name: Arc::clone(name), token };
                    self.outputs.push_back(ClaimsOutput::Store(command));
                }
                (claim.rounds, claim.only_from) = (0, None);
                let requester = claim.requester.is_some();
                self.outputs.push_back(ClaimsOutput::Owned { name: Arc::clone(name), token });
                if requester {
                    self.flush(name);
                }
            }
            // It was to be passed on: until the store names its owner, it is asked again.
            ClaimAnswer::Unknown if claim.only_from == Some(self.own) => {
                self.give_up(name);
                self.claim_later(name, token, now);
            }
            ClaimAnswer::Unknown => self.refuse(name, RefusalReason::StoreAway),
            ClaimAnswer::NoLease => self.refuse(name, RefusalReason::NoLease),
            ClaimAnswer::Damaged => self.refuse(name, RefusalReason::Damaged),
            // A client has it elsewhere. One that was passed to us and whose news is late is ours.
            ClaimAnswer::Taken(Some(token))
                if claim.only_from.is_some_and(|from| ![Some(from), Some(self.own)].contains(&token.owner())) =>
            {
                self.give_up(name);
            }
            ClaimAnswer::Taken(_) if rounds >= ROUNDS_MAX => self.refuse(name, RefusalReason::Contended),
            ClaimAnswer::Taken(token) => match token.and_then(|token| Some((token.owner()?, token))) {
                Some((owner, token)) if owner != self.own => self.request(name, owner, token, now),
                // Our own claim was carried out, and its answer lost; or nobody has it, which we did not expect.
                _ => self.claim(Arc::clone(name), token, rounds),
            },
        }
    }

    /// The owner's answer, or that it cannot be reached.
    pub fn on_reply(&mut self, id: RequestId, handover: Option<Handover>, now: Tick) {
        self.note_stall(now);
        // Whoever cannot be reached has until the deadline to come back.
        let Some(handover) = handover else { return };
        let Some((name, owner, ours)) = self.end_request(id) else { return };
        let rounds = self.claims[&name].rounds;
        match handover {
            Handover::Passed => self.claim(name, Some(ours), rounds),
            Handover::NotOwner => self.claim(name, Some(owner), rounds),
        }
    }

    /// The session of a request that has not ended, its owner's token and ours.
    fn end_request(&mut self, id: RequestId) -> Option<(SessionName, Token, Token)> {
        let name = self.requested.remove(&id)?;
        match self.claims.get(&name)?.stage {
            Stage::Requesting { owner, ours, id: of, deadline } if of == id => {
                self.deadlines.remove(&(deadline, id));
                Some((name, owner, ours))
            }
            _ => None,
        }
    }

    /// Another node wants a session that the record says is ours.
    pub fn on_request(&mut self, from: Generation, id: RequestId, name: &SessionName, token: Token, now: Tick) {
        self.note_stall(now);
        let Some(claim) = self.claims.get_mut(name) else {
            self.outputs.push_back(ClaimsOutput::Reply { to: from, id, handover: Handover::NotOwner });
            return;
        };
        let requester = Requester { node: from, id, token };
        match claim.stage {
            // It is not ours, or not yet: the record that the requester saw may be that of our claim.
            Stage::Requesting { .. } => {
                self.outputs.push_back(ClaimsOutput::Reply { to: from, id, handover: Handover::NotOwner });
            }
            Stage::Claiming { .. } | Stage::Flushing { .. } | Stage::Passing { .. } => {
                if let Some(before) = claim.requester.replace(requester) {
                    self.deny(before);
                }
            }
            Stage::Owned { .. } => {
                claim.requester = Some(requester);
                self.flush(name);
            }
        }
    }

    /// The shard has stored everything of a session, and takes nothing more for it.
    pub fn on_flushed(&mut self, name: &SessionName, token: Token) {
        let Some(claim) = self.claims.get_mut(name) else { return };
        if !matches!(claim.stage, Stage::Flushing { token: of } if of == token) {
            return;
        }
        let Some(to) = claim.requester.take() else { return };
        claim.stage = Stage::Passing { token, to };
        let pass = OwnershipCommand::Pass { name: Arc::clone(name), token, to: to.token };
        self.outputs.push_back(ClaimsOutput::Store(pass));
    }

    /// Of a `Pass` of a record. Stored or fenced, it is not ours; unknown, the requester takes it by force within a
    /// second. If it does not, it is ours still, and nobody has the session: we take it back.
    pub fn on_pass(&mut self, name: &SessionName, token: Token, answer: WriteAnswer, now: Tick) {
        if self.end_pass(name, token, answer, now) && answer == WriteAnswer::Unknown {
            self.claim_later(name, token, now);
        }
    }

    /// Of a `Pass` from this node's disk: what became of the session is known once its destination has said so.
    pub fn on_frozen(&mut self, name: &SessionName, token: Token, answer: WriteAnswer, now: Tick) {
        self.end_pass(name, token, answer, now);
    }

    /// True if nothing here wants the session.
    fn end_pass(&mut self, name: &SessionName, token: Token, answer: WriteAnswer, now: Tick) -> bool {
        self.note_stall(now);
        let Some(Stage::Passing { token: of, to }) = self.claims.get(name).map(|claim| claim.stage) else {
            return false;
        };
        if of != token {
            return false;
        }
        let Some(claim) = self.claims.remove(name) else { return false };
        let handover = if answer == WriteAnswer::Stored { Handover::Passed } else { Handover::NotOwner };
        self.outputs.push_back(ClaimsOutput::Reply { to: to.node, id: to.id, handover });
        if let Some(later) = claim.requester {
            self.deny(later);
        }
        let reason = if answer == WriteAnswer::Fenced { EndReason::Fenced } else { EndReason::Passed };
        self.outputs.push_back(ClaimsOutput::Ended { name: Arc::clone(name), token, reason });
        if claim.wants_back {
            self.claim(Arc::clone(name), None, 0);
        }
        !claim.wants_back
    }

    /// In a second, unless another node has it by then.
    fn claim_later(&mut self, name: &SessionName, owner: Token, now: Tick) {
        let (id, ours, deadline) = self.next_request(name, now);
        let stage = Stage::Requesting { owner, ours, id, deadline };
        let only_from = Some(self.own);
        self.claims.insert(name.clone(), Claim { stage, rounds: 0, requester: None, wants_back: false, only_from });
    }

    fn deny(&mut self, requester: Requester) {
        let Requester { node: to, id, .. } = requester;
        self.outputs.push_back(ClaimsOutput::Reply { to, id, handover: Handover::NotOwner });
    }

    /// Of a write with a token, or of `Verify`. An answer to an earlier ownership says nothing of this one.
    pub fn on_write(&mut self, name: &SessionName, token: Token, answer: WriteAnswer) {
        let Some(claim) = self.claims.get_mut(name) else { return };
        let (Stage::Owned { token: of, .. } | Stage::Flushing { token: of }) = claim.stage else { return };
        if of != token {
            return;
        }
        match answer {
            WriteAnswer::Stored => {
                if let Stage::Owned { is_certain, .. } = &mut claim.stage {
                    *is_certain = true;
                }
            }
            WriteAnswer::Fenced => self.end_fenced(name, token),
            WriteAnswer::Unknown => {}
        }
    }

    /// A write was refused. False: the session had gone from here before.
    pub fn fence(&mut self, name: &SessionName) -> bool {
        let stage = self.claims.get(name).map(|claim| claim.stage);
        let Some(Stage::Owned { token, .. } | Stage::Flushing { token }) = stage else { return false };
        self.end_fenced(name, token);
        true
    }

    fn end_fenced(&mut self, name: &SessionName, token: Token) {
        if self.planted.is(ClusterBug::IgnoresFences) {
            return;
        }
        let Some(claim) = self.claims.remove(name) else { return };
        if let Some(requester) = claim.requester {
            self.deny(requester);
        }
        self.outputs.push_back(ClaimsOutput::Ended { name: Arc::clone(name), token, reason: EndReason::Fenced });
        if claim.wants_back {
            self.claim(Arc::clone(name), None, 0);
        }
    }

    /// A hint that another node has taken a session: the store decides.
    pub fn on_hint(&mut self, name: &SessionName) {
        if let Some(Claim { stage: Stage::Owned { token, .. }, .. }) = self.claims.get(name) {
            let command = OwnershipCommand::Verify { name: Arc::clone(name), token: *token };
            self.outputs.push_back(ClaimsOutput::Store(command));
        }
    }

    /// The shard has ended a session, and removes its record.
    pub fn drop_session(&mut self, name: &SessionName) {
        let has_it = |claim: &Claim| matches!(claim.stage, Stage::Owned { .. } | Stage::Flushing { .. });
        if !self.claims.get(name).is_some_and(has_it) {
            return;
        }
        let Some(claim) = self.claims.remove(name) else { return };
        if let Some(requester) = claim.requester {
            self.deny(requester);
        }
        if claim.wants_back {
            self.claim(Arc::clone(name), None, 0);
        }
    }

    pub fn handle_timers(&mut self, now: Tick) {
        self.note_stall(now);
        while let Some((deadline, id)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now) {
            self.deadlines.remove(&(deadline, id));
            if let Some((name, owner, _)) = self.end_request(id) {
                let rounds = self.claims[&name].rounds;
                self.claim(name, Some(owner), rounds);
            }
        }
        self.verify_some();
    }

    pub fn next_tick(&self) -> Tick {
        let deadline = self.deadlines.first().map_or(Tick::NEVER, |(deadline, _)| *deadline);
        let look = if self.claims.is_empty() { Tick::NEVER } else { self.looked_at + LOOK_MS };
        let verify = if self.verifying.is_some() { self.looked_at + VERIFY_MS } else { Tick::NEVER };
        deadline.min(look).min(verify)
    }

    pub fn poll_output(&mut self) -> Option<ClaimsOutput> {
        self.outputs.pop_front()
    }

    fn claim(&mut self, name: SessionName, expected: Option<Token>, rounds: u32) {
        let token = self.draw();
        let before = self.claims.remove(&name);
        let only_from = before.as_ref().and_then(|claim| claim.only_from);
        let stage = Stage::Claiming { token, since: self.looked_at };
        let requester = before.and_then(|claim| claim.requester);
        self.claims.insert(Arc::clone(&name), Claim { stage, rounds, requester, wants_back: false, only_from });
        self.outputs.push_back(ClaimsOutput::Store(OwnershipCommand::Claim { name, expected, token }));
    }

    /// Nobody else has it.
    pub fn draw(&mut self) -> Token {
        Token::new(self.own, self.tokens.next_u64())
    }

    fn request(&mut self, name: &SessionName, to: Generation, owner: Token, now: Tick) {
        let (id, ours, deadline) = self.next_request(name, now);
        let Some(claim) = self.claims.get_mut(name) else { return };
        claim.rounds += 1;
        claim.stage = Stage::Requesting { owner, ours, id, deadline };
        let requester = claim.requester.take();
        if let Some(requester) = requester {
            self.deny(requester);
        }
        self.outputs.push_back(ClaimsOutput::Request { to, id, name: Arc::clone(name), token: ours });
    }

    /// Its number, the token that the session is to be passed to, and until when it waits.
    fn next_request(&mut self, name: &SessionName, now: Tick) -> (RequestId, Token, Tick) {
        self.requests += 1;
        let (id, deadline) = (RequestId(self.requests), now + FORCE_MS);
        self.requested.insert(id, Arc::clone(name));
        self.deadlines.insert((deadline, id));
        (id, self.draw(), deadline)
    }

    fn flush(&mut self, name: &SessionName) {
        let Some(claim) = self.claims.get_mut(name) else { return };
        let Stage::Owned { token, .. } = claim.stage else { return };
        claim.stage = Stage::Flushing { token };
        self.outputs.push_back(ClaimsOutput::Flush { name: Arc::clone(name), token });
    }

    fn give_up(&mut self, name: &SessionName) {
        if let Some(requester) = self.claims.remove(name).and_then(|claim| claim.requester) {
            self.deny(requester);
        }
    }

    fn refuse(&mut self, name: &SessionName, reason: RefusalReason) {
        self.give_up(name);
        self.outputs.push_back(ClaimsOutput::Refused { name: Arc::clone(name), reason });
    }

    /// Whoever was not looked at for a second may have lost everything to force.
    fn note_stall(&mut self, now: Tick) {
        let was_still = now.since_ms(self.looked_at) >= FORCE_MS && !self.planted.is(ClusterBug::TrustsItself);
        self.looked_at = now;
        if !was_still {
            return;
        }
        for claim in self.claims.values_mut() {
            if let Stage::Owned { is_certain, .. } = &mut claim.stage {
                *is_certain = false;
            }
        }
        self.verifying = self.claims.keys().next().cloned();
        self.verify_some();
    }

    /// A slice of what is not certain: the store has other work, too.
    fn verify_some(&mut self) {
        let Some(from) = self.verifying.take() else { return };
        for (looked, (name, claim)) in self.claims.range(from..).enumerate() {
            if looked == VERIFIED_MAX {
                self.verifying = Some(Arc::clone(name));
                return;
            }
            if let Stage::Owned { token, is_certain: false } = claim.stage {
                let command = OwnershipCommand::Verify { name: Arc::clone(name), token };
                self.outputs.push_back(ClaimsOutput::Store(command));
            }
        }
    }
}

/// An owner that does not answer for a second loses the session.
pub const FORCE_MS: u64 = 1_000;
/// How often a node that owns sessions looks at the clock, to find out that it stood still.
const LOOK_MS: u64 = 250;
/// So many sessions are verified at once, and so long after the last ones.
const VERIFIED_MAX: usize = 256;
const VERIFY_MS: u64 = 10;
/// As many nodes that take a session from each other are a storm.
const ROUNDS_MAX: u32 = 16;

#[cfg(test)]
mod tests;
