//! What this worker's calls wait for: replies of shards, the store's word on a claim, the same call at another worker,
//! the main thread's reload. A wait that ends at its deadline is answered as a refusal. Also the buffer in which
//! messages of calls are encoded.

use super::gather::Gathers;
use super::traces::TraceReaders;
use crate::base::id::ShardId;
use crate::base::time::Tick;
use crate::io::runtime::oneshot::Oneshots;
use crate::io::worker::message::ReloadOutcome;
use crate::shard::Message;
use crate::shard::command::transfer::TransferAnswer;
use crate::store::ClaimOutcome;
use crate::wire::packet::QoS;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

pub struct PendingCalls {
    gathers: Gathers,
    claims: Oneshots<ClaimOutcome>,
    repeats: Oneshots<Option<Arc<[u8]>>>,
    reloads: Oneshots<ReloadOutcome>,
    passes: Oneshots<bool>,
    traces: Rc<TraceReaders>,
    transfers: Oneshots<TransferAnswer>,
    names: Oneshots<u32>,
    /// Where messages are encoded.
    scratch: RefCell<Vec<u8>>,
}

impl PendingCalls {
    pub fn new(worker: ShardId, calls_max: usize, now: Tick) -> PendingCalls {
        PendingCalls {
            gathers: Gathers::new(worker, calls_max, now),
            claims: Oneshots::new(now),
            repeats: Oneshots::new(now),
            reloads: Oneshots::new(now),
            passes: Oneshots::new(now),
            traces: Rc::new(TraceReaders::new(worker, now)),
            transfers: Oneshots::new(now),
            names: Oneshots::new(now),
            scratch: RefCell::default(),
        }
    }

    pub fn gathers(&self) -> &Gathers {
        &self.gathers
    }

    /// Calls with a `message_id`: what the store knows of it.
    pub fn claims(&self) -> &Oneshots<ClaimOutcome> {
        &self.claims
    }

    /// Calls whose `message_id` is in use: the response of the call that came first; `None`: it failed.
    pub fn repeats(&self) -> &Oneshots<Option<Arc<[u8]>>> {
        &self.repeats
    }

    /// Calls of /updateconfig/: what was changed, or why nothing was.
    pub fn reloads(&self) -> &Oneshots<ReloadOutcome> {
        &self.reloads
    }

    /// Sessions that other nodes ask for: were they passed on?
    pub fn passes(&self) -> &Oneshots<bool> {
        &self.passes
    }

    /// Callers that read what happens.
    pub fn traces(&self) -> &Rc<TraceReaders> {
        &self.traces
    }

    /// Sessions on their way between two disks: what the store has answered.
    pub fn transfers(&self) -> &Oneshots<TransferAnswer> {
        &self.transfers
    }

    /// Questions about sessions on their way: what the worker that has the name has answered.
    pub fn names(&self) -> &Oneshots<u32> {
        &self.names
    }

    /// A message of a call; one allocation, the shared bytes themselves.
    pub fn encode(&self, qos: QoS, message_type: u16, body: &[u8]) -> Message {
        Message::encode(qos, message_type, body, &mut self.scratch.borrow_mut())
    }

    /// Nothing waits, reloads apart: those end with the main thread.
    pub fn is_empty(&self) -> bool {
        self.gathers.is_empty() && self.claims.is_empty() && self.repeats.is_empty()
    }

    pub fn expire(&self, now: Tick) {
        self.gathers.expire(now);
        self.claims.expire(now);
        self.repeats.expire(now);
        self.reloads.expire(now);
        self.passes.expire(now);
        self.traces.expire(now);
        self.transfers.expire(now);
        self.names.expire(now);
    }
}
