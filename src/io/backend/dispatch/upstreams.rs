//! Upstreams: one entry per host and port, whichever hooks lead there.
//!
//! Owns each upstream's breaker, its list of idle connections and its counts. Opens and closes nothing: the connections
//! themselves are in `Connections`. Called by the dispatcher, and read by `Routes`.

use std::ops::{Index, IndexMut};
use std::rc::Rc;

use super::ids::{ConnectionIndex, UpstreamIndex};
use crate::base::rng::Rng;
use crate::base::time::Tick;
use crate::policy::backend::breaker::Change;
use crate::policy::backend::{Breaker, BreakerLimits, Candidate, Permit};

/// A backend as /serverinfo/ shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamState {
    pub host: String,
    pub port: u16,
    /// False while its breaker is open or half open.
    pub is_closed: bool,
    pub outstanding: usize,
    pub connections: usize,
}

#[derive(Default)]
pub struct Upstreams {
    entries: Vec<Upstream>,
}

/// One host and port.
pub struct Upstream {
    host: Rc<str>,
    port: u16,
    breaker: Breaker,
    /// Connections, those that are still being opened included.
    connections: usize,
    /// Last in, first out: few connections stay warm, the others grow old and are closed.
    idle: Vec<ConnectionIndex>,
    /// Attempts that have begun and not ended.
    outstanding: usize,
    /// Which of its addresses worked last.
    address_hint: usize,
    /// No hook leads there any more.
    is_retired: bool,
}

impl Upstreams {
    /// Every upstream is retired until `find_or_add` names it again.
    pub fn retire_all(&mut self) {
        self.entries.iter_mut().for_each(|upstream| upstream.is_retired = true);
    }

    /// The upstream of that host and port. A new one takes the entry of a retired one that has no connection left.
    pub fn find_or_add(&mut self, host: &str, port: u16) -> UpstreamIndex {
        if let Some(index) = self.entries.iter().position(|known| *known.host == *host && known.port == port) {
            self.entries[index].is_retired = false;
            return UpstreamIndex(index);
        }
        let upstream = Upstream::new(host, port);
        match self.entries.iter().position(|known| known.is_retired && known.connections == 0) {
            Some(index) => {
                self.entries[index] = upstream;
                UpstreamIndex(index)
            }
            None => {
                self.entries.push(upstream);
                UpstreamIndex(self.entries.len() - 1)
            }
        }
    }

    /// Idle connections of retired upstreams.
    pub fn retired_idle(&self) -> Vec<ConnectionIndex> {
        let retired = self.entries.iter().filter(|upstream| upstream.is_retired);
        retired.flat_map(|upstream| upstream.idle.iter().copied()).collect()
    }

    /// Upstreams in use whose breaker is not closed.
    pub fn open_breakers(&self) -> usize {
        self.entries.iter().filter(|upstream| !upstream.is_closed() && !upstream.is_retired).count()
    }

    /// Those in use.
    pub fn states(&self) -> Vec<UpstreamState> {
        self.entries.iter().filter(|upstream| !upstream.is_retired).map(Upstream::state).collect()
    }

    #[cfg(debug_assertions)]
    pub fn iter(&self) -> impl Iterator<Item = (UpstreamIndex, &Upstream)> {
        self.entries.iter().enumerate().map(|(index, upstream)| (UpstreamIndex(index), upstream))
    }
}

impl Index<UpstreamIndex> for Upstreams {
    type Output = Upstream;

    fn index(&self, index: UpstreamIndex) -> &Upstream {
        &self.entries[index.0]
    }
}

impl IndexMut<UpstreamIndex> for Upstreams {
    fn index_mut(&mut self, index: UpstreamIndex) -> &mut Upstream {
        &mut self.entries[index.0]
    }
}

impl Upstream {
    fn new(host: &str, port: u16) -> Upstream {
        Upstream {
            host: host.into(),
            port,
            breaker: Breaker::default(),
            connections: 0,
            idle: Vec::new(),
            outstanding: 0,
            address_hint: 0,
            is_retired: false,
        }
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn is_retired(&self) -> bool {
        self.is_retired
    }

    /// Where to begin in its list of addresses.
    pub fn address_hint(&self) -> usize {
        self.address_hint
    }

    pub fn set_address_hint(&mut self, address: usize) {
        self.address_hint = address;
    }

    /// As the balancer sees it.
    pub fn candidate(&self, now: Tick, connections_max: usize) -> Candidate {
        let has_room = !self.idle.is_empty() || self.connections < connections_max;
        Candidate { outstanding: self.outstanding, usable: has_room && self.admits(now) }
    }

    fn state(&self) -> UpstreamState {
        UpstreamState {
            host: self.host.to_string(),
            port: self.port,
            is_closed: self.is_closed(),
            outstanding: self.outstanding,
            connections: self.connections,
        }
    }

    // Attempts and the breaker. Every permit that `begin_attempt` gives comes back through one of the three ends.

    /// One more request is on its way. It must be admitted.
    pub fn begin_attempt(&mut self, now: Tick) -> Permit {
        self.outstanding += 1;
        self.breaker.admit(now).expect("picked because it admits")
    }

    /// One request fewer is on its way; what it says about the upstream follows with its permit.
    pub fn end_attempt(&mut self) {
        self.outstanding -= 1;
    }

    pub fn answered(&mut self, permit: Permit) -> Change {
        self.breaker.answered(permit)
    }

    pub fn failed(&mut self, permit: Permit, now: Tick, limits: &BreakerLimits, rng: &mut Rng) -> Change {
        self.breaker.failed(permit, now, limits, rng)
    }

    pub fn unused(&mut self, permit: Permit, now: Tick) {
        self.breaker.unused(permit, now);
    }

    pub fn admits(&self, now: Tick) -> bool {
        self.breaker.admits(now)
    }

    pub fn is_closed(&self) -> bool {
        self.breaker.is_closed()
    }

    pub fn probe_at(&self) -> Option<Tick> {
        self.breaker.probe_at()
    }

    // Connections.

    pub fn connection_opened(&mut self) {
        self.connections += 1;
    }

    pub fn connection_removed(&mut self) {
        self.connections -= 1;
    }

    pub fn push_idle(&mut self, connection: ConnectionIndex) {
        self.idle.push(connection);
    }

    pub fn pop_idle(&mut self) -> Option<ConnectionIndex> {
        self.idle.pop()
    }

    pub fn remove_idle(&mut self, connection: ConnectionIndex) {
        self.idle.retain(|idle| *idle != connection);
    }

    /// Compares its counts with those of the table of connections.
    #[cfg(debug_assertions)]
    pub fn check_counts(&self, connections: usize, busy: usize, idle: usize) {
        assert_eq!((self.connections, self.outstanding, self.idle.len()), (connections, busy, idle));
    }
}
