//! Many short lists in one vector: the queues of a million connections cost nothing while they are empty, and no
//! allocation after warm-up. A freed node is the next one used, so that what is busy stays in cache.

/// The nodes of all lists of one kind.
pub struct Arena<T> {
    nodes: Vec<Node<T>>,
    /// Head of the free nodes, linked by `next`.
    free: u32,
    len: usize,
}

/// One list: two indices. It owns its nodes: they go back through `pop_front`, `remove` or `clear`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    head: u32,
    tail: u32,
}

/// A node's place, valid until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At(u32);

struct Node<T> {
    value: Option<T>,
    next: u32,
    prev: u32,
}

const NIL: u32 = u32::MAX;

impl Default for List {
    fn default() -> List {
        List { head: NIL, tail: NIL }
    }
}

impl List {
    pub fn is_empty(&self) -> bool {
        self.head == NIL
    }

    pub fn front(&self) -> Option<At> {
        (self.head != NIL).then_some(At(self.head))
    }
}

impl<T> Default for Arena<T> {
    fn default() -> Arena<T> {
        Arena { nodes: Vec::new(), free: NIL, len: 0 }
    }
}

impl<T> Arena<T> {
    /// Nodes in use, of all lists.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push_back(&mut self, list: &mut List, value: T) -> At {
        let at = self.take_node(value);
        let node = &mut self.nodes[at as usize];
        (node.next, node.prev) = (NIL, list.tail);
        match list.tail {
            NIL => list.head = at,
            tail => self.nodes[tail as usize].next = at,
        }
        list.tail = at;
        At(at)
    }

    pub fn pop_front(&mut self, list: &mut List) -> Option<T> {
        list.front().map(|at| self.remove(list, at))
    }

    pub fn remove(&mut self, list: &mut List, at: At) -> T {
        let node = &mut self.nodes[at.0 as usize];
        let (next, prev) = (node.next, node.prev);
        let value = node.value.take().expect("the node is in use");
        node.next = self.free;
        self.free = at.0;
        self.len -= 1;
        match prev {
            NIL => list.head = next,
            prev => self.nodes[prev as usize].next = next,
        }
        match next {
            NIL => list.tail = prev,
            next => self.nodes[next as usize].prev = prev,
        }
        value
    }

    pub fn next(&self, at: At) -> Option<At> {
        let next = self.nodes[at.0 as usize].next;
        (next != NIL).then_some(At(next))
    }

    pub fn get(&self, at: At) -> &T {
        self.nodes[at.0 as usize].value.as_ref().expect("the node is in use")
    }

    pub fn get_mut(&mut self, at: At) -> &mut T {
        self.nodes[at.0 as usize].value.as_mut().expect("the node is in use")
    }

    pub fn iter<'a>(&'a self, list: &List) -> impl Iterator<Item = (At, &'a T)> + use<'a, T> {
        let mut next = list.front();
        std::iter::from_fn(move || {
            let at = next?;
            next = self.next(at);
            Some((at, self.get(at)))
        })
    }

    /// The same from the back.
    pub fn iter_back<'a>(&'a self, list: &List) -> impl Iterator<Item = (At, &'a T)> + use<'a, T> {
        let mut next = list.tail;
        std::iter::from_fn(move || {
            let at = (next != NIL).then_some(At(next))?;
            next = self.nodes[next as usize].prev;
            Some((at, self.get(at)))
        })
    }

    fn take_node(&mut self, value: T) -> u32 {
        self.len += 1;
        if self.free == NIL {
            self.nodes.push(Node { value: Some(value), next: NIL, prev: NIL });
            return (self.nodes.len() - 1) as u32;
        }
        let at = self.free;
        let node = &mut self.nodes[at as usize];
        self.free = node.next;
        node.value = Some(value);
        at
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
