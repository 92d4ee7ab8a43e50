//! The traces that callers of this worker read. Lines come from the shards of all workers and wait here, so many for
//! each trace, until their caller has taken the ones before; what finds no room is counted, and the next entry says so.

use crate::base::id::ShardId;
use crate::base::time::Tick;
use crate::io::runtime::oneshot::{OneshotId, Oneshots};
use crate::io::worker::message::PeerMessage;
use crate::io::worker::peers::Peers;
use crate::metrics::worker::WorkerMetrics;
use crate::shard::{TraceEntry, TraceId};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

pub struct TraceReaders {
    worker: ShardId,
    open: RefCell<Vec<Rc<Queue>>>,
    /// Of the last trace that was opened.
    number: Cell<u64>,
    oneshots: Oneshots<()>,
}

struct Queue {
    id: TraceId,
    entries: RefCell<VecDeque<TraceEntry>>,
    lost: Cell<u64>,
    /// Its reader oneshots for an entry.
    wait: Cell<Option<OneshotId>>,
}

/// The reading end of a trace. Dropping it forgets what still comes.
pub struct TraceReader {
    readers: Rc<TraceReaders>,
    queue: Rc<Queue>,
}

/// Which worker reads a trace.
fn reader_of(id: TraceId) -> ShardId {
    ShardId((id.0 >> WORKER_SHIFT) as u16)
}

impl TraceReaders {
    pub fn new(worker: ShardId, now: Tick) -> TraceReaders {
        TraceReaders { worker, open: RefCell::default(), number: Cell::new(0), oneshots: Oneshots::new(now) }
    }

    pub fn open(self: &Rc<TraceReaders>) -> TraceReader {
        let number = self.number.get() + 1;
        self.number.set(number);
        let id = TraceId(u64::from(self.worker.0) << WORKER_SHIFT | number);
        let (entries, lost, wait) = Default::default();
        let queue = Rc::new(Queue { id, entries, lost, wait });
        self.open.borrow_mut().push(queue.clone());
        TraceReader { readers: self.clone(), queue }
    }

    /// To the worker whose caller reads the trace. An entry for which a mailbox or a slow reader has no room is lost.
    pub fn pass_on(&self, trace: TraceId, entry: Box<TraceEntry>, peers: &Peers, metrics: &WorkerMetrics) {
        let reader = reader_of(trace);
        let is_lost = match reader == self.worker {
            true => self.push(trace, *entry),
            false => peers.try_send(reader, PeerMessage::Traced { trace, entry }).is_err(),
        };
        metrics.trace_entries_lost.add(u64::from(is_lost));
    }

    /// An entry for a reader; true when it was lost. One whose reader has gone is nobody's.
    fn push(&self, id: TraceId, entry: TraceEntry) -> bool {
        let Some(queue) = self.open.borrow().iter().find(|queue| queue.id == id).cloned() else { return false };
        let is_full = queue.entries.borrow().len() >= ENTRIES_MAX;
        match is_full {
            true => queue.lost.set(queue.lost.get() + 1),
            false => queue.entries.borrow_mut().push_back(entry),
        }
        if let Some(wait) = queue.wait.take() {
            self.oneshots.complete(wait, ());
        }
        is_full
    }

    pub fn expire(&self, now: Tick) {
        self.oneshots.expire(now);
    }
}

impl TraceReader {
    pub fn id(&self) -> TraceId {
        self.queue.id
    }

    /// Returns when there is an entry, or at the deadline.
    pub async fn wait(&self, deadline: Tick) {
        if self.queue.entries.borrow().is_empty() {
            let wait = self.readers.oneshots.open((), deadline);
            self.queue.wait.set(Some(wait.id()));
            let _ = wait.await;
        }
    }

    /// The entries so far, and how many were lost since the last time.
    pub fn take(&self) -> (VecDeque<TraceEntry>, u64) {
        (self.queue.entries.take(), self.queue.lost.take())
    }
}

impl Drop for TraceReader {
    fn drop(&mut self) {
        self.readers.open.borrow_mut().retain(|queue| queue.id != self.queue.id);
    }
}

const WORKER_SHIFT: u32 = 48;
/// Of one trace: some seconds of a busy one, well under a megabyte without bodies.
const ENTRIES_MAX: usize = 2_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{Happening, Seen};

    fn entry(at: u64) -> TraceEntry {
        let seen = Seen { what: Happening::Opened, message: None };
        TraceEntry { at: Tick(at), seen, identity: None, session: None, user: None, lost: 0 }
    }

    #[test]
    fn a_reader_that_is_slow_loses_lines_and_hears_how_many() {
        let readers = Rc::new(TraceReaders::new(ShardId(3), Tick(0)));
        let (reader, other) = (readers.open(), readers.open());
        assert_eq!((reader_of(reader.id()), reader_of(other.id())), (ShardId(3), ShardId(3)));
        let lost = (0..ENTRIES_MAX as u64 + 5).filter(|at| readers.push(reader.id(), entry(*at))).count();
        let (entries, shown) = reader.take();
        assert_eq!(
            (lost, shown, entries.len(), entries.back().map(|entry| entry.at)),
            (5, 5, ENTRIES_MAX, Some(Tick(ENTRIES_MAX as u64 - 1)))
        );
        assert_eq!(reader.take(), (VecDeque::new(), 0));
        assert_eq!(other.take(), (VecDeque::new(), 0), "each trace has its own");
        let id = reader.id();
        drop(reader);
        assert!(!readers.push(id, entry(1)), "nobody's");
    }
}
