//! The servers behind `store.url` and one line to each that is needed: one server, the master that the sentinels name,
//! or the masters of a cluster. A batch goes out on all lines at once and is answered whole or not at all. On one
//! server it is one transaction: not for its atomicity, but as Redis then syncs once for it and not for every 16 kB
//! that it reads (33,000 steps a second became 45,000).
//!
//! The redis crate's own sentinel and cluster connections are not used: they hide on which connection a command went
//! and repeat it on another, while here a lost batch's connection must be ended first, and WAITAOF must follow on the
//! very connection that wrote.

use super::Fault;
use super::line::{Demands, Here, Line, is_passing};
use super::place::{Place, at, slot_of};
use super::script::Script;
use crate::config::Durability;
use crate::shard::command::StoreError;
use redis::{Client, Cmd, ConnectionInfo, ToRedisArgs, Value, cmd};
use std::time::Duration;
use tracing::info;

pub struct Nodes {
    place: Place,
    durability: Durability,
    lines: Vec<Line>,
    /// Per bucket, which line.
    homes: Vec<usize>,
    /// Redis took no transaction, as it is full or cannot write: each step is answered by itself.
    single_steps: bool,
    /// Connections that were given up, not known to have ended.
    stale: Vec<Here>,
}

/// Script calls, packed, in the order in which they are to be done.
#[derive(Default)]
pub struct Calls {
    bytes: Vec<u8>,
    /// Of each call, its bucket and where its bytes end.
    ends: Vec<(u16, usize)>,
    writes: bool,
}

impl Calls {
    pub fn read<A: ToRedisArgs>(&mut self, bucket: u16, script: Script, keys: &[&[u8]], args: A) {
        script.call(keys, args, &mut self.bytes);
        self.ends.push((bucket, self.bytes.len()));
    }

    pub fn write<A: ToRedisArgs>(&mut self, bucket: u16, script: Script, keys: &[&[u8]], args: A) {
        self.read(bucket, script, keys, args);
        self.writes = true;
    }

    /// Writes, but nothing that anyone would have to wait for.
    pub fn look<A: ToRedisArgs>(&mut self, bucket: u16, script: Script, keys: &[&[u8]], args: A) {
        self.read(bucket, script, keys, args);
    }

    /// Any other command that reads.
    pub fn ask(&mut self, bucket: u16, question: &Cmd) {
        question.write_packed_command(&mut self.bytes);
        self.ends.push((bucket, self.bytes.len()));
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn writes(&self) -> bool {
        self.writes
    }

    /// The buckets it touches, each once, in ascending order.
    pub fn buckets(&self) -> Vec<u16> {
        let mut buckets: Vec<u16> = self.ends.iter().map(|(bucket, _)| *bucket).collect();
        buckets.sort_unstable();
        buckets.dedup();
        buckets
    }
}

impl Nodes {
    pub fn new(place: Place, durability: Durability) -> Nodes {
        Nodes { place, durability, lines: Vec::new(), homes: Vec::new(), single_steps: false, stale: Vec::new() }
    }

    pub fn is_connected(&self) -> bool {
        !self.lines.is_empty()
    }

    /// Where the lines lead, for messages to people.
    pub fn addresses(&self) -> String {
        self.lines.iter().map(|line| line.address.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub fn connect(&mut self) -> Result<(), Fault> {
        self.give_up();
        self.try_connect().inspect_err(|_| self.give_up())
    }

    fn try_connect(&mut self) -> Result<(), Fault> {
        self.single_steps = false;
        let demands = Demands { durability: self.durability, cluster: matches!(self.place, Place::Cluster { .. }) };
        let (masters, homes) = match &self.place {
            Place::One(info) => (vec![(**info).clone()], vec![0]),
            Place::Sentinel { sentinels, master, like } => (vec![ask_sentinels(sentinels, master, like)?], vec![0]),
            Place::Cluster { seeds } => ask_cluster(seeds, self.place.buckets())?,
        };
        self.homes = homes;
        for master in &masters {
            let line = Line::open(master, demands, &mut self.stale)?;
            info!(address = line.address, "connected to Redis");
            self.lines.push(line);
        }
        Ok(())
    }

    /// What is under way on the lines may or may not be done.
    pub fn give_up(&mut self) {
        self.stale.extend(self.lines.drain(..).map(|line| line.here));
        let too_many = self.stale.len().saturating_sub(STALE_MAX);
        self.stale.drain(..too_many);
    }

    /// All of `first`, then all of `then`, per bucket in that order; as many answers, in their order. A fault means
    /// that nobody knows what was done; the lines are given up.
    pub fn exchange(&mut self, first: &Calls, then: &Calls) -> Result<Vec<Value>, Fault> {
        let answers = self.try_exchange(first, then);
        if answers.is_err() {
            self.give_up();
        }
        answers
    }

    fn try_exchange(&mut self, first: &Calls, then: &Calls) -> Result<Vec<Value>, Fault> {
        let parts = [first, then];
        let writes = parts.iter().any(|calls| calls.writes);
        if writes && self.homes.len() == 1 && !self.single_steps {
            let whole = self.lines[0].transact(&pack(&parts, |_| true), first.len() + then.len())?;
            if let Some(answers) = whole {
                return self.unless_passing(answers);
            }
            self.single_steps = true;
        }
        let mut asked = Vec::new();
        for (at, line) in self.lines.iter_mut().enumerate() {
            let packed = pack(&parts, |bucket| self.homes[usize::from(bucket)] == at);
            asked.push(!packed.is_empty());
            if !packed.is_empty() {
                line.send(&packed)?;
                if writes {
                    line.send_wait()?;
                }
            }
        }
        // The answers come per line in the order of its calls.
        let mut answers: Vec<Value> = (0..first.len() + then.len()).map(|_| Value::Nil).collect();
        for (at, line) in self.lines.iter_mut().enumerate().filter(|(at, _)| asked[*at]) {
            let buckets = parts.iter().flat_map(|calls| calls.ends.iter().map(|(bucket, _)| *bucket));
            for (answer, _) in answers.iter_mut().zip(buckets).filter(|(_, to)| self.homes[usize::from(*to)] == at) {
                *answer = line.receive()?;
            }
            if writes {
                line.receive_wait()?;
            }
        }
        self.unless_passing(answers)
    }

    fn unless_passing(&self, answers: Vec<Value>) -> Result<Vec<Value>, Fault> {
        let passing = answers.iter().find_map(|answer| match answer {
            Value::ServerError(error) if is_passing(error.code()) => Some(error),
            _ => None,
        });
        passing.map_or(Ok(()), |error| Err(Fault::Lost(format!("{}: {error}", self.addresses())))).map(|()| answers)
    }

    /// Whether one of the servers has reached its maxmemory.
    pub fn is_full(&mut self) -> Result<bool, Fault> {
        let mut full = Ok(false);
        for line in &mut self.lines {
            full = full.and_then(|others| Ok(others | line.is_full()?));
        }
        match full {
            Ok(full) => self.single_steps &= full,
            Err(_) => self.give_up(),
        }
        full
    }
}

fn pack(parts: &[&Calls], here: impl Fn(u16) -> bool) -> Vec<u8> {
    let mut packed = Vec::with_capacity(parts.iter().map(|calls| calls.bytes.len()).sum());
    for calls in parts {
        let mut start = 0;
        for (bucket, end) in &calls.ends {
            if here(*bucket) {
                packed.extend_from_slice(&calls.bytes[start..*end]);
            }
            start = *end;
        }
    }
    packed
}

/// The master's address by the first sentinel that knows it. Whether it is one still, the line asks itself.
fn ask_sentinels(sentinels: &[ConnectionInfo], master: &str, like: &ConnectionInfo) -> Result<ConnectionInfo, Fault> {
    let question = cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master).to_owned();
    let mut said = Vec::new();
    for sentinel in sentinels {
        match ask_once(sentinel, &question) {
            Ok(Value::Nil) => said.push(format!("{}: no master is named {master}", sentinel.addr())),
            Ok(value) => match redis::from_redis_value::<(String, u16)>(value) {
                Ok((host, port)) => return Ok(at(like, &host, port)),
                Err(error) => said.push(format!("{}: {error}", sentinel.addr())),
            },
            Err(error) => said.push(error),
        }
    }
    Err(Fault::Lost(format!("no sentinel names the master {master} ({})", said.join("; "))))
}

/// The masters, and per bucket which of them has its slot.
fn ask_cluster(seeds: &[ConnectionInfo], buckets: u16) -> Result<(Vec<ConnectionInfo>, Vec<usize>), Fault> {
    let mut said = Vec::new();
    for seed in seeds {
        match ask_once(seed, cmd("CLUSTER").arg("SLOTS")) {
            Ok(Value::ServerError(error)) => {
                return Err(Fault::Refuse { reason: StoreError::Broken, detail: format!("{}: {error}", seed.addr()) });
            }
            Ok(value) => match lay_out(&value, seed, buckets) {
                Some(found) => return Ok(found),
                None => said.push(format!("{}: not all slots have a master", seed.addr())),
            },
            Err(error) => said.push(error),
        }
    }
    Err(Fault::Lost(format!("the cluster does not say where its slots are ({})", said.join("; "))))
}

/// `value`: rows of first slot, last slot, master (host, port, …), replicas. A host that is empty is the one asked.
fn lay_out(value: &Value, seed: &ConnectionInfo, buckets: u16) -> Option<(Vec<ConnectionInfo>, Vec<usize>)> {
    let Value::Array(rows) = value else { return None };
    let mut ranges = Vec::new();
    for row in rows {
        let Value::Array(row) = row else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &row[..] else { return None };
        let [host, Value::Int(port), ..] = &master[..] else { return None };
        let host = match host {
            Value::BulkString(host) if !host.is_empty() => String::from_utf8(host.clone()).ok()?,
            _ => host_of(seed)?,
        };
        ranges.push((*first..=*last, (host, u16::try_from(*port).ok()?)));
    }
    let (mut masters, mut homes) = (Vec::new(), Vec::new());
    for bucket in 0..buckets {
        let slot = i64::from(slot_of(bucket));
        let (_, master) = ranges.iter().find(|(range, _)| range.contains(&slot))?;
        homes.push(masters.iter().position(|known| known == master).unwrap_or(masters.len()));
        if homes.last() == Some(&masters.len()) {
            masters.push(master.clone());
        }
    }
    Some((masters.into_iter().map(|(host, port)| at(seed, &host, port)).collect(), homes))
}

fn host_of(info: &ConnectionInfo) -> Option<String> {
    match info.addr() {
        redis::ConnectionAddr::Tcp(host, _) => Some(host.clone()),
        _ => None,
    }
}

/// One question on a connection of its own.
fn ask_once(info: &ConnectionInfo, question: &Cmd) -> Result<Value, String> {
    let ask = || {
        let mut connection = Client::open(info.clone())?.get_connection_with_timeout(ASK_TIMEOUT)?;
        connection.set_read_timeout(Some(ASK_TIMEOUT))?;
        connection.send_packed_command(&question.get_packed_command())?;
        connection.recv_response()
    };
    ask().map_err(|error: redis::RedisError| format!("{}: {error}", info.addr()))
}

const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Given-up connections that are remembered. A server that was never seen again since would have to come back, with the
/// oldest of them still open, for it to matter.
const STALE_MAX: usize = 1000;
