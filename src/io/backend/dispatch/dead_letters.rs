//! Messages that are refused for good because the backend fails on them, on their way to `dead_letter_url`.
//!
//! A dead letter is a request of the pool's own: the sink never sees it. It has a queue, a breaker and a share of the
//! connections like any hook, and room of its own, so that its URL's failure costs no message. Owns the count of dead
//! letters and of their bytes; called by the dispatcher only.

use std::fmt;
use std::sync::Arc;

use tracing::warn;

use super::failures::BreakerCause;
use super::ids::RequestIndex;
use super::requests::{AcceptedRequest, Requests, queued_bytes};
use super::routes::Routes;
use crate::base::limits::Limits;
use crate::base::time::Tick;
use crate::io::backend::hook::{Hook, HookKind, HookRequest, Retry};
use crate::io::backend::request_writer::Signer;
use crate::metrics::backend::BackendMetrics;

pub struct DeadLetters {
    stats: Arc<BackendMetrics>,
    len_max: usize,
    bytes_max: usize,
    deadline_ms: u64,
    /// Accepted and not ended.
    len: usize,
    bytes: usize,
}

/// Why it was refused for good.
struct Reason(BreakerCause);

impl DeadLetters {
    pub fn new(limits: &Limits, stats: Arc<BackendMetrics>) -> DeadLetters {
        DeadLetters {
            stats,
            len_max: limits.dead_letters_max,
            bytes_max: limits.dead_letters_bytes_max,
            deadline_ms: limits.dead_letters_deadline_ms,
            len: 0,
            bytes: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// `poison`, a message, has used up its attempts; the last one has failed because of `cause`. Queues a copy of it
    /// when there is a URL for that. A message of QoS 0 was promised nothing.
    pub fn submit(
        &mut self,
        requests: &mut Requests,
        routes: &mut Routes,
        signer: &Signer,
        poison: RequestIndex,
        cause: BreakerCause,
        now: Tick,
    ) {
        self.stats.poison.increment();
        let accepted = &requests[poison];
        let Hook::Forward { message_type } = accepted.request().hook else { return };
        let identity = String::from_utf8_lossy(&accepted.request().identity);
        let request_id = signer.request_id(accepted.number());
        let request_id = str::from_utf8(&request_id).expect("digits");
        warn!(message_type, %identity, request_id, "a message is refused for good (see forward_attempts_max): {cause}");
        if accepted.retry() == Retry::Never || !routes[HookKind::DeadLetter].has_targets() {
            return;
        }
        let deadline = now + self.deadline_ms;
        let request = dead_letter(accepted, message_type, cause, deadline);
        let bytes = queued_bytes(&request);
        if self.len >= self.len_max || self.bytes + bytes > self.bytes_max {
            return self.lose("too many wait for dead_letter_url");
        }
        (self.len, self.bytes) = (self.len + 1, self.bytes + bytes);
        let number = requests.take_number();
        let index = requests.insert(request, number, deadline);
        let ready = requests[index].ready(index);
        routes[HookKind::DeadLetter].queue_mut().push(ready);
    }

    /// The request has ended. False, and nothing is done, when it is no dead letter.
    pub fn end(&mut self, requests: &mut Requests, request: RequestIndex, is_taken: bool) -> bool {
        if requests[request].hook() != HookKind::DeadLetter {
            return false;
        }
        let dead_letter = requests.remove(request);
        (self.len, self.bytes) = (self.len - 1, self.bytes - queued_bytes(&dead_letter));
        if is_taken {
            self.stats.dead_letters.increment();
        } else {
            self.lose("dead_letter_url did not take it");
        }
        true
    }

    fn lose(&self, why: &str) {
        self.stats.dead_letters_lost.increment();
        warn!("a dead letter is lost: {why}");
    }
}

/// The message as it was forwarded, and why that was in vain.
fn dead_letter(accepted: &AcceptedRequest, message_type: u16, cause: BreakerCause, deadline: Tick) -> HookRequest {
    let HookRequest { tag, identity, ref client, idempotency_key, ref body, .. } = *accepted.request();
    let (reason, attempts) = (Reason(cause), accepted.attempts_begun());
    let headers =
        format!("RAINBOWMESSAGETYPE: {message_type}\r\nRAINBOWFAILURE: {reason}\r\nRAINBOWATTEMPTS: {attempts}\r\n");
    HookRequest {
        hook: Hook::DeadLetter { message_type },
        tag,
        retry: Retry::Until(deadline),
        identity,
        client: client.clone(),
        idempotency_key,
        query: None,
        client_headers: None,
        headers: Some(headers.into_bytes().into()),
        body: body.clone(),
    }
}

impl fmt::Display for Reason {
    /// The status alone, or the failure in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            BreakerCause::Status(status) => write!(f, "{status}"),
            BreakerCause::Failure(failure) => write!(f, "{failure}"),
        }
    }
}
