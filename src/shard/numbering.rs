//! Numbers of a durable session's messages to the backend, made of the ids that its client gives them, so that a repeat
//! gets the same number after any crash.
//!
//! A *run* is a row of rising ids; a message's number is its run and its place in it. A SEND without DUP that goes back
//! behind the last id begins a new run (the client has lost its count), and so does the first one when we have lost
//! ours: the mark must be stored before the message goes on, or a crash would give its number away again. Ids that are
//! left out are none of our business: after a crash the client repeats what was not answered and goes on behind what
//! was. A SEND with DUP whose id is not known belongs to the run at hand, or to the end of the one before when that has
//! just gone round.

use super::steps::{IDS, UplinkMark};
use crate::wire::packet::MessageId;

/// Run in the high bits, place in the run in the low 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    pub sequence: u64,
    /// The mark has changed in a way that must be stored first.
    pub store_first: bool,
}

impl UplinkMark {
    /// Before any message: ids are expected from 1, so that a client that begins so costs no write.
    pub const FIRST: UplinkMark = UplinkMark { run: 1, start: 1, last: 0, past_half: false };

    /// The number of a message whose id is not known.
    pub fn number(&mut self, id: MessageId, dup: bool) -> Numbered {
        let place = self.place(id);
        if dup {
            let before = place >= BEFORE && !self.past_half && self.run > 1;
            let ahead = MessageId::new(self.last).is_none_or(|last| self.place(last) < place);
            if ahead && !before {
                self.last = id.0;
            }
            return Numbered { sequence: sequence(self.run - u32::from(before), place), store_first: false };
        }
        let rises = match self.last {
            0 => true,
            UNKNOWN => false,
            last => place > self.place(MessageId(last)),
        };
        self.last = id.0;
        if rises {
            let passes = place >= HALF && !self.past_half;
            self.past_half |= passes;
            return Numbered { sequence: sequence(self.run, place), store_first: passes };
        }
        (self.run, self.start, self.past_half) = (self.run + 1, id.0, false);
        Numbered { sequence: sequence(self.run, 0), store_first: true }
    }

    /// What is true after a crash.
    pub fn after_crash(self) -> UplinkMark {
        UplinkMark { last: UNKNOWN, ..self }
    }

    fn place(&self, id: MessageId) -> u16 {
        ((u64::from(id.0) + IDS - u64::from(self.start)) % IDS) as u16
    }
}

fn sequence(run: u32, place: u16) -> u64 {
    u64::from(run) << 16 | u64::from(place)
}

const HALF: u16 = (IDS / 2) as u16;
/// Places that a young run cannot have reached: ids there are of the run before.
const BEFORE: u16 = (IDS / 4 * 3) as u16;
/// No message's id.
const UNKNOWN: u16 = u16::MAX;

#[cfg(test)]
mod tests {
    use super::*;

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
    fn ids_answered_before_a_crash_may_be_left_out_after_it() {
        let mut mark = UplinkMark::FIRST;
        let stored = mark;
        let before = numbers(&mut mark, 1..=11, false);
        let mut mark = stored.after_crash();
        assert_eq!(numbers(&mut mark, [6, 8], true), [before[5], before[7]]);
        assert_eq!(mark.number(MessageId(11), false), Numbered { sequence: before[10], store_first: false });
        // Again, and 8 is still not answered.
        let mut mark = stored.after_crash();
        assert_eq!(numbers(&mut mark, [8, 11], true), [before[7], before[10]]);
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

    #[test]
    fn a_run_that_has_gone_round_is_followed_by_another() {
        let mut mark = UplinkMark::FIRST;
        let mut seen = std::collections::HashSet::new();
        let (mut id, mut stored) = (MessageId::MIN, 0);
        for n in 0..150_000 {
            let numbered = mark.number(id, false);
            assert!(seen.insert(numbered.sequence), "message {n} gets a number of its own");
            stored += u32::from(numbered.store_first);
            id = id.next();
        }
        assert_eq!(stored, 4, "two rounds, and the half of two and of a third would be five");
    }

    #[test]
    fn a_repeat_from_before_the_round_keeps_its_number() {
        let mut mark = UplinkMark::FIRST;
        let all = numbers(&mut mark, 1..=MessageId::MAX.0, false);
        assert!(mark.number(MessageId(1), false).store_first);
        let mut mark = mark.after_crash();
        assert_eq!(numbers(&mut mark, [MessageId::MAX.0 - 1], true), all[all.len() - 2..all.len() - 1]);
        assert_eq!(mark.number(MessageId(1), true).sequence, 2 << 16);
    }
}
