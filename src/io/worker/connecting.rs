//! Connections that are not open yet: those whose connect hook is under way, and those that wait to be attached to
//! their durable session. One task waits for each.

use crate::base::id::{ConnKey, Identity};
use crate::base::time::Tick;
use crate::io::backend::GiveUp;
use crate::io::handover::session_request::SessionRequest;
use crate::io::log::interval::LogInterval;
use crate::io::runtime::oneshot::{Oneshot, OneshotId, Oneshots};
use crate::shard::command::StoreError;
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::rc::Rc;
use tracing::warn;

pub struct PendingConnects {
    hooks: Oneshots<ConnectOutcome, Option<Connect>>,
    attaches: Oneshots<AttachOutcome>,
    /// The shard says which connection was attached; this is who waits for it.
    attaching: RefCell<FxHashMap<ConnKey, OneshotId>>,
    /// Clients that had to be refused.
    failures: LogInterval,
}

/// A connection for which the connect hook was called.
pub struct Connect {
    pub key: ConnKey,
    pub identity: Identity,
    /// The 101.
    pub response: Vec<u8>,
    /// The client speaks `rainbow.2`.
    pub greets: bool,
}

/// What came of a connect hook.
pub enum ConnectOutcome {
    Opened,
    /// The shard is attaching it to its session.
    Attaching {
        cookie: Option<Rc<[u8]>>,
        user: Option<Rc<str>>,
        attached: Oneshot<AttachOutcome>,
    },
    /// Another worker owns its session.
    OwnedElsewhere(Box<SessionRequest>),
    /// With the business server's reason.
    Refused(Option<Box<str>>),
    Failed(ConnectFailure),
}

/// Why the business server could not be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectFailure {
    #[error("too many requests wait for the backend")]
    TooManyRequests,
    #[error("{0}")]
    GaveUp(GiveUp),
    #[error("the backend answered {0}")]
    Status(u16),
    #[error("the backend's answer is no JSON")]
    NotJson,
    #[error("the answer's handling panicked")]
    Panicked,
}

/// The session is the connection's, or why the store does not take it.
pub type AttachOutcome = Result<(), StoreError>;

impl PendingConnects {
    pub fn new(now: Tick) -> PendingConnects {
        let (attaching, failures) = Default::default();
        PendingConnects { hooks: Oneshots::new(now), attaches: Oneshots::new(now), attaching, failures }
    }

    /// A client is refused because the business server could not be asked. Says so, at most once a minute: the operator
    /// must not have to guess why nobody comes in.
    pub fn log_failure(&self, why: ConnectFailure, now: Tick) {
        if let Some(clients) = self.failures.due(now) {
            warn!(clients, "refused with 503: {why}");
        }
    }

    pub fn open(&self, connect: Connect, deadline: Tick) -> Oneshot<ConnectOutcome, Option<Connect>> {
        self.hooks.open(Some(connect), deadline)
    }

    /// The connection whose hook has ended; `complete` must follow. `None` when nobody waits for it any more.
    pub fn take(&self, id: OneshotId) -> Option<Connect> {
        let mut taken = None;
        self.hooks.fold(id, |connect| {
            taken = connect.take();
            None
        });
        taken
    }

    pub fn complete(&self, id: OneshotId, outcome: ConnectOutcome) {
        self.hooks.complete(id, outcome);
    }

    /// `attached` or `forget` must follow.
    pub fn open_attach(&self, key: ConnKey, deadline: Tick) -> Oneshot<AttachOutcome> {
        let oneshot = self.attaches.open((), deadline);
        let before = self.attaching.borrow_mut().insert(key, oneshot.id());
        debug_assert!(before.is_none(), "a connection is attached once");
        oneshot
    }

    pub fn attached(&self, key: ConnKey, outcome: AttachOutcome) {
        let oneshot = self.attaching.borrow_mut().remove(&key);
        if let Some(id) = oneshot {
            self.attaches.complete(id, outcome);
        }
    }

    /// The connection is given up.
    pub fn forget(&self, key: ConnKey) {
        self.attaching.borrow_mut().remove(&key);
    }

    /// No connection waits for its session. Those that wait for their hook count as the backend pool's.
    pub fn is_empty(&self) -> bool {
        self.attaches.is_empty()
    }

    pub fn expire(&self, now: Tick) {
        self.hooks.expire(now);
        self.attaches.expire(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ShardId;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    const LATER: Tick = Tick(60_000);

    fn key(index: u32) -> ConnKey {
        ConnKey { index: crate::base::id::ConnIndex(index), generation: 1, shard: ShardId(0) }
    }

    #[test]
    fn an_attach_is_reported_to_the_task_that_waits_for_that_connection() {
        let pending = PendingConnects::new(Tick(0));
        let mut context = Context::from_waker(Waker::noop());
        let (mut one, mut other) = (pin!(pending.open_attach(key(1), LATER)), pin!(pending.open_attach(key(2), LATER)));
        pending.attached(key(2), Err(StoreError::TooBusy));
        assert!(one.as_mut().poll(&mut context).is_pending());
        assert_eq!(other.as_mut().poll(&mut context), Poll::Ready(Ok(Err(StoreError::TooBusy))));
        pending.attached(key(1), Ok(()));
        assert_eq!(one.as_mut().poll(&mut context), Poll::Ready(Ok(Ok(()))));
    }

    #[test]
    fn a_connection_that_was_given_up_is_reported_to_nobody() {
        let pending = PendingConnects::new(Tick(0));
        drop(pending.open_attach(key(1), LATER));
        pending.forget(key(1));
        pending.attached(key(1), Ok(()));
        assert!(pending.is_empty() && pending.attaching.borrow().is_empty());
    }

    #[test]
    fn a_hooks_context_is_taken_once_and_its_outcome_ends_the_wait() {
        let pending = PendingConnects::new(Tick(0));
        let connect = Connect { key: key(1), identity: Identity([1; 32]), response: Vec::new(), greets: true };
        let oneshot = pending.open(connect, LATER);
        assert_eq!(pending.take(oneshot.id()).map(|connect| connect.key), Some(key(1)));
        assert!(pending.take(oneshot.id()).is_none());
        pending.complete(oneshot.id(), ConnectOutcome::Refused(None));
        let outcome = pin!(oneshot).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(outcome, Poll::Ready(Ok(ConnectOutcome::Refused(None)))));
    }
}
