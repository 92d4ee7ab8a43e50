//! Somebody looks: traces of connections and channels, and channels that are counted. What traces say must be of whom
//! they follow, in their time; what is counted must be what was sent.

use crate::world::{CHANNELS, World, channel_name};
use rainbow::base::time::Tick;
use rainbow::shard::channel::traffic::{Traffic, WATCH_MS};
use rainbow::shard::{Happening, Query, Reply, TraceEntry, TraceId, TraceTarget, TraceTerms};
use std::collections::BTreeMap;

/// Of one shard.
#[derive(Default)]
pub struct Watching {
    traces: BTreeMap<u64, TraceTerms>,
    begun: u64,
    /// By channel.
    counted: BTreeMap<usize, Counted>,
}

/// What was sent since the first look.
#[derive(Default)]
struct Counted {
    ends: u64,
    traffic: Traffic,
}

impl Watching {
    /// A message for so many members of a channel has come.
    pub fn on_call(&mut self, channel: usize, members: usize, now: u64) {
        let counted = self.counted.get_mut(&channel).filter(|counted| now < counted.ends && members > 0);
        if let Some(Counted { traffic, .. }) = counted {
            traffic.messages += 1;
            traffic.deliveries += members as u64;
        }
    }

    /// As much of a body as some trace shows.
    fn body_bytes(&self) -> usize {
        self.traces.values().map(|terms| terms.body_bytes).max().unwrap_or(0)
    }
}

impl World {
    pub fn watch(&mut self, node: usize) {
        match self.rng.below(6) {
            0..=2 => self.begin_trace(node),
            3 => self.end_trace(node),
            _ => self.look_at_channel(node),
        }
        self.turn(node);
    }

    fn begin_trace(&mut self, node: usize) {
        let target = match self.some_connection().filter(|_| self.rng.chance(50)) {
            Some(id) => TraceTarget::Identity(self.connections[id].identity),
            None => TraceTarget::Channel(channel_name(self.rng.below(CHANNELS as u64) as usize).into()),
        };
        let (ends, body_bytes) = (Tick(self.now + 1 + self.rng.below(20_000)), self.rng.below(8) as usize);
        let terms = TraceTerms { target, ends, body_bytes };
        let watching = &mut self.nodes[node].watching;
        watching.begun += 1;
        let id = watching.begun;
        watching.traces.insert(id, terms.clone());
        self.trace(format_args!("trace {id} of shard {node} begins: {terms:?}"));
        assert_eq!(self.query(node, Query::Trace { id: TraceId(id), terms }), Reply::found(true));
    }

    fn end_trace(&mut self, node: usize) {
        let Some((id, terms)) = self.nodes[node].watching.traces.pop_first() else { return };
        let reply = self.query(node, Query::EndTrace { id: TraceId(id) });
        let is_open = terms.ends > Tick(self.now);
        // One whose time is over may not have been noticed.
        assert!(reply == Reply::found(true) || !is_open && reply == Reply::found(false), "{reply:?}");
    }

    pub fn on_traced(&mut self, node: usize, TraceId(trace): TraceId, entry: &TraceEntry) {
        self.trace(format_args!("trace {trace} of shard {node}: {entry:?}"));
        self.seen.traced += 1;
        let Some(terms) = self.nodes[node].watching.traces.get(&trace) else { panic!("trace {trace} has ended") };
        assert!(entry.at < terms.ends && entry.at <= Tick(self.now), "in its time");
        let shown = entry.seen.message.as_ref().map_or(0, |message| message.body.len());
        assert!(shown <= self.nodes[node].watching.body_bytes(), "no more of a body than is allowed");
        match (&terms.target, entry.identity) {
            (TraceTarget::Identity(followed), identity) => assert_eq!(identity.as_ref(), Some(followed)),
            (TraceTarget::Channel(_), Some(identity)) => drop(self.connection_named(node, &identity)),
            (TraceTarget::Channel(_), None) => assert_eq!(entry.seen.what, Happening::Called),
            (TraceTarget::Session(name), _) => panic!("{name}: there are no sessions here"),
        }
    }

    fn look_at_channel(&mut self, node: usize) {
        let (channel, now) = (self.rng.below(CHANNELS as u64) as usize, self.now);
        let query = Query::Members { channel: channel_name(channel).into(), offset: 0, limit: 0, counts: true };
        let Reply::Members { traffic, members, .. } = self.query(node, query) else { panic!("members were asked for") };
        assert!(members.is_empty(), "no more than was asked for");
        let traffic = traffic.expect("there are fewer channels than may be looked at");
        let counted = self.nodes[node].watching.counted.entry(channel).or_default();
        if now >= counted.ends {
            *counted = Counted::default();
        }
        counted.ends = now + WATCH_MS;
        let sent = counted.traffic;
        self.seen.counted += traffic.deliveries;
        if self.slices {
            // What finds no room is refused.
            assert!(
                traffic.messages <= sent.messages && traffic.deliveries <= sent.deliveries,
                "{traffic:?} of {sent:?}"
            );
        } else {
            assert_eq!(traffic, sent, "{}", channel_name(channel));
        }
    }
}
