//! Tasks of this worker that wait for one word each: a session's attachment, a claim, the answer of a call that another
//! one is making, a reload's outcome. The word may come before the task gets to wait for it.

use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::future::poll_fn;
use std::hash::Hash;
use std::task::{Poll, Waker};

pub struct Waits<K, T>(RefCell<FxHashMap<K, Wait<T>>>);

enum Wait<T> {
    Open(Option<Waker>),
    Told(T),
}

impl<K, T> Default for Waits<K, T> {
    fn default() -> Waits<K, T> {
        Waits(RefCell::default())
    }
}

impl<K: Eq + Hash + Copy, T> Waits<K, T> {
    /// Before anything can tell. `told` must be awaited, or `forget` called.
    pub fn open(&self, key: K) {
        let before = self.0.borrow_mut().insert(key, Wait::Open(None));
        debug_assert!(before.is_none(), "one waits under a key");
    }

    /// A word that nobody waits for is forgotten.
    pub fn tell(&self, key: K, word: T) {
        if let Some(wait) = self.0.borrow_mut().get_mut(&key)
            && let Wait::Open(Some(waker)) = std::mem::replace(wait, Wait::Told(word))
        {
            waker.wake();
        }
    }

    pub async fn told(&self, key: K) -> T {
        poll_fn(|context| {
            let mut waits = self.0.borrow_mut();
            match waits.remove(&key) {
                Some(Wait::Told(word)) => Poll::Ready(word),
                _ => {
                    waits.insert(key, Wait::Open(Some(context.waker().clone())));
                    Poll::Pending
                }
            }
        })
        .await
    }

    pub fn forget(&self, key: K) {
        self.0.borrow_mut().remove(&key);
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;

    #[test]
    fn a_word_arrives_whoever_comes_first() {
        let waits = Waits::default();
        let mut context = Context::from_waker(Waker::noop());
        waits.open(1);
        waits.tell(1, "early");
        assert_eq!(pin!(waits.told(1)).poll(&mut context), Poll::Ready("early"));
        waits.open(1);
        let mut told = pin!(waits.told(1));
        assert!(told.as_mut().poll(&mut context).is_pending());
        waits.tell(1, "late");
        assert_eq!(told.poll(&mut context), Poll::Ready("late"));
        assert!(waits.is_empty());
    }

    #[test]
    fn a_word_for_nobody_is_forgotten() {
        let waits = Waits::default();
        waits.open(1);
        waits.forget(1);
        waits.tell(1, "for nobody");
        assert!(waits.is_empty());
    }
}
