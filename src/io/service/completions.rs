//! What the outcome of a hook means for the worker: an answered forward, a client that may come in or not, receipts
//! that arrived. The backend pool gives every request back here, exactly once.
//!
//! Nothing here waits: whoever waits for the outcome (`client::upgrade`) has a oneshot.

use crate::base::id::{ConnKey, ShardId};
use crate::io::backend::{FinishedRequest, GiveUp, HookOutcome};
use crate::io::client::lifecycle;
use crate::io::handover::session_request::SessionRequest;
use crate::io::hooks::closes::CloseNumber;
use crate::io::hooks::ticket::HookTicket;
use crate::io::runtime::oneshot::OneshotId;
use crate::io::runtime::panics::contain;
use crate::io::worker::connecting::{Connect, ConnectFailure, ConnectOutcome};
use crate::io::worker::turn::Worker;
use crate::policy::backend::{Actions, ConnectAnswer, Failure, Verdict};
use crate::shard::{ForwardOutcome, Input};
use crate::wire::packet::MessageRefusal;
use std::rc::Rc;
use tracing::{debug, error, warn};

/// The pool's sink: a request has come back. A panic here must not end the pool's task.
pub fn handle_done(worker: &Worker, done: FinishedRequest<'_>) {
    let ticket = HookTicket::unpack(done.tag.0, worker.id());
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
            let actions = Actions::read(head.headers);
            match ConnectAnswer::read(head.status, body) {
                ConnectAnswer::Accepted => accept(worker, connect, &actions),
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
fn accept(worker: &Worker, connect: Connect, actions: &Actions<'_>) -> ConnectOutcome {
    let Connect { key, identity, response, greets } = connect;
    let Some(owner) = session_owner(worker, actions) else {
        lifecycle::apply(worker, key, actions);
        if actions.subscribe.iter().next().is_some() {
            worker.cluster().on_opened(key);
        }
        lifecycle::record(worker, identity, actions.cookie, Some(key));
        worker.handle(Input::Opened { key, response: response.into(), greets });
        return ConnectOutcome::Opened;
    };
    lifecycle::note_invalid(worker, actions);
    let request = session_request(actions, response, greets);
    if owner != worker.id() {
        return ConnectOutcome::OwnedElsewhere(Box::new(request));
    }
    let attached = lifecycle::attach(worker, key, identity, request);
    ConnectOutcome::Attaching { cookie: actions.cookie.map(Rc::from), attached }
}

/// The shard that owns the session which the backend names; `None` without one, or without a store.
fn session_owner(worker: &Worker, actions: &Actions<'_>) -> Option<ShardId> {
    let name = actions.session?;
    if !worker.store().has_store() {
        if worker.count_first(|counters| &counters.sessions_ignored) {
            warn!("the business server names a session, but no store is configured (store.kind): it is ignored");
        }
        return None;
    }
    Some(worker.shared().session_owner(name))
}

fn session_request(actions: &Actions<'_>, response: Vec<u8>, greets: bool) -> SessionRequest {
    SessionRequest {
        name: actions.session.unwrap_or_default().into(),
        expiry_s: actions.session_expiry_s,
        cookie: actions.cookie.map(Box::from),
        unsubscribe: actions.unsubscribe.iter().map(String::from).collect(),
        subscribe: actions.subscribe.iter().map(String::from).collect(),
        response,
        greets,
    }
}
