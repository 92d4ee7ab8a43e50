//! Parts of calls and answers that several of them have: names, identities, times, reasons. Texts are preceded by their
//! length (u16).

use crate::base::id::Identity;
use crate::shard::Who;
use crate::shard::channel::traffic::Traffic;
use crate::wire::peer::cursor::Cursor;

/// Its first byte says whether there is any.
pub fn put_traffic(out: &mut Vec<u8>, traffic: Option<Traffic>) {
    out.push(u8::from(traffic.is_some()));
    let figures = traffic.map(|Traffic { messages, deliveries }| [messages, deliveries]);
    figures.iter().flatten().for_each(|figure| out.extend_from_slice(&figure.to_be_bytes()));
}

/// `None` for what is neither a count nor the lack of one.
pub fn take_traffic(cursor: &mut Cursor<'_>) -> Option<Option<Traffic>> {
    match cursor.u8()? {
        0 => Some(None),
        1 => Some(Some(Traffic { messages: cursor.u64()?, deliveries: cursor.u64()? })),
        _ => None,
    }
}

pub fn put_times(out: &mut Vec<u8>, times: [Option<u64>; 2]) {
    for time in times {
        out.extend_from_slice(&time.unwrap_or(NO_TIME).to_be_bytes());
    }
}

pub fn take_times(cursor: &mut Cursor<'_>) -> Option<[Option<u64>; 2]> {
    Some([cursor.u64()?, cursor.u64()?].map(|time| (time != NO_TIME).then_some(time)))
}

pub fn put_some_identity(out: &mut Vec<u8>, identity: Option<&Identity>) {
    out.push(u8::from(identity.is_some()));
    out.extend(identity.iter().flat_map(|identity| identity.0));
}

/// `None` for what is neither an identity nor the lack of one.
pub fn take_some_identity(cursor: &mut Cursor<'_>) -> Option<Option<Identity>> {
    match cursor.u8()? {
        0 => Some(None),
        1 => take_identity(cursor).map(Some),
        _ => None,
    }
}

/// `None` for what is no bool.
pub fn take_bool(cursor: &mut Cursor<'_>) -> Option<bool> {
    match cursor.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

pub fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).expect("names and reasons are checked where they come in");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

pub fn take_text<'a>(cursor: &mut Cursor<'a>) -> Option<&'a str> {
    let len = cursor.u16()?;
    std::str::from_utf8(cursor.bytes(len.into())?).ok()
}

pub fn put_who(out: &mut Vec<u8>, who: &Who) {
    match who {
        Who::Connection(identity) => {
            out.push(CONNECTION);
            out.extend_from_slice(&identity.0);
        }
        Who::Session(name) => {
            out.push(SESSION);
            put_text(out, name);
        }
    }
}

pub fn take_who(cursor: &mut Cursor<'_>) -> Option<Who> {
    match cursor.u8()? {
        CONNECTION => take_identity(cursor).map(Who::Connection),
        SESSION => take_text(cursor).map(|name| Who::Session(name.into())),
        _ => None,
    }
}

pub fn take_identity(cursor: &mut Cursor<'_>) -> Option<Identity> {
    cursor.bytes(32)?.try_into().ok().map(Identity)
}

/// 0 is none; a reason's number is its place in the list, from 1 on.
pub fn code_of<T: PartialEq>(all: &[T], reason: Option<&T>) -> u8 {
    let place = reason.and_then(|reason| all.iter().position(|known| known == reason));
    place.map_or(0, |place| place as u8 + 1)
}

/// `None` for a number that stands for nothing.
pub fn reason<T: Copy>(all: &[T], code: u8) -> Option<Option<T>> {
    match code {
        0 => Some(None),
        code => all.get(usize::from(code) - 1).map(|reason| Some(*reason)),
    }
}

const CONNECTION: u8 = 1;
const SESSION: u8 = 2;
const NO_TIME: u64 = u64::MAX;
