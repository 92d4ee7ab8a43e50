//! The `message_id`s of the calls that are being carried out, in one table for all workers. The first call of an id is
//! carried out; those that come while it is wait for its response.

use crate::io::runtime::oneshot::ReturnAddress;
use crate::policy::api::remembered::CallDigest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub struct InFlightCalls {
    calls: Mutex<HashMap<Arc<str>, InFlightCall>>,
    waiting_max: usize,
}

struct InFlightCall {
    digest: CallDigest,
    waiting: Vec<ReturnAddress>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Begin {
    /// Carry it out; `end` must follow.
    First,
    /// Wait for the first one's response.
    Repeat,
    /// Another call has that id.
    Other,
    /// Too many wait for it already.
    Refused,
}

impl InFlightCalls {
    /// `waiting_max`: calls of one id that may wait.
    pub fn new(waiting_max: usize) -> InFlightCalls {
        InFlightCalls { calls: Mutex::default(), waiting_max }
    }

    pub fn begin(&self, id: &Arc<str>, digest: CallDigest, caller: ReturnAddress) -> Begin {
        let mut calls = self.lock();
        match calls.get_mut(id) {
            None => {
                calls.insert(id.clone(), InFlightCall { digest, waiting: Vec::new() });
                Begin::First
            }
            Some(call) if call.digest != digest => Begin::Other,
            Some(call) if call.waiting.len() >= self.waiting_max => Begin::Refused,
            Some(call) => {
                call.waiting.push(caller);
                Begin::Repeat
            }
        }
    }

    /// The callers that wait.
    pub fn end(&self, id: &str) -> Vec<ReturnAddress> {
        self.lock().remove(id).map(|call| call.waiting).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, InFlightCall>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::api::Targets;
    use crate::wire::packet::QoS;

    fn caller(n: u64) -> ReturnAddress {
        ReturnAddress::unpack(1 << 48 | n)
    }

    fn digest(n: u16) -> CallDigest {
        CallDigest::of(&Targets::One("a".into()), QoS::AtLeastOnce, n, b"")
    }

    #[test]
    fn the_second_call_of_an_id_waits_until_the_first_has_ended() {
        let calls = InFlightCalls::new(64);
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        assert_eq!(calls.begin(&one, digest(1), caller(1)), Begin::First);
        assert_eq!(calls.begin(&other, digest(1), caller(2)), Begin::First);
        assert_eq!(calls.begin(&one, digest(1), caller(3)), Begin::Repeat);
        assert_eq!(calls.begin(&one, digest(1), caller(4)), Begin::Repeat);
        assert_eq!(calls.begin(&one, digest(2), caller(9)), Begin::Other);
        assert_eq!(calls.end(&one), [caller(3), caller(4)]);
        assert_eq!(calls.begin(&one, digest(1), caller(5)), Begin::First);
    }

    #[test]
    fn repeats_that_wait_are_bounded() {
        let calls = InFlightCalls::new(3);
        let id: Arc<str> = "id".into();
        assert_eq!(calls.begin(&id, digest(1), caller(0)), Begin::First);
        assert!((1..=3).all(|n| calls.begin(&id, digest(1), caller(n)) == Begin::Repeat));
        assert_eq!(calls.begin(&id, digest(1), caller(4)), Begin::Refused);
    }
}
