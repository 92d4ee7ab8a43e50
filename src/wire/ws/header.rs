//! Headers of a client's frames, and everything that RFC 6455 forbids a client.
//!
//! A header is read from the front of whatever bytes there are, again and again until it is complete; it is refused at
//! the first byte that shows it: two bytes for opcode, mask and reserved bits, the length bytes for the length, before
//! the mask has come and before anything is allocated. Called by the decoder only.

use thiserror::Error;

use super::frame::{self, CloseCode, Opcode};
use super::utf8::InvalidUtf8;

/// What the operator allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of a whole message, all fragments together.
    pub message_bytes_max: usize,
}

/// What a client must not send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Violation {
    #[error("reserved bits are set")]
    ReservedBits,
    #[error("reserved opcode")]
    ReservedOpcode { opcode: u8 },
    #[error("client frames must be masked")]
    Unmasked,
    #[error("fragmented control frame")]
    ControlFragmented,
    #[error("control frame too long")]
    ControlTooLong,
    #[error("continuation of no message")]
    ContinuationWithoutStart,
    #[error("new message inside a fragmented one")]
    MessageInterrupted,
    #[error("length not in its shortest form")]
    LengthNotMinimal { len: u64 },
    #[error("length beyond 63 bits")]
    LengthTopBit,
    #[error("message too big")]
    MessageTooBig { len: u64, max: usize },
    #[error("invalid UTF-8 in a text message")]
    InvalidUtf8,
    #[error("close frame of one byte")]
    CloseTooShort,
    #[error("invalid close code")]
    InvalidCloseCode { code: CloseCode },
    #[error("invalid UTF-8 in a close reason")]
    InvalidCloseReason,
}

impl Violation {
    /// What to close the connection with; `to_string` is a reason that fits the close frame.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Violation::MessageTooBig { .. } => CloseCode::MESSAGE_TOO_BIG,
            Violation::InvalidUtf8 | Violation::InvalidCloseReason => CloseCode::INVALID_PAYLOAD,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }
}

impl From<InvalidUtf8> for Violation {
    fn from(_: InvalidUtf8) -> Violation {
        Violation::InvalidUtf8
    }
}

/// A frame whose header is known.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) opcode: Opcode,
    pub(super) fin: bool,
    pub(super) key: [u8; 4],
    /// Of the payload; within the limits.
    pub(super) len: usize,
    /// How much of the payload has been unmasked and buffered.
    pub(super) read: usize,
}

impl Frame {
    /// An event by itself, whatever came before.
    pub(super) fn is_message_of_its_own(&self) -> bool {
        self.fin && self.opcode != Opcode::Continuation
    }
}

/// Reads a client's frame header from the front of `bytes` and returns its length, too; `None` while it is incomplete.
/// `assembled` is the length so far of the message that is being put together.
pub(super) fn parse_header(
    bytes: &[u8],
    assembled: Option<usize>,
    limits: &Limits,
) -> Result<Option<(Frame, usize)>, Violation> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    let opcode = check_first_bytes(first, second, assembled.is_some())?;
    let Some((len, rest)) = parse_len(second & frame::LEN, rest)? else { return Ok(None) };
    let len = if opcode.is_control() { len as usize } else { check_len(len, assembled.unwrap_or(0), limits)? };
    let Some((&key, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let frame = Frame { opcode, fin: first & frame::FIN != 0, key, len, read: 0 };
    Ok(Some((frame, bytes.len() - rest.len())))
}

/// RFC 6455 sections 5.1, 5.2, 5.4, 5.5: one condition for everything that the first two bytes can have wrong.
fn check_first_bytes(first: u8, second: u8, mid_message: bool) -> Result<Opcode, Violation> {
    let fin = first & frame::FIN != 0;
    match Opcode::from_u8(first & frame::OPCODE) {
        Some(opcode)
            if first & frame::RSV == 0
                && second & frame::MASK != 0
                && if opcode.is_control() {
                    fin && usize::from(second & frame::LEN) <= frame::CONTROL_PAYLOAD_MAX
                } else {
                    (opcode == Opcode::Continuation) == mid_message
                } =>
        {
            Ok(opcode)
        }
        opcode => Err(diagnose_first_bytes(first, second, opcode)),
    }
}

/// Which rule it was.
#[cold]
fn diagnose_first_bytes(first: u8, second: u8, opcode: Option<Opcode>) -> Violation {
    let Some(opcode) = opcode else { return Violation::ReservedOpcode { opcode: first & frame::OPCODE } };
    if first & frame::RSV != 0 {
        Violation::ReservedBits
    } else if second & frame::MASK == 0 {
        Violation::Unmasked
    } else if opcode.is_control() {
        if first & frame::FIN == 0 { Violation::ControlFragmented } else { Violation::ControlTooLong }
    } else if opcode == Opcode::Continuation {
        Violation::ContinuationWithoutStart
    } else {
        Violation::MessageInterrupted
    }
}

/// RFC 6455 section 5.2: the length and what follows it; the shortest form must have been used.
fn parse_len(len: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, Violation> {
    let (len, minimum, rest) = match len {
        frame::LEN_U16 => {
            let Some((len, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*len)), frame::LEN_SMALL_MAX as u64 + 1, rest)
        }
        frame::LEN_U64 => {
            let Some((len, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from_be_bytes(*len), frame::LEN_U16_MAX as u64 + 1, rest)
        }
        len => (u64::from(len), 0, rest),
    };
    if len < minimum {
        return Err(Violation::LengthNotMinimal { len });
    }
    if len > i64::MAX as u64 {
        return Err(Violation::LengthTopBit);
    }
    Ok(Some((len, rest)))
}

/// The limit is on the whole message: `assembled` bytes of it are here, `len` more are announced.
fn check_len(len: u64, assembled: usize, limits: &Limits) -> Result<usize, Violation> {
    let max = limits.message_bytes_max;
    match usize::try_from(len) {
        Ok(len) if len <= max.saturating_sub(assembled) => Ok(len),
        _ => Err(Violation::MessageTooBig { len: len.saturating_add(assembled as u64), max }),
    }
}

/// Two bytes, a length of eight, a mask of four.
pub(super) const HEADER_LEN_MAX: usize = 14;
