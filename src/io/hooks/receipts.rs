//! Delivery receipts on their way to the business server: gathered for a moment, then told many at once. What the
//! backend does not take in time is dropped and counted; nothing waits for it.

use crate::base::time::Tick;
use crate::io::backend::{FinishedRequest, Hook, HookOutcome, HookRequest, RequestTag, Retry};
use crate::io::runtime::clock;
use crate::io::worker::turn::{Core, RECEIPT_TICKET};
use crate::policy::backend::Verdict;
use std::cell::{Cell, RefCell};

pub struct Receipts {
    batch: RefCell<Batch>,
    /// When the batch is told at the latest.
    due: Cell<Tick>,
    /// Batches with the backend.
    under_way: Cell<usize>,
}

#[derive(Default)]
struct Batch {
    /// The array so far, without its end.
    json: Vec<u8>,
    count: usize,
}

impl Default for Receipts {
    fn default() -> Receipts {
        Receipts { batch: RefCell::default(), due: Cell::new(Tick::NEVER), under_way: Cell::new(0) }
    }
}

impl Receipts {
    pub fn due(&self) -> Tick {
        self.due.get()
    }
}

impl Batch {
    fn push(&mut self, session: &str, message_id: Option<&str>, delivered_at_ms: u64) {
        self.json.push(if self.count == 0 { b'[' } else { b',' });
        self.count += 1;
        let receipt =
            serde_json::json!({"session": session, "message_id": message_id, "delivered_at": delivered_at_ms});
        // Writing to a vector cannot fail.
        let _ = serde_json::to_writer(&mut self.json, &receipt);
    }

    /// The array and how many are in it.
    fn take(&mut self) -> (Vec<u8>, usize) {
        let Batch { mut json, count } = std::mem::take(self);
        json.push(b']');
        (json, count)
    }
}

impl Core {
    pub fn add_receipt(&self, session: &str, message_id: Option<&str>) {
        if self.rules().config.receipt_url.is_empty() {
            return;
        }
        let mut batch = self.receipts.batch.borrow_mut();
        batch.push(session, message_id, clock::unix_ms().0);
        let count = batch.count;
        drop(batch);
        if count >= RECEIPTS_PER_BATCH {
            self.tell_receipts();
        } else if count == 1 {
            let due = self.clock.now() + GATHER_MS;
            self.receipts.due.set(due);
            self.due_by(due);
        }
    }

    pub fn tell_receipts_if_due(&self, now: Tick) {
        if now >= self.receipts.due() {
            self.tell_receipts();
        }
    }

    /// What has been gathered goes out.
    pub fn tell_receipts(&self) {
        self.receipts.due.set(Tick::NEVER);
        let mut batch = self.receipts.batch.borrow_mut();
        if batch.count == 0 {
            return;
        }
        let (body, count) = batch.take();
        drop(batch);
        if self.receipts.under_way.get() >= BATCHES_MAX {
            return self.drop_receipts(count);
        }
        let job = HookRequest {
            hook: Hook::Receipts,
            tag: RequestTag(RECEIPT_TICKET | count as u64),
            retry: Retry::Until(self.clock.now() + DEADLINE_MS),
            identity: [b'0'; 64],
            cookie: None,
            idempotency_key: None,
            query: None,
            headers: None,
            body,
        };
        match self.pool().submit(job) {
            Ok(()) => self.receipts.under_way.set(self.receipts.under_way.get() + 1),
            Err(_) => self.drop_receipts(count),
        }
    }

    pub fn on_receipts_told(&self, done: &FinishedRequest<'_>) {
        self.receipts.under_way.set(self.receipts.under_way.get() - 1);
        if !matches!(done.outcome, HookOutcome::Answered { verdict: Verdict::Success, .. }) {
            self.drop_receipts((done.tag.0 & !RECEIPT_TICKET) as usize);
        }
    }

    fn drop_receipts(&self, count: usize) {
        self.count_many(|counters| &counters.receipts_dropped, count as u64);
    }
}

const GATHER_MS: u64 = 100;
const RECEIPTS_PER_BATCH: usize = 500;
/// Per worker: with those that are gathered, 16,000 receipts wait for a backend that is down.
const BATCHES_MAX: usize = 32;
const DEADLINE_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_one_json_array() {
        let mut batch = Batch::default();
        batch.push("a \"b\"", Some("m1"), 5);
        batch.push("c", None, 6);
        let (json, count) = batch.take();
        let expected = serde_json::json!([
            {"session": "a \"b\"", "message_id": "m1", "delivered_at": 5},
            {"session": "c", "message_id": null, "delivered_at": 6},
        ]);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&json).expect("JSON"), expected);
        assert_eq!((count, batch.count), (2, 0));
    }
}
