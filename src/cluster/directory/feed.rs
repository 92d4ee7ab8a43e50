//! What one peer has been sent of our directory, and what it still has to be sent.
//!
//! A snapshot is read from the bitmap chunk by chunk while it changes: whatever changes before a chunk is read is in
//! it, and whatever changes later follows as a change. The queue of changes is limited; a peer that falls behind gets
//! a snapshot instead.
//!
//! A peer need not know of a change while everything may be here for it: from the begin of a snapshot to its end, as
//! the peer sees it. So it counts only once the peer has acknowledged the begin.

use super::bits::{Bitmap, Scratch};
use super::local::Batch;
use crate::wire::peer::frame::{ChangeNumber, Frame};
use std::collections::VecDeque;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Snapshot {
    Begin,
    Chunk(u32),
    Sent,
}

pub struct Feed {
    snapshot: Snapshot,
    queue: VecDeque<Arc<Batch>>,
    queue_bytes: usize,
    acknowledged: ChangeNumber,
    /// The peer has acknowledged anything: it knows of us.
    is_acknowledged: bool,
    /// The number of the snapshot's begin.
    begun: ChangeNumber,
    /// For the peer everything may be here, until it has the end of the snapshot.
    may_have_everything: bool,
    has_checksum_due: bool,
}

impl Default for Feed {
    fn default() -> Feed {
        Feed {
            snapshot: Snapshot::Begin,
            queue: VecDeque::new(),
            queue_bytes: 0,
            acknowledged: ChangeNumber::default(),
            is_acknowledged: false,
            begun: ChangeNumber::default(),
            may_have_everything: false,
            has_checksum_due: false,
        }
    }
}

impl Feed {
    /// A planted mistake: as if the peer had a snapshot.
    pub fn pretend_sent(&mut self) {
        self.snapshot = Snapshot::Sent;
    }

    /// Begins a snapshot, now or instead of the one that is on its way.
    pub fn restart(&mut self) {
        self.snapshot = Snapshot::Begin;
        self.queue.clear();
        self.queue_bytes = 0;
    }

    /// False if there was no room: a snapshot comes instead.
    pub fn push(&mut self, batch: &Arc<Batch>) -> bool {
        if self.snapshot == Snapshot::Begin {
            return true;
        }
        if self.queue_bytes + batch.bytes() > QUEUE_BYTES_MAX {
            self.restart();
            return false;
        }
        self.queue_bytes += batch.bytes();
        self.queue.push_back(Arc::clone(batch));
        true
    }

    /// The peer has lost the thread, and wants a snapshot.
    pub fn resync(&mut self) {
        self.restart();
        self.may_have_everything = true;
    }

    pub fn acknowledge(&mut self, number: ChangeNumber) {
        self.acknowledged = self.acknowledged.max(number);
        self.is_acknowledged = true;
        if matches!(self.snapshot, Snapshot::Chunk(_)) && number >= self.begun {
            self.may_have_everything = true;
        }
    }

    pub fn is_acknowledged(&self) -> bool {
        self.is_acknowledged
    }

    /// The peer knows of change `number`, or everything may be here for it.
    pub fn knows(&self, number: ChangeNumber) -> bool {
        self.may_have_everything || self.acknowledged >= number
    }

    pub fn request_checksum(&mut self) {
        self.has_checksum_due = true;
    }

    /// Appends the next frame, if there is one. `number` and `bitmap` are those of a turn that has ended.
    pub fn next_frame(
        &mut self,
        number: ChangeNumber,
        bitmap: &Bitmap,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> bool {
        if self.snapshot == Snapshot::Begin {
            self.restart();
            self.snapshot = Snapshot::Chunk(0);
            self.begun = number;
            Frame::SnapshotBegin { number, size_log2: bitmap.size_log2() }.encode_into(out);
            return true;
        }
        // Changes before a chunk: they were made before it is read.
        if let Some(batch) = self.queue.pop_front() {
            self.queue_bytes -= batch.bytes();
            let (number, size_log2) = (batch.number, batch.size_log2);
            Frame::Changes { number, size_log2, changes: batch.changes() }.encode_into(out);
            return true;
        }
        match self.snapshot {
            Snapshot::Chunk(index) if index < bitmap.chunks() => {
                let encoded = bitmap.encode_chunk(index, scratch);
                Frame::Chunk { index, chunk: scratch.chunk(encoded) }.encode_into(out);
                self.snapshot = Snapshot::Chunk(index + 1);
                true
            }
            Snapshot::Chunk(_) => {
                Frame::SnapshotEnd { number, checksum: bitmap.checksum() }.encode_into(out);
                self.snapshot = Snapshot::Sent;
                if std::mem::take(&mut self.may_have_everything) {
                    // Until it has the end; then it has all changes up to this one.
                    self.acknowledged = self.acknowledged.max(number);
                }
                true
            }
            Snapshot::Sent if std::mem::take(&mut self.has_checksum_due) => {
                Frame::Checksum { number, checksum: bitmap.checksum() }.encode_into(out);
                true
            }
            _ => false,
        }
    }
}

/// A quarter of a million changes; a snapshot of a million channels is twice as long.
const QUEUE_BYTES_MAX: usize = 1 << 20;
