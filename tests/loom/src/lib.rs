//! Every interleaving of the mailboxes' doorbell. A package of its own: with `--cfg loom` nothing else of the server is
//! what it is.
#![cfg(all(test, loom))]

#[path = "../../../src/io/runtime/mailbox/asleep.rs"]
mod asleep;

use asleep::Asleep;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

/// Two senders, one receiver that rings itself when it finds something: it never sleeps with a message in the
/// mailbox and no ring.
#[test]
fn no_message_is_slept_over() {
    loom::model(|| {
        let asleep = Arc::new(Asleep::default());
        let messages = Arc::new(AtomicUsize::new(0));
        let rings = Arc::new(AtomicUsize::new(0));
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let (asleep, messages, rings) = (asleep.clone(), messages.clone(), rings.clone());
                thread::spawn(move || {
                    messages.fetch_add(1, Ordering::Relaxed);
                    if asleep.wake() {
                        rings.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        asleep.fall_asleep();
        if messages.load(Ordering::Relaxed) > 0 && asleep.wake() {
            rings.fetch_add(1, Ordering::Relaxed);
        }
        senders.into_iter().for_each(|sender| sender.join().expect("senders do not panic"));
        assert_eq!(rings.load(Ordering::Relaxed), 1, "one ring per sleep");
    });
}
