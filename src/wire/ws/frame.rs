//! Frames, RFC 6455 section 5.2: opcodes, close codes, and the headers that a server writes.
//!
//! ```text
//! byte 0    FIN | RSV1-3 | opcode (4 bits)
//! byte 1    MASK | length (7 bits): 0-125, or 126: a u16 follows, or 127: a u64 follows
//!           [masking key, 4 bytes, client to server only] · payload
//! ```
//!
//! Reading frames is the decoder's business. `ClientFrame` writes the other direction, for tests and load generators.

use super::mask;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    /// `None` for the reserved ones.
    pub fn from_u8(opcode: u8) -> Option<Opcode> {
        match opcode {
            0 => Some(Opcode::Continuation),
            1 => Some(Opcode::Text),
            2 => Some(Opcode::Binary),
            8 => Some(Opcode::Close),
            9 => Some(Opcode::Ping),
            10 => Some(Opcode::Pong),
            _ => None,
        }
    }

    /// Close, ping and pong: never fragmented, at most `CONTROL_PAYLOAD_MAX` bytes, allowed inside a fragmented
    /// message.
    pub fn is_control(self) -> bool {
        self as u8 & 8 != 0
    }
}

/// Why a connection is closed, RFC 6455 section 7.4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CloseCode(pub u16);

impl CloseCode {
    pub const NORMAL: CloseCode = CloseCode(1000);
    /// The server stops or is upgraded: reconnect.
    pub const GOING_AWAY: CloseCode = CloseCode(1001);
    pub const PROTOCOL_ERROR: CloseCode = CloseCode(1002);
    pub const UNSUPPORTED: CloseCode = CloseCode(1003);
    /// The close frame had no code. Not for the wire.
    pub const NO_STATUS: CloseCode = CloseCode(1005);
    /// There was no close frame. Not for the wire.
    pub const ABNORMAL: CloseCode = CloseCode(1006);
    /// Text that is not UTF-8.
    pub const INVALID_PAYLOAD: CloseCode = CloseCode(1007);
    /// A limit of the operator's was passed.
    pub const POLICY: CloseCode = CloseCode(1008);
    pub const MESSAGE_TOO_BIG: CloseCode = CloseCode(1009);
    /// Our fault.
    pub const INTERNAL_ERROR: CloseCode = CloseCode(1011);
    /// The client reads too slowly.
    pub const TRY_AGAIN_LATER: CloseCode = CloseCode(1013);
    /// The business server refused the connection; final.
    pub const REFUSED: CloseCode = CloseCode(4401);
    /// A newer connection of the same session took over.
    pub const TAKEN_OVER: CloseCode = CloseCode(4409);
    /// The business server could not be asked; come back later.
    pub const BACKEND_UNREACHABLE: CloseCode = CloseCode(4503);

    /// True for codes that a close frame may carry: registered ones (1004-1006 and 1015 are reserved for local use) and
    /// those left to libraries and applications (3000-4999).
    pub fn is_valid_on_wire(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

/// Length of a server's frame header for a payload of that length.
pub fn header_len(payload_len: usize) -> usize {
    match payload_len {
        0..=LEN_SMALL_MAX => 2,
        _ if payload_len <= LEN_U16_MAX => 4,
        _ => 10,
    }
}

/// Appends a server's header (FIN set, no mask); the payload is the caller's to append.
#[inline(always)]
pub fn write_header(out: &mut Vec<u8>, opcode: Opcode, payload_len: usize) {
    let first = FIN | opcode as u8;
    match header_len(payload_len) {
        2 => out.extend_from_slice(&[first, payload_len as u8]),
        4 => {
            let [high, low] = (payload_len as u16).to_be_bytes();
            out.extend_from_slice(&[first, LEN_U16, high, low]);
        }
        _ => {
            out.extend_from_slice(&[first, LEN_U64]);
            out.extend_from_slice(&(payload_len as u64).to_be_bytes());
        }
    }
}

/// Appends a server's whole close frame; a reason that does not fit is cut between characters.
pub fn write_close(out: &mut Vec<u8>, code: CloseCode, reason: &str) {
    debug_assert!(code.is_valid_on_wire());
    let reason = &reason[..reason.floor_char_boundary(CLOSE_REASON_MAX)];
    write_header(out, Opcode::Close, CLOSE_CODE_LEN + reason.len());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// A frame as a client sends it: masked. For tests, fuzzing and load generators; nothing is checked, so that it can be
/// illegal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientFrame<'a> {
    pub fin: bool,
    pub opcode: Opcode,
    pub key: [u8; 4],
    pub payload: &'a [u8],
}

impl ClientFrame<'_> {
    pub fn write_into(&self, out: &mut Vec<u8>) {
        let start = out.len();
        write_header(out, self.opcode, self.payload.len());
        if !self.fin {
            out[start] &= !FIN;
        }
        out[start + 1] |= MASK;
        out.extend_from_slice(&self.key);
        let start = out.len();
        out.extend_from_slice(self.payload);
        mask::unmask(&mut out[start..], self.key, 0);
    }
}

/// RFC 6455 section 5.5.
pub const CONTROL_PAYLOAD_MAX: usize = 125;
pub const CLOSE_CODE_LEN: usize = 2;
pub const CLOSE_REASON_MAX: usize = CONTROL_PAYLOAD_MAX - CLOSE_CODE_LEN;

pub(super) const FIN: u8 = 0x80;
pub(super) const RSV: u8 = 0x70;
pub(super) const OPCODE: u8 = 0x0F;
pub(super) const MASK: u8 = 0x80;
pub(super) const LEN: u8 = 0x7F;
/// In the place of a 7-bit length: the length follows as a u16.
pub(super) const LEN_U16: u8 = 126;
/// In the place of a 7-bit length: the length follows as a u64.
pub(super) const LEN_U64: u8 = 127;
pub(super) const LEN_SMALL_MAX: usize = 125;
pub(super) const LEN_U16_MAX: usize = u16::MAX as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_as_the_rfc_draws_them() {
        let cases: &[(usize, &[u8])] = &[
            (0, b"\x82\x00"),
            (125, b"\x82\x7d"),
            (126, b"\x82\x7e\x00\x7e"),
            (65535, b"\x82\x7e\xff\xff"),
            (65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        ];
        for (payload_len, expected) in cases {
            let mut out = Vec::new();
            write_header(&mut out, Opcode::Binary, *payload_len);
            assert_eq!(out, *expected);
            assert_eq!(header_len(*payload_len), expected.len());
        }
    }

    #[test]
    fn a_client_frame_is_the_example_of_the_rfc() {
        let mut out = Vec::new();
        let key = [0x37, 0xfa, 0x21, 0x3d];
        ClientFrame { fin: true, opcode: Opcode::Text, key, payload: b"Hello" }.write_into(&mut out);
        assert_eq!(out, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        write_close(&mut out, CloseCode::POLICY, &"€".repeat(60));
        assert_eq!(&out[..4], &[0x88, 2 + 123, 0x03, 0xF0]);
        assert_eq!(&out[4..], "€".repeat(41).as_bytes());
        out.clear();
        write_close(&mut out, CloseCode::POLICY, &format!("a{}", "€".repeat(60)));
        assert_eq!(&out[4..], format!("a{}", "€".repeat(40)).as_bytes());
    }

    #[test]
    fn opcodes_round_trip_and_the_reserved_ones_are_none() {
        let known: Vec<u8> =
            (0..=255).filter(|&o| Opcode::from_u8(o).is_some_and(|opcode| opcode as u8 == o)).collect();
        assert_eq!(known, [0, 1, 2, 8, 9, 10]);
        assert!([Opcode::Close, Opcode::Ping, Opcode::Pong].iter().all(|o| o.is_control()));
        assert!(![Opcode::Continuation, Opcode::Text, Opcode::Binary].iter().any(|o| o.is_control()));
    }

    #[test]
    fn close_codes_not_for_the_wire_are_known() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert!(!CloseCode(code).is_valid_on_wire(), "{code}");
        }
        for code in
            [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4409, 4999]
        {
            assert!(CloseCode(code).is_valid_on_wire(), "{code}");
        }
    }
}
