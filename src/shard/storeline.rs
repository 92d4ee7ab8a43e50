//! The shard's line to the store: work goes out numbered, what is told comes back in the same order. For each piece of
//! work under way it is kept what to do when it is done.

use super::command::{
    Command, CommandNumber, Completion, Completions, ExpiredMessages, Mutation, Offset, Operation, Received, SessionId,
    StoreError,
};
use super::parts::{PartRef, QueryId};
use super::{Output, Reply, Shard};
use crate::base::time::Tick;
use std::collections::VecDeque;
use std::sync::Arc;

/// A session's slot and the slot's generation, checked when the store has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    pub index: u32,
    pub generation: u32,
}

impl SessionKey {
    pub const NONE: SessionKey = SessionKey { index: u32::MAX, generation: 0 };
}

/// What follows a piece of work.
#[derive(Debug)]
pub enum After {
    Nothing,
    /// The row of a session that is being attached; refused, the connection is.
    AttachStep(SessionKey, u32),
    /// A channel that it joins with that.
    AttachJoin(SessionKey, u32, Arc<str>),
    /// The first page of a session that is being attached.
    Attach(SessionKey, u32),
    /// A further page.
    Page(SessionKey, u32),
    /// A message of a session's is stored; `part` when the message is not in memory.
    StoredMessage {
        session: SessionKey,
        offset: Offset,
        bytes: u64,
        part: Option<PartRef>,
    },
    /// REL may go out; `bytes` as above.
    Released {
        session: SessionKey,
        offset: Offset,
        bytes: u64,
    },
    /// ACK or REC may go out, unless a change that came with it has been refused.
    Received {
        session: SessionKey,
        sequence: u64,
        /// Changes after this number count.
        since: u64,
        /// What is to be stored before it goes out: not before those changes are known to be.
        then: Option<Received>,
    },
    /// A change that came with an answer.
    Changed(SessionKey),
    /// The client has it, and the store may forget it; `bytes` of a message that counts as waiting.
    Removed {
        session: SessionKey,
        offset: Offset,
        bytes: u64,
    },
    /// What is left of a QoS 2 message, its REL, is stored.
    ReleaseKept(SessionKey, Offset),
    Dropped(SessionId),
    /// The mark of a new run is stored: its messages may go on.
    Numbered(SessionKey),
    Reserved(SessionKey, Offset),
    /// A channel was joined by a call, or by an answer of the backend's.
    Joined {
        session: SessionKey,
        channel: Arc<str>,
        ticket: Option<QueryId>,
    },
    /// A channel was left; whoever has asked is told.
    Left {
        session: SessionKey,
        channel: Arc<str>,
        told: Option<(QueryId, Reply)>,
    },
    /// Replied to unless a change after number `since` has been refused.
    Settled {
        session: SessionKey,
        since: u64,
        ticket: QueryId,
        reply: Reply,
    },
    /// `/session/drop/`.
    DropReplied {
        session: SessionId,
        ticket: QueryId,
        reply: Reply,
    },
}

#[derive(Default)]
pub struct StoreLine {
    told: u64,
    under_way: VecDeque<After>,
}

impl StoreLine {
    /// Work that the store has not told of.
    pub fn len(&self) -> usize {
        self.under_way.len()
    }

    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// The number of the last work given out.
    pub fn last(&self) -> u64 {
        self.told + self.under_way.len() as u64
    }

    pub fn told(&self) -> u64 {
        self.told
    }

    /// A message that was not kept after all, and that its client has meanwhile, is not counted down again.
    pub fn uncounts_no_more(&mut self, of: SessionKey, which: Offset) {
        for after in &mut self.under_way {
            if let After::Removed { session, offset, bytes } | After::Released { session, offset, bytes } = after
                && (*session, *offset) == (of, which)
            {
                *bytes = 0;
            }
        }
    }

    /// The calls whose messages are on their way to the store, for invariants.
    #[cfg(debug_assertions)]
    pub fn parts(&self) -> impl Iterator<Item = PartRef> + '_ {
        self.under_way.iter().filter_map(|after| match after {
            After::StoredMessage { part, .. } => *part,
            _ => None,
        })
    }
}

impl Shard {
    pub(super) fn store(&mut self, step: Mutation, after: After) {
        self.give_out(Operation::Mutate(step), after);
    }

    pub(super) fn load(&mut self, session: SessionId, after: Option<Offset>, then: After) {
        let most = (2 * self.settings.inflight_window).clamp(PAGE_MIN, PAGE_MAX);
        self.give_out(Operation::Load { session, after, most }, then);
    }

    fn give_out(&mut self, operation: Operation, after: After) {
        self.storeline.under_way.push_back(after);
        let number = self.storeline.last();
        self.outputs.push_back(Output::Store(Command { number: CommandNumber(number), operation }));
    }

    /// The store makes no new promise: too much is under way.
    pub(super) fn store_is_busy(&self) -> bool {
        self.storeline.len() >= STORELINE_MAX
    }

    /// Large fan-outs wait here until the store has caught up.
    pub(super) fn store_is_behind(&self) -> bool {
        self.storeline.len() >= STORELINE_BEHIND
    }

    /// Work that the store has not told of yet.
    pub fn store_under_way(&self) -> usize {
        self.storeline.len()
    }

    pub(super) fn on_told(&mut self, told: Completions, now: Tick) {
        let mut other = told.exceptions.into_iter().peekable();
        while self.storeline.told < told.upto.0 {
            let Some(after) = self.storeline.under_way.pop_front() else {
                debug_assert!(false, "told of work that was not given out");
                return;
            };
            self.storeline.told += 1;
            let number = self.storeline.told;
            let outcome = match other.next_if(|(of, _)| of.0 == number) {
                Some((_, outcome)) => outcome,
                None => Completion::Done,
            };
            if let Completion::Refused(_) = outcome {
                self.stats.store_refused += 1;
            }
            self.follow(after, outcome, now);
        }
    }

    fn follow(&mut self, after: After, outcome: Completion, now: Tick) {
        let refused = match &outcome {
            Completion::Refused(why) => Some(*why),
            _ => None,
        };
        match after {
            After::Nothing => {}
            After::AttachStep(session, attempt) => {
                if let Some(why) = refused {
                    self.refuse_attach(session, attempt, why, now);
                }
            }
            After::AttachJoin(session, attempt, channel) => {
                self.on_joined(session, &channel, None, refused);
                if let Some(why) = refused {
                    self.refuse_attach(session, attempt, why, now);
                }
            }
            After::Attach(session, attempt) => match outcome {
                Completion::Loaded(page) => self.on_attached(session, attempt, page, now),
                _ => self.refuse_attach(session, attempt, refused.unwrap_or(StoreError::Broken), now),
            },
            After::Page(session, attempt) => {
                let page = if let Completion::Loaded(page) = outcome { Some(page) } else { None };
                self.on_page(session, attempt, page, now);
            }
            After::StoredMessage { session, offset, bytes, part } => {
                self.on_kept(session, offset, bytes, part, outcome, now)
            }
            After::Released { session, offset, bytes } => {
                self.on_release_told(session, offset, bytes, refused.is_none(), now);
            }
            After::Received { session, sequence, since, then } => {
                let done = refused.is_none() && !self.is_spoiled(session, since);
                match then.filter(|_| done) {
                    Some(received) => self.receive(session, received),
                    None => self.on_received_told(session, sequence, done, now),
                }
            }
            After::Settled { session, since, ticket, reply } => {
                let done = refused.is_none() && !self.is_spoiled(session, since);
                let reply = if done { reply } else { Reply::Refused(NOT_STORED) };
                self.outputs.push_back(Output::Reply { ticket, reply });
            }
            After::Changed(session) => {
                if refused.is_some() {
                    self.spoil(session);
                }
            }
            // Where it was refused it is there still, and comes again with the next connection.
            After::Removed { session, bytes, .. } => {
                if let Some(session) = self.sessions.get_mut(session).filter(|_| refused.is_none() && bytes > 0) {
                    session.uncount_waiting(bytes);
                }
            }
            After::ReleaseKept(session, offset) => {
                if refused.is_some()
                    && let Some(session) = self.sessions.get_mut(session)
                {
                    let (from, upto) = session.sweep.unwrap_or((offset, offset));
                    session.sweep = Some((from.min(offset), upto.max(offset.next())));
                }
            }
            After::Dropped(session) => {
                if refused.is_some() {
                    self.drop_again(session, now);
                }
            }
            After::Numbered(session) => self.on_numbered(session, refused.is_none(), now),
            After::Reserved(session, upto) => {
                if refused.is_none() {
                    self.on_reserved(session, upto);
                }
            }
            After::Joined { session, channel, ticket } => self.on_joined(session, &channel, ticket, refused),
            After::Left { session, channel, told } => self.on_left(session, &channel, told, refused),
            After::DropReplied { session, ticket, reply } => {
                if refused.is_some() {
                    self.drop_again(session, now);
                }
                let reply = if refused.is_some() { Reply::Refused(NOT_STORED) } else { reply };
                self.outputs.push_back(Output::Reply { ticket, reply });
            }
        }
    }

    /// Has a change of the session been refused after that number?
    fn is_spoiled(&self, session: SessionKey, since: u64) -> bool {
        self.sessions.get(session).is_some_and(|session| session.spoiled > since)
    }

    pub(super) fn on_expired(&mut self, expired: ExpiredMessages) {
        let Some(session) = self.sessions.by_id(expired.session) else { return };
        session.waiting = session.waiting.saturating_sub(expired.messages);
        session.waiting_bytes = session.waiting_bytes.saturating_sub(expired.bytes);
        self.stats.messages_expired += u64::from(expired.messages);
    }
}

pub const NOT_STORED: &str = "the store refuses it (see /readyz)";
/// Messages of one page.
const PAGE_MIN: usize = 16;
const PAGE_MAX: usize = 1024;
/// Work that may be under way; beyond it nothing is promised.
pub const STORELINE_MAX: usize = 1 << 16;
const STORELINE_BEHIND: usize = 4096;
