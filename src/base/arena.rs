//! Many short lists in one pool: the queues of a million connections cost nothing while they are empty, and no
//! allocation after warm-up.

use super::pool::Pool;
use std::num::NonZeroU32;

/// The nodes of all lists of one kind.
pub struct Arena<T> {
    nodes: Pool<Node<T>>,
}

/// One list: its first and its last node. It owns its nodes: they go back through `pop_front` or `remove`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List {
    head: Option<NodeIndex>,
    tail: Option<NodeIndex>,
}

/// Names a node until it is removed. Holds the complement of its place in `nodes`, so that `Option<NodeIndex>` takes
/// four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIndex(NonZeroU32);

struct Node<T> {
    value: T,
    next: Option<NodeIndex>,
    prev: Option<NodeIndex>,
}

/// Of a value in a list, beside its own.
pub const LINKS_MEMORY: usize = 2 * size_of::<Option<NodeIndex>>();

impl NodeIndex {
    fn new(slot: usize) -> NodeIndex {
        let complement = u32::try_from(slot).ok().and_then(|slot| NonZeroU32::new(!slot));
        NodeIndex(complement.expect("an arena holds fewer than u32::MAX nodes"))
    }

    fn slot(self) -> usize {
        !self.0.get() as usize
    }
}

impl List {
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    pub fn front(&self) -> Option<NodeIndex> {
        self.head
    }

    pub fn back(&self) -> Option<NodeIndex> {
        self.tail
    }
}

impl<T> Default for Arena<T> {
    fn default() -> Arena<T> {
        Arena { nodes: Pool::default() }
    }
}

impl<T> Arena<T> {
    /// Nodes in use, of all lists.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    // Always, as below: see `Pool`.
    #[inline(always)]
    pub fn push_back(&mut self, list: &mut List, value: T) -> NodeIndex {
        let index = NodeIndex::new(self.nodes.insert(Node { value, next: None, prev: list.tail }));
        match list.tail {
            None => list.head = Some(index),
            Some(tail) => self.nodes[tail.slot()].next = Some(index),
        }
        list.tail = Some(index);
        index
    }

    pub fn pop_front(&mut self, list: &mut List) -> Option<T> {
        list.front().map(|index| self.remove(list, index))
    }

    #[inline(always)]
    pub fn remove(&mut self, list: &mut List, index: NodeIndex) -> T {
        let Node { value, next, prev } = self.nodes.remove(index.slot());
        match prev {
            None => list.head = next,
            Some(prev) => self.nodes[prev.slot()].next = next,
        }
        match next {
            None => list.tail = prev,
            Some(next) => self.nodes[next.slot()].prev = prev,
        }
        value
    }

    pub fn next(&self, index: NodeIndex) -> Option<NodeIndex> {
        self.nodes[index.slot()].next
    }

    pub fn get(&self, index: NodeIndex) -> &T {
        &self.nodes[index.slot()].value
    }

    pub fn get_mut(&mut self, index: NodeIndex) -> &mut T {
        &mut self.nodes[index.slot()].value
    }

    pub fn iter<'a>(&'a self, list: &List) -> impl Iterator<Item = (NodeIndex, &'a T)> + use<'a, T> {
        let mut next = list.head;
        std::iter::from_fn(move || {
            let index = next?;
            let node = &self.nodes[index.slot()];
            next = node.next;
            Some((index, &node.value))
        })
    }

    /// The same from the back.
    pub fn iter_back<'a>(&'a self, list: &List) -> impl Iterator<Item = (NodeIndex, &'a T)> + use<'a, T> {
        let mut next = list.tail;
        std::iter::from_fn(move || {
            let index = next?;
            let node = &self.nodes[index.slot()];
            next = node.prev;
            Some((index, &node.value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn lists_in_one_arena_behave_like_deques(
            steps in prop::collection::vec((0..3usize, 0..4u8, 0..8usize), 1..300),
        ) {
            let mut arena = Arena::default();
            let mut lists = [List::default(); 3];
            let mut model: [VecDeque<usize>; 3] = Default::default();
            for (n, (which, step, at)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        arena.push_back(&mut lists[which], n);
                        model[which].push_back(n);
                    }
                    2 => prop_assert_eq!(arena.pop_front(&mut lists[which]), model[which].pop_front()),
                    _ => {
                        let found = arena.iter(&lists[which]).nth(at).map(|(at, _)| at);
                        let removed = found.map(|at| arena.remove(&mut lists[which], at));
                        prop_assert_eq!(removed, model[which].remove(at));
                    }
                }
                for (list, model) in lists.iter().zip(&model) {
                    prop_assert!(arena.iter(list).map(|(_, n)| n).eq(model));
                    prop_assert!(arena.iter_back(list).map(|(_, n)| n).eq(model.iter().rev()));
                }
                prop_assert_eq!(arena.len(), model.iter().map(VecDeque::len).sum::<usize>());
            }
        }
    }
}
