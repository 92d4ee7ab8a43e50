//! The earliest deadline of a pool, and what the worker's timer is set to.
//!
//! Keeps the two apart: the earliest deadline may be too early (its cause has gone since), never too late; the worker
//! is called only when its timer is set too late. Called by the dispatcher only.

use crate::base::time::Tick;

/// Called when the pool's next deadline has become earlier than `Pool::next_deadline` last said, so that the worker
/// sets its timer again. It is called while the pool is borrowed and must not call the pool.
pub type Alarm = Box<dyn Fn(Tick)>;

pub struct WorkerTimer {
    alarm: Alarm,
    /// Nothing is due before this.
    earliest: Tick,
    /// What the worker's timer is set to.
    announced: Tick,
}

impl WorkerTimer {
    pub fn new(alarm: Alarm) -> WorkerTimer {
        WorkerTimer { alarm, earliest: Tick::NEVER, announced: Tick::NEVER }
    }

    /// Something is due at `due`.
    pub fn arm(&mut self, due: Tick) {
        if due < self.earliest {
            self.earliest = due;
            self.announce(due);
        }
    }

    /// The worker has to call again at once.
    pub fn arm_now(&mut self) {
        self.announce(Tick(0));
    }

    /// True when something may be due. Whatever has a deadline must then arm the timer again.
    pub fn expire(&mut self, now: Tick) -> bool {
        let is_due = now >= self.earliest;
        if is_due {
            self.earliest = Tick::NEVER;
        }
        is_due
    }

    /// What the worker sets its timer to.
    pub fn next_deadline(&mut self, is_due_at_once: bool) -> Tick {
        self.announced = if is_due_at_once { Tick(0) } else { self.earliest };
        self.announced
    }

    fn announce(&mut self, due: Tick) {
        if due < self.announced {
            self.announced = due;
            (self.alarm)(due);
        }
    }
}
