//! The requests that the pool has accepted and not yet given back.
//!
//! Owns each request from `submit` until it goes to the sink: while it waits in a queue, while an attempt is on a
//! connection, and when it has been given up and waits for the sink to take it. Counts their bytes and numbers them.
//! Decides nothing; called by the dispatcher only.

use std::collections::VecDeque;
use std::ops::Index;
use std::rc::Rc;

use slab::Slab;

use super::ids::{RequestIndex, UpstreamIndex};
use super::queue::ReadyRequest;
use crate::base::time::Tick;
use crate::io::backend::hook::{GiveUp, Hook, HookKind, HookRequest, RequestTag, Retry};
use crate::io::backend::request_writer::{RequestNumber, RequestTemplate};
use crate::policy::backend::Permit;

#[derive(Default)]
pub struct Requests {
    entries: Slab<AcceptedRequest>,
    /// Of the entries.
    bytes: usize,
    next_number: u64,
    /// Ended without a response; for the sink.
    given_up: VecDeque<GivenUp>,
}

/// A request that was accepted.
pub struct AcceptedRequest {
    request: HookRequest,
    number: RequestNumber,
    bytes: usize,
    /// When it is given up, whatever happens.
    deadline: Tick,
    /// Failed so far, and how many of these are to be charged to the request.
    attempts: u32,
    blamed: u32,
    /// The last attempt may be what brought its upstream down.
    is_suspect: bool,
    /// How often it met a connection that the backend was just closing.
    stale_tries: u32,
    /// While it is on a connection.
    attempt: Option<Attempt>,
}

/// One try of a request on one upstream.
pub struct Attempt {
    pub upstream: UpstreamIndex,
    pub template: Rc<RequestTemplate>,
    pub permit: Permit,
    pub started_us: u64,
    /// When the attempt would time out if the request's deadline did not come first.
    pub full_deadline: Tick,
}

/// A request on its way back without a response.
pub struct GivenUp {
    pub tag: RequestTag,
    pub reason: GiveUp,
    pub body: Vec<u8>,
    number: RequestNumber,
}

impl Requests {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of the request that is submitted now.
    pub fn take_number(&mut self) -> RequestNumber {
        let number = RequestNumber(self.next_number);
        self.next_number += 1;
        number
    }

    #[inline]
    pub fn insert(&mut self, request: HookRequest, number: RequestNumber, deadline: Tick) -> RequestIndex {
        let bytes = queued_bytes(&request);
        self.bytes += bytes;
        let entry = AcceptedRequest {
            request,
            number,
            bytes,
            deadline,
            attempts: 0,
            blamed: 0,
            is_suspect: false,
            stale_tries: 0,
            attempt: None,
        };
        RequestIndex(self.entries.insert(entry))
    }

    /// The request has ended; between attempts only.
    pub fn remove(&mut self, index: RequestIndex) -> HookRequest {
        self.remove_entry(index).request
    }

    /// The same where only that is needed which its submitter gets back.
    pub fn finish(&mut self, index: RequestIndex) -> (RequestTag, Vec<u8>) {
        let HookRequest { tag, body, .. } = self.remove_entry(index).request;
        (tag, body)
    }

    fn remove_entry(&mut self, index: RequestIndex) -> AcceptedRequest {
        let entry = self.entries.remove(index.0);
        debug_assert!(entry.attempt.is_none(), "its connection would take another request's response");
        self.bytes -= entry.bytes;
        entry
    }

    // Attempts.

    pub fn begin_attempt(&mut self, index: RequestIndex, attempt: Attempt) {
        self.entries[index.0].attempt = Some(attempt);
    }

    pub fn end_attempt(&mut self, index: RequestIndex) -> Attempt {
        self.entries[index.0].attempt.take().expect("it was on a connection")
    }

    /// How many attempts have failed, with the one that has failed now.
    pub fn count_failed(&mut self, index: RequestIndex) -> u32 {
        let entry = &mut self.entries[index.0];
        entry.attempts += 1;
        entry.attempts
    }

    /// The attempt is charged to the request itself: how many of those there were.
    pub fn count_blamed(&mut self, index: RequestIndex) -> u32 {
        let entry = &mut self.entries[index.0];
        entry.blamed += 1;
        entry.blamed
    }

    pub fn set_suspect(&mut self, index: RequestIndex, is_suspect: bool) {
        self.entries[index.0].is_suspect = is_suspect;
    }

    /// It may go out again on another connection although it met one that was closing: false after `stale_max` of them.
    pub fn count_stale(&mut self, index: RequestIndex, stale_max: u32) -> bool {
        let entry = &mut self.entries[index.0];
        let is_allowed = entry.stale_tries < stale_max;
        entry.stale_tries += u32::from(is_allowed);
        is_allowed
    }

    // Requests that end without a response.

    pub fn give_up(&mut self, index: RequestIndex, reason: GiveUp) {
        let entry = self.remove_entry(index);
        self.refuse(entry.request, entry.number, reason);
    }

    /// Gives up a request that was never entered.
    pub fn refuse(&mut self, request: HookRequest, number: RequestNumber, reason: GiveUp) {
        let HookRequest { tag, body, .. } = request;
        self.given_up.push_back(GivenUp { tag, reason, body, number });
    }

    pub fn given_up(&self) -> usize {
        self.given_up.len()
    }

    pub fn pop_given_up(&mut self) -> Option<GivenUp> {
        self.given_up.pop_front()
    }

    /// Those given up behind the first `before` go back in the order in which they were submitted.
    pub fn sort_given_up(&mut self, before: usize) {
        self.given_up.make_contiguous()[before..].sort_unstable_by_key(|given_up| given_up.number);
    }

    #[cfg(debug_assertions)]
    pub fn check_invariants(&self) {
        assert_eq!(self.bytes, self.entries.iter().map(|(_, entry)| entry.bytes).sum::<usize>());
    }
}

impl Index<RequestIndex> for Requests {
    type Output = AcceptedRequest;

    fn index(&self, index: RequestIndex) -> &AcceptedRequest {
        &self.entries[index.0]
    }
}

impl AcceptedRequest {
    pub fn request(&self) -> &HookRequest {
        &self.request
    }

    pub fn hook(&self) -> HookKind {
        self.request.hook.into()
    }

    pub fn retry(&self) -> Retry {
        self.request.retry
    }

    pub fn number(&self) -> RequestNumber {
        self.number
    }

    pub fn deadline(&self) -> Tick {
        self.deadline
    }

    /// For its hook's queue.
    pub fn ready(&self, index: RequestIndex) -> ReadyRequest {
        ReadyRequest { index, deadline: self.deadline, is_suspect: self.is_suspect }
    }

    pub fn is_suspect(&self) -> bool {
        self.is_suspect
    }

    /// An attempt of it has failed before.
    pub fn is_retried(&self) -> bool {
        self.attempts > 0
    }

    /// It does no harm when the backend sees it twice. A message of QoS 0 is at most once.
    pub fn is_repeatable(&self) -> bool {
        self.request.retry != Retry::Never || !matches!(self.request.hook, Hook::Forward { .. })
    }

    /// Attempts, the one that is about to end included.
    pub fn attempts_begun(&self) -> u32 {
        self.attempts + 1
    }

    pub fn attempt(&self) -> Option<&Attempt> {
        self.attempt.as_ref()
    }
}

/// What a request adds to the queue's bytes: body, headers and query.
pub fn queued_bytes(request: &HookRequest) -> usize {
    let of_both = [&request.client_headers, &request.headers];
    let headers: usize = of_both.into_iter().flatten().map(|headers| headers.len()).sum();
    let query = request.query.as_ref().map_or(0, |query| query.len());
    request.body.len() + headers + query
}
