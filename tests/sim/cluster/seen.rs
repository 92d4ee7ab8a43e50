//! What happened in the worlds of clusters: where nothing goes wrong nothing is proved.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen(BTreeMap<&'static str, u64>);

impl Seen {
    pub fn count(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    pub fn add(&mut self, other: &Seen) {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    pub fn assert_everything_happened(&self) {
        let never: Vec<_> = EXPECTED.iter().filter(|name| !self.0.contains_key(*name)).collect();
        assert!(never.is_empty(), "never happens: {never:?}");
    }
}

const EXPECTED: &[&str] = &[
    "crashed",
    "restarted",
    "restarted at once",
    "stood still",
    "stopped",
    "handed over",
    "cut in two",
    "cut one way",
    "store away",
    "store failed over",
    "datagram lost",
    "link up",
    "link broken",
    "open",
    "open, late",
    "send reaches",
    "send, unreachable",
    "claimed",
    "taken by force",
    "fenced",
    "write acknowledged",
    "own word",
    "dead life finished",
    "close reported by a survivor",
    "close reported again",
    "hook failed",
    "own generation dead",
    "disk stuck",
    "session created",
    "session arrived",
    "session stayed",
    "session left",
    "created twice, apart",
    "sessions united",
    "apart, and one again",
    "session resumed",
    "message acknowledged",
    "message not taken",
    "message handed over",
    "message repeated",
    "client refused",
    "connection taken over",
];
