//! Random mutations, loads and claims against a model in plain maps, over restarts: every outcome and every page must
//! be the model's, and every restart must find what the model holds.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Turn {
    Batch(Vec<Act>),
    Pass(u64),
    Purge(usize),
    Tend(bool),
    /// As after a crash, or in order.
    Reopen {
        closed: bool,
    },
}

#[derive(Clone, Debug)]
enum Act {
    Mutation(Mutation),
    Load(SessionId, Option<u64>, usize),
    Claim(u8),
    Settle(u8),
}

fn session() -> impl Strategy<Value = SessionId> {
    (1..4u128).prop_map(SessionId)
}

fn any_session() -> impl Strategy<Value = Mutation> {
    (session(), 0..4u8, any::<u16>(), any::<bool>()).prop_map(|(session, name, any, flag)| {
        Mutation::PutSession(Box::new(SessionRow {
            // Mostly its own name, sometimes another's.
            name: format!("n{}", if name == 0 { 1 } else { session.0 }).into(),
            expiry_s: u64::from(any),
            ends: flag.then_some(UnixMs(u64::from(any))),
            cookie: (!flag).then(|| Arc::from(&any.to_le_bytes()[..])),
            downlink: DownlinkMark { reserved: Offset(u64::from(any) + 1), floor: Offset(u64::from(any)) },
            uplink: UplinkMark { run: u32::from(any), last: any, past_half: flag },
            ..row(session, "")
        }))
    })
}

fn any_message() -> impl Strategy<Value = Mutation> {
    let claim = proptest::option::of((0..3u8, 0..3u64));
    let flags = (any::<bool>(), any::<bool>(), 0..5u8);
    (session(), 0..8u64, any::<[u8; 3]>(), 0..3u64, claim, flags).prop_map(
        |(session, offset, body, ttl, claim, (two, sent, released))| {
            let released = two && released == 0;
            let qos = if two { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
            put_message(StoredMessage {
                message: if released { Message::encode(qos, 0, &[], &mut Vec::new()) } else { message(qos, &body) },
                sent,
                released,
                stored: UnixMs(NOW.0 + u64::from(body[0])),
                expires: UnixMs(NOW.0 + 1000 * ttl),
                claim: claim.map(|(id, until)| Claim {
                    message_id: format!("c{id}").into(),
                    until: UnixMs(NOW.0 + 1000 * until),
                }),
                ..stored(session, offset, "")
            })
        },
    )
}

fn act() -> impl Strategy<Value = Act> {
    let message = || (session(), (0..8u64).prop_map(Offset));
    let channel = || (session(), 0..3u8);
    prop_oneof![
        3 => any_session().prop_map(Act::Mutation),
        8 => any_message().prop_map(Act::Mutation),
        2 => message().prop_map(|(session, offset)| Act::Mutation(Mutation::ReleaseMessage { session, offset })),
        4 => message().prop_map(|(session, offset)| Act::Mutation(Mutation::RemoveMessage { session, offset })),
        2 => channel().prop_map(|(session, channel)| Act::Mutation(join(session, &format!("c{channel}")))),
        1 => channel().prop_map(|(session, channel)| {
            Act::Mutation(Mutation::LeaveChannel { session, channel: format!("c{channel}").into() })
        }),
        2 => (session(), 1..5u16, any::<u8>(), any::<u8>()).prop_map(|(session, id, sequence, answer)| {
            let received = received(id, u64::from(sequence), &answer.to_string());
            Act::Mutation(Mutation::PutReceived { session, received })
        }),
        1 => (session(), (1..5u16).prop_map(MessageId))
            .prop_map(|(session, id)| Act::Mutation(Mutation::RemoveReceived { session, id })),
        1 => session().prop_map(|session| Act::Mutation(Mutation::DropSession { session })),
        4 => (session(), proptest::option::of(0..8u64), 0..4usize)
            .prop_map(|(session, after, most)| Act::Load(session, after, most)),
        2 => (0..3u8).prop_map(Act::Claim),
        1 => (0..3u8).prop_map(Act::Settle),
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        8 => proptest::collection::vec(act(), 1..12).prop_map(Turn::Batch),
        2 => (1..1500u64).prop_map(Turn::Pass),
        2 => (1..4usize).prop_map(Turn::Purge),
        1 => any::<bool>().prop_map(Turn::Tend),
        2 => any::<bool>().prop_map(|closed| Turn::Reopen { closed }),
    ]
}

#[derive(Default)]
struct Model {
    sessions: BTreeMap<SessionId, Session>,
    claims: BTreeMap<u8, (UnixMs, Option<Vec<u8>>)>,
}

struct Session {
    row: SessionRow,
    channels: BTreeSet<Arc<str>>,
    messages: BTreeMap<Offset, StoredMessage>,
    received: BTreeMap<MessageId, Received>,
    guards: BTreeMap<Arc<str>, (Offset, UnixMs)>,
}

impl Model {
    fn act(&mut self, act: &Act, now: UnixMs) -> Response {
        let completion = match act {
            Act::Mutation(mutation) => self.mutation(mutation, now),
            Act::Load(session, after, most) => Completion::Loaded(self.load(*session, after.map(Offset), *most)),
            Act::Claim(id) => return Response::Claim { id: ClaimId(1), outcome: self.claim(*id, now) },
            Act::Settle(id) => {
                if let Some((_, answer)) = self.claims.get_mut(id) {
                    *answer = Some(vec![*id]);
                }
                return Response::Settled;
            }
        };
        Response::Shard { shard: ShardId(0), number: CommandNumber(1), completion }
    }

    fn claim(&mut self, id: u8, now: UnixMs) -> ClaimOutcome {
        match self.claims.get(&id) {
            Some((until, answer)) if *until > now => {
                answer.clone().map_or(ClaimOutcome::Unsettled, ClaimOutcome::Settled)
            }
            _ => {
                self.claims.insert(id, (UnixMs(now.0 + CLAIMED_MS), None));
                ClaimOutcome::New
            }
        }
    }

    fn mutation(&mut self, mutation: &Mutation, now: UnixMs) -> Completion {
        let session = mutation.session();
        if let Mutation::PutSession(row) = mutation {
            return self.put_session(row);
        }
        let Some(known) = self.sessions.get_mut(&session) else {
            let adds = matches!(
                mutation,
                Mutation::JoinChannel { .. } | Mutation::PutMessage(_) | Mutation::PutReceived { .. }
            );
            return if adds { Completion::Refused(StoreError::Fenced) } else { Completion::Done };
        };
        match mutation.clone() {
            Mutation::PutSession(_) => {}
            Mutation::JoinChannel { channel, .. } => drop(known.channels.insert(channel)),
            Mutation::LeaveChannel { channel, .. } => drop(known.channels.remove(&channel)),
            Mutation::PutMessage(message) => return known.put_message(*message, now),
            Mutation::ReleaseMessage { offset, .. } => {
                let Some(message) = known.messages.get_mut(&offset) else { return Completion::Absent };
                message.message = Message::encode(message.message.qos, 0, &[], &mut Vec::new());
                message.released = true;
            }
            Mutation::RemoveMessage { offset, .. } if known.messages.remove(&offset).is_none() => {
                return Completion::Absent;
            }
            Mutation::RemoveMessage { .. } => {}
            Mutation::PutReceived { received, .. } => drop(known.received.insert(received.id, received)),
            Mutation::RemoveReceived { id, .. } => drop(known.received.remove(&id)),
            Mutation::DropSession { .. } => drop(self.sessions.remove(&session)),
        }
        Completion::Done
    }

    fn put_session(&mut self, row: &SessionRow) -> Completion {
        let others = self.sessions.values().filter(|other| other.row.session != row.session);
        if others.into_iter().any(|other| other.row.name == row.name) {
            return Completion::Refused(StoreError::NameTaken);
        }
        let new = || Session {
            row: row.clone(),
            channels: BTreeSet::new(),
            messages: BTreeMap::new(),
            received: BTreeMap::new(),
            guards: BTreeMap::new(),
        };
        self.sessions.entry(row.session).or_insert_with(new).row = row.clone();
        Completion::Done
    }

    fn load(&self, session: SessionId, after: Option<Offset>, most: usize) -> Page {
        let Some(session) = self.sessions.get(&session) else { return Page::default() };
        let mut page = Page::default();
        let behind = session.messages.values().filter(|message| after.is_none_or(|after| message.offset > after));
        page.messages = behind.cloned().collect();
        page.more = page.messages.len() > most;
        page.messages.truncate(most);
        if after.is_none() {
            page.received = session.received.values().cloned().collect();
            page.received.sort_by_key(|received| (received.sequence, received.id));
        }
        page
    }

    /// What a purge removes; slices are put together by the caller.
    fn purge(&mut self, now: UnixMs) -> BTreeMap<SessionId, (u32, u64)> {
        let mut expired = BTreeMap::new();
        for (id, session) in &mut self.sessions {
            let gone = session.messages.extract_if(.., |_, message| !message.is_live(now));
            let sum = gone.fold((0, 0), |sum, (_, message)| (sum.0 + 1, sum.1 + message.message.len() as u64));
            if sum.0 > 0 {
                expired.insert(*id, sum);
            }
        }
        expired
    }

    fn found(&self) -> Vec<StoredSession> {
        let found = self.sessions.values().map(|session| {
            let waiting = || session.messages.values().filter(|message| !message.released);
            StoredSession {
                row: session.row.clone(),
                channels: session.channels.iter().cloned().collect(),
                waiting: waiting().count() as u32,
                waiting_bytes: waiting().map(|message| message.message.len() as u64).sum(),
                next: session.messages.keys().last().map_or(Offset(0), |last| last.next()),
                oldest: waiting().map(|message| message.stored).min(),
                first: session.messages.keys().next().copied(),
            }
        });
        found.collect()
    }

    fn usage(&self) -> Usage {
        let found = self.found();
        Usage {
            messages: found.iter().map(|found| u64::from(found.waiting)).sum(),
            bytes: found.iter().map(|found| found.waiting_bytes).sum(),
        }
    }
}

impl Session {
    fn put_message(&mut self, message: StoredMessage, now: UnixMs) -> Completion {
        if let Some(claim) = &message.claim {
            match self.guards.get(&claim.message_id) {
                Some((offset, until)) if *until > now => {
                    return if *offset == message.offset { Completion::Done } else { Completion::Duplicate };
                }
                _ => drop(self.guards.insert(claim.message_id.clone(), (message.offset, claim.until))),
            }
        }
        self.messages.entry(message.offset).or_insert(message);
        Completion::Done
    }
}

impl StoredMessage {
    fn is_live(&self, now: UnixMs) -> bool {
        self.released || self.sent && self.message.qos == QoS::ExactlyOnce || self.expires > now
    }
}

fn request(act: &Act, now: UnixMs) -> Request {
    let shard =
        |operation| Request::Shard { shard: ShardId(0), command: Command { number: CommandNumber(1), operation } };
    match act.clone() {
        Act::Mutation(mutation) => shard(Operation::Mutate(mutation)),
        Act::Load(session, after, most) => shard(Operation::Load { session, after: after.map(Offset), most }),
        Act::Claim(id) => {
            let claim = Claim { message_id: format!("call-{id}").into(), until: UnixMs(now.0 + CLAIMED_MS) };
            Request::Claim { id: ClaimId(1), claim }
        }
        Act::Settle(id) => Request::Settle { message_id: format!("call-{id}").into(), answer: vec![id] },
    }
}

/// Answers with equal sequences have no order among themselves.
fn sorted(mut answer: Response) -> Response {
    if let Response::Shard { completion: Completion::Loaded(page), .. } = &mut answer {
        page.received.sort_by_key(|received| (received.sequence, received.id));
    }
    answer
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_as_its_model(turns in proptest::collection::vec(turn(), 1..40)) {
        let dir = TempDir::new();
        let options = Options { durability: Durability::Memory, ..dir.options() };
        let open = || Sqlite::open(&options).unwrap_or_else(|error| panic!("{error}"));
        let (mut store, _) = open();
        let (mut model, mut now) = (Model::default(), NOW);
        for turn in turns {
            match turn {
                Turn::Batch(acts) => {
                    let requests = acts.iter().map(|act| request(act, now)).collect();
                    let responses: Vec<Response> = store.commit(requests, now).into_iter().map(sorted).collect();
                    let expected: Vec<Response> = acts.iter().map(|act| model.act(act, now)).collect();
                    prop_assert_eq!(responses, expected);
                }
                Turn::Pass(ms) => now.0 += ms,
                Turn::Purge(most) => {
                    let mut expired: BTreeMap<SessionId, (u32, u64)> = BTreeMap::new();
                    loop {
                        let purged = store.purge(now, most);
                        for ExpiredMessages { session, messages, bytes } in purged.expired {
                            let sum = expired.entry(session).or_default();
                            *sum = (sum.0 + messages, sum.1 + bytes);
                        }
                        if !purged.more {
                            break;
                        }
                    }
                    prop_assert_eq!(expired, model.purge(now));
                }
                Turn::Tend(idle) => store.maintain(idle),
                Turn::Reopen { closed } => {
                    if closed {
                        store.close();
                    } else {
                        drop(store);
                    }
                    let (reopened, mut opened) = open();
                    store = reopened;
                    opened.sessions.sort_by_key(|found| found.row.session);
                    prop_assert_eq!(opened.sessions, model.found());
                }
            }
            store.database.index().check_invariants(store.database.connection()).unwrap();
            prop_assert_eq!(store.usage(), model.usage());
            prop_assert_eq!(store.health(), Health::Ready);
        }
    }
}

const CLAIMED_MS: u64 = 2000;
