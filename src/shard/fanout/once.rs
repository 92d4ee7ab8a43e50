//! Who has had a message that is sent to several channels: a member of two of them gets it once, and counts once.
//!
//! One set per call and shard, shared by its channels for as long as one of them is on its way.

use crate::shard::ids::Member;
use rustc_hash::FxHashSet;
use std::cell::RefCell;
use std::rc::Rc;

/// Members that were served, with the generations of their slots.
#[derive(Clone, Default)]
pub struct Once(Rc<RefCell<FxHashSet<(Member, u32)>>>);

impl Once {
    /// Whether this is the first channel in which the member is served.
    pub fn is_first(&self, member: Member, generation: u32) -> bool {
        let mut served = self.0.borrow_mut();
        // Nobody looks after the last channel.
        if Rc::strong_count(&self.0) == 1 {
            return !served.contains(&(member, generation));
        }
        served.insert((member, generation))
    }
}
