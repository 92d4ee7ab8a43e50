//! What every part of a shard is handed while one input is handled: the time, the settings, and what all parts write to
//! (messages, calls, outputs, metrics). A part owns everything else that it changes.

use super::call::query::{NotStored, Reply};
use super::call::trace::Traces;
use super::call::waiting::{CallEnd, CallRef, Calls};
use super::channel::members::Change;
use super::channel::traffic::Watches;
use super::command::UnixMs;
use super::ids::QueryId;
use super::message::Messages;
use super::output::Output;
use super::planted::Bug;
use super::settings::Settings;
use crate::base::time::Tick;
use crate::metrics::shard::ShardMetrics;
use std::collections::VecDeque;

pub struct Context<'a> {
    pub now: Tick,
    pub settings: &'a Settings,
    pub metrics: &'a ShardMetrics,
    pub messages: &'a mut Messages,
    pub calls: &'a mut Calls,
    pub outputs: &'a mut VecDeque<Output>,
    pub traces: &'a mut Traces,
    pub watches: &'a mut Watches,
    /// What clients have caused takes more than `clients_memory_max`: who is behind gets nothing more.
    pub is_memory_full: bool,
    /// It takes more than twice as much: nobody gets anything long any more.
    pub is_memory_exhausted: bool,
    /// Empty between uses.
    pub scratch: &'a mut Vec<u8>,
}

impl Context<'_> {
    #[inline]
    pub fn is_planted(&self, bug: Bug) -> bool {
        self.settings.is_planted(bug)
    }

    /// Clients hold so much that each of them may be one that holds it for nothing.
    pub fn has_no_memory_for(&self, len: usize) -> bool {
        self.is_memory_exhausted && len > self.settings.limits.memory_short_max
    }

    /// Memory of answers that one client may have to release before its next message is forwarded.
    pub fn answers_bytes_max(&self) -> usize {
        if self.is_memory_full { 0 } else { self.settings.answers_bytes_max }
    }

    /// `now` by the wall clock.
    pub fn unix(&self) -> UnixMs {
        UnixMs(self.settings.sessions.unix_ms_at_zero.saturating_add(self.now.0))
    }

    /// When the wall clock will show that time, if nobody steps it.
    pub fn tick_at(&self, unix: UnixMs) -> Tick {
        self.now + unix.0.saturating_sub(self.unix().0)
    }

    pub fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub fn reply(&mut self, query_id: QueryId, reply: Reply) {
        self.output(Output::Reply { query_id, reply });
    }

    /// Replies to the query, if there is one.
    pub fn reply_some(&mut self, query: Option<(QueryId, Reply)>) {
        if let Some((query_id, reply)) = query {
            self.reply(query_id, reply);
        }
    }

    /// The first member of a channel has joined, or the last one has left.
    pub fn presence(&mut self, change: Change, here: bool) {
        if let Change::Presence(channel) = change {
            self.output(Output::Presence { channel, here });
        }
    }

    pub fn call_answered(&mut self, call: Option<CallRef>, body: &[u8]) {
        let end = call.and_then(|call| self.calls.answered(call, body));
        self.end_call(end);
    }

    /// A member that the call waits for can no longer answer.
    pub fn call_gone(&mut self, call: Option<CallRef>) {
        let end = match call {
            Some(call) if self.is_planted(Bug::CountsTheGone) => self.calls.answered(call, b""),
            Some(call) => self.calls.gone(call),
            None => return,
        };
        self.end_call(end);
    }

    pub fn call_stored(&mut self, call: Option<CallRef>) {
        let end = call.and_then(|call| self.calls.stored(call));
        self.end_call(end);
    }

    pub fn call_refused(&mut self, call: Option<CallRef>, why: NotStored) {
        let end = call.and_then(|call| self.calls.refused(call, why));
        self.end_call(end);
    }

    pub fn call_left(&mut self, call: Option<CallRef>) {
        let end = call.and_then(|call| self.calls.left(call));
        self.end_call(end);
    }

    /// The call's time is over, whether or not the timer has noticed.
    pub fn call_over(&mut self, call: CallRef) {
        let end = self.calls.over(call);
        self.end_call(end);
    }

    pub fn end_call(&mut self, end: Option<CallEnd>) {
        if let Some(CallEnd { query_id, mut tally, data }) = end {
            self.is_planted(Bug::HidesUndecided).then(|| tally.undecided = 0);
            self.is_planted(Bug::HidesRefused).then(|| tally.refused = 0);
            self.reply(query_id, Reply::Sent { tally, data });
        }
    }
}
