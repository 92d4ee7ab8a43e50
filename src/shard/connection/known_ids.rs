//! The ids that a client has used, and what their messages were answered: here a repeat is recognised.
//!
//! A QoS 2 id is forgotten at REL and at no other time. Of QoS 1 the last answers are remembered, and as many failures
//! as QoS 2 ids may be held. An id whose message is done with (answered at QoS 1, or failed) may name another message:
//! one without DUP whose content differs, or one that comes when the ids have gone round.

use crate::base::arena::{Arena, List, NodeIndex};
use crate::shard::uplink_sequence::UplinkMark;
use crate::wire::packet::{ANSWER_HEADER_LEN, MessageId, MessageRefusal, Packet, QoS};
use rustc_hash::FxHasher;
use std::hash::Hasher;
use std::rc::Rc;

/// One client's ids, in the order in which they came, and counts of them. Packed by fours: there may be a million.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, packed(4))]
pub struct KnownIds {
    /// The highest number given to an id.
    sequence: u64,
    list: List,
    /// Memory of the answers that are remembered, or wait for the session.
    answer_memory: u32,
    /// The part of it that was given on earlier connections.
    earlier_memory: u32,
    /// How many ids up to the last one came one after the other.
    run: u16,
    /// The last new id; 0 before the first.
    last_id: u16,
    unreleased_qos2: u16,
    answered_qos1: u16,
    failed_qos1: u16,
    storing: u16,
}

/// An id that the client has used.
pub struct Known {
    sequence: u64,
    digest: Digest,
    answer: Answer,
    id: MessageId,
    qos: QoS,
    /// It came on an earlier connection of the session: the same id without DUP is another message.
    before: bool,
    /// So did its answer.
    answered_before: bool,
}

/// What a message is: its QoS, type and body, in 64 bits. Whoever finds two messages with one digest has deceived
/// nobody but himself, so the hash has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    pub fn of(qos: QoS, message_type: u16, body: &[u8]) -> Digest {
        let mut hasher = FxHasher::default();
        hasher.write_u32(u32::from(message_type) << 8 | qos as u32);
        hasher.write(body);
        Digest(hasher.finish())
    }
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

impl Answer {
    /// What it costs to remember.
    fn memory(&self) -> usize {
        match self {
            Answer::Storing(packet) | Answer::Sent(packet) => ANSWER_MEMORY + packet.len(),
            Answer::Missing | Answer::Failed => 0,
        }
    }
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

    /// Memory of the answers of this connection that are remembered, or wait for the session. Those of earlier ones
    /// have a limit of their own: a client that has lost its memory releases none of them.
    pub fn answer_memory(&self) -> usize {
        (self.answer_memory - self.earlier_memory) as usize
    }

    /// A new id has come.
    pub fn note_new(&mut self, id: MessageId) {
        let follows = self.last_id != 0 && MessageId(self.last_id).next() == id;
        self.run = if follows { self.run.saturating_add(1) } else { 1 };
        self.last_id = id.0;
    }

    /// The number of a new id's message on a connection without a session.
    pub fn number(&self, id: MessageId, dup: bool) -> u64 {
        UplinkMark::behind(self.sequence).number(id, dup).sequence
    }

    /// As if all ids up to this one had come and been forgotten.
    #[cfg(test)]
    pub fn skip_to(&mut self, id: u16) {
        (self.sequence, self.run, self.last_id) = (1 << 16 | u64::from(id), id, id);
    }

    /// What comes next is on another connection: ids may begin anew.
    pub fn begin_connection(self) -> KnownIds {
        KnownIds { last_id: 0, run: 0, ..self }
    }

    /// Adds the id to the counts, or (`by` is -1) takes it from them.
    fn count(&mut self, known: &Known, by: i16) {
        let qos1 = known.qos == QoS::AtLeastOnce;
        let add = |count: &mut u16| *count = count.wrapping_add_signed(by);
        let memory = i32::from(by) * known.answer.memory() as i32;
        self.answer_memory = self.answer_memory.wrapping_add_signed(memory);
        if known.answered_before {
            self.earlier_memory = self.earlier_memory.wrapping_add_signed(memory);
        }
        match &known.answer {
            Answer::Missing => {}
            Answer::Storing(_) => add(&mut self.storing),
            Answer::Sent(_) if qos1 => add(&mut self.answered_qos1),
            Answer::Sent(_) => {}
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

    /// The client has its answer, or none is to come: a client may give the id to another message.
    fn is_done(&self) -> bool {
        match self.answer {
            Answer::Sent(_) => self.qos == QoS::AtLeastOnce,
            Answer::Failed => true,
            Answer::Missing | Answer::Storing(_) => false,
        }
    }
}

impl KnownTable {
    /// The id, if the client has used it.
    pub fn find(&self, ids: &KnownIds, incoming_id: MessageId, dup: bool) -> Option<NodeIndex> {
        // Clients count up. When every id held came in one unbroken run that has not gone round, and the last one has
        // the highest number, the next id cannot be among them.
        let oldest = self.0.get(ids.list.front()?).sequence;
        let span = ids.sequence - oldest + 1;
        let follows = ids.last_id != 0 && MessageId(ids.last_id).next() == incoming_id;
        let is_highest = ids.sequence as u16 == ids.last_id;
        if !dup && follows && is_highest && span <= u64::from(ids.run) && span < u64::from(MessageId::MAX.0) {
            return None;
        }
        self.0.iter(&ids.list).find(|(_, known)| known.id == incoming_id).map(|(node, _)| node)
    }

    /// Does a SEND without DUP under a known id of this connection bring another message?
    pub fn is_another(&self, ids: &KnownIds, node: NodeIndex, digest: Digest) -> bool {
        let known = self.get(node);
        let gone_round = u64::from(ids.run) > ROUND && ids.sequence.saturating_sub(known.sequence) > ROUND;
        known.is_done() && (known.digest != digest || gone_round)
    }

    pub fn find_qos2(&self, ids: &KnownIds, id: MessageId) -> Option<NodeIndex> {
        self.0.iter(&ids.list).find(|(_, known)| known.id == id && known.qos == QoS::ExactlyOnce).map(|(node, _)| node)
    }

    /// Looks from both ends: before what is under way lie only remembered answers, and behind it only what is queued.
    pub fn find_number(&self, ids: &KnownIds, sequence: u64) -> Option<NodeIndex> {
        self.find_from_both_ends(ids, |known| known.sequence == sequence)
    }

    /// The id whose answer waits for the session.
    pub fn find_storing(&self, ids: &KnownIds, sequence: u64) -> Option<NodeIndex> {
        let is_meant = |known: &Known| known.sequence == sequence && matches!(known.answer, Answer::Storing(_));
        self.find_from_both_ends(ids, is_meant)
    }

    fn find_from_both_ends(&self, ids: &KnownIds, is_meant: impl Fn(&Known) -> bool) -> Option<NodeIndex> {
        let list = ids.list;
        let ends = self.0.iter(&list).zip(self.0.iter_back(&list));
        ends.flat_map(|(front, back)| [back, front]).find(|(_, known)| is_meant(known)).map(|(node, _)| node)
    }

    pub fn get(&self, node: NodeIndex) -> &Known {
        self.0.get(node)
    }

    /// A new message; `sequence` is its number.
    pub fn insert(&mut self, ids: &mut KnownIds, id: MessageId, qos: QoS, sequence: u64, digest: Digest) {
        self.push(
            ids,
            Known { sequence, digest, answer: Answer::Missing, id, qos, before: false, answered_before: false },
        );
    }

    /// An answered QoS 2 id of an earlier connection. Its content does not matter: the id is not free before REL.
    pub fn restore(&mut self, ids: &mut KnownIds, id: MessageId, sequence: u64, answer: Rc<[u8]>) {
        let (answer, qos) = (Answer::Sent(answer), QoS::ExactlyOnce);
        self.push(ids, Known { sequence, digest: Digest(0), answer, id, qos, before: true, answered_before: true });
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

    /// Do the answers that only the client's REL, or the store, makes free take more than so much memory?
    pub fn holds_over(&self, ids: &KnownIds, memory_max: usize) -> bool {
        // Nearly never are all of them together too many.
        ids.answer_memory() > memory_max && ids.answer_memory() - self.qos1_memory(ids) > memory_max
    }

    /// Of the answers that may be forgotten at any time.
    fn qos1_memory(&self, ids: &KnownIds) -> usize {
        let is_free = |known: &Known| known.is_done() && !known.answered_before;
        self.0.iter(&ids.list).filter(|(_, known)| is_free(known)).map(|(_, known)| known.answer.memory()).sum()
    }

    /// Forgets the oldest answers of QoS 1 until no more than so many, and so much memory of all answers, are
    /// remembered. The newest stays: its repeat may be on the way already.
    pub fn forget_answers(&mut self, ids: &mut KnownIds, answers_max: u16, memory_max: usize) {
        while ids.answered_qos1 > answers_max || ids.answered_qos1 > 1 && ids.answer_memory() > memory_max {
            self.remove_oldest_qos1(ids, |answer| matches!(answer, Answer::Sent(_)));
        }
    }

    /// All messages without an answer have failed, except one that is with the backend.
    pub fn fail_missing(&mut self, ids: &mut KnownIds, except: Option<u64>) {
        let mut next = self.first(ids);
        while let Some(node) = next {
            next = self.next(node);
            let known = self.get(node);
            if matches!(known.answer, Answer::Missing) && Some(known.sequence) != except {
                self.set_answer(ids, node, Answer::Failed);
            }
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
    pub fn mark_from_earlier_connection(&mut self, ids: &mut KnownIds) {
        let mut next = self.first(ids);
        while let Some(node) = next {
            next = self.0.next(node);
            let known = self.0.get_mut(node);
            ids.count(known, -1);
            (known.before, known.answered_before) = (true, matches!(known.answer, Answer::Sent(_)));
            ids.count(known, 1);
        }
    }

    /// Answers of earlier connections that take more memory than that lose their bodies, the oldest first; their ids
    /// stay known. Returns how many.
    pub fn cut_earlier(&mut self, ids: &mut KnownIds, memory_max: usize, scratch: &mut Vec<u8>) -> u64 {
        let (mut next, mut cut) = (self.first(ids), 0);
        while let Some(node) = next.filter(|_| ids.earlier_memory as usize > memory_max) {
            next = self.next(node);
            let known = self.get(node);
            let Answer::Sent(packet) = &known.answer else { continue };
            if known.answered_before && packet.len() > BODILESS_MAX {
                let shortened = match MessageRefusal::decode(packet) {
                    Some(refusal) => {
                        refusal_packet(known.id, known.qos, MessageRefusal { body: b"", ..refusal }, scratch)
                    }
                    None => answer_packet(known.id, known.qos, b"", scratch),
                };
                self.set_answer(ids, node, Answer::Sent(shortened));
                cut += 1;
            }
        }
        cut
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

    /// The counts are those of the list. `earlier_max` is for the bodies of earlier answers. Of this connection's at
    /// most the newest of QoS 1 and one other go beyond `memory_max`: nothing is forwarded while the others do.
    #[cfg(debug_assertions)]
    pub fn check(&self, ids: &KnownIds, answers_max: u16, (memory_max, earlier_max): (usize, usize)) {
        let mut counted = KnownIds {
            answer_memory: 0,
            earlier_memory: 0,
            unreleased_qos2: 0,
            answered_qos1: 0,
            failed_qos1: 0,
            storing: 0,
            ..*ids
        };
        let (mut seen, mut longest, mut earlier_least) = (std::collections::HashSet::new(), 0, 0);
        for known in self.iter(ids) {
            assert!(known.id.is_valid() && seen.insert(known.id), "an id is known once");
            assert!(known.sequence <= ids.sequence);
            match known.answered_before {
                true => earlier_least += ANSWER_MEMORY + BODILESS_MAX,
                false => longest = longest.max(known.answer.memory()),
            }
            counted.count(known, 1);
        }
        let counts = |ids: &KnownIds| {
            (
                ids.answer_memory(),
                ids.earlier_memory,
                ids.unreleased_qos2,
                ids.answered_qos1,
                ids.failed_qos1,
                ids.storing,
            )
        };
        assert_eq!(counts(&counted), counts(ids));
        assert!(ids.answered_qos1 <= answers_max);
        assert!(ids.earlier_memory as usize <= earlier_max + earlier_least);
        let unreleased = ids.answer_memory() - self.qos1_memory(ids);
        assert!(unreleased <= memory_max + longest, "answers are bounded in memory");
        let memory_max = memory_max + longest;
        assert!(ids.answered_qos1 <= 1 || ids.answer_memory() <= memory_max, "the older answers make room");
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

/// ACK or REC of a message that the backend has refused. Kept in this form for every client; one that does not speak
/// `rainbow.2` gets what `plain_answer` makes of it.
pub fn refusal_packet(id: MessageId, qos: QoS, refusal: MessageRefusal<'_>, scratch: &mut Vec<u8>) -> Rc<[u8]> {
    scratch.clear();
    refusal.encode_into(id, qos, scratch);
    Rc::from(&scratch[..])
}

/// A refusal as a client that does not speak `rainbow.2` gets it: an answer with the backend's body. `None` where the
/// packet is no refusal.
pub fn plain_answer(packet: &[u8], scratch: &mut Vec<u8>) -> Option<Rc<[u8]>> {
    let refusal = MessageRefusal::decode(packet)?;
    match Packet::decode(packet) {
        Ok(Packet::Ack { id, .. }) => Some(answer_packet(id, QoS::AtLeastOnce, refusal.body, scratch)),
        Ok(Packet::Rec { id, .. }) => Some(answer_packet(id, QoS::ExactlyOnce, refusal.body, scratch)),
        _ => unreachable!("it was encoded as an answer"),
    }
}

/// Of an answer that is remembered: its place in the list, and the counts before its bytes.
const ANSWER_MEMORY: usize = size_of::<Known>() + 4 * size_of::<usize>();
/// Of an answer without a body, or a refusal.
const BODILESS_MAX: usize = ANSWER_HEADER_LEN + size_of::<u16>();
/// A client that has counted up for so long has gone round, or is about to: its unanswered ids span less.
const ROUND: u64 = MessageId::MAX.0 as u64 / 2;

const _: () = assert!(size_of::<KnownIds>() == 36);
const _: () = assert!(size_of::<Known>() <= 48);
