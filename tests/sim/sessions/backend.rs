//! The business server of durable sessions: it does its work once per `Idempotency-Key`, is slow, fails before and
//! after the work, changes channels and the cookie with its answers.

use super::connection::ConnectionId;
use super::world::{CHANNELS, Event, World, channel_name};
use crate::backend::status_of;
use crate::peer::token_of;
use crate::world::PLENTY;
use rainbow::shard::command::SessionId;
use rainbow::shard::{Forward, ForwardOutcome, Input};
use rainbow::wire::packet::{MessageRefusal, QoS};
use std::collections::{HashMap, HashSet};

#[derive(Default)]
pub struct Backend {
    pub down: bool,
    /// Percent of messages that fail.
    pub fails: u64,
    slow_ms: u64,
    jobs: HashMap<u64, Job>,
    next_job: u64,
    /// `Idempotency-Key` → the message that it stands for, once it came.
    keys: HashMap<(SessionId, u64), u64>,
    /// The key under which a message was worked on, and its answer.
    done: HashMap<u64, ((SessionId, u64), String)>,
    /// Sessions that have a message here, in the process that lives.
    busy: HashSet<SessionId>,
}

struct Job {
    connection: ConnectionId,
    epoch: u32,
    forward: Forward,
}

/// What an answer changes, true once its message is answered.
pub enum Change {
    Channel { session: SessionId, channel: usize, joins: bool },
    Cookie { session: SessionId, value: Vec<u8> },
}

impl Backend {
    pub fn new(fails: u64, slow_ms: u64) -> Backend {
        Backend { fails, slow_ms, ..Backend::default() }
    }

    pub fn answer_to(&self, token: u64) -> Option<&str> {
        self.done.get(&token).map(|(_, answer)| answer.as_str())
    }

    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The server that sent it has died; the work goes on.
    pub fn crash(&mut self) {
        self.busy.clear();
    }

    /// Nothing is known of what belonged to a session that has ended.
    pub fn forget(&mut self, session: SessionId) {
        self.busy.remove(&session);
    }
}

impl World {
    pub fn on_forward(&mut self, forward: Forward) {
        let connection = self.connection_of(forward.key, &forward.identity);
        let token = token_of(&forward.body);
        let client = self.connections[connection].client;
        self.trace(format_args!(
            "backend gets {token} of connection {connection}, {:?}, {:#x}",
            forward.session, forward.sequence
        ));
        assert!(!self.connections[connection].closed, "nothing follows the end");
        let Some(session) = forward.session else {
            // What is left of one that was dropped.
            let was = self.connections[connection].session.expect("it was attached");
            assert!(self.ended.contains(&was), "a durable session's message names its session");
            return self.begin_job(connection, forward);
        };
        assert!(self.backend.busy.insert(session), "one message at a time, or their order is lost");
        let known = &self.clients[client];
        // An answer of QoS 1 that was forgotten may be asked for again by a repeat that crossed it, under the same key.
        let forgotten = self.settings.answers_bytes_max < PLENTY && forward.qos == QoS::AtLeastOnce;
        assert!(forgotten || !known.answered.contains_key(&token), "{token} was answered and is forwarded again");
        let meant = *self.backend.keys.entry((session, forward.sequence)).or_insert(token);
        assert_eq!(meant, token, "{:#x} of {session:?} stands for one message", forward.sequence);
        self.check_cookie(session, forward.cookie());
        self.begin_job(connection, forward);
    }

    fn begin_job(&mut self, connection: ConnectionId, forward: Forward) {
        let job = self.backend.next_job;
        self.backend.next_job += 1;
        self.backend.jobs.insert(job, Job { connection, epoch: self.epoch, forward });
        let delay = 1 + self.rng.below(self.backend.slow_ms);
        self.at(self.now + delay, Event::BackendDone(job));
    }

    pub fn on_backend_done(&mut self, job: u64) {
        let Job { epoch, forward, .. } = &self.backend.jobs[&job];
        let lives = *epoch == self.epoch && self.server.is_some();
        if self.backend.down && lives && forward.deadline.0 > self.now {
            let retry = (self.now + 200 + self.rng.below(500)).min(forward.deadline.0);
            return self.at(retry, Event::BackendDone(job));
        }
        let Job { connection, forward, .. } = self.backend.jobs.remove(&job).expect("just looked at");
        let token = token_of(&forward.body);
        let fails = self.backend.down || self.rng.chance(self.backend.fails);
        if let Some(session) = forward.session
            && (!fails || !self.backend.down && self.rng.chance(50))
        {
            self.work(token, (session, forward.sequence));
        }
        if !lives {
            return;
        }
        if let Some(session) = forward.session {
            self.backend.busy.remove(&session);
        }
        let key = forward.key;
        self.trace(format_args!("backend {} {token}", if fails { "fails" } else { "answers" }));
        self.seen.forwards_failed += u64::from(fails);
        if fails {
            self.input(Input::Forwarded { key, outcome: ForwardOutcome::Failed, spent: forward.body });
        } else {
            let answer = self.backend.answer_to(token).unwrap_or_default().to_owned();
            // What came with an earlier answer that never got through is not promised by this one; and where the store
            // may have that one although it did not say so, what comes with this one is not promised either.
            let answered_before = self.changes.insert(token, Vec::new()).is_some();
            if let Some(session) = forward.session.filter(|session| self.known.values().any(|known| known == session)) {
                self.act_on_headers(connection, session, token);
            }
            if answered_before && self.store.inexact {
                self.changes.insert(token, Vec::new());
            }
            let body = answer.as_bytes();
            let outcome = match status_of(token) {
                Some(status) => ForwardOutcome::Refused(MessageRefusal { status, body }),
                None => ForwardOutcome::Answered(body),
            };
            self.input(Input::Forwarded { key, outcome, spent: forward.body });
        }
        self.turn();
    }

    fn work(&mut self, token: u64, key: (SessionId, u64)) {
        match self.backend.done.get(&token) {
            Some((before, _)) => {
                assert_eq!(*before, key, "{token} is worked on twice");
                self.seen.deduplicated += 1;
            }
            None => {
                let answer = if token.is_multiple_of(4) { String::new() } else { format!("a{token}") };
                self.backend.done.insert(token, (key, answer));
            }
        }
    }

    fn act_on_headers(&mut self, connection: ConnectionId, session: SessionId, token: u64) {
        let key = self.connections[connection].key;
        if self.rng.chance(30) {
            let (channel, joins) = (self.rng.below(CHANNELS as u64) as usize, self.rng.chance(65));
            let name = channel_name(channel);
            self.trace(format_args!("{token}: {session:?} is {} {name}", if joins { "put into" } else { "out of" }));
            self.channel_op((session, channel), token);
            self.changes.entry(token).or_default().push(Change::Channel { session, channel, joins });
            match joins {
                true => self.input(Input::Subscribe { key, channel: name }),
                false => self.input(Input::Unsubscribe { key, channel: name }),
            }
        }
        if self.rng.chance(20) {
            let cookie = format!("cookie {} of {token}", self.rng.below(1 << 30)).into_bytes();
            self.input(Input::Cookie { key, value: &cookie });
            self.cookies.entry(session).or_default().values.push(Some(cookie.clone()));
            self.changes.entry(token).or_default().push(Change::Cookie { session, value: cookie });
        }
    }

    fn check_cookie(&mut self, session: SessionId, cookie: Option<&[u8]>) {
        let cookies = self.cookies.entry(session).or_default();
        let cookie = cookie.map(<[u8]>::to_vec);
        let from = if cookies.is_exact { cookies.values.len() - 1 } else { cookies.sure };
        let found = cookies.values[from..].iter().rposition(|value| *value == cookie);
        let Some(found) = found else {
            let text = |cookie: &Option<Vec<u8>>| String::from_utf8(cookie.clone().unwrap_or_default());
            let texts: Vec<_> = cookies.values[from..].iter().map(text).collect();
            panic!("{session:?} has cookie {:?}, not one of {texts:?}", text(&cookie))
        };
        cookies.values.truncate(from + found + 1);
        cookies.sure = cookies.sure.min(cookies.values.len() - 1);
        cookies.is_exact = true;
    }

    /// The client has the answer: what came with it holds, whatever happens to the server.
    pub fn commit_answer(&mut self, token: u64) {
        for change in self.changes.remove(&token).unwrap_or_default() {
            match change {
                Change::Channel { session, channel, joins, .. } => {
                    if self.channel_ops.get(&(session, channel)).is_some_and(|(last, _)| *last == token) {
                        self.channel_ops.insert((session, channel), (token, Some(joins)));
                        self.seen.channels_sure += 1;
                    }
                }
                Change::Cookie { session, value } => {
                    let Some(cookies) = self.cookies.get_mut(&session) else { continue };
                    let place = cookies.values.iter().rposition(|other| other.as_deref() == Some(&value[..]));
                    cookies.sure = cookies.sure.max(place.unwrap_or_default());
                }
            }
        }
    }

    /// Something is changing this channel of the session; which way it will be is not sure before it is answered.
    pub fn channel_op(&mut self, which: (SessionId, usize), by: u64) {
        self.channel_ops.insert(which, (by, None));
    }
}

/// Cookies of a session in the order in which they were set.
pub struct Cookies {
    pub values: Vec<Option<Vec<u8>>>,
    /// Those before this one are over, whatever happens.
    pub sure: usize,
    /// The last one is the one, unless the server has died.
    pub is_exact: bool,
}

impl Default for Cookies {
    fn default() -> Cookies {
        Cookies { values: vec![None], sure: 0, is_exact: true }
    }
}
