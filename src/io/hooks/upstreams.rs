//! How a worker has found its upstreams, for the pages of other workers: each has connections and breakers of its own.
//!
//! The worker publishes once a second and never waits: while a page copies what is there, it leaves it as it is.

use crate::base::time::Tick;
use crate::io::backend::UpstreamState;
use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

/// Of one worker.
#[derive(Default)]
pub struct PublishedUpstreams(Mutex<Vec<UpstreamState>>);

/// When the worker publishes next.
#[derive(Default)]
pub struct Publishing {
    next: Cell<Tick>,
}

impl PublishedUpstreams {
    pub fn get(&self) -> Vec<UpstreamState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn try_set(&self, states: Vec<UpstreamState>) {
        if let Ok(mut published) = self.0.try_lock() {
            *published = states;
        }
    }
}

impl Publishing {
    pub fn publish(&self, to: &PublishedUpstreams, now: Tick, states: impl FnOnce() -> Vec<UpstreamState>) {
        if now >= self.next.get() {
            self.next.set(now + INTERVAL_MS);
            to.try_set(states());
        }
    }
}

/// A worker's timers are looked at as often.
const INTERVAL_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_published_once_a_second_and_nobody_waits() {
        let state = |port| UpstreamState {
            host: "a".into(),
            port,
            is_closed: true,
            has_answered: true,
            outstanding: 0,
            connections: 1,
            last_answers: Vec::new(),
        };
        let (published, publishing) = (PublishedUpstreams::default(), Publishing::default());
        let publish = |now, port| publishing.publish(&published, Tick(now), || vec![state(port)]);
        publish(5_000, 1);
        publish(5_999, 2);
        assert_eq!(published.get(), [state(1)]);
        let copying = published.0.lock().unwrap();
        publish(6_000, 3);
        drop(copying);
        assert_eq!(published.get(), [state(1)], "a page was copying it");
        publish(7_000, 4);
        assert_eq!(published.get(), [state(4)]);
    }
}
