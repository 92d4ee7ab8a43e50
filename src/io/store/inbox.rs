//! Inbox of a worker for what the store's thread reports. It takes everything, since a report joins what is there
//! already: a mailbox can be full, and a shard that misses a completion would wait for ever.

use crate::shard::command::OwnershipAnswer;
use crate::shard::command::transfer::TransferAnswer;
use crate::shard::command::{Completions, ExpiredMessages};
use crate::store::{ClaimId, ClaimOutcome, TransferId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub struct StoreInbox {
    /// Read in every turn, without the lock.
    is_full: AtomicBool,
    reports: Mutex<StoreReports>,
}

/// What the store has reported since the worker last looked.
#[derive(Debug, Default, PartialEq)]
pub struct StoreReports {
    pub completions: Option<Completions>,
    pub expired: Vec<ExpiredMessages>,
    /// By the claim's packed return address.
    pub claimed: Vec<(ClaimId, ClaimOutcome)>,
    /// By the packed return address of the request.
    pub transferred: Vec<(TransferId, TransferAnswer)>,
    /// Behind all completions that came before.
    pub ownership: Vec<OwnershipAnswer>,
    /// Connections that were to be noted, and whether they are.
    pub recorded: Vec<(u64, bool)>,
    /// Sessions that another server has taken.
    pub fenced: Vec<Arc<str>>,
}

impl StoreInbox {
    /// Later completions come after earlier ones.
    pub fn push_completions(&self, new: Completions) {
        self.push(|reports| match &mut reports.completions {
            None => reports.completions = Some(new),
            Some(before) => {
                debug_assert!(before.upto < new.upto, "a shard's numbers come in order");
                before.upto = new.upto;
                before.exceptions.extend(new.exceptions);
            }
        });
    }

    pub fn push_expired(&self, expired: Vec<ExpiredMessages>) {
        self.push(|reports| reports.expired.extend(expired));
    }

    pub fn push_claimed(&self, id: ClaimId, outcome: ClaimOutcome) {
        self.push(|reports| reports.claimed.push((id, outcome)));
    }

    pub fn push_transferred(&self, id: TransferId, answer: TransferAnswer) {
        self.push(|reports| reports.transferred.push((id, answer)));
    }

    pub fn push_ownership(&self, answer: OwnershipAnswer) {
        self.push(|reports| reports.ownership.push(answer));
    }

    pub fn push_recorded(&self, numbers: Vec<(u64, bool)>) {
        self.push(|reports| reports.recorded.extend(numbers));
    }

    pub fn push_fenced(&self, session: Arc<str>) {
        self.push(|reports| reports.fenced.push(session));
    }

    pub fn take(&self) -> Option<StoreReports> {
        if !self.is_full.load(Ordering::Acquire) {
            return None;
        }
        let mut reports = self.lock();
        self.is_full.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut reports))
    }

    fn push(&self, add: impl FnOnce(&mut StoreReports)) {
        let mut reports = self.lock();
        add(&mut reports);
        self.is_full.store(true, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, StoreReports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::command::{CommandNumber, Completion};

    #[test]
    fn what_was_not_taken_is_joined_with_what_follows() {
        let inbox = StoreInbox::default();
        assert_eq!(inbox.take(), None);
        let duplicate = |number| (CommandNumber(number), Completion::Duplicate);
        inbox.push_completions(Completions { upto: CommandNumber(3), exceptions: vec![duplicate(2)] });
        inbox.push_claimed(ClaimId(7), ClaimOutcome::New);
        inbox.push_completions(Completions { upto: CommandNumber(9), exceptions: vec![duplicate(4), duplicate(9)] });
        let reports = inbox.take().expect("something was pushed");
        assert_eq!(
            reports.completions,
            Some(Completions { upto: CommandNumber(9), exceptions: vec![duplicate(2), duplicate(4), duplicate(9)] })
        );
        assert_eq!(reports.claimed, [(ClaimId(7), ClaimOutcome::New)]);
        assert_eq!(inbox.take(), None);
    }
}
