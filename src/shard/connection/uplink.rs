//! Messages from one client: which ids are known, what they were answered, and the queue to the backend.
//!
//! ```text
//! SEND ──(new id)──► forward queue ──► with the backend (one per client, so order is kept) ──► answered: ACK or REC
//!   └──(known id)──► queued: absorbed · answered: the same answer again · failed: queued again, same number
//! ```
//! A QoS 2 id is forgotten at REL and at no other time. Of QoS 1 the last `answers_remembered_max` answers are remembered,
//! and as many failures as QoS 2 ids may be held.
//!
//! For a session's connection ids are numbered by the session's `UplinkMark`, and an answer waits (`Answer::Storing`)
//! until the session lets it go.

use super::event::Event;
use super::keepalive;
use super::outbox::Item;
use super::table::Table;
use crate::base::id::ConnIndex;
use crate::base::time::Tick;
use crate::shard::arena::{Arena, List, NodeIndex};
use crate::shard::command::{Received, SessionId};
use crate::shard::context::Context;
use crate::shard::input::ForwardOutcome;
use crate::shard::output::{Forward, Output};
use crate::shard::planted::Bug;
use crate::shard::uplink_sequence::UplinkMark;
use crate::wire::packet::{MessageId, Packet, QoS};
use crate::wire::ws::frame::CloseCode;
use std::rc::Rc;

/// One connection's lists and counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uplink {
    known: List,
    queue: List,
    /// The highest number given to an id; a plain connection counts from 1.
    sequence: u64,
    /// How many ids up to the last one came one after the other.
    run: u64,
    queue_len: u32,
    answer_bytes: u32,
    /// The last new id; 0 before the first.
    last_id: u16,
    /// How many of the known ids are of QoS 2; of QoS 1 and answered; of QoS 1 and failed. The rest is of QoS 1 and
    /// queued, or with the backend.
    held_qos2: u16,
    answered_qos1: u16,
    failed_qos1: u16,
    /// Answers that wait for the session.
    storing: u16,
    hold: Hold,
    /// What the backend has now.
    current: Option<Current>,
}

/// Must the forward queue wait until the store has the mark that its numbers are made of?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hold {
    #[default]
    No,
    Storing,
    /// The store has refused the mark: the next message has it stored again.
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    origin: Origin,
    bytes: u32,
}

/// Where a queued message came from; QoS 0 has no id.
#[derive(Clone, Copy, Debug)]
struct Origin {
    qos: QoS,
    id: u16,
    sequence: u64,
}

/// An id that the client has used.
pub struct Known {
    id: MessageId,
    qos: QoS,
    sequence: u64,
    answer: Answer,
    /// It came on an earlier connection of the session: the same id without DUP is another message.
    before: bool,
}

/// Packets of answers are shared: a repeat is answered with the same one.
enum Answer {
    /// Queued, or with the backend.
    Missing,
    /// Known, and waits for the session.
    Storing(Rc<[u8]>),
    Given(Rc<[u8]>),
    /// The backend could not be reached in time; the client's repeat tries again.
    Failed,
}

/// A message in a forward queue.
pub struct Queued {
    origin: Origin,
    message_type: u16,
    body: Vec<u8>,
    accepted: Tick,
}

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
    known: Arena<Known>,
    queue: Arena<Queued>,
    /// Bytes of clients' messages in all queues and with the backend.
    bytes: usize,
    spare_bodies: Vec<Vec<u8>>,
}

/// Rainbow's own message type: never forwarded.
pub const RESERVED_TYPE: u16 = u16::MAX;

impl Uplink {
    /// Nothing of the client's is on its way to the backend.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.current.is_none() && self.storing == 0
    }

    /// The backend has a message of this uplink's.
    pub fn has_current(&self) -> bool {
        self.current.is_some()
    }

    fn find(&self, known: &Arena<Known>, incoming_id: MessageId, dup: bool) -> Option<NodeIndex> {
        // Clients count up. When every id held came in one unbroken run that has not gone round, the next number cannot
        // be among them.
        let oldest = self.known.front().map(|node| known.get(node).sequence)?;
        let span = self.sequence - oldest + 1;
        let follows = self.last_id != 0 && MessageId(self.last_id).next() == incoming_id;
        if !dup && follows && span <= self.run && span < u64::from(MessageId::MAX.0) {
            return None;
        }
        known.iter(&self.known).find(|(_, known)| known.id == incoming_id).map(|(node, _)| node)
    }

    /// What is under way is among the newest: behind it lie only remembered answers.
    fn find_number(&self, known: &Arena<Known>, sequence: u64) -> Option<NodeIndex> {
        known.iter_back(&self.known).find(|(_, known)| known.sequence == sequence).map(|(node, _)| node)
    }
}

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
        if table.details_mut(index).over_rate(cx.settings.messages_per_second, cx.now) {
            return table.close(index, CloseCode::POLICY, "too many messages per second", cx);
        }
        cx.metrics.messages_in.increment();
        let session = numbering.as_ref().map(|numbering| numbering.session);
        let Some(id) = incoming.id else {
            let origin = Origin { qos: QoS::AtMostOnce, id: 0, sequence: 0 };
            return self.enqueue(table, index, origin, incoming, session, cx);
        };
        let Some(node) = table.details(index).uplink.find(&self.known, id, incoming.dup) else {
            return self.on_new_id(table, index, id, incoming, numbering, cx);
        };
        if self.known.get(node).before && self.is_another(table, index, node, incoming.dup, &mut numbering, cx) {
            self.forget_before(table, index, node);
            return self.on_new_id(table, index, id, incoming, numbering, cx);
        }
        self.on_repeat(table, index, node, incoming, session, cx);
    }

    /// The id came on an earlier connection. Does it stand for another message now? Without DUP it does. With DUP it does
    /// where the client has begun to count anew since, so that its number is another.
    fn is_another(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        node: NodeIndex,
        dup: bool,
        numbering: &mut Option<Numbering<'_>>,
        cx: &Context<'_>,
    ) -> bool {
        let Known { id, sequence, .. } = *self.known.get(node);
        // The repeat also shows where the client's count stands, should we have lost it: else the next new message would
        // begin a new run, and a later repeat of this one would get a number of that. That it was answered before shows
        // nothing: the client may have lost its count since.
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
        let uplink = &mut table.details_mut(index).uplink;
        if incoming.qos == QoS::ExactlyOnce {
            if usize::from(uplink.held_qos2) >= cx.settings.received_max {
                return table.close(index, CloseCode::POLICY, "too many messages without REL", cx);
            }
            uplink.held_qos2 += 1;
        }
        let follows = uplink.last_id != 0 && MessageId(uplink.last_id).next() == id;
        uplink.run = if follows { uplink.run + 1 } else { 1 };
        uplink.last_id = id.0;
        uplink.sequence += 1;
        let sequence = match &mut numbering {
            Some(numbering) => Uplinks::number(table, index, numbering, id, incoming.dup, cx),
            None => uplink.sequence,
        };
        let uplink = &mut table.details_mut(index).uplink;
        uplink.sequence = uplink.sequence.max(sequence);
        let known = Known { id, qos: incoming.qos, sequence, answer: Answer::Missing, before: false };
        self.known.push_back(&mut uplink.known, known);
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
        let known = self.known.get_mut(node);
        match &known.answer {
            Answer::Missing | Answer::Storing(_) => {}
            Answer::Given(_) if cx.is_planted(Bug::StaysSilent) => {}
            Answer::Failed if cx.is_planted(Bug::AbsorbsFailed) => {}
            Answer::Given(packet) => {
                let packet = packet.clone();
                table.push(index, Item::SharedPacket(packet), cx);
            }
            Answer::Failed => {
                known.answer = Answer::Missing;
                let origin = Origin { qos: known.qos, id: known.id.0, sequence: known.sequence };
                let uplink = &mut table.details_mut(index).uplink;
                uplink.failed_qos1 -= u16::from(origin.qos == QoS::AtLeastOnce);
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
        let mut body = self.spare_bodies.pop().unwrap_or_default();
        body.clear();
        body.extend_from_slice(incoming.body);
        self.bytes += body.len();
        let uplink = &mut table.details_mut(index).uplink;
        uplink.queue_len += 1;
        let queued = Queued { origin, message_type: incoming.message_type, body, accepted: cx.now };
        self.queue.push_back(&mut uplink.queue, queued);
        if uplink.hold == Hold::Refused {
            uplink.hold = Hold::Storing;
            table.report(Event::MarkChanged(index));
        }
        self.forward_next(table, index, session, cx);
        let full = self.bytes >= cx.settings.forward_queue_bytes;
        let details = table.details_mut(index);
        let long = details.uplink.queue_len as usize >= cx.settings.forward_queue;
        if !details.uplink.is_idle() && (long || full) && !details.paused {
            details.paused = true;
            cx.metrics.pauses.increment();
        }
    }

    /// Hands the next message to the backend, unless it has one of this client's, or the queue is held.
    pub fn forward_next(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        session: Option<SessionId>,
        cx: &mut Context<'_>,
    ) {
        loop {
            let uplink = &mut table.details_mut(index).uplink;
            if uplink.current.is_some() || uplink.hold != Hold::No {
                return;
            }
            let newest_first = cx.is_planted(Bug::ForwardsOutOfOrder);
            let next = if newest_first { uplink.queue.back() } else { uplink.queue.front() };
            let Some(next) = next else { return };
            let Queued { origin, message_type, body, accepted } = self.queue.remove(&mut uplink.queue, next);
            uplink.queue_len -= 1;
            uplink.current = Some(Current { origin, bytes: body.len() as u32 });
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
                cookie: details.cookie.clone(),
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
            self.resume_reading(table, holder, cx);
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
        // The client's repeats try again.
        let mut queue = std::mem::take(&mut uplink.queue);
        uplink.queue_len = 0;
        while let Some(queued) = self.queue.pop_front(&mut queue) {
            self.bytes -= queued.body.len();
            let uplink = &table.details(index).uplink;
            match uplink.find_number(&self.known, queued.origin.sequence).filter(|_| queued.origin.id != 0) {
                Some(node) => {
                    cx.metrics.forwards_failed.increment();
                    self.fail(table, index, node, cx);
                }
                None => cx.metrics.forwards_dropped_qos0.increment(),
            }
        }
        self.resume_reading(table, index, cx);
        table.report_if_done(index);
    }

    /// A client that was not read because its queue was full is read again when there is room.
    fn resume_reading(&mut self, table: &mut Table, index: ConnIndex, cx: &mut Context<'_>) {
        let room = self.bytes < cx.settings.forward_queue_bytes;
        let key = table.key(index);
        let details = table.details_mut(index);
        let short = details.uplink.queue_len as usize <= cx.settings.forward_queue / 2;
        if details.paused && (details.uplink.is_idle() || room && short) {
            details.paused = false;
            // Silence while nobody listened is not the client's.
            (details.received, details.active) = (cx.now, cx.now);
            if !cx.is_planted(Bug::NeverResumes) {
                cx.output(Output::Resume { key });
            }
            table.arm_no_later(index, keepalive::next_check(table, index, cx.settings));
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
        let Current { origin, bytes } = uplink.current.take().expect("checked by the callers");
        self.bytes -= bytes as usize;
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
        let Some(node) = uplink.find_number(&self.known, origin.sequence).filter(|_| origin.id != 0) else { return };
        match outcome {
            ForwardOutcome::Answered(body) => self.answer(table, index, node, body, cx),
            ForwardOutcome::Failed => self.fail(table, index, node, cx),
        }
    }

    fn fail(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, cx: &Context<'_>) {
        let known = self.known.get_mut(node);
        known.answer = Answer::Failed;
        let uplink = &mut table.details_mut(index).uplink;
        uplink.failed_qos1 += u16::from(known.qos == QoS::AtLeastOnce);
        // A client that never repeats what failed must not fill the memory. Should it repeat what is forgotten, then the
        // message goes out under a new number.
        if usize::from(uplink.failed_qos1) > cx.settings.received_max {
            forget_oldest(uplink, &mut self.known, Finished::Failed);
        }
    }

    fn answer(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, body: &[u8], cx: &mut Context<'_>) {
        let known = self.known.get_mut(node);
        let packet = answer_packet(known.id, known.qos, body, cx.scratch);
        if table.conn(index).session.is_some() {
            let sequence = known.sequence;
            known.answer = Answer::Storing(packet);
            table.details_mut(index).uplink.storing += 1;
            table.report(Event::Answered { index, sequence });
        } else {
            self.give(table, index, node, packet, cx);
        }
    }

    /// The id, quality and body of an answer that waits for the session.
    pub fn storing(&self, table: &Table, index: ConnIndex, sequence: u64) -> Option<(QoS, Received)> {
        let node = self.find_storing(table, index, sequence)?;
        let Known { id, qos, answer, .. } = self.known.get(node);
        let Answer::Storing(packet) = answer else { return None };
        let answer = match Packet::decode(packet) {
            Ok(Packet::Ack { body, .. } | Packet::Rec { body, .. }) => body.into(),
            _ => unreachable!("it was encoded as an answer"),
        };
        Some((*qos, Received { id: *id, sequence, answer }))
    }

    /// The session lets an answer go, or (`done` is false) its store has refused it.
    pub fn on_answer_stored(
        &mut self,
        table: &mut Table,
        index: ConnIndex,
        sequence: u64,
        done: bool,
        cx: &mut Context<'_>,
    ) {
        let Some(node) = self.find_storing(table, index, sequence) else { return };
        let known = self.known.get_mut(node);
        let (id, qos) = (known.id, known.qos);
        let answer = std::mem::replace(&mut known.answer, Answer::Failed);
        table.details_mut(index).uplink.storing -= 1;
        match answer {
            Answer::Storing(packet) if done => self.give(table, index, node, packet, cx),
            _ => {
                if qos == QoS::ExactlyOnce {
                    table.report(Event::IdReleased { index, id });
                }
                self.fail(table, index, node, cx);
            }
        }
        self.resume_reading(table, index, cx);
        table.report_if_done(index);
    }

    fn find_storing(&self, table: &Table, index: ConnIndex, sequence: u64) -> Option<NodeIndex> {
        let known = &table.details(index).uplink.known;
        let storing = |known: &Known| known.sequence == sequence && matches!(known.answer, Answer::Storing(_));
        self.known.iter_back(known).find(|(_, known)| storing(known)).map(|(node, _)| node)
    }

    /// The answer goes out, and is remembered for repeats.
    fn give(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex, packet: Rc<[u8]>, cx: &mut Context<'_>) {
        let len = answer_len(&packet);
        let known = self.known.get_mut(node);
        known.answer = Answer::Given(packet.clone());
        let uplink = &mut table.details_mut(index).uplink;
        uplink.answer_bytes += len;
        uplink.answered_qos1 += u16::from(known.qos == QoS::AtLeastOnce);
        let bytes_max = cx.settings.answers_bytes_max;
        while uplink.answered_qos1 > cx.settings.limits.answers_remembered_max
            || uplink.answered_qos1 > 0 && uplink.answer_bytes as usize > bytes_max
        {
            forget_oldest(uplink, &mut self.known, Finished::Answered);
        }
        // One answer is kept however long it is: the backend's limit bounds it.
        let too_much = uplink.answer_bytes as usize > bytes_max && uplink.answer_bytes > len;
        if table.conn(index).is_open() {
            table.push(index, Item::SharedPacket(packet), cx);
            if too_much {
                table.close(index, CloseCode::POLICY, "too many answers without REL", cx);
            }
        }
    }

    /// REL: the id of a QoS 2 message is free again. Repeats are answered alike.
    pub fn on_rel(&mut self, table: &mut Table, index: ConnIndex, id: MessageId, cx: &mut Context<'_>) {
        let uplink = &mut table.details_mut(index).uplink;
        let found = self.known.iter(&uplink.known).find(|(_, known)| known.id == id && known.qos == QoS::ExactlyOnce);
        if let Some((node, known)) = found {
            let Answer::Given(packet) = &known.answer else {
                // A REL before its REC releases nothing: the message is still on its way.
                return cx.metrics.answers_unknown.increment();
            };
            uplink.answer_bytes -= answer_len(packet);
            uplink.held_qos2 -= 1;
            self.known.remove(&mut uplink.known, node);
            if table.conn(index).session.is_some() {
                table.report(Event::IdReleased { index, id });
            }
        }
        table.push_packet(index, Packet::Com { id }, cx);
    }

    /// Forgets the answers of QoS 1 that no repeat has asked for in a long time.
    pub fn forget_old_answers(&mut self, table: &mut Table, index: ConnIndex) {
        let uplink = &mut table.details_mut(index).uplink;
        while uplink.answered_qos1 > 0 {
            forget_oldest(uplink, &mut self.known, Finished::Answered);
        }
    }

    /// The client uses an id of an earlier connection for another message.
    fn forget_before(&mut self, table: &mut Table, index: ConnIndex, node: NodeIndex) {
        let uplink = &mut table.details_mut(index).uplink;
        let known = self.known.remove(&mut uplink.known, node);
        let qos1 = u16::from(known.qos == QoS::AtLeastOnce);
        uplink.held_qos2 -= 1 - qos1;
        match known.answer {
            Answer::Given(packet) => {
                uplink.answer_bytes -= answer_len(&packet);
                uplink.answered_qos1 -= qos1;
            }
            Answer::Failed => uplink.failed_qos1 -= qos1,
            Answer::Storing(_) => uplink.storing -= 1,
            Answer::Missing => {}
        }
        if known.qos == QoS::ExactlyOnce {
            table.report(Event::IdReleased { index, id: known.id });
        }
    }

    // ---- from connection to connection of a session ----

    /// What the client sent on an earlier connection goes on with this one.
    pub fn move_to(&mut self, table: &mut Table, from: ConnIndex, to: ConnIndex) {
        let uplink = std::mem::take(&mut table.details_mut(from).uplink);
        let mut next = uplink.known.front();
        while let Some(node) = next {
            self.known.get_mut(node).before = true;
            next = self.known.next(node);
        }
        table.details_mut(to).uplink = Uplink { last_id: 0, run: 0, ..uplink };
    }

    /// The QoS 2 messages that the session has answered and its client has not released.
    pub fn restore(&mut self, table: &mut Table, index: ConnIndex, received: Vec<Received>, cx: &mut Context<'_>) {
        for Received { id, sequence, answer } in received {
            let packet = answer_packet(id, QoS::ExactlyOnce, &answer, cx.scratch);
            let uplink = &mut table.details_mut(index).uplink;
            uplink.answer_bytes += answer_len(&packet);
            uplink.held_qos2 += 1;
            uplink.sequence = uplink.sequence.max(sequence);
            let known = Known { id, qos: QoS::ExactlyOnce, sequence, answer: Answer::Given(packet), before: true };
            self.known.push_back(&mut uplink.known, known);
        }
    }

    /// The session is dropped: the store has nothing of it any more, and no other connection will bring what is with the
    /// backend.
    pub fn orphan(&mut self, table: &mut Table, index: ConnIndex, cx: &mut Context<'_>) {
        table.details_mut(index).uplink.hold = Hold::No;
        if table.details(index).uplink.current.is_some() && !table.details(index).forwarding {
            self.finish_current(table, index, ForwardOutcome::Failed, Vec::new(), cx);
        }
        let mut next = table.details(index).uplink.known.front();
        while let Some(node) = next {
            next = self.known.next(node);
            if matches!(self.known.get(node).answer, Answer::Storing(_)) {
                table.details_mut(index).uplink.storing -= 1;
                self.fail(table, index, node, cx);
            }
        }
    }

    /// The connection is freed.
    pub fn forget(&mut self, table: &mut Table, index: ConnIndex) {
        let uplink = &mut table.details_mut(index).uplink;
        debug_assert!(uplink.is_idle(), "freed only when nothing is on its way");
        while self.known.pop_front(&mut uplink.known).is_some() {}
        *uplink = Uplink::default();
    }

    /// Known ids, and messages in forward queues.
    pub fn len(&self) -> usize {
        self.known.len() + self.queue.len()
    }

    /// Bytes of clients' messages that wait for the backend, or are with it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// How a message that is not under way any more has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finished {
    Answered,
    Failed,
}

/// The oldest id of QoS 1 that ended so.
fn forget_oldest(uplink: &mut Uplink, known: &mut Arena<Known>, finished: Finished) {
    let oldest = known.iter(&uplink.known).find_map(|(node, known)| match &known.answer {
        _ if known.qos != QoS::AtLeastOnce => None,
        Answer::Given(packet) if finished == Finished::Answered => Some((node, answer_len(packet))),
        Answer::Failed if finished == Finished::Failed => Some((node, 0)),
        _ => None,
    });
    let count = match finished {
        Finished::Answered => &mut uplink.answered_qos1,
        Finished::Failed => &mut uplink.failed_qos1,
    };
    let Some((node, len)) = oldest else {
        debug_assert!(false, "as many as were counted");
        *count = 0;
        return;
    };
    *count -= 1;
    uplink.answer_bytes -= len;
    known.remove(&mut uplink.known, node);
}

fn answer_packet(id: MessageId, qos: QoS, body: &[u8], scratch: &mut Vec<u8>) -> Rc<[u8]> {
    let packet = match qos {
        QoS::ExactlyOnce => Packet::Rec { id, body },
        _ => Packet::Ack { id, body },
    };
    scratch.clear();
    packet.encode_into(scratch);
    Rc::from(&scratch[..])
}

/// Bytes that an answer counts for.
fn answer_len(packet: &Rc<[u8]>) -> u32 {
    packet.len() as u32
}

#[cfg(debug_assertions)]
pub mod invariants;

#[cfg(test)]
mod tests;
