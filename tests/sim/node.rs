//! One shard and what its worker would know: who has which slot, outputs that wait, and the next tick.

use crate::connection::ConnectionId;
use crate::watching::Watching;
use rainbow::base::id::{ConnIndex, Identity, ShardId};
use rainbow::base::time::Tick;
use rainbow::shard::{Input, Output, Query, QueryId, Reply, Settings, Shard};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

pub const EVICTION: QueryId = QueryId(u64::MAX - 1);

/// One shard and what its worker would know.
pub struct Node {
    pub shard: Shard,
    pub settings: Settings,
    pub slots: HashMap<ConnIndex, ConnectionId>,
    pub stash: VecDeque<Output>,
    pub presence: HashMap<u64, i64>,
    pub tick_at: u64,
    /// Until then its worker does nothing; what comes for it waits.
    pub stalled: u64,
    /// Channels that are being kicked, and the calls that came behind that: their targets are those of the run.
    pub kicked: HashSet<usize>,
    pub behind: Vec<(u64, usize)>,
    pub stale: u64,
    pub watching: Watching,
    /// The reply to the last eviction.
    pub evicted: Option<Reply>,
}

impl Node {
    pub fn new(id: ShardId, settings: Settings, now: u64) -> Node {
        Node {
            shard: Shard::new(id, settings.clone(), Arc::default(), Tick(now)),
            settings,
            slots: HashMap::new(),
            stash: VecDeque::new(),
            presence: HashMap::new(),
            tick_at: u64::MAX,
            stalled: 0,
            kicked: HashSet::new(),
            behind: Vec::new(),
            stale: 0,
            watching: Watching::default(),
            evicted: None,
        }
    }

    pub fn input(&mut self, input: Input<'_>, now: u64) {
        self.shard.handle(input, Tick(now));
    }

    pub fn has_presence(&self, channel: u64) -> bool {
        self.presence.get(&channel).is_some_and(|count| *count > 0)
    }

    /// The shard says whether a channel has members here.
    pub fn note_presence(&mut self, channel: u64, here: bool) {
        *self.presence.entry(channel).or_default() += if here { 1 } else { -1 };
    }

    /// The kick is carried out with the next turn; until then calls queue up behind it.
    pub fn kick_begins(&mut self, channel: usize) {
        self.kicked.insert(channel);
    }

    pub fn next_output(&mut self) -> Option<Output> {
        self.stash.pop_front().or_else(|| self.shard.poll_output())
    }

    /// Everyone but one leaves a channel, in slices.
    pub fn evict(&mut self, channel: &str, keep: Identity, now: u64) {
        let query = Query::Evict { channel: channel.into(), keep: keep.into() };
        self.input(Input::Query { query_id: EVICTION, query }, now);
    }

    pub fn query(&mut self, query: Query, now: u64) -> Reply {
        let probe = QueryId(u64::MAX);
        self.input(Input::Query { query_id: probe, query }, now);
        let mut found = None;
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Reply { query_id, reply } if query_id == probe => found = Some(reply),
                other => self.stash.push_back(other),
            }
        }
        found.expect("a query is replied to at once")
    }
}
