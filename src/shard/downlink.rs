//! Messages to one client: the in-flight window, ids, repeats and the client's answers.
//!
//! ```text
//! deliver ──► queued ──(room in the window)──► in flight: id, outbox, repeated every ack_timeout
//!                                                 │ ACK: done          REC: answered; REL goes out, repeated
//!                                                 │ deadline: given up, a ping asks whether the client lives
//! ```
//! One list per connection holds the messages in flight, in the order of their ids, then the queued ones.

use super::arena::{At, List};
use super::conn::Phase;
#[cfg(debug_assertions)]
use super::invariants::Holdings;
use super::messages::{MessageRef, Stamp};
use super::outbox::Item;
use super::parts::PartRef;
use super::{Bug, Output, Reply, Shard};
use crate::base::time::Tick;
use crate::wire::packet::{MessageId, Packet, QoS};
use crate::wire::ws::frame::{self, CloseCode, Opcode};
#[cfg(debug_assertions)]
use std::collections::HashSet;

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
    message: Option<MessageRef>,
    part: PartRef,
    deadline: Tick,
    repeat_at: Tick,
    /// Its place among all that got an id, below `ORDERS`.
    order: u32,
    attempts: u16,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    /// Sent; waiting for ACK or REC.
    Sent(QoS),
    /// REC came, REL went out; waiting for COM.
    Released,
}

/// What is to be delivered to one member.
#[derive(Clone, Copy)]
pub struct Delivery {
    pub part: PartRef,
    pub deadline: Tick,
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
}

impl Pending {
    fn id(&self) -> MessageId {
        id_of(self.order)
    }
}

/// 1, 2, …, 65534, 1, …
fn id_of(order: u32) -> MessageId {
    MessageId((order % IDS) as u16 + 1)
}

fn order_after(order: u32) -> u32 {
    (order + 1) % ORDERS
}

const IDS: u32 = MessageId::MAX.0 as u32;
/// Orders go round where ids do, so that the ids go on without a jump.
const ORDERS: u32 = u32::MAX / IDS * IDS;

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
    pub(super) fn deliver(&mut self, index: u32, message: &MessageRef, delivery: Delivery, now: Tick) {
        if self.conns[index as usize].phase != Phase::Open {
            self.part_gone(delivery.part);
            return;
        }
        let len = self.messages.get(message).len();
        if !self.make_room(index, len, now) {
            self.part_gone(delivery.part);
            return;
        }
        let pending = Pending {
            message: Some(self.messages.another(message)),
            part: delivery.part,
            deadline: delivery.deadline,
            repeat_at: Tick::NEVER,
            order: 0,
            attempts: 0,
            state: State::Queued,
        };
        let downlink = &mut self.conns[index as usize].downlink;
        let at = self.pending.push_back(&mut downlink.list, pending);
        downlink.queued_bytes += len as u32;
        downlink.first_queued.get_or_insert(at);
        self.fill_window(index, now);
        // A queued message's deadline has to be met too.
        self.timers.arm_no_later(index, delivery.deadline);
    }

    /// Sends queued messages while the window has room.
    fn fill_window(&mut self, index: u32, now: Tick) {
        loop {
            let downlink = &mut self.conns[index as usize].downlink;
            let Some(at) = downlink.first_queued else { return };
            if downlink.in_flight() >= self.settings.inflight_window {
                return;
            }
            let order = self.free_order(index);
            let downlink = &mut self.conns[index as usize].downlink;
            let reuse = self.settings.is_planted(Bug::ReusesIds);
            downlink.launched = if reuse && order.is_multiple_of(2) { order } else { order_after(order) };
            downlink.first_queued = self.pending.next(at);
            downlink.in_flight += 1;
            let pending = self.pending.get_mut(at);
            let message = pending.message.as_ref().expect("queued means not sent yet");
            downlink.queued_bytes -= self.messages.get(message).len() as u32;
            let qos = self.messages.get(message).qos;
            (pending.order, pending.state, pending.attempts) = (order, State::Sent(qos), 1);
            pending.repeat_at = now + self.settings.ack_timeout_ms;
            let wake = pending.repeat_at.min(pending.deadline);
            let stamp = Stamp { id: Some(id_of(order)), dup: false };
            let item = Item::Message(self.messages.another(message), stamp);
            self.items.push(&mut self.conns[index as usize].outbox, &self.messages, item);
            self.stats.messages_out += 1;
            self.timers.arm_no_later(index, wake);
            self.mark_dirty(index);
        }
    }

    /// The next order whose id no message in flight has.
    fn free_order(&self, index: u32) -> u32 {
        let downlink = &self.conns[index as usize].downlink;
        let mut order = downlink.launched;
        // Ids are given in order, so that the oldest message in flight is the first that a new id can meet.
        let oldest = downlink.list.front().map(|at| self.pending.get(at));
        let Some(oldest) = oldest.filter(|oldest| oldest.state != State::Queued) else { return order };
        if order.checked_sub(oldest.order).is_some_and(|ahead| ahead < IDS) {
            return order;
        }
        let taken = |order: u32| {
            let mut in_flight = self.pending.iter(&downlink.list).take(downlink.in_flight());
            in_flight.any(|(_, pending)| pending.id() == id_of(order))
        };
        while taken(order) {
            order = order_after(order);
        }
        order
    }

    /// ACK or REC, with the client's reply in its body.
    pub(super) fn on_answer(&mut self, index: u32, id: MessageId, qos: QoS, body: &[u8], now: Tick) {
        let Some(at) = self.find_in_flight(index, id) else {
            self.stats.answers_unknown += 1;
            // A client that holds an id that we gave up wants its REL, or it would hold it for ever.
            if qos == QoS::ExactlyOnce {
                self.push_packet(index, Packet::Rel { id, dup: false }, now);
            }
            return;
        };
        let pending = self.pending.get_mut(at);
        match (pending.state, qos) {
            (State::Sent(QoS::AtLeastOnce), QoS::AtLeastOnce) => {
                let part = self.remove_in_flight(index, at);
                self.part_answered(part, body);
                if !self.settings.is_planted(Bug::ForgetsQueue) {
                    self.fill_window(index, now);
                }
            }
            (State::Sent(QoS::ExactlyOnce), QoS::ExactlyOnce) => {
                (pending.state, pending.attempts) = (State::Released, 1);
                pending.repeat_at = now + self.settings.ack_timeout_ms;
                self.timers.arm_no_later(index, pending.repeat_at);
                let (part, message) = (pending.part, pending.message.take());
                self.messages.release(message.expect("kept until REC"));
                self.part_answered(part, body);
                self.push_packet(index, Packet::Rel { id, dup: false }, now);
            }
            (State::Released, QoS::ExactlyOnce) => self.push_packet(index, Packet::Rel { id, dup: true }, now),
            // An ACK for QoS 2, or a REC for QoS 1, answers nothing.
            _ => self.stats.answers_unknown += 1,
        }
    }

    pub(super) fn on_com(&mut self, index: u32, id: MessageId, now: Tick) {
        match self.find_in_flight(index, id) {
            Some(at) if self.pending.get(at).state == State::Released => {
                self.remove_in_flight(index, at);
                self.fill_window(index, now);
            }
            _ => self.stats.answers_unknown += 1,
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
            let pending = self.pending.get(at);
            if pending.state != State::Released && now >= pending.deadline {
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
            let pending = self.pending.get(at);
            let deadline = if pending.state == State::Released { Tick::NEVER } else { pending.deadline };
            wake = wake.min(deadline).min(pending.repeat_at);
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
            (Some(message), State::Sent(_)) if pending.deadline.since_ms(now) >= self.settings.ack_timeout_ms => {
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
        let part = if self.pending.get(at).state == State::Queued {
            let downlink = &mut self.conns[index as usize].downlink;
            if downlink.first_queued == Some(at) {
                downlink.first_queued = self.pending.next(at);
            }
            let pending = self.pending.remove(&mut downlink.list, at);
            let message = pending.message.expect("queued means not sent yet");
            downlink.queued_bytes -= self.messages.get(&message).len() as u32;
            self.messages.release(message);
            pending.part
        } else {
            self.remove_in_flight(index, at)
        };
        self.part_gone(part);
    }

    /// The line is over: nobody here will answer any more.
    pub(super) fn abandon_pending(&mut self, index: u32) {
        let mut downlink = std::mem::take(&mut self.conns[index as usize].downlink);
        while let Some(pending) = self.pending.pop_front(&mut downlink.list) {
            if let Some(message) = pending.message.filter(|_| !self.settings.is_planted(Bug::LeaksMessages)) {
                self.messages.release(message);
            }
            if pending.state != State::Released {
                self.part_gone(pending.part);
            }
        }
    }

    /// When something in flight has to be looked at; `Tick::NEVER` when nothing has.
    #[cfg(debug_assertions)]
    pub(super) fn earliest_repeat(&self, index: u32) -> Tick {
        let pending = self.pending.iter(&self.conns[index as usize].downlink.list).map(|(_, pending)| pending);
        let wake = pending.map(|pending| match pending.state {
            State::Released => pending.repeat_at,
            _ => pending.repeat_at.min(pending.deadline),
        });
        wake.min().unwrap_or(Tick::NEVER)
    }

    #[cfg(debug_assertions)]
    pub(super) fn check_downlink(&self, index: u32, all: &mut Holdings) {
        let downlink = &self.conns[index as usize].downlink;
        let (mut ids, mut queued_bytes, mut first_queued) = (HashSet::new(), 0, None);
        for (at, pending) in self.pending.iter(&downlink.list) {
            all.pending += 1;
            let bytes = pending.message.as_ref().map(|message| self.messages.get(message).len());
            assert_eq!(bytes.is_none(), pending.state == State::Released, "a message is kept until the client has it");
            all.message_uses += usize::from(bytes.is_some());
            if pending.state != State::Released {
                all.parts.push(pending.part);
            }
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
    }

    fn find_in_flight(&self, index: u32, id: MessageId) -> Option<At> {
        let downlink = &self.conns[index as usize].downlink;
        let mut in_flight = self.pending.iter(&downlink.list).take(downlink.in_flight());
        in_flight.find(|(_, pending)| pending.id() == id).map(|(at, _)| at)
    }

    fn remove_in_flight(&mut self, index: u32, at: At) -> PartRef {
        let downlink = &mut self.conns[index as usize].downlink;
        downlink.in_flight -= 1;
        let pending = self.pending.remove(&mut downlink.list, at);
        if let Some(message) = pending.message {
            self.messages.release(message);
        }
        pending.part
    }

    fn part_answered(&mut self, part: PartRef, body: &[u8]) {
        if let Some(ended) = self.parts.answered(part, body) {
            self.reply_ended(ended);
        }
    }

    pub(super) fn part_gone(&mut self, part: PartRef) {
        if self.settings.is_planted(Bug::CountsTheGone) {
            return self.part_answered(part, b"");
        }
        if let Some(ended) = self.parts.gone(part) {
            self.reply_ended(ended);
        }
    }

    pub(super) fn reply_ended(&mut self, ended: super::parts::Ended) {
        let reply = Reply::Sent { connections: ended.answered, data: ended.data, kept: Default::default() };
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
