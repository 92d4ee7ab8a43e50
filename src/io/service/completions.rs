//! What the outcome of a hook means for the worker: an answered forward, a client that may come in or not, receipts
//! that arrived. The backend pool gives every request back here, exactly once.
//!
//! Nothing here waits: whoever waits for the outcome (`client::upgrade`) has a oneshot.

use crate::base::id::ConnKey;
use crate::io::backend::{FinishedRequest, GiveUp, HookOutcome};
use crate::io::client::lifecycle;
use crate::io::handover::session_request::{self, SessionRequest};
use crate::io::hooks::closes::CloseNumber;
use crate::io::hooks::ticket::HookTicket;
use crate::io::runtime::oneshot::OneshotId;
use crate::io::runtime::panics::contain;
use crate::io::worker::connecting::{Connect, ConnectFailure, ConnectOutcome};
use crate::io::worker::turn::Worker;
use crate::policy::backend::{Actions, ConnectAnswer, Failure, Grant, Verdict};
use crate::shard::{ForwardOutcome, Input};
use crate::wire::packet::MessageRefusal;
use std::rc::Rc;
use std::sync::Arc;
use tracing::{debug, error, warn};

/// The pool's sink: a request has come back. A panic here must not end the pool's task.
pub fn handle_done(worker: &Worker, done: FinishedRequest<'_>) {
    let ticket = HookTicket::unpack(done.tag.0, worker.id());
    worker.hooks().ended(done.tag, &done.outcome);
    let handled = contain(|| match ticket {
        HookTicket::Forward(key) => forward_done(worker, key, done),
        HookTicket::Connect(oneshot) => connect_done(worker, oneshot, done.outcome),
        HookTicket::Close(number) => close_done(worker, number, done.outcome),
        HookTicket::Receipts { count } => receipts_done(worker, count, done.outcome),
    });
    worker.wakeups().need_turn();
    if handled.is_none() {
        worker.count(|counters| &counters.panics);
        error!("the handling of a backend's answer panicked");
        match ticket {
            HookTicket::Forward(key) => worker.handle(Input::Panicked { key }),
            HookTicket::Connect(oneshot) => {
                worker.connects().complete(oneshot, ConnectOutcome::Failed(ConnectFailure::Panicked))
            }
            HookTicket::Close(_) | HookTicket::Receipts { .. } => {}
        }
    }
}

fn forward_done(worker: &Worker, key: ConnKey, done: FinishedRequest<'_>) {
    let outcome = match done.outcome {
        HookOutcome::Answered { verdict: Verdict::Success, head, body } => {
            lifecycle::apply(worker, key, &Actions::read(head.headers));
            ForwardOutcome::Answered(body)
        }
        HookOutcome::Answered { verdict: Verdict::Final, head, body } => {
            lifecycle::apply(worker, key, &Actions::read(head.headers));
            ForwardOutcome::Refused(MessageRefusal { status: head.status, body })
        }
        HookOutcome::Answered { verdict: Verdict::Redirect, head, .. } => {
            if worker.count_first(|counters| &counters.backend_redirects) {
                let location = head.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("location"));
                let location = location.map(|(_, value)| String::from_utf8_lossy(value));
                error!(status = head.status, ?location, "forward_url redirects: its messages fail (logged once)");
            }
            debug!(status = head.status, "a message was redirected: it has failed");
            ForwardOutcome::Failed
        }
        // It would be so each time.
        HookOutcome::GaveUp { reason: GiveUp::Failed(Failure::TooLarge) } => {
            ForwardOutcome::Refused(MessageRefusal { status: 502, body: b"" })
        }
        HookOutcome::Answered { .. } | HookOutcome::GaveUp { .. } => ForwardOutcome::Failed,
    };
    let spent = done.request_body;
    worker.shard().handle(Input::Forwarded { key, outcome, spent }, worker.now());
}

/// Whatever the backend answers, it has heard; one that asks for a retry until the deadline has not taken it.
fn close_done(worker: &Worker, number: CloseNumber, outcome: HookOutcome<'_>) {
    let confirmed = matches!(outcome, HookOutcome::Answered { verdict: Verdict::Success | Verdict::Final, .. });
    worker.hooks().close_ended(number, confirmed);
}

fn receipts_done(worker: &Worker, count: u32, outcome: HookOutcome<'_>) {
    worker.hooks().receipts_ended();
    if !matches!(outcome, HookOutcome::Answered { verdict: Verdict::Success, .. }) {
        worker.count_dropped_receipts(count);
    }
}

/// The client is subscribed and open before anything else can happen to it.
fn connect_done(worker: &Worker, oneshot: OneshotId, outcome: HookOutcome<'_>) {
    let Some(connect) = worker.connects().take(oneshot) else { return };
    let outcome = match outcome {
        HookOutcome::Answered { head, body, .. } => {
            let mut actions = Actions::read(head.headers);
            match ConnectAnswer::read(head.status, body) {
                ConnectAnswer::Accepted(granted) => {
                    let grant = Grant::new(&mut actions, *granted);
                    lifecycle::note_invalid(worker, &actions);
                    accept(worker, connect, grant)
                }
                ConnectAnswer::Refused(reason) => {
                    lifecycle::note_invalid(worker, &actions);
                    ConnectOutcome::Refused(reason)
                }
                ConnectAnswer::Failed => {
                    lifecycle::note_invalid(worker, &actions);
                    ConnectOutcome::Failed(match head.status {
                        200..=299 => ConnectFailure::NotJson,
                        status => ConnectFailure::Status(status),
                    })
                }
            }
        }
        HookOutcome::GaveUp { reason } => {
            if reason.may_have_arrived() {
                let client = worker.shard().client(connect.key).unwrap_or_default();
                worker.hooks().close_after_unknown_connect(connect.identity, client, worker.now());
            }
            ConnectOutcome::Failed(ConnectFailure::GaveUp(reason))
        }
    };
    worker.connects().complete(oneshot, outcome);
}

/// The business server lets the client in.
fn accept(worker: &Worker, connect: Connect, mut grant: Grant) -> ConnectOutcome {
    let Connect { key, identity, response, greets } = connect;
    let name = grant.session.take().filter(|_| may_have_sessions(worker));
    let Some(name) = name.map(Arc::<str>::from) else {
        session_request::apply(&grant, &mut worker.shard(), key, worker.now());
        if grant.user.is_some() || !grant.subscribe.is_empty() {
            worker.cluster().on_opened(key);
        }
        lifecycle::record(worker, identity, &grant, Some(key));
        worker.handle(Input::Opened { key, response: response.into(), greets });
        return ConnectOutcome::Opened;
    };
    let owner = worker.shared().session_owner(&name);
    let context = (grant.cookie.as_deref().map(Rc::from), grant.user.as_deref().map(Rc::from));
    let request = SessionRequest { name, grant, response, greets };
    if owner != worker.id() {
        return ConnectOutcome::OwnedElsewhere(Box::new(request));
    }
    let attached = lifecycle::attach(worker, key, identity, request);
    let (cookie, user) = context;
    ConnectOutcome::Attaching { cookie, user, attached }
}

/// The session that the backend names is ignored where there is no store for it.
fn may_have_sessions(worker: &Worker) -> bool {
    let has_store = worker.store().has_store();
    if !has_store && worker.count_first(|counters| &counters.sessions_ignored) {
        warn!("the business server names a session, but no store is configured (store.kind): it is ignored");
    }
    has_store
}
