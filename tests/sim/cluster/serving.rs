//! What a process does with durable sessions where each node has a disk of its own: the shard and the ownership of
//! sessions as they run in production (`io::worker::turn`, `io::api`), and in place of tasks, links and the store's
//! thread what this file puts out.

mod meeting;
mod offers;
mod unions;

use super::devices;
use super::disk::{UNIX_MS_AT_ZERO, unix_ms};
use crate::peer::RESPONSE;
use offers::Offers;
use rainbow::base::id::{ConnIndex, ConnKey, DiskId, Generation, Identity, ShardId};
use rainbow::base::keyed_hash::HashKey;
use rainbow::base::limits::Limits;
use rainbow::base::time::Tick;
use rainbow::cluster::calls::{Answer, Call, SendCall, SentClaim};
use rainbow::cluster::directory::waiting::Outcome;
use rainbow::cluster::node::PeerView;
use rainbow::cluster::ownership::claims::{Handover, RequestId, SessionName, Token};
use rainbow::cluster::ownership::disk_calls::{DiskReply, NameQuery, Peers, WaitId};
use rainbow::cluster::ownership::grantors;
use rainbow::cluster::ownership::union::Sites;
use rainbow::cluster::planted::ClusterBug;
use rainbow::cluster::transfers::{DiskReport, TransferCall};
use rainbow::config::StoreKind;
use rainbow::io::cluster::calls::hash_of_session;
use rainbow::io::cluster::looked_for::LookedFor;
use rainbow::io::cluster::ownership::{Action, Errand, Ownership};
use rainbow::io::cluster::port::PeerEntry;
use rainbow::io::handover::session_request::{self, SessionRequest, Waiting};
use rainbow::io::runtime::oneshot::ReturnAddress;
use rainbow::shard::command::transfer::{TransferAnswer, TransferCommand};
use rainbow::shard::command::{Claim, Completion, Completions};
use rainbow::shard::{
    Input, Message, Mode, Output, Query, QueryId, QueryRefusal, Reply, SessionSettings, Settings, Shard, Terms, Wait,
};
use rainbow::store::{Opened, Request, Response, TransferId};
use rainbow::wire::packet::QoS;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use unions::Rivals;

#[derive(Debug)]
pub enum ServingOutput {
    /// `on_reply` follows, or `on_unreachable`.
    Call {
        to: Generation,
        id: u64,
        method: u8,
        body: Vec<u8>,
    },
    Reply {
        to: Generation,
        id: u64,
        outcome: u8,
        body: Vec<u8>,
    },
    Store(Request),
    /// Of the directory.
    Session {
        hash: u64,
        is_here: bool,
    },
    /// `on_known` follows.
    AwaitKnown(Known),
    Down {
        key: ConnKey,
        bytes: Vec<u8>,
    },
    /// The connection is not attached to its session.
    Refused(ConnKey),
    /// What a caller's call has come to. `None`: nobody has the session, or not everybody can say.
    Called {
        number: u64,
        reply: Option<Reply>,
    },
    /// The owner of the session acknowledges a message.
    Acknowledged(SessionName),
}

/// What waits until the peers know of every session that is here.
#[derive(Debug)]
pub enum Known {
    Disks(WaitId),
    /// The node from which the session has come is to know that.
    Passed {
        to: Generation,
        name: SessionName,
    },
    /// Two sessions have become one, or have not.
    United(Token),
}

/// A caller's message.
#[derive(Clone, Debug)]
pub struct Sending {
    /// Of the call.
    pub number: u64,
    pub name: SessionName,
    pub qos: QoS,
    pub body: Vec<u8>,
    pub claim: Claim,
}

pub struct Serving {
    own: Generation,
    pub shard: Shard,
    ownership: Ownership,
    peers: Vec<PeerView>,
    entries: Arc<[PeerEntry]>,
    /// As the cluster's thread has it.
    looked_for: LookedFor,
    disk: DiskId,
    lives: Vec<Generation>,
    met: BTreeSet<Generation>,
    meet_at: Tick,
    awaiting_ready: Vec<WaitId>,
    /// Numbers of all kinds.
    last: u64,
    calls: BTreeMap<u64, Open>,
    /// Queries of other nodes that the ownership answers.
    node_queries: BTreeMap<u64, Caller>,
    queries: BTreeMap<u64, (SessionName, Querier)>,
    transfers: BTreeMap<u64, Transfer>,
    /// Messages that were passed on to other nodes, and how many have not replied.
    sends: BTreeMap<u64, usize>,
    rivals: Rivals,
    slots: HashMap<ConnIndex, ConnKey>,
    attached: HashSet<ConnKey>,
    takes_frozen: bool,
    overlooks_arrivals: bool,
    /// This node stops: what it has is offered to others.
    offers: Option<Offers>,
    outputs: VecDeque<ServingOutput>,
}

/// A call to another node.
struct Open {
    to: Generation,
    deadline: Tick,
    purpose: Purpose,
}

enum Purpose {
    Pass(RequestId),
    Passed,
    Disks(WaitId),
    Lives,
    Send(u64),
    Offer(SessionName),
    Rival(SessionName, Sites),
    Unite(Token),
}

/// Who has called this node.
#[derive(Clone, Copy)]
struct Caller {
    node: Generation,
    id: u64,
}

enum Querier {
    Node(Caller),
    Caller(Sending),
}

enum Transfer {
    Disks(WaitId),
    Node(Caller),
    Meet { node: Generation, disk: DiskId, lives: Vec<Generation> },
    Unite(Token),
    NoteSent(ReturnAddress),
}

impl Serving {
    pub fn new(own: Generation, opened: Opened, seed: u64, bug: Option<ClusterBug>, now: Tick) -> Serving {
        let Opened { sessions, leaving, disk, lives, met, token, .. } = opened;
        let ownership = Ownership::new(Some(own), StoreKind::Sqlite, seed, now);
        bug.into_iter().for_each(|bug| ownership.plant(bug));
        let mut serving = Serving {
            own,
            shard: Shard::new(ShardId(0), settings(own), Arc::default(), now),
            ownership,
            peers: Vec::new(),
            entries: Arc::new([]),
            looked_for: LookedFor::new(&met),
            disk: disk.expect("it is a node's"),
            lives,
            met: BTreeSet::new(),
            meet_at: Tick::NEVER,
            awaiting_ready: Vec::new(),
            last: 0,
            calls: BTreeMap::new(),
            node_queries: BTreeMap::new(),
            queries: BTreeMap::new(),
            transfers: BTreeMap::new(),
            sends: BTreeMap::new(),
            rivals: Rivals::default(),
            slots: HashMap::new(),
            attached: HashSet::new(),
            takes_frozen: bug == Some(ClusterBug::TakesWhatIsPassed),
            overlooks_arrivals: bug == Some(ClusterBug::OverlooksArrivals),
            offers: None,
            outputs: VecDeque::new(),
        };
        serving.set_peers(&[], now);
        serving.ownership.own(&sessions, token);
        serving.shard.restore(sessions, now);
        for (session, token) in leaving {
            let name = session.row.name.clone();
            serving.shard.restore(vec![session], now);
            serving.shard.handle(Input::PassSession { name: &name }, now);
            serving.ownership.leaves(name, token);
        }
        serving
    }

    pub fn next_tick(&self) -> Tick {
        let calls = self.calls.values().map(|open| open.deadline);
        let shard = self.shard.next_tick().unwrap_or(Tick::NEVER);
        let others = self.ownership.next_tick().min(self.meet_at).min(self.rivals.next_tick());
        calls.fold(shard.min(others), Tick::min)
    }

    pub fn on_time(&mut self, now: Tick) {
        if self.shard.next_tick().is_some_and(|tick| tick <= now) {
            self.shard.handle(Input::Tick, now);
        }
        self.ownership.on_time(now);
        let late: Vec<u64> = self.calls.iter().filter(|(_, open)| open.deadline <= now).map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| self.end_call(id, None, now));
        if self.meet_at <= now {
            self.meet(now);
        }
        self.look_for_rivals(now);
    }

    // ---- what the peers know ----

    fn await_known(&mut self, known: Known) {
        self.outputs.push_back(ServingOutput::AwaitKnown(known));
    }

    pub fn on_known(&mut self, known: Known, outcome: Outcome, now: Tick) {
        match known {
            Known::Disks(id) => self.ownership.on_waited(id, outcome),
            Known::Passed { .. } | Known::United(_) if outcome == Outcome::TimedOut => self.await_known(known),
            Known::United(token) => self.on_union_known(token, now),
            Known::Passed { to, name } => self.call(to, &Call::Passed { name: &name }, Purpose::Passed, now),
        }
    }

    // ---- calls to other nodes ----

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn call(&mut self, to: Generation, call: &Call<'_>, purpose: Purpose, now: Tick) {
        let id = self.number();
        let mut body = Vec::new();
        call.encode_into(&mut body);
        self.calls.insert(id, Open { to, deadline: now + CALL_MS_MAX, purpose });
        let is_linked = self.entries.iter().any(|peer| peer.is_linked && peer.node.generation == to);
        match is_linked {
            true => self.outputs.push_back(ServingOutput::Call { to, id, method: call.method(), body }),
            false => self.end_call(id, None, now),
        }
    }

    pub fn on_reply(&mut self, id: u64, outcome: u8, body: &[u8], now: Tick) {
        self.end_call(id, Answer::decode(outcome, body), now);
    }

    /// The call was not sent.
    pub fn on_unreachable(&mut self, id: u64, now: Tick) {
        self.end_call(id, None, now);
    }

    fn end_call(&mut self, id: u64, answer: Option<Answer>, now: Tick) {
        let Some(Open { to, purpose, .. }) = self.calls.remove(&id) else { return };
        match purpose {
            Purpose::Pass(request) => {
                let handover = match answer {
                    Some(Answer::Of(Reply::Done { connections: 1.., .. })) => Some(Handover::Passed),
                    Some(Answer::Of(Reply::Done { connections: 0, .. })) => Some(Handover::NotOwner),
                    _ => None,
                };
                self.ownership.on_reply(request, handover, now);
            }
            Purpose::Passed => {}
            Purpose::Disks(wait) => {
                let reply = match answer {
                    Some(Answer::Part(part)) => Some(DiskReply::Part(unions::arrived(part, now))),
                    Some(Answer::Of(Reply::Done { connections, refused: None })) => Some(DiskReply::Code(connections)),
                    _ => None,
                };
                self.ownership.on_disk_reply(wait, reply);
            }
            Purpose::Lives => self.on_lives(to, answer, now),
            Purpose::Send(number) => self.on_sent_elsewhere(number, answer),
            Purpose::Offer(name) => self.on_offered(&name, answer),
            Purpose::Rival(name, sites) => self.on_rival(&name, sites, answer, now),
            Purpose::Unite(token) => self.on_union_reply(token, answer, now),
        }
    }

    // ---- calls of other nodes ----

    pub fn on_call(&mut self, caller: (Generation, u64), deadline_ms: u32, method: u8, body: &[u8], now: Tick) {
        let caller = Caller { node: caller.0, id: caller.1 };
        match Call::decode(method, body).expect("ours") {
            Call::Pass { name, token } => {
                let to = self.note_query(caller);
                self.ownership.on_request(caller.node, (name.into(), token), to, now);
            }
            Call::Offer { name } => {
                // One that stops itself would only pass it on.
                if self.offers.is_none() {
                    self.ownership.take(name.into(), caller.node);
                }
                self.answer(caller, &Answer::Of(Reply::found(self.offers.is_none())));
            }
            Call::Passed { name } => {
                self.ownership.on_known(&name.into());
                self.answer(caller, &Answer::Of(Reply::found(true)));
            }
            Call::SendTo(send) => {
                let SendCall { qos, message_type, body, ttl_ms, wait, .. } = send;
                let claim = send.claim.map(|claim| claim.arrive(unix_ms(now)));
                let terms = Terms { deadline: now + u64::from(deadline_ms), ttl_ms, claim, wait };
                let message = Message::encode(qos, message_type, body, &mut Vec::new());
                self.query(send.channels[0], message, terms, Querier::Node(caller), now);
            }
            Call::Transfer(call) => self.on_transfer_call(caller, call, now),
            other => panic!("nobody calls {other:?}"),
        }
    }

    /// As `io::api::transfers` does.
    fn on_transfer_call(&mut self, caller: Caller, call: TransferCall<'_>, now: Tick) {
        let query = match call {
            TransferCall::Has { name } => NameQuery::Has { name: name.into() },
            TransferCall::Settle { name, token } => NameQuery::Settle { name: name.into(), token },
            TransferCall::Grant { name, id, disks } => {
                let wanted = self.seen().grantors(name, now);
                if !wanted.is_some_and(|wanted| grantors::covers(&disks, &wanted)) {
                    return self.answer(caller, &Answer::Of(Reply::found(false)));
                }
                NameQuery::Grant { name: name.into(), id: RequestId(id) }
            }
            TransferCall::Release { name, id } => NameQuery::Release { name: name.into(), id: RequestId(id) },
            TransferCall::Read { name, token, from } => {
                let read = TransferCommand::Read { name: name.into(), token, from };
                return self.transfer(read, Transfer::Node(caller));
            }
            TransferCall::Forget { token } => {
                return self.transfer(TransferCommand::Forget { token }, Transfer::Node(caller));
            }
            TransferCall::Lives => {
                let lives = self.lives.iter().map(|life| life.0).collect();
                let report = DiskReport { disk: Some(self.disk.0), lives };
                let text = serde_json::to_string(&report).expect("numbers").into();
                return self.answer(caller, &Answer::Text(text));
            }
            TransferCall::Part { .. } => unreachable!("no operator forgets a node here"),
            TransferCall::Rival { name, standing } => NameQuery::Rival { name: name.into(), standing },
            TransferCall::NoteSent { name } => NameQuery::NoteSent { name: name.into() },
        };
        let to = self.note_query(caller);
        self.ownership.on_query(caller.node, query, to, now);
    }

    fn note_query(&mut self, caller: Caller) -> ReturnAddress {
        let number = self.number();
        self.node_queries.insert(number, caller);
        ReturnAddress::unpack(number)
    }

    fn answer_query(&mut self, to: ReturnAddress, code: u32) {
        let caller = self.node_queries.remove(&to.pack()).expect("answered once");
        self.answer(caller, &Answer::Of(Reply::Done { connections: code, refused: None }));
    }

    fn answer(&mut self, Caller { node: to, id }: Caller, answer: &Answer) {
        let mut body = Vec::new();
        answer.encode_into(&mut body);
        self.outputs.push_back(ServingOutput::Reply { to, id, outcome: answer.outcome(), body });
    }

    // ---- the store ----

    fn transfer(&mut self, command: TransferCommand, of: Transfer) {
        let number = self.number();
        self.transfers.insert(number, of);
        self.outputs.push_back(ServingOutput::Store(Request::Transfer { id: TransferId(number), command }));
    }

    /// What one commit has completed.
    pub fn on_stored(&mut self, responses: Vec<Response>, now: Tick) {
        let (mut completions, mut transferred) = (Completions::default(), Vec::new());
        let mut has_completed = false;
        for response in responses {
            match response {
                Response::Shard { number, completion, .. } => {
                    (completions.upto, has_completed) = (number, true);
                    if completion != Completion::Done {
                        completions.exceptions.push((number, completion));
                    }
                }
                Response::Transfer { id, answer } => transferred.push((id.0, answer)),
                other => panic!("nobody asked for {other:?}"),
            }
        }
        if has_completed {
            self.shard.handle(Input::Completions(completions), now);
        }
        for (id, answer) in transferred {
            self.on_transferred(id, answer, now);
        }
    }

    fn on_transferred(&mut self, id: u64, answer: TransferAnswer, now: Tick) {
        match self.transfers.remove(&id).expect("answered once") {
            Transfer::Disks(wait) => self.ownership.on_stored(wait, answer),
            Transfer::Node(caller) => match answer {
                TransferAnswer::Part(part) => self.answer(caller, &Answer::Part(part)),
                TransferAnswer::NotHere => self.answer(caller, &Answer::Of(Reply::found(false))),
                TransferAnswer::Done => self.answer(caller, &Answer::Of(Reply::found(true))),
                _ => self.answer(caller, &Answer::Of(Reply::Refused(QueryRefusal::Unreachable))),
            },
            Transfer::Meet { node, disk, lives } if answer == TransferAnswer::Done => {
                self.looked_for.meet(node, Some(disk), now);
                self.looked_for.end_lives(lives.into_iter().filter(|life| *life != node));
                self.set_peers(&self.peers.clone(), now);
            }
            Transfer::Meet { node, .. } => self.meet_later(node, now),
            Transfer::Unite(token) => self.on_union_stored(token, answer, now),
            Transfer::NoteSent(to) => self.ownership.answer(to, (answer == TransferAnswer::Done).into()),
        }
    }

    // ---- clients and callers ----

    pub fn attach(&mut self, name: SessionName, digest: [u8; 32], now: Tick) -> ConnKey {
        let (key, identity): (ConnKey, Identity) = self.shard.reserve(digest, now);
        self.slots.insert(key.index, key);
        let request = SessionRequest { name, grant: Default::default(), response: RESPONSE.to_vec(), greets: true };
        self.ownership.attach(Waiting { key, identity, request }, now);
        key
    }

    pub fn on_bytes(&mut self, key: ConnKey, data: &mut [u8], now: Tick) {
        self.shard.handle(Input::Bytes { key, data }, now);
    }

    /// The client's socket has ended, or it gives up before it was let in.
    pub fn on_ended(&mut self, key: ConnKey, now: Tick) {
        match self.attached.remove(&key) {
            true => self.shard.handle(Input::SocketEnded { key }, now),
            false => self.shard.handle(Input::Abandoned { key }, now),
        }
    }

    /// As `io::api::query::send_to_session` does.
    pub fn send(&mut self, sending: Sending, now: Tick) {
        let Sending { name, qos, body, claim, .. } = &sending;
        let terms = Terms { deadline: now + SEND_MS, ttl_ms: None, claim: Some(claim.clone()), wait: Wait::Answered };
        let message = Message::encode(*qos, 1, body, &mut Vec::new());
        self.query(&name.clone(), message, terms, Querier::Caller(sending.clone()), now);
    }

    fn query(&mut self, name: &str, message: Message, terms: Terms, of: Querier, now: Tick) {
        let number = self.number();
        self.queries.insert(number, (name.into(), of));
        let query = Query::SendTo { session: name.into(), message, terms };
        self.shard.handle(Input::Query { query_id: QueryId(number), query }, now);
    }

    fn on_queried(&mut self, query: QueryId, reply: Reply, now: Tick) {
        let (name, querier) = self.queries.remove(&query.0).expect("replied to once");
        if devices::is_taken(&reply) {
            self.outputs.push_back(ServingOutput::Acknowledged(name));
        }
        match querier {
            Querier::Node(caller) => self.answer(caller, &Answer::Of(reply)),
            Querier::Caller(sending) if reply.is_absent() => self.send_elsewhere(&sending, now),
            Querier::Caller(Sending { number, .. }) => {
                self.outputs.push_back(ServingOutput::Called { number, reply: Some(reply) });
            }
        }
    }

    fn send_elsewhere(&mut self, sending: &Sending, now: Tick) {
        let Sending { number, name, qos, body, claim } = sending;
        let hash = hash_of_session(HASH_KEY, name);
        let concerned = self.entries.iter().filter(|peer| peer.table.may_have(hash)).map(|peer| peer.node.generation);
        let concerned: Vec<Generation> = concerned.collect();
        if concerned.is_empty() {
            return self.outputs.push_back(ServingOutput::Called { number: *number, reply: None });
        }
        self.sends.insert(*number, concerned.len());
        for node in concerned {
            let send = SendCall {
                channels: vec![name],
                qos: *qos,
                message_type: 1,
                ttl_ms: None,
                wait: Wait::Answered,
                claim: Some(SentClaim::new(claim, unix_ms(now))),
                body,
            };
            self.call(node, &Call::SendTo(send), Purpose::Send(*number), now);
        }
    }

    /// The first that has it replies for all.
    fn on_sent_elsewhere(&mut self, number: u64, answer: Option<Answer>) {
        let Some(missing) = self.sends.get_mut(&number) else { return };
        *missing -= 1;
        let is_last = *missing == 0;
        let reply = match answer {
            Some(Answer::Of(reply)) if !reply.is_absent() => Some(reply),
            _ => None,
        };
        if is_last || reply.is_some() {
            self.sends.remove(&number);
            self.outputs.push_back(ServingOutput::Called { number, reply });
        }
    }

    // ---- the end of a turn ----

    /// Everything that the inputs have led to.
    pub fn turn(&mut self, now: Tick) {
        self.carry_out(now);
        self.own(now);
        while self.shard.poll_fanout(now) {}
        self.carry_out(now);
        self.own(now);
        while let Some(index) = self.shard.next_dirty() {
            self.write(index);
        }
        self.carry_out(now);
    }

    pub fn poll_output(&mut self) -> Option<ServingOutput> {
        self.outputs.pop_front()
    }

    /// As `io::worker::turn` does.
    fn own(&mut self, now: Tick) {
        let peers = self.seen();
        while let Some(action) = self.ownership.poll_action(&peers, now) {
            self.on_action(action, now);
        }
        for errand in self.ownership.take_errands() {
            self.on_errand(errand, now);
        }
    }

    fn on_action(&mut self, action: Action, now: Tick) {
        match action {
            Action::Store(command) => panic!("nobody shares this store: {command:?}"),
            Action::Own { name, stored, waiting, .. } => {
                let anew = session_request::take(&mut self.shard, &name, stored, waiting, now);
                self.carry_out(now);
                if !self.shard.has_session(&name) {
                    self.ownership.on_dropped(&name);
                }
                anew.into_iter().for_each(|client| self.ownership.attach(client, now));
            }
            Action::Pass(name) if self.takes_frozen => self.ownership.on_flushed(&name),
            Action::Pass(name) => self.shard.handle(Input::PassSession { name: &name }, now),
            Action::Lose(name) => self.shard.handle(Input::LoseSession { name: &name }, now),
            Action::Forget { name, keeps_name } => {
                self.shard.handle(Input::ForgetSession { name: &name, keeps_name }, now);
            }
            Action::Refuse { key, .. } => self.refuse(key, now),
            Action::Answer { to, code } => self.answer_query(to, code),
            Action::Reply { to, is_passed } => self.answer_query(to, is_passed.into()),
        }
        self.carry_out(now);
    }

    fn on_errand(&mut self, errand: Errand, now: Tick) {
        match errand {
            Errand::Pass { to, id, name, token } => {
                self.call(to, &Call::Pass { name: &name, token }, Purpose::Pass(id), now);
            }
            Errand::Passed { to, name, .. } => self.await_known(Known::Passed { to, name }),
            Errand::Call { id, to, call } => {
                self.call(to, &Call::Transfer(call.transfer_call()), Purpose::Disks(id), now);
            }
            Errand::Store { id, command } => self.transfer(command, Transfer::Disks(id)),
            Errand::AwaitReady(id) => self.awaiting_ready.push(id),
            Errand::AwaitKnown(id) => self.await_known(Known::Disks(id)),
            Errand::NoteSent { name, to } => self.note_sent(name, to, now),
            Errand::LookForRivals(_) if self.overlooks_arrivals => {}
            Errand::LookForRivals(name) => self.rivals.look_for(&name, now),
            Errand::Compare { name, standing, from, to } => self.compare(&name, (from, standing), to, now),
        }
    }

    fn carry_out(&mut self, now: Tick) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Store(command) => {
                    let request = Request::Shard { shard: ShardId(0), command };
                    self.outputs.push_back(ServingOutput::Store(request));
                }
                Output::SessionHere { name, here } => {
                    let hash = hash_of_session(HASH_KEY, &name);
                    self.outputs.push_back(ServingOutput::Session { hash, is_here: here });
                }
                Output::SessionFlushed { name } => self.ownership.on_flushed(&name),
                Output::SessionDropped { name } => self.ownership.on_dropped(&name),
                Output::AttachRefused { key, .. } => self.refuse(key, now),
                Output::Reply { query_id, reply } => self.on_queried(query_id, reply, now),
                Output::Shutdown { key } => self.shard.handle(Input::SocketEnded { key }, now),
                Output::Attached { key } => drop(self.attached.insert(key)),
                Output::Closed { .. }
                | Output::SessionEnded { .. }
                | Output::Receipt { .. }
                | Output::EndWriting { .. }
                | Output::Resume { .. }
                | Output::Presence { .. } => {}
                other => panic!("nobody here wants {other:?}"),
            }
        }
    }

    fn refuse(&mut self, key: ConnKey, now: Tick) {
        if self.shard.is_current(key) {
            self.shard.handle(Input::Abandoned { key }, now);
            self.outputs.push_back(ServingOutput::Refused(key));
        }
    }

    fn write(&mut self, index: ConnIndex) {
        loop {
            let mut bytes = Vec::new();
            let shared = self.shard.gather(index, usize::MAX, &mut bytes).to_vec();
            bytes.extend_from_slice(&shared);
            if bytes.is_empty() {
                return;
            }
            let more = self.shard.written(index, bytes.len());
            if let Some(&key) = self.slots.get(&index) {
                self.outputs.push_back(ServingOutput::Down { key, bytes });
            }
            if !more {
                return;
            }
        }
    }
}

fn settings(own: Generation) -> Settings {
    Settings {
        ping_interval_ms: 60_000,
        pong_timeout_ms: 20_000,
        idle_timeout_ms: 0,
        close_timeout_ms: 1_000,
        ack_timeout_ms: 1_000,
        ack_backoff: 1.5,
        forward_deadline_ms: 10_000,
        forward_queue: 4,
        forward_queue_bytes: 10_000,
        forward_ahead_bytes: 0,
        hash_key: HASH_KEY,
        node: own,
        forwards: true,
        inflight_window: 4,
        received_max: 100,
        answers_bytes_max: 10_000,
        message_bytes_max: 1_000,
        clients_memory_max: 1 << 20,
        outbox_bytes_max: 1 << 16,
        messages_per_second: 0,
        channels_per_connection: 4,
        sessions: SessionSettings { unix_ms_at_zero: UNIX_MS_AT_ZERO, store_after_ms: 300, ..Default::default() },
        limits: Limits::DEFAULT,
        mode: Mode::Packets,
    }
}

pub const HASH_KEY: HashKey = HashKey::new(3, 5);
const CALL_MS_MAX: u64 = 10_000;
const SEND_MS: u64 = 3_000;
