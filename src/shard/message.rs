//! Messages on their way to clients: encoded once as a packet, shared by all receivers of this shard.
//!
//! A count of uses lies beside each message (no atomic operation and no allocation per receiver); across shards the
//! bytes are shared by `Arc`. What differs per receiver, id and DUP, is patched into the copy that goes to the socket.

use crate::base::pool::Pool;
use crate::wire::packet::{self, MessageId, Packet, QoS};
use crate::wire::ws::frame;
use std::sync::Arc;

/// A SEND packet, id 1 where it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    packet: Arc<[u8]>,
    pub qos: QoS,
}

impl Message {
    /// `scratch` is cleared and used; one allocation is left, the shared bytes themselves.
    pub fn encode(qos: QoS, message_type: u16, body: &[u8], scratch: &mut Vec<u8>) -> Message {
        let id = (qos != QoS::AtMostOnce).then_some(MessageId::MIN);
        scratch.clear();
        Packet::Send { dup: false, qos, message_type, id, body }.encode_into(scratch);
        Message { packet: Arc::from(&scratch[..]), qos }
    }

    /// Bytes that the message counts for in every limit, in memory and in the store: those of its WebSocket frame.
    pub fn len(&self) -> usize {
        frame_len(self.packet.len())
    }

    pub fn is_empty(&self) -> bool {
        self.packet.is_empty()
    }

    /// The message's type and body, to be stored; `encode` makes the same message of them.
    pub fn parts(&self) -> (u16, &[u8]) {
        match Packet::decode(&self.packet) {
            Ok(Packet::Send { message_type, body, .. }) => (message_type, body),
            _ => unreachable!("it was encoded as a SEND"),
        }
    }

    /// Length of the packet.
    pub fn packet_len(&self) -> usize {
        self.packet.len()
    }

    /// Appends the packet as this receiver gets it, or of one longer than `copied_max` its start. Returns the rest,
    /// which is the same for all.
    pub fn write(&self, stamp: Stamp, copied_max: usize, out: &mut Vec<u8>) -> &[u8] {
        let start = out.len();
        let copied = if self.packet.len() > copied_max { packet::SEND_ID_END } else { self.packet.len() };
        let (copied, shared) = self.packet.split_at(copied.min(self.packet.len()));
        out.extend_from_slice(copied);
        if let Some(id) = stamp.id {
            packet::patch_send(&mut out[start..], id, stamp.dup);
        }
        shared
    }
}

/// What one receiver's copy of a message is stamped with.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// `None` at QoS 0.
    pub id: Option<MessageId>,
    pub dup: bool,
}

fn frame_len(packet_len: usize) -> usize {
    frame::header_len(packet_len) + packet_len
}

/// One use of a message. Neither `Copy` nor `Clone`: it is made by `Messages` and given back to it. It knows what is
/// asked for each receiver, so that the message itself need not be looked up for that.
#[derive(Debug)]
pub struct MessageRef {
    index: u32,
    packet_len: u32,
    qos: QoS,
}

impl MessageRef {
    /// See `Message::len`.
    pub fn len(&self) -> usize {
        frame_len(self.packet_len())
    }

    pub fn is_empty(&self) -> bool {
        self.packet_len == 0
    }

    pub fn packet_len(&self) -> usize {
        self.packet_len as usize
    }

    pub fn qos(&self) -> QoS {
        self.qos
    }

    fn slot(&self) -> usize {
        self.index as usize
    }
}

#[derive(Default)]
pub struct Messages {
    messages: Pool<Counted>,
    /// Of all their packets.
    bytes: usize,
}

struct Counted {
    message: Message,
    uses: u32,
}

impl Messages {
    pub fn insert(&mut self, message: Message) -> MessageRef {
        let (qos, packet_len) = (message.qos, u32::try_from(message.packet_len()).expect("a packet has a limit"));
        self.bytes += message.packet_len();
        let index = self.messages.insert(Counted { message, uses: 1 }) as u32;
        MessageRef { index, packet_len, qos }
    }

    pub fn another(&mut self, message: &MessageRef) -> MessageRef {
        self.messages[message.slot()].uses += 1;
        MessageRef { ..*message }
    }

    #[inline]
    pub fn release(&mut self, message: MessageRef) {
        let counted = &mut self.messages[message.slot()];
        counted.uses -= 1;
        if counted.uses == 0 {
            self.bytes -= message.packet_len();
            self.messages.remove(message.slot());
        }
    }

    /// Of all messages, once each.
    pub fn memory(&self) -> usize {
        self.messages.len() * size_of::<Counted>() + self.bytes
    }

    pub fn get(&self, message: &MessageRef) -> &Message {
        &self.messages[message.slot()].message
    }

    /// Uses of all messages together, for invariants.
    pub fn uses(&self) -> usize {
        debug_assert_eq!(
            self.bytes,
            self.messages.iter().map(|(_, counted)| counted.message.packet_len()).sum::<usize>()
        );
        self.messages.iter().map(|(_, counted)| counted.uses as usize).sum()
    }
}
