//! The servers behind `store.url`, with one connection to each that has data: one server, the master that the sentinels
//! name, or the masters of a Redis cluster. A batch goes out on all connections at once, and is answered whole or not
//! at all. On a single server it is one transaction, not for its atomicity: Redis then syncs once for the batch and not
//! for every 16 kB that it reads (33,000 mutations a second became 45,000).
//!
//! The redis crate's own sentinel and cluster connections are not used. They hide on which connection a command went
//! and repeat it on another, while here the connection of a lost batch must be killed first, and WAITAOF must follow on
//! the very connection that wrote.

mod connection;
mod discovery;

use super::fault::Fault;
use super::keys::Bucket;
use super::pipeline::Pipeline;
use crate::config::Durability;
use crate::config::store_url::StoreUrl;
use crate::shard::command::UnixMs;
use connection::{ClientId, Requirements, ServerConnection, is_transient};
use discovery::{Layout, discover};
use redis::Value;
use tracing::info;

pub struct Servers {
    url: StoreUrl,
    buckets: Vec<Bucket>,
    durability: Durability,
    connections: Vec<ServerConnection>,
    /// Per bucket, the position of its connection.
    connection_of_bucket: Vec<usize>,
    /// Redis refused a transaction, as it is full or cannot write: each command is sent by itself.
    without_transactions: bool,
    /// Connections that were given up and may not have ended.
    stale: Vec<ClientId>,
}

impl Servers {
    pub fn new(url: StoreUrl, buckets: Vec<Bucket>, durability: Durability) -> Servers {
        Servers {
            url,
            buckets,
            durability,
            connections: Vec::new(),
            connection_of_bucket: Vec::new(),
            without_transactions: false,
            stale: Vec::new(),
        }
    }

    pub fn is_connected(&self) -> bool {
        !self.connections.is_empty()
    }

    /// For log and error texts.
    pub fn addresses(&self) -> String {
        self.connections.iter().map(ServerConnection::address).collect::<Vec<_>>().join(", ")
    }

    pub fn connect(&mut self) -> Result<(), Fault> {
        self.disconnect();
        self.try_connect().inspect_err(|_| self.disconnect())
    }

    fn try_connect(&mut self) -> Result<(), Fault> {
        self.without_transactions = false;
        let requirements = Requirements { durability: self.durability, cluster: self.url.is_cluster() };
        let Layout { masters, master_of_bucket } = discover(&self.url, self.buckets.iter().copied())?;
        self.connection_of_bucket = master_of_bucket;
        for master in &masters {
            let connection = ServerConnection::open(master, requirements, &mut self.stale)?;
            info!(address = connection.address(), "connected to Redis");
            self.connections.push(connection);
        }
        Ok(())
    }

    /// What the clock of the first showed when it was asked last whether it is full.
    pub fn time(&self) -> Option<UnixMs> {
        self.connections.first().and_then(ServerConnection::time)
    }

    /// Gives up all connections. What is in flight on them may or may not be done.
    pub fn disconnect(&mut self) {
        self.stale.extend(self.connections.drain(..).map(ServerConnection::into_client_id));
        let too_many = self.stale.len().saturating_sub(STALE_MAX);
        self.stale.drain(..too_many);
    }

    /// All of `first`, then all of `then`, per bucket in that order; one answer per command, in their order. After a
    /// fault it is not known what was done, and the connections are given up.
    pub fn exchange(&mut self, first: &Pipeline, then: &Pipeline) -> Result<Vec<Value>, Fault> {
        let answers = self.try_exchange(first, then);
        if answers.is_err() {
            self.disconnect();
        }
        answers
    }

    fn try_exchange(&mut self, first: &Pipeline, then: &Pipeline) -> Result<Vec<Value>, Fault> {
        let pipelines = [first, then];
        let writes = first.writes() || then.writes();
        if writes && self.connection_of_bucket.len() == 1 && !self.without_transactions {
            let transaction = pack(&pipelines, |_| true);
            if let Some(answers) = self.connections[0].transact(&transaction, first.len() + then.len())? {
                return self.unless_transient(answers);
            }
            self.without_transactions = true;
        }
        let sent = self.send(&pipelines, writes)?;
        // Each connection answers in the order of its commands.
        let mut answers: Vec<Value> = (0..first.len() + then.len()).map(|_| Value::Nil).collect();
        for (position, connection) in self.connections.iter_mut().enumerate().filter(|(position, _)| sent[*position]) {
            let buckets = pipelines.iter().flat_map(|pipeline| pipeline.buckets());
            let is_here = |bucket: &Bucket| self.connection_of_bucket[usize::from(bucket.0)] == position;
            for (answer, _) in answers.iter_mut().zip(buckets).filter(|(_, bucket)| is_here(bucket)) {
                *answer = connection.receive()?;
            }
            if writes {
                connection.receive_waitaof()?;
            }
        }
        self.unless_transient(answers)
    }

    /// Sends each connection its commands; returns which connections have got any.
    fn send(&mut self, pipelines: &[&Pipeline], writes: bool) -> Result<Vec<bool>, Fault> {
        let mut sent = Vec::new();
        for (position, connection) in self.connections.iter_mut().enumerate() {
            let packed = pack(pipelines, |bucket| self.connection_of_bucket[usize::from(bucket.0)] == position);
            sent.push(!packed.is_empty());
            if !packed.is_empty() {
                connection.send(&packed)?;
                if writes {
                    connection.send_waitaof()?;
                }
            }
        }
        Ok(sent)
    }

    fn unless_transient(&self, answers: Vec<Value>) -> Result<Vec<Value>, Fault> {
        let transient = answers.iter().find_map(|answer| match answer {
            Value::ServerError(error) if is_transient(error.code()) => Some(error),
            _ => None,
        });
        match transient {
            Some(error) => Err(Fault::Unanswered(format!("{}: {error}", self.addresses()))),
            None => Ok(answers),
        }
    }

    /// Whether one of the servers has reached its maxmemory.
    pub fn is_full(&mut self) -> Result<bool, Fault> {
        let mut full = Ok(false);
        for connection in &mut self.connections {
            full = full.and_then(|others| Ok(others | connection.is_full()?));
        }
        match full {
            Ok(full) => self.without_transactions &= full,
            Err(_) => self.disconnect(),
        }
        full
    }
}

fn pack(pipelines: &[&Pipeline], chosen: impl Fn(Bucket) -> bool) -> Vec<u8> {
    let mut packed = Vec::with_capacity(pipelines.iter().map(|pipeline| pipeline.bytes_len()).sum());
    pipelines.iter().for_each(|pipeline| pipeline.pack(&chosen, &mut packed));
    packed
}

/// Given-up connections that are remembered. To matter, a server that was never seen since would have to come back with
/// the oldest of them still open.
const STALE_MAX: usize = 1000;
