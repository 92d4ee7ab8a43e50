//! The nodes that use the store: which of them live, and what those have left that do not. In a Redis cluster all of it
//! is kept per bucket, so that a claim and the burial of who claims are decided in one place.

use super::Redis;
use super::fault::Fault;
use super::keys::{Bucket, node_of, text_of};
use super::pipeline::Pipeline;
use super::scan;
use super::script::Script;
use super::{FORMAT, encoding};
use crate::base::id::Generation;
use crate::shard::command::StoredSession;
use crate::shard::ownership::Token;
use crate::store::opening::Sharing;
use crate::store::request::{NodeRecord, OrphanedSessions};
use redis::{Value, cmd};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tracing::warn;

/// What was there before this node.
pub struct Before {
    /// Lives of nodes that have ended, since this one has begun.
    pub predecessors: Vec<Generation>,
    pub is_format_1: bool,
}

/// How far the lists of dead nodes' sessions have been read.
#[derive(Default)]
pub struct OrphanScans(HashMap<Generation, OrphanScan>);

struct OrphanScan {
    page: u64,
    bucket: Bucket,
    cursor: u64,
}

impl Redis {
    /// From now on this node is one of the store's.
    pub fn register(&mut self) -> Result<Before, Fault> {
        let own = self.node.generation;
        let mut pipeline = Pipeline::default();
        for bucket in self.keys.buckets() {
            let keys = &self.keys;
            let names = [
                &keys.format(bucket)[..],
                &keys.writer(bucket),
                &keys.nodes(bucket),
                &keys.lease(bucket, own),
                &keys.writes(bucket, own),
            ];
            let args = (&[FORMAT][..], &text_of(own)[..], self.node.place.as_bytes(), LEASE_MS);
            pipeline.write(bucket, Script::Register, &names, args);
        }
        let mut predecessors = BTreeSet::new();
        let mut is_format_1 = false;
        for value in self.servers.exchange(&Pipeline::default(), &pipeline)? {
            match value {
                Value::Int(format) => {
                    return Err(self.broken(&format!(
                        "what lies there has format {format}, this version reads {FORMAT}. Start the version that \
                         wrote it, or name another database in store.url"
                    )));
                }
                Value::ServerError(error) => return Err(Fault::of_answer(&error)),
                Value::BulkString(_) => is_format_1 = true,
                value => predecessors.extend(self.predecessors(value)),
            }
        }
        if is_format_1 && self.keys.buckets().count() > 1 {
            return Err(self.broken(
                "what lies there has format 1, which this version can read from a single server only. Name another \
                 cluster_name or store.url, or start the version that wrote it",
            ));
        }
        Ok(Before { predecessors: predecessors.into_iter().collect(), is_format_1 })
    }

    /// `value`: pairs of generation and state.
    fn predecessors(&self, value: Value) -> Vec<Generation> {
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = redis::from_redis_value(value).unwrap_or_default();
        let is_ours =
            |state: &[u8]| self.node.sharing == Sharing::Alone || state.get(1..) == Some(self.node.place.as_bytes());
        let ended = pairs.iter().filter(|(_, state)| is_ours(state)).filter_map(|(node, _)| node_of(node));
        ended.filter(|node| *node != self.node.generation).collect()
    }

    /// Whatever they do now, they write no more.
    pub fn bury_all(&mut self, nodes: &[Generation]) -> Result<(), Fault> {
        for node in nodes {
            self.bury_by(*node, true)?;
        }
        Ok(())
    }

    /// False: its lease has not ended.
    fn bury_by(&mut self, node: Generation, force: bool) -> Result<bool, Fault> {
        let mut pipeline = Pipeline::default();
        for bucket in self.keys.buckets() {
            let names = [&self.keys.nodes(bucket)[..], &self.keys.lease(bucket, node)];
            let args = (&text_of(node)[..], if force { "1" } else { "0" });
            pipeline.write(bucket, Script::Bury, &names, args);
        }
        let values = self.servers.exchange(&Pipeline::default(), &pipeline)?;
        Ok(values.iter().all(|value| *value == Value::Int(1)))
    }

    pub fn forget_all(&mut self, nodes: &[Generation]) -> Result<(), Fault> {
        let mut pipeline = Pipeline::default();
        for bucket in self.keys.buckets() {
            for node in nodes {
                let keys = &self.keys;
                let names = [
                    &keys.nodes(bucket)[..],
                    &keys.lease(bucket, *node),
                    &keys.writes(bucket, *node),
                    &keys.owned(bucket, *node),
                    &keys.due_of(bucket, *node),
                ];
                pipeline.write(bucket, Script::ForgetNode, &names, &text_of(*node)[..]);
            }
        }
        if pipeline.is_empty() { Ok(()) } else { self.servers.exchange(&Pipeline::default(), &pipeline).map(drop) }
    }

    /// What format 1 did not have: names that lead to sessions.
    pub fn finish_migration(&mut self, sessions: &[StoredSession]) -> Result<(), Fault> {
        warn!(sessions = sessions.len(), "the data in Redis has format 1, and is brought to format {FORMAT}");
        for some in sessions.chunks(NAMES_AT_ONCE) {
            let mut pipeline = Pipeline::default();
            for StoredSession { row, .. } in some {
                let (bucket, name) = (self.keys.bucket_of_name(&row.name), self.keys.name(&row.name));
                pipeline.command(bucket, cmd("SET").arg(name).arg(&row.session.0.to_be_bytes()[..]));
            }
            self.servers.exchange(&Pipeline::default(), &pipeline)?;
        }
        let mut pipeline = Pipeline::default();
        for bucket in self.keys.buckets() {
            let keys = &self.keys;
            let names = [&keys.format(bucket)[..], &keys.writer(bucket), &keys.due(bucket)];
            pipeline.write(bucket, Script::Migrated, &names, &[FORMAT][..]);
        }
        self.servers.exchange(&Pipeline::default(), &pipeline).map(drop)
    }

    /// Renews this node's lease, and says which nodes there are. `None`: Redis does not answer.
    pub fn renew(&mut self) -> Option<Vec<NodeRecord>> {
        if self.has_permanent_fault {
            return None;
        }
        let renewed = self.connect().and_then(|()| self.try_renew());
        renewed.map_err(|fault| self.note_fault(fault)).ok()
    }

    fn try_renew(&mut self) -> Result<Vec<NodeRecord>, Fault> {
        let own = self.node.generation;
        let mut pipeline = Pipeline::default();
        for bucket in self.keys.buckets() {
            let names = [&self.keys.nodes(bucket)[..], &self.keys.leases(bucket)];
            pipeline.read(bucket, Script::Renew, &names, (&text_of(own)[..], LEASE_MS));
        }
        let mut nodes: BTreeMap<Generation, NodeRecord> = BTreeMap::new();
        for (bucket, value) in self.keys.buckets().zip(self.servers.exchange(&Pipeline::default(), &pipeline)?) {
            match value {
                Value::Array(_) => self.add_records(value, &mut nodes)?,
                Value::ServerError(error) => return Err(Fault::of_answer(&error)),
                buried => self.check_node(bucket, buried)?,
            }
        }
        Ok(nodes.into_values().collect())
    }

    /// A node has ended when it has in all buckets.
    fn add_records(&self, value: Value, nodes: &mut BTreeMap<Generation, NodeRecord>) -> Result<(), Fault> {
        type Record = (Vec<u8>, Vec<u8>, u64);
        let records = match value {
            Value::Array(fields) => fields.chunks(3).map(|record| Value::Array(record.to_vec())).collect(),
            _ => Vec::new(),
        };
        for record in records {
            let (node, state, remaining_ms): Record =
                redis::from_redis_value(record).map_err(|error| self.broken(&format!("the nodes: {error}")))?;
            let Some(generation) = node_of(&node) else { continue };
            let is_buried = state.first() == Some(&b'b');
            let known = nodes.entry(generation).or_insert(NodeRecord { generation, remaining_ms, is_buried });
            known.remaining_ms = known.remaining_ms.max(remaining_ms);
            known.is_buried &= is_buried;
        }
        Ok(())
    }

    /// Ends the life of a node whose lease has ended. False: it has not, or Redis does not answer.
    pub fn bury(&mut self, node: Generation) -> bool {
        self.on_nodes(|store| store.bury_by(node, false)).unwrap_or(false)
    }

    /// Nothing of a buried node is left.
    pub fn forget_node(&mut self, node: Generation) {
        self.orphan_scans.0.remove(&node);
        let _ = self.on_nodes(|store| store.forget_all(&[node]));
    }

    /// A page of a buried node's sessions; `from` is 0 or `next` of the last page. `None`: Redis does not answer.
    pub fn orphans(&mut self, node: Generation, from: u64) -> Option<OrphanedSessions> {
        self.on_nodes(|store| store.read_orphans(node, from))
    }

    fn on_nodes<T>(&mut self, work: impl FnOnce(&mut Redis) -> Result<T, Fault>) -> Option<T> {
        if self.has_permanent_fault {
            return None;
        }
        let done = self.connect().and_then(|()| work(self));
        done.map_err(|fault| self.note_fault(fault)).ok()
    }

    fn read_orphans(&mut self, node: Generation, from: u64) -> Result<OrphanedSessions, Fault> {
        let first = OrphanScan { page: 0, bucket: Bucket(0), cursor: 0 };
        let scan = self.orphan_scans.0.remove(&node).filter(|scan| from > 0 && scan.page == from).unwrap_or(first);
        let OrphanScan { page, bucket, cursor } = scan;
        let list = self.keys.owned(bucket, node);
        let (cursor, ids) = scan::some_ids(&mut self.servers, bucket, &list, cursor)?;
        let mut pipeline = Pipeline::default();
        ids.iter().for_each(|session| pipeline.command(bucket, cmd("GET").arg(self.keys.row(*session))));
        let rows = if ids.is_empty() { Vec::new() } else { self.servers.exchange(&Pipeline::default(), &pipeline)? };
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
            0 => self.keys.buckets().find(|next| next.0 == bucket.0 + 1).map(|bucket| (bucket, 0)),
            cursor => Some((bucket, cursor)),
        };
        let next = next.map(|(bucket, cursor)| {
            self.orphan_scans.0.insert(node, OrphanScan { page: page + 1, bucket, cursor });
            page + 1
        });
        Ok(OrphanedSessions { sessions, next })
    }
}

/// A lease that is not renewed ends after it (`cluster::ownership::lease` counts with it).
pub const LEASE_MS: u64 = 6_000;
/// `HEAD` of the scripts.
const ROW_HEAD: usize = 40;
const NAMES_AT_ONCE: usize = 1_000;
