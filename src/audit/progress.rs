//! What all threads of a run share: the phase, the counters of the progress line, and which messages are owed.
//!
//! A message is *owed* from its acknowledgement to its delivery. The verdict comes from the ledger; this only says when
//! a run may end. Written by clients, callers, the backend and the supervisor; read by `execute`.

use super::bits::Bits;
use crate::wire::packet::QoS;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// A run goes through these in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Every session connects for the first time.
    Opening,
    /// Messages and faults.
    Running,
    /// No faults and no new messages, until what is owed is delivered.
    Draining,
    /// Every session connects once more: a message that would be delivered twice is delivered now.
    Finale,
    Over,
}

#[derive(Debug, Default)]
pub struct Progress {
    phase: AtomicU8,
    /// Per session and QoS (1, 2), messages to the client.
    downlink: Vec<[Mutex<Owed>; 2]>,
    pub up: Counts,
    pub down: Counts,
    /// Sessions that have connected at least once; sessions that have come back in the finale.
    pub opened: AtomicU64,
    pub returned: AtomicU64,
    /// Messages of clients that wait for their answer.
    pub up_in_flight: AtomicU64,
    /// Caller threads and client threads with messages left to send.
    pub senders: AtomicU64,
    /// Connects that were tried.
    pub attempts: AtomicU64,
    pub connects: AtomicU64,
    pub connects_failed: AtomicU64,
    pub cuts: AtomicU64,
    pub takeovers: AtomicU64,
    /// Takeovers in which the older connection was closed with 4409.
    pub takeovers_notified: AtomicU64,
    pub pauses: AtomicU64,
    pub absences: AtomicU64,
    /// Calls whose connection ended first; calls without an answer on an open connection; calls that were refused.
    pub calls_broken: AtomicU64,
    pub calls_silent: AtomicU64,
    pub calls_refused: AtomicU64,
    /// Messages given up after refusals.
    pub calls_given_up: AtomicU64,
    /// As the answers to the calls counted them.
    pub connections: AtomicU64,
    pub stored: AtomicU64,
    pub kills: AtomicU64,
    /// Of the kills: at a named point; while the server was starting.
    pub kills_at_points: AtomicU64,
    pub kills_in_recovery: AtomicU64,
    complaint: Mutex<String>,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub tried: AtomicU64,
    pub acknowledged: AtomicU64,
    pub delivered: AtomicU64,
}

/// Which messages of a stream are acknowledged, which are delivered, and how many are owed.
#[derive(Debug, Default)]
struct Owed {
    acknowledged: Bits,
    delivered: Bits,
    owed: u64,
}

impl Progress {
    pub fn new(sessions: u32) -> Progress {
        Progress { downlink: (0..sessions).map(|_| Default::default()).collect(), ..Progress::default() }
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Opening,
            1 => Phase::Running,
            2 => Phase::Draining,
            3 => Phase::Finale,
            _ => Phase::Over,
        }
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub fn acknowledged_down(&self, session: u32, qos: QoS, sequence: u64) {
        let mut owed = self.owed_of(session, qos);
        if owed.acknowledged.insert(sequence) {
            owed.owed += u64::from(!owed.delivered.contains(sequence));
            count(&self.down.acknowledged);
        }
    }

    pub fn delivered_down(&self, session: u32, qos: QoS, sequence: u64) {
        let mut owed = self.owed_of(session, qos);
        if owed.delivered.insert(sequence) {
            owed.owed -= u64::from(owed.acknowledged.contains(sequence));
            count(&self.down.delivered);
        }
    }

    /// Messages to clients that are owed.
    pub fn owed_down(&self) -> u64 {
        self.downlink.iter().flatten().map(|owed| lock(owed).owed).sum()
    }

    fn owed_of(&self, session: u32, qos: QoS) -> MutexGuard<'_, Owed> {
        lock(&self.downlink[session as usize][usize::from(qos == QoS::ExactlyOnce)])
    }

    /// Notes the last problem, for the progress line and the report.
    pub fn complain(&self, problem: String) {
        *lock(&self.complaint) = problem;
    }

    pub fn complaint(&self) -> String {
        lock(&self.complaint).clone()
    }
}

pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_owed_from_its_acknowledgement_to_its_delivery() {
        let progress = Progress::new(2);
        progress.acknowledged_down(1, QoS::AtLeastOnce, 5);
        progress.acknowledged_down(1, QoS::AtLeastOnce, 5);
        progress.acknowledged_down(1, QoS::ExactlyOnce, 5);
        assert_eq!(progress.owed_down(), 2);
        progress.delivered_down(1, QoS::ExactlyOnce, 5);
        progress.delivered_down(0, QoS::AtLeastOnce, 9);
        progress.acknowledged_down(0, QoS::AtLeastOnce, 9);
        assert_eq!(progress.owed_down(), 1);
        progress.delivered_down(1, QoS::AtLeastOnce, 5);
        assert_eq!((progress.owed_down(), read(&progress.down.delivered)), (0, 3));
    }
}
