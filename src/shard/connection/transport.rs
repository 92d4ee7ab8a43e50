//! The edge between packets and bytes. A shard handles packets, pings and closes; what these look like on a
//! connection's transport is decided here, where bytes arrive (`Receiver`) and leave (`Transport`).

use crate::wire::packet::{MessageId, Packet};
use crate::wire::ws::decoder::{self, Decoder, Violation};
use crate::wire::ws::frame::{self, CloseCode, Opcode};

pub use crate::wire::ws::decoder::{Event as Arrival, Input as Bytes};

/// What a connection's packets travel in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// One packet per binary message, RFC 6455.
    #[default]
    WebSocket,
}

/// The receiving half of a connection's transport: what has come of a message that is not complete.
#[derive(Debug, Default)]
pub struct Receiver(Decoder);

impl Receiver {
    /// Of the message that is not complete.
    pub fn memory(&self) -> usize {
        self.0.memory()
    }

    /// The next thing that the client sent, or `None` when all of `bytes` is consumed and nothing more is complete.
    pub fn next<'a>(
        &'a mut self,
        bytes: &'a mut Bytes<'_>,
        message_bytes_max: usize,
    ) -> Result<Option<Arrival<'a>>, Violation> {
        self.0.next(bytes, &decoder::Limits { message_bytes_max })
    }
}

impl Transport {
    /// Length of a packet with its frame.
    pub fn packet_len(self, packet: usize) -> usize {
        match self {
            Transport::WebSocket => frame::header_len(packet) + packet,
        }
    }

    /// What comes before a packet of that length.
    pub fn write_packet_header(self, packet: usize, out: &mut Vec<u8>) {
        match self {
            Transport::WebSocket => frame::write_header(out, Opcode::Binary, packet),
        }
    }

    pub fn write_packet(self, packet: &[u8], out: &mut Vec<u8>) {
        self.write_packet_header(packet.len(), out);
        out.extend_from_slice(packet);
    }

    /// A message of text, for `Mode::Echo`. As long as a packet.
    pub fn write_text(self, text: &[u8], out: &mut Vec<u8>) {
        match self {
            Transport::WebSocket => frame::write_header(out, Opcode::Text, text.len()),
        }
        out.extend_from_slice(text);
    }

    /// A REL packet, marked as a repeat.
    pub fn write_release(self, id: MessageId, out: &mut Vec<u8>) {
        let release = Packet::Rel { id, dup: true };
        self.write_packet_header(release.encoded_len(), out);
        release.encode_into(out);
    }

    pub fn release_len(self) -> usize {
        self.packet_len(Packet::Rel { id: MessageId::MIN, dup: true }.encoded_len())
    }

    /// A ping without payload, or the pong that answers one.
    pub fn write_ping(self, out: &mut Vec<u8>) {
        match self {
            Transport::WebSocket => frame::write_header(out, Opcode::Ping, 0),
        }
    }

    pub fn write_pong(self, payload: &[u8], out: &mut Vec<u8>) {
        match self {
            Transport::WebSocket => frame::write_header(out, Opcode::Pong, payload.len()),
        }
        out.extend_from_slice(payload);
    }

    /// Length of a ping or pong.
    pub fn control_len(self, payload: usize) -> usize {
        match self {
            Transport::WebSocket => frame::header_len(payload) + payload,
        }
    }

    /// The part of a reason that a close can carry.
    pub fn close_reason(self, reason: &str) -> &str {
        match self {
            Transport::WebSocket => &reason[..reason.floor_char_boundary(frame::CLOSE_REASON_MAX)],
        }
    }

    /// Without a code: the answer to a client's close that had none.
    pub fn write_close(self, close: Option<(CloseCode, &str)>, out: &mut Vec<u8>) {
        match (self, close) {
            (Transport::WebSocket, Some((code, reason))) => frame::write_close(out, code, reason),
            (Transport::WebSocket, None) => frame::write_header(out, Opcode::Close, 0),
        }
    }

    /// `reason` as `close_reason` has cut it.
    pub fn close_len(self, reason: Option<&str>) -> usize {
        self.control_len(reason.map_or(0, |reason| frame::CLOSE_CODE_LEN + reason.len()))
    }
}
