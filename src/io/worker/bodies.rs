//! Memory for the bodies of calls that do not come with their heads: so much of it for all callers of a worker.

use std::cell::Cell;
use std::rc::Rc;

/// What the bodies of a worker take.
#[derive(Default)]
pub struct Bodies {
    taken: Cell<usize>,
}

/// Room for one body, given back when it is dropped.
pub struct BodyRoom {
    bodies: Rc<Bodies>,
    bytes: usize,
}

impl Bodies {
    /// Room for so many more bytes, unless all bodies together would take more than `bytes_max`. The only body may be
    /// as long as it wants: its own limit is another.
    pub fn take(self: &Rc<Bodies>, bytes: usize, bytes_max: usize) -> Option<BodyRoom> {
        let taken = self.taken.get();
        if taken > 0 && taken + bytes > bytes_max {
            return None;
        }
        self.taken.set(taken + bytes);
        Some(BodyRoom { bodies: self.clone(), bytes })
    }
}

impl Drop for BodyRoom {
    fn drop(&mut self) {
        self.bodies.taken.set(self.bodies.taken.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_comes_back_and_one_body_is_always_taken() {
        let bodies = Rc::new(Bodies::default());
        let long = bodies.take(100, 10).expect("it is the only one");
        assert!(bodies.take(1, 10).is_none());
        drop(long);
        let rooms = [bodies.take(4, 10), bodies.take(6, 10)];
        assert!(rooms.iter().all(Option::is_some) && bodies.take(1, 10).is_none());
        drop(rooms);
        assert_eq!(bodies.taken.get(), 0);
    }
}
