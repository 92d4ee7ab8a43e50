//! Events for the main thread: signals, and what workers report. One queue, bounded, many senders; `server` receives.
//!
//! A worker may wait for room only at its start and its end; a call uses `try_send`.

use super::oneshot::ReturnAddress;
use crate::base::id::ShardId;
use crate::io::runtime::sys;
use crossbeam_channel::{Receiver, Sender};
use std::io;
use std::thread;
use std::time::{Duration, Instant};

pub enum Event {
    /// Reread the configuration; the outcome goes to the worker whose call it is, if it is one.
    Reload(Option<ReturnAddress>),
    /// Reread the configuration and say what a reload would change; nothing is changed.
    PreviewReload(ReturnAddress),
    /// SIGTERM or SIGINT.
    Terminate,
    /// The same by a call: a second one ends nothing at once.
    Drain,
    /// A worker listens, or cannot.
    Ready(Result<(), String>),
    WorkerEnded(ShardId),
    /// The other nodes hold this one for dead: it has to start as another.
    DeclaredDead,
    /// A worker has the configuration of this reload.
    Reloaded(ShardId, u64),
}

#[derive(Clone)]
pub struct EventSender(Sender<Event>);

pub struct EventReceiver(Receiver<Event>);

/// `events_max` may wait.
pub fn events(events_max: usize) -> (EventSender, EventReceiver) {
    let (sender, receiver) = crossbeam_channel::bounded(events_max);
    (EventSender(sender), EventReceiver(receiver))
}

impl EventSender {
    /// Waits for room: the main thread is never busy for long.
    pub fn send(&self, event: Event) {
        // Without a receiver the process is ending.
        let _ = self.0.send(event);
    }

    /// False when the queue is full.
    pub fn try_send(&self, event: Event) -> bool {
        self.0.try_send(event).is_ok()
    }
}

impl EventReceiver {
    fn wait(&self) -> Event {
        self.0.recv().unwrap_or(Event::Terminate)
    }

    /// Without an end it waits for as long as it takes.
    pub fn wait_at_most(&self, end: Option<Until>) -> Option<Event> {
        end.map_or_else(|| Some(self.wait()), |end| self.wait_until(end))
    }

    /// `None` when that time has passed.
    pub fn wait_until(&self, end: Until) -> Option<Event> {
        self.0.recv_deadline(end.0).ok()
    }
}

/// A point in time to wait for.
#[derive(Clone, Copy)]
pub struct Until(Instant);

impl Until {
    pub fn after(duration: Duration) -> Until {
        Until(Instant::now() + duration)
    }

    /// The earlier of two, if there is any.
    pub fn earlier(one: Option<Until>, other: Option<Until>) -> Option<Until> {
        one.into_iter().chain(other).min_by_key(|until| until.0)
    }

    /// The earlier of the two.
    pub fn min(self, duration: Duration) -> Until {
        Until(self.0.min(Instant::now() + duration))
    }

    pub fn is_over(self) -> bool {
        Instant::now() >= self.0
    }

    pub fn instant(self) -> Instant {
        self.0
    }
}

/// Must run before the first thread is started: threads inherit the mask, which keeps these signals for
/// `watch_signals`.
pub fn block_signals() {
    sys::block_signals(&SIGNALS);
}

/// Waits so long, for a program without workers; true as soon as a signal tells the process to end.
pub fn wait_for_end(timeout: Duration) -> bool {
    sys::wait_signal_for(&SIGNALS, timeout).is_some()
}

/// A thread that turns signals into events.
pub fn watch_signals(events: EventSender) -> io::Result<()> {
    let watch = move || {
        loop {
            match sys::wait_signal(&SIGNALS) {
                libc::SIGHUP => events.send(Event::Reload(None)),
                _ => events.send(Event::Terminate),
            }
        }
    };
    thread::Builder::new().name("rainbow-signals".into()).spawn(watch).map(drop)
}

const SIGNALS: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
