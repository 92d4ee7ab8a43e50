//! The dispatcher as the pool's handle and the tasks of connections share it.
//!
//! Owns the rule for the borrow: the dispatcher is borrowed for one call, never across an await, and never while the
//! sink is called. So the sink may submit again. Called by `pool` and by `connection_task`.

use std::cell::RefCell;
use std::rc::Rc;

use super::dispatch::dispatcher::Dispatcher;
use super::hook::{FinishedRequest, HookOutcome};
use super::time_source::{Now, TimeSource};

/// Takes every request back. Called with no borrow held, so it may submit again; never called from within `submit`,
/// `reconfigure` or `close`. A panic in it goes through to whoever polls the connection's task: catch it inside.
pub type Sink = Rc<dyn Fn(FinishedRequest<'_>)>;

pub struct SharedDispatcher {
    dispatcher: RefCell<Dispatcher>,
    sink: Sink,
    time: TimeSource,
}

impl SharedDispatcher {
    pub fn new(dispatcher: Dispatcher, sink: Sink, time: TimeSource) -> SharedDispatcher {
        SharedDispatcher { dispatcher: RefCell::new(dispatcher), sink, time }
    }

    /// One call of the dispatcher that needs no time.
    pub fn with<T>(&self, call: impl FnOnce(&mut Dispatcher) -> T) -> T {
        call(&mut self.dispatcher.borrow_mut())
    }

    /// One call of the dispatcher, with the time read for it.
    pub fn with_now<T>(&self, call: impl FnOnce(&mut Dispatcher, Now<'_>) -> T) -> T {
        call(&mut self.dispatcher.borrow_mut(), self.time.now())
    }

    pub fn time(&self) -> &TimeSource {
        &self.time
    }

    /// Hands a request that has ended to the sink.
    pub fn finish(&self, request: FinishedRequest<'_>) {
        (self.sink)(request);
    }

    /// Hands given-up requests to the sink: those that are there now, not those that it submits meanwhile.
    pub fn deliver_given_up(&self) {
        let count = self.with(|dispatcher| dispatcher.given_up());
        for _ in 0..count {
            let Some(given_up) = self.with(Dispatcher::pop_given_up) else { return };
            let outcome = HookOutcome::GaveUp { reason: given_up.reason };
            self.finish(FinishedRequest { tag: given_up.tag, outcome, request_body: given_up.body });
        }
    }
}
