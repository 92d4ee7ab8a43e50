//! Calls with a `message_id`: carried out once within `dedupe_window`, and answered alike as often as they are
//! repeated.
//!
//! The store knows the ids that were used (`Claim`, `Settle`); `InFlightCalls` knows those that are in use now.
//!
//! ```text
//! begin ─► claim in the store ─► New, Unsettled: send ─► settle (not waited for) ─► response, also to repeats
//!   └► a repeat: wait            └► Settled: that response
//! ```

use super::query::{self, Outgoing};
use crate::base::time::{Tick, ms};
use crate::io::runtime::clock;
use crate::io::runtime::oneshot::{Expired, ReturnAddress};
use crate::io::worker::calls::in_flight::Begin;
use crate::io::worker::message::PeerMessage;
use crate::io::worker::turn::Worker;
use crate::policy::api::remembered::{CallDigest, Remembered, recall, remember};
use crate::policy::api::{Refusal, Sent, Targets, write_sent};
use crate::shard::Reply;
use crate::shard::command::{Claim, StoreError, UnixMs};
use crate::store::{ClaimId, ClaimOutcome, Request};
use std::sync::Arc;
use std::time::Duration;

/// The one call that is being carried out under an id. When it ends, however that is, the repeats are answered.
struct FirstCall<'a> {
    worker: &'a Worker,
    id: Arc<str>,
    response: Option<Arc<[u8]>>,
}

impl Drop for FirstCall<'_> {
    fn drop(&mut self) {
        for caller in self.worker.shared().in_flight().end(&self.id) {
            let response = self.response.clone();
            let message = PeerMessage::CallEnded { oneshot: caller.oneshot(), response };
            self.worker.send_message(caller.worker(), message);
        }
    }
}

/// Sends under the caller's own id; what comes back is the response's body.
pub async fn send_once(worker: &Worker, id: &str, to: &Targets<'_>, message: Outgoing<'_>) -> Result<Vec<u8>, Refusal> {
    if !worker.store().has_store() {
        return Err(Refusal::NoStoreForId);
    }
    let id: Arc<str> = id.into();
    // For the whole of it: the wait for another call of this id, for the claim, and for the clients.
    let deadline = worker.now() + message.timeout;
    let digest = CallDigest::of(to, message.qos, message.message_type, message.body);
    loop {
        let repeat = worker.calls().repeats().open((), deadline);
        let caller = ReturnAddress::new(worker.id(), repeat.id());
        match worker.shared().in_flight().begin(&id, digest, caller) {
            Begin::First => break,
            Begin::Other => return Err(Refusal::OtherCall),
            Begin::Refused => return Err(Refusal::TooManyCalls),
            Begin::Repeat => {
                if let Some(response) = repeat.await.map_err(|Expired| Refusal::NoAnswerInTime)? {
                    return Ok(response.to_vec());
                }
                // The first one failed: now it is this call's turn, or another's that waited.
            }
        }
    }
    let mut call = FirstCall { worker, id, response: None };
    let body = carry_out(worker, (&call.id, digest), to, message, deadline).await?;
    call.response = Some(body.as_slice().into());
    Ok(body)
}

async fn carry_out(
    worker: &Worker,
    (id, digest): (&Arc<str>, CallDigest),
    to: &Targets<'_>,
    message: Outgoing<'_>,
    deadline: Tick,
) -> Result<Vec<u8>, Refusal> {
    let window = worker.rules().config().store.dedupe_window;
    let until = UnixMs(clock::stored_unix_ms().0.saturating_add(ms(window)));
    let claim = Claim { message_id: id.clone(), until };
    match claimed(worker, &claim, deadline).await? {
        ClaimOutcome::New | ClaimOutcome::Unsettled => {}
        ClaimOutcome::Settled(remembered) => {
            return match recall(&remembered, digest) {
                Remembered::Answer(answer) => Ok(answer.to_vec()),
                Remembered::OtherCall => Err(Refusal::OtherCall),
            };
        }
        ClaimOutcome::Refused(why) => return Err(Refusal::Store(why)),
    }
    let timeout = Duration::from_millis(deadline.since_ms(worker.now()));
    let (tally, data) = match query::send_to(worker, to, Outgoing { claim: Some(claim), timeout, ..message }).await? {
        Reply::Sent { tally, data } => (tally, data),
        Reply::Refused(why) => return Err(Refusal::Shard(why)),
        other => unreachable!("not the reply to a send: {other:?}"),
    };
    let to_session = matches!(to, Targets::Session(_));
    let mut body = Vec::with_capacity(128 + data.len());
    let sent = Sent { tally, data: &data, to_session };
    write_sent(&mut body, sent);
    // A member that was not reached by this call may be reached by its repeat.
    if tally.is_success() {
        // If it is lost, a repeat is sent again, and the sessions' own claims keep it from doubling.
        let answer = remember(digest, sent, worker.limits().remembered_data_max);
        worker.store().offer(Request::Settle { message_id: id.clone(), answer });
    }
    Ok(body)
}

/// What the store knows of the id.
async fn claimed(worker: &Worker, claim: &Claim, deadline: Tick) -> Result<ClaimOutcome, Refusal> {
    let claimed = worker.calls().claims().open((), deadline);
    let caller = ReturnAddress::new(worker.id(), claimed.id());
    if !worker.store().offer(Request::Claim { id: ClaimId(caller.pack()), claim: claim.clone() }) {
        return Err(Refusal::Store(StoreError::TooBusy));
    }
    claimed.await.map_err(|Expired| Refusal::Store(StoreError::Unreachable))
}
