//! What waits to be written to one connection. Frames are kept as references to shared messages until the write, then
//! copied one behind the other into the worker's buffer: many frames, one send.
//!
//! The byte limit is the caller's; it makes room by `drop_oldest_qos0`, or closes.

use super::arena::{Arena, List};
#[cfg(debug_assertions)]
use super::invariants::Holdings;
use super::messages::{MessageRef, Messages, Stamp};
use crate::wire::packet::QoS;
use std::rc::Rc;

/// One connection's queue; its items lie in `Items`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outbox {
    list: List,
    bytes: u32,
    /// Bytes of the first item that the socket has taken already.
    head_written: u32,
}

#[derive(Debug)]
pub enum Item {
    Message(MessageRef, Stamp),
    /// A whole frame of few bytes.
    Small {
        len: u8,
        bytes: [u8; SMALL_MAX],
    },
    /// A whole frame that may have to be sent again.
    Frame(Rc<[u8]>),
}

pub const SMALL_MAX: usize = 14;

/// The items of all outboxes of a shard.
#[derive(Default)]
pub struct Items(Arena<Item>);

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Bytes not yet taken by the socket.
    pub fn bytes(&self) -> usize {
        (self.bytes - self.head_written) as usize
    }
}

impl Item {
    /// Panics when the frame is longer than `SMALL_MAX`.
    pub fn small(frame: &[u8]) -> Item {
        let mut bytes = [0; SMALL_MAX];
        bytes[..frame.len()].copy_from_slice(frame);
        Item::Small { len: frame.len() as u8, bytes }
    }

    pub fn len(&self, messages: &Messages) -> usize {
        match self {
            Item::Message(message, _) => messages.get(message).len(),
            Item::Small { len, .. } => usize::from(*len),
            Item::Frame(frame) => frame.len(),
        }
    }

    fn is_qos0(&self, messages: &Messages) -> bool {
        matches!(self, Item::Message(message, _) if messages.get(message).qos == QoS::AtMostOnce)
    }

    fn write(&self, messages: &Messages, out: &mut Vec<u8>) {
        match self {
            Item::Message(message, stamp) => messages.write(message, *stamp, out),
            Item::Small { len, bytes } => out.extend_from_slice(&bytes[..usize::from(*len)]),
            Item::Frame(frame) => out.extend_from_slice(frame),
        }
    }

    fn release(self, messages: &mut Messages) {
        if let Item::Message(message, _) = self {
            messages.release(message);
        }
    }
}

impl Items {
    /// Items of all outboxes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn push(&mut self, outbox: &mut Outbox, messages: &Messages, item: Item) {
        outbox.bytes += item.len(messages) as u32;
        self.0.push_back(&mut outbox.list, item);
    }

    /// Bytes that count against a limit: a frame that the socket has begun must be finished, whatever comes.
    pub fn waiting_bytes(&self, outbox: &Outbox, messages: &Messages) -> usize {
        let begun = outbox.list.front().filter(|_| outbox.head_written > 0);
        outbox.bytes as usize - begun.map_or(0, |head| self.0.get(head).len(messages))
    }

    /// Appends what is next to be written, whole items until `enough` bytes are reached (so at least one), less what
    /// the socket already has of the first.
    pub fn gather(&self, outbox: &Outbox, messages: &Messages, enough: usize, out: &mut Vec<u8>) {
        let start = out.len();
        for (_, item) in self.0.iter(&outbox.list) {
            item.write(messages, out);
            if out.len() - start == outbox.bytes as usize || out.len() - start >= enough {
                break;
            }
        }
        if outbox.head_written > 0 {
            out.drain(start..start + outbox.head_written as usize);
        }
    }

    /// The socket has taken `written` bytes.
    pub fn advance(&mut self, outbox: &mut Outbox, messages: &mut Messages, written: usize) {
        let mut left = outbox.head_written as usize + written;
        while let Some(at) = outbox.list.front() {
            let len = self.0.get(at).len(messages);
            if len > left {
                break;
            }
            left -= len;
            outbox.bytes -= len as u32;
            self.0.remove(&mut outbox.list, at).release(messages);
        }
        outbox.head_written = left as u32;
        debug_assert!(outbox.head_written <= outbox.bytes, "the socket took no more than was gathered");
    }

    /// Drops QoS 0 messages, the oldest first, until `bytes` fit under `max` or none is left; a frame that the socket
    /// has begun stays. Returns how many were dropped.
    pub fn drop_oldest_qos0(
        &mut self,
        outbox: &mut Outbox,
        messages: &mut Messages,
        bytes: usize,
        max: usize,
    ) -> usize {
        let mut dropped = 0;
        let begun = (outbox.head_written > 0).then(|| outbox.list.front()).flatten();
        let mut next = begun.map_or(outbox.list.front(), |head| self.0.next(head));
        while let Some(at) = next {
            if self.waiting_bytes(outbox, messages) + bytes <= max {
                break;
            }
            next = self.0.next(at);
            if self.0.get(at).is_qos0(messages) {
                let item = self.0.remove(&mut outbox.list, at);
                outbox.bytes -= item.len(messages) as u32;
                item.release(messages);
                dropped += 1;
            }
        }
        dropped
    }

    /// Throws away all that the socket has not begun.
    pub fn clear_unbegun(&mut self, outbox: &mut Outbox, messages: &mut Messages) {
        let begun = if outbox.head_written > 0 { self.0.pop_front(&mut outbox.list) } else { None };
        while let Some(item) = self.0.pop_front(&mut outbox.list) {
            item.release(messages);
        }
        outbox.bytes = 0;
        if let Some(item) = begun {
            self.push(outbox, messages, item);
        }
    }

    /// Throws away everything.
    pub fn clear(&mut self, outbox: &mut Outbox, messages: &mut Messages) {
        outbox.head_written = 0;
        self.clear_unbegun(outbox, messages);
    }

    #[cfg(debug_assertions)]
    pub fn check(&self, outbox: &Outbox, messages: &Messages, all: &mut Holdings) {
        let mut bytes = 0;
        for (_, item) in self.0.iter(&outbox.list) {
            all.items += 1;
            all.message_uses += usize::from(matches!(item, Item::Message(..)));
            bytes += item.len(messages);
        }
        let head = outbox.list.front().map_or(0, |at| self.0.get(at).len(messages));
        assert_eq!(bytes, outbox.bytes as usize);
        assert!(outbox.head_written == 0 || (outbox.head_written as usize) < head, "a frame that is written is gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::messages::Message;
    use crate::wire::packet::MessageId;
    use proptest::prelude::*;

    const UNSTAMPED: Stamp = Stamp { id: None, dup: false };

    fn message(messages: &mut Messages, qos: QoS, body: &[u8]) -> MessageRef {
        messages.insert(Message::encode(qos, 7, body, &mut Vec::new()))
    }

    #[test]
    fn the_oldest_qos0_goes_first_but_never_a_begun_frame() {
        let (mut items, mut messages, mut outbox) = (Items::default(), Messages::default(), Outbox::default());
        for body in [b"aaaa", b"bbbb", b"cccc"] {
            let item = Item::Message(message(&mut messages, QoS::AtMostOnce, body), UNSTAMPED);
            items.push(&mut outbox, &messages, item);
        }
        let frame = outbox.bytes() / 3;
        items.advance(&mut outbox, &mut messages, 1);
        assert_eq!(items.drop_oldest_qos0(&mut outbox, &mut messages, 1, frame + 1), 1);
        let mut out = Vec::new();
        items.gather(&outbox, &messages, usize::MAX, &mut out);
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("aaaa") && !text.contains("bbbb") && text.contains("cccc"), "{text:?}");
    }

    #[test]
    fn qos1_is_never_dropped_for_room() {
        let (mut items, mut messages, mut outbox) = (Items::default(), Messages::default(), Outbox::default());
        let stamp = Stamp { id: MessageId::new(5), dup: true };
        let item = Item::Message(message(&mut messages, QoS::AtLeastOnce, b"x"), stamp);
        items.push(&mut outbox, &messages, item);
        assert_eq!(items.drop_oldest_qos0(&mut outbox, &mut messages, 100, 10), 0);
        let mut out = Vec::new();
        items.gather(&outbox, &messages, usize::MAX, &mut out);
        assert_eq!(out, [0x82, 6, 0x1A, 0, 7, 0, 5, b'x'], "id and DUP are stamped into the copy");
    }

    proptest! {
        #[test]
        fn what_is_written_in_pieces_equals_the_whole(
            sizes in prop::collection::vec(0..300usize, 1..20),
            writes in prop::collection::vec((1..200usize, 1..400usize), 1..200),
        ) {
            let (mut items, mut messages, mut outbox) = (Items::default(), Messages::default(), Outbox::default());
            let mut whole = Vec::new();
            for (n, size) in sizes.into_iter().enumerate() {
                let item = match n % 3 {
                    0 => Item::Message(message(&mut messages, QoS::AtMostOnce, &vec![n as u8; size]), UNSTAMPED),
                    1 => Item::small(&[n as u8; 9]),
                    _ => Item::Frame(vec![n as u8; size + 1].into()),
                };
                item.write(&messages, &mut whole);
                items.push(&mut outbox, &messages, item);
            }
            let mut written = Vec::new();
            for (taken, enough) in writes {
                let mut out = Vec::new();
                items.gather(&outbox, &messages, enough, &mut out);
                let taken = taken.min(out.len());
                written.extend_from_slice(&out[..taken]);
                items.advance(&mut outbox, &mut messages, taken);
                prop_assert_eq!(outbox.bytes(), whole.len() - written.len());
            }
            prop_assert_eq!(&written[..], &whole[..written.len()]);
            items.clear(&mut outbox, &mut messages);
            prop_assert_eq!((items.len(), messages.uses()), (0, 0));
        }
    }
}
