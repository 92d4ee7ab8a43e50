//! Where the store's thread lays what a worker is to hear, and rings. A shelf takes everything, since it joins what
//! lies there already: a mailbox can be full, and a shard that is not told waits for ever.

use crate::shard::command::{Completions, ExpiredMessages};
use crate::store::Claimed;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

#[derive(Default)]
pub struct Shelf {
    /// Looked at in every turn, without the lock.
    full: AtomicBool,
    news: Mutex<News>,
}

/// What the store has said since the worker last looked.
#[derive(Debug, Default, PartialEq)]
pub struct News {
    pub told: Option<Completions>,
    pub expired: Vec<ExpiredMessages>,
    pub claimed: Vec<(u64, Claimed)>,
}

impl Shelf {
    pub fn lay(&self, put: impl FnOnce(&mut News)) {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        put(&mut news);
        self.full.store(true, Ordering::Release);
    }

    pub fn take(&self) -> Option<News> {
        if !self.full.load(Ordering::Acquire) {
            return None;
        }
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        self.full.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut news))
    }
}

impl News {
    /// Later work, told after earlier.
    pub fn add_told(&mut self, told: Completions) {
        match &mut self.told {
            None => self.told = Some(told),
            Some(before) => {
                debug_assert!(before.upto < told.upto, "a shard's numbers come in order");
                before.upto = told.upto;
                before.exceptions.extend(told.exceptions);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::command::{CommandNumber, Completion};

    #[test]
    fn what_was_not_taken_is_joined_with_what_follows() {
        let shelf = Shelf::default();
        assert_eq!(shelf.take(), None);
        let known = |number| (CommandNumber(number), Completion::Duplicate);
        shelf.lay(|news| news.add_told(Completions { upto: CommandNumber(3), exceptions: vec![known(2)] }));
        shelf.lay(|news| news.claimed.push((7, Claimed::New)));
        shelf.lay(|news| news.add_told(Completions { upto: CommandNumber(9), exceptions: vec![known(4), known(9)] }));
        let news = shelf.take().expect("something was laid there");
        assert_eq!(
            news.told,
            Some(Completions { upto: CommandNumber(9), exceptions: vec![known(2), known(4), known(9)] })
        );
        assert_eq!(news.claimed, [(7, Claimed::New)]);
        assert_eq!(shelf.take(), None);
    }
}
