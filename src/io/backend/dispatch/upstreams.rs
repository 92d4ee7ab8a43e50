//! Upstreams: one entry per host and port, whichever hooks lead there.
//!
//! Owns each upstream's breakers, one per hook, its list of idle connections and its counts. Opens and closes nothing:
//! the connections themselves are in `Connections`. Called by the dispatcher, and read by `Routes`.

use std::net::IpAddr;
use std::ops::{Index, IndexMut};
use std::rc::Rc;
use std::sync::Arc;

use super::ids::{ConnectionIndex, UpstreamIndex};
use crate::base::rng::Rng;
use crate::base::time::Tick;
use crate::io::backend::hook::HookKind;
use crate::metrics::backend::BackendMetrics;
use crate::metrics::histogram::Durations;
use crate::policy::backend::breaker::Change;
use crate::policy::backend::{Breaker, BreakerLimits, Candidate, Permit};

/// A backend as /serverinfo/ shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamState {
    pub host: String,
    pub port: u16,
    /// False while one of its breakers is open or half open.
    pub is_closed: bool,
    /// It has answered a request.
    pub has_answered: bool,
    pub outstanding: usize,
    pub connections: usize,
    /// Of each hook that it has answered.
    pub last_answers: Vec<LastAnswer>,
}

/// The last whole answer of an upstream to a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastAnswer {
    pub hook: HookKind,
    pub status: u16,
    pub at: Tick,
    /// The beginning of an error's body.
    pub error: Box<[u8]>,
}

/// What a request needs of an upstream.
#[derive(Clone, Copy)]
pub struct Place {
    pub hook: HookKind,
    pub is_suspect: bool,
    pub now: Tick,
    /// Per upstream.
    pub connections_max: usize,
}

#[derive(Default)]
pub struct Upstreams {
    entries: Vec<Upstream>,
}

/// One host and port.
pub struct Upstream {
    host: Rc<str>,
    port: u16,
    /// One per hook: that connects fail says nothing about messages.
    breakers: [Breaker; HookKind::COUNT],
    has_answered: bool,
    /// Where latencies are recorded, once known.
    latencies: [Option<Arc<Durations>>; HookKind::COUNT],
    last_answers: [Option<LastAnswer>; HookKind::COUNT],
    /// Connections, those that are still being opened included.
    connections: usize,
    /// Last in, first out: few connections stay warm, the others grow old and are closed.
    idle: Vec<ConnectionIndex>,
    /// Attempts that have begun and not ended, per hook.
    outstanding: [usize; HookKind::COUNT],
    /// Connects go here: other requests leave some connections to them, because somebody waits at the door.
    takes_connects: bool,
    /// Which of its addresses the next connection tries first.
    next_address: usize,
    /// Addresses that were not reached lately, and when.
    failed_addresses: Vec<(IpAddr, Tick)>,
    /// No hook leads there any more.
    is_retired: bool,
}

impl Upstreams {
    /// Every upstream is retired until `find_or_add` names it again.
    pub fn retire_all(&mut self) {
        for upstream in &mut self.entries {
            (upstream.is_retired, upstream.takes_connects) = (true, false);
        }
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

    /// Upstreams in use with a breaker that is not closed.
    pub fn open_breakers(&self) -> usize {
        self.entries.iter().filter(|upstream| upstream.has_open_breaker() && !upstream.is_retired).count()
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
            breakers: Default::default(),
            has_answered: false,
            latencies: Default::default(),
            last_answers: Default::default(),
            connections: 0,
            idle: Vec::new(),
            outstanding: [0; HookKind::COUNT],
            takes_connects: false,
            next_address: 0,
            failed_addresses: Vec::new(),
            is_retired: false,
        }
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A whole answer has come.
    pub fn record_answer(
        &mut self,
        hook: HookKind,
        (status, body): (u16, &[u8]),
        [sent_us, came_us]: [u64; 2],
        at: Tick,
        metrics: &BackendMetrics,
    ) {
        let latency_us = came_us.saturating_sub(sent_us);
        metrics.latency_us.record(latency_us);
        self.latencies(hook, metrics).record(latency_us);
        let shown = if status >= 400 { &body[..body.len().min(ERROR_BYTES_SHOWN)] } else { b"" };
        self.last_answers[hook as usize] = Some(LastAnswer { hook, status, at, error: shown.into() });
    }

    /// Where the latencies of a hook are recorded.
    fn latencies(&mut self, hook: HookKind, metrics: &BackendMetrics) -> &Durations {
        let Upstream { latencies, host, port, .. } = self;
        latencies[hook as usize].get_or_insert_with(|| {
            let of_hook = match hook {
                HookKind::Connect => &metrics.connects,
                HookKind::Forward => &metrics.forwards,
                HookKind::Close => &metrics.closes,
                HookKind::Receipts => &metrics.receipts,
                HookKind::DeadLetter => &metrics.handed_dead_letters,
            };
            of_hook.named(&format!("{host}:{port}")).clone()
        })
    }

    pub fn is_retired(&self) -> bool {
        self.is_retired
    }

    pub fn set_takes_connects(&mut self) {
        self.takes_connects = true;
    }

    /// In which order a new connection tries the addresses: each connection begins with another one, and those that
    /// were not reached lately come last.
    pub fn address_order(&mut self, addresses: &[IpAddr], now: Tick, memory_ms: u64) -> Vec<usize> {
        self.failed_addresses.retain(|(_, failed)| now.since_ms(*failed) < memory_ms);
        self.next_address = self.next_address.wrapping_add(1);
        let rotated = (0..addresses.len()).map(|step| (self.next_address + step) % addresses.len());
        let mut order: Vec<usize> = rotated.collect();
        order.sort_by_key(|&index| self.failed_addresses.iter().any(|(failed, _)| *failed == addresses[index]));
        order
    }

    pub fn address_failed(&mut self, address: IpAddr, now: Tick) {
        self.failed_addresses.retain(|(failed, _)| *failed != address);
        self.failed_addresses.push((address, now));
    }

    /// As the balancer sees it.
    pub fn candidate(&self, place: Place) -> Candidate {
        let Place { hook, is_suspect, now, connections_max } = place;
        let has_room = !self.idle.is_empty() || self.connections < connections_max;
        let outstanding: usize = self.outstanding.iter().sum();
        let reserve = (connections_max / RESERVED_OF).max(usize::from(connections_max > 1));
        let others = outstanding - self.outstanding[HookKind::Connect as usize];
        let is_reserved = self.takes_connects && hook != HookKind::Connect && others + reserve >= connections_max;
        // Messages must not wait for connections behind those that have failed.
        let is_behind = hook == HookKind::DeadLetter && self.outstanding[hook as usize] >= DEAD_LETTERS_AT_ONCE;
        Candidate { outstanding, usable: has_room && !is_reserved && !is_behind && self.admits(hook, now, is_suspect) }
    }

    fn state(&self) -> UpstreamState {
        UpstreamState {
            host: self.host.to_string(),
            port: self.port,
            is_closed: !self.has_open_breaker(),
            has_answered: self.has_answered,
            outstanding: self.outstanding.iter().sum(),
            connections: self.connections,
            last_answers: self.last_answers.iter().flatten().cloned().collect(),
        }
    }

    // Attempts and the breaker. Every permit that `begin_attempt` gives comes back through one of the three ends.

    /// One more request is on its way. It must be admitted.
    pub fn begin_attempt(&mut self, hook: HookKind, now: Tick, is_suspect: bool) -> Permit {
        self.outstanding[hook as usize] += 1;
        self.breakers[hook as usize].admit(now, is_suspect).expect("picked because it admits")
    }

    /// One request fewer is on its way; what it says about the upstream follows with its permit.
    pub fn end_attempt(&mut self, hook: HookKind) {
        self.outstanding[hook as usize] -= 1;
    }

    pub fn answered(&mut self, hook: HookKind, permit: Permit) -> Change {
        self.has_answered = true;
        self.breakers[hook as usize].answered(permit)
    }

    pub fn failed(
        &mut self,
        hook: HookKind,
        permit: Permit,
        now: Tick,
        limits: &BreakerLimits,
        rng: &mut Rng,
    ) -> Change {
        self.breakers[hook as usize].failed(permit, now, limits, rng)
    }

    pub fn unused(&mut self, hook: HookKind, permit: Permit, now: Tick) {
        self.breakers[hook as usize].unused(permit, now);
    }

    pub fn admits(&self, hook: HookKind, now: Tick, is_suspect: bool) -> bool {
        self.breakers[hook as usize].admits(now, is_suspect)
    }

    pub fn is_closed(&self, hook: HookKind) -> bool {
        self.breakers[hook as usize].is_closed()
    }

    pub fn probe_at(&self, hook: HookKind, is_suspect: bool) -> Option<Tick> {
        self.breakers[hook as usize].probe_at(is_suspect)
    }

    fn has_open_breaker(&self) -> bool {
        self.breakers.iter().any(|breaker| !breaker.is_closed())
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
        assert_eq!((self.connections, self.outstanding.iter().sum(), self.idle.len()), (connections, busy, idle));
    }
}

/// One of so many connections is left to connects.
const RESERVED_OF: usize = 8;
/// Enough for a person to recognise the fault.
const ERROR_BYTES_SHOWN: usize = 200;
/// Dead letters on their way to one upstream.
const DEAD_LETTERS_AT_ONCE: usize = 4;
