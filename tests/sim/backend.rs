//! The business server: takes a while, fails with and without having done the work, goes down and comes back. It knows
//! a message by its number (the `Idempotency-Key`) and does its work once per number.

use crate::connection::{ConnectionId, Stage};
use crate::peer::token_of;
use crate::world::{CHANNELS, Event, PLENTY, World};
use rainbow::shard::{Forward, ForwardOutcome, Input};
use rainbow::wire::packet::{MessageRefusal, QoS};
use std::collections::{HashMap, HashSet};

#[derive(Default)]
pub struct Backend {
    pub down: bool,
    /// Percent of messages that fail.
    pub fails: u64,
    slow_ms: u64,
    jobs: HashMap<u64, (ConnectionId, Forward)>,
    next_job: u64,
    /// (connection, sequence) → the token that it stands for.
    numbers: HashMap<(ConnectionId, u64), u64>,
    /// The other way round.
    numbered: HashMap<u64, u64>,
    /// Tokens by their last outcome; true: answered.
    outcomes: HashMap<u64, bool>,
    answers: HashMap<u64, String>,
    done: HashSet<u64>,
    /// Per connection, the place of the last message that came for the first time.
    last_place: HashMap<ConnectionId, usize>,
}

impl Backend {
    pub fn new(fails: u64, slow_ms: u64) -> Backend {
        Backend { fails, slow_ms, ..Backend::default() }
    }

    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whose message it is about.
    pub fn connection_of(&self, job: u64) -> Option<ConnectionId> {
        self.jobs.get(&job).map(|(id, _)| *id)
    }

    pub fn answer_to(&self, token: u64) -> Option<&str> {
        self.answers.get(&token).map(String::as_str)
    }

    pub fn has_heard(&self, token: u64) -> bool {
        self.outcomes.contains_key(&token)
    }

    pub fn has_done(&self, token: u64) -> bool {
        self.done.contains(&token)
    }
}

impl World {
    pub fn on_forward(&mut self, forward: Forward) {
        let id = self.connection_of(forward.key, &forward.identity);
        let token = token_of(&forward.body);
        self.trace(format_args!("backend gets {token} of connection {id}, sequence {}", forward.sequence));
        let settings = &self.nodes[self.connections[id].node].settings;
        let (deadline, answers_max) = (self.now + settings.forward_deadline_ms, settings.answers_bytes_max);
        assert!(forward.deadline.0 <= deadline, "the deadline counts from when the message came");
        let connection = &mut self.connections[id];
        assert!(connection.stage != Stage::Abandoned && !connection.closed, "nothing follows the end");
        assert!(!std::mem::replace(&mut connection.forwarding, true), "one message at a time, or their order is lost");
        assert_eq!(forward.cookie(), connection.cookie.as_deref(), "the cookie as the backend set it last");
        let place = connection.peer.place(token).expect("the client said so");
        let sequence = forward.sequence;
        assert_eq!((forward.message_type, forward.qos), (token as u16 % 1000, connection.peer.spoken[place].1));
        match self.backend.outcomes.get(&token) {
            Some(answered) => {
                // An answer of QoS 1 that was forgotten is asked for again, under the same number.
                let forgotten = answers_max < PLENTY && forward.qos == QoS::AtLeastOnce;
                assert!(!answered || forgotten, "{token} was answered and is forwarded again");
                assert_ne!(forward.qos, QoS::AtMostOnce, "QoS 0 is forwarded at most once");
                self.seen.forwards_repeated += 1;
            }
            None => {
                let last = self.backend.last_place.insert(id, place);
                assert!(last.is_none_or(|last| last < place), "{token} overtook another message of its connection");
            }
        }
        if sequence > 0 {
            let meant = *self.backend.numbers.entry((id, sequence)).or_insert(token);
            assert_eq!(meant, token, "a number stands for one message");
            let number = *self.backend.numbered.entry(token).or_insert(sequence);
            assert_eq!(number, sequence, "all repeats have one number");
        }
        assert_eq!(sequence == 0, forward.qos == QoS::AtMostOnce);
        let unreleased = self.connections[id].peer.outstanding.values().filter(|out| out.is_unreleased());
        let answers: usize = unreleased.filter_map(|out| self.backend.answer_to(out.token)).map(str::len).sum();
        assert!(
            answers <= answers_max || !self.is_open(id),
            "{answers} bytes of answers without REL, and more are asked for"
        );
        let job = self.backend.next_job;
        self.backend.next_job += 1;
        let delay = 1 + self.rng.below(self.backend.slow_ms);
        self.backend.jobs.insert(job, (id, forward));
        self.at(self.now + delay, Event::BackendDone(job));
    }

    /// One message is through, one way or the other.
    pub fn on_backend_done(&mut self, job: u64) {
        let (_, forward) = &self.backend.jobs[&job];
        if self.backend.down && forward.deadline.0 > self.now && forward.qos != QoS::AtMostOnce {
            // Retried until it is back or the deadline has passed.
            let retry = (self.now + 200 + self.rng.below(500)).min(forward.deadline.0);
            return self.at(retry, Event::BackendDone(job));
        }
        let (id, forward) = self.backend.jobs.remove(&job).expect("just looked at");
        let token = token_of(&forward.body);
        let fails = self.backend.down || self.rng.chance(self.backend.fails);
        if !fails || self.rng.chance(30) {
            // Some failures come after the work is done. A number that has been seen is not worked on again.
            self.backend.done.insert(token);
        }
        let mut answer = if token.is_multiple_of(4) { String::new() } else { format!("a{token}") };
        if !token.is_multiple_of(3) {
            answer.extend(std::iter::repeat_n('.', LONG));
        }
        self.backend.outcomes.insert(token, !fails);
        self.connections[id].forwarding = false;
        let (node, key) = (self.connections[id].node, forward.key);
        if fails {
            self.trace(format_args!("backend fails {token}"));
            self.seen.failed += 1;
            self.nodes[node]
                .input(Input::Forwarded { key, outcome: ForwardOutcome::Failed, spent: forward.body }, self.now);
        } else {
            self.trace(format_args!("backend answers {token}"));
            self.backend.answers.insert(token, answer.clone());
            self.act_on_headers(id);
            let body = answer.as_bytes();
            let outcome = match status_of(token) {
                Some(status) => ForwardOutcome::Refused(MessageRefusal { status, body }),
                None => ForwardOutcome::Answered(body),
            };
            self.nodes[node].input(Input::Forwarded { key, outcome, spent: forward.body }, self.now);
        }
        self.turn(node);
    }

    /// The answer's headers: unsubscribe first, then subscribe, then the cookie.
    fn act_on_headers(&mut self, id: ConnectionId) {
        if self.rng.chance(15) {
            let channel = self.rng.below(CHANNELS as u64) as usize;
            self.unsubscribe(id, channel);
        }
        if self.rng.chance(30) {
            let channel = self.rng.below(CHANNELS as u64) as usize;
            self.subscribe(id, channel);
        }
        if self.rng.chance(20) {
            let cookie = format!("cookie {}", self.rng.below(1000));
            self.set_cookie(id, cookie.into_bytes());
        }
    }
}

/// The status with which it refuses a message, always.
pub fn status_of(token: u64) -> Option<u16> {
    token.is_multiple_of(5).then_some(400 + (token % 100) as u16)
}

/// Of some answers: a few of them are too much for a small memory.
const LONG: usize = 140;
