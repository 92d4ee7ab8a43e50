//! Messages to durable sessions: at once where the client is there, stored where it is not, and stored too when it does
//! not answer soon.
//!
//! ```text
//! deliver ──(online, nothing older is stored)──► in flight ──ACK──► done: the disk was never touched
//!    │                                              │ patience is over, or the line ends
//!    │                                              ▼
//!    └──(absent, or behind stored ones)──────────► Keep ──told──► the call counts it as stored
//!                                                   │
//!                           Load, a page at a time ◄┘──► in flight, same order, same id ──► Remove
//! ```
//! A stored QoS 2 message's REL waits for the store too: once the client has it, it may forget the id, and then nothing
//! may bring the message back.

use super::arena::At;
use super::command::{Completion, Mutation, Offset, Page, StoreError, StoredMessage, UnixMs};
use super::conn::Phase;
use super::downlink::{Delivery, Keeping, Pending, State};
use super::messages::{Message, MessageRef};
use super::parts::{PartRef, QueryId};
use super::query::{NotStored, Terms};
use super::session::{NO_CONN, SESSION_MEMBER, SPAN_MAX};
use super::storeline::{After, SessionKey};
use super::{Bug, Output, Reply, Shard};
use crate::base::time::Tick;
use crate::wire::packet::QoS;
use std::sync::Arc;

impl Shard {
    /// `SendTo`: to one session, wherever it is.
    pub(super) fn send_to_session(&mut self, ticket: QueryId, name: &str, message: Message, terms: &Terms, now: Tick) {
        let Some(at) = self.sessions.by_name(name) else {
            let reply = Reply::Refused("no such session");
            return self.outputs.push_back(Output::Reply { ticket, reply });
        };
        if let Some(why) = self.too_large(&message) {
            return self.outputs.push_back(Output::Reply { ticket, reply: Reply::Refused(why) });
        }
        let online = self.online_conn(at);
        if message.qos == QoS::AtMostOnce {
            let reply =
                Reply::Sent { connections: u32::from(online.is_some()), data: Vec::new(), kept: Default::default() };
            self.outputs.push_back(Output::Reply { ticket, reply });
        }
        let message = self.messages.insert(message);
        let delivery = self.open_part(&message, ticket, 1, terms, now);
        self.deliver_to_session(at, &message, delivery.as_ref(), now);
        self.messages.release(message);
    }

    pub(super) fn online_conn(&self, at: u32) -> Option<u32> {
        let conn = self.sessions.at(at).conn;
        (conn != NO_CONN && self.conns[conn as usize].phase == Phase::Open).then_some(conn)
    }

    /// `None` at QoS 0, which is for those who are there.
    pub(super) fn deliver_to_session(&mut self, at: u32, message: &MessageRef, delivery: Option<&Delivery>, now: Tick) {
        let online = self.online_conn(at);
        let Some(delivery) = delivery else {
            if let Some(index) = online {
                self.deliver_qos0(index, message);
            }
            return;
        };
        let session = self.sessions.at_mut(at);
        if session.next.0 - session.oldest.0 >= SPAN_MAX {
            return self.part_refused(delivery.part, NotStored::TooMany);
        }
        let offset = session.next;
        let direct = !session.more && !session.loading && delivery.claim.is_none();
        let direct = direct && (offset < session.reserved || self.settings.is_planted(Bug::ReservesNothing));
        match online.filter(|&index| direct && self.fits(index, message)) {
            Some(index) => {
                let session = self.sessions.at_mut(at);
                session.next = offset.next();
                session.loaded = session.next;
                self.deliver_in_order(index, message, delivery, offset, now);
                self.reserve_ahead(at);
            }
            None => self.keep_new(at, message, delivery, now),
        }
    }

    /// A message whose client is not there, or has older ones to get first.
    fn keep_new(&mut self, at: u32, message: &MessageRef, delivery: &Delivery, now: Tick) {
        let len = self.messages.get(message).len();
        if let Some(why) = self.no_room(at, len) {
            return self.part_refused(delivery.part, why);
        }
        let unix = self.unix(now);
        let session = self.sessions.at_mut(at);
        let offset = session.next;
        session.next = offset.next();
        session.more |= session.conn != NO_CONN;
        session.count_waiting(len as u64, unix);
        let (key, id) = (session.key(at), session.id);
        let kept = StoredMessage {
            session: id,
            offset,
            message: self.messages.get(message).clone(),
            sent: false,
            released: false,
            stored: unix,
            expires: delivery.expires,
            claim: delivery.claim.clone(),
        };
        let mut part = Some(delivery.part);
        if self.settings.is_planted(Bug::CountsBeforeStored) {
            self.part_stored(part.take().expect("just made"));
        }
        self.store(
            Mutation::PutMessage(Box::new(kept)),
            After::StoredMessage { session: key, offset, bytes: len as u64, part },
        );
    }

    /// Why nothing more is kept for the session.
    fn no_room(&mut self, at: u32, len: usize) -> Option<NotStored> {
        let limits = self.settings.sessions;
        let session = self.sessions.at(at);
        let why = if session.waiting as usize >= limits.messages_max {
            NotStored::TooMany
        } else if session.waiting_bytes + len as u64 > limits.bytes_max as u64 {
            NotStored::TooLarge
        } else if self.store_is_busy() {
            NotStored::Store(StoreError::TooBusy)
        } else {
            return None;
        };
        self.stats.keeps_refused += 1;
        Some(why)
    }

    /// A message in memory that its client is slow to acknowledge, or has left. False when there is no room for it.
    fn keep_pending(&mut self, at: u32, pending: At, now: Tick) -> bool {
        let message = self.pending.get(pending).message.as_ref().expect("a released one has no message");
        let len = self.messages.get(message).len();
        if let Some(why) = self.no_room(at, len) {
            let pending = self.pending.get_mut(pending);
            (pending.keeping, pending.keep_at) = (Keeping::No, Tick::NEVER);
            if let Some(part) = pending.part.take() {
                self.part_refused(part, why);
            }
            return false;
        }
        let unix = self.unix(now);
        let pending = self.pending.get_mut(pending);
        pending.keeping = Keeping::Asked;
        pending.keep_at = Tick::NEVER;
        let (offset, sent, expires) = (Offset(pending.offset), pending.state != State::Queued, pending.expires);
        let message = self.messages.get(pending.message.as_ref().expect("just seen")).clone();
        let session = self.sessions.at_mut(at);
        session.count_waiting(len as u64, unix);
        let (key, id) = (session.key(at), session.id);
        let kept =
            StoredMessage { session: id, offset, message, sent, released: false, stored: unix, expires, claim: None };
        self.store(
            Mutation::PutMessage(Box::new(kept)),
            After::StoredMessage { session: key, offset, bytes: len as u64, part: None },
        );
        true
    }

    /// In `repeat_due`: patience with this message is over.
    pub(super) fn keep_if_due(&mut self, index: u32, pending: At, now: Tick) {
        let found = self.pending.get(pending);
        if found.keeping == Keeping::No
            && now >= found.keep_at
            && found.message.is_some()
            && let Some(at) = self.session_of(index)
        {
            self.stats.kept_late += 1;
            self.keep_pending(at, pending, now);
        }
    }

    pub(super) fn on_kept(
        &mut self,
        key: SessionKey,
        offset: Offset,
        bytes: u64,
        part: Option<PartRef>,
        outcome: Completion,
        now: Tick,
    ) {
        let part = part.or_else(|| self.kept_parts.remove(&(key, offset)));
        let mut pending_part = None;
        if let Some(at) = self.find_order(key, offset) {
            let pending = self.pending.get_mut(at);
            debug_assert_eq!(pending.keeping, Keeping::Asked);
            // Not kept: then it is a message like any other, without a promise.
            pending.keeping = match outcome {
                Completion::Done => Keeping::Yes,
                Completion::Refused(StoreError::Unreachable) => Keeping::Unsure,
                _ => Keeping::No,
            };
            pending_part = pending.part.take();
            let (wake, conn) = (pending.wake(), self.sessions.at(key.index).conn);
            self.timers.arm_no_later(conn, wake.max(now + 1));
        }
        let part = part.or(pending_part);
        match outcome {
            Completion::Done => {
                self.stats.kept += 1;
                if let Some(part) = part {
                    self.part_stored(part);
                }
            }
            other => {
                // Nobody waits for it: it may have been acknowledged meanwhile, and then it does not count twice.
                if part.is_none() {
                    self.storeline.uncounts_no_more(key, offset);
                }
                if let Some(session) = self.sessions.get_mut(key) {
                    session.uncount_waiting(bytes);
                }
                let why = if let Completion::Refused(why) = other { Some(NotStored::Store(why)) } else { None };
                match (part, why) {
                    (Some(part), Some(why)) => self.part_refused(part, why),
                    (Some(part), None) => self.part_stored(part),
                    (None, _) => {}
                }
            }
        }
        if let Some(session) = self.sessions.get(key)
            && session.conn != NO_CONN
        {
            self.load_more(key.index);
        }
    }

    /// The message in flight or queued under this order, where its session is online.
    fn find_order(&self, key: SessionKey, offset: Offset) -> Option<At> {
        let session = self.sessions.get(key)?;
        let conn = self.conns.get(session.conn as usize)?;
        self.pending.iter(conn.downlink.list()).find(|(_, pending)| pending.offset == offset.0).map(|(at, _)| at)
    }

    /// Orders that the connection has in memory, ascending.
    pub(super) fn orders_in_memory(&self, index: u32) -> Vec<Offset> {
        self.pending
            .iter(self.conns[index as usize].downlink.list())
            .map(|(_, pending)| Offset(pending.offset))
            .collect()
    }

    /// Loads the next page when what is in memory is in flight.
    pub(super) fn load_more(&mut self, at: u32) {
        let session = self.sessions.at(at);
        let Some(index) = self.online_conn(at) else { return };
        if !session.more || session.loading || self.conns[index as usize].downlink.has_queued() {
            return;
        }
        let (id, key, attempt, after) = (session.id, session.key(at), session.attempt, session.loaded);
        let session = self.sessions.at_mut(at);
        // What is stored from now on is not in the page.
        (session.loading, session.more) = (true, false);
        let after = after.0.checked_sub(1).map(Offset);
        self.load(id, after, After::Page(key, attempt));
    }

    pub(super) fn on_page(&mut self, key: SessionKey, attempt: u32, page: Option<Page>, now: Tick) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.attempt == attempt) else { return };
        match page {
            Some(page) => self.take_page(key.index, page.messages, page.more, now),
            // The store cannot be read now; the connection's timer tries again.
            None => {
                (session.loading, session.more) = (false, true);
                let conn = session.conn;
                self.timers.arm_no_later(conn, now + LOAD_AGAIN_MS);
            }
        }
    }

    /// Stored messages take their place behind what is in memory.
    pub(super) fn take_page(&mut self, at: u32, mut messages: Vec<StoredMessage>, more: bool, now: Tick) {
        let index = self.sessions.at(at).conn;
        let session = self.sessions.at_mut(at);
        session.loading = false;
        session.more |= more;
        if let Some(last) = messages.last() {
            session.loaded = session.loaded.max(last.offset.next());
        }
        if !session.more {
            // What was refused or has expired has left gaps.
            session.loaded = session.next;
        }
        let launched = session.launched;
        if self.settings.is_planted(Bug::LoadsBackwards) {
            messages.reverse();
        }
        let marks = !self.settings.is_planted(Bug::ResumesWithoutDup);
        for kept in messages {
            let message = (!kept.released).then(|| self.messages.insert(kept.message));
            let tag = kept.claim.map(|claim| claim.message_id);
            let pending = Pending {
                message,
                part: None,
                deadline: Tick::NEVER,
                repeat_at: Tick::NEVER,
                keep_at: Tick::NEVER,
                expires: kept.expires,
                offset: kept.offset.0,
                attempts: 0,
                state: State::Queued,
                keeping: Keeping::Yes,
                dup: (kept.sent || kept.offset < launched) && marks,
                tag,
            };
            self.queue(index, pending);
        }
        self.note_oldest(at, index);
        self.fill_window(index, now);
        if self.conns[index as usize].phase == Phase::Open {
            self.load_more(at);
            self.sweep(at);
        }
    }

    /// A lower bound for the orders of what is unfinished, as messages end.
    pub(super) fn note_oldest(&mut self, at: u32, index: u32) {
        let first = self.conns[index as usize].downlink.list().front().map(|at| Offset(self.pending.get(at).offset));
        let session = self.sessions.at_mut(at);
        if session.sweep.is_none() {
            let rest = if session.more || session.loading { session.loaded } else { session.next };
            session.oldest = session.oldest.max(first.unwrap_or(rest));
        }
    }

    /// A message of a durable session has left its list; `bytes` of it counted as waiting.
    pub(super) fn finished(&mut self, index: u32, keeping: Keeping, offset: Offset, bytes: u64) {
        let Some(at) = self.session_of(index) else { return };
        self.note_oldest(at, index);
        if keeping != Keeping::No {
            let session = self.sessions.at(at);
            let (key, session) = (session.key(at), session.id);
            self.store(Mutation::RemoveMessage { session, offset }, After::Removed { session: key, offset, bytes });
        }
        self.load_more(at);
        self.sweep(at);
    }

    /// The client has a stored message: whoever wants receipts hears of it.
    pub(super) fn tell_receipt(&mut self, index: u32, message_id: Option<Arc<str>>) {
        let Some(at) = self.session_of(index) else { return };
        let session = self.sessions.at(at).name.clone();
        self.outputs.push_back(Output::Receipt { session, message_id });
    }

    /// REC for a stored message: its REL goes out when the store knows.
    pub(super) fn release_stored(&mut self, index: u32, at: At) {
        let Some(session) = self.session_of(index) else { return };
        let pending = self.pending.get_mut(at);
        (pending.state, pending.repeat_at) = (State::Releasing, Tick::NEVER);
        let offset = Offset(pending.offset);
        let message = pending.message.as_ref().expect("kept until the store knows");
        let bytes = if pending.keeping.counts() { self.messages.get(message).len() as u64 } else { 0 };
        let session = self.sessions.at(session);
        let (key, id) = (self.conns[index as usize].session, session.id);
        self.store(Mutation::ReleaseMessage { session: id, offset }, After::Released { session: key, offset, bytes });
    }

    pub(super) fn on_release_told(&mut self, key: SessionKey, offset: Offset, bytes: u64, done: bool, now: Tick) {
        if let Some(session) = self.sessions.get_mut(key).filter(|_| done && bytes > 0) {
            session.uncount_waiting(bytes);
        }
        let Some(at) = self.find_order(key, offset) else { return };
        let index = self.sessions.at(key.index).conn;
        let pending = self.pending.get_mut(at);
        if pending.state != State::Releasing {
            return;
        }
        if done {
            return self.release(index, at, now);
        }
        // Tried again when it would be repeated.
        pending.repeat_at = now + self.settings.ack_timeout_ms;
        let wake = pending.repeat_at;
        self.timers.arm_no_later(index, wake);
    }

    /// The line is over: what its client has not acknowledged is stored.
    pub(super) fn keep_unfinished(&mut self, index: u32, at: u32, now: Tick) {
        let key = self.sessions.at(at).key(at);
        let queued = self.conns[index as usize].downlink.first_queued().map(|at| Offset(self.pending.get(at).offset));
        let session = self.sessions.at_mut(at);
        let rest = if session.more || session.loading { session.loaded } else { session.next };
        session.launched = session.launched.max(queued.unwrap_or(rest));
        let mut next = self.conns[index as usize].downlink.list().front();
        while let Some(found) = next {
            next = self.pending.next(found);
            if self.settings.is_planted(Bug::ForgetsAtTheEnd) {
                continue;
            }
            let pending = self.pending.get_mut(found);
            let offset = Offset(pending.offset);
            match (pending.keeping, pending.state) {
                (Keeping::No | Keeping::Unsure, State::Released | State::Releasing) => {
                    self.keep_release(at, offset, now)
                }
                (Keeping::No, _) if pending.part.is_some() => {
                    if self.keep_pending(at, found, now) {
                        let part = self.pending.get_mut(found).part.take();
                        self.kept_parts.extend(part.map(|part| ((key, offset), part)));
                    }
                }
                // Its caller was told that it is not promised.
                (Keeping::No | Keeping::Unsure, _) => {}
                (Keeping::Asked, _) => {
                    let part = pending.part.take();
                    self.kept_parts.extend(part.map(|part| ((key, offset), part)));
                }
                (Keeping::Yes, _) => {}
            }
        }
    }

    /// A message that was never stored and that the client has: what is left of it is its REL.
    fn keep_release(&mut self, at: u32, offset: Offset, now: Tick) {
        let unix = self.unix(now);
        let session = self.sessions.at(at);
        let (key, session) = (session.key(at), session.id);
        let message = Message::encode(QoS::ExactlyOnce, 0, b"", &mut self.scratch);
        let expires = UnixMs(unix.0.saturating_add(self.settings.sessions.message_ttl_ms));
        let kept =
            StoredMessage { session, offset, message, sent: true, released: true, stored: unix, expires, claim: None };
        self.store(Mutation::PutMessage(Box::new(kept)), After::ReleaseKept(key, offset));
    }

    pub(super) fn part_stored(&mut self, part: PartRef) {
        if let Some(ended) = self.parts.stored(part) {
            self.reply_ended(ended);
        }
    }

    pub(super) fn part_refused(&mut self, part: PartRef, why: NotStored) {
        if let Some(ended) = self.parts.refused(part, why) {
            self.reply_ended(ended);
        }
    }

    /// Until when a message waits that is sent on these terms.
    pub(super) fn expires(&self, terms: &Terms, now: Tick) -> UnixMs {
        let ttl = terms.ttl_ms.unwrap_or(self.settings.sessions.message_ttl_ms);
        UnixMs(self.unix(now).0.saturating_add(ttl))
    }

    /// The session of a channel's member.
    pub(super) fn session_member(member: u32) -> Option<u32> {
        (member & SESSION_MEMBER != 0).then_some(member & !SESSION_MEMBER)
    }
}

/// After a page that the store refused.
const LOAD_AGAIN_MS: u64 = 1_000;
