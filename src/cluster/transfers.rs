//! What nodes with disks of their own ask of each other about sessions that move, and a session's data as bytes.
//!
//! Numbers are big-endian; texts are preceded by their length (u16), what may be longer by a u32.

use crate::base::id::{DiskId, Generation};
use crate::shard::Message;
use crate::shard::command::transfer::{Guard, Head, Outcome, Position, SessionPart};
use crate::shard::command::{Claim, DownlinkMark, Offset, Received, SessionId, SessionRow, StoredMessage, Token};
use crate::shard::command::{UnixMs, UplinkMark};
use crate::wire::packet::{MessageId, QoS};
use crate::wire::peer::cursor::Cursor;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferCall<'a> {
    /// Is the session here, or on its way from here?
    Has { name: &'a str },
    /// A part of a session that leaves by this token.
    Read { name: &'a str, token: Token, from: Position },
    /// What became of the transfer?
    Settle { name: &'a str, token: Token },
    /// The outcome of the transfer is known where the session was.
    Forget { token: Token },
    /// May this node create the session, or fetch it? It asks the nodes with these disks.
    Grant { name: &'a str, id: u64, disks: Vec<DiskId> },
    /// It has, or will not.
    Release { name: &'a str, id: u64 },
    /// Which disk has this node, and which lives has it had? Answered as a text: `DiskReport`.
    Lives,
    /// This node has a session of that name: which one stays, should there be another?
    Rival { name: &'a str, standing: Standing },
    /// The session leaves, to become part of another: note which of its messages its client may have.
    NoteSent { name: &'a str },
    /// This node does not come back.
    Part { node: Generation },
}

/// The answer to `TransferCall::Lives`, as JSON. `disk`: `None`: its sessions lie on no disk of its own.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    pub disk: Option<u32>,
    pub lives: Vec<u32>,
}

/// A session, as it counts against another one of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How long its connection has been there; `None`: it has none.
    pub age_ms: Option<u64>,
    pub site: Site,
}

/// Where a session lies. Two nodes have one disk where one was started from a copy of the other's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    pub disk: DiskId,
    pub node: Generation,
}

impl Standing {
    /// The other one becomes part of this one. The two sides say the opposite.
    pub fn stays_against(&self, other: &Standing) -> bool {
        // The younger connection is the greater one; without any, the least.
        let rank = |standing: &Standing| standing.age_ms.map(std::cmp::Reverse);
        rank(self).cmp(&rank(other)).then(other.site.cmp(&self.site)).is_gt()
    }
}

/// The answer to `TransferCall::Settle`, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Known(Outcome),
    /// It is under way.
    Pending,
}

impl Settled {
    pub fn code(self) -> u32 {
        match self {
            Settled::Known(Outcome::Foreign) => 0,
            Settled::Known(Outcome::Arrived) => 1,
            Settled::Known(Outcome::Never) => 2,
            Settled::Pending => 3,
        }
    }

    pub fn from_code(code: u32) -> Option<Settled> {
        let all = [Outcome::Foreign, Outcome::Arrived, Outcome::Never].map(Settled::Known);
        all.into_iter().chain([Settled::Pending]).find(|settled| settled.code() == code)
    }
}

impl<'a> TransferCall<'a> {
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            TransferCall::Lives => out.push(LIVES),
            TransferCall::Part { node } => {
                out.push(PART);
                out.extend_from_slice(&node.0.to_be_bytes());
            }
            TransferCall::Has { name } | TransferCall::NoteSent { name } => {
                out.push(if matches!(self, TransferCall::Has { .. }) { HAS } else { NOTE_SENT });
                put_text(out, name);
            }
            TransferCall::Read { name, token, from } => {
                out.push(READ);
                put_text(out, name);
                out.extend_from_slice(&token.0.to_be_bytes());
                put_position(out, from);
            }
            TransferCall::Settle { name, token } => {
                out.push(SETTLE);
                put_text(out, name);
                out.extend_from_slice(&token.0.to_be_bytes());
            }
            TransferCall::Forget { token } => {
                out.push(FORGET);
                out.extend_from_slice(&token.0.to_be_bytes());
            }
            TransferCall::Grant { name, id, disks } => {
                out.push(GRANT);
                put_text(out, name);
                out.extend_from_slice(&id.to_be_bytes());
                put_count(out, disks.len());
                out.extend(disks.iter().flat_map(|disk| disk.0.to_be_bytes()));
            }
            TransferCall::Rival { name, standing } => {
                out.push(RIVAL);
                put_text(out, name);
                out.push(u8::from(standing.age_ms.is_some()));
                out.extend(standing.age_ms.iter().flat_map(|age_ms| age_ms.to_be_bytes()));
                out.extend_from_slice(&standing.site.disk.0.to_be_bytes());
                out.extend_from_slice(&standing.site.node.0.to_be_bytes());
            }
            TransferCall::Release { name, id } => {
                out.push(RELEASE);
                put_text(out, name);
                out.extend_from_slice(&id.to_be_bytes());
            }
        }
    }

    pub fn decode(body: &'a [u8]) -> Option<TransferCall<'a>> {
        let mut cursor = Cursor::new(body);
        let call = match cursor.u8()? {
            HAS => TransferCall::Has { name: take_text(&mut cursor)? },
            READ => TransferCall::Read {
                name: take_text(&mut cursor)?,
                token: Token(cursor.u64()?),
                from: take_position(&mut cursor)?,
            },
            SETTLE => TransferCall::Settle { name: take_text(&mut cursor)?, token: Token(cursor.u64()?) },
            FORGET => TransferCall::Forget { token: Token(cursor.u64()?) },
            GRANT => TransferCall::Grant {
                name: take_text(&mut cursor)?,
                id: cursor.u64()?,
                disks: take_disks(&mut cursor)?,
            },
            RELEASE => TransferCall::Release { name: take_text(&mut cursor)?, id: cursor.u64()? },
            NOTE_SENT => TransferCall::NoteSent { name: take_text(&mut cursor)? },
            LIVES => TransferCall::Lives,
            RIVAL => TransferCall::Rival { name: take_text(&mut cursor)?, standing: take_standing(&mut cursor)? },
            PART => TransferCall::Part { node: Generation(cursor.u32()?) },
            _ => return None,
        };
        cursor.end().map(|()| call)
    }
}

pub fn encode_part(out: &mut Vec<u8>, part: &SessionPart) {
    out.extend_from_slice(&part.now.0.to_be_bytes());
    out.push(u8::from(part.head.is_some()));
    if let Some(head) = &part.head {
        put_head(out, head);
    }
    put_count(out, part.guards.len());
    for guard in &part.guards {
        put_text(out, &guard.message_id);
        out.extend_from_slice(&guard.offset.0.to_be_bytes());
        out.extend_from_slice(&guard.until.0.to_be_bytes());
    }
    put_count(out, part.messages.len());
    part.messages.iter().for_each(|message| put_message(out, message));
    out.push(u8::from(part.next.is_some()));
    part.next.iter().for_each(|next| put_position(out, next));
}

pub fn decode_part(body: &[u8]) -> Option<SessionPart> {
    let mut cursor = Cursor::new(body);
    let mut part = SessionPart { now: UnixMs(cursor.u64()?), ..SessionPart::default() };
    if take_flag(&mut cursor)? {
        part.head = Some(Box::new(take_head(&mut cursor)?));
    }
    for _ in 0..cursor.u32()? {
        let message_id = take_text(&mut cursor)?.into();
        part.guards.push(Guard { message_id, offset: Offset(cursor.u64()?), until: UnixMs(cursor.u64()?) });
    }
    let mut scratch = Vec::new();
    for _ in 0..cursor.u32()? {
        part.messages.push(take_message(&mut cursor, &mut scratch)?);
    }
    if take_flag(&mut cursor)? {
        part.next = Some(take_position(&mut cursor)?);
    }
    cursor.end().map(|()| part)
}

fn put_head(out: &mut Vec<u8>, head: &Head) {
    let SessionRow { session, name, expiry_s, ends, cookie, downlink, uplink } = &head.row;
    out.extend_from_slice(&session.0.to_be_bytes());
    put_text(out, name);
    out.extend_from_slice(&expiry_s.to_be_bytes());
    out.push(u8::from(ends.is_some()));
    out.extend(ends.iter().flat_map(|ends| ends.0.to_be_bytes()));
    out.push(u8::from(cookie.is_some()));
    cookie.iter().for_each(|cookie| put_bytes(out, cookie));
    out.extend_from_slice(&downlink.reserved.0.to_be_bytes());
    out.extend_from_slice(&downlink.floor.0.to_be_bytes());
    out.extend_from_slice(&uplink.run.to_be_bytes());
    out.extend_from_slice(&uplink.last.to_be_bytes());
    out.push(u8::from(uplink.past_half));
    put_count(out, head.channels.len());
    head.channels.iter().for_each(|channel| put_text(out, channel));
    put_count(out, head.received.len());
    for received in &head.received {
        out.extend_from_slice(&received.id.0.to_be_bytes());
        out.extend_from_slice(&received.stored_sequence().to_be_bytes());
        put_bytes(out, &received.answer);
    }
}

fn take_head(cursor: &mut Cursor<'_>) -> Option<Head> {
    let session = SessionId(u128::from(cursor.u64()?) << 64 | u128::from(cursor.u64()?));
    let (name, expiry_s): (Arc<str>, u64) = (take_text(cursor)?.into(), cursor.u64()?);
    let ends = if take_flag(cursor)? { Some(UnixMs(cursor.u64()?)) } else { None };
    let cookie = if take_flag(cursor)? { Some(take_bytes(cursor)?.into()) } else { None };
    let downlink = DownlinkMark { reserved: Offset(cursor.u64()?), floor: Offset(cursor.u64()?) };
    let uplink = UplinkMark { run: cursor.u32()?, last: cursor.u16()?, past_half: take_flag(cursor)? };
    let (mut channels, mut received) = (Vec::new(), Vec::new());
    for _ in 0..cursor.u32()? {
        channels.push(take_text(cursor)?.into());
    }
    for _ in 0..cursor.u32()? {
        let (id, sequence) = (MessageId(cursor.u16()?), cursor.u64()?);
        received.push(Received::from_stored(id, sequence, take_bytes(cursor)?.into()));
    }
    Some(Head { row: SessionRow { session, name, expiry_s, ends, cookie, downlink, uplink }, channels, received })
}

fn put_message(out: &mut Vec<u8>, stored: &StoredMessage) {
    out.extend_from_slice(&stored.session.0.to_be_bytes());
    out.extend_from_slice(&stored.offset.0.to_be_bytes());
    let flags = [(stored.sent, SENT), (stored.released, RELEASED), (stored.claim.is_some(), CLAIMED)];
    let flags = flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum::<u8>();
    out.push(stored.message.qos as u8 | flags);
    out.extend_from_slice(&stored.stored.0.to_be_bytes());
    out.extend_from_slice(&stored.expires.0.to_be_bytes());
    if let Some(Claim { message_id, until }) = &stored.claim {
        put_text(out, message_id);
        out.extend_from_slice(&until.0.to_be_bytes());
    }
    let (message_type, body) = stored.message.parts();
    out.extend_from_slice(&message_type.to_be_bytes());
    put_bytes(out, body);
}

fn take_message(cursor: &mut Cursor<'_>, scratch: &mut Vec<u8>) -> Option<StoredMessage> {
    let session = SessionId(u128::from(cursor.u64()?) << 64 | u128::from(cursor.u64()?));
    let (offset, flags) = (Offset(cursor.u64()?), cursor.u8()?);
    let qos = QoS::from_u8(flags & !(SENT | RELEASED | CLAIMED))?;
    let (stored, expires) = (UnixMs(cursor.u64()?), UnixMs(cursor.u64()?));
    let claim = match flags & CLAIMED {
        0 => None,
        _ => Some(Claim { message_id: take_text(cursor)?.into(), until: UnixMs(cursor.u64()?) }),
    };
    let (message_type, body) = (cursor.u16()?, take_bytes(cursor)?);
    let message = Message::encode(qos, message_type, body, scratch);
    let (sent, released) = (flags & SENT != 0, flags & RELEASED != 0);
    Some(StoredMessage { session, offset, message, sent, released, stored, expires, claim })
}

fn put_position(out: &mut Vec<u8>, position: &Position) {
    match position {
        Position::Start => out.push(0),
        Position::Guards(behind) => {
            out.push(1);
            put_text(out, behind);
        }
        Position::Messages(offset) => {
            out.push(2);
            out.extend_from_slice(&offset.0.to_be_bytes());
        }
    }
}

fn take_position(cursor: &mut Cursor<'_>) -> Option<Position> {
    Some(match cursor.u8()? {
        0 => Position::Start,
        1 => Position::Guards(take_text(cursor)?.into()),
        2 => Position::Messages(Offset(cursor.u64()?)),
        _ => return None,
    })
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).expect("names and ids are checked where they come in");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn take_text<'a>(cursor: &mut Cursor<'a>) -> Option<&'a str> {
    let len = cursor.u16()?;
    std::str::from_utf8(cursor.bytes(len.into())?).ok()
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let len = cursor.u32()?;
    cursor.bytes(len as usize)
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("a part is bounded");
    out.extend_from_slice(&count.to_be_bytes());
}

fn take_standing(cursor: &mut Cursor<'_>) -> Option<Standing> {
    let age_ms = if take_flag(cursor)? { Some(cursor.u64()?) } else { None };
    let site = Site { disk: DiskId(cursor.u32()?), node: Generation(cursor.u32()?) };
    Some(Standing { age_ms, site })
}

fn take_disks(cursor: &mut Cursor<'_>) -> Option<Vec<DiskId>> {
    (0..cursor.u32()?).map(|_| cursor.u32().map(DiskId)).collect()
}

fn take_flag(cursor: &mut Cursor<'_>) -> Option<bool> {
    match cursor.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

const HAS: u8 = 0;
const READ: u8 = 1;
const SETTLE: u8 = 2;
const FORGET: u8 = 3;
const GRANT: u8 = 4;
const RELEASE: u8 = 5;
const LIVES: u8 = 6;
const PART: u8 = 7;
const RIVAL: u8 = 8;
const NOTE_SENT: u8 = 9;

/// Beside a message's QoS.
const SENT: u8 = 4;
const RELEASED: u8 = 8;
const CLAIMED: u8 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn calls(name: &str, number: u64) -> Vec<TransferCall<'_>> {
        let token = Token(number);
        let site = Site { disk: DiskId(7), node: Generation(number as u32) };
        let positions = [Position::Start, Position::Guards(name.into()), Position::Messages(Offset(number))];
        let mut calls = vec![
            TransferCall::Has { name },
            TransferCall::NoteSent { name },
            TransferCall::Settle { name, token },
            TransferCall::Forget { token },
            TransferCall::Grant { name, id: number, disks: vec![DiskId(1), DiskId(number as u32)] },
            TransferCall::Release { name, id: number },
            TransferCall::Rival { name, standing: Standing { age_ms: Some(number), site } },
            TransferCall::Rival { name, standing: Standing { age_ms: None, site } },
            TransferCall::Lives,
            TransferCall::Part { node: Generation(number as u32) },
        ];
        calls.extend(positions.into_iter().map(|from| TransferCall::Read { name, token, from }));
        calls
    }

    fn part(name: &str, number: u64, body: &[u8]) -> SessionPart {
        let (is_odd, session) = (number % 2 == 1, SessionId(u128::from(number) << 65 | 3));
        let row = SessionRow {
            session,
            name: name.into(),
            expiry_s: number,
            ends: is_odd.then_some(UnixMs(number)),
            cookie: is_odd.then(|| body.into()),
            downlink: DownlinkMark { reserved: Offset(number), floor: Offset(1) },
            uplink: UplinkMark { run: 7, last: 8, past_half: is_odd },
        };
        let received = Received { id: MessageId(9), sequence: 70_000, answer: body.into(), refused: is_odd };
        let head = Head { row, channels: vec![name.into(), "b".into()], received: vec![received] };
        let message = |qos, sent, released| StoredMessage {
            session,
            offset: Offset(number),
            message: Message::encode(qos, 5, body, &mut Vec::new()),
            sent,
            released,
            stored: UnixMs(1),
            expires: UnixMs(number),
            claim: sent.then(|| Claim { message_id: name.into(), until: UnixMs(number) }),
        };
        SessionPart {
            now: UnixMs(number),
            head: is_odd.then(|| Box::new(head)),
            guards: vec![Guard { message_id: name.into(), offset: Offset(number), until: UnixMs(2) }],
            messages: vec![message(QoS::AtLeastOnce, true, false), message(QoS::ExactlyOnce, false, true)],
            next: is_odd.then_some(Position::Messages(Offset(number))),
        }
    }

    proptest! {
        #[test]
        fn what_is_said_of_a_move_survives_the_way(name in ".{0,9}", number: u64, body: Vec<u8>) {
            for call in calls(&name, number) {
                let mut bytes = Vec::new();
                call.encode_into(&mut bytes);
                prop_assert_eq!(TransferCall::decode(&bytes), Some(call));
                prop_assert!((0..bytes.len()).all(|len| TransferCall::decode(&bytes[..len]).is_none()), "cut short");
            }
            let part = part(&name, number, &body);
            let mut bytes = Vec::new();
            encode_part(&mut bytes, &part);
            prop_assert_eq!(decode_part(&bytes), Some(part));
            prop_assert!((0..bytes.len()).all(|len| decode_part(&bytes[..len]).is_none()), "cut short");
        }

        #[test]
        fn nonsense_is_no_part_and_nothing_panics(bytes: Vec<u8>) {
            let _ = TransferCall::decode(&bytes);
            if let Some(part) = decode_part(&bytes) {
                let mut encoded = Vec::new();
                encode_part(&mut encoded, &part);
                prop_assert_eq!(encoded.len(), bytes.len());
            }
        }
    }

    #[test]
    fn every_outcome_has_a_number() {
        assert!((0..4).all(|code| Settled::from_code(code).is_some_and(|settled| settled.code() == code)));
        assert_eq!(Settled::from_code(4), None);
    }
}
