//! Calls with a `message_id`: carried out once within `dedupe_window`, and answered alike as often as they are
//! repeated.
//!
//! The store knows the ids that were used (`Claim`, `Settle`); a table that all workers share knows those that are in
//! use now: who comes second waits for the first one's answer.
//!
//! ```text
//! begin ─► claim in the store ─► New, Again: send ─► settle (not waited for) ─► answer, to those who wait too
//!   └► somebody is at it: wait    └► Settled: that answer
//! ```

use crate::base::id::ShardId;
use crate::io::runtime::clock;
use crate::io::worker::shared::Mail;
use crate::io::worker::turn::{Core, Send};
use crate::policy::api::{Refusal, Sent, Targets, write_sent};
use crate::shard::Reply;
use crate::shard::command::{Claim, StoreError, UnixMs};
use crate::store::{Claimed, Request};
use rustc_hash::FxHashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The ids of calls that are being carried out, and who waits for their answers.
#[derive(Default)]
pub struct Repeats(Mutex<FxHashMap<Arc<str>, Vec<Waiter>>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiter {
    shard: ShardId,
    ticket: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Begun {
    /// Carry it out; `end` must follow.
    First,
    /// Wait for the first one's answer.
    Second,
    TooMany,
}

impl Repeats {
    fn begin(&self, id: &Arc<str>, waiter: Waiter) -> Begun {
        let mut ids = self.ids();
        match ids.get_mut(id) {
            None => {
                ids.insert(id.clone(), Vec::new());
                Begun::First
            }
            Some(waiters) if waiters.len() >= WAITERS_MAX => Begun::TooMany,
            Some(waiters) => {
                waiters.push(waiter);
                Begun::Second
            }
        }
    }

    fn end(&self, id: &str) -> Vec<Waiter> {
        self.ids().remove(id).unwrap_or_default()
    }

    fn ids(&self) -> MutexGuard<'_, FxHashMap<Arc<str>, Vec<Waiter>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one call that is being carried out under an id. When it ends, however that is, those who wait hear of it.
struct Making<'a> {
    core: &'a Core,
    id: Arc<str>,
    answer: Option<Arc<[u8]>>,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        for Waiter { shard, ticket } in self.core.shared.repeats.end(&self.id) {
            self.core.post(shard, Mail::Answered { ticket, answer: self.answer.clone() });
        }
    }
}

/// Sends under the caller's own id; what comes back is the answer's body.
pub async fn send_once(core: &Core, id: &str, to: &Targets<'_>, send: Send<'_>) -> Result<Vec<u8>, Refusal> {
    if !core.store.has_store() {
        return Err(Refusal::NoStoreForId);
    }
    let id: Arc<str> = id.into();
    loop {
        let ticket = core.next_ticket();
        match core.shared.repeats.begin(&id, Waiter { shard: core.id, ticket }) {
            Begun::First => break,
            Begun::TooMany => return Err(Refusal::TooManyCalls),
            Begun::Second => {
                core.answers.open(ticket);
                if let Some(answer) = core.answers.told(ticket).await {
                    return Ok(answer.to_vec());
                }
                // The first one came to no answer: now it is our turn, or another's who waited.
            }
        }
    }
    let mut making = Making { core, id, answer: None };
    let body = make(core, &making.id, to, send).await?;
    making.answer = Some(body.as_slice().into());
    Ok(body)
}

async fn make(core: &Core, id: &Arc<str>, to: &Targets<'_>, send: Send<'_>) -> Result<Vec<u8>, Refusal> {
    let window = core.rules().config.store.dedupe_window;
    let until = UnixMs(clock::unix_ms().0.saturating_add(crate::io::worker::rules::ms(window)));
    let claim = Claim { message_id: id.clone(), until };
    let ticket = core.next_ticket();
    core.claims.open(ticket);
    if !core.store.offer(Request::Claim { ticket, claim: claim.clone() }) {
        core.claims.forget(ticket);
        return Err(Refusal::Store(StoreError::TooBusy));
    }
    match core.claims.told(ticket).await {
        Claimed::New | Claimed::Again => {}
        Claimed::Settled(answer) => return Ok(answer),
        Claimed::Refused(why) => return Err(Refusal::Store(why)),
    }
    let reply = core.send_to(to, Send { claim: Some(claim), ..send }).await.ok_or(Refusal::TooManyCalls)?;
    let (connections, data, kept) = match reply {
        Reply::Sent { connections, data, kept } => (connections, data, kept),
        Reply::Refused(why) => return Err(Refusal::Said(why)),
        other => unreachable!("not the reply to a send: {other:?}"),
    };
    let to_session = matches!(to, Targets::Session(_));
    let mut body = Vec::with_capacity(64 + data.len());
    write_sent(&mut body, Sent { connections, data: &data, kept, to_session });
    // Who was not reached by this call may be by its repeat.
    if kept.refused == 0 {
        // Lost, a repeat is sent again, and the sessions' own claims keep it from doubling.
        core.store.offer(Request::Settle { message_id: id.clone(), answer: body.clone() });
    }
    Ok(body)
}

/// Calls that may wait for one that is being carried out.
const WAITERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_call_of_an_id_waits_until_the_first_has_ended() {
        let repeats = Repeats::default();
        let waiter = |ticket| Waiter { shard: ShardId(1), ticket };
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        assert_eq!(repeats.begin(&one, waiter(1)), Begun::First);
        assert_eq!(repeats.begin(&other, waiter(2)), Begun::First);
        assert_eq!(repeats.begin(&one, waiter(3)), Begun::Second);
        assert_eq!(repeats.begin(&one, waiter(4)), Begun::Second);
        assert_eq!(repeats.end(&one), [waiter(3), waiter(4)]);
        assert_eq!(repeats.begin(&one, waiter(5)), Begun::First);
    }

    #[test]
    fn those_who_wait_are_bounded() {
        let repeats = Repeats::default();
        let id: Arc<str> = "id".into();
        let begun = |ticket| repeats.begin(&id, Waiter { shard: ShardId(0), ticket });
        assert_eq!(begun(0), Begun::First);
        let most = WAITERS_MAX as u64;
        assert!((1..=most).all(|ticket| begun(ticket) == Begun::Second));
        assert_eq!(begun(most + 1), Begun::TooMany);
    }
}
