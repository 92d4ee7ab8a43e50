//! The sessions that this node owns, wants, or hands over; the truth about them is a record in the store.
//!
//! ```text
//!                ┌──────────── taken by another ◄────────────┐
//!                ▼                                           │
//! connect ─► Claiming ─ claimed ─► Owned ─ requested ─► Flushing ─► Releasing ─► handed over
//!   taken │      ▲                   └─ fenced ─► ended
//!         ▼      │ released, not there, or a second without an answer
//!      Requesting┘
//! ```
//! A claim compares the record's token with the one that was read, and writes a new, random one. Every write of the
//! owner carries its token, and is refused (`Fenced`) when the record has another: then the session ends here, and
//! nothing is written back. Numbers that grow would not do, since they go back when the store fails over.
//!
//! A node that stood still does not know whether it still owns what it owned: it asks (`Verify`) before it
//! acknowledges.

use super::super::planted::{ClusterBug, Planted};
use crate::base::id::Generation;
use crate::base::rng::Rng;
use crate::base::time::Tick;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub type SessionName = Arc<str>;

/// Names one ownership of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// The caller's number for a request to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// For the store; each is atomic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// If the record's token is `expected` (`None`: nobody owns it), make this node the owner, with `token`.
    Claim { name: SessionName, expected: Option<Token>, token: Token },
    /// If the record's token is still this one, nobody owns the session.
    Release { name: SessionName, token: Token },
    /// Is the record's token still this one?
    Verify { name: SessionName, token: Token },
}

/// Of a `Claim`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimAnswer {
    Claimed,
    /// The record has another owner than expected.
    Taken {
        owner: Option<Generation>,
        token: Token,
    },
    /// The store did not answer: it may have carried the claim out, or not.
    Unknown,
    /// This node has no lease, or was buried: what it claims nobody would adopt.
    NoLease,
}

/// Of any other command with a token, and of the shards' writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAnswer {
    Stored,
    Fenced,
    Unknown,
}

/// What the owner said to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    Released,
    /// It is not the owner, whatever the record says.
    NotOwner,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimsOutput {
    Store(Command),
    /// The owner is to hand the session over.
    Request {
        to: Generation,
        id: RequestId,
        name: SessionName,
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
    HandedOver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The store does not answer.
    StoreAway,
    /// Too many nodes want it at the same time.
    Contended,
    /// This node is dead to the others, or has not begun.
    NoLease,
}

enum Stage {
    Claiming {
        token: Token,
    },
    Requesting {
        owner: Token,
        id: RequestId,
        deadline: Tick,
    },
    Owned {
        token: Token,
        is_certain: bool,
    },
    /// Until the shard has stored everything, then until the record is free.
    Flushing {
        token: Token,
    },
    Releasing {
        token: Token,
    },
}

struct Claim {
    stage: Stage,
    /// Claims that found another owner.
    rounds: u32,
    /// Who wants it from us. A later request takes the place of an earlier one, which will ask the next owner.
    requester: Option<(Generation, RequestId)>,
    /// A connection here wants it back while it is being handed over.
    wants_back: bool,
}

pub struct Claims {
    own: Generation,
    claims: BTreeMap<SessionName, Claim>,
    tokens: Rng,
    requests: u64,
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
            Some(claim) if matches!(claim.stage, Stage::Flushing { .. } | Stage::Releasing { .. }) => {
                claim.wants_back = true;
            }
            // It is on its way.
            Some(_) => {}
        }
    }

    /// Adopts the session of a node that has ended; `token` is that of its record.
    pub fn adopt(&mut self, name: SessionName, token: Token) {
        if !self.claims.contains_key(&name) {
            self.claim(name, Some(token), 0);
        }
    }

    /// The token to write with. `None`: nothing may be acknowledged for this session now.
    pub fn certain_token(&self, name: &str) -> Option<Token> {
        match self.claims.get(name)?.stage {
            Stage::Owned { token, is_certain } if is_certain => Some(token),
            _ => None,
        }
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
        if !matches!(claim.stage, Stage::Claiming { token: of } if of == token) {
            return;
        }
        let rounds = claim.rounds + 1;
        match answer {
            ClaimAnswer::Claimed => {
                claim.stage = Stage::Owned { token, is_certain: true };
                claim.rounds = 0;
                let requester = claim.requester.is_some();
                self.outputs.push_back(ClaimsOutput::Owned { name: Arc::clone(name), token });
                if requester {
                    self.flush(name);
                }
            }
            ClaimAnswer::Unknown => self.refuse(name, RefusalReason::StoreAway),
            ClaimAnswer::NoLease => self.refuse(name, RefusalReason::NoLease),
            ClaimAnswer::Taken { .. } if rounds >= ROUNDS_MAX => self.refuse(name, RefusalReason::Contended),
            // Our own claim was carried out, and its answer lost; or nobody has it, which we did not expect.
            ClaimAnswer::Taken { owner, token } if owner.is_none_or(|owner| owner == self.own) => {
                self.claim(Arc::clone(name), owner.map(|_| token), rounds);
            }
            ClaimAnswer::Taken { owner: Some(owner), token } => self.request(name, owner, token, now),
            ClaimAnswer::Taken { owner: None, .. } => unreachable!("handled above"),
        }
    }

    /// The owner's answer, or that it cannot be reached.
    pub fn on_reply(&mut self, id: RequestId, handover: Option<Handover>, now: Tick) {
        self.note_stall(now);
        let is_it = |claim: &Claim| matches!(claim.stage, Stage::Requesting { id: of, .. } if of == id);
        let Some((name, claim)) = self.claims.iter().find(|(_, claim)| is_it(claim)) else { return };
        let Stage::Requesting { owner, .. } = claim.stage else { return };
        let (name, rounds) = (Arc::clone(name), claim.rounds);
        match handover {
            Some(Handover::Released) => self.claim(name, None, rounds),
            Some(Handover::NotOwner) => self.claim(name, Some(owner), rounds),
            // Whoever cannot be reached has until the deadline to come back.
            None => {}
        }
    }

    /// Another node wants a session that the record says is ours.
    pub fn on_request(&mut self, from: Generation, id: RequestId, name: &SessionName, now: Tick) {
        self.note_stall(now);
        let Some(claim) = self.claims.get_mut(name) else {
            self.outputs.push_back(ClaimsOutput::Reply { to: from, id, handover: Handover::NotOwner });
            return;
        };
        match claim.stage {
            // It is not ours, or not yet: the record that the requester saw may be that of our claim.
            Stage::Requesting { .. } => {
                self.outputs.push_back(ClaimsOutput::Reply { to: from, id, handover: Handover::NotOwner });
            }
            Stage::Claiming { .. } | Stage::Flushing { .. } | Stage::Releasing { .. } => {
                claim.requester = Some((from, id));
            }
            Stage::Owned { .. } => {
                claim.requester = Some((from, id));
                self.flush(name);
            }
        }
    }

    /// The shard has stored everything of a session, and has forgotten it.
    pub fn on_flushed(&mut self, name: &SessionName, token: Token) {
        let Some(claim) = self.claims.get_mut(name) else { return };
        if matches!(claim.stage, Stage::Flushing { token: of } if of == token) {
            claim.stage = Stage::Releasing { token };
            self.outputs.push_back(ClaimsOutput::Store(Command::Release { name: Arc::clone(name), token }));
        }
    }

    /// Of a `Release`. Stored or fenced, the record is not ours; unknown, the requester takes it by force.
    pub fn on_release(&mut self, name: &SessionName, token: Token, answer: WriteAnswer, now: Tick) {
        self.note_stall(now);
        let Some(claim) = self.claims.get(name) else { return };
        if !matches!(claim.stage, Stage::Releasing { token: of } if of == token) {
            return;
        }
        let Some(claim) = self.claims.remove(name) else { return };
        let handover = if answer == WriteAnswer::Stored { Handover::Released } else { Handover::NotOwner };
        if let Some((to, id)) = claim.requester {
            self.outputs.push_back(ClaimsOutput::Reply { to, id, handover });
        }
        self.outputs.push_back(ClaimsOutput::Ended { name: Arc::clone(name), token, reason: EndReason::HandedOver });
        if claim.wants_back {
            self.claim(Arc::clone(name), None, 0);
        }
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

    fn end_fenced(&mut self, name: &SessionName, token: Token) {
        if self.planted.is(ClusterBug::IgnoresFences) {
            return;
        }
        let Some(claim) = self.claims.remove(name) else { return };
        if let Some((to, id)) = claim.requester {
            self.outputs.push_back(ClaimsOutput::Reply { to, id, handover: Handover::NotOwner });
        }
        self.outputs.push_back(ClaimsOutput::Ended { name: Arc::clone(name), token, reason: EndReason::Fenced });
        if claim.wants_back {
            self.claim(Arc::clone(name), None, 0);
        }
    }

    /// A hint that another node has taken a session: the store decides.
    pub fn on_hint(&mut self, name: &SessionName) {
        if let Some(Claim { stage: Stage::Owned { token, .. }, .. }) = self.claims.get(name) {
            let command = Command::Verify { name: Arc::clone(name), token: *token };
            self.outputs.push_back(ClaimsOutput::Store(command));
        }
    }

    /// The shard has ended a session: nobody owns it.
    pub fn drop_session(&mut self, name: &SessionName) {
        let Some(claim) = self.claims.get_mut(name) else { return };
        if let Stage::Owned { token, .. } = claim.stage {
            claim.stage = Stage::Releasing { token };
            self.outputs.push_back(ClaimsOutput::Store(Command::Release { name: Arc::clone(name), token }));
        }
    }

    pub fn handle_timers(&mut self, now: Tick) {
        self.note_stall(now);
        let due = self.claims.iter().filter_map(|(name, claim)| match claim.stage {
            Stage::Requesting { owner, deadline, .. } if deadline <= now => {
                Some((Arc::clone(name), owner, claim.rounds))
            }
            _ => None,
        });
        for (name, owner, rounds) in due.collect::<Vec<_>>() {
            self.claim(name, Some(owner), rounds);
        }
    }

    pub fn next_tick(&self) -> Tick {
        let deadlines = self.claims.values().filter_map(|claim| match claim.stage {
            Stage::Requesting { deadline, .. } => Some(deadline),
            _ => None,
        });
        let look = if self.claims.is_empty() { Tick::NEVER } else { self.looked_at + LOOK_MS };
        deadlines.min().unwrap_or(Tick::NEVER).min(look)
    }

    pub fn poll_output(&mut self) -> Option<ClaimsOutput> {
        self.outputs.pop_front()
    }

    fn claim(&mut self, name: SessionName, expected: Option<Token>, rounds: u32) {
        let token = Token(self.tokens.next_u64());
        let requester = self.claims.remove(&name).and_then(|claim| claim.requester);
        let stage = Stage::Claiming { token };
        self.claims.insert(Arc::clone(&name), Claim { stage, rounds, requester, wants_back: false });
        self.outputs.push_back(ClaimsOutput::Store(Command::Claim { name, expected, token }));
    }

    fn request(&mut self, name: &SessionName, to: Generation, owner: Token, now: Tick) {
        self.requests += 1;
        let id = RequestId(self.requests);
        let Some(claim) = self.claims.get_mut(name) else { return };
        claim.rounds += 1;
        claim.stage = Stage::Requesting { owner, id, deadline: now + FORCE_MS };
        let requester = claim.requester.take();
        if let Some((from, id)) = requester {
            self.outputs.push_back(ClaimsOutput::Reply { to: from, id, handover: Handover::NotOwner });
        }
        self.outputs.push_back(ClaimsOutput::Request { to, id, name: Arc::clone(name) });
    }

    fn flush(&mut self, name: &SessionName) {
        let Some(claim) = self.claims.get_mut(name) else { return };
        let Stage::Owned { token, .. } = claim.stage else { return };
        claim.stage = Stage::Flushing { token };
        self.outputs.push_back(ClaimsOutput::Flush { name: Arc::clone(name), token });
    }

    fn refuse(&mut self, name: &SessionName, reason: RefusalReason) {
        if let Some((to, id)) = self.claims.remove(name).and_then(|claim| claim.requester) {
            self.outputs.push_back(ClaimsOutput::Reply { to, id, handover: Handover::NotOwner });
        }
        self.outputs.push_back(ClaimsOutput::Refused { name: Arc::clone(name), reason });
    }

    /// Whoever was not looked at for a second may have lost everything to force.
    fn note_stall(&mut self, now: Tick) {
        let was_still = now.since_ms(self.looked_at) >= FORCE_MS && !self.planted.is(ClusterBug::TrustsItself);
        self.looked_at = now;
        if !was_still {
            return;
        }
        for (name, claim) in &mut self.claims {
            if let Stage::Owned { token, is_certain } = &mut claim.stage {
                *is_certain = false;
                let command = Command::Verify { name: Arc::clone(name), token: *token };
                self.outputs.push_back(ClaimsOutput::Store(command));
            }
        }
    }
}

/// An owner that does not answer for a second loses the session.
pub const FORCE_MS: u64 = 1_000;
/// How often a node that owns sessions looks at the clock, to find out that it stood still.
const LOOK_MS: u64 = 250;
/// As many nodes that take a session from each other are a storm.
const ROUNDS_MAX: u32 = 16;

#[cfg(test)]
mod tests;
