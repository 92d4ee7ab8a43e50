//! How the tasks of one worker wake each other.
//!
//! ```text
//! whoever changes something ─► turn: end_turn ─► mailbox task, timer task
//! whoever needs the timer earlier ─► timer task
//! ```

use crate::base::time::Tick;
use crate::io::runtime::notify::Notify;
use std::cell::Cell;

pub struct Wakeups {
    turn: Notify,
    /// Notified at the end of every turn: once for the task that waits for messages, once for the one that keeps time.
    mailbox: Notify,
    timer: Notify,
    /// The earliest deadline has become earlier than `armed`.
    earlier: Notify,
    /// The deadline that the timer task sleeps for.
    armed: Cell<Tick>,
    drain: Notify,
}

impl Default for Wakeups {
    fn default() -> Wakeups {
        let (turn, mailbox, timer, earlier, drain) = Default::default();
        Wakeups { turn, mailbox, timer, earlier, armed: Cell::new(Tick::NEVER), drain }
    }
}

impl Wakeups {
    /// Something has happened: the turn's end has work. Its task wakes behind all tasks that are ready now.
    pub fn need_turn(&self) {
        self.turn.notify();
    }

    pub async fn turn_needed(&self) {
        self.turn.notified().await;
    }

    pub fn turn_ended(&self) {
        self.mailbox.notify();
        self.timer.notify();
    }

    /// For the mailbox task: a turn has ended since it last looked.
    pub async fn turn_ended_for_mailbox(&self) {
        self.mailbox.notified().await;
    }

    /// For the timer task: a turn has ended since it last looked.
    pub async fn turn_ended_for_timer(&self) {
        self.timer.notified().await;
    }

    /// A deadline that the timer task must not sleep over.
    pub fn due_by(&self, deadline: Tick) {
        if deadline < self.armed.get() {
            self.earlier.notify();
        }
    }

    /// The timer task sleeps until then.
    pub fn arm(&self, deadline: Tick) {
        self.armed.set(deadline);
    }

    pub async fn due_earlier(&self) {
        self.earlier.notified().await;
    }

    /// The worker has to close everything and end.
    pub fn drain(&self) {
        self.drain.notify();
    }

    pub async fn drain_requested(&self) {
        self.drain.notified().await;
    }
}
