//! The `message_id`s of the calls that are being carried out, in one table for all workers. The first call of an id is
//! carried out; those that come while it is wait for its response.

use crate::io::runtime::oneshot::ReturnAddress;
use rustc_hash::FxHashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub struct InFlightCalls {
    waiting: Mutex<FxHashMap<Arc<str>, Vec<ReturnAddress>>>,
    waiting_max: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Begin {
    /// Carry it out; `end` must follow.
    First,
    /// Wait for the first one's response.
    Repeat,
    /// Too many wait for it already.
    Refused,
}

impl InFlightCalls {
    /// `waiting_max`: calls of one id that may wait.
    pub fn new(waiting_max: usize) -> InFlightCalls {
        InFlightCalls { waiting: Mutex::default(), waiting_max }
    }

    pub fn begin(&self, id: &Arc<str>, caller: ReturnAddress) -> Begin {
        let mut waiting = self.lock();
        match waiting.get_mut(id) {
            None => {
                waiting.insert(id.clone(), Vec::new());
                Begin::First
            }
            Some(callers) if callers.len() >= self.waiting_max => Begin::Refused,
            Some(callers) => {
                callers.push(caller);
                Begin::Repeat
            }
        }
    }

    /// The callers that wait.
    pub fn end(&self, id: &str) -> Vec<ReturnAddress> {
        self.lock().remove(id).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, FxHashMap<Arc<str>, Vec<ReturnAddress>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(n: u64) -> ReturnAddress {
        ReturnAddress::unpack(1 << 48 | n)
    }

    #[test]
    fn the_second_call_of_an_id_waits_until_the_first_has_ended() {
        let calls = InFlightCalls::new(64);
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        assert_eq!(calls.begin(&one, caller(1)), Begin::First);
        assert_eq!(calls.begin(&other, caller(2)), Begin::First);
        assert_eq!(calls.begin(&one, caller(3)), Begin::Repeat);
        assert_eq!(calls.begin(&one, caller(4)), Begin::Repeat);
        assert_eq!(calls.end(&one), [caller(3), caller(4)]);
        assert_eq!(calls.begin(&one, caller(5)), Begin::First);
    }

    #[test]
    fn repeats_that_wait_are_bounded() {
        let calls = InFlightCalls::new(3);
        let id: Arc<str> = "id".into();
        assert_eq!(calls.begin(&id, caller(0)), Begin::First);
        assert!((1..=3).all(|n| calls.begin(&id, caller(n)) == Begin::Repeat));
        assert_eq!(calls.begin(&id, caller(4)), Begin::Refused);
    }
}
