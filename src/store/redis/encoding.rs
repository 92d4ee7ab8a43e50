//! Rows, messages and received ids as the bytes that Redis stores, and back. The scripts know where the numbers stand
//! (`prelude.lua`); the rest of a row is known here only. Bytes that do not decode were not written by us: `None`.

use crate::base::id::Identity;
use crate::shard::Message;
use crate::shard::command::{
    Claim, DownlinkMark, Offset, Received, SessionId, SessionRow, StoredMessage, UnixMs, UplinkMark,
};
use crate::store::request::ConnectionRecord;
use crate::wire::packet::{MessageId, QoS};
use std::sync::Arc;

/// The bytes that count for a message. A released one does not wait any more and counts for nothing.
pub fn counted_bytes(message: &StoredMessage) -> u32 {
    if message.released { 0 } else { message.message.len() as u32 }
}

/// offset(8) size(4) flags(1) stored(8) expires(8) claim length(1) [until(8) claim] type(2) body
pub fn encode_message(message: &StoredMessage) -> Vec<u8> {
    let (message_type, body) = message.message.parts();
    let claim_len = message.claim.as_ref().map_or(0, |_| 8 + CLAIM_MAX);
    let mut out = Vec::with_capacity(MESSAGE_HEADER_LEN + body.len() + claim_len);
    out.extend(message.offset.0.to_be_bytes());
    out.extend(counted_bytes(message).to_be_bytes());
    let exactly_once = message.message.qos == QoS::ExactlyOnce;
    let flags =
        u8::from(exactly_once) * EXACTLY_ONCE + u8::from(message.sent) * SENT + u8::from(message.released) * RELEASED;
    out.push(flags);
    out.extend(message.stored.0.to_be_bytes());
    out.extend(message.expires.0.to_be_bytes());
    match &message.claim {
        Some(claim) => {
            assert!((1..=CLAIM_MAX).contains(&claim.message_id.len()), "a message_id is 1 to {CLAIM_MAX} bytes long");
            out.push(claim.message_id.len() as u8);
            out.extend(claim.until.0.to_be_bytes());
            out.extend(claim.message_id.as_bytes());
        }
        None => out.push(0),
    }
    out.extend(message_type.to_be_bytes());
    out.extend(body);
    out
}

/// `scratch` is cleared and used.
pub fn decode_message(session: SessionId, bytes: &[u8], scratch: &mut Vec<u8>) -> Option<StoredMessage> {
    let mut reader = Reader(bytes);
    let offset = Offset(reader.u64()?);
    let counted = reader.u32()?;
    let flags = reader.take(1)?[0];
    let (stored, expires) = (UnixMs(reader.u64()?), UnixMs(reader.u64()?));
    let claim = match reader.take(1)?[0] {
        0 => None,
        length => {
            let until = UnixMs(reader.u64()?);
            Some(Claim { message_id: reader.text(length.into())?, until })
        }
    };
    let message_type = reader.u16()?;
    let qos = if flags & EXACTLY_ONCE != 0 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
    let message = Message::encode(qos, message_type, reader.0, scratch);
    let (sent, released) = (flags & SENT != 0, flags & RELEASED != 0);
    let message = StoredMessage { session, offset, message, sent, released, stored, expires, claim };
    // A body that was cut off, or flags of another version.
    (flags <= EXACTLY_ONCE + SENT + RELEASED && counted == counted_bytes(&message)).then_some(message)
}

/// expiry(8) ends(8) reserved(8) floor(8) run(4) last(2) flags(1) name length(1) name cookie
pub fn encode_row(row: &SessionRow) -> Vec<u8> {
    let cookie = row.cookie.as_deref();
    let mut out = Vec::with_capacity(ROW_HEADER_LEN + row.name.len() + cookie.map_or(0, <[u8]>::len));
    out.extend(row.expiry_s.to_be_bytes());
    out.extend(row.ends.map_or(0, |ends| ends.0).to_be_bytes());
    out.extend(row.downlink.reserved.0.to_be_bytes());
    out.extend(row.downlink.floor.0.to_be_bytes());
    out.extend(row.uplink.run.to_be_bytes());
    out.extend(row.uplink.last.to_be_bytes());
    let flags = u8::from(row.uplink.past_half) * PAST_HALF
        + u8::from(cookie.is_some()) * COOKIE
        + u8::from(row.ends.is_some()) * ENDS;
    out.push(flags);
    assert!(row.name.len() <= u8::MAX.into(), "a session's name is at most 128 bytes long");
    out.push(row.name.len() as u8);
    out.extend(row.name.as_bytes());
    out.extend(cookie.unwrap_or_default());
    out
}

pub fn decode_row(session: SessionId, bytes: &[u8]) -> Option<SessionRow> {
    let mut reader = Reader(bytes);
    let (expiry_s, ends) = (reader.u64()?, UnixMs(reader.u64()?));
    let downlink = DownlinkMark { reserved: Offset(reader.u64()?), floor: Offset(reader.u64()?) };
    let (run, last) = (reader.u32()?, reader.u16()?);
    let flags = reader.take(1)?[0];
    let length = reader.take(1)?[0];
    let name = reader.text(length.into())?;
    let cookie = (flags & COOKIE != 0).then(|| Arc::from(reader.0));
    let uplink = UplinkMark { run, last, past_half: flags & PAST_HALF != 0 };
    let ends = (flags & ENDS != 0).then_some(ends);
    Some(SessionRow { session, name, expiry_s, ends, cookie, downlink, uplink })
}

/// sequence(8) answer; the id is the field's name.
pub fn encode_received(received: &Received) -> Vec<u8> {
    [&received.stored_sequence().to_be_bytes()[..], &received.answer].concat()
}

pub fn decode_received(id: &[u8], bytes: &[u8]) -> Option<Received> {
    let id = MessageId::new(Reader(id).u16()?)?;
    let mut reader = Reader(bytes);
    let stored_sequence = reader.u64()?;
    Some(Received::from_stored(id, stored_sequence, Arc::from(reader.0)))
}

/// The length of the user's name, 0 without, and the name; 1 and the cookie, or 0. The identity is the field's name.
pub fn encode_connection(record: &ConnectionRecord) -> Vec<u8> {
    let user = record.user.as_deref().unwrap_or_default().as_bytes();
    let mut out = vec![u8::try_from(user.len()).expect("a name that fits into headers")];
    out.extend(user);
    out.push(u8::from(record.cookie.is_some()));
    out.extend(record.cookie.as_deref().unwrap_or_default());
    out
}

pub fn decode_connection(identity: &[u8], bytes: &[u8]) -> Option<ConnectionRecord> {
    let identity = Identity(identity.try_into().ok()?);
    let (&user_len, rest) = bytes.split_first()?;
    let (user, rest) = rest.split_at_checked(user_len.into())?;
    let user = str::from_utf8(user).ok()?;
    let (&has_cookie, cookie) = rest.split_first()?;
    let cookie = (has_cookie == 1).then(|| cookie.into());
    Some(ConnectionRecord { identity, cookie, user: (!user.is_empty()).then(|| user.into()) })
}

/// A number in a script's answer.
pub fn decode_u64(bytes: &[u8]) -> Option<u64> {
    Reader(bytes).u64()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    fn text(&mut self, length: usize) -> Option<Arc<str>> {
        std::str::from_utf8(self.take(length)?).ok().map(Arc::from)
    }
}

const MESSAGE_HEADER_LEN: usize = 32;
const ROW_HEADER_LEN: usize = 42;
/// The API takes no longer `message_id`.
const CLAIM_MAX: usize = 128;

/// QoS 2; a message without it is QoS 1.
const EXACTLY_ONCE: u8 = 1;
const SENT: u8 = 2;
/// `release_message.lua` sets it.
const RELEASED: u8 = 4;

const PAST_HALF: u8 = 1;
const COOKIE: u8 = 2;
const ENDS: u8 = 4;
