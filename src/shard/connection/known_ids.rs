//! The ids that a client has used, and what their messages were answered: here a repeat is recognised.
//!
//! A QoS 2 id is forgotten at REL and at no other time. Of QoS 1 the last answers are remembered, and as many failures
//! as QoS 2 ids may be held.

use crate::base::arena::{Arena, List, NodeIndex};
use crate::wire::packet::{MessageId, Packet, QoS};
use std::rc::Rc;

/// One client's ids, in the order in which they came, and counts of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct KnownIds {
    list: List,
    /// The highest number given to an id; a connection without a session counts from 1.
    sequence: u64,
    /// How many ids up to the last one came one after the other.
    run: u64,
    answer_bytes: u32,
    /// The last new id; 0 before the first.
    last_id: u16,
    unreleased_qos2: u16,
    answered_qos1: u16,
    failed_qos1: u16,
    storing: u16,
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
#[derive(Clone)]
pub enum Answer {
    /// The message is queued, or with the backend.
    Missing,
    /// There, and waits for the session.
    Storing(Rc<[u8]>),
    Sent(Rc<[u8]>),
    /// The backend could not be reached in time; the client's repeat tries again.
    Failed,
}

/// The ids of all clients of a shard.
#[derive(Default)]
pub struct KnownTable(Arena<Known>);

impl KnownIds {
    /// Answers that wait for the session.
    pub fn storing(&self) -> usize {
        usize::from(self.storing)
    }

    pub fn unreleased_qos2(&self) -> usize {
        usize::from(self.unreleased_qos2)
    }

    pub fn answer_bytes(&self) -> usize {
        self.answer_bytes as usize
    }

    /// A new id has come. Returns the number that its message gets on a connection without a session.
    pub fn note_new(&mut self, id: MessageId) -> u64 {
        let follows = self.last_id != 0 && MessageId(self.last_id).next() == id;
        self.run = if follows { self.run + 1 } else { 1 };
        self.last_id = id.0;
        self.sequence += 1;
        self.sequence
    }

    /// As if all ids up to this one had come and been forgotten.
    #[cfg(test)]
    pub fn skip_to(&mut self, id: u16) {
        (self.sequence, self.run, self.last_id) = (u64::from(id), u64::from(id), id);
    }

    /// What comes next is on another connection: ids may begin anew.
    pub fn begin_connection(self) -> KnownIds {
        KnownIds { last_id: 0, run: 0, ..self }
    }

    /// Adds the id to the counts, or (`by` is -1) takes it from them.
    fn count(&mut self, known: &Known, by: i16) {
        let qos1 = known.qos == QoS::AtLeastOnce;
        let add = |count: &mut u16| *count = count.wrapping_add_signed(by);
        match &known.answer {
            Answer::Missing => {}
            Answer::Storing(_) => add(&mut self.storing),
            Answer::Sent(packet) => {
                self.answer_bytes = self.answer_bytes.wrapping_add_signed(i32::from(by) * packet.len() as i32);
                if qos1 {
                    add(&mut self.answered_qos1);
                }
            }
            Answer::Failed if qos1 => add(&mut self.failed_qos1),
            Answer::Failed => {}
        }
        if !qos1 {
            add(&mut self.unreleased_qos2);
        }
    }
}

impl Known {
    pub fn id(&self) -> MessageId {
        self.id
    }

    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// The message's number.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    pub fn is_from_earlier_connection(&self) -> bool {
        self.before
    }
}

impl KnownTable {
    /// The id, if the client has used it.
    pub fn find(&self, ids: &KnownIds, incoming_id: MessageId, dup: bool) -> Option<NodeIndex> {
        // Clients count up. When every id held came in one unbroken run that has not gone round, the next number cannot
        // be among them.
        let oldest = self.0.get(ids.list.front()?).sequence;
        let span = ids.sequence - oldest + 1;
        let follows = ids.last_id != 0 && MessageId(ids.last_id).next() == incoming_id;
        if !dup && follows && span <= ids.run && span < u64::from(MessageId::MAX.0) {
            return None;
        }
        self.0.iter(&ids.list).find(|(_, known)| known.id == incoming_id).map(|(node, _)| node)
    }

    pub fn find_qos2(&self, ids: &KnownIds, id: MessageId) -> Option<NodeIndex> {
        self.0.iter(&ids.list).find(|(_, known)| known.id == id && known.qos == QoS::ExactlyOnce).map(|(node, _)| node)
    }

    /// What is under way is among the newest: behind it lie only remembered answers.
    pub fn find_number(&self, ids: &KnownIds, sequence: u64) -> Option<NodeIndex> {
        self.0.iter_back(&ids.list).find(|(_, known)| known.sequence == sequence).map(|(node, _)| node)
    }

    /// The id whose answer waits for the session.
    pub fn find_storing(&self, ids: &KnownIds, sequence: u64) -> Option<NodeIndex> {
        let storing = |known: &Known| known.sequence == sequence && matches!(known.answer, Answer::Storing(_));
        self.0.iter_back(&ids.list).find(|(_, known)| storing(known)).map(|(node, _)| node)
    }

    pub fn get(&self, node: NodeIndex) -> &Known {
        self.0.get(node)
    }

    /// `sequence`: the message's number.
    pub fn insert(&mut self, ids: &mut KnownIds, id: MessageId, qos: QoS, sequence: u64) {
        self.push(ids, Known { id, qos, sequence, answer: Answer::Missing, before: false });
    }

    /// An answered QoS 2 id of an earlier connection.
    pub fn restore(&mut self, ids: &mut KnownIds, id: MessageId, sequence: u64, answer: Rc<[u8]>) {
        self.push(ids, Known { id, qos: QoS::ExactlyOnce, sequence, answer: Answer::Sent(answer), before: true });
    }

    fn push(&mut self, ids: &mut KnownIds, known: Known) {
        ids.sequence = ids.sequence.max(known.sequence);
        ids.count(&known, 1);
        self.0.push_back(&mut ids.list, known);
    }

    pub fn set_answer(&mut self, ids: &mut KnownIds, node: NodeIndex, answer: Answer) {
        let known = self.0.get_mut(node);
        ids.count(known, -1);
        known.answer = answer;
        ids.count(known, 1);
    }

    pub fn remove(&mut self, ids: &mut KnownIds, node: NodeIndex) -> Known {
        let known = self.0.remove(&mut ids.list, node);
        ids.count(&known, -1);
        known
    }

    /// Forgets the oldest answers of QoS 1 until no more than so many, and so many bytes of all answers, are
    /// remembered.
    pub fn forget_answers(&mut self, ids: &mut KnownIds, answers_max: u16, bytes_max: usize) {
        while ids.answered_qos1 > answers_max || ids.answered_qos1 > 0 && ids.answer_bytes as usize > bytes_max {
            self.remove_oldest_qos1(ids, |answer| matches!(answer, Answer::Sent(_)));
        }
    }

    /// Forgets the oldest failures of QoS 1 until no more than so many are remembered.
    pub fn forget_failures(&mut self, ids: &mut KnownIds, failures_max: usize) {
        while usize::from(ids.failed_qos1) > failures_max {
            self.remove_oldest_qos1(ids, |answer| matches!(answer, Answer::Failed));
        }
    }

    fn remove_oldest_qos1(&mut self, ids: &mut KnownIds, which: impl Fn(&Answer) -> bool) {
        let is_meant = |known: &Known| known.qos == QoS::AtLeastOnce && which(&known.answer);
        let oldest = self.0.iter(&ids.list).find(|(_, known)| is_meant(known)).map(|(node, _)| node);
        self.remove(ids, oldest.expect("as many as were counted"));
    }

    /// What the client sent so far came on an earlier connection.
    pub fn mark_from_earlier_connection(&mut self, ids: &KnownIds) {
        let mut next = ids.list.front();
        while let Some(node) = next {
            self.0.get_mut(node).before = true;
            next = self.0.next(node);
        }
    }

    pub fn first(&self, ids: &KnownIds) -> Option<NodeIndex> {
        ids.list.front()
    }

    pub fn next(&self, node: NodeIndex) -> Option<NodeIndex> {
        self.0.next(node)
    }

    pub fn clear(&mut self, ids: &mut KnownIds) {
        while self.0.pop_front(&mut ids.list).is_some() {}
        *ids = KnownIds::default();
    }

    /// Ids of all clients, for invariants.
    pub fn total(&self) -> usize {
        self.0.len()
    }

    #[cfg(debug_assertions)]
    pub fn iter<'a>(&'a self, ids: &KnownIds) -> impl Iterator<Item = &'a Known> {
        self.0.iter(&ids.list).map(|(_, known)| known)
    }

    /// The counts are those of the list. `durable`: numbers follow a session's ids, which may go back.
    #[cfg(debug_assertions)]
    pub fn check(&self, ids: &KnownIds, durable: bool, answers_max: u16) {
        let mut counted =
            KnownIds { answer_bytes: 0, unreleased_qos2: 0, answered_qos1: 0, failed_qos1: 0, storing: 0, ..*ids };
        let (mut seen, mut sequence) = (std::collections::HashSet::new(), 0);
        for known in self.iter(ids) {
            assert!(known.id.is_valid() && seen.insert(known.id), "an id is known once");
            assert!(durable || sequence < known.sequence, "ids are known in their order");
            assert!(known.sequence <= ids.sequence);
            sequence = known.sequence;
            counted.count(known, 1);
        }
        let counts =
            |ids: &KnownIds| (ids.answer_bytes, ids.unreleased_qos2, ids.answered_qos1, ids.failed_qos1, ids.storing);
        assert_eq!(counts(&counted), counts(ids));
        assert!(ids.answered_qos1 <= answers_max);
    }
}

/// ACK or REC.
pub fn answer_packet(id: MessageId, qos: QoS, body: &[u8], scratch: &mut Vec<u8>) -> Rc<[u8]> {
    let packet = match qos {
        QoS::ExactlyOnce => Packet::Rec { id, body },
        _ => Packet::Ack { id, body },
    };
    scratch.clear();
    packet.encode_into(scratch);
    Rc::from(&scratch[..])
}

/// The body of an answer.
pub fn answer_body(packet: &[u8]) -> &[u8] {
    match Packet::decode(packet) {
        Ok(Packet::Ack { body, .. } | Packet::Rec { body, .. }) => body,
        _ => unreachable!("it was encoded as an answer"),
    }
}
