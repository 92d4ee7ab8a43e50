//! The spans of hooks: from the moment that a hook is submitted until the pool gives it back, with all its attempts.
//! The business server's own spans hang below them. Where nobody collects spans, a hook costs one look for them.
//!
//! A hook's parent is what its client's connect has said (`traceparent`); without one a trace begins with the hook.
//! Receipts are of many clients and have none.

use crate::base::client::ClientContext;
use crate::io::backend::{Hook, HookKind, HookOutcome, RequestTag};
use crate::io::spans::recorder::SpanRecorder;
use crate::io::spans::span::{Span, SpanKind};
use crate::policy::backend::Verdict;
use rustc_hash::FxHashMap;
use std::cell::RefCell;

pub struct HookSpans {
    recorder: SpanRecorder,
    /// Of hooks that are with the pool.
    open: RefCell<FxHashMap<u64, Box<Span>>>,
}

impl HookSpans {
    pub fn new(recorder: SpanRecorder) -> HookSpans {
        HookSpans { recorder, open: RefCell::default() }
    }

    pub fn recorder(&self) -> &SpanRecorder {
        &self.recorder
    }

    /// A hook of this client begins. Returns the client as the hook shall name it.
    #[inline]
    pub fn begin(&self, hook: Hook, tag: RequestTag, identity: &[u8; 64], client: ClientContext) -> ClientContext {
        let Some(span) = self.recorder.begin(client.trace_parent(), SpanKind::Client, name(hook)) else {
            return client;
        };
        let client = client.of_trace(Some(span.context.clone()));
        self.insert(hook, tag, identity, span);
        client
    }

    /// The hook of a connect, below what has been done for that so far.
    pub fn begin_connect(&self, of: &Span) -> Box<Span> {
        self.recorder.begin_below(of, SpanKind::Client, name(Hook::Connect))
    }

    pub fn insert(&self, hook: Hook, tag: RequestTag, identity: &[u8; 64], mut span: Box<Span>) {
        span.attributes.push(("rainbow.hook", HookKind::from(hook).to_string().into()));
        if !matches!(hook, Hook::SessionEnded) {
            span.attributes.push(("rainbow.identity", String::from_utf8_lossy(identity).into_owned().into()));
        }
        if let Hook::Forward { message_type } = hook {
            span.attributes.push(("rainbow.message_type", message_type.into()));
        }
        self.open.borrow_mut().insert(tag.0, span);
    }

    /// The pool has given it back.
    #[inline]
    pub fn end(&self, tag: RequestTag, outcome: &HookOutcome<'_>) {
        if !self.recorder.is_on() {
            return;
        }
        let Some(mut span) = self.open.borrow_mut().remove(&tag.0) else { return };
        let error = match outcome {
            HookOutcome::Answered { verdict, head, .. } => {
                span.attributes.push(("http.response.status_code", head.status.into()));
                (*verdict != Verdict::Success).then(|| head.status.to_string())
            }
            HookOutcome::GaveUp { reason } => Some(reason.to_string()),
        };
        if let Some(error) = &error {
            span.attributes.push(("error.type", error.clone().into()));
        }
        self.recorder.end(span, error);
    }

    /// The pool had no room for it.
    pub fn refuse(&self, tag: RequestTag) {
        if let Some(span) = self.open.borrow_mut().remove(&tag.0) {
            self.recorder.end(span, Some("too many requests wait".into()));
        }
    }

    /// The pool had no room for it, and it goes on waiting: it has not begun.
    pub fn forget(&self, tag: RequestTag) {
        self.open.borrow_mut().remove(&tag.0);
    }
}

fn name(hook: Hook) -> &'static str {
    match hook {
        Hook::Connect => "hook connect",
        Hook::Forward { .. } => "hook forward",
        Hook::Close => "hook close",
        Hook::SessionEnded => "hook session ended",
        Hook::Receipts => "hook receipts",
        Hook::DeadLetter { .. } => "hook dead letter",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::client::trace_parent::TraceParent;
    use crate::io::backend::GiveUp;
    use crate::io::spans::recorder::{SpanReceiver, span_queue};
    use crate::io::spans::span::SpanValue;
    use crate::policy::backend::Failure;
    use std::sync::Arc;

    const FORWARD: Hook = Hook::Forward { message_type: 7 };

    fn spans(ratio: f64) -> (HookSpans, SpanReceiver) {
        let (sender, receiver) = span_queue(4);
        (HookSpans::new(SpanRecorder::new(Some(sender), ratio, 7, Arc::default())), receiver)
    }

    fn client(flags: &str) -> ClientContext {
        let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        ClientContext::default().of_trace(TraceParent::read(parent.as_bytes()))
    }

    fn attribute<'a>(span: &'a Span, name: &str) -> &'a SpanValue {
        let found = span.attributes.iter().find(|(key, _)| *key == name);
        &found.unwrap_or_else(|| panic!("{name} is not in {span:?}")).1
    }

    #[test]
    fn the_business_server_is_below_the_hook_and_the_hook_below_the_client() {
        let (spans, receiver) = spans(0.0);
        let named = spans.begin(FORWARD, RequestTag(3), &[b'a'; 64], client("01"));
        spans.end(RequestTag(3), &HookOutcome::GaveUp { reason: GiveUp::Failed(Failure::Timeout) });
        let [span] = <[Span; 1]>::try_from(receiver.take(9)).expect("one");
        assert_eq!((&*span.name, span.parent.as_ref()), ("hook forward", client("01").trace_parent()));
        assert_eq!(named.trace_parent(), Some(&span.context));
        assert_eq!(span.error.as_deref(), Some("the backend did not answer in time"));
        assert_eq!(*attribute(&span, "rainbow.message_type"), SpanValue::Number(7));
        assert_eq!(*attribute(&span, "rainbow.identity"), "a".repeat(64).into());
        assert!(spans.open.borrow().is_empty());
    }

    #[test]
    fn what_is_not_collected_is_handed_on_as_it_came() {
        let (spans, receiver) = spans(0.0);
        for client in [client("00"), ClientContext::default()] {
            assert_eq!(spans.begin(FORWARD, RequestTag(3), &[b'a'; 64], client.clone()), client);
        }
        spans.end(RequestTag(3), &HookOutcome::GaveUp { reason: GiveUp::Down });
        assert_eq!(receiver.take(9), []);
    }

    #[test]
    fn a_hook_that_finds_no_room_has_failed() {
        let (spans, receiver) = spans(1.0);
        let named = spans.begin(Hook::Close, RequestTag(3), &[b'a'; 64], ClientContext::default());
        assert!(named.trace_parent().is_some_and(TraceParent::is_sampled), "a trace begins with it");
        spans.forget(RequestTag(3));
        spans.begin(Hook::Close, RequestTag(3), &[b'a'; 64], ClientContext::default());
        spans.refuse(RequestTag(3));
        let [span] = <[Span; 1]>::try_from(receiver.take(9)).expect("one: what goes on waiting has not begun");
        assert_eq!(span.error.as_deref(), Some("too many requests wait"));
    }
}
