//! The nodes that use the store: which of them live, where they are reached, and what those have left that do not. In a
//! Redis cluster all of it is kept per bucket, so that a claim and the burial of who claims are decided in one place.

use super::encoding;
use super::fault::Fault;
use super::keys::{Bucket, Keys, node_of, text_of};
use super::pipeline::Pipeline;
use super::scan;
use super::script::Script;
use super::servers::Servers;
use crate::base::id::Generation;
use crate::shard::command::StoredSession;
use crate::shard::command::Token;
use crate::store::opening::{Sharing, StoreNode};
use crate::store::request::{ConnectionRecord, NodeRecord, OrphanedSessions};
use redis::{Value, cmd};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use tracing::warn;

/// The nodes as this one sees them.
pub struct Nodes {
    own: StoreNode,
    /// How far the lists of dead nodes' sessions have been read.
    scans: HashMap<Generation, OrphanScan>,
    /// Numbers the questions for connections: one that was not answered is asked again.
    taking: u64,
}

/// What was there before this node.
pub struct Before {
    /// Lives of nodes that have ended, since this one has begun.
    pub predecessors: Vec<Generation>,
    pub is_format_1: bool,
}

/// What was asked for, or that this life has been ended, by the answer of a bucket.
pub enum Answered<T> {
    Here(T),
    Ended(Bucket, Value),
}

struct OrphanScan {
    page: u64,
    bucket: Bucket,
    cursor: u64,
}

impl Nodes {
    pub fn new(own: StoreNode) -> Nodes {
        Nodes { own, scans: HashMap::new(), taking: 1 }
    }

    pub fn own(&self) -> Generation {
        self.own.generation
    }

    pub fn sharing(&self) -> Sharing {
        self.own.sharing
    }

    /// From now on this node is one of the store's.
    pub fn register(&self, servers: &mut Servers, keys: &Keys) -> Result<Before, Fault> {
        let own = self.own();
        let address = self.own.address.map(|address| format!("\n{address}")).unwrap_or_default();
        let place = format!("{}{address}", self.own.place);
        let mut pipeline = Pipeline::default();
        for bucket in keys.buckets() {
            let names = [
                &keys.format(bucket)[..],
                &keys.writer(bucket),
                &keys.nodes(bucket),
                &keys.lease(bucket, own),
                &keys.writes(bucket, own),
            ];
            let args = (&[FORMAT][..], &text_of(own)[..], place.as_bytes(), LEASE_MS);
            pipeline.write(bucket, Script::Register, &names, args);
        }
        let mut predecessors = BTreeSet::new();
        let mut is_format_1 = false;
        for value in servers.exchange(&Pipeline::default(), &pipeline)? {
            match value {
                Value::Int(format) => {
                    return Err(broken(
                        servers,
                        &format!(
                            "what lies there has format {format}, this version reads {FORMAT}. Start the version that \
                             wrote it, or name another database in store.url"
                        ),
                    ));
                }
                Value::ServerError(error) => return Err(Fault::of_answer(&error)),
                Value::BulkString(_) => is_format_1 = true,
                value => predecessors.extend(self.predecessors(value)),
            }
        }
        if is_format_1 && keys.buckets().count() > 1 {
            return Err(broken(
                servers,
                "what lies there has format 1, which this version can read from a single server only. Name another \
                 cluster_name or store.url, or start the version that wrote it",
            ));
        }
        Ok(Before { predecessors: predecessors.into_iter().collect(), is_format_1 })
    }

    /// `value`: pairs of generation and state.
    fn predecessors(&self, value: Value) -> Vec<Generation> {
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = redis::from_redis_value(value).unwrap_or_default();
        let is_ours = |state: &[u8]| self.sharing() == Sharing::Alone || parts_of(state).0 == self.own.place.as_bytes();
        let ended = pairs.iter().filter(|(_, state)| is_ours(state)).filter_map(|(node, _)| node_of(node));
        ended.filter(|node| *node != self.own()).collect()
    }

    /// A life of a node writes no more; unless forced, if its lease has ended. False: it has not.
    pub fn bury(&self, servers: &mut Servers, keys: &Keys, node: Generation, force: bool) -> Result<bool, Fault> {
        let mut pipeline = Pipeline::default();
        for bucket in keys.buckets() {
            let names = [&keys.nodes(bucket)[..], &keys.lease(bucket, node)];
            let args = (&text_of(node)[..], if force { "1" } else { "0" });
            pipeline.write(bucket, Script::Bury, &names, args);
        }
        let values = servers.exchange(&Pipeline::default(), &pipeline)?;
        Ok(values.iter().all(|value| *value == Value::Int(1)))
    }

    /// Nothing of a buried node is left.
    pub fn forget(&mut self, servers: &mut Servers, keys: &Keys, node: Generation) -> Result<(), Fault> {
        self.scans.remove(&node);
        let mut pipeline = Pipeline::default();
        for bucket in keys.buckets() {
            let names = [
                &keys.nodes(bucket)[..],
                &keys.lease(bucket, node),
                &keys.writes(bucket, node),
                &keys.owned(bucket, node),
                &keys.due_of(bucket, node),
                &keys.taken(bucket, node),
            ];
            pipeline.write(bucket, Script::ForgetNode, &names, &text_of(node)[..]);
        }
        servers.exchange(&Pipeline::default(), &pipeline).map(drop)
    }

    /// Renews this node's lease.
    pub fn renew(&self, servers: &mut Servers, keys: &Keys) -> Result<Answered<Vec<NodeRecord>>, Fault> {
        let own = self.own();
        let mut pipeline = Pipeline::default();
        for bucket in keys.buckets() {
            let names = [&keys.nodes(bucket)[..], &keys.leases(bucket)];
            pipeline.read(bucket, Script::Renew, &names, (&text_of(own)[..], LEASE_MS));
        }
        let mut nodes: BTreeMap<Generation, NodeRecord> = BTreeMap::new();
        for (bucket, value) in keys.buckets().zip(servers.exchange(&Pipeline::default(), &pipeline)?) {
            match value {
                Value::Array(fields) => add_records(servers, fields, &mut nodes)?,
                Value::ServerError(error) => return Err(Fault::of_answer(&error)),
                ended => return Ok(Answered::Ended(bucket, ended)),
            }
        }
        Ok(Answered::Here(nodes.into_values().collect()))
    }

    /// Some of a buried node's connections, which are this node's to report from now on; none when it has none left.
    pub fn take_connections(
        &mut self,
        servers: &mut Servers,
        keys: &Keys,
        node: Generation,
    ) -> Result<Answered<Vec<ConnectionRecord>>, Fault> {
        let mut pipeline = Pipeline::default();
        for bucket in keys.buckets() {
            let own = self.own();
            let names = [
                &keys.connections(bucket, node)[..],
                &keys.connections(bucket, own),
                &keys.taken(bucket, own),
                &keys.nodes(bucket),
            ];
            let args = (CONNECTIONS_AT_ONCE, self.taking, &text_of(own)[..]);
            pipeline.write(bucket, Script::TakeConnections, &names, args);
        }
        let values = servers.exchange(&Pipeline::default(), &pipeline)?;
        if let Some((bucket, word)) =
            keys.buckets().zip(&values).find(|(_, value)| matches!(value, Value::BulkString(_)))
        {
            return Ok(Answered::Ended(bucket, word.clone()));
        }
        let records = connection_records(servers, values)?;
        self.taking += 1;
        Ok(Answered::Here(records))
    }

    /// Those that are this node's to report.
    pub fn own_connections(&self, servers: &mut Servers, keys: &Keys) -> Result<Vec<ConnectionRecord>, Fault> {
        let mut pipeline = Pipeline::default();
        for bucket in keys.buckets() {
            pipeline.command(bucket, cmd("HGETALL").arg(keys.connections(bucket, self.own())));
        }
        let values = servers.exchange(&Pipeline::default(), &pipeline)?;
        connection_records(servers, values)
    }

    /// A page of a buried node's sessions; `from` is 0 or `next` of the last page.
    pub fn orphans(
        &mut self,
        servers: &mut Servers,
        keys: &Keys,
        node: Generation,
        from: u64,
    ) -> Result<OrphanedSessions, Fault> {
        let first = OrphanScan { page: 0, bucket: Bucket(0), cursor: 0 };
        let scan = self.scans.remove(&node).filter(|scan| from > 0 && scan.page == from).unwrap_or(first);
        let OrphanScan { page, bucket, cursor } = scan;
        let (cursor, ids) = scan::some_ids(servers, bucket, &keys.owned(bucket, node), cursor)?;
        let mut pipeline = Pipeline::default();
        ids.iter().for_each(|session| pipeline.command(bucket, cmd("GET").arg(keys.row(*session))));
        let rows = if ids.is_empty() { Vec::new() } else { servers.exchange(&Pipeline::default(), &pipeline)? };
        let mut sessions = Vec::new();
        for (session, row) in ids.into_iter().zip(rows) {
            // What cannot be read is nobody's; it stays where it lies.
            let Value::BulkString(row) = row else { continue };
            let Some((head, row)) = row.split_at_checked(ROW_HEAD) else { continue };
            let token = Token(encoding::decode_u64(head).unwrap_or(0));
            if token.owner() == Some(node)
                && let Some(row) = encoding::decode_row(session, row)
            {
                sessions.push((row.name, token));
            }
        }
        let next = match cursor {
            0 => keys.buckets().find(|next| next.0 == bucket.0 + 1).map(|bucket| (bucket, 0)),
            cursor => Some((bucket, cursor)),
        };
        let next = next.map(|(bucket, cursor)| {
            self.scans.insert(node, OrphanScan { page: page + 1, bucket, cursor });
            page + 1
        });
        Ok(OrphanedSessions { sessions, next })
    }
}

/// The answers are pairs of identity and record.
fn connection_records(servers: &Servers, values: Vec<Value>) -> Result<Vec<ConnectionRecord>, Fault> {
    let mut records = Vec::new();
    for value in values {
        let fields: Vec<(Vec<u8>, Vec<u8>)> = redis::from_redis_value(value)
            .map_err(|error| broken(servers, &format!("a node's connections: {error}")))?;
        records.extend(fields.iter().filter_map(|(identity, bytes)| encoding::decode_connection(identity, bytes)));
    }
    Ok(records)
}

/// A node has ended when it has in all buckets.
fn add_records(
    servers: &Servers,
    fields: Vec<Value>,
    nodes: &mut BTreeMap<Generation, NodeRecord>,
) -> Result<(), Fault> {
    type Record = (Vec<u8>, Vec<u8>, u64);
    for record in fields.chunks(3) {
        let (node, state, remaining_ms): Record = redis::from_redis_value(Value::Array(record.to_vec()))
            .map_err(|error| broken(servers, &format!("the nodes: {error}")))?;
        let Some(generation) = node_of(&node) else { continue };
        let is_buried = state.first() == Some(&b'b');
        let address = parts_of(&state).1;
        let known = nodes.entry(generation).or_insert(NodeRecord { generation, remaining_ms, is_buried, address });
        known.remaining_ms = known.remaining_ms.max(remaining_ms);
        known.is_buried &= is_buried;
    }
    Ok(())
}

/// Of a node's state: its place, and where it is reached.
fn parts_of(state: &[u8]) -> (&[u8], Option<SocketAddr>) {
    let mut parts = state.get(1..).unwrap_or_default().splitn(2, |&byte| byte == b'\n');
    let place = parts.next().unwrap_or_default();
    let address = parts.next().and_then(|address| std::str::from_utf8(address).ok()?.parse().ok());
    (place, address)
}

/// What format 1 did not have: names that lead to sessions.
pub fn finish_migration(servers: &mut Servers, keys: &Keys, sessions: &[StoredSession]) -> Result<(), Fault> {
    warn!(sessions = sessions.len(), "the data in Redis has format 1, and is brought to format {FORMAT}");
    for some in sessions.chunks(NAMES_AT_ONCE) {
        let mut pipeline = Pipeline::default();
        for StoredSession { row, .. } in some {
            let (bucket, name) = (keys.bucket_of_name(&row.name), keys.name(&row.name));
            pipeline.command(bucket, cmd("SET").arg(name).arg(&row.session.0.to_be_bytes()[..]));
        }
        servers.exchange(&Pipeline::default(), &pipeline)?;
    }
    let mut pipeline = Pipeline::default();
    for bucket in keys.buckets() {
        let names = [&keys.format(bucket)[..], &keys.writer(bucket), &keys.due(bucket)];
        pipeline.write(bucket, Script::Migrated, &names, &[FORMAT][..]);
    }
    servers.exchange(&Pipeline::default(), &pipeline).map(drop)
}

fn broken(servers: &Servers, problem: &str) -> Fault {
    Fault::broken(format!("{}: {problem}", servers.addresses()))
}

/// Of the layout (`store::redis`).
const FORMAT: u8 = 2;
/// A lease that is not renewed ends after it (`cluster::ownership::lease` counts with it).
pub const LEASE_MS: u64 = 6_000;
/// `HEAD` of the scripts.
const ROW_HEAD: usize = 40;
const NAMES_AT_ONCE: usize = 1_000;
const CONNECTIONS_AT_ONCE: usize = 100;
