//! /send/ and its like: who is meant, who has answered, and what the reply therefore must be.

use crate::connection::{Answer, ConnectionId, Stage};
use crate::peer::body_of;
use crate::world::{CHANNELS, Event, HASH_KEY, World, channel_name};
use rainbow::base::id::Identity;
use rainbow::base::time::Tick;
use rainbow::shard::{Input, Message, Query, QueryId, QueryRefusal, Reply, Terms};
use rainbow::wire::packet::QoS;
use rainbow::wire::ws::frame::CloseCode;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A fan-out's last slices.
const SLICES_MS: u64 = 20;

#[derive(Default)]
pub struct Calls {
    /// By token, which is the ticket too.
    calls: BTreeMap<u64, Call>,
    /// Per shard, the calls that ever came.
    arrivals: u64,
}

struct Call {
    channel: usize,
    qos: QoS,
    deadline: u64,
    /// Long enough for every client that lives, however much it loses.
    patient: bool,
    begun: u64,
    parts: HashMap<usize, Part>,
    /// Shards that got it and have not replied; their replies added up.
    open: usize,
    sum: Option<Reply>,
    /// Targets of it that were refused.
    refused: u32,
}

struct Part {
    arrival: u64,
    /// Who may get it.
    targets: Vec<ConnectionId>,
    /// Those among them who have been members all the time.
    always: Vec<ConnectionId>,
    answered: HashSet<ConnectionId>,
    /// Answers that came with the bytes that closed the connection: they may count or not.
    doubtful: HashSet<ConnectionId>,
    data: String,
    replied: bool,
}

impl Calls {
    /// A message's channel, and its number among those that came to that shard.
    pub fn origin(&self, token: u64, node: usize) -> (usize, u64) {
        let call = self.calls.get(&token).expect("a client hears what was sent");
        (call.channel, call.parts.get(&node).expect("the shard got it").arrival)
    }

    pub fn channel(&self, token: u64) -> usize {
        self.calls[&token].channel
    }

    /// The run that carries it begins later than the call came.
    pub fn retarget(&mut self, token: u64, node: usize, targets: Vec<ConnectionId>) {
        let part = self.calls.get_mut(&token).and_then(|call| call.parts.get_mut(&node)).expect("it has come");
        if !part.replied {
            (part.always, part.targets) = (targets.clone(), targets);
        }
    }

    /// Before a slice of fan-out: a run that begins now is for those who are members now.
    fn note_members(&mut self, token: u64, node: usize, members: &[ConnectionId]) {
        let part = self.calls.get_mut(&token).and_then(|call| call.parts.get_mut(&node)).expect("it has come");
        part.always.retain(|id| members.contains(id));
        let new = members.iter().filter(|id| !part.targets.contains(id)).copied().collect::<Vec<_>>();
        part.targets.extend(new);
    }

    /// Calls that a shard has not replied to, and their channels.
    fn open_calls(&self, node: usize) -> Vec<(u64, usize)> {
        let open = |call: &Call| call.parts.get(&node).is_some_and(|part| !part.replied);
        self.calls.iter().filter(|(_, call)| open(call)).map(|(token, call)| (*token, call.channel)).collect()
    }

    pub fn all_replied(&self) -> bool {
        self.calls.values().all(|call| call.open == 0)
    }

    /// Did the client's answer count?
    pub fn was_answered(&self, token: u64, node: usize, id: ConnectionId) -> bool {
        self.calls.get(&token).and_then(|call| call.parts.get(&node)).is_some_and(|part| part.answered.contains(&id))
    }
}

impl World {
    /// The business server sends a message to a channel: every shard that has members there gets it.
    pub fn call(&mut self) {
        let channel = self.rng.below(CHANNELS as u64) as usize;
        let qos = QoS::from_u8(self.rng.below(3) as u8).expect("0, 1 or 2");
        let patient = self.rng.chance(50);
        let timeout = if patient { 400_000 } else { 500 + self.rng.below(15_000) };
        let token = self.next_token;
        self.next_token += 1;
        self.trace(format_args!("call {token} to {}, {qos:?}, within {timeout}", channel_name(channel)));
        let hash = HASH_KEY.hash(channel_name(channel));
        let shards: Vec<usize> = (0..self.nodes.len()).filter(|&node| self.nodes[node].has_presence(hash)).collect();
        let missed =
            (0..self.nodes.len()).find(|node| !shards.contains(node) && !self.members(*node, channel).is_empty());
        assert_eq!(missed, None, "a shard with members of a channel is known for it, by the channel's hash");
        let (begun, deadline) = (self.now, self.now + timeout);
        let open = shards.len();
        let call = Call { channel, qos, deadline, patient, begun, parts: HashMap::new(), open, sum: None, refused: 0 };
        self.calls.calls.insert(token, call);
        self.seen.calls += 1;
        for node in shards {
            if self.rng.chance(3) {
                self.trace(format_args!("the mailbox of shard {node} is full"));
                self.seen.mailboxes_full += 1;
                self.add_up(token, Reply::not_sent(1, QueryRefusal::TooBusy));
                continue;
            }
            let delay = self.rng.below(4);
            self.at(self.now + delay, Event::CallArrives { node, token });
        }
    }

    /// The call reaches one shard.
    pub fn on_call(&mut self, node: usize, token: u64) {
        let (channel, qos, deadline) = {
            let call = &self.calls.calls[&token];
            (call.channel, call.qos, Tick(call.deadline))
        };
        let targets = self.members(node, channel);
        self.nodes[node].watching.on_call(channel, targets.len(), self.now);
        let arrival = self.calls.arrivals;
        self.calls.arrivals += 1;
        let call = self.calls.calls.get_mut(&token).expect("just looked at");
        let part = Part {
            arrival,
            always: targets.clone(),
            targets,
            answered: HashSet::new(),
            doubtful: HashSet::new(),
            data: String::new(),
            replied: false,
        };
        call.parts.insert(node, part);
        let message = Message::encode(qos, (token % 1000) as u16, &body_of(token, "d"), &mut Vec::new());
        let (query_id, name, terms) = (QueryId(token), channel_name(channel), Terms::from(deadline));
        let input = match self.rng.chance(50) {
            true => Input::Send { query_id, channel: name, message, terms: &terms },
            false => {
                Input::Query { query_id, query: Query::Send { channel: name.into(), message, terms: terms.clone() } }
            }
        };
        self.nodes[node].input(input, self.now);
        self.turn(node);
    }

    pub fn note_members(&mut self, node: usize) {
        for (token, channel) in self.calls.open_calls(node) {
            let members = self.members(node, channel);
            self.calls.note_members(token, node, &members);
        }
    }

    /// Who is in the channel; the model has to agree.
    pub fn members(&mut self, node: usize, channel: usize) -> Vec<ConnectionId> {
        let query =
            Query::Members { channel: channel_name(channel).into(), offset: 0, limit: usize::MAX, counts: false };
        let Reply::Members { total, members, .. } = self.query(node, query) else { panic!("members were asked for") };
        assert_eq!(total, members.len());
        let members: Vec<ConnectionId> =
            members.iter().map(|member| self.connection_named(node, &member.identity)).collect();
        for &id in &members {
            let joined = self.joined.contains(&(id, channel));
            assert!(joined, "connection {id} is in {}, nobody put it there", channel_name(channel));
        }
        for id in self.here(node) {
            let stays = self.joined.contains(&(id, channel)) && !self.leaving.contains(&(id, channel));
            if stays && !members.contains(&id) {
                assert!(
                    !self.is_open(id) && self.connections[id].stage != Stage::Connecting,
                    "connection {id} fell out of a channel"
                );
            }
        }
        members
    }

    pub fn is_open(&mut self, id: ConnectionId) -> bool {
        let (node, identity) = (self.connections[id].node, self.connections[id].identity);
        self.query(node, Query::Exists { who: identity.into() }) == Reply::done(1)
    }

    /// The server has read the whole answer. `sure`: the connection was open all the while.
    pub fn on_answer_read(&mut self, id: ConnectionId, answer: Answer, sure: bool) {
        let call = self.calls.calls.get_mut(&answer.token).expect("a client answers what it got");
        let part = call.parts.get_mut(&self.connections[id].node).expect("the shard got it");
        assert!(part.targets.contains(&id), "connection {id} was not meant by {}", answer.token);
        if part.replied || part.answered.contains(&id) {
            return;
        }
        if !sure {
            part.doubtful.insert(id);
            return;
        }
        part.answered.insert(id);
        if part.data.is_empty() {
            part.data = answer.body;
        }
    }

    pub fn on_reply(&mut self, node: usize, token: u64, reply: Reply) {
        self.trace(format_args!("shard {node} replies {reply:?} to {token}"));
        let call = self.calls.calls.get(&token).expect("a reply to a call");
        let part = call.parts.get(&node).expect("a reply of a shard that got it");
        assert!(!part.replied, "one reply to one call");
        let in_time = call.deadline.max(self.nodes[node].stalled) + SLICES_MS;
        assert!(self.now <= in_time, "{token}: replied to {} ms too late", self.now - in_time);
        let Reply::Sent { tally, data } = &reply else { panic!("{token} was refused: {reply:?}") };
        if self.slices && tally.refused > 0 {
            assert_eq!((tally.refused, tally.connections), (tally.targets, 0), "all or nothing");
            return self.on_refused(node, token, reply);
        }
        assert_eq!((tally.refused, tally.undecided), (0, 0), "{token}");
        let connections = &tally.connections;
        let (least, most) = match call.qos {
            QoS::AtMostOnce => (part.targets.len(), part.targets.len()),
            _ => (part.answered.len(), part.answered.len() + part.doubtful.len()),
        };
        assert!(
            (least..=most).contains(&(*connections as usize)),
            "{token}: {least}..={most} answered, {connections} reported"
        );
        if part.doubtful.is_empty() {
            assert_eq!(String::from_utf8_lossy(data), part.data, "the first reply that says something");
        }
        if call.patient && call.qos != QoS::AtMostOnce {
            let (begun, silent) = (call.begun, part.always.iter().filter(|id| !part.answered.contains(id)));
            for id in silent.copied().collect::<Vec<_>>() {
                assert!(!self.lives_unhindered(id, begun), "connection {id} lives, and {token} was not delivered");
            }
        }
        let call = self.calls.calls.get_mut(&token).expect("just looked at");
        call.parts.get_mut(&node).expect("just looked at").replied = true;
        self.add_up(token, reply);
    }

    fn add_up(&mut self, token: u64, reply: Reply) {
        let call = self.calls.calls.get_mut(&token).expect("a reply to a call");
        let Reply::Sent { tally, .. } = &reply else { panic!("{token} was refused: {reply:?}") };
        call.refused += tally.refused;
        call.open -= 1;
        match &mut call.sum {
            Some(sum) => sum.add(reply),
            None => call.sum = Some(reply),
        }
        if call.open == 0 {
            let total: usize = match call.qos {
                QoS::AtMostOnce => call.parts.values().map(|part| part.targets.len()).sum(),
                _ => call.parts.values().map(|part| part.answered.len()).sum(),
            };
            let doubtful: usize = call.parts.values().map(|part| part.doubtful.len()).sum();
            let Some(Reply::Sent { tally, .. }) = &call.sum else { panic!("replies of one kind") };
            assert!((total..=total + doubtful).contains(&(tally.connections as usize)), "replies add up");
            assert_eq!(tally.refused, call.refused, "{token}: what was refused is in the sum");
        }
    }

    /// Too much waits for fan-out already.
    fn on_refused(&mut self, node: usize, token: u64, reply: Reply) {
        let call = self.calls.calls.get_mut(&token).expect("just looked at");
        let part = call.parts.get_mut(&node).expect("just looked at");
        assert!(part.answered.is_empty() && part.doubtful.is_empty(), "{token} was refused and delivered");
        part.replied = true;
        part.targets.clear();
        self.seen.calls_refused += 1;
        self.add_up(token, reply);
    }

    /// Nothing on its side can have prevented an answer since then.
    fn lives_unhindered(&mut self, id: ConnectionId, since: u64) -> bool {
        let connection = &self.connections[id];
        let well = connection.hindered < since && !connection.paused && !connection.fin && connection.frozen <= since;
        well && connection.stage == Stage::Open && self.is_open(id)
    }

    /// The rest of what a business server can ask for.
    pub fn control(&mut self) {
        let channel = self.rng.below(CHANNELS as u64) as usize;
        let Some(id) = self.some_connection() else { return };
        let (node, identity) = (self.connections[id].node, self.connections[id].identity);
        let name = channel_name(channel);
        match self.rng.below(12) {
            0..=4 => {
                let open = self.is_open(id);
                let reply = self.query(node, Query::Subscribe { who: identity.into(), channel: name.into() });
                assert_eq!(reply, Reply::done(u32::from(open)));
                if open {
                    self.joined.insert((id, channel));
                }
            }
            5..=6 => {
                self.query(node, Query::Unsubscribe { who: identity.into(), channel: name.into() });
                if self.is_open(id) {
                    self.joined.remove(&(id, channel));
                }
            }
            7..=8 => self.occupy(id, channel),
            9..=10 => {
                let open = self.is_open(id);
                let kick = Query::Kick { identity, code: CloseCode(4001), reason: "kicked".into() };
                assert_eq!(self.query(node, kick), Reply::done(u32::from(open)));
            }
            _ => {
                let members = self.members(node, channel).len() as u32;
                let kick = Query::KickChannel { channel: name.into(), code: CloseCode(4002), reason: "all".into() };
                let reply = self.query(node, kick);
                if let (true, Reply::Refused(_)) = (self.slices, &reply) {
                    return self.turn(node);
                }
                assert_eq!(reply, Reply::done(members));
                if !self.slices && members > 0 && self.rng.chance(50) {
                    self.nodes[node].kick_begins(channel);
                    return self.at(self.now + 2, Event::Turn(node));
                }
            }
        }
        self.turn(node);
    }

    /// Everyone but one leaves a channel, on all shards.
    fn occupy(&mut self, keep: ConnectionId, channel: usize) {
        let identity: Identity = self.connections[keep].identity;
        for node in 0..self.nodes.len() {
            let leaving: Vec<ConnectionId> = self.members(node, channel).into_iter().filter(|&id| id != keep).collect();
            self.leaving = leaving.iter().map(|&id| (id, channel)).collect();
            let now = self.now;
            self.nodes[node].evict(channel_name(channel), identity, now);
            let mut turns = 0;
            let reply = loop {
                self.turn(node);
                turns += 1;
                if let Some(reply) = self.nodes[node].evicted.take() {
                    break reply;
                }
                assert!(turns < 10_000, "an eviction ends");
            };
            self.leaving.clear();
            match reply {
                Reply::Refused(_) if self.slices => continue,
                // Some may have gone by themselves.
                Reply::Done { connections, refused: None } => {
                    assert!(
                        connections as usize <= leaving.len() && (self.slices || connections as usize == leaving.len())
                    );
                }
                other => panic!("{other:?}"),
            }
            self.seen.sliced_evictions += u64::from(turns > 1);
            for id in leaving {
                self.joined.remove(&(id, channel));
            }
            assert!(self.members(node, channel).iter().all(|&id| id == keep), "everyone else has left");
            self.turn(node);
        }
    }
}
