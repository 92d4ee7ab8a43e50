//! Traces: what happens to the connections that somebody looks at, entry by entry, for a minute at most. Nobody traced
//! costs a shard one look at an empty list for each packet.
//!
//! A trace takes so many entries a second of a shard; more are counted instead. What an entry says of a message is its
//! type, QoS and size; its body only as far as the operator allows it (`TraceTerms`).

use crate::base::id::Identity;
use crate::base::time::Tick;
use crate::shard::message::Message;
use crate::wire::packet::{MessageId, QoS};
use std::sync::Arc;

/// Names a trace in all shards of a process; whoever reads it has drawn the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub u64);

/// Whom a trace follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceTarget {
    Identity(Identity),
    Session(Arc<str>),
    /// Everybody who is in it, and what is sent to it. A user's connections are those in the user's channel.
    Channel(Arc<str>),
}

/// Whom, until when, and how much of a body is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceTerms {
    pub target: TraceTarget,
    pub ends: Tick,
    pub body_bytes: usize,
}

/// The traces of a shard.
#[derive(Default)]
pub struct Traces {
    open: Vec<Trace>,
}

struct Trace {
    id: TraceId,
    terms: TraceTerms,
    /// When the second began in which `entries` were taken.
    second: Tick,
    entries: u32,
    /// Lines that were too many, since the last one that was taken.
    lost: u32,
}

/// What was seen of a connection, or of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub what: Happening,
    pub message: Option<SeenMessage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    Opened,
    Closed,
    /// The client has sent a message.
    FromClient,
    /// The backend has answered it: ACK or REC goes out.
    Answered,
    /// The backend has refused it for good.
    Refused,
    /// It has not been forwarded: the client's repeat tries again.
    Failed,
    /// A message goes to the client.
    ToClient,
    /// The client has acknowledged it: ACK or REC.
    Acknowledged,
    /// A call has sent a message to the channel or the session.
    Called,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenMessage {
    pub message_type: Option<u16>,
    pub qos: Option<QoS>,
    pub id: Option<MessageId>,
    pub dup: bool,
    /// Of its body.
    pub bytes: usize,
    /// As much of it as may be shown.
    pub body: Box<[u8]>,
}

/// An entry of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEntry {
    pub at: Tick,
    pub seen: Seen,
    /// `None`: it concerns no single connection.
    pub identity: Option<Identity>,
    pub session: Option<Arc<str>>,
    pub user: Option<Box<str>>,
    /// Lines before this one that were too many.
    pub lost: u32,
}

impl SeenMessage {
    pub fn of(message: &Message, shown: usize) -> SeenMessage {
        let (message_type, body) = message.parts();
        let seen = SeenMessage { message_type: Some(message_type), qos: Some(message.qos), ..SeenMessage::default() };
        seen.with_body(body, shown)
    }

    /// `shown`: so many bytes of it.
    pub fn with_body(self, body: &[u8], shown: usize) -> SeenMessage {
        SeenMessage { bytes: body.len(), body: body[..body.len().min(shown)].into(), ..self }
    }
}

impl Traces {
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    pub fn begin(&mut self, id: TraceId, terms: TraceTerms) {
        self.end(id);
        self.open.push(Trace { id, terms, second: Tick(0), entries: 0, lost: 0 });
    }

    /// As much of a body as some trace shows: the operator decides, for all of them.
    pub fn body_bytes(&self) -> usize {
        self.open.iter().map(|trace| trace.terms.body_bytes).max().unwrap_or(0)
    }

    /// True when it was there.
    pub fn end(&mut self, id: TraceId) -> bool {
        let before = self.open.len();
        self.open.retain(|trace| trace.id != id);
        self.open.len() < before
    }

    /// Those that follow what was seen and take one more entry now, each with the entries that it has lost before.
    /// Traces whose time is over end.
    pub fn take(&mut self, now: Tick, mut follows: impl FnMut(&TraceTarget) -> bool) -> Vec<(TraceId, u32)> {
        self.open.retain(|trace| now < trace.terms.ends);
        let following = self.open.iter_mut().filter(|trace| follows(&trace.terms.target));
        following.filter_map(|trace| Some((trace.id, trace.take(now)?))).collect()
    }
}

impl Trace {
    fn take(&mut self, now: Tick) -> Option<u32> {
        if now.since_ms(self.second) >= SECOND_MS {
            (self.second, self.entries) = (now, 0);
        }
        if self.entries >= ENTRIES_PER_SECOND {
            self.lost = self.lost.saturating_add(1);
            return None;
        }
        self.entries += 1;
        Some(std::mem::take(&mut self.lost))
    }
}

/// Of one trace in one shard: more than anybody reads, and little beside what a worker does in a second.
const ENTRIES_PER_SECOND: u32 = 500;
const SECOND_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn of_ann(ends: u64) -> TraceTerms {
        TraceTerms { target: TraceTarget::Session("ann".into()), ends: Tick(ends), body_bytes: 0 }
    }

    #[test]
    fn a_trace_takes_so_many_lines_a_second_and_counts_the_others() {
        let mut traces = Traces::default();
        traces.begin(TraceId(1), of_ann(60_000));
        let taken = (0..ENTRIES_PER_SECOND + 3).filter(|_| traces.take(Tick(5_000), |_| true) == [(TraceId(1), 0)]);
        assert_eq!(taken.count(), ENTRIES_PER_SECOND as usize);
        assert_eq!(traces.take(Tick(6_000), |_| true), [(TraceId(1), 3)]);
        assert_eq!(traces.take(Tick(6_000), |_| true), [(TraceId(1), 0)]);
        assert_eq!(traces.take(Tick(6_000), |_| false), []);
    }

    #[test]
    fn a_trace_ends_with_its_time_or_when_nobody_reads_it() {
        let mut traces = Traces::default();
        for (id, ends) in [(1, 100), (2, 200)] {
            traces.begin(TraceId(id), of_ann(ends));
        }
        assert_eq!(traces.take(Tick(100), |_| true), [(TraceId(2), 0)]);
        assert!(!traces.end(TraceId(1)) && traces.end(TraceId(2)) && traces.is_idle());
    }
}
