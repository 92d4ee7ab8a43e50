//! Delivery receipts on their way to the business server: gathered for a moment, then sent many at once. Plain state:
//! `hooks` sends the batches. What the backend does not take in time is dropped and counted; nothing waits for it.

use crate::base::time::Tick;
use std::cell::{Cell, RefCell};

pub struct Receipts {
    batch: RefCell<Batch>,
    /// When the batch is sent at the latest.
    due: Cell<Tick>,
    /// Batches that the backend has.
    in_flight: Cell<usize>,
}

#[derive(Default)]
struct Batch {
    /// The array so far, without its end.
    json: Vec<u8>,
    count: u32,
}

impl Default for Receipts {
    fn default() -> Receipts {
        Receipts { batch: RefCell::default(), due: Cell::new(Tick::NEVER), in_flight: Cell::new(0) }
    }
}

impl Receipts {
    /// How many are in the batch now.
    pub fn push(&self, session: &str, message_id: Option<&str>, delivered_at_ms: u64) -> u32 {
        let mut batch = self.batch.borrow_mut();
        batch.push(session, message_id, delivered_at_ms);
        batch.count
    }

    pub fn due(&self) -> Tick {
        self.due.get()
    }

    pub fn set_due(&self, due: Tick) {
        self.due.set(due);
    }

    /// The batch as a JSON array, and how many receipts are in it. `None` when there are none.
    pub fn take(&self) -> Option<(Vec<u8>, u32)> {
        self.due.set(Tick::NEVER);
        let mut batch = self.batch.borrow_mut();
        (batch.count > 0).then(|| batch.take())
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    pub fn batch_sent(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    pub fn batch_ended(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
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

    fn take(&mut self) -> (Vec<u8>, u32) {
        let Batch { mut json, count } = std::mem::take(self);
        json.push(b']');
        (json, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_one_json_array() {
        let receipts = Receipts::default();
        assert_eq!(receipts.take(), None);
        assert_eq!(receipts.push("a \"b\"", Some("m1"), 5), 1);
        assert_eq!(receipts.push("c", None, 6), 2);
        let (json, count) = receipts.take().expect("two receipts");
        let expected = serde_json::json!([
            {"session": "a \"b\"", "message_id": "m1", "delivered_at": 5},
            {"session": "c", "message_id": null, "delivered_at": 6},
        ]);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&json).expect("JSON"), expected);
        assert_eq!((count, receipts.take()), (2, None));
    }
}
