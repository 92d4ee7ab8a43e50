//! The store against a plain model: the same requests, the same answers, the same found at the next start.

use super::mutations::commit_twice;
use super::*;
use crate::shard::command::Received;
use crate::wire::packet::MessageId;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Default)]
struct Model {
    sessions: BTreeMap<SessionId, Session>,
    /// They outlive their session, whose id is never used for another.
    guards: BTreeMap<(SessionId, Arc<str>), (UnixMs, Offset)>,
    claims: BTreeMap<Arc<str>, (UnixMs, Option<Vec<u8>>)>,
    /// Orders that `can_be_requested` has let pass.
    used: BTreeSet<(SessionId, Offset)>,
    dropped: BTreeSet<SessionId>,
}

struct Session {
    row: SessionRow,
    channels: BTreeSet<Arc<str>>,
    messages: BTreeMap<Offset, StoredMessage>,
    received: BTreeMap<MessageId, Received>,
}

fn lives(message: &StoredMessage, now: UnixMs) -> bool {
    message.released || message.sent && message.message.qos == QoS::ExactlyOnce || message.expires > now
}

impl Model {
    fn answer(&mut self, request: &Request, now: UnixMs) -> Response {
        match request {
            Request::Shard { shard, command } => {
                let completion = match &command.operation {
                    Operation::Mutate(mutation) => self.mutation(mutation, now),
                    Operation::Load { session, after, most } => self.load(*session, *after, *most),
                };
                Response::Shard { shard: *shard, number: command.number, completion }
            }
            Request::Claim { id, claim } => Response::Claim { id: *id, outcome: self.claim(claim, now) },
            Request::Settle { message_id, answer } => {
                if let Some((_, settled)) = self.claims.get_mut(message_id).filter(|(until, _)| *until > now) {
                    *settled = Some(answer.clone());
                }
                Response::Settled
            }
            Request::Ownership { .. }
            | Request::Transfer { .. }
            | Request::PutConnection { .. }
            | Request::RemoveConnection { .. } => {
                unreachable!("none is made here")
            }
        }
    }

    fn claim(&mut self, claim: &Claim, now: UnixMs) -> ClaimOutcome {
        match self.claims.get(&claim.message_id).filter(|(until, _)| *until > now) {
            Some((_, Some(answer))) => ClaimOutcome::Settled(answer.clone()),
            Some((_, None)) => ClaimOutcome::Unsettled,
            None => {
                self.claims.insert(claim.message_id.clone(), (claim.until, None));
                ClaimOutcome::New
            }
        }
    }

    fn mutation(&mut self, mutation: &Mutation, now: UnixMs) -> Completion {
        const GONE: Completion = Completion::Refused(StoreError::Broken);
        match mutation {
            Mutation::PutSession(row) => {
                let taken = |other: &Session| other.row.name == row.name && other.row.session != row.session;
                if self.sessions.values().any(taken) {
                    return Completion::Refused(StoreError::NameTaken);
                }
                let known = self.sessions.entry(row.session).or_insert_with(|| Session {
                    row: (**row).clone(),
                    channels: BTreeSet::new(),
                    messages: BTreeMap::new(),
                    received: BTreeMap::new(),
                });
                known.row = (**row).clone();
            }
            Mutation::JoinChannel { session, channel } => {
                let Some(known) = self.sessions.get_mut(session) else { return GONE };
                known.channels.insert(channel.clone());
            }
            Mutation::LeaveChannel { session, channel } => {
                self.sessions.get_mut(session).map(|known| known.channels.remove(channel));
            }
            Mutation::PutMessage(message) => {
                let Some(known) = self.sessions.get_mut(&message.session) else { return GONE };
                if known.messages.contains_key(&message.offset) {
                    return Completion::Done;
                }
                if let Some(claim) = &message.claim {
                    let key = (message.session, claim.message_id.clone());
                    let guard = self.guards.get(&key).filter(|(until, _)| *until > now);
                    if let Some((_, offset)) = guard {
                        return if *offset == message.offset { Completion::Done } else { Completion::Duplicate };
                    }
                    self.guards.insert(key, (claim.until, message.offset));
                }
                known.messages.insert(message.offset, (**message).clone());
            }
            Mutation::ReleaseMessage { session, offset } => {
                let Some(known) = self.sessions.get_mut(session) else { return Completion::Done };
                let Some(message) = known.messages.get_mut(offset) else { return Completion::Absent };
                message.message = Message::encode(message.message.qos, 0, b"", &mut Vec::new());
                message.released = true;
            }
            Mutation::RemoveMessage { session, offset } => {
                let Some(known) = self.sessions.get_mut(session) else { return Completion::Done };
                if known.messages.remove(offset).is_none() {
                    return Completion::Absent;
                }
            }
            Mutation::PutReceived { session, received } => {
                let Some(known) = self.sessions.get_mut(session) else { return GONE };
                known.received.insert(received.id, received.clone());
            }
            Mutation::RemoveReceived { session, id } => {
                self.sessions.get_mut(session).map(|known| known.received.remove(id));
            }
            Mutation::DropSession { session } => {
                self.sessions.remove(session);
            }
        }
        Completion::Done
    }

    fn load(&self, session: SessionId, after: Option<Offset>, most: usize) -> Completion {
        let Some(known) = self.sessions.get(&session) else { return Completion::Refused(StoreError::Broken) };
        let behind = known.messages.values().filter(|message| after.is_none_or(|after| message.offset > after));
        let mut messages: Vec<StoredMessage> = behind.cloned().collect();
        let more = messages.len() > most;
        messages.truncate(most);
        let mut received: Vec<Received> = known.received.values().cloned().collect();
        received.sort_by_key(|received| (received.sequence, received.id));
        received.truncate(if after.is_none() { usize::MAX } else { 0 });
        Completion::Loaded(Page { messages, received, more })
    }

    /// What the shard may request, which never uses an offset twice: nothing of a session or message that is not there,
    /// as it would be requested again when a later mutation of the same batch has made it. A call is settled after its
    /// claim.
    fn can_be_requested(&mut self, request: &Request, now: UnixMs) -> bool {
        let mutation = match request {
            Request::Settle { message_id, .. } => {
                return self.claims.get(message_id).is_some_and(|(until, _)| *until > now);
            }
            // The id of a dropped session is not drawn again.
            Request::Shard {
                command: Command { operation: Operation::Mutate(Mutation::PutSession(row)), .. }, ..
            } => return !self.dropped.contains(&row.session),
            Request::Shard { command: Command { operation: Operation::Mutate(mutation), .. }, .. } => Some(mutation),
            _ => None,
        };
        let Some(session) = request.session() else { return true };
        let Some(known) = self.sessions.get(&session) else { return false };
        match mutation {
            Some(Mutation::ReleaseMessage { offset, .. } | Mutation::RemoveMessage { offset, .. }) => {
                known.messages.contains_key(offset)
            }
            Some(Mutation::PutMessage(message)) => self.used.insert((session, message.offset)),
            Some(Mutation::DropSession { session }) => {
                self.dropped.insert(*session);
                true
            }
            _ => true,
        }
    }

    fn purge(&mut self, now: UnixMs) -> Vec<ExpiredMessages> {
        let mut expired = Vec::new();
        for (session, known) in &mut self.sessions {
            let gone: Vec<StoredMessage> =
                known.messages.extract_if(.., |_, message| !lives(message, now)).map(|(_, message)| message).collect();
            if !gone.is_empty() {
                let bytes = gone.iter().map(|message| message.message.len() as u64).sum();
                expired.push(ExpiredMessages { session: *session, messages: gone.len() as u32, bytes });
            }
        }
        expired
    }

    fn found(&self) -> Vec<StoredSession> {
        let found = |known: &Session| {
            let waiting: Vec<&StoredMessage> = known.messages.values().filter(|message| !message.released).collect();
            StoredSession {
                row: known.row.clone(),
                channels: known.channels.iter().cloned().collect(),
                waiting: waiting.len() as u32,
                waiting_bytes: waiting.iter().map(|message| message.message.len() as u64).sum(),
                next: known.messages.keys().next_back().map_or(Offset(0), |last| last.next()),
                oldest: waiting.first().map(|message| message.stored),
                first: known.messages.keys().next().copied(),
            }
        };
        sorted(Opened {
            sessions: self.sessions.values().map(found).collect(),
            leaving: Vec::new(),
            lives: Vec::new(),
            met: Vec::new(),
            disk: None,
            damaged: 0,
            connections: Vec::new(),
            token: None,
        })
    }
}

/// What happens next, as far as chance decides it.
#[derive(Clone, Debug)]
enum Event {
    Mutation(Mutation),
    Load { session: SessionId, after: Option<Offset>, most: usize },
    Claim { message_id: Arc<str>, life_ms: u64 },
    Settle { message_id: Arc<str> },
}

fn session() -> impl Strategy<Value = SessionId> {
    (1..5_u128).prop_map(SessionId)
}

fn offset() -> impl Strategy<Value = Offset> {
    prop_oneof![0..16_u64, Just(65_600)].prop_map(Offset)
}

fn message_id() -> impl Strategy<Value = Arc<str>> {
    prop::sample::select(vec!["a", "b"]).prop_map(Arc::from)
}

fn some_row() -> impl Strategy<Value = SessionRow> {
    let cookie = prop::option::of(prop::collection::vec(any::<u8>(), 0..90));
    (session(), any::<Option<u32>>(), cookie, any::<u16>()).prop_map(|(session, ends, cookie, mark)| SessionRow {
        // Two of them want the same.
        name: if session.0 > 2 { "common".into() } else { row(session.0).name },
        ends: ends.map(|ends| UnixMs(ends.into())),
        cookie: cookie.map(Arc::from),
        downlink: DownlinkMark { reserved: Offset(mark.into()), floor: Offset(3) },
        uplink: UplinkMark { run: mark.into(), last: 5, past_half: mark % 2 == 0 },
        ..row(session.0)
    })
}

fn some_message() -> impl Strategy<Value = StoredMessage> {
    let claim = prop::option::of((message_id(), 60_000..200_000_u64));
    (session(), offset(), any::<bool>(), any::<bool>(), 0..200_u64, claim, "[a-z]{0,80}").prop_map(
        |(session, offset, twice, sent, life, claim, body)| StoredMessage {
            message: message(if twice { QoS::ExactlyOnce } else { QoS::AtLeastOnce }, &body),
            sent,
            expires: UnixMs(NOW.0 + life * 1000),
            claim: claim.map(|(message_id, life)| Claim { message_id, until: UnixMs(NOW.0 + life) }),
            ..stored(session.0, offset.0)
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let channel = || prop::sample::select(vec!["x", "y", "z"]).prop_map(Arc::<str>::from);
    let id = || (1..4_u16).prop_map(MessageId);
    let received = (id(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..90))
        .prop_map(|(id, sequence, answer)| Received::from_stored(id, sequence.into(), answer.into()));
    let mutation = prop_oneof![
        4 => some_row().prop_map(|row| Mutation::PutSession(Box::new(row))),
        1 => (session(), channel()).prop_map(|(session, channel)| Mutation::JoinChannel { session, channel }),
        1 => (session(), channel()).prop_map(|(session, channel)| Mutation::LeaveChannel { session, channel }),
        9 => some_message().prop_map(|message| Mutation::PutMessage(Box::new(message))),
        2 => (session(), offset()).prop_map(|(session, offset)| Mutation::ReleaseMessage { session, offset }),
        3 => (session(), offset()).prop_map(|(session, offset)| Mutation::RemoveMessage { session, offset }),
        2 => (session(), received).prop_map(|(session, received)| Mutation::PutReceived { session, received }),
        1 => (session(), id()).prop_map(|(session, id)| Mutation::RemoveReceived { session, id }),
        1 => session().prop_map(|session| Mutation::DropSession { session }),
    ];
    prop_oneof![
        10 => mutation.prop_map(Event::Mutation),
        2 => (session(), prop::option::of(offset()), 1..6_usize)
            .prop_map(|(session, after, most)| Event::Load { session, after, most }),
        1 => (message_id(), 60_000..200_000_u64)
            .prop_map(|(message_id, life_ms)| Event::Claim { message_id, life_ms }),
        1 => message_id().prop_map(|message_id| Event::Settle { message_id }),
    ]
}

fn requests(rig: &mut Rig, events: Vec<Event>) -> Vec<Request> {
    let request = |event| match event {
        Event::Mutation(mutation) => rig.requests(vec![Operation::Mutate(mutation)]).remove(0),
        Event::Load { session, after, most } => rig.requests(vec![Operation::Load { session, after, most }]).remove(0),
        Event::Claim { message_id, life_ms } => {
            Request::Claim { id: ClaimId(1), claim: Claim { message_id, until: UnixMs(rig.now.0 + life_ms) } }
        }
        Event::Settle { message_id } => Request::Settle { message_id, answer: b"settled".to_vec() },
    };
    events.into_iter().map(request).collect()
}

/// A server for all cases; each has a cluster's name of its own.
fn rig(server: &Server) -> Rig {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let case = COUNT.fetch_add(1, Ordering::Relaxed);
    Rig::with(options(&server.url(), &format!("case-{case}")))
}

/// All that can be seen from outside.
fn assert_same(rig: &mut Rig, model: &Model) {
    for session in (1..5).map(SessionId) {
        assert_eq!(rig.load(session, None, 100), model.load(session, None, 100));
    }
    let found = rig.reopen();
    assert_eq!(found, model.found());
    let usage = found.iter().fold(Usage::default(), |usage, found| Usage {
        messages: usage.messages + u64::from(found.waiting),
        bytes: usage.bytes + found.waiting_bytes,
    });
    assert_eq!(rig.store.usage(), usage);
}

#[test]
fn it_responds_as_the_model_does() {
    let server = Server::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let batches = prop::collection::vec((prop::collection::vec(event(), 1..12), 0..40_000_u64, any::<bool>()), 1..16);
    proptest!(ProptestConfig::with_cases(CASES), |(batches in batches)| {
        let (mut rig, mut model) = (rig(&server), Model::default());
        for (events, passed, purges) in batches {
            let requests = requests(&mut rig, events);
            let expected: Vec<Response> = requests.iter().map(|request| model.answer(request, rig.now)).collect();
            let text = format!("{requests:?}");
            prop_assert_eq!(rig.store.commit(requests, rig.now), expected, "{}", text);
            rig.now.0 += passed;
            if purges {
                let mut expired = rig.store.purge(rig.now, 1000).expired;
                expired.sort_by_key(|expired| expired.session);
                prop_assert_eq!(expired, model.purge(rig.now));
            }
        }
        assert_same(&mut rig, &model);
    });
}

/// A batch whose answer was lost is done again, all of it; in the end everything is as if it had been done once.
#[test]
fn a_batch_done_twice_is_a_batch_done_once() {
    let server = Server::start();
    let batches = prop::collection::vec((prop::collection::vec(event(), 1..12), 0..40_000_u64), 1..12);
    proptest!(ProptestConfig::with_cases(CASES), |(batches in batches)| {
        let (mut rig, mut model) = (rig(&server), Model::default());
        for (events, passed) in batches {
            let (mut requested, mut expected) = (Vec::new(), Vec::new());
            for request in requests(&mut rig, events) {
                if model.can_be_requested(&request, rig.now) {
                    expected.push(model.answer(&request, rig.now));
                    requested.push(request);
                }
            }
            let requests = requested;
            let may_differ: Vec<bool> = requests.iter().map(|request| may_differ(request, &requests)).collect();
            let responses = commit_twice(&mut rig.store, requests, rig.now);
            let pairs = responses.iter().zip(&expected).zip(may_differ).filter(|(_, may_differ)| !may_differ);
            for ((response, expected), _) in pairs {
                prop_assert_eq!(response, expected);
            }
            rig.now.0 += passed;
        }
        assert_same(&mut rig, &model);
    });
}

/// What may be answered otherwise the second time, as the shard never asks so in one batch: a load sees what the batch
/// did behind it, a claim sees that the same batch settled it, and a session that the batch drops is not there.
fn may_differ(request: &Request, others: &[Request]) -> bool {
    match request {
        Request::Claim { .. } => others.iter().any(|request| matches!(request, Request::Settle { .. })),
        Request::Settle { .. }
        | Request::Ownership { .. }
        | Request::Transfer { .. }
        | Request::PutConnection { .. }
        | Request::RemoveConnection { .. } => false,
        Request::Shard { command: Command { operation: Operation::Load { .. }, .. }, .. } => true,
        Request::Shard { .. } => {
            let session = request.session();
            others.iter().any(|other| drops(other) && other.session() == session)
        }
    }
}

fn drops(request: &Request) -> bool {
    matches!(
        request,
        Request::Shard { command: Command { operation: Operation::Mutate(Mutation::DropSession { .. }), .. }, .. }
    )
}

const CASES: u32 = 64;
