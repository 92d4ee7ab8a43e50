//! Messages to one client: the in-flight window, ids, repeats and the client's answers.
//!
//! ```text
//! deliver ──► queued ──(room in the window)──► in flight: id, outbox, repeated, the gaps growing
//!                                                 │ ACK: done          REC: answered; REL goes out, repeated
//!                                                 │ deadline: given up, a ping shows whether the client lives
//! ```
//! One list per connection holds the messages in flight, in the order of their ids, then the queued ones.
//!
//! For a session's connection the session decides what is stored. This part keeps each message's `StoreState` and
//! reports what the session must know (`Event`).

use super::event::Event;
use super::keepalive;
use super::outbox::ITEM_MEMORY;
use super::pending::{Downlink, MemberTerms, PENDING_MEMORY, Pending, State, StoreState, ToStore, id_of, offset_after};
use super::table::Table;
use crate::base::arena::{Arena, NodeIndex};
use crate::base::id::ConnIndex;
use crate::base::time::Tick;
use crate::shard::call::query::{NotStored, Wait};
use crate::shard::call::trace::{Happening, Seen, SeenMessage};
use crate::shard::call::waiting::CallRef;
use crate::shard::command::{IDS, Offset, StoredMessage};
use crate::shard::context::Context;
use crate::shard::message::{MessageRef, Stamp};
use crate::shard::planted::Bug;
use crate::wire::packet::{MessageId, Packet, QoS};
use rustc_hash::FxHashMap;

/// The messages of all connections of a shard.
#[derive(Default)]
pub struct Downlinks {
    pending: Arena<Pending>,
    /// When to look at the next time at all that waits for the window, of connections where that is much.
    long_queues: FxHashMap<ConnIndex, Tick>,
}

impl Downlinks {
    /// Of all that is not finished, without the messages, which others share.
    pub fn memory(&self) -> usize {
        self.pending.len() * PENDING_MEMORY
    }

    // ---- deliveries ----

    /// At QoS 0. What does not fit is dropped, the oldest first.
    pub fn deliver_qos0(&mut self, table: &mut Table, index: ConnIndex, message: &MessageRef, cx: &mut Context<'_>) {
        if !table.conn(index).is_open() {
            return;
        }
        if !table.drop_for_room(index, message.len(), cx) {
            return cx.metrics.outbox_dropped_qos0.increment();
        }
        table.push_message(index, message, Stamp { id: None, dup: false }, cx);
        cx.metrics.messages_out.increment();
        trace(table, index, message, Stamp { id: None, dup: false }, cx);
    }

    /// At QoS 1 or 2: into the window, or behind it.
    pub fn deliver(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        message: &MessageRef,
        member_terms: &MemberTerms,
        cx: &mut Context<'_>,
    ) {
        if !table.conn(index).is_open() || !table.make_room(index, message.len(), cx) {
            return cx.call_gone(Some(member_terms.call));
        }
        let pending = Pending::new(message, member_terms, cx);
        self.enqueue(table, index, pending, cx);
    }

    /// At QoS 1 or 2, for a durable session: the message has its offset, and is to be stored when the client does not
    /// acknowledge it soon.
    pub fn deliver_at(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        (message, offset): (&MessageRef, Offset),
        member_terms: &MemberTerms,
        cx: &mut Context<'_>,
    ) {
        let store_after_ms = match member_terms.wait {
            Wait::Answered => cx.settings.sessions.store_after_ms.min(member_terms.deadline.since_ms(cx.now) / 2),
            Wait::Stored => 0,
        };
        let store_at = cx.now + store_after_ms;
        let pending = Pending { offset: offset.0, store_at, ..Pending::new(message, member_terms, cx) };
        self.enqueue(table, index, pending, cx);
    }

    #[inline]
    fn enqueue(&mut self, table: &mut Table, index: ConnIndex, pending: Pending, cx: &mut Context<'_>) {
        // A queued message's deadline has to be met too.
        let wake = pending.deadline.min(pending.store_at);
        self.queue(table, index, pending);
        self.fill_window(table, index, cx);
        table.arm_no_later(index, wake);
    }

    /// A message that was loaded from the store. `dup`: it may have been sent on an earlier connection.
    pub fn queue_stored(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        stored: StoredMessage,
        dup: bool,
        cx: &mut Context<'_>,
    ) {
        let pending = Pending {
            message: (!stored.released).then(|| cx.messages.insert(stored.message)),
            call: None,
            deadline: Tick::NEVER,
            repeat_at: Tick::NEVER,
            store_at: Tick::NEVER,
            expires: stored.expires,
            offset: stored.offset.0,
            attempts: 0,
            state: State::Queued,
            store_state: StoreState::Stored,
            dup,
            message_id: stored.claim.map(|claim| claim.message_id),
        };
        self.queue(table, index, pending);
    }

    /// Behind what waits for the window.
    #[inline]
    fn queue(&mut self, table: &mut Table, index: ConnIndex, pending: Pending) {
        let memory = pending.memory();
        let downlink = &mut table.conn_mut(index).downlink;
        let node = self.pending.push_back(&mut downlink.list, pending);
        downlink.queued_memory += memory as u32;
        downlink.first_queued.get_or_insert(node);
    }

    /// Sends queued messages while the window has room.
    #[inline]
    pub fn fill_window(&mut self, table: &mut Table, index: ConnIndex, cx: &mut Context<'_>) {
        if table.conn(index).downlink.has_queued() {
            self.send_queued(table, index, cx);
        }
    }

    fn send_queued(&mut self, table: &mut Table, index: ConnIndex, cx: &mut Context<'_>) {
        loop {
            let conn = table.conn(index);
            let downlink = &conn.downlink;
            let Some(node) = downlink.first_queued.filter(|_| conn.is_open()) else { return };
            if downlink.in_flight() >= cx.settings.inflight_window {
                return;
            }
            let durable = conn.session.is_some();
            if durable && self.expire_if_due(table, index, node, cx) {
                continue;
            }
            let pending = self.pending.get(node);
            if !durable && cx.now >= pending.deadline {
                self.give_up(table, index, node, cx);
                continue;
            }
            let conn = table.conn_mut(index);
            // What comes from the store has not asked for room: it waits until the client has read.
            let downlink = &mut conn.downlink;
            if durable && downlink.in_flight() > 0 && conn.outbox.memory() > cx.settings.outbox_bytes_max / 2 {
                return;
            }
            let offset = if durable { pending.offset } else { self.free_offset(downlink) };
            if !durable {
                let reuses = cx.is_planted(Bug::ReusesIds) && offset.is_multiple_of(2);
                downlink.launched = if reuses { offset } else { offset_after(offset) } as u32;
            }
            downlink.queued_memory -= pending.memory() as u32;
            downlink.first_queued = self.pending.next(node);
            downlink.in_flight += 1;
            self.launch(table, index, node, offset, cx);
        }
    }

    /// Its first sending on this connection.
    fn launch(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, offset: u64, cx: &mut Context<'_>) {
        let pending = self.pending.get_mut(node);
        (pending.offset, pending.attempts) = (offset, 1);
        pending.repeat_at = (cx.now + cx.settings.ack_timeout_ms).min(cx.tick_at(pending.expires).max(cx.now + 1));
        table.arm_no_later(index, pending.wake().max(cx.now + 1));
        let Some(message) = &pending.message else {
            pending.state = State::Released;
            return table.push_packet(index, Packet::Rel { id: id_of(offset), dup: true }, cx);
        };
        pending.state = State::Sent(message.qos());
        if pending.has_expired(cx) && table.conn(index).session.is_some() {
            // An earlier connection has sent it, and the client may hold its id.
            return self.release_expired(table, index, node, cx);
        }
        let stamp = Stamp { id: Some(id_of(offset)), dup: pending.dup };
        table.push_message(index, message, stamp, cx);
        cx.metrics.messages_out.increment();
        trace(table, index, message, stamp, cx);
    }

    /// The next offset whose id no message in flight has.
    fn free_offset(&self, downlink: &Downlink) -> u64 {
        let mut offset = u64::from(downlink.launched);
        // Ids are given in order, so that the oldest message in flight is the first that a new id can meet.
        let oldest = downlink.list.front().map(|node| self.pending.get(node));
        let Some(oldest) = oldest.filter(|oldest| oldest.state != State::Queued) else { return offset };
        if offset.checked_sub(oldest.offset).is_some_and(|ahead| ahead < IDS) {
            return offset;
        }
        let taken = |offset: u64| {
            let mut in_flight = self.pending.iter(&downlink.list).take(downlink.in_flight());
            in_flight.any(|(_, pending)| pending.id() == id_of(offset))
        };
        while taken(offset) {
            offset = offset_after(offset);
        }
        offset
    }

    // ---- answers ----

    /// ACK (QoS 1) or REC (QoS 2), with the client's reply in its body.
    pub fn on_answer(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        (qos, id): (QoS, MessageId),
        body: &[u8],
        cx: &mut Context<'_>,
    ) {
        let Some(node) = self.find_in_flight(table, index, id) else {
            cx.metrics.answers_unknown.increment();
            if qos == QoS::ExactlyOnce {
                self.on_unknown_rec(table, index, id, cx);
            }
            return;
        };
        match (self.pending.get(node).state, qos) {
            (State::Sent(QoS::AtLeastOnce), QoS::AtLeastOnce) => {
                self.finish(table, index, node, Some(body), cx);
                self.fill_window(table, index, cx);
            }
            (State::Sent(QoS::ExactlyOnce), QoS::ExactlyOnce) => self.on_rec(table, index, node, body, cx),
            (State::Released, QoS::ExactlyOnce) => table.push_packet(index, Packet::Rel { id, dup: true }, cx),
            (State::Releasing, QoS::ExactlyOnce) => {}
            // An ACK for QoS 2, or a REC for QoS 1, answers nothing.
            _ => cx.metrics.answers_unknown.increment(),
        }
    }

    fn on_rec(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, body: &[u8], cx: &mut Context<'_>) {
        let pending = self.pending.get_mut(node);
        let call = pending.call.take();
        if pending.store_state.counts() {
            table.report(Event::Received { index, message_id: pending.message_id.take() });
        }
        if pending.store_state != StoreState::NotStored && !cx.is_planted(Bug::ReleasesUnstored) {
            self.release_stored(table, index, node, false);
        } else {
            self.release(table, index, node, cx);
        }
        cx.call_answered(call, body);
    }

    /// The client does not remember that its id is free. Only a session may still know the message.
    fn on_unknown_rec(&mut self, table: &mut Table, index: ConnIndex, id: MessageId, cx: &mut Context<'_>) {
        if table.conn(index).session.is_some() {
            table.report(Event::UnknownRec { index, id });
        } else {
            table.push_packet(index, Packet::Rel { id, dup: false }, cx);
        }
    }

    /// The client has a QoS 2 message, and whoever must know knows: REL goes out.
    fn release(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, cx: &mut Context<'_>) {
        let pending = self.pending.get_mut(node);
        (pending.state, pending.attempts) = (State::Released, 1);
        pending.repeat_at = cx.now + cx.settings.ack_timeout_ms;
        table.arm_no_later(index, pending.repeat_at);
        let id = pending.id();
        cx.messages.release(pending.message.take().expect("held until now"));
        table.push_packet(index, Packet::Rel { id, dup: false }, cx);
    }

    /// REC for a message that the store has, or its time is over: its REL goes out when the store knows.
    fn release_stored(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, expired: bool) {
        let pending = self.pending.get_mut(node);
        (pending.state, pending.repeat_at) = (State::Releasing, Tick::NEVER);
        let message = pending.message.as_ref().expect("held until the store knows");
        let bytes = if pending.store_state.counts() { message.len() as u64 } else { 0 };
        table.report(Event::Releasing { index, offset: pending.offset(), bytes, expired });
    }

    /// The store has recorded that the client has the message (`Some(Stored)`), or has it no more (`Some(NotStored)`);
    /// `None`: it has refused that.
    pub fn on_release_stored(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        offset: Offset,
        state: Option<StoreState>,
        cx: &mut Context<'_>,
    ) {
        let Some(node) = self.find_offset(table, index, offset) else { return };
        let pending = self.pending.get_mut(node);
        if pending.state != State::Releasing {
            return;
        }
        if let Some(state) = state {
            pending.store_state = state;
            return self.release(table, index, node, cx);
        }
        // Tried again when it would be repeated.
        pending.repeat_at = cx.now + cx.settings.ack_timeout_ms;
        table.arm_no_later(index, pending.repeat_at);
    }

    pub fn on_com(&mut self, table: &mut Table, index: ConnIndex, id: MessageId, cx: &mut Context<'_>) {
        match self.find_in_flight(table, index, id) {
            Some(node) if self.pending.get(node).state == State::Released => {
                self.finish(table, index, node, None, cx);
                self.fill_window(table, index, cx);
            }
            _ => {
                cx.metrics.answers_unknown.increment();
                if table.conn(index).session.is_some() {
                    table.report(Event::UnknownCom { index, id });
                }
            }
        }
    }

    /// The message leaves the list: answered (with `reply`), given up, or completed.
    fn finish(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        node: NodeIndex,
        reply: Option<&[u8]>,
        cx: &mut Context<'_>,
    ) {
        let conn = table.conn_mut(index);
        conn.downlink.in_flight -= 1;
        let durable = conn.session.is_some();
        let pending = self.pending.remove(&mut conn.downlink.list, node);
        let mut bytes = 0;
        let expired = reply.is_none() && pending.message.is_some();
        if let Some(message) = pending.message {
            if pending.store_state.counts() {
                bytes = message.len() as u64;
                if reply.is_some() {
                    table.report(Event::Received { index, message_id: pending.message_id });
                }
            }
            cx.messages.release(message);
        }
        match reply {
            Some(body) => cx.call_answered(pending.call, body),
            None => cx.call_gone(pending.call),
        }
        if durable {
            let stored = pending.store_state != StoreState::NotStored;
            table.report(Event::Finished { index, offset: Offset(pending.offset), stored, bytes, expired });
        }
    }

    // ---- time ----

    /// Repeats what is due and gives up what is past its deadline. Returns when to look at the next time. Of a long
    /// queue, what waits for the window is not looked at for every deadline in it, but at a pace: it is not sent after
    /// its deadline, and its call is answered in time in any case.
    pub fn repeat_due(&mut self, table: &mut Table, index: ConnIndex, cx: &mut Context<'_>) -> Tick {
        let (mut wake, mut queued_wake) = (Tick::NEVER, Tick::NEVER);
        let (mut given_up, mut queued) = (false, 0);
        let conn = table.conn(index);
        // What the client does not read now it would not read twice.
        let blocked = conn.blocked && !conn.outbox.is_empty();
        let durable = conn.session.is_some();
        let look = self.long_queues.get(&index).copied().filter(|look| cx.now < *look);
        let mut next = conn.downlink.list.front();
        while let Some(node) = next {
            let is_queued = self.pending.get(node).state == State::Queued;
            if is_queued && look.is_some() {
                break;
            }
            queued += usize::from(is_queued);
            next = self.pending.next(node);
            if durable && self.expire_if_due(table, index, node, cx) {
                continue;
            }
            if durable && self.store_if_due(table, index, node, cx.now) {
                // The session decides what becomes of it.
                continue;
            }
            let pending = self.pending.get(node);
            if pending.may_be_given_up() && cx.now >= pending.deadline {
                given_up |= !is_queued;
                self.give_up(table, index, node, cx);
                continue;
            }
            if !is_queued && cx.now >= pending.repeat_at {
                self.repeat(table, index, node, blocked, cx);
                // No room for the repeat has closed the connection.
                if !table.conn(index).is_open() {
                    return Tick::NEVER;
                }
            }
            let its_wake = self.pending.get(node).wake();
            let part = if is_queued { &mut queued_wake } else { &mut wake };
            *part = (*part).min(its_wake);
        }
        if given_up {
            keepalive::ping(table, index, cx);
        }
        self.fill_window(table, index, cx);
        if let Some(look) = look {
            return wake.min(look);
        }
        let limits = &cx.settings.limits;
        if queued <= limits.queue_short_max {
            self.long_queues.remove(&index);
            return wake.min(queued_wake);
        }
        let look = cx.now + limits.queue_look_ms;
        self.long_queues.insert(index, look);
        wake.min(queued_wake.max(look))
    }

    /// The time of a session's message is over: it is neither sent nor repeated. A client that may hold its id (QoS 2)
    /// gets the REL in its place. False for one that waits for the window and whose id the client may hold.
    fn expire_if_due(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, cx: &mut Context<'_>) -> bool {
        let pending = self.pending.get(node);
        let Some(message) = &pending.message else { return false };
        if !pending.has_expired(cx) {
            return false;
        }
        let exactly_once = message.qos() == QoS::ExactlyOnce;
        match pending.state {
            State::Queued if exactly_once && pending.dup => return false,
            State::Queued => self.drop_queued(table, index, node, cx),
            State::Sent(QoS::ExactlyOnce) => self.release_expired(table, index, node, cx),
            State::Sent(_) => {
                let stored = pending.store_state != StoreState::NotStored;
                cx.metrics.messages_expired.add(u64::from(!stored));
                self.finish(table, index, node, None, cx);
            }
            State::Releasing | State::Released => return false,
        }
        true
    }

    /// A QoS 2 message that may have been sent: its REL frees the id, whether the client has it or not.
    fn release_expired(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, cx: &mut Context<'_>) {
        let pending = self.pending.get_mut(node);
        let call = pending.call.take();
        if pending.store_state == StoreState::NotStored {
            cx.metrics.messages_expired.increment();
            self.release(table, index, node, cx);
        } else {
            self.release_stored(table, index, node, true);
        }
        cx.call_gone(call);
    }

    /// The client has not acknowledged the message in time: its session is to have it stored.
    fn store_if_due(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, now: Tick) -> bool {
        let pending = self.pending.get(node);
        let due = pending.store_state == StoreState::NotStored && now >= pending.store_at && pending.message.is_some();
        if due {
            table.report(Event::StoreDue { index, node });
        }
        due
    }

    /// One message once more, unless the deadline leaves no room for an answer, or the outbox none for the repeat.
    fn repeat(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, blocked: bool, cx: &mut Context<'_>) {
        let ack_timeout_ms = cx.settings.ack_timeout_ms;
        let pending = self.pending.get_mut(node);
        let backoff = cx.settings.ack_backoff.powi(i32::from(pending.attempts));
        pending.repeat_at = cx.now + (ack_timeout_ms as f64 * backoff) as u64;
        if pending.message.is_some() && table.conn(index).session.is_some() {
            pending.repeat_at = pending.repeat_at.min(cx.tick_at(pending.expires).max(cx.now + 1));
        }
        if blocked || cx.is_planted(Bug::NeverRepeats) {
            return;
        }
        let id = pending.id();
        let has_time =
            pending.store_state != StoreState::NotStored || pending.deadline.since_ms(cx.now) >= ack_timeout_ms;
        match (&pending.message, pending.state) {
            (Some(message), State::Sent(_)) if has_time => {
                let conn = table.conn(index);
                let waiting = conn.outbox.memory() + conn.downlink.queued_memory();
                if waiting > 0 && waiting + ITEM_MEMORY + message.len() > cx.settings.outbox_bytes_max {
                    return;
                }
                pending.attempts = pending.attempts.saturating_add(1);
                let stamp = Stamp { id: Some(id), dup: !cx.is_planted(Bug::RepeatsWithoutDup) };
                table.push_message(index, message, stamp, cx);
                cx.metrics.repeats_out.increment();
                trace(table, index, message, stamp, cx);
            }
            (_, State::Releasing) => self.release_stored(table, index, node, false),
            (_, State::Released) if cx.is_planted(Bug::ReleasesOnce) => {}
            (_, State::Released) => {
                pending.attempts = pending.attempts.saturating_add(1);
                cx.metrics.repeats_out.increment();
                table.push_packet(index, Packet::Rel { id, dup: true }, cx);
            }
            _ => pending.repeat_at = Tick::NEVER,
        }
    }

    fn give_up(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, cx: &mut Context<'_>) {
        cx.metrics.messages_timed_out.increment();
        if self.pending.get(node).state != State::Queued {
            return self.finish(table, index, node, None, cx);
        }
        self.unqueue(table, index, node, cx);
    }

    /// A session's message whose time is over before it was sent.
    fn drop_queued(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, cx: &mut Context<'_>) {
        let len = self.message_len(node) as u64;
        let pending = self.get(node);
        let (offset, stored) = (pending.offset(), pending.store_state != StoreState::NotStored);
        let bytes = if pending.store_state.counts() { len } else { 0 };
        cx.metrics.messages_expired.add(u64::from(!stored));
        let call = self.take_call(node);
        cx.call_refused(call, NotStored::Expired);
        self.unqueue(table, index, node, cx);
        table.report(Event::Finished { index, offset, stored, bytes, expired: true });
    }

    fn unqueue(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, cx: &mut Context<'_>) {
        let downlink = &mut table.conn_mut(index).downlink;
        if downlink.first_queued == Some(node) {
            downlink.first_queued = self.pending.next(node);
        }
        let pending = self.pending.remove(&mut downlink.list, node);
        downlink.queued_memory -= pending.memory() as u32;
        let message = pending.message.expect("queued means not sent yet");
        cx.messages.release(message);
        cx.call_gone(pending.call);
    }

    /// The connection is over: nobody will answer any more.
    pub fn abandon(&mut self, table: &mut Table, index: ConnIndex, cx: &mut Context<'_>) {
        let mut downlink = std::mem::take(&mut table.conn_mut(index).downlink);
        self.long_queues.remove(&index);
        while let Some(pending) = self.pending.pop_front(&mut downlink.list) {
            if let Some(message) = pending.message.filter(|_| !cx.is_planted(Bug::LeaksMessages)) {
                cx.messages.release(message);
            }
            cx.call_gone(pending.call);
        }
    }

    // ---- for the session of the connection ----

    pub fn get(&self, node: NodeIndex) -> &Pending {
        self.pending.get(node)
    }

    pub fn first(&self, table: &Table, index: ConnIndex) -> Option<NodeIndex> {
        table.conn(index).downlink.list.front()
    }

    pub fn next(&self, node: NodeIndex) -> Option<NodeIndex> {
        self.pending.next(node)
    }

    pub fn first_offset(&self, table: &Table, index: ConnIndex) -> Option<Offset> {
        self.first(table, index).map(|node| self.get(node).offset())
    }

    pub fn first_queued_offset(&self, table: &Table, index: ConnIndex) -> Option<Offset> {
        table.conn(index).downlink.first_queued.map(|node| self.get(node).offset())
    }

    /// Offsets that the connection has in memory, ascending.
    pub fn offsets(&self, table: &Table, index: ConnIndex) -> Vec<Offset> {
        self.pending.iter(&table.conn(index).downlink.list).map(|(_, pending)| pending.offset()).collect()
    }

    /// The message in flight or queued under this offset.
    pub fn find_offset(&self, table: &Table, index: ConnIndex, offset: Offset) -> Option<NodeIndex> {
        let conn = table.get(index)?;
        let list = &conn.downlink.list;
        let offset_at = |node: Option<NodeIndex>| node.map_or(0, |node| self.pending.get(node).offset);
        let (first, last) = (offset_at(list.front()), offset_at(list.back()));
        let is_named = |pending: &Pending| pending.offset == offset.0;
        // They ascend. What is looked for is mostly at one of the ends.
        let found = if offset.0.abs_diff(first) <= offset.0.abs_diff(last) {
            self.pending.iter(list).find(|(_, pending)| is_named(pending))
        } else {
            self.pending.iter_back(list).find(|(_, pending)| is_named(pending))
        };
        found.map(|(node, _)| node)
    }

    pub fn message_len(&self, node: NodeIndex) -> usize {
        self.get(node).message.as_ref().expect("a released one has no message").len()
    }

    /// The message goes to the store.
    pub fn begin_storing(&mut self, node: NodeIndex, cx: &Context<'_>) -> ToStore {
        let pending = self.pending.get_mut(node);
        (pending.store_state, pending.store_at) = (StoreState::Storing, Tick::NEVER);
        ToStore {
            offset: pending.offset(),
            message: cx.messages.get(pending.message.as_ref().expect("a released one has no message")).clone(),
            sent: pending.state != State::Queued,
            expires: pending.expires,
        }
    }

    /// The message is not stored: it goes on without a promise.
    pub fn refuse_storing(&mut self, node: NodeIndex) {
        let pending = self.pending.get_mut(node);
        (pending.store_state, pending.store_at) = (StoreState::NotStored, Tick::NEVER);
    }

    pub fn set_store_state(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        node: NodeIndex,
        state: StoreState,
        now: Tick,
    ) {
        let pending = self.pending.get_mut(node);
        debug_assert_eq!(pending.store_state, StoreState::Storing);
        pending.store_state = state;
        table.arm_no_later(index, pending.wake().max(now + 1));
    }

    /// Looks at the message again soon: at its deadline or its repeat.
    pub fn arm_for(&self, table: &mut Table, index: ConnIndex, node: NodeIndex, now: Tick) {
        table.arm_no_later(index, self.get(node).wake().max(now + 1));
    }

    pub fn take_call(&mut self, node: NodeIndex) -> Option<CallRef> {
        self.pending.get_mut(node).call.take()
    }

    // ---- the rest ----

    fn find_in_flight(&self, table: &Table, index: ConnIndex, id: MessageId) -> Option<NodeIndex> {
        let downlink = &table.conn(index).downlink;
        let mut in_flight = self.pending.iter(&downlink.list).take(downlink.in_flight());
        in_flight.find(|(_, pending)| pending.id() == id).map(|(node, _)| node)
    }

    /// Messages of all connections.
    pub fn total(&self) -> usize {
        self.pending.len()
    }
}

/// A message goes to the client.
#[inline]
fn trace(table: &mut Table, index: ConnIndex, message: &MessageRef, stamp: Stamp, cx: &Context<'_>) {
    if !cx.traces.is_idle() {
        let message = SeenMessage::of(cx.messages.get(message), cx.traces.body_bytes());
        let message = SeenMessage { id: stamp.id, dup: stamp.dup, ..message };
        table.report(Event::Traced {
            index,
            seen: Box::new(Seen { what: Happening::ToClient, message: Some(message) }),
        });
    }
}

#[cfg(debug_assertions)]
pub mod invariants;

#[cfg(test)]
mod tests;
