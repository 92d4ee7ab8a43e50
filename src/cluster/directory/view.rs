//! What another life of a node has said of its channels.
//!
//! Until its snapshot is whole, everything may be there; so it is while no link works, since nobody says what changes
//! there. A node that is down keeps what was known last. Numbers that do not follow, another size, or a checksum that
//! differs: the view is not whole any more, and another snapshot is wanted.

use super::bits::{Bitmap, Table};
use crate::wire::peer::frame::{ChangeNumber, Changes, Chunk, SIZE_LOG2_MIN};
use std::sync::Arc;

/// What the receiver of a directory owes its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    Nothing,
    Acknowledge(ChangeNumber),
    Resync,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// No snapshot has begun, or the thread was lost.
    Lost,
    /// Chunks below this one have come.
    Snapshot {
        next: u32,
    },
    Following,
}

pub struct View {
    bitmap: Bitmap,
    progress: Progress,
    number: ChangeNumber,
}

impl Default for View {
    fn default() -> View {
        View { bitmap: Bitmap::new(SIZE_LOG2_MIN), progress: Progress::Lost, number: ChangeNumber::default() }
    }
}

impl View {
    pub fn table(&self) -> &Arc<Table> {
        self.bitmap.table()
    }

    pub fn is_whole(&self) -> bool {
        self.progress == Progress::Following
    }

    pub fn bytes(&self) -> usize {
        self.bitmap.bytes()
    }

    /// Forgets what is known: everything may be there.
    pub fn lose(&mut self) {
        self.progress = Progress::Lost;
        self.bitmap.set_complete(false);
    }

    /// No link: whatever happens there is not heard of.
    pub fn unlink(&mut self) {
        self.bitmap.set_complete(false);
    }

    /// Nothing happens there any more: what was known last is all there is.
    pub fn freeze(&mut self) {
        self.bitmap.set_complete(self.progress == Progress::Following);
    }

    pub fn begin(&mut self, number: ChangeNumber, size_log2: u8) -> Response {
        self.bitmap = Bitmap::new(size_log2);
        self.progress = Progress::Snapshot { next: 0 };
        self.number = number;
        Response::Acknowledge(number)
    }

    /// A planted mistake: as if all were known.
    pub fn trust(&mut self) {
        self.bitmap.set_complete(true);
    }

    pub fn chunk(&mut self, index: u32, chunk: Chunk<'_>) -> Response {
        let Progress::Snapshot { next } = self.progress else { return Response::Nothing };
        if index != next || !self.bitmap.apply_chunk(index, chunk) {
            return self.resync();
        }
        self.progress = Progress::Snapshot { next: next + 1 };
        Response::Nothing
    }

    pub fn end(&mut self, number: ChangeNumber, checksum: u64) -> Response {
        let Progress::Snapshot { next } = self.progress else { return Response::Nothing };
        if next != self.bitmap.chunks() || number != self.number || checksum != self.bitmap.checksum() {
            return self.resync();
        }
        self.progress = Progress::Following;
        self.bitmap.set_complete(true);
        Response::Acknowledge(number)
    }

    pub fn change(&mut self, number: ChangeNumber, size_log2: u8, changes: Changes<'_>) -> Response {
        if self.progress == Progress::Lost {
            return Response::Nothing;
        }
        if number != self.number.next() || size_log2 != self.bitmap.size_log2() {
            return self.resync();
        }
        self.number = number;
        for change in changes.iter() {
            self.bitmap.set(change.bit, change.is_set);
        }
        Response::Acknowledge(number)
    }

    pub fn check(&mut self, number: ChangeNumber, checksum: u64) -> Response {
        // The sender believes that its snapshot was whole.
        let is_true = number == self.number && checksum == self.bitmap.checksum();
        if self.progress == Progress::Following && is_true { Response::Nothing } else { self.resync() }
    }

    /// Loses a bit, as memory that fails would.
    #[cfg(test)]
    pub fn damage(&mut self, hash: u64) {
        let bit = self.bitmap.bit_of(hash);
        self.bitmap.set(bit, false);
    }

    fn resync(&mut self) -> Response {
        self.lose();
        Response::Resync
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::peer::frame::{CHUNK_BYTES, Change};

    const N: fn(u64) -> ChangeNumber = ChangeNumber;

    /// A view of nothing, after change 5.
    fn whole() -> View {
        let mut view = View::default();
        view.begin(N(5), SIZE_LOG2_MIN);
        view.chunk(0, Chunk::Bits(&[0; CHUNK_BYTES]));
        assert!(!view.is_whole() && view.table().may_have(7), "before its end it may have everything");
        assert_eq!(view.end(N(5), 0), Response::Acknowledge(N(5)));
        assert!(view.is_whole() && !view.table().may_have(7));
        view
    }

    fn change(view: &mut View, number: u64, size_log2: u8) -> Response {
        let encoded = Changes::encode([Change { bit: 0, is_set: true }].into_iter());
        view.change(N(number), size_log2, Changes::new(&encoded).expect("whole"))
    }

    #[test]
    fn changes_follow_each_other() {
        let mut view = whole();
        assert_eq!(change(&mut view, 6, SIZE_LOG2_MIN), Response::Acknowledge(N(6)));
        assert!(view.table().may_have(7));
        for (number, size_log2) in [(8, SIZE_LOG2_MIN), (6, SIZE_LOG2_MIN), (7, SIZE_LOG2_MIN + 1)] {
            let mut view = whole();
            change(&mut view, 6, SIZE_LOG2_MIN);
            assert_eq!(change(&mut view, number, size_log2), Response::Resync, "{number}");
            assert!(!view.is_whole() && view.table().may_have(u64::MAX), "what is lost may have everything");
            assert_eq!(change(&mut view, 7, SIZE_LOG2_MIN), Response::Nothing, "once is enough");
        }
    }

    #[test]
    fn a_snapshot_is_whole_or_nothing() {
        let mut view = View::default();
        assert_eq!(view.chunk(0, Chunk::Bits(&[0; CHUNK_BYTES])), Response::Nothing, "none has begun");
        view.begin(N(5), SIZE_LOG2_MIN + 1);
        view.chunk(0, Chunk::Bits(&[0; CHUNK_BYTES]));
        assert_eq!(view.end(N(5), 0), Response::Resync, "a chunk is missing");
        view.begin(N(5), SIZE_LOG2_MIN);
        assert_eq!(view.chunk(1, Chunk::Bits(&[0; CHUNK_BYTES])), Response::Resync, "outside");
        view.begin(N(5), SIZE_LOG2_MIN);
        view.chunk(0, Chunk::Bits(&[1; CHUNK_BYTES]));
        assert_eq!(view.end(N(5), 0), Response::Resync, "the checksum differs");
    }

    #[test]
    fn a_checksum_shows_what_was_lost() {
        let mut view = whole();
        assert_eq!(view.check(N(5), 0), Response::Nothing);
        assert_eq!(view.check(N(5), 1), Response::Resync);
        assert!(view.table().may_have(7));
        assert_eq!(whole().check(N(6), 0), Response::Resync);
    }
}
