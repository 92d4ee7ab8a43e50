//! Panics. One in the handling of a single connection costs that connection (`contain`). Any other may have broken what
//! others share, and what is left of the process would look alive: it ends at once, so that its supervisor starts it
//! again.

use crate::io::log::writer as log;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tracing::error;

thread_local! {
    static IS_CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// `None`: it panicked, and what it has worked on is not trusted any more. Everything else goes on.
pub fn contain<T>(work: impl FnOnce() -> T) -> Option<T> {
    let was_contained = IS_CONTAINED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work)).ok();
    IS_CONTAINED.set(was_contained);
    done
}

/// From now on, a panic that is not contained ends the process, whichever thread it is on, with `EXIT_CODE`.
pub fn end_process_on_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        if !IS_CONTAINED.get() {
            error!("the server ends by the fault above, so that it can be started again");
            log::flush();
            // SAFETY: takes a number only. No destructor runs: they would work on what may be broken.
            unsafe { libc::_exit(EXIT_CODE) };
        }
    }));
}

/// As Rust's own, when `main` panics.
const EXIT_CODE: i32 = 101;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contained_panic_is_an_outcome_and_containment_ends_with_it() {
        assert_eq!(contain(|| 7), Some(7));
        let inside = contain(|| {
            assert_eq!(contain(|| -> u8 { panic!("planted") }), None);
            IS_CONTAINED.get()
        });
        assert_eq!((inside, IS_CONTAINED.get()), (Some(true), false));
    }
}
