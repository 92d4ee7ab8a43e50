//! What waits to be written to one connection: packets, pings and closes. A shared message stays one until the write;
//! then what waits is framed and copied, one behind the other, into the worker's buffer: many frames, one send.
//!
//! Bytes are counted as they will be written. The limit is the caller's, which makes room by `drop_oldest_qos0` or
//! closes the connection.

use super::transport::Transport;
use crate::base::arena::{Arena, LINKS_MEMORY, List};
use crate::shard::message::{MessageRef, Messages, Stamp};
use crate::wire::packet::{MessageId, PONG, Packet, QoS};
use crate::wire::ws::frame::CloseCode;
use std::rc::Rc;

/// One connection's queue; its items lie in `Outboxes`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outbox {
    list: List,
    /// Of all items, the begun one with them.
    memory: u32,
    /// Bytes of the first item that the socket has taken already.
    head_written: u32,
    transport: Transport,
}

#[derive(Debug)]
pub enum Item {
    /// Bytes that come before the transport begins: the answer to the upgrade.
    Response(Rc<[u8]>),
    Message(MessageRef, Stamp),
    /// A packet of few bytes.
    Packet {
        len: u8,
        bytes: [u8; SMALL_MAX],
    },
    /// A packet that may have to be sent again.
    SharedPacket(Rc<[u8]>),
    /// A REL for each id.
    Releases(Rc<[MessageId]>),
    /// Text, for `Mode::Echo`.
    Text(Rc<[u8]>),
    Ping,
    Pong(Rc<[u8]>),
    Close(Option<(CloseCode, Rc<str>)>),
}

pub const SMALL_MAX: usize = 14;

/// Of an item, beside its bytes.
pub const ITEM_MEMORY: usize = size_of::<Item>() + LINKS_MEMORY;

/// The items of all outboxes of a shard.
#[derive(Default)]
pub struct Outboxes {
    items: Arena<Item>,
    /// Bytes that items have of their own.
    own_bytes: usize,
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Of all that the socket has not taken whole.
    pub fn memory(&self) -> usize {
        self.memory as usize
    }
}

impl Item {
    /// Panics when the packet is longer than `SMALL_MAX`.
    pub fn small(packet: Packet<'_>, scratch: &mut Vec<u8>) -> Item {
        scratch.clear();
        packet.encode_into(scratch);
        let mut bytes = [0; SMALL_MAX];
        bytes[..scratch.len()].copy_from_slice(scratch);
        Item::Packet { len: scratch.len() as u8, bytes }
    }

    /// The answer to the packet PING.
    pub fn pong_packet() -> Item {
        let mut bytes = [0; SMALL_MAX];
        bytes[..PONG.len()].copy_from_slice(&PONG);
        Item::Packet { len: PONG.len() as u8, bytes }
    }

    fn is_pong_packet(&self) -> bool {
        matches!(self, Item::Packet { len, bytes } if bytes[..usize::from(*len)] == PONG)
    }

    /// `reason` is cut where a close cannot carry it.
    pub fn close(code: CloseCode, reason: &str, transport: Transport) -> Item {
        Item::Close(Some((code, transport.close_reason(reason).into())))
    }

    /// Bytes on the transport.
    pub fn len(&self, transport: Transport) -> usize {
        match self {
            Item::Response(bytes) => bytes.len(),
            Item::Message(message, _) => transport.packet_len(message.packet_len()),
            Item::Packet { len, .. } => transport.packet_len(usize::from(*len)),
            Item::SharedPacket(packet) | Item::Text(packet) => transport.packet_len(packet.len()),
            Item::Releases(ids) => ids.len() * transport.release_len(),
            Item::Ping => transport.control_len(0),
            Item::Pong(payload) => transport.control_len(payload.len()),
            Item::Close(close) => transport.close_len(close.as_ref().map(|(_, reason)| &**reason)),
        }
    }

    /// What it costs while it waits: its place in the list, and its bytes, also where others share them.
    fn memory(&self, transport: Transport) -> usize {
        ITEM_MEMORY + self.len(transport)
    }

    /// Bytes that nobody but the connection's own parts shares.
    fn own_bytes(&self) -> usize {
        match self {
            Item::Response(bytes) | Item::SharedPacket(bytes) | Item::Text(bytes) | Item::Pong(bytes) => bytes.len(),
            Item::Releases(ids) => size_of_val::<[MessageId]>(ids),
            Item::Close(Some((_, reason))) => reason.len(),
            Item::Message(..) | Item::Packet { .. } | Item::Ping | Item::Close(None) => 0,
        }
    }

    fn is_qos0(&self) -> bool {
        matches!(self, Item::Message(message, _) if message.qos() == QoS::AtMostOnce)
    }

    /// Appends it as it is on the transport, or of a packet longer than `copied_max` the start. Returns the rest.
    fn write<'a>(
        &'a self,
        transport: Transport,
        messages: &'a Messages,
        copied_max: usize,
        out: &mut Vec<u8>,
    ) -> &'a [u8] {
        match self {
            Item::Message(message, stamp) => {
                let message = messages.get(message);
                transport.write_packet_header(message.packet_len(), out);
                return message.write(*stamp, copied_max, out);
            }
            Item::SharedPacket(packet) if packet.len() > copied_max => {
                transport.write_packet_header(packet.len(), out);
                return packet;
            }
            Item::Response(bytes) => out.extend_from_slice(bytes),
            Item::Packet { len, bytes } => transport.write_packet(&bytes[..usize::from(*len)], out),
            Item::SharedPacket(packet) => transport.write_packet(packet, out),
            Item::Releases(ids) => ids.iter().for_each(|id| transport.write_release(*id, out)),
            Item::Text(text) => transport.write_text(text, out),
            Item::Ping => transport.write_ping(out),
            Item::Pong(payload) => transport.write_pong(payload, out),
            Item::Close(close) => {
                transport.write_close(close.as_ref().map(|(code, reason)| (*code, &**reason)), out);
            }
        }
        &[]
    }
}

impl Outboxes {
    /// Of all items, without the messages, which others share.
    pub fn memory(&self) -> usize {
        self.items.len() * ITEM_MEMORY + self.own_bytes
    }

    /// The item has left its list.
    fn release(&mut self, item: Item, messages: &mut Messages) {
        match item {
            Item::Message(message, _) => messages.release(message),
            other => self.own_bytes -= other.own_bytes(),
        }
    }

    /// Items of all outboxes.
    pub fn total(&self) -> usize {
        self.items.len()
    }

    pub fn push(&mut self, outbox: &mut Outbox, item: Item) {
        outbox.memory += item.memory(outbox.transport) as u32;
        self.own_bytes += item.own_bytes();
        self.items.push_back(&mut outbox.list, item);
    }

    /// The same for most of what is pushed.
    #[inline]
    pub fn push_message(&mut self, outbox: &mut Outbox, message: MessageRef, stamp: Stamp) {
        outbox.memory += (ITEM_MEMORY + outbox.transport.packet_len(message.packet_len())) as u32;
        self.items.push_back(&mut outbox.list, Item::Message(message, stamp));
    }

    /// The answer to a ping. It takes the place of one that is the last to be written: only the newest ping needs an
    /// answer (RFC 6455, section 5.5.3). True when it did.
    pub fn replace_pong(&mut self, outbox: &mut Outbox, payload: &[u8]) -> bool {
        let Some(tail) = outbox.list.back() else { return false };
        let is_begun = outbox.head_written > 0 && outbox.list.front() == Some(tail);
        let item = self.items.get_mut(tail);
        if is_begun || !matches!(item, Item::Pong(_)) {
            return false;
        }
        let before = std::mem::replace(item, Item::Pong(payload.into()));
        self.own_bytes = self.own_bytes - before.own_bytes() + payload.len();
        outbox.memory -= before.memory(outbox.transport) as u32;
        outbox.memory += self.items.get(tail).memory(outbox.transport) as u32;
        true
    }

    /// It answers what comes until it is begun.
    pub fn ends_with_pong_packet(&self, outbox: &Outbox) -> bool {
        let is_begun = |tail| outbox.head_written > 0 && outbox.list.front() == Some(tail);
        outbox.list.back().is_some_and(|tail| !is_begun(tail) && self.items.get(tail).is_pong_packet())
    }

    /// What counts against a limit: a frame that the socket has begun must be finished, whatever comes.
    #[inline]
    pub fn waiting_memory(&self, outbox: &Outbox) -> usize {
        let begun = outbox.list.front().filter(|_| outbox.head_written > 0);
        outbox.memory() - begun.map_or(0, |head| self.items.get(head).memory(outbox.transport))
    }

    /// What is next to be written, less what the socket already has of it: appended to `out`, whole items until
    /// `enough` bytes are reached (so at least one), and behind them, returned, the rest of a packet longer than
    /// `copied_max`. Where that is empty, it ends with `out`.
    pub fn gather<'a>(
        &'a self,
        outbox: &Outbox,
        messages: &'a Messages,
        (enough, copied_max): (usize, usize),
        out: &mut Vec<u8>,
    ) -> &'a [u8] {
        let (start, mut written) = (out.len(), outbox.head_written as usize);
        for (_, item) in self.items.iter(&outbox.list) {
            let begin = out.len();
            let shared = item.write(outbox.transport, messages, copied_max, out);
            let skipped = written.min(out.len() - begin);
            if skipped > 0 {
                out.drain(begin..begin + skipped);
            }
            let shared = &shared[written - skipped..];
            if !shared.is_empty() {
                return shared;
            }
            written = 0;
            if out.len() - start >= enough {
                break;
            }
        }
        &[]
    }

    /// The socket has taken `written` bytes.
    pub fn advance(&mut self, outbox: &mut Outbox, messages: &mut Messages, written: usize) {
        let mut left = outbox.head_written as usize + written;
        while let Some(head) = outbox.list.front() {
            let len = self.items.get(head).len(outbox.transport);
            if len > left {
                break;
            }
            left -= len;
            let item = self.items.remove(&mut outbox.list, head);
            outbox.memory -= (ITEM_MEMORY + len) as u32;
            self.release(item, messages);
        }
        outbox.head_written = left as u32;
        debug_assert!(outbox.head_written == 0 || !outbox.is_empty(), "the socket took no more than was gathered");
    }

    /// Drops QoS 0 messages, the oldest first, until `memory` fits under `max` or none is left; a frame that the socket
    /// has begun stays. Returns how many were dropped.
    pub fn drop_oldest_qos0(
        &mut self,
        outbox: &mut Outbox,
        messages: &mut Messages,
        memory: usize,
        max: usize,
    ) -> usize {
        let mut dropped = 0;
        let begun = (outbox.head_written > 0).then(|| outbox.list.front()).flatten();
        let mut next = begun.map_or(outbox.list.front(), |head| self.items.next(head));
        while let Some(node) = next {
            if self.waiting_memory(outbox) + memory <= max {
                break;
            }
            next = self.items.next(node);
            if self.items.get(node).is_qos0() {
                let item = self.items.remove(&mut outbox.list, node);
                outbox.memory -= item.memory(outbox.transport) as u32;
                self.release(item, messages);
                dropped += 1;
            }
        }
        dropped
    }

    /// Throws away all that the socket has not begun.
    pub fn clear_unbegun(&mut self, outbox: &mut Outbox, messages: &mut Messages) {
        let begun = if outbox.head_written > 0 { self.items.pop_front(&mut outbox.list) } else { None };
        while let Some(item) = self.items.pop_front(&mut outbox.list) {
            self.release(item, messages);
        }
        outbox.memory = 0;
        if let Some(item) = begun {
            self.own_bytes -= item.own_bytes();
            self.push(outbox, item);
        }
    }

    /// Throws away everything.
    pub fn clear(&mut self, outbox: &mut Outbox, messages: &mut Messages) {
        outbox.head_written = 0;
        self.clear_unbegun(outbox, messages);
    }

    /// The items of one outbox, for invariants.
    #[cfg(debug_assertions)]
    pub fn iter<'a>(&'a self, outbox: &Outbox) -> impl Iterator<Item = &'a Item> {
        self.items.iter(&outbox.list).map(|(_, item)| item)
    }

    /// Of the items of one outbox, in `memory`.
    #[cfg(debug_assertions)]
    pub fn memory_of(&self, outbox: &Outbox) -> usize {
        self.iter(outbox).map(|item| ITEM_MEMORY + item.own_bytes()).sum()
    }

    #[cfg(debug_assertions)]
    pub fn check(&self, outbox: &Outbox) {
        let memory: usize = self.iter(outbox).map(|item| item.memory(outbox.transport)).sum();
        let head = outbox.list.front().map_or(0, |head| self.items.get(head).len(outbox.transport));
        assert_eq!(memory, outbox.memory());
        assert!(outbox.head_written == 0 || (outbox.head_written as usize) < head, "a frame that is written is gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::message::Message;
    use crate::shard::tests::{Rig, client_frame};
    use crate::wire::packet::MessageId;
    use crate::wire::ws::frame::Opcode;
    use proptest::prelude::*;

    const UNSTAMPED: Stamp = Stamp { id: None, dup: false };

    fn message(messages: &mut Messages, qos: QoS, body: &[u8]) -> MessageRef {
        messages.insert(Message::encode(qos, 7, body, &mut Vec::new()))
    }

    #[test]
    fn the_oldest_qos0_goes_first_but_never_a_begun_frame() {
        let (mut items, mut messages) = (Outboxes::default(), Messages::default());
        let mut outbox = Outbox::default();
        for body in [b"aaaa", b"bbbb", b"cccc"] {
            let item = Item::Message(message(&mut messages, QoS::AtMostOnce, body), UNSTAMPED);
            items.push(&mut outbox, item);
        }
        let each = outbox.memory() / 3;
        items.advance(&mut outbox, &mut messages, 1);
        assert_eq!(items.drop_oldest_qos0(&mut outbox, &mut messages, 1, each + 1), 1);
        let mut out = Vec::new();
        assert!(items.gather(&outbox, &messages, (usize::MAX, usize::MAX), &mut out).is_empty());
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("aaaa") && !text.contains("bbbb") && text.contains("cccc"), "{text:?}");
    }

    #[test]
    fn only_the_newest_ping_is_answered() {
        let (mut items, mut messages) = (Outboxes::default(), Messages::default());
        let mut outbox = Outbox::default();
        assert!(!items.replace_pong(&mut outbox, b"none"));
        for payload in [&b"first"[..], b"2", b"the third"] {
            if !items.replace_pong(&mut outbox, payload) {
                items.push(&mut outbox, Item::Pong(payload.into()));
            }
        }
        assert_eq!((items.total(), outbox.memory()), (1, ITEM_MEMORY + 2 + 9));
        items.advance(&mut outbox, &mut messages, 1);
        assert!(!items.replace_pong(&mut outbox, b"x"), "a frame that is begun is finished");
        items.push(&mut outbox, Item::small(Packet::Rel { id: MessageId(7), dup: true }, &mut Vec::new()));
        assert!(!items.replace_pong(&mut outbox, b"x"), "nor is the order changed");
        items.clear(&mut outbox, &mut messages);
        assert_eq!((items.total(), outbox.memory()), (0, 0));
    }

    #[test]
    fn qos1_is_never_dropped_for_room() {
        let (mut items, mut messages) = (Outboxes::default(), Messages::default());
        let mut outbox = Outbox::default();
        let stamp = Stamp { id: MessageId::new(5), dup: true };
        let item = Item::Message(message(&mut messages, QoS::AtLeastOnce, b"x"), stamp);
        items.push(&mut outbox, item);
        assert_eq!(items.drop_oldest_qos0(&mut outbox, &mut messages, 100, 10), 0);
        let mut out = Vec::new();
        assert!(items.gather(&outbox, &messages, (usize::MAX, usize::MAX), &mut out).is_empty());
        assert_eq!(out, [0x82, 6, 0x1A, 0, 7, 0, 5, b'x'], "id and DUP are stamped into the copy");
    }

    #[test]
    fn what_a_client_causes_and_does_not_read_is_bounded() {
        let rel = client_frame(Opcode::Binary, &[0x40, 0, 9]);
        let rec = client_frame(Opcode::Binary, &[0x30, 0, 9]);
        for flood in [&rel, &rec] {
            let mut rig = Rig::new();
            let key = rig.open();
            let max = rig.shard.settings.outbox_bytes_max;
            for _ in 0..max / (ITEM_MEMORY + 6) {
                rig.bytes(key, flood);
            }
            assert_eq!(rig.stats().closed_too_slow.get(), 0, "a client may be behind");
            (0..3).for_each(|_| rig.bytes(key, flood));
            assert_eq!(rig.stats().closed_too_slow.get(), 1);
            rig.finish();
        }
    }

    proptest! {
        #[test]
        fn what_is_written_in_pieces_equals_the_whole(
            sizes in prop::collection::vec(0..300usize, 1..20),
            writes in prop::collection::vec((1..200usize, 1..400usize), 1..200),
            copied_max in 0..300usize,
        ) {
            let (mut items, mut messages) = (Outboxes::default(), Messages::default());
        let mut outbox = Outbox::default();
            let mut whole = Vec::new();
            for (n, size) in sizes.into_iter().enumerate() {
                let item = match n % 7 {
                    0 => Item::Message(message(&mut messages, QoS::AtMostOnce, &vec![n as u8; size]), UNSTAMPED),
                    1 => Item::small(Packet::Rel { id: MessageId(7), dup: true }, &mut Vec::new()),
                    2 => Item::SharedPacket(vec![n as u8; size + 1].into()),
                    3 => Item::Pong(vec![n as u8; size % 126].into()),
                    4 => Item::Releases(vec![MessageId(n as u16 + 1); size % 7].into()),
                    5 => Item::close(CloseCode(4000), &"é".repeat(size), Transport::WebSocket),
                    _ => Item::Response(vec![n as u8; size + 1].into()),
                };
                item.write(Transport::WebSocket, &messages, usize::MAX, &mut whole);
                items.push(&mut outbox, item);
            }
            let mut written = Vec::new();
            for (taken, enough) in writes {
                let mut out = Vec::new();
                let shared = items.gather(&outbox, &messages, (enough, copied_max), &mut out);
                out.extend_from_slice(shared);
                let taken = taken.min(out.len());
                written.extend_from_slice(&out[..taken]);
                items.advance(&mut outbox, &mut messages, taken);
                items.check(&outbox);
            }
            prop_assert_eq!(&written[..], &whole[..written.len()]);
            items.clear(&mut outbox, &mut messages);
            prop_assert_eq!((items.total(), messages.uses()), (0, 0));
        }
    }
}
