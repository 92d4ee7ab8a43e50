//! Whether a mailbox's receiver sleeps. `tests/loom` plays every interleaving of it.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Does the receiver sleep? Each side writes one thing and then reads the other's:
///
/// ```text
/// sender:   put message ── fence ── read "asleep"
/// receiver: "asleep" := true ── fence ── look for messages
/// ```
/// The fences are sequentially consistent, so at least one of them sees the other's write. The sender sees "asleep": it
/// rings (the swap lets one of many senders ring). It does not: then the receiver sees the message and does not sleep.
/// Both see: one needless ring, which the next sleep finds and returns from at once.
pub struct Asleep(AtomicBool);

impl Default for Asleep {
    fn default() -> Asleep {
        Asleep(AtomicBool::new(false))
    }
}

impl Asleep {
    pub fn fall_asleep(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// True when it was asleep: the caller has to ring.
    pub fn wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}
