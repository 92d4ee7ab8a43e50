//! Waits for a run's phases to end, and prints a progress line every second.

use crate::audit::progress::{Progress, read};
use crate::audit::run::Run;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

pub struct Watch<'a> {
    run: &'a Run,
    started: Instant,
    /// Seconds for which a line was printed.
    printed: u64,
}

impl<'a> Watch<'a> {
    pub fn new(run: &'a Run) -> Watch<'a> {
        Watch { run, started: Instant::now(), printed: 0 }
    }

    /// An error when it is not so in time.
    pub fn until(&mut self, timeout: Duration, done: impl Fn(&Progress) -> bool) -> io::Result<()> {
        if self.for_at_most(timeout, done) {
            return Ok(());
        }
        let phase = self.run.progress.phase();
        Err(io::Error::other(format!("{phase:?} is not over after {timeout:?}: {}", self.run.progress.complaint())))
    }

    /// False when it is not so in time.
    pub fn for_at_most(&mut self, timeout: Duration, done: impl Fn(&Progress) -> bool) -> bool {
        let started = Instant::now();
        loop {
            if done(&self.run.progress) {
                return true;
            }
            if started.elapsed() >= timeout {
                return false;
            }
            self.show();
            thread::sleep(WATCH);
        }
    }

    /// Waits until nothing is owed, or nothing has moved for a while.
    pub fn drain(&mut self) {
        let mut last = (None, Instant::now());
        loop {
            let progress = &self.run.progress;
            let left = (progress.owed_down(), read(&progress.up_in_flight), read(&progress.senders));
            if left == (0, 0, 0) {
                return;
            }
            if last.0 != Some(left) {
                last = (Some(left), Instant::now());
            }
            if last.1.elapsed() > DRAIN_STILL_MAX {
                return;
            }
            self.show();
            thread::sleep(WATCH);
        }
    }

    fn show(&mut self) {
        let seconds = self.started.elapsed().as_secs();
        if !self.run.options.shows_progress || seconds < self.printed {
            return;
        }
        self.printed = seconds + 1;
        let progress = &self.run.progress;
        eprintln!(
            "{seconds:5} s  {:?}  up {}/{}/{}  down {}/{}/{}  owed {}+{}  connects {}  faults {}  kills {}  {}",
            progress.phase(),
            read(&progress.up.tried),
            read(&progress.up.acknowledged),
            read(&progress.up.delivered),
            read(&progress.down.tried),
            read(&progress.down.acknowledged),
            read(&progress.down.delivered),
            read(&progress.up_in_flight),
            progress.owed_down(),
            read(&progress.connects),
            read(&progress.cuts) + read(&progress.takeovers) + read(&progress.pauses),
            read(&progress.kills),
            progress.complaint(),
        );
    }
}

/// When nothing moves for so long, what is owed will not come any more.
const DRAIN_STILL_MAX: Duration = Duration::from_secs(30);
const WATCH: Duration = Duration::from_millis(20);
