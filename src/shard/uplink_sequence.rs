//! Numbers of a client's messages to the backend. They are made of the ids that the client gives them, so that a repeat
//! gets the same number after any crash, and however late it comes. A connection without a session numbers alike, with
//! a mark that it makes of its highest number; of what follows here about crashes it needs nothing.
//!
//! A *run* is a row of rising ids; a message's number is its run and its id. A SEND without DUP whose id is not above
//! the highest of the run begins a new run: the ids have gone round, or the client has lost its count. So does the
//! first one after a crash, when the highest id is not known, unless a repeat before it has shown that the client still
//! has its count. The mark is stored before a message of a new run goes on, or a crash would give its number away
//! again. Ids that are left out do no harm: after a crash the client repeats what was not answered and goes on behind
//! what was.
//!
//! A SEND with DUP whose id is not known belongs to the current run, except where the ids go round: the unanswered ids
//! of a client span less than a quarter of all ids. So a high id in a young run is of the run before, and a low id in
//! an old run is the beginning of the next.

use crate::wire::packet::MessageId;

/// Where the numbering of a session's messages stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkMark {
    pub run: u32,
    /// The highest id of the run; 0 before the first, 65535 when it is not known (the process has died since).
    pub last: u16,
    /// More than half of all ids have been used in this run.
    pub past_half: bool,
}

/// A message's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Run in the high bits, id in the low 16.
    pub sequence: u64,
    /// The mark has changed in a way that must be stored first.
    pub store_first: bool,
}

impl UplinkMark {
    /// Before any message.
    pub const FIRST: UplinkMark = UplinkMark { run: 1, last: 0, past_half: false };

    /// The number of a message whose id is not known.
    pub fn number(&mut self, id: MessageId, dup: bool) -> Numbered {
        let known_last = if self.last == UNKNOWN { 0 } else { self.last };
        if dup && id.0 >= HIGH && !self.past_half && self.run > 1 {
            // The client has not lost its count: what it sends next lies above all that this run has had.
            self.last = known_last;
            return Numbered { sequence: sequence(self.run - 1, id), store_first: false };
        }
        let goes_round = dup && id.0 < LOW && self.past_half;
        let goes_back = !dup && (self.last == UNKNOWN || self.last != 0 && id.0 <= self.last);
        if goes_round || goes_back {
            *self = UplinkMark { run: self.run + 1, last: id.0, past_half: id.0 >= HALF };
            return Numbered { sequence: sequence(self.run, id), store_first: true };
        }
        let passes = id.0 >= HALF && !self.past_half;
        self.past_half |= passes;
        self.last = known_last.max(id.0);
        Numbered { sequence: sequence(self.run, id), store_first: passes }
    }

    /// The mark of a connection without a session that has given out numbers up to this one; 0 before the first.
    pub fn behind(highest: u64) -> UplinkMark {
        let (run, last) = ((highest >> 16) as u32, highest as u16);
        UplinkMark { run: run.max(UplinkMark::FIRST.run), last, past_half: last >= HALF }
    }

    /// What is true after a crash.
    pub fn after_crash(self) -> UplinkMark {
        UplinkMark { last: UNKNOWN, ..self }
    }
}

fn sequence(run: u32, id: MessageId) -> u64 {
    u64::from(run) << 16 | u64::from(id.0)
}

const HALF: u16 = MessageId::MAX.0 / 2;
const LOW: u16 = MessageId::MAX.0 / 4;
const HIGH: u16 = MessageId::MAX.0 / 4 * 3;
/// No message's id.
const UNKNOWN: u16 = u16::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, HashMap};

    fn numbers(mark: &mut UplinkMark, ids: impl IntoIterator<Item = u16>, dup: bool) -> Vec<u64> {
        ids.into_iter().map(|id| mark.number(MessageId(id), dup).sequence).collect()
    }

    #[test]
    fn repeats_after_a_crash_get_their_old_numbers() {
        let mut mark = UplinkMark::FIRST;
        let stored = mark;
        let before = numbers(&mut mark, 1..=10, false);
        let mut mark = stored.after_crash();
        assert_eq!(numbers(&mut mark, 6..=10, true), before[5..]);
        let next = mark.number(MessageId(11), false);
        assert_eq!(next, Numbered { sequence: before[9] + 1, store_first: false });
    }

    #[test]
    fn the_highest_number_is_mark_enough_for_a_connection() {
        let (mut mark, mut highest) = (UplinkMark::FIRST, 0);
        for id in [1, 2, 40_000, 3, 50_000, 65_534, 1, 2, 32_766, 32_767, 5] {
            assert_eq!(UplinkMark::behind(highest), mark);
            highest = highest.max(mark.number(MessageId(id), false).sequence);
        }
        let before = mark;
        assert_eq!(mark.number(MessageId(65_000), true).sequence >> 16, u64::from(before.run) - 1);
        assert_eq!(UplinkMark::behind(highest), mark, "a repeat of the run before changes nothing");
    }

    #[test]
    fn a_client_that_has_lost_its_count_begins_a_new_run() {
        let mut mark = UplinkMark::FIRST;
        let stored = mark;
        let first = numbers(&mut mark, 1..=3, false);
        for mut mark in [mark, stored.after_crash()] {
            let anew = mark.number(MessageId(1), false);
            assert!(anew.store_first && !first.contains(&anew.sequence));
        }
    }

    /// A client that keeps its count, beginning anywhere, whose ids go round again and again.
    struct Client {
        next: MessageId,
        sent: u64,
        /// Message and id, oldest first.
        unanswered: BTreeMap<u64, MessageId>,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        /// Messages are sent and answered in any order; the process dies, having stored what it had to and whatever it
        /// happened to store besides; the client repeats what is unanswered and goes on.
        #[test]
        fn each_message_keeps_one_number_through_crashes_and_rounds(
            first in prop_oneof![1..20u16, 60_000..65_535u16, 1..65_535u16],
            steps in prop::collection::vec((0..8u8, any::<u16>()), 1..60),
            stride in prop_oneof![Just(1u32), 3_000..6_000u32],
        ) {
            let mut client = Client { next: MessageId(first), sent: 0, unanswered: BTreeMap::new() };
            let (mut mark, mut stored) = (UplinkMark::FIRST, UplinkMark::FIRST);
            let (mut of_message, mut of_number) = (HashMap::new(), HashMap::new());
            let mut take = |message: u64, numbered: Numbered, mark: UplinkMark, stored: &mut UplinkMark| {
                if numbered.store_first {
                    *stored = mark;
                }
                assert_eq!(*of_message.entry(message).or_insert(numbered.sequence), numbered.sequence);
                assert_eq!(*of_number.entry(numbered.sequence).or_insert(message), message);
            };
            for (step, pick) in steps {
                match step {
                    0..=3 => {
                        // Most are answered at once, so that a test goes round in few steps.
                        for n in 1..=stride {
                            let (message, id) = (client.sent, client.next);
                            (client.sent, client.next) = (message + 1, id.next());
                            let numbered = mark.number(id, false);
                            take(message, numbered, mark, &mut stored);
                            if n == stride {
                                client.unanswered.insert(message, id);
                            }
                        }
                        let oldest = client.sent.saturating_sub(15_000);
                        client.unanswered.retain(|&message, _| message >= oldest);
                    }
                    4 | 5 => {
                        let at = usize::from(pick) % client.unanswered.len().max(1);
                        if let Some(&message) = client.unanswered.keys().nth(at) {
                            client.unanswered.remove(&message);
                        }
                    }
                    6 => stored = mark,
                    _ => {
                        mark = stored.after_crash();
                        for (&message, &id) in &client.unanswered {
                            let numbered = mark.number(id, true);
                            take(message, numbered, mark, &mut stored);
                        }
                    }
                }
            }
        }
    }
}
