//! Messages to one client: the in-flight window, ids, repeats and the client's answers.
//!
//! ```text
//! deliver ──► queued ──(room in the window)──► in flight: id, outbox, repeated every ack_timeout
//!                                                 │ ACK: done          REC: answered; REL goes out, repeated
//!                                                 │ deadline: given up, a ping asks whether the client lives
//! ```
//! One list per connection holds the messages in flight, in the order of their ids, then the queued ones.

use super::arena::{At, List};
use super::command::{Claim, IDS, Offset, UnixMs};
use super::conn::Phase;
#[cfg(debug_assertions)]
use super::invariants::Holdings;
use super::messages::{MessageRef, Stamp};
use super::outbox::Item;
use super::parts::PartRef;
use super::storeline::SessionKey;
use super::{Bug, Output, Reply, Shard};
use crate::base::time::Tick;
use crate::wire::packet::{MessageId, Packet, QoS};
use crate::wire::ws::frame::{self, CloseCode, Opcode};
#[cfg(debug_assertions)]
use std::collections::HashSet;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, Default)]
pub struct Downlink {
    list: List,
    first_queued: Option<At>,
    queued_bytes: u32,
    in_flight: u16,
    /// The order of the next message that gets an id; its id follows from it.
    launched: u32,
}

/// A QoS 1/2 message to a client that is not finished.
pub struct Pending {
    /// `None` once the client has it (QoS 2, after REC).
    pub message: Option<MessageRef>,
    /// `None` when nobody waits any more: it is stored, or was loaded from the store.
    pub part: Option<PartRef>,
    /// When it is given up, unless it is stored.
    pub deadline: Tick,
    pub repeat_at: Tick,
    /// When patience ends and a durable session has it stored.
    pub keep_at: Tick,
    pub expires: UnixMs,
    /// Its place among all that got an id, below `ORDERS`; in a durable session its `Order`.
    pub offset: u64,
    pub attempts: u16,
    pub state: State,
    pub keeping: Keeping,
    /// Sent before, on an earlier connection.
    pub dup: bool,
    /// The caller's `message_id`, for receipts.
    pub tag: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Queued,
    /// Sent; waiting for ACK or REC.
    Sent(QoS),
    /// REC came for a stored message; REL waits for the store.
    Releasing,
    /// REC came, REL went out; waiting for COM.
    Released,
}

/// Is it in the store?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    No,
    /// On its way.
    Asked,
    Yes,
    /// Refused by a store that may have done it all the same: nothing is promised, and all goes on as if it had.
    Unsure,
}

impl Keeping {
    /// Does it count as waiting?
    pub fn counts(self) -> bool {
        matches!(self, Keeping::Asked | Keeping::Yes)
    }
}

/// What is to be delivered to each member.
pub struct Delivery {
    pub part: PartRef,
    pub deadline: Tick,
    pub expires: UnixMs,
    pub claim: Option<Claim>,
}

impl Downlink {
    /// Bytes of messages that wait for room in the window.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes as usize
    }

    pub fn in_flight(&self) -> usize {
        usize::from(self.in_flight)
    }

    pub fn list(&self) -> &List {
        &self.list
    }

    /// Messages wait for room in the window.
    pub fn has_queued(&self) -> bool {
        self.first_queued.is_some()
    }

    /// All that come before it in the list have been sent.
    pub fn first_queued(&self) -> Option<At> {
        self.first_queued
    }
}

impl Pending {
    fn id(&self) -> MessageId {
        id_of(self.offset)
    }

    /// Nobody was promised that it arrives.
    fn may_be_given_up(&self) -> bool {
        self.keeping == Keeping::No && !matches!(self.state, State::Releasing | State::Released)
    }

    /// When it has to be looked at.
    pub fn wake(&self) -> Tick {
        let deadline = if self.may_be_given_up() { self.deadline.min(self.keep_at) } else { Tick::NEVER };
        deadline.min(self.repeat_at)
    }
}

/// 1, 2, …, 65534, 1, …
fn id_of(offset: u64) -> MessageId {
    Offset(offset).id()
}

fn order_after(offset: u64) -> u64 {
    (offset + 1) % ORDERS
}

/// Orders go round where ids do, so that the ids go on without a jump, and fit `launched`.
const ORDERS: u64 = u32::MAX as u64 / IDS * IDS;

impl Shard {
    /// At QoS 0. What does not fit is dropped, the oldest first.
    pub(super) fn deliver_qos0(&mut self, index: u32, message: &MessageRef) {
        let conn = &mut self.conns[index as usize];
        if conn.phase != Phase::Open {
            return;
        }
        let len = self.messages.get(message).len();
        if !self.drop_for_room(index, len) {
            self.stats.outbox_dropped_qos0 += 1;
            return;
        }
        let conn = &mut self.conns[index as usize];
        let item = Item::Message(self.messages.another(message), Stamp { id: None, dup: false });
        self.items.push(&mut conn.outbox, &self.messages, item);
        self.stats.messages_out += 1;
        self.mark_dirty(index);
    }

    /// At QoS 1 or 2: into the window, or behind it.
    pub(super) fn deliver(&mut self, index: u32, message: &MessageRef, delivery: &Delivery, now: Tick) {
        if self.conns[index as usize].phase != Phase::Open {
            self.part_gone(Some(delivery.part));
            return;
        }
        let len = self.messages.get(message).len();
        if !self.make_room(index, len, now) {
            self.part_gone(Some(delivery.part));
            return;
        }
        self.enqueue(index, message, delivery, 0, Tick::NEVER, now);
    }

    /// At QoS 1 or 2, for a durable session: it has its order, and is stored when the client lets it wait.
    pub(super) fn deliver_in_order(
        &mut self,
        index: u32,
        message: &MessageRef,
        delivery: &Delivery,
        offset: Offset,
        now: Tick,
    ) {
        let patience = self.settings.sessions.patience_ms.min(delivery.deadline.since_ms(now) / 2);
        self.enqueue(index, message, delivery, offset.0, now + patience, now);
    }

    fn enqueue(
        &mut self,
        index: u32,
        message: &MessageRef,
        delivery: &Delivery,
        offset: u64,
        keep_at: Tick,
        now: Tick,
    ) {
        let pending = Pending {
            message: Some(self.messages.another(message)),
            part: Some(delivery.part),
            deadline: delivery.deadline,
            repeat_at: Tick::NEVER,
            keep_at,
            expires: delivery.expires,
            offset,
            attempts: 0,
            state: State::Queued,
            keeping: Keeping::No,
            dup: false,
            tag: None,
        };
        self.queue(index, pending);
        self.fill_window(index, now);
        // A queued message's deadline has to be met too.
        self.timers.arm_no_later(index, delivery.deadline.min(keep_at));
    }

    /// Behind what waits for the window.
    pub(super) fn queue(&mut self, index: u32, pending: Pending) {
        let len = pending.message.as_ref().map_or(0, |message| self.messages.get(message).len());
        let downlink = &mut self.conns[index as usize].downlink;
        let at = self.pending.push_back(&mut downlink.list, pending);
        downlink.queued_bytes += len as u32;
        downlink.first_queued.get_or_insert(at);
    }

    /// Sends queued messages while the window has room.
    pub(super) fn fill_window(&mut self, index: u32, now: Tick) {
        loop {
            let conn = &self.conns[index as usize];
            let downlink = &conn.downlink;
            let Some(at) = downlink.first_queued.filter(|_| conn.phase == Phase::Open) else { return };
            if downlink.in_flight() >= self.settings.inflight_window {
                return;
            }
            let durable = conn.session != SessionKey::NONE;
            // What comes from the store has not asked for room: it waits until the client has read.
            if durable && downlink.in_flight() > 0 && conn.outbox.bytes() > self.settings.outbox_bytes_max / 2 {
                return;
            }
            let offset = if durable { self.pending.get(at).offset } else { self.free_order(index) };
            let downlink = &mut self.conns[index as usize].downlink;
            if !durable {
                let reuse = self.settings.is_planted(Bug::ReusesIds);
                downlink.launched = if reuse && offset.is_multiple_of(2) { offset } else { order_after(offset) } as u32;
            }
            downlink.first_queued = self.pending.next(at);
            downlink.in_flight += 1;
            self.launch(index, at, offset, now);
        }
    }

    /// Its first sending on this connection.
    fn launch(&mut self, index: u32, at: At, offset: u64, now: Tick) {
        let pending = self.pending.get_mut(at);
        (pending.offset, pending.attempts) = (offset, 1);
        pending.repeat_at = now + self.settings.ack_timeout_ms;
        let wake = pending.repeat_at.min(pending.deadline);
        self.timers.arm_no_later(index, wake);
        let Some(message) = &pending.message else {
            pending.state = State::Released;
            return self.push_packet(index, Packet::Rel { id: id_of(offset), dup: true }, now);
        };
        let stamp = Stamp { id: Some(id_of(offset)), dup: pending.dup };
        let (len, qos) = (self.messages.get(message).len(), self.messages.get(message).qos);
        pending.state = State::Sent(qos);
        let item = Item::Message(self.messages.another(message), stamp);
        let conn = &mut self.conns[index as usize];
        conn.downlink.queued_bytes -= len as u32;
        self.items.push(&mut conn.outbox, &self.messages, item);
        self.stats.messages_out += 1;
        self.mark_dirty(index);
    }

    /// The next order whose id no message in flight has.
    fn free_order(&self, index: u32) -> u64 {
        let downlink = &self.conns[index as usize].downlink;
        let mut offset = u64::from(downlink.launched);
        // Ids are given in order, so that the oldest message in flight is the first that a new id can meet.
        let oldest = downlink.list.front().map(|at| self.pending.get(at));
        let Some(oldest) = oldest.filter(|oldest| oldest.state != State::Queued) else { return offset };
        if offset.checked_sub(oldest.offset).is_some_and(|ahead| ahead < IDS) {
            return offset;
        }
        let taken = |offset: u64| {
            let mut in_flight = self.pending.iter(&downlink.list).take(downlink.in_flight());
            in_flight.any(|(_, pending)| pending.id() == id_of(offset))
        };
        while taken(offset) {
            offset = order_after(offset);
        }
        offset
    }

    /// ACK or REC, with the client's reply in its body.
    pub(super) fn on_answer(&mut self, index: u32, id: MessageId, qos: QoS, body: &[u8], now: Tick) {
        let Some(at) = self.find_in_flight(index, id) else {
            self.stats.answers_unknown += 1;
            if qos == QoS::ExactlyOnce {
                self.on_held(index, id, now);
            }
            return;
        };
        let pending = self.pending.get_mut(at);
        match (pending.state, qos) {
            (State::Sent(QoS::AtLeastOnce), QoS::AtLeastOnce) => {
                self.finish(index, at, Some(body));
                if !self.settings.is_planted(Bug::ForgetsQueue) {
                    self.fill_window(index, now);
                }
            }
            (State::Sent(QoS::ExactlyOnce), QoS::ExactlyOnce) => {
                let (part, stored) = (pending.part.take(), pending.keeping != Keeping::No);
                if pending.keeping.counts() {
                    let tag = pending.tag.take();
                    self.tell_receipt(index, tag);
                }
                if stored && !self.settings.is_planted(Bug::ReleasesUnstored) {
                    self.release_stored(index, at);
                } else {
                    self.release(index, at, now);
                }
                self.part_answered(part, body);
            }
            (State::Released, QoS::ExactlyOnce) => self.push_packet(index, Packet::Rel { id, dup: true }, now),
            (State::Releasing, QoS::ExactlyOnce) => {}
            // An ACK for QoS 2, or a REC for QoS 1, answers nothing.
            _ => self.stats.answers_unknown += 1,
        }
    }

    /// The client has a QoS 2 message, and whoever must know knows: REL goes out.
    pub(super) fn release(&mut self, index: u32, at: At, now: Tick) {
        let pending = self.pending.get_mut(at);
        (pending.state, pending.attempts) = (State::Released, 1);
        pending.repeat_at = now + self.settings.ack_timeout_ms;
        let (id, wake) = (pending.id(), pending.repeat_at);
        self.messages.release(pending.message.take().expect("kept until now"));
        self.timers.arm_no_later(index, wake);
        self.push_packet(index, Packet::Rel { id, dup: false }, now);
    }

    pub(super) fn on_com(&mut self, index: u32, id: MessageId, now: Tick) {
        match self.find_in_flight(index, id) {
            Some(at) if self.pending.get(at).state == State::Released => {
                self.finish(index, at, None);
                self.fill_window(index, now);
            }
            _ => self.stats.answers_unknown += 1,
        }
    }

    /// It leaves the list: answered (with `reply`), given up, or completed.
    fn finish(&mut self, index: u32, at: At, reply: Option<&[u8]>) {
        let conn = &mut self.conns[index as usize];
        conn.downlink.in_flight -= 1;
        let durable = conn.session != SessionKey::NONE;
        let Pending { message, part, keeping, offset, tag, .. } = self.pending.remove(&mut conn.downlink.list, at);
        let mut bytes = 0;
        if let Some(message) = message {
            if keeping.counts() {
                bytes = self.messages.get(&message).len() as u64;
                self.tell_receipt(index, tag);
            }
            self.messages.release(message);
        }
        match reply {
            Some(body) => self.part_answered(part, body),
            None => self.part_gone(part),
        }
        if durable {
            self.finished(index, keeping, Offset(offset), bytes);
        }
    }

    /// Repeats what is due and gives up what is past its deadline. Returns when to look again.
    pub(super) fn repeat_due(&mut self, index: u32, now: Tick) -> Tick {
        let mut wake = Tick::NEVER;
        let mut given_up = false;
        let conn = &self.conns[index as usize];
        // What the client does not read now it would not read twice.
        let stuck = conn.stuck && !conn.outbox.is_empty();
        let mut next = conn.downlink.list.front();
        while let Some(at) = next {
            next = self.pending.next(at);
            self.keep_if_due(index, at, now);
            let pending = self.pending.get(at);
            if pending.may_be_given_up() && now >= pending.deadline {
                given_up |= pending.state != State::Queued;
                self.give_up(index, at);
                continue;
            }
            if pending.state != State::Queued && now >= pending.repeat_at {
                self.repeat(index, at, stuck, now);
                // No room for the repeat has closed the line and emptied the list.
                if self.conns[index as usize].phase != Phase::Open {
                    return Tick::NEVER;
                }
            }
            wake = wake.min(self.pending.get(at).wake());
        }
        if given_up {
            self.ping(index, now);
        }
        if !self.settings.is_planted(Bug::ForgetsQueue) {
            self.fill_window(index, now);
        }
        wake
    }

    /// One message once more, unless the deadline leaves no room for an answer, or the outbox none for the repeat.
    fn repeat(&mut self, index: u32, at: At, stuck: bool, now: Tick) {
        let backoff = self.settings.ack_backoff.powi(i32::from(self.pending.get(at).attempts));
        let pending = self.pending.get_mut(at);
        pending.repeat_at = now + (self.settings.ack_timeout_ms as f64 * backoff) as u64;
        let id = pending.id();
        let conn = &self.conns[index as usize];
        let waiting = conn.outbox.bytes() + conn.downlink.queued_bytes();
        if stuck || self.settings.is_planted(Bug::NeverRepeats) {
            return;
        }
        match (&pending.message, pending.state) {
            (Some(message), State::Sent(_))
                if pending.keeping != Keeping::No || pending.deadline.since_ms(now) >= self.settings.ack_timeout_ms =>
            {
                if waiting > 0 && waiting + self.messages.get(message).len() > self.settings.outbox_bytes_max {
                    return;
                }
                pending.attempts = pending.attempts.saturating_add(1);
                let item = Item::Message(
                    self.messages.another(message),
                    Stamp { id: Some(id), dup: !self.settings.is_planted(Bug::RepeatsWithoutDup) },
                );
                self.items.push(&mut self.conns[index as usize].outbox, &self.messages, item);
                self.stats.repeats_out += 1;
                self.mark_dirty(index);
            }
            (_, State::Releasing) => self.release_stored(index, at),
            (_, State::Released) if self.settings.is_planted(Bug::ReleasesOnce) => {}
            (_, State::Released) => {
                pending.attempts = pending.attempts.saturating_add(1);
                self.stats.repeats_out += 1;
                self.push_packet(index, Packet::Rel { id, dup: true }, now);
            }
            _ => pending.repeat_at = Tick::NEVER,
        }
    }

    fn give_up(&mut self, index: u32, at: At) {
        self.stats.messages_timed_out += 1;
        if self.pending.get(at).state != State::Queued {
            return self.finish(index, at, None);
        }
        let downlink = &mut self.conns[index as usize].downlink;
        if downlink.first_queued == Some(at) {
            downlink.first_queued = self.pending.next(at);
        }
        let pending = self.pending.remove(&mut downlink.list, at);
        let message = pending.message.expect("queued means not sent yet");
        downlink.queued_bytes -= self.messages.get(&message).len() as u32;
        self.messages.release(message);
        self.part_gone(pending.part);
    }

    /// The line is over: nobody here will answer any more.
    pub(super) fn abandon_pending(&mut self, index: u32) {
        let mut downlink = std::mem::take(&mut self.conns[index as usize].downlink);
        while let Some(pending) = self.pending.pop_front(&mut downlink.list) {
            if let Some(message) = pending.message.filter(|_| !self.settings.is_planted(Bug::LeaksMessages)) {
                self.messages.release(message);
            }
            self.part_gone(pending.part);
        }
    }

    /// When something in flight has to be looked at; `Tick::NEVER` when nothing has.
    #[cfg(debug_assertions)]
    pub(super) fn earliest_repeat(&self, index: u32) -> Tick {
        let pending = self.pending.iter(&self.conns[index as usize].downlink.list).map(|(_, pending)| pending);
        let wake = pending.map(Pending::wake);
        wake.min().unwrap_or(Tick::NEVER)
    }

    #[cfg(debug_assertions)]
    pub(super) fn check_downlink(&self, index: u32, all: &mut Holdings) {
        let downlink = &self.conns[index as usize].downlink;
        let (mut ids, mut queued_bytes, mut first_queued) = (HashSet::new(), 0, None);
        for (at, pending) in self.pending.iter(&downlink.list) {
            all.pending += 1;
            let bytes = pending.message.as_ref().map(|message| self.messages.get(message).len());
            let released = matches!(pending.state, State::Releasing | State::Released);
            assert!(
                bytes.is_some() || released || pending.state == State::Queued,
                "it is kept until the client has it"
            );
            all.message_uses += usize::from(bytes.is_some());
            all.parts.extend(pending.part);
            if pending.state == State::Queued {
                first_queued.get_or_insert(at);
                queued_bytes += bytes.unwrap_or_default();
            } else {
                assert!(first_queued.is_none(), "what is in flight comes before what is queued");
                assert!(ids.insert(pending.id()), "ids do not collide in flight");
            }
        }
        assert_eq!((ids.len(), queued_bytes), (downlink.in_flight(), downlink.queued_bytes()));
        assert_eq!(first_queued, downlink.first_queued);
        assert!(first_queued.is_none() || downlink.in_flight() > 0, "something will end and make room for the queued");
        let durable = self.conns[index as usize].session != SessionKey::NONE;
        let orders: Vec<u64> = self.pending.iter(&downlink.list).map(|(_, pending)| pending.offset).collect();
        assert!(!durable || orders.is_sorted_by(|a, b| a < b), "a session's messages keep their order");
    }

    fn find_in_flight(&self, index: u32, id: MessageId) -> Option<At> {
        let downlink = &self.conns[index as usize].downlink;
        let mut in_flight = self.pending.iter(&downlink.list).take(downlink.in_flight());
        in_flight.find(|(_, pending)| pending.id() == id).map(|(at, _)| at)
    }

    fn part_answered(&mut self, part: Option<PartRef>, body: &[u8]) {
        if let Some(ended) = part.and_then(|part| self.parts.answered(part, body)) {
            self.reply_ended(ended);
        }
    }

    pub(super) fn part_gone(&mut self, part: Option<PartRef>) {
        if self.settings.is_planted(Bug::CountsTheGone) {
            return self.part_answered(part, b"");
        }
        if let Some(ended) = part.and_then(|part| self.parts.gone(part)) {
            self.reply_ended(ended);
        }
    }

    pub(super) fn reply_ended(&mut self, ended: super::parts::Ended) {
        let reply = Reply::Sent { connections: ended.answered, data: ended.data, kept: ended.kept };
        self.outputs.push_back(Output::Reply { ticket: ended.ticket, reply });
    }

    /// A packet of ours that is small: REL, COM, an empty ACK or REC.
    pub(super) fn push_packet(&mut self, index: u32, packet: Packet<'_>, now: Tick) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        frame::write_header(&mut scratch, Opcode::Binary, packet.encoded_len());
        packet.encode_into(&mut scratch);
        self.push_item(index, Item::small(&scratch), now);
        self.scratch = scratch;
    }

    /// Anything but a QoS 0 message, which may be dropped where this closes.
    pub(super) fn push_item(&mut self, index: u32, item: Item, now: Tick) {
        let len = item.len(&self.messages);
        if self.make_room(index, len, now) {
            self.items.push(&mut self.conns[index as usize].outbox, &self.messages, item);
            self.mark_dirty(index);
        }
    }

    /// Is there room for it, if only without the QoS 0 messages?
    pub(super) fn fits(&mut self, index: u32, message: &MessageRef) -> bool {
        let len = self.messages.get(message).len();
        self.drop_for_room(index, len)
    }

    /// False when there is no room even without the QoS 0 messages: the client is too slow, its connection is closing.
    fn make_room(&mut self, index: u32, len: usize, now: Tick) -> bool {
        let phase = self.conns[index as usize].phase;
        if phase != Phase::Open && phase != Phase::Closing {
            return false;
        }
        let room = self.drop_for_room(index, len);
        if !room {
            self.begin_close(index, CloseCode::TRY_AGAIN_LATER, "too slow", now);
        }
        room
    }

    /// Drops QoS 0 messages, the oldest first, until `len` more bytes fit; true when they do. Where nothing waits
    /// anything fits: its length is bounded elsewhere, and a client that reads all it gets is not slow.
    fn drop_for_room(&mut self, index: u32, len: usize) -> bool {
        let max = self.settings.outbox_bytes_max;
        let conn = &mut self.conns[index as usize];
        let queued = conn.downlink.queued_bytes();
        let waiting = self.items.waiting_bytes(&conn.outbox, &self.messages) + queued;
        if waiting == 0 || waiting + len <= max {
            return true;
        }
        let dropped = self.items.drop_oldest_qos0(&mut conn.outbox, &mut self.messages, queued + len, max);
        self.stats.outbox_dropped_qos0 += dropped as u64;
        let waiting = self.items.waiting_bytes(&conn.outbox, &self.messages) + queued;
        waiting == 0 || waiting + len <= max
    }
}

#[cfg(test)]
mod tests;
