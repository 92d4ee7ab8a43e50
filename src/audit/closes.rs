//! Which connections were let in, and which ends of them the business server has heard of.
//!
//! Every connection that was let in has exactly one close, whatever died: a repeat has the same `Idempotency-Key`. One
//! that the business server answered and that was never let in has one at most.

use super::ledger::Plant;
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard};

#[derive(Debug, Default)]
pub struct Closes {
    plant: Option<Plant>,
    inner: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    connections: HashMap<String, Connected>,
    /// The identity that the server gave to an attempt of a client, since the client is not told.
    identities: HashMap<u64, String>,
    heard: u64,
}

/// Of one connection.
#[derive(Debug, Default)]
struct Connected {
    is_let_in: bool,
    keys: BTreeSet<String>,
}

/// What is wrong with the closes of a run, and how many connections there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub let_in: u64,
    pub closed: u64,
    /// Let in, and no close.
    pub missing: u64,
    /// Closes under another `Idempotency-Key` than the first of their connection.
    pub doubled: u64,
}

impl Closes {
    pub fn new(plant: Option<Plant>) -> Closes {
        Closes { plant, ..Closes::default() }
    }

    /// The business server lets an attempt in.
    pub fn answered(&self, attempt: u64, identity: &str) {
        let mut inner = self.lock();
        inner.identities.insert(attempt, identity.into());
        inner.connections.entry(identity.into()).or_default();
    }

    /// The client of an attempt is in.
    pub fn let_in(&self, attempt: u64) {
        let inner = &mut *self.lock();
        let connection = inner.identities.get(&attempt).and_then(|identity| inner.connections.get_mut(identity));
        connection.into_iter().for_each(|connection| connection.is_let_in = true);
    }

    /// The business server hears of an end. Connections that are not of this run do not count.
    pub fn heard(&self, identity: &str, key: &str) {
        let inner = &mut *self.lock();
        let Some(connection) = inner.connections.get_mut(identity) else { return };
        inner.heard += 1;
        let altered = inner.heard.is_multiple_of(PLANT_EVERY);
        if altered && self.plant == Some(Plant::DoubleClose) {
            connection.keys.insert(format!("{key} again"));
        }
        connection.keys.insert(key.into());
    }

    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for connection in self.lock().connections.values() {
            tally.let_in += u64::from(connection.is_let_in);
            tally.closed += u64::from(!connection.keys.is_empty());
            tally.missing += u64::from(connection.is_let_in && connection.keys.is_empty());
            tally.doubled += connection.keys.len().saturating_sub(1) as u64;
        }
        tally
    }

    /// Identities of some that were let in and have no close.
    pub fn missing(&self) -> Vec<String> {
        let inner = self.lock();
        let missing = inner.connections.iter().filter(|(_, of)| of.is_let_in && of.keys.is_empty());
        missing.take(NAMED_MAX).map(|(identity, _)| identity.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Tally {
    pub fn to_json(self) -> serde_json::Value {
        json!({ "let_in": self.let_in, "closed": self.closed, "missing": self.missing, "doubled": self.doubled })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { let_in, closed, missing, doubled } = self;
        write!(f, "closes: {closed} of {let_in} connections that were let in, {missing} missing, {doubled} doubled")
    }
}

/// As many as a reader will look for in a log.
const NAMED_MAX: usize = 8;
/// Closes per planted fault.
const PLANT_EVERY: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_that_was_let_in_has_one_close() {
        let closes = Closes::new(None);
        for (attempt, identity) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
            closes.answered(attempt, identity);
        }
        [1, 2, 3].iter().for_each(|attempt| closes.let_in(*attempt));
        for (identity, key) in [("a", "1"), ("a", "1"), ("b", "2"), ("b", "3"), ("d", "4"), ("somebody else's", "5")] {
            closes.heard(identity, key);
        }
        assert_eq!(closes.tally(), Tally { let_in: 3, closed: 3, missing: 1, doubled: 1 });
    }
}
