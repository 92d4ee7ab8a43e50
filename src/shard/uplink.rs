//! Messages from one client: which ids are known, what they were answered, and the line to the backend.
//!
//! ```text
//! SEND ──(new id)──► waiting line ──► with the backend (one per client, so order is kept) ──► answered: ACK or REC
//!   └──(known id)──► waiting: absorbed · answered: the same answer again · failed: into the line again, same key
//! ```
//! A QoS 2 id is forgotten at REL and at no other time. Of QoS 1 the last `ANSWERS_KEPT` answers are remembered, and as
//! many failures as QoS 2 ids may be held.

use super::arena::{Arena, At, List};
use super::command::{Mutation, Received};
use super::conn::Phase;
#[cfg(debug_assertions)]
use super::invariants::Holdings;
use super::outbox::Item;
use super::session::NO_CONN;
use super::storeline::{After, SessionKey};
use super::{Bug, Forward, Output, Shard};
use crate::base::time::Tick;
use crate::wire::packet::{MessageId, Packet, QoS};
use crate::wire::ws::frame::{self, CloseCode, Opcode};
#[cfg(debug_assertions)]
use std::collections::HashSet;
use std::rc::Rc;

#[derive(Clone, Copy, Debug, Default)]
pub struct Uplink {
    known: List,
    line: List,
    /// New ids that ever came; the message's number in its `Idempotency-Key`.
    sequence: u64,
    /// How many ids up to the last one came one after the other.
    run: u64,
    line_len: u32,
    answer_bytes: u32,
    /// The last new id; 0 before the first.
    last_id: u16,
    /// How many of the known ids are of QoS 2; of QoS 1 and answered; of QoS 1 and failed. The rest is of QoS 1 and
    /// waits.
    held_qos2: u16,
    answered_qos1: u16,
    failed_qos1: u16,
    /// Answers that wait for the store.
    storing: u16,
    /// What the backend has now.
    current: Option<Current>,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    origin: Origin,
    bytes: u32,
}

/// Where a waiting message came from; QoS 0 has no id.
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

enum Answer {
    /// In the line or with the backend.
    Waiting,
    /// The frame that will answer it, once the store has what it says.
    Storing(Rc<[u8]>),
    /// The frame that answered it.
    Given(Rc<[u8]>),
    /// The backend could not be reached in time; the client's repeat tries again.
    Failed,
}

/// A message in the line.
pub struct Waiting {
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

/// What became of a forwarded message.
#[derive(Clone, Copy, Debug)]
pub enum ForwardOutcome<'a> {
    Answered(&'a [u8]),
    /// Given up: the deadline has passed, or QoS 0 found no backend.
    Failed,
}

/// QoS 1 answers remembered per client, for repeats that crossed them.
pub const ANSWERS_KEPT: u16 = 64;

/// Rainbow's own message type: never forwarded.
pub const RESERVED_TYPE: u16 = u16::MAX;

impl Uplink {
    /// Nothing of the client's is on its way to the backend.
    pub fn is_idle(&self) -> bool {
        self.line.is_empty() && self.current.is_none() && self.storing == 0
    }

    pub fn line_len(&self) -> usize {
        self.line_len as usize
    }

    fn find(&self, known: &Arena<Known>, incoming_id: MessageId, dup: bool) -> Option<At> {
        // Clients count up. When every id held came in one unbroken run that has not gone round, the next number cannot
        // be among them.
        let oldest = self.known.front().map(|at| known.get(at).sequence)?;
        let span = self.sequence - oldest + 1;
        let follows = self.last_id != 0 && MessageId(self.last_id).next() == incoming_id;
        if !dup && follows && span <= self.run && span < u64::from(MessageId::MAX.0) {
            return None;
        }
        known.iter(&self.known).find(|(_, known)| known.id == incoming_id).map(|(at, _)| at)
    }

    /// What is under way is among the newest: behind it lie up to `ANSWERS_KEPT` answers.
    fn find_number(&self, known: &Arena<Known>, sequence: u64) -> Option<At> {
        known.iter_back(&self.known).find(|(_, known)| known.sequence == sequence).map(|(at, _)| at)
    }
}

impl Shard {
    /// The client's SEND.
    pub(super) fn on_send(&mut self, index: u32, incoming: Incoming<'_>, now: Tick) {
        let conn = &mut self.conns[index as usize];
        if conn.over_rate(self.settings.messages_per_second, now) {
            self.begin_close(index, CloseCode::POLICY, "too many messages per second", now);
            return;
        }
        self.stats.messages_in += 1;
        let Some(id) = incoming.id else {
            let origin = Origin { qos: QoS::AtMostOnce, id: 0, sequence: 0 };
            self.join_line(index, origin, incoming, now);
            return;
        };
        match conn.uplink.find(&self.known, id, incoming.dup) {
            Some(at) if self.known.get(at).before && self.is_another(index, at, incoming.dup) => {
                self.forget_before(index, at);
                self.on_new_id(index, id, incoming, now);
            }
            Some(at) => self.on_repeat(index, at, incoming, now),
            None => self.on_new_id(index, id, incoming, now),
        }
    }

    /// An id of an earlier connection's: does it stand for another message now? Without DUP it does. With DUP it does
    /// where the client has begun to count anew since, so that its number is another.
    fn is_another(&mut self, index: u32, at: At, dup: bool) -> bool {
        let Known { id, sequence, .. } = *self.known.get(at);
        // The repeat also says where the client's count stands, should we have lost it: else the next new message would
        // begin a new run, and a later repeat of this one would get a number of that. That it was answered before says
        // nothing: the client may have lost its count since.
        !dup || self.session_of(index).is_some_and(|at| self.number(at, id, true) != sequence)
    }

    fn on_new_id(&mut self, index: u32, id: MessageId, incoming: Incoming<'_>, now: Tick) {
        let uplink = &mut self.conns[index as usize].uplink;
        if incoming.qos == QoS::ExactlyOnce {
            if usize::from(uplink.held_qos2) >= self.settings.received_max {
                self.begin_close(index, CloseCode::POLICY, "too many messages without REL", now);
                return;
            }
            uplink.held_qos2 += 1;
        }
        uplink.run = if MessageId(uplink.last_id).next() == id && uplink.last_id != 0 { uplink.run + 1 } else { 1 };
        uplink.last_id = id.0;
        uplink.sequence += 1;
        let sequence = match self.session_of(index) {
            Some(at) => self.number(at, id, incoming.dup),
            None => self.conns[index as usize].uplink.sequence,
        };
        let uplink = &mut self.conns[index as usize].uplink;
        uplink.sequence = uplink.sequence.max(sequence);
        let known = Known { id, qos: incoming.qos, sequence, answer: Answer::Waiting, before: false };
        self.known.push_back(&mut uplink.known, known);
        self.join_line(index, Origin { qos: incoming.qos, id: id.0, sequence }, incoming, now);
    }

    fn on_repeat(&mut self, index: u32, at: At, incoming: Incoming<'_>, now: Tick) {
        self.stats.repeats_in += 1;
        let known = self.known.get_mut(at);
        match &known.answer {
            Answer::Waiting | Answer::Storing(_) => {}
            Answer::Given(_) if self.settings.is_planted(Bug::StaysSilent) => {}
            Answer::Given(_) if self.settings.is_planted(Bug::AnswersDifferently) => {
                let id = known.id;
                let ack = known.qos == QoS::AtLeastOnce;
                let packet = if ack { Packet::Ack { id, body: b"" } } else { Packet::Rec { id, body: b"" } };
                self.push_packet(index, packet, now);
            }
            Answer::Failed if self.settings.is_planted(Bug::AbsorbsFailed) => {}
            Answer::Given(frame) => {
                let frame = frame.clone();
                self.push_item(index, Item::Frame(frame), now);
            }
            Answer::Failed => {
                known.answer = Answer::Waiting;
                if self.settings.is_planted(Bug::NumbersAnew) {
                    self.conns[index as usize].uplink.sequence += 1;
                    known.sequence = self.conns[index as usize].uplink.sequence;
                }
                let origin = Origin { qos: known.qos, id: known.id.0, sequence: known.sequence };
                self.conns[index as usize].uplink.failed_qos1 -= u16::from(origin.qos == QoS::AtLeastOnce);
                self.join_line(index, origin, incoming, now);
            }
        }
    }

    fn join_line(&mut self, index: u32, origin: Origin, incoming: Incoming<'_>, now: Tick) {
        let mut body = self.spare_bodies.pop().unwrap_or_default();
        body.clear();
        body.extend_from_slice(incoming.body);
        self.line_bytes += body.len();
        let uplink = &mut self.conns[index as usize].uplink;
        uplink.line_len += 1;
        let waiting = Waiting { origin, message_type: incoming.message_type, body, accepted: now };
        self.line.push_back(&mut uplink.line, waiting);
        self.forward_next(index, now);
        let full = self.line_bytes >= self.settings.forward_queue_bytes;
        let conn = &mut self.conns[index as usize];
        if !conn.uplink.is_idle() && (conn.uplink.line_len() >= self.settings.forward_queue || full) && !conn.paused {
            conn.paused = true;
            self.stats.pauses += 1;
        }
    }

    /// Hands the next message to the backend, unless it has one of this client's.
    pub(super) fn forward_next(&mut self, index: u32, now: Tick) {
        while self.conns[index as usize].uplink.current.is_none() {
            let session = self.conns[index as usize].session;
            if session != SessionKey::NONE && self.line_is_held(session) {
                return;
            }
            let conn = &mut self.conns[index as usize];
            let Some(mut waiting) = self.line.pop_front(&mut conn.uplink.line) else { return };
            if self.settings.is_planted(Bug::ForwardsOutOfOrder) {
                self.line.push_back(&mut conn.uplink.line, waiting);
                waiting = self.line.pop_front(&mut conn.uplink.line).expect("just pushed");
            }
            conn.uplink.line_len -= 1;
            let Waiting { origin, message_type, body, accepted } = waiting;
            conn.uplink.current = Some(Current { origin, bytes: body.len() as u32 });
            if message_type == RESERVED_TYPE || !self.settings.forwards {
                self.finish_current(index, ForwardOutcome::Answered(b""), body, now);
                continue;
            }
            let key = conn.key(index, self.id);
            conn.owes = true;
            let forward = Forward {
                key,
                session: self.sessions.get(session).map(|session| session.id),
                message_type,
                qos: origin.qos,
                sequence: origin.sequence,
                deadline: accepted + self.settings.forward_deadline_ms,
                identity: conn.identity,
                cookie: conn.cookie.clone(),
                body,
            };
            self.stats.forwards += 1;
            self.outputs.push_back(Output::Forward(forward));
        }
    }

    /// The backend has answered, or has been given up, for what it had of this client.
    pub(super) fn on_forwarded(&mut self, index: u32, outcome: ForwardOutcome<'_>, spent: Vec<u8>, now: Tick) {
        debug_assert!(self.conns[index as usize].owes, "one outcome per forward");
        self.conns[index as usize].owes = false;
        let holder = self.holder_of(index);
        if self.conns[holder as usize].uplink.current.is_some() {
            self.finish_current(holder, outcome, spent, now);
            self.forward_next(holder, now);
            self.resume_reading(holder, now);
        }
        self.free_if_done(holder);
        if holder != index {
            self.free_if_done(index);
        }
    }

    /// A client that was not read because its line was full is read again when there is room.
    fn resume_reading(&mut self, index: u32, now: Tick) {
        let room = self.line_bytes < self.settings.forward_queue_bytes;
        let conn = &mut self.conns[index as usize];
        if conn.paused && (conn.uplink.is_idle() || room && conn.uplink.line_len() <= self.settings.forward_queue / 2) {
            conn.paused = false;
            // Silence while nobody listened is not the client's.
            (conn.heard, conn.spoke) = (now, now);
            let key = conn.key(index, self.id);
            if !self.settings.is_planted(Bug::NeverResumes) {
                self.outputs.push_back(Output::Resume { key });
            }
            self.timers.arm_no_later(index, self.next_keepalive(index));
        }
    }

    /// A connection that has ended goes when nothing of its client's is under way.
    pub(super) fn free_if_done(&mut self, index: u32) {
        let conn = &self.conns[index as usize];
        if conn.phase == Phase::Gone && conn.uplink.is_idle() && !conn.owes {
            self.free(index);
        }
    }

    fn finish_current(&mut self, index: u32, outcome: ForwardOutcome<'_>, spent: Vec<u8>, now: Tick) {
        let uplink = &mut self.conns[index as usize].uplink;
        let Current { origin, bytes } = uplink.current.take().expect("checked by the callers");
        self.line_bytes -= bytes as usize;
        if self.spare_bodies.len() < SPARE_BODIES_MAX && spent.capacity() <= SPARE_BODY_BYTES_MAX {
            self.spare_bodies.push(spent);
        }
        let failed = matches!(outcome, ForwardOutcome::Failed);
        self.stats.forwards_dropped_qos0 += u64::from(failed && origin.qos == QoS::AtMostOnce);
        self.stats.forwards_failed += u64::from(failed && origin.qos != QoS::AtMostOnce);
        let Some(id) = MessageId::new(origin.id) else { return };
        let uplink = &self.conns[index as usize].uplink;
        let Some(at) = uplink.find_number(&self.known, origin.sequence) else { return };
        match outcome {
            ForwardOutcome::Answered(body) => self.answer(index, at, id, body, now),
            ForwardOutcome::Failed if self.settings.is_planted(Bug::AnswersFailed) => {
                self.answer(index, at, id, b"", now);
            }
            ForwardOutcome::Failed => self.fail(index, at, origin.qos),
        }
    }

    fn fail(&mut self, index: u32, at: At, qos: QoS) {
        self.known.get_mut(at).answer = Answer::Failed;
        let uplink = &mut self.conns[index as usize].uplink;
        uplink.failed_qos1 += u16::from(qos == QoS::AtLeastOnce);
        // A client that never repeats what failed must not fill the memory. Should it repeat what is forgotten, then
        // the message goes out under a new number.
        if usize::from(uplink.failed_qos1) > self.settings.received_max {
            forget_oldest(uplink, &mut self.known, Finished::Failed);
        }
    }

    fn answer(&mut self, index: u32, at: At, id: MessageId, body: &[u8], now: Tick) {
        let known = self.known.get(at);
        let (qos, sequence) = (known.qos, known.sequence);
        let frame = self.answer_frame(id, qos, body);
        if self.store_answer(index, id, qos, sequence, body) {
            self.known.get_mut(at).answer = Answer::Storing(frame);
            self.conns[index as usize].uplink.storing += 1;
        } else {
            self.give(index, at, frame, now);
        }
    }

    fn answer_frame(&mut self, id: MessageId, qos: QoS, body: &[u8]) -> Rc<[u8]> {
        let packet = match qos {
            QoS::ExactlyOnce => Packet::Rec { id, body },
            _ => Packet::Ack { id, body },
        };
        self.scratch.clear();
        frame::write_header(&mut self.scratch, Opcode::Binary, packet.encoded_len());
        packet.encode_into(&mut self.scratch);
        Rc::from(&self.scratch[..])
    }

    /// The answer goes out, and is remembered for repeats.
    fn give(&mut self, index: u32, at: At, frame: Rc<[u8]>, now: Tick) {
        let qos = self.known.get(at).qos;
        self.known.get_mut(at).answer = Answer::Given(frame.clone());
        let uplink = &mut self.conns[index as usize].uplink;
        uplink.answer_bytes += frame.len() as u32;
        uplink.answered_qos1 += u16::from(qos == QoS::AtLeastOnce);
        while uplink.answered_qos1 > ANSWERS_KEPT
            || uplink.answered_qos1 > 0 && uplink.answer_bytes as usize > self.settings.answers_bytes_max
        {
            forget_oldest(uplink, &mut self.known, Finished::Answered);
        }
        if self.settings.is_planted(Bug::ForgetsReceived) && qos == QoS::ExactlyOnce {
            let uplink = &mut self.conns[index as usize].uplink;
            uplink.answer_bytes -= frame.len() as u32;
            uplink.held_qos2 -= 1;
            self.known.remove(&mut uplink.known, at);
        }
        let uplink = &self.conns[index as usize].uplink;
        // One answer is kept however long it is: the backend's limit bounds it.
        let kept = uplink.answer_bytes as usize;
        let too_much = kept > self.settings.answers_bytes_max && kept > frame.len();
        if self.conns[index as usize].phase == Phase::Open {
            self.push_item(index, Item::Frame(frame), now);
            if too_much {
                self.begin_close(index, CloseCode::POLICY, "too many answers without REL", now);
            }
        }
    }

    /// REL: the id of a QoS 2 message is free again. Repeats are answered alike.
    pub(super) fn on_rel(&mut self, index: u32, id: MessageId, now: Tick) {
        let uplink = &mut self.conns[index as usize].uplink;
        let found = self.known.iter(&uplink.known).find(|(_, known)| known.id == id && known.qos == QoS::ExactlyOnce);
        if let Some((at, known)) = found {
            let Answer::Given(frame) = &known.answer else {
                // A REL before its REC releases nothing: the message is still on its way.
                self.stats.answers_unknown += 1;
                return;
            };
            uplink.answer_bytes -= frame.len() as u32;
            uplink.held_qos2 -= 1;
            self.known.remove(&mut uplink.known, at);
            self.forget_stored(index, id);
        }
        self.push_packet(index, Packet::Com { id }, now);
    }

    /// The answers of QoS 1 that no repeat has asked for in a long time.
    pub(super) fn forget_old_answers(&mut self, index: u32) {
        let uplink = &mut self.conns[index as usize].uplink;
        while uplink.answered_qos1 > 0 {
            forget_oldest(uplink, &mut self.known, Finished::Answered);
        }
    }

    /// The number of a session's new message.
    fn number(&mut self, at: u32, id: MessageId, dup: bool) -> u64 {
        let mark = &mut self.sessions.at_mut(at).mark;
        let numbered = mark.number(id, dup);
        if numbered.store_first && !self.settings.is_planted(Bug::NumbersUnstored) {
            self.sessions.at_mut(at).line_hold = HOLD;
        }
        numbered.sequence
    }

    /// The messages must not go on before the store has the mark that their numbers are made of. It is asked to.
    fn line_is_held(&mut self, key: SessionKey) -> bool {
        let told = self.storeline.told();
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.line_hold > told) else { return false };
        if session.line_hold == HOLD {
            self.put(key.index, After::Numbered(key));
            let last = self.storeline.last();
            self.sessions.at_mut(key.index).line_hold = last;
        }
        true
    }

    #[cfg(debug_assertions)]
    fn line_is_held_quietly(&self, key: SessionKey) -> bool {
        self.sessions
            .get(key)
            .is_some_and(|session| session.line_hold > self.storeline.told() || session.attaching.is_some())
    }

    pub(super) fn on_numbered(&mut self, key: SessionKey, done: bool, now: Tick) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let holder = session.holder;
        if !done {
            session.line_hold = HOLD;
        }
        if holder == NO_CONN {
            return;
        }
        if done {
            self.forward_next(holder, now);
            return;
        }
        // The clients' repeats try again.
        let mut line = std::mem::take(&mut self.conns[holder as usize].uplink.line);
        while let Some(waiting) = self.line.pop_front(&mut line) {
            self.line_bytes -= waiting.body.len();
            let uplink = &mut self.conns[holder as usize].uplink;
            uplink.line_len -= 1;
            match uplink.find_number(&self.known, waiting.origin.sequence).filter(|_| waiting.origin.id != 0) {
                Some(at) => {
                    self.stats.forwards_failed += 1;
                    self.fail(holder, at, waiting.origin.qos);
                }
                None => self.stats.forwards_dropped_qos0 += 1,
            }
        }
        self.resume_reading(holder, now);
        self.free_if_done(holder);
    }

    /// A session's answer that the store must have first: of QoS 2, and one that follows a change of the session.
    fn store_answer(&mut self, index: u32, id: MessageId, qos: QoS, sequence: u64, body: &[u8]) -> bool {
        let Some(at) = self.session_of(index) else { return false };
        let session = self.sessions.at(at);
        let (key, since) = (session.key(at), self.storeline.told());
        let overtakes = session.changed > since;
        let exactly_once = qos == QoS::ExactlyOnce && !self.settings.is_planted(Bug::AnswersUnstored);
        let received = exactly_once.then(|| Received { id, sequence, answer: body.into() });
        match received {
            Some(received) if !overtakes => self.receive(key, received),
            then if overtakes => self.put(at, After::Received { session: key, sequence, since, then }),
            _ => return false,
        }
        true
    }

    /// The answer goes out when it is stored.
    pub(super) fn receive(&mut self, key: SessionKey, received: Received) {
        let Some(session) = self.sessions.get(key).map(|session| session.id) else { return };
        let (sequence, since) = (received.sequence, self.storeline.told());
        self.store(
            Mutation::PutReceived { session, received },
            After::Received { session: key, sequence, since, then: None },
        );
    }

    pub(super) fn on_received_told(&mut self, key: SessionKey, sequence: u64, done: bool, now: Tick) {
        let Some(session) = self.sessions.get(key) else { return };
        let holder = session.holder;
        if holder == NO_CONN {
            return;
        }
        let known = &self.conns[holder as usize].uplink.known;
        let storing = |known: &Known| known.sequence == sequence && matches!(known.answer, Answer::Storing(_));
        let Some((at, known)) = self.known.iter_back(known).find(|(_, known)| storing(known)) else { return };
        let Known { id, qos, .. } = *known;
        let answer = std::mem::replace(&mut self.known.get_mut(at).answer, Answer::Failed);
        self.conns[holder as usize].uplink.storing -= 1;
        match answer {
            Answer::Storing(frame) if done => self.give(holder, at, frame, now),
            _ => {
                if qos == QoS::ExactlyOnce {
                    self.forget_stored(holder, id);
                }
                self.fail(holder, at, qos);
            }
        }
        self.resume_reading(holder, now);
        self.free_if_done(holder);
    }

    fn forget_stored(&mut self, index: u32, id: MessageId) {
        if let Some(at) = self.session_of(index) {
            let session = self.sessions.at(at).id;
            self.store(Mutation::RemoveReceived { session, id }, After::Nothing);
        }
    }

    /// What is known of an id from an earlier connection, when its client uses the id for another message.
    fn forget_before(&mut self, index: u32, at: At) {
        let uplink = &mut self.conns[index as usize].uplink;
        let known = self.known.remove(&mut uplink.known, at);
        let qos1 = u16::from(known.qos == QoS::AtLeastOnce);
        uplink.held_qos2 -= 1 - qos1;
        match known.answer {
            Answer::Given(frame) => {
                uplink.answer_bytes -= frame.len() as u32;
                uplink.answered_qos1 -= qos1;
            }
            Answer::Failed => uplink.failed_qos1 -= qos1,
            Answer::Storing(_) => uplink.storing -= 1,
            Answer::Waiting => {}
        }
        if known.qos == QoS::ExactlyOnce {
            self.forget_stored(index, known.id);
        }
    }

    /// The connection that has what this one's client sent.
    fn holder_of(&self, index: u32) -> u32 {
        let here = self.conns[index as usize].uplink.current.is_some();
        let holder = self.session_of(index).map(|at| self.sessions.at(at).holder);
        holder.filter(|&holder| !here && holder != NO_CONN).unwrap_or(index)
    }

    /// What the client sent on an earlier connection goes on with this one.
    pub(super) fn move_uplink(&mut self, from: u32, to: u32) {
        let uplink = std::mem::take(&mut self.conns[from as usize].uplink);
        let mut next = uplink.known.front();
        while let Some(at) = next {
            self.known.get_mut(at).before = true;
            next = self.known.next(at);
        }
        self.conns[to as usize].uplink = Uplink { last_id: 0, run: 0, ..uplink };
    }

    /// The QoS 2 messages that the session has answered and its client has not released.
    pub(super) fn restore_uplink(&mut self, index: u32, received: Vec<Received>) {
        for Received { id, sequence, answer } in received {
            let frame = self.answer_frame(id, QoS::ExactlyOnce, &answer);
            let uplink = &mut self.conns[index as usize].uplink;
            uplink.answer_bytes += frame.len() as u32;
            uplink.held_qos2 += 1;
            uplink.sequence = uplink.sequence.max(sequence);
            let known = Known { id, qos: QoS::ExactlyOnce, sequence, answer: Answer::Given(frame), before: true };
            self.known.push_back(&mut uplink.known, known);
        }
    }

    /// The session is dropped: nothing of it is stored any more, and nobody else brings what is with the backend.
    pub(super) fn orphan_uplink(&mut self, index: u32, now: Tick) {
        if self.conns[index as usize].uplink.current.is_some() && !self.conns[index as usize].owes {
            self.finish_current(index, ForwardOutcome::Failed, Vec::new(), now);
        }
        let mut next = self.conns[index as usize].uplink.known.front();
        while let Some(at) = next {
            next = self.known.next(at);
            if matches!(self.known.get(at).answer, Answer::Storing(_)) {
                self.conns[index as usize].uplink.storing -= 1;
                let qos = self.known.get(at).qos;
                self.fail(index, at, qos);
            }
        }
    }

    #[cfg(debug_assertions)]
    pub(super) fn check_uplink(&self, index: u32, all: &mut Holdings) {
        let uplink = &self.conns[index as usize].uplink;
        let (mut ids, mut sequence, mut waiting) = (HashSet::new(), 0, HashSet::new());
        let (mut answered, mut failed, mut qos2, mut bytes, mut storing) = (0, 0, 0, 0, 0);
        for (_, known) in self.known.iter(&uplink.known) {
            assert!(known.id.is_valid() && ids.insert(known.id), "an id is known once");
            let durable = self.conns[index as usize].session != SessionKey::NONE;
            assert!(durable || sequence < known.sequence, "ids are known in their order");
            assert!(known.sequence <= uplink.sequence);
            sequence = known.sequence;
            let qos1 = known.qos == QoS::AtLeastOnce;
            qos2 += u16::from(!qos1);
            match &known.answer {
                Answer::Waiting => assert!(waiting.insert(known.sequence)),
                Answer::Given(frame) => {
                    answered += u16::from(qos1);
                    bytes += frame.len() as u32;
                }
                Answer::Storing(_) => storing += 1,
                Answer::Failed => failed += u16::from(qos1),
            }
        }
        assert_eq!(storing, uplink.storing);
        assert_eq!((answered, failed, qos2), (uplink.answered_qos1, uplink.failed_qos1, uplink.held_qos2));
        assert!(answered <= ANSWERS_KEPT && uplink.answer_bytes == bytes);
        let line = || self.line.iter(&uplink.line).map(|(_, waiting)| waiting);
        assert_eq!(line().count(), uplink.line_len());
        let origins = line().map(|waiting| waiting.origin).chain(uplink.current.map(|current| current.origin));
        for origin in origins.filter(|origin| origin.id != 0) {
            let durable = self.conns[index as usize].session != SessionKey::NONE;
            assert!(waiting.remove(&origin.sequence) || durable, "what is in the line waits, and once");
        }
        assert!(waiting.is_empty(), "what waits is in the line or with the backend");
        let held = self.line_is_held_quietly(self.conns[index as usize].session);
        assert!(uplink.current.is_some() || uplink.line.is_empty() || held, "the line moves");
        all.known += ids.len();
        all.waiting += uplink.line_len();
        all.line_bytes += line().map(|waiting| waiting.body.len()).sum::<usize>();
        all.line_bytes += uplink.current.map_or(0, |current| current.bytes as usize);
    }

    /// The connection is freed.
    pub(super) fn forget_uplink(&mut self, index: u32) {
        let uplink = &mut self.conns[index as usize].uplink;
        debug_assert!(uplink.is_idle(), "freed only when nothing is on its way");
        while self.known.pop_front(&mut uplink.known).is_some() {}
        *uplink = Uplink::default();
    }
}

/// How a message that waits no more has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finished {
    Answered,
    Failed,
}

/// The oldest id of QoS 1 that ended so.
fn forget_oldest(uplink: &mut Uplink, known: &mut Arena<Known>, finished: Finished) {
    let oldest = known.iter(&uplink.known).find_map(|(at, known)| match &known.answer {
        _ if known.qos != QoS::AtLeastOnce => None,
        Answer::Given(frame) if finished == Finished::Answered => Some((at, frame.len() as u32)),
        Answer::Failed if finished == Finished::Failed => Some((at, 0)),
        _ => None,
    });
    let count = match finished {
        Finished::Answered => &mut uplink.answered_qos1,
        Finished::Failed => &mut uplink.failed_qos1,
    };
    let Some((at, len)) = oldest else {
        debug_assert!(false, "as many as were counted");
        *count = 0;
        return;
    };
    *count -= 1;
    uplink.answer_bytes -= len;
    known.remove(&mut uplink.known, at);
}

/// The line is held, and the store is still to be asked.
const HOLD: u64 = u64::MAX;

/// Body buffers kept for reuse, and the largest that is kept.
const SPARE_BODIES_MAX: usize = 1024;
const SPARE_BODY_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests;
