//! Rainbow packets: the content of one WebSocket message (PROTOCOL.md, "Packets").
//!
//! ```text
//! byte 0      command (4 bits) | DUP | QoS (2 bits) | reserved          integers are big-endian
//! SEND        byte 0 · message type u16 · [id u16, QoS > 0 only] · body
//! ACK, REC    byte 0 · id u16 · body
//! REL, COM    byte 0 · id u16
//! PING, PONG  byte 0, `rainbow.2` only: `PING` and `PONG`, no `Packet`
//! ```
//!
//! An ACK or REC to a client with the reserved bit says that the backend has refused the message (`MessageRefusal`).
//!
//! Borrows from the message and never copies a body. Strict where a sender must have meant something else, tolerant of
//! bits that carry no meaning (the reserved bit; DUP and QoS outside SEND and REL), because old clients leave them as
//! they fell. Called by the shard for every message of a client, and by the shard's fan-out, which encodes a SEND once
//! and patches its id and DUP per receiver.

use thiserror::Error;

/// The promise that a SEND carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum QoS {
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

impl QoS {
    /// `None` for 3 and above.
    pub fn from_u8(qos: u8) -> Option<QoS> {
        match qos {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

/// Names a message within one connection (or session) and direction. On the wire 1..=65534 only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageId(pub u16);

impl MessageId {
    pub const MIN: MessageId = MessageId(1);
    pub const MAX: MessageId = MessageId(u16::MAX - 1);

    /// `None` for 0 and 65535.
    pub fn new(id: u16) -> Option<MessageId> {
        let id = MessageId(id);
        id.is_valid().then_some(id)
    }

    pub fn is_valid(self) -> bool {
        (MessageId::MIN..=MessageId::MAX).contains(&self)
    }

    /// The id that follows; after the last comes the first.
    pub fn next(self) -> MessageId {
        if self >= MessageId::MAX { MessageId::MIN } else { MessageId(self.0 + 1) }
    }
}

/// One packet; bodies are slices of the message it was decoded from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packet<'a> {
    /// A message. `id` is `Some` exactly when `qos` is above 0.
    Send { dup: bool, qos: QoS, message_type: u16, id: Option<MessageId>, body: &'a [u8] },
    /// Ends QoS 1.
    Ack { id: MessageId, body: &'a [u8] },
    /// Received, the first answer of QoS 2.
    Rec { id: MessageId, body: &'a [u8] },
    /// Release, the sender's answer to REC.
    Rel { id: MessageId, dup: bool },
    /// Complete, ends QoS 2.
    Com { id: MessageId },
}

impl<'a> Packet<'a> {
    /// Reads one message. An empty message is no packet: callers ignore it before they come here.
    pub fn decode(message: &'a [u8]) -> Result<Packet<'a>, PacketError> {
        let (&first, rest) = message.split_first().ok_or(PacketError::TooShort { len: 0, min: ANSWER_HEADER_LEN })?;
        match first >> COMMAND_SHIFT {
            SEND => decode_send(first, rest),
            ACK => split_id(rest).map(|(id, body)| Packet::Ack { id, body }),
            REC => split_id(rest).map(|(id, body)| Packet::Rec { id, body }),
            REL => split_lone_id(rest).map(|id| Packet::Rel { id, dup: first & DUP_BIT != 0 }),
            COM => split_lone_id(rest).map(|id| Packet::Com { id }),
            command => Err(PacketError::UnknownCommand { command }),
        }
    }

    /// Appends the packet; exactly `encoded_len` bytes.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        match *self {
            Packet::Send { dup, qos, message_type, id, body } => {
                debug_assert_eq!(
                    id.is_some(),
                    qos != QoS::AtMostOnce,
                    "a SEND has an id exactly when its QoS is above 0"
                );
                out.push(SEND << COMMAND_SHIFT | if dup { DUP_BIT } else { 0 } | (qos as u8) << QOS_SHIFT);
                out.extend_from_slice(&message_type.to_be_bytes());
                if let Some(id) = id {
                    out.extend_from_slice(&id.0.to_be_bytes());
                }
                out.extend_from_slice(body);
            }
            Packet::Ack { id, body } => encode_answer(out, ACK << COMMAND_SHIFT, id, body),
            Packet::Rec { id, body } => encode_answer(out, REC << COMMAND_SHIFT, id, body),
            Packet::Rel { id, dup } => {
                encode_answer(out, REL << COMMAND_SHIFT | if dup { DUP_BIT } else { 0 }, id, &[]);
            }
            Packet::Com { id } => encode_answer(out, COM << COMMAND_SHIFT, id, &[]),
        }
    }

    pub fn encoded_len(&self) -> usize {
        match *self {
            Packet::Send { id, body, .. } => SEND_ID_AT + if id.is_some() { ID_LEN } else { 0 } + body.len(),
            Packet::Ack { body, .. } | Packet::Rec { body, .. } => ANSWER_HEADER_LEN + body.len(),
            Packet::Rel { .. } | Packet::Com { .. } => ANSWER_HEADER_LEN,
        }
    }
}

/// The backend's refusal of a message, as the body of ACK or REC of `rainbow.2`: status u16, then the backend's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageRefusal<'a> {
    /// HTTP status.
    pub status: u16,
    pub body: &'a [u8],
}

impl<'a> MessageRefusal<'a> {
    /// The refusal in an encoded ACK or REC; `None` when it is none.
    pub fn decode(packet: &'a [u8]) -> Option<MessageRefusal<'a>> {
        let first = *packet.first()?;
        let (status, body) = packet.get(ANSWER_HEADER_LEN..)?.split_first_chunk()?;
        let is_refusal = matches!(first >> COMMAND_SHIFT, ACK | REC) && first & REFUSED_BIT != 0;
        is_refusal.then_some(MessageRefusal { status: u16::from_be_bytes(*status), body })
    }

    /// Appends the ACK (QoS 1) or REC (QoS 2) of that message.
    pub fn encode_into(&self, id: MessageId, qos: QoS, out: &mut Vec<u8>) {
        let command = if qos == QoS::ExactlyOnce { REC } else { ACK };
        encode_answer(out, command << COMMAND_SHIFT | REFUSED_BIT, id, &self.status.to_be_bytes());
        out.extend_from_slice(self.body);
    }
}

/// Makes an encoded SEND of QoS above 0 another receiver's: its id, and whether this is a repeat.
pub fn patch_send(packet: &mut [u8], id: MessageId, dup: bool) {
    debug_assert_eq!(packet[0] >> COMMAND_SHIFT, SEND);
    debug_assert_ne!(packet[0] >> QOS_SHIFT & QOS_MASK, QoS::AtMostOnce as u8, "QoS 0 has no id to patch");
    debug_assert!(id.is_valid());
    packet[0] = packet[0] & !DUP_BIT | if dup { DUP_BIT } else { 0 };
    packet[SEND_ID_AT..SEND_ID_AT + ID_LEN].copy_from_slice(&id.0.to_be_bytes());
}

/// Why a message is no packet; each closes the connection with 1002.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum PacketError {
    #[error("a packet of {len} bytes, where its command needs {min}")]
    TooShort { len: usize, min: usize },
    #[error("unknown command {command}")]
    UnknownCommand { command: u8 },
    #[error("a SEND of QoS 3")]
    InvalidQoS,
    #[error("message id {id}")]
    InvalidId { id: u16 },
    #[error("{len} bytes behind a REL or COM")]
    TrailingBytes { len: usize },
}

impl PacketError {
    /// Text for the close frame.
    pub fn reason(&self) -> &'static str {
        match self {
            PacketError::TooShort { .. } => "packet too short",
            PacketError::UnknownCommand { .. } => "unknown packet command",
            PacketError::InvalidQoS => "invalid QoS",
            PacketError::InvalidId { .. } => "invalid message id",
            PacketError::TrailingBytes { .. } => "trailing bytes in packet",
        }
    }
}

fn decode_send(first: u8, rest: &[u8]) -> Result<Packet<'_>, PacketError> {
    let dup = first & DUP_BIT != 0;
    let qos = QoS::from_u8(first >> QOS_SHIFT & QOS_MASK).ok_or(PacketError::InvalidQoS)?;
    let min = SEND_ID_AT + if qos == QoS::AtMostOnce { 0 } else { ID_LEN };
    let too_short = PacketError::TooShort { len: 1 + rest.len(), min };
    let (message_type, rest) = rest.split_first_chunk().ok_or(too_short)?;
    let message_type = u16::from_be_bytes(*message_type);
    if qos == QoS::AtMostOnce {
        return Ok(Packet::Send { dup, qos, message_type, id: None, body: rest });
    }
    let (id, body) = rest.split_first_chunk().ok_or(too_short)?;
    Ok(Packet::Send { dup, qos, message_type, id: Some(check_id(*id)?), body })
}

fn split_id(rest: &[u8]) -> Result<(MessageId, &[u8]), PacketError> {
    let too_short = PacketError::TooShort { len: 1 + rest.len(), min: ANSWER_HEADER_LEN };
    let (id, body) = rest.split_first_chunk().ok_or(too_short)?;
    Ok((check_id(*id)?, body))
}

fn split_lone_id(rest: &[u8]) -> Result<MessageId, PacketError> {
    match split_id(rest)? {
        (id, []) => Ok(id),
        (_, trailing) => Err(PacketError::TrailingBytes { len: trailing.len() }),
    }
}

fn check_id(id: [u8; ID_LEN]) -> Result<MessageId, PacketError> {
    let id = u16::from_be_bytes(id);
    MessageId::new(id).ok_or(PacketError::InvalidId { id })
}

fn encode_answer(out: &mut Vec<u8>, first: u8, id: MessageId, body: &[u8]) {
    out.push(first);
    out.extend_from_slice(&id.0.to_be_bytes());
    out.extend_from_slice(body);
}

/// In byte 0: set on a repeat.
pub const DUP_BIT: u8 = 0b0000_1000;
/// In byte 0 of an ACK or REC to a client: the backend has refused the message.
const REFUSED_BIT: u8 = 0b0000_0001;
/// Where the id lies in a SEND of QoS above 0; where the body begins in one of QoS 0.
pub const SEND_ID_AT: usize = 3;
/// Where it ends.
pub const SEND_ID_END: usize = SEND_ID_AT + ID_LEN;
pub const ID_LEN: usize = 2;
/// Byte 0 and the id, before the body of an ACK or REC.
pub const ANSWER_HEADER_LEN: usize = 1 + ID_LEN;

/// The whole packet. A client of `rainbow.2` asks with it whether its connection is alive.
pub const PING: [u8; 1] = [6 << COMMAND_SHIFT];
/// The whole packet: the answer to `PING`.
pub const PONG: [u8; 1] = [7 << COMMAND_SHIFT];

const COMMAND_SHIFT: u32 = 4;
const QOS_SHIFT: u32 = 1;
const QOS_MASK: u8 = 0b11;
const SEND: u8 = 1;
const ACK: u8 = 2;
const REC: u8 = 3;
const REL: u8 = 4;
const COM: u8 = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VECTORS: &str = include_str!("../../clients/vectors/packets.json");
    const EXCHANGES: &str = include_str!("../../clients/vectors/exchanges.json");

    #[test]
    fn a_refusal_is_an_answer_with_the_reserved_bit_and_a_status() {
        let refusal = MessageRefusal { status: 422, body: b"no" };
        for (qos, first) in [(QoS::AtLeastOnce, 0x21), (QoS::ExactlyOnce, 0x31)] {
            let mut packet = Vec::new();
            refusal.encode_into(MessageId(258), qos, &mut packet);
            assert_eq!(packet, [&[first, 1, 2, 1, 166][..], b"no"].concat());
            assert_eq!(MessageRefusal::decode(&packet), Some(refusal));
            packet[0] &= !1;
            assert_eq!(MessageRefusal::decode(&packet), None);
        }
        for none in [&b""[..], b"\x21", b"\x21\0\x01\x01", b"\x11\0\x01\0\x01\x01"] {
            assert_eq!(MessageRefusal::decode(none), None);
        }
    }

    fn encoded(packet: Packet<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        packet.encode_into(&mut out);
        assert_eq!(out.len(), packet.encoded_len());
        out
    }

    #[test]
    fn bytes_are_as_the_protocol_says() {
        let id = MessageId(0x0102);
        let send = |dup, qos, id| Packet::Send { dup, qos, message_type: 0xABCD, id, body: b"x" };
        assert_eq!(encoded(send(false, QoS::AtMostOnce, None)), b"\x10\xAB\xCDx");
        assert_eq!(encoded(send(false, QoS::AtLeastOnce, Some(id))), b"\x12\xAB\xCD\x01\x02x");
        assert_eq!(encoded(send(true, QoS::ExactlyOnce, Some(id))), b"\x1C\xAB\xCD\x01\x02x");
        assert_eq!(encoded(Packet::Ack { id, body: b"yz" }), b"\x20\x01\x02yz");
        assert_eq!(encoded(Packet::Rec { id, body: b"" }), b"\x30\x01\x02");
        assert_eq!(encoded(Packet::Rel { id, dup: false }), b"\x40\x01\x02");
        assert_eq!(encoded(Packet::Rel { id, dup: true }), b"\x48\x01\x02");
        assert_eq!(encoded(Packet::Com { id }), b"\x50\x01\x02");
    }

    /// What every client's tests read too.
    #[test]
    fn packets_are_as_the_clients_vectors_say() {
        let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
        let list = |name: &str| vectors[name].as_array().unwrap().iter();
        for vector in list("valid") {
            let (bytes, body) = (unhex(&vector["hex"]), unhex(&vector["body"]));
            let number = |name: &str| vector[name].as_u64().map(|number| number as u16);
            let (id, body) = (number("id").map(MessageId), &body[..]);
            let dup = vector["dup"] == true;
            let expected = match number("command").unwrap() {
                1 => {
                    let qos = QoS::from_u8(number("qos").unwrap() as u8).unwrap();
                    Packet::Send { dup, qos, message_type: number("type").unwrap(), id, body }
                }
                2 => Packet::Ack { id: id.unwrap(), body },
                3 => Packet::Rec { id: id.unwrap(), body },
                4 => Packet::Rel { id: id.unwrap(), dup },
                _ => Packet::Com { id: id.unwrap() },
            };
            assert_eq!(Packet::decode(&bytes), Ok(expected), "{vector}");
            assert_eq!(encoded(expected), bytes);
        }
        for hex in list("invalid") {
            assert!(Packet::decode(&unhex(hex)).is_err(), "{hex}");
        }
        assert_eq!(
            (unhex(&vectors["rainbow_2"]["ping"]), unhex(&vectors["rainbow_2"]["pong"])),
            (PING.into(), PONG.into())
        );
    }

    fn unhex(hex: &serde_json::Value) -> Vec<u8> {
        let digits = hex.as_str().unwrap();
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    }

    /// Each packet of the clients' exchanges is one, byte for byte, and answers what the other side has sent before.
    #[test]
    fn exchanges_of_the_clients_vectors_are_packets_in_a_possible_order() {
        let vectors: serde_json::Value = serde_json::from_str(EXCHANGES).unwrap();
        for exchange in vectors["exchanges"].as_array().unwrap() {
            let mut sent = Vec::new();
            for step in exchange["steps"].as_array().unwrap() {
                let (name, value) = step.as_object().unwrap().iter().next().unwrap();
                match &**name {
                    "up" | "down" => follow(&mut sent, name == "up", &unhex(value), exchange),
                    // Ids of before mean nothing after it.
                    "greeting" if value["resumed"] == false => sent.clear(),
                    "open" => sent.clear(),
                    _ => {}
                }
            }
        }
    }

    /// Direction (true: up), what, and id of a packet with an id.
    type Sent = (bool, &'static str, MessageId);

    fn follow(sent: &mut Vec<Sent>, is_up: bool, bytes: &[u8], exchange: &serde_json::Value) {
        let packet = Packet::decode(bytes).unwrap_or_else(|error| panic!("{error}: {exchange}"));
        if let Some(refusal) = MessageRefusal::decode(bytes) {
            let (id, qos) = match packet {
                Packet::Ack { id, .. } => (id, QoS::AtLeastOnce),
                Packet::Rec { id, .. } => (id, QoS::ExactlyOnce),
                other => panic!("{other:?} refuses: {exchange}"),
            };
            let mut out = Vec::new();
            refusal.encode_into(id, qos, &mut out);
            assert_eq!(out, bytes);
        } else {
            assert_eq!(encoded(packet), bytes);
        }
        let (what, id, is_dup, answers) = match packet {
            Packet::Send { id: None, .. } => return,
            Packet::Send { id: Some(id), dup, qos: QoS::ExactlyOnce, .. } => ("SEND 2", id, dup, None),
            Packet::Send { id: Some(id), dup, .. } => ("SEND 1", id, dup, None),
            Packet::Ack { id, .. } => ("ACK", id, false, Some("SEND 1")),
            Packet::Rec { id, .. } => ("REC", id, false, Some("SEND 2")),
            Packet::Rel { id, dup } => ("REL", id, dup, Some("REC")),
            Packet::Com { id } => ("COM", id, false, Some("REL")),
        };
        let is_stray = exchange["strays"] == true;
        assert!(!is_dup || sent.contains(&(is_up, what, id)), "DUP of what was not sent: {exchange}");
        let is_answer = answers.is_none_or(|answered| sent.contains(&(!is_up, answered, id)));
        assert!(is_answer || is_stray, "{what} {id:?} answers nothing: {exchange}");
        sent.push((is_up, what, id));
    }

    #[test]
    fn malformed_packets_are_refused() {
        use PacketError::*;
        let cases: &[(&[u8], PacketError)] = &[
            (b"", TooShort { len: 0, min: 3 }),
            (b"\x10\x00", TooShort { len: 2, min: 3 }),
            (b"\x12\x00\x01", TooShort { len: 3, min: 5 }),
            (b"\x12\x00\x01\x00", TooShort { len: 4, min: 5 }),
            (b"\x20\x00", TooShort { len: 2, min: 3 }),
            (b"\x50", TooShort { len: 1, min: 3 }),
            (b"\x16\x00\x01\x00\x01", InvalidQoS),
            (b"\x14\x00\x01\x00\x00", InvalidId { id: 0 }),
            (b"\x30\xFF\xFF", InvalidId { id: 65535 }),
            (b"\x40\x00\x01z", TrailingBytes { len: 1 }),
            (b"\x50\x00\x01zz", TrailingBytes { len: 2 }),
        ];
        for (message, error) in cases {
            assert_eq!(Packet::decode(message), Err(*error), "{message:x?}");
        }
        for command in [0, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] {
            assert_eq!(Packet::decode(&[command << 4, 0, 1, 0, 1]), Err(UnknownCommand { command }));
        }
    }

    #[test]
    fn meaningless_bits_are_tolerated() {
        let id = MessageId(9);
        for bits in 0..16 {
            let message = |command: u8| [command << 4 | bits, 0, 9];
            assert_eq!(Packet::decode(&message(2)), Ok(Packet::Ack { id, body: b"" }));
            assert_eq!(Packet::decode(&message(3)), Ok(Packet::Rec { id, body: b"" }));
            assert_eq!(Packet::decode(&message(4)), Ok(Packet::Rel { id, dup: bits & DUP_BIT != 0 }));
            assert_eq!(Packet::decode(&message(5)), Ok(Packet::Com { id }));
        }
        assert_eq!(Packet::decode(b"\x13\x00\x01\x00\x09"), Packet::decode(b"\x12\x00\x01\x00\x09"));
    }

    #[test]
    fn patching_equals_encoding_anew() {
        let send = |dup, id| Packet::Send { dup, qos: QoS::ExactlyOnce, message_type: 7, id: Some(id), body: b"body" };
        let mut bytes = encoded(send(false, MessageId::MIN));
        for (id, dup) in [(MessageId(77), true), (MessageId::MAX, false), (MessageId(0x1234), true)] {
            patch_send(&mut bytes, id, dup);
            assert_eq!(bytes, encoded(send(dup, id)));
        }
    }

    #[test]
    fn ids_go_round_without_the_two_forbidden_ones() {
        assert_eq!(MessageId(1).next(), MessageId(2));
        assert_eq!(MessageId::MAX.next(), MessageId::MIN);
        assert_eq!((MessageId::new(0), MessageId::new(65535)), (None, None));
        assert_eq!(MessageId::new(65534), Some(MessageId::MAX));
    }

    #[test]
    fn reasons_fit_a_close_frame() {
        let errors = [
            PacketError::TooShort { len: 0, min: 3 },
            PacketError::UnknownCommand { command: 0 },
            PacketError::InvalidQoS,
            PacketError::InvalidId { id: 0 },
            PacketError::TrailingBytes { len: 1 },
        ];
        assert!(errors.iter().all(|error| (1..=123).contains(&error.reason().len())));
    }

    proptest! {
        #[test]
        fn packets_round_trip(
            kind in 0..5u8, dup: bool, qos in 0..3u8, message_type: u16, id in 1..=65534u16,
            body in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let (id, body, qos) = (MessageId(id), &body[..], QoS::from_u8(qos).unwrap());
            let packet = match kind {
                0 => Packet::Send { dup, qos, message_type, id: (qos != QoS::AtMostOnce).then_some(id), body },
                1 => Packet::Ack { id, body },
                2 => Packet::Rec { id, body },
                3 => Packet::Rel { id, dup },
                _ => Packet::Com { id },
            };
            let bytes = encoded(packet);
            prop_assert_eq!(Packet::decode(&bytes), Ok(packet));
        }

        #[test]
        fn whatever_decodes_survives_encoding(message in proptest::collection::vec(any::<u8>(), 0..16)) {
            if let Ok(packet) = Packet::decode(&message) {
                let second = encoded(packet);
                prop_assert_eq!(second.len(), message.len());
                prop_assert_eq!(Packet::decode(&second), Ok(packet));
            }
        }
    }
}
