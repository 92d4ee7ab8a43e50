//! Messages from one client: the queue to the backend, and the answers. `known_ids` recognises repeats.
//!
//! ```text
//! SEND ──(new id)──► forward queue ──► with the backend (one per client, so order is kept) ──► answered: ACK or REC
//!   └──(known id)──► queued: absorbed · answered: the same answer again · failed: queued again, same number
//! ```
//! For a session's connection ids are numbered by the session's `UplinkMark`, and an answer waits (`Answer::Storing`)
//! until the session lets it go.
//!
//! The queue is held while the answers that a client has not released are too long together. When and how far a client
//! is read is decided in `reading`.

use super::conn::Phase;
use super::event::Event;
use super::forward_queue::{Current, Hold, Origin, Queued, Uplink};
use super::known_ids::{Answer, Digest, KnownTable, answer_packet, plain_answer, refusal_packet};
use super::outbox::Item;
use super::table::Table;
use crate::base::arena::{Arena, NodeIndex};
use crate::base::id::ConnIndex;
use crate::shard::command::{Received, SessionId};
use crate::shard::context::Context;
use crate::shard::input::ForwardOutcome;
use crate::shard::output::{Forward, Output};
use crate::shard::planted::Bug;
use crate::shard::uplink_sequence::UplinkMark;
use crate::wire::packet::{ANSWER_HEADER_LEN, MessageId, MessageRefusal, Packet, QoS};
use crate::wire::ws::frame::CloseCode;
use std::rc::Rc;

/// A SEND as it came.
#[derive(Clone, Copy)]
pub struct Incoming<'a> {
    pub qos: QoS,
    pub id: Option<MessageId>,
    pub dup: bool,
    pub message_type: u16,
    pub body: &'a [u8],
}

/// The session of the connection, as far as its uplink needs it.
pub struct Numbering<'a> {
    pub session: SessionId,
    pub mark: &'a mut UplinkMark,
}

/// The messages of all clients of a shard.
#[derive(Default)]
pub struct Uplinks {
    known: KnownTable,
    queue: Arena<Queued>,
    /// Memory of clients' messages in all queues and with the backend.
    memory: usize,
    spare_bodies: Vec<Vec<u8>>,
}

/// Answers of earlier connections may take so many times `answers_bytes_max`: one connection's, with the one that has
/// passed the limit, are not more than twice as much.
const EARLIER_ANSWERS: usize = 2;

/// Rainbow's own message type: never forwarded.
pub const RESERVED_TYPE: u16 = u16::MAX;

impl Uplinks {
    // ---- messages of the client ----

    /// The client's SEND.
    pub fn on_send(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        incoming: Incoming<'_>,
        mut numbering: Option<Numbering<'_>>,
        cx: &mut Context<'_>,
    ) {
        cx.metrics.messages_in.increment();
        let session = numbering.as_ref().map(|numbering| numbering.session);
        let Some(id) = incoming.id else {
            if reading::count_new(table, index, cx) {
                let origin = Origin { qos: QoS::AtMostOnce, id: 0, sequence: 0 };
                self.enqueue(table, index, origin, incoming, session, cx);
            }
            return;
        };
        let Some(node) = self.known.find(&table.details(index).uplink.known, id, incoming.dup) else {
            return self.on_new_id(table, index, id, incoming, numbering, cx);
        };
        if self.is_another(table, index, node, &incoming, &mut numbering, cx) {
            self.forget_id(table, index, node);
            return self.on_new_id(table, index, id, incoming, numbering, cx);
        }
        self.on_repeat(table, index, node, incoming, session, cx);
    }

    /// Does a known id name a new message now? If it came on an earlier connection, without DUP always, and with DUP
    /// when the session's count gives it another sequence than it had. On this one a repeat is never anything else:
    /// its first copy came before it.
    fn is_another(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        node: NodeIndex,
        incoming: &Incoming<'_>,
        numbering: &mut Option<Numbering<'_>>,
        cx: &Context<'_>,
    ) -> bool {
        let (known, dup) = (self.known.get(node), incoming.dup);
        let (id, sequence) = (known.id(), known.sequence());
        if !known.is_from_earlier_connection() {
            let ids = &table.details(index).uplink.known;
            return !dup
                && !cx.is_planted(Bug::SwallowsReusedIds)
                && self.known.is_another(ids, node, incoming.digest());
        }
        // Counting the repeat also restores a count that we have lost: otherwise the next new message would begin a
        // new run. That the id was answered before proves nothing: the client may have lost its own count since.
        match numbering {
            Some(numbering) if dup => Uplinks::number(table, index, numbering, id, true, cx) != sequence,
            _ => !dup,
        }
    }

    fn on_new_id(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        id: MessageId,
        incoming: Incoming<'_>,
        mut numbering: Option<Numbering<'_>>,
        cx: &mut Context<'_>,
    ) {
        let known = &mut table.details_mut(index).uplink.known;
        if incoming.qos == QoS::ExactlyOnce && known.unreleased_qos2() >= cx.settings.received_max {
            return table.close(index, CloseCode::POLICY, "too many messages without REL", cx);
        }
        if !reading::count_new(table, index, cx) {
            return;
        }
        let known = &mut table.details_mut(index).uplink.known;
        known.note_new(id);
        let sequence = match &mut numbering {
            Some(numbering) => Uplinks::number(table, index, numbering, id, incoming.dup, cx),
            None => known.number(id, incoming.dup),
        };
        let known = &mut table.details_mut(index).uplink.known;
        self.known.insert(known, id, incoming.qos, sequence, incoming.digest());
        let origin = Origin { qos: incoming.qos, id: id.0, sequence };
        self.enqueue(table, index, origin, incoming, numbering.map(|numbering| numbering.session), cx);
    }

    /// The number of a session's message.
    fn number(
        table: &mut Table,
        index: ConnIndex,
        numbering: &mut Numbering<'_>,
        id: MessageId,
        dup: bool,
        cx: &Context<'_>,
    ) -> u64 {
        let numbered = numbering.mark.number(id, dup);
        let uplink = &mut table.details_mut(index).uplink;
        if numbered.store_first && !cx.is_planted(Bug::NumbersUnstored) {
            uplink.hold = Hold::Storing;
            table.report(Event::MarkChanged(index));
        }
        numbered.sequence
    }

    fn on_repeat(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        node: NodeIndex,
        incoming: Incoming<'_>,
        session: Option<SessionId>,
        cx: &mut Context<'_>,
    ) {
        cx.metrics.repeats_in.increment();
        let known = self.known.get(node);
        match known.answer() {
            Answer::Missing | Answer::Storing(_) => {}
            Answer::Sent(_) if cx.is_planted(Bug::StaysSilent) => {}
            Answer::Failed if cx.is_planted(Bug::AbsorbsFailed) => {}
            Answer::Sent(packet) => push_answer(table, index, packet.clone(), cx),
            Answer::Failed => {
                let origin = Origin { qos: known.qos(), id: known.id().0, sequence: known.sequence() };
                self.known.set_answer(&mut table.details_mut(index).uplink.known, node, Answer::Missing);
                self.enqueue(table, index, origin, incoming, session, cx);
            }
        }
    }

    // ---- the forward queue ----

    fn enqueue(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        origin: Origin,
        incoming: Incoming<'_>,
        session: Option<SessionId>,
        cx: &mut Context<'_>,
    ) {
        // A spare buffer is for a message that goes on at once: one that waits keeps no more memory than it needs.
        let goes_on = table.details(index).uplink.is_idle();
        let body = match goes_on.then(|| self.spare_bodies.pop()).flatten() {
            Some(mut spare) => {
                spare.clear();
                spare.extend_from_slice(incoming.body);
                spare
            }
            None => incoming.body.to_vec(),
        };
        let queued = Queued { origin, message_type: incoming.message_type, body, accepted: cx.now };
        self.memory += queued.memory() as usize;
        let uplink = &mut table.details_mut(index).uplink;
        uplink.queue_len += 1;
        uplink.queue_memory += queued.memory();
        self.queue.push_back(&mut uplink.queue, queued);
        if uplink.hold == Hold::Refused {
            uplink.hold = Hold::Storing;
            table.report(Event::MarkChanged(index));
        }
        self.forward_next(table, index, session, cx);
        reading::pause_when_full(table, index, &self.known, self.memory, cx);
    }

    /// Hands the next message to the backend, unless it has one of this client's, or the queue is held: it waits for
    /// the store, or for the client to release answers.
    pub fn forward_next(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        session: Option<SessionId>,
        cx: &mut Context<'_>,
    ) {
        loop {
            let uplink = &mut table.details_mut(index).uplink;
            if uplink.current.is_some() || uplink.hold != Hold::No || uplink.queue.is_empty() {
                return;
            }
            if !self.has_room_for_answer(table, index, cx) {
                return self.hold_for_answers(table, index, cx);
            }
            let uplink = &mut table.details_mut(index).uplink;
            let newest_first = cx.is_planted(Bug::ForwardsOutOfOrder);
            let next = if newest_first { uplink.queue.back() } else { uplink.queue.front() };
            let Some(next) = next else { return };
            let queued = self.queue.remove(&mut uplink.queue, next);
            let memory = queued.memory();
            let Queued { origin, message_type, body, accepted } = queued;
            uplink.queue_len -= 1;
            uplink.queue_memory -= memory;
            uplink.current = Some(Current::new(origin, memory));
            if message_type == RESERVED_TYPE || !cx.settings.forwards {
                self.finish_current(table, index, ForwardOutcome::Answered(b""), body, cx);
                continue;
            }
            let key = table.key(index);
            let details = table.details_mut(index);
            details.forwarding = true;
            let forward = Forward {
                key,
                session,
                message_type,
                qos: origin.qos,
                sequence: origin.sequence,
                deadline: accepted + cx.settings.forward_deadline_ms,
                identity: details.identity,
                client: details.client.clone(),
                body,
            };
            cx.metrics.forwards.increment();
            cx.output(Output::Forward(forward));
        }
    }

    /// The backend has answered, or has been given up, for what it had under this connection's key. `holder`: the
    /// connection that has the client's messages now.
    pub fn on_forwarded(
        &mut self,
        table: &mut Table,
        (index, holder): (ConnIndex, ConnIndex),
        outcome: ForwardOutcome<'_>,
        spent: Vec<u8>,
        session: Option<SessionId>,
        cx: &mut Context<'_>,
    ) {
        debug_assert!(table.details(index).forwarding, "one outcome per forward");
        table.details_mut(index).forwarding = false;
        if table.details(holder).uplink.current.is_some() {
            self.finish_current(table, holder, outcome, spent, cx);
            self.forward_next(table, holder, session, cx);
            reading::resume(table, holder, &self.known, self.memory, cx);
        }
        table.report_if_done(holder);
        if holder != index {
            table.report_if_done(index);
        }
    }

    /// The store has the mark that the queue waited for, or refuses it.
    pub fn on_mark_stored(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        done: bool,
        session: SessionId,
        cx: &mut Context<'_>,
    ) {
        let uplink = &mut table.details_mut(index).uplink;
        uplink.hold = if done { Hold::No } else { Hold::Refused };
        if done {
            return self.forward_next(table, index, Some(session), cx);
        }
        self.fail_queue(table, index, cx);
        reading::resume(table, index, &self.known, self.memory, cx);
        table.report_if_done(index);
    }

    /// The queue ends here; the client's repeats try again.
    fn fail_queue(&mut self, table: &mut Table, index: ConnIndex, cx: &mut Context<'_>) {
        let uplink = &mut table.details_mut(index).uplink;
        let mut queue = std::mem::take(&mut uplink.queue);
        (uplink.queue_len, uplink.queue_memory) = (0, 0);
        while let Some(queued) = self.queue.pop_front(&mut queue) {
            self.memory -= queued.memory() as usize;
            match queued.origin.id {
                0 => cx.metrics.forwards_dropped_qos0.increment(),
                _ => cx.metrics.forwards_failed.increment(),
            }
        }
        let current = uplink.current.map(|current| current.origin().sequence);
        self.known.fail_missing(&mut uplink.known, current);
        self.known.forget_failures(&mut uplink.known, cx.settings.received_max);
    }

    /// Forgets what no longer has to be remembered; true when one more answer may come.
    fn has_room_for_answer(&mut self, table: &mut Table, index: ConnIndex, cx: &Context<'_>) -> bool {
        let (answers_max, bytes_max) = (cx.settings.limits.answers_remembered_max, cx.settings.answers_bytes_max);
        let ids = &mut table.details_mut(index).uplink.known;
        self.known.forget_answers(ids, answers_max, bytes_max);
        // Of a client that has gone for good nobody will ask for it.
        !self.known.holds_over(ids, cx.answers_bytes_max())
            || cx.is_planted(Bug::KeepsAllAnswers)
            || has_ended(table, index) && !table.conn(index).session.is_some()
    }

    /// Answers that the client has not released leave no room for another. A session's client that has gone releases
    /// none before it comes back: what waits fails, and is repeated then.
    fn hold_for_answers(&mut self, table: &mut Table, index: ConnIndex, cx: &mut Context<'_>) {
        if has_ended(table, index) {
            self.fail_queue(table, index, cx);
            return table.report_if_done(index);
        }
        cx.metrics.answer_holds.increment();
        // What frees room lies in the bytes that have not been read.
        reading::resume(table, index, &self.known, self.memory, cx);
    }

    /// The connection is not open any more: a queue that is held for answers goes on, or ends.
    pub fn on_left(&mut self, table: &mut Table, index: ConnIndex, session: Option<SessionId>, cx: &mut Context<'_>) {
        if table.details(index).uplink.can_go_on() {
            self.forward_next(table, index, session, cx);
        }
    }

    // ---- answers ----

    fn finish_current(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        outcome: ForwardOutcome<'_>,
        spent: Vec<u8>,
        cx: &mut Context<'_>,
    ) {
        let uplink = &mut table.details_mut(index).uplink;
        let current = uplink.current.take().expect("checked by the callers");
        let origin = current.origin();
        self.memory -= current.memory() as usize;
        let limits = &cx.settings.limits;
        if self.spare_bodies.len() < limits.spare_bodies_max && spent.capacity() <= limits.spare_body_bytes_max {
            self.spare_bodies.push(spent);
        }
        let outcome = if cx.is_planted(Bug::AnswersFailed) { ForwardOutcome::Answered(b"") } else { outcome };
        let failed = matches!(outcome, ForwardOutcome::Failed);
        match origin.qos {
            QoS::AtMostOnce if failed => cx.metrics.forwards_dropped_qos0.increment(),
            _ if failed => cx.metrics.forwards_failed.increment(),
            _ => {}
        }
        if origin.id == 0 {
            return;
        }
        let Some(node) = self.known.find_number(&uplink.known, origin.sequence) else { return };
        let id = self.known.get(node).id();
        match outcome {
            ForwardOutcome::Answered(body) => {
                let packet = answer_packet(id, origin.qos, body, cx.scratch);
                self.answer(table, index, node, packet, cx);
            }
            ForwardOutcome::Refused(refusal) => {
                cx.metrics.forwards_refused.increment();
                let packet = refusal_packet(id, origin.qos, refusal, cx.scratch);
                self.answer(table, index, node, packet, cx);
            }
            ForwardOutcome::Failed => self.fail(table, index, node, cx),
        }
    }

    fn fail(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, cx: &Context<'_>) {
        let ids = &mut table.details_mut(index).uplink.known;
        self.known.set_answer(ids, node, Answer::Failed);
        // A client that never repeats what failed must not fill the memory. Should it repeat what is forgotten, then
        // the message goes out under a new number.
        self.known.forget_failures(ids, cx.settings.received_max);
    }

    fn answer(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, packet: Rc<[u8]>, cx: &mut Context<'_>) {
        let sequence = self.known.get(node).sequence();
        if table.conn(index).session.is_some() {
            self.known.set_answer(&mut table.details_mut(index).uplink.known, node, Answer::Storing(packet));
            table.report(Event::Answered { index, sequence });
        } else if has_ended(table, index) {
            // Nobody will ask for it.
            self.known.remove(&mut table.details_mut(index).uplink.known, node);
        } else {
            self.send_answer(table, index, node, packet, cx);
        }
    }

    /// The id, QoS and body of an answer that waits for the session.
    pub fn storing(&self, table: &Table, index: ConnIndex, sequence: u64) -> Option<(QoS, Received)> {
        let known = self.known.get(self.known.find_storing(&table.details(index).uplink.known, sequence)?);
        let Answer::Storing(packet) = known.answer() else { return None };
        let (answer, refused) = (packet[ANSWER_HEADER_LEN..].into(), MessageRefusal::decode(packet).is_some());
        Some((known.qos(), Received { id: known.id(), sequence, answer, refused }))
    }

    /// The session lets an answer go, or (`done` is false) its store has refused it.
    pub fn on_answer_stored(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        sequence: u64,
        done: bool,
        session: Option<SessionId>,
        cx: &mut Context<'_>,
    ) {
        let found = self.known.find_storing(&table.details(index).uplink.known, sequence);
        let Some((node, known)) = found.map(|node| (node, self.known.get(node))) else { return };
        match known.answer() {
            Answer::Storing(packet) if done => {
                let packet = packet.clone();
                self.send_answer(table, index, node, packet, cx);
            }
            _ => {
                if known.qos() == QoS::ExactlyOnce {
                    table.report(Event::IdReleased { index, id: known.id() });
                }
                self.fail(table, index, node, cx);
            }
        }
        self.forward_next(table, index, session, cx);
        reading::resume(table, index, &self.known, self.memory, cx);
        table.report_if_done(index);
    }

    /// The answer goes out, and is remembered for repeats.
    fn send_answer(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        node: NodeIndex,
        packet: Rc<[u8]>,
        cx: &mut Context<'_>,
    ) {
        if cx.has_no_memory_for(packet.len()) && table.conn(index).is_open() {
            cx.metrics.memory_full.increment();
            table.close(index, CloseCode::TRY_AGAIN_LATER, "no memory for so long an answer", cx);
            if !table.conn(index).session.is_some() {
                // Nobody can repeat the message any more.
                return self.fail(table, index, node, cx);
            }
        }
        let (answers_max, bytes_max) = (cx.settings.limits.answers_remembered_max, cx.settings.answers_bytes_max);
        let ids = &mut table.details_mut(index).uplink.known;
        self.known.set_answer(ids, node, Answer::Sent(packet.clone()));
        self.known.forget_answers(ids, answers_max, bytes_max);
        if table.conn(index).is_open() {
            push_answer(table, index, packet, cx);
        }
    }

    /// REL: the id of a QoS 2 message is free again. Repeats are answered alike.
    pub fn on_rel(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        id: MessageId,
        session: Option<SessionId>,
        cx: &mut Context<'_>,
    ) {
        if let Some(node) = self.known.find_qos2(&table.details(index).uplink.known, id) {
            if !matches!(self.known.get(node).answer(), Answer::Sent(_)) {
                // A REL before its REC releases nothing: the message is still on its way.
                return cx.metrics.answers_unknown.increment();
            }
            self.known.remove(&mut table.details_mut(index).uplink.known, node);
            if table.conn(index).session.is_some() {
                table.report(Event::IdReleased { index, id });
            }
        }
        table.push_packet(index, Packet::Com { id }, cx);
        // Room for the answer of what waits.
        if !cx.is_planted(Bug::HoldsForEver) {
            self.forward_next(table, index, session, cx);
        }
    }

    /// Forgets the answers of QoS 1 that no repeat has asked for in a long time.
    pub fn forget_old_answers(&mut self, table: &mut Table, index: ConnIndex) {
        self.known.forget_answers(&mut table.details_mut(index).uplink.known, 0, usize::MAX);
    }

    /// The client uses an id for another message.
    fn forget_id(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex) {
        let known = self.known.remove(&mut table.details_mut(index).uplink.known, node);
        if known.qos() == QoS::ExactlyOnce {
            table.report(Event::IdReleased { index, id: known.id() });
        }
    }

    // ---- from connection to connection of a session ----

    /// What the client sent on an earlier connection goes on with this one.
    pub fn move_to(&mut self, table: &mut Table, from: ConnIndex, to: ConnIndex, cx: &mut Context<'_>) {
        let mut uplink = std::mem::take(&mut table.details_mut(from).uplink);
        self.known.mark_from_earlier_connection(&mut uplink.known);
        table.details_mut(to).uplink = Uplink { known: uplink.known.begin_connection(), ..uplink };
        self.cut_earlier_answers(table, to, cx);
    }

    fn cut_earlier_answers(&mut self, table: &mut Table, index: ConnIndex, cx: &mut Context<'_>) {
        let ids = &mut table.details_mut(index).uplink.known;
        let cut = self.known.cut_earlier(ids, EARLIER_ANSWERS * cx.settings.answers_bytes_max, cx.scratch);
        cx.metrics.answers_cut.add(cut);
    }

    /// The QoS 2 messages that the session has answered and its client has not released.
    pub fn restore(&mut self, table: &mut Table, index: ConnIndex, received: Vec<Received>, cx: &mut Context<'_>) {
        for Received { id, sequence, answer, refused } in received {
            let packet = match answer.split_first_chunk().filter(|_| refused && !cx.is_planted(Bug::ForgetsRefusals)) {
                Some((status, body)) => {
                    let refusal = MessageRefusal { status: u16::from_be_bytes(*status), body };
                    refusal_packet(id, QoS::ExactlyOnce, refusal, cx.scratch)
                }
                None => answer_packet(id, QoS::ExactlyOnce, &answer, cx.scratch),
            };
            self.known.restore(&mut table.details_mut(index).uplink.known, id, sequence, packet);
        }
        self.cut_earlier_answers(table, index, cx);
    }

    /// The session is dropped: the store has nothing of it any more, and no other connection will bring what is with
    /// the backend.
    pub fn orphan(&mut self, table: &mut Table, index: ConnIndex, cx: &mut Context<'_>) {
        table.details_mut(index).uplink.hold = Hold::No;
        if table.details(index).uplink.current.is_some() && !table.details(index).forwarding {
            self.finish_current(table, index, ForwardOutcome::Failed, Vec::new(), cx);
        }
        let mut next = self.known.first(&table.details(index).uplink.known);
        while let Some(node) = next {
            next = self.known.next(node);
            if matches!(self.known.get(node).answer(), Answer::Storing(_)) {
                self.fail(table, index, node, cx);
            }
        }
    }

    /// Another node has the session: what has not gone to the backend is its client's to repeat there, with the numbers
    /// that the session gives.
    pub fn abandon(&mut self, table: &mut Table, index: ConnIndex, cx: &mut Context<'_>) {
        self.orphan(table, index, cx);
        self.fail_queue(table, index, cx);
        table.report_if_done(index);
    }

    /// The connection is freed.
    pub fn forget(&mut self, table: &mut Table, index: ConnIndex) {
        let uplink = &mut table.details_mut(index).uplink;
        debug_assert!(uplink.is_idle(), "freed only when nothing is on its way");
        self.known.clear(&mut uplink.known);
        *uplink = Uplink::default();
    }

    /// Known ids, and messages in forward queues, of all clients.
    pub fn total(&self) -> usize {
        self.known.total() + self.queue.len()
    }

    /// Known ids and answers of all clients.
    pub fn known(&self) -> &KnownTable {
        &self.known
    }

    /// Memory of clients' messages that wait for the backend, or are with it.
    pub fn memory(&self) -> usize {
        self.memory
    }
}

impl Incoming<'_> {
    fn digest(&self) -> Digest {
        Digest::of(self.qos, self.message_type, self.body)
    }
}

/// What comes from the client does not count any more.
fn has_ended(table: &Table, index: ConnIndex) -> bool {
    !matches!(table.conn(index).phase(), Phase::Open | Phase::Connecting)
}

/// ACK or REC, in the form that the client understands.
fn push_answer(table: &mut Table, index: ConnIndex, packet: Rc<[u8]>, cx: &mut Context<'_>) {
    let understood = table.details(index).greets && !cx.is_planted(Bug::HidesRefusals);
    let plain = if understood { None } else { plain_answer(&packet, cx.scratch) };
    table.push(index, Item::SharedPacket(plain.unwrap_or(packet)), cx);
}

#[cfg(debug_assertions)]
pub mod invariants;
pub mod reading;

#[cfg(test)]
mod tests;
