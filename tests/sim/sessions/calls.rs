//! /send/ to channels and sessions: who is meant, what the caller was answered, and whether it came true in the end.

use super::world::{CHANNELS, Event, World, channel_name};
use crate::peer::body_of;
use rainbow::base::time::Tick;
use rainbow::shard::command::{Claim, SessionId, UnixMs};
use rainbow::shard::{Input, Message, Query, QueryId, Reply, Tally, Terms};
use rainbow::wire::packet::QoS;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Calls {
    /// By token.
    calls: BTreeMap<u64, Call>,
    /// Tickets of the process that lives, and the tokens they stand for.
    tickets: BTreeMap<u64, u64>,
    next_place: u64,
    /// A channel's members are those of the moment at which its turn comes, not of the call.
    fans_out_late: bool,
}

pub type Target = (usize, SessionId);

/// Whom a call is for, as far as that is known before its turn has come.
pub struct Meant {
    /// Members all the time.
    always: BTreeSet<Target>,
    /// Members at some time.
    ever: BTreeSet<Target>,
}

struct Call {
    to: To,
    qos: QoS,
    timeout: u64,
    ttl_ms: Option<u64>,
    claim: Option<Claim>,
    /// Of the last try.
    deadline: u64,
    /// By the wall clock.
    expires: u64,
    /// That time, or its claim's, has been; the wall clock may have been set back since.
    over: bool,
    tries: u32,
    place: u64,
    /// Of all tries.
    targets: BTreeSet<Target>,
    delivered: BTreeSet<Target>,
    outcome: Outcome,
}

/// Where the order of messages counts: everywhere, or per channel and session.
pub type Way = Option<To>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum To {
    Channel(usize),
    Session(usize),
}

enum Outcome {
    Open,
    /// The server died; the caller knows nothing.
    Unknown,
    Refused,
    Sent {
        tally: Tally,
        meant: BTreeSet<Target>,
    },
}

impl Call {
    fn is_over(&self, unix_ms: u64) -> bool {
        self.over || self.expires <= unix_ms
    }
}

impl Calls {
    pub fn new(fans_out_late: bool) -> Calls {
        Calls { fans_out_late, ..Calls::default() }
    }

    /// A message's place among all that came the same way, where it is sure; and it is meant for this session.
    pub fn place(&self, token: u64, client: usize, session: SessionId) -> Option<(Way, u64)> {
        let call = self.calls.get(&token).expect("a client hears what was sent");
        assert!(call.targets.contains(&(client, session)), "{token} is not for {session:?} of client {client}");
        // What the store refused, although it stored it, may come late.
        let refused = matches!(&call.outcome, Outcome::Sent { tally, .. } if tally.refused > 0);
        // Small channels are served at once. In a large one a message waits for its turn, and others overtake it.
        let way = self.fans_out_late.then_some(call.to);
        // One that had expired may come late when the wall clock is set back.
        (call.tries == 1 && !refused && !call.over).then_some((way, call.place))
    }

    pub fn delivered(&mut self, token: u64, client: usize, session: SessionId) {
        let call = self.calls.get_mut(&token).expect("just looked at");
        call.delivered.insert((client, session));
    }

    /// It is not given up by the server.
    pub fn is_promised_or_open(&self, token: u64, now: u64, unix_ms: u64) -> bool {
        let call = &self.calls[&token];
        match &call.outcome {
            _ if call.is_over(unix_ms) => false,
            Outcome::Open => now < call.deadline,
            Outcome::Sent { tally, .. } => tally.is_success() && now < call.deadline,
            Outcome::Unknown | Outcome::Refused => false,
        }
    }

    /// Everyone whom it was meant for has it, or will.
    pub fn is_promised(&self, token: u64, unix_ms: u64) -> bool {
        let call = &self.calls[&token];
        match &call.outcome {
            Outcome::Sent { tally, meant } => {
                tally.connections + tally.stored >= meant.len() as u32 && !call.is_over(unix_ms)
            }
            _ => false,
        }
    }

    /// The wall clock is about to be set, or was.
    pub fn note_over(&mut self, unix_ms: u64) {
        for call in self.calls.values_mut() {
            let claim_over = call.claim.as_ref().is_some_and(|claim| claim.until.0 <= unix_ms);
            // The time of one that waits for its turn has not begun.
            let is_queued = self.fans_out_late && matches!(call.outcome, Outcome::Open) && call.ttl_ms.is_some();
            call.over |= claim_over || is_queued || call.is_over(unix_ms);
        }
    }

    /// For how long a message must not have been sent any more, by the wall clock.
    pub fn over_for(&self, token: u64, unix_ms: u64) -> u64 {
        let call = &self.calls[&token];
        // In a large channel the time runs from the message's turn on.
        let from_now_on = call.tries == 1 && !(self.fans_out_late && matches!(call.to, To::Channel(_)));
        if from_now_on { unix_ms.saturating_sub(call.expires) } else { 0 }
    }

    pub fn all_replied(&self) -> bool {
        self.tickets.is_empty()
    }

    /// The process has died.
    pub fn crash(&mut self) -> Vec<u64> {
        let open: Vec<u64> = std::mem::take(&mut self.tickets).into_values().collect();
        for token in &open {
            self.calls.get_mut(token).expect("it was sent").outcome = Outcome::Unknown;
        }
        // Callers that gave an id repeat their call.
        open.into_iter().filter(|token| self.calls[token].claim.is_some()).collect()
    }
}

impl World {
    pub fn call(&mut self) {
        // Sends to channels wait while the store is behind; those to one session show that its bound holds.
        let to = match self.rng.chance(if self.calls.fans_out_late { 40 } else { 70 }) {
            true => To::Channel(self.rng.below(CHANNELS as u64) as usize),
            false => To::Session(self.rng.below(self.clients.len() as u64) as usize),
        };
        let qos = if self.rng.chance(40) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let token = self.next_token();
        let until = UnixMs(self.unix_ms() + CLAIMS_MS);
        let claim = self.rng.chance(35).then(|| Claim { message_id: format!("call {token}").into(), until });
        let call = Call {
            to,
            qos,
            timeout: if self.rng.chance(60) { 10_000 } else { 300 + self.rng.below(3_000) },
            ttl_ms: self.rng.chance(15).then(|| 1_000 + self.rng.below(9_000)),
            claim,
            deadline: 0,
            expires: 0,
            over: false,
            tries: 0,
            place: 0,
            targets: BTreeSet::new(),
            delivered: BTreeSet::new(),
            outcome: Outcome::Unknown,
        };
        self.calls.calls.insert(token, call);
        self.seen.calls += 1;
        self.try_call(token);
    }

    /// Calls the server, for the first time or again.
    pub fn try_call(&mut self, token: u64) {
        if !self.is_serving() {
            if self.calls.calls[&token].claim.is_some() {
                let retry = 300 + self.rng.below(1_000);
                self.at(self.now + retry, Event::RetryCall(token));
            }
            return;
        }
        let meant = self.targets_of(self.calls.calls[&token].to);
        self.calls.next_place += 1;
        let (place, now, unix_ms) = (self.calls.next_place, self.now, self.unix_ms());
        let call = self.calls.calls.get_mut(&token).expect("it is known");
        if let Some(claim) = &call.claim
            && (call.over || unix_ms >= claim.until.0)
        {
            return;
        }
        (call.deadline, call.place) = (now + call.timeout, place);
        call.tries += 1;
        // What a later try finds known expires as it did before.
        let expires = unix_ms + call.ttl_ms.unwrap_or(u64::MAX / 2);
        call.expires = if call.tries == 1 { expires } else { call.expires.min(expires) };
        call.targets.extend(meant.iter().copied());
        // The first try counts too: what it has stored is Known to this one.
        call.outcome = Outcome::Open;
        let terms = Terms { deadline: Tick(call.deadline), ttl_ms: call.ttl_ms, claim: call.claim.clone() };
        let (to, qos, tries) = (call.to, call.qos, call.tries);
        self.trace(format_args!("call {token} to {to:?}, {qos:?}, {terms:?}, try {tries}, meant for {meant:?}"));
        self.seen.calls_retried += u64::from(tries > 1);
        let message = Message::encode(qos, token as u16 % 1000, &body_of(token, "d"), &mut Vec::new());
        let query_id = self.next_token();
        self.calls.tickets.insert(query_id, token);
        self.meant.insert(query_id, Meant { always: meant.clone(), ever: meant });
        let query_id = QueryId(query_id);
        match to {
            To::Channel(channel) if self.rng.chance(50) => {
                self.input(Input::Send { query_id, channel: channel_name(channel), message, terms: &terms });
            }
            To::Channel(channel) => {
                let query = Query::Send { channel: channel_name(channel).into(), message, terms };
                self.input(Input::Query { query_id, query });
            }
            To::Session(client) => {
                let query = Query::SendTo { session: self.clients[client].name.clone(), message, terms };
                self.input(Input::Query { query_id, query });
            }
        }
        self.turn();
    }

    /// Before a slice of fan-out: calls whose turn begins now are for those who are members now.
    pub fn note_members(&mut self) {
        if !self.calls.fans_out_late {
            return;
        }
        let waiting: Vec<(u64, u64)> = self.calls.tickets.iter().map(|(query_id, token)| (*query_id, *token)).collect();
        for (query_id, token) in waiting {
            let to = self.calls.calls[&token].to;
            if let To::Channel(_) = to {
                let members = self.targets_of(to);
                let meant = self.meant.get_mut(&query_id).expect("as many as tickets");
                meant.always.retain(|target| members.contains(target));
                meant.ever.extend(members.iter().copied());
                self.calls.calls.get_mut(&token).expect("it was sent").targets.extend(members);
            }
        }
    }

    fn targets_of(&mut self, to: To) -> BTreeSet<Target> {
        match to {
            To::Session(client) => self.known.get(&client).map(|&session| (client, session)).into_iter().collect(),
            To::Channel(channel) => {
                let all: Vec<Target> = self.known.iter().map(|(&client, &session)| (client, session)).collect();
                all.into_iter().filter(|&(client, _)| self.is_member(client, channel)).collect()
            }
        }
    }

    fn is_member(&mut self, client: usize, channel: usize) -> bool {
        let info = self.session_info(client).expect("a session that is known to the model is known to the shard");
        info.channels.iter().any(|name| name == channel_name(channel))
    }

    pub fn on_call_reply(&mut self, query_id: u64, reply: Reply) {
        let Some(token) = self.calls.tickets.remove(&query_id) else { panic!("a reply to a call, once: {reply:?}") };
        let Meant { always, ever: meant } = self.meant.remove(&query_id).expect("as many as tickets");
        self.trace(format_args!("call {token} gets {reply:?}"));
        let unix_ms = self.unix_ms();
        let call = self.calls.calls.get_mut(&token).expect("it was sent");
        let tally = match reply {
            Reply::Sent { tally, .. } => tally,
            Reply::Refused(_) => {
                self.seen.calls_refused += 1;
                return call.outcome = Outcome::Refused;
            }
            other => panic!("{other:?} is no reply to a call"),
        };
        let sum = tally.connections + tally.stored + tally.refused + tally.undecided;
        let ended = meant.iter().any(|(_, session)| self.ended.contains(session));
        assert!(sum <= tally.targets && sum <= meant.len() as u32, "{token}: {tally:?} of {meant:?}");
        // Whatever the time, the caller hears of each session what became of it, or that nobody knows.
        assert!(sum >= always.len() as u32 || ended, "{token}: {tally:?} is not all of {always:?}");
        let is_over = self.now >= call.deadline || call.is_over(unix_ms);
        assert!(tally.undecided == 0 || is_over, "{token}: {tally:?} before its time was over");
        let delivered = meant.iter().filter(|target| call.delivered.contains(target)).count() as u32;
        assert!(tally.connections <= delivered, "{token}: {tally:?} have answered, {delivered} have it");
        let stored = meant.iter().filter(|(_, session)| self.store.promised.contains(&(*session, token))).count();
        assert!(tally.stored <= stored as u32, "{token}: {} reported as stored, {stored} are", tally.stored);
        self.seen.stored += u64::from(tally.stored);
        self.seen.answered_calls += u64::from(tally.connections);
        self.seen.refused += u64::from(tally.refused);
        self.seen.undecided += u64::from(tally.undecided);
        call.outcome = Outcome::Sent { tally, meant };
        // Some callers repeat a call that was answered: it changes nothing.
        if call.claim.is_some() && self.rng.chance(20) {
            let retry = 100 + self.rng.below(5_000);
            self.at(self.now + retry, Event::RetryCall(token));
        }
    }

    /// What was called stored or answered has been delivered.
    pub fn check_promises(&self) {
        let unix_ms = self.unix_ms();
        for (token, call) in &self.calls.calls {
            let Outcome::Sent { tally, meant } = &call.outcome else { continue };
            if call.is_over(unix_ms) {
                continue;
            }
            let done = |target: &&Target| call.delivered.contains(target) || self.ended.contains(&target.1);
            let done = meant.iter().filter(done).count() as u32;
            assert!(
                done >= tally.connections + tally.stored,
                "{token} was answered {tally:?}, and {done} of {meant:?} have it: {:?}",
                call.delivered
            );
        }
    }
}

/// How long claims last: longer than all steps of the wall clock together.
const CLAIMS_MS: u64 = 48 * 3_600_000;
