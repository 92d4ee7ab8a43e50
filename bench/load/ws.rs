//! The client's side of the wire: upgrade request, frames, Rainbow packets, and the payload that every message carries.
//!
//! Small on purpose, and none of it is the server's code: a bug in one must not be hidden by the same bug in the other.

/// The key of RFC 6455's example, so that the answer is a constant: floors need no SHA-1 to be believed.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The length of the answer to an upgrade, when it is whole.
pub fn upgrade_answer(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = head_end(bytes) else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..end]);
    if !head.starts_with("HTTP/1.1 101") {
        return Err(format!("upgrade refused: {}", head.lines().next().unwrap_or("")));
    }
    if !head.contains(ACCEPT) {
        return Err("upgrade answered with a wrong Sec-WebSocket-Accept".into());
    }
    Ok(Some(end))
}

/// The index after the empty line that ends an HTTP head.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A frame found at the start of a buffer: where its payload lies and where the next frame starts.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub payload: std::ops::Range<usize>,
}

/// The frame at `bytes[at..]`, if whole. A masked one (the echo floor sends back what it got) is unmasked in place.
pub fn frame_at(bytes: &mut [u8], at: usize) -> Result<Option<Frame>, String> {
    let rest = &bytes[at..];
    if rest.len() < 2 {
        return Ok(None);
    }
    let (first, second) = (rest[0], rest[1]);
    if first & 0xF0 != 0x80 {
        return Err(format!("a fragment or a reserved bit: first byte {first:#04x}"));
    }
    let (mut head, length) = match second & 0x7F {
        126 if rest.len() >= 4 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
        127 if rest.len() >= 10 => (10, u64::from_be_bytes(rest[2..10].try_into().expect("eight bytes")) as usize),
        126 | 127 => return Ok(None),
        short => (2, usize::from(short)),
    };
    let masked = second & 0x80 != 0;
    head += if masked { 4 } else { 0 };
    if rest.len() < head + length {
        return Ok(None);
    }
    let payload = at + head..at + head + length;
    if masked {
        let key: [u8; 4] = bytes[payload.start - 4..payload.start].try_into().expect("four bytes");
        bytes[payload.clone()].iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    }
    Ok(Some(Frame { opcode: first & 0x0F, payload }))
}

/// Appends a client's (masked) frame whose payload is the concatenation of `parts`.
pub fn put_frame(out: &mut Vec<u8>, opcode: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(0x80 | opcode);
    match length {
        0..126 => out.push(0x80 | length as u8),
        126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    // One key for all: the server cannot know, and chance costs the generator time.
    out.extend_from_slice(&MASK);
    let start = out.len();
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out[start..].iter_mut().zip(MASK.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
}

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// Commands of PROTOCOL.md, section 3.
pub const SEND: u8 = 1;
pub const ACK: u8 = 2;
pub const REC: u8 = 3;
pub const REL: u8 = 4;
pub const COM: u8 = 5;

/// One Rainbow packet. `id` is 0 for a SEND of QoS 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub command: u8,
    pub dup: bool,
    pub qos: u8,
    pub id: u16,
    pub body: &'a [u8],
}

impl Packet<'_> {
    pub fn parse(bytes: &[u8]) -> Result<Packet<'_>, String> {
        let wrong = || format!("not a packet: {:02x?}", &bytes[..bytes.len().min(8)]);
        let first = *bytes.first().ok_or_else(wrong)?;
        let (command, dup, qos) = (first >> 4, first & 8 != 0, first >> 1 & 3);
        let id_at = if command == SEND { 3 } else { 1 };
        let (id, body_at) = if command == SEND && qos == 0 {
            (0, 3)
        } else {
            let id = bytes.get(id_at..id_at + 2).ok_or_else(wrong)?;
            (u16::from_be_bytes([id[0], id[1]]), id_at + 2)
        };
        let body = bytes.get(body_at..).ok_or_else(wrong)?;
        if (SEND..=COM).contains(&command) { Ok(Packet { command, dup, qos, id, body }) } else { Err(wrong()) }
    }
}

/// Appends the frame of an ACK, REC, REL or COM without a body.
pub fn put_answer(out: &mut Vec<u8>, command: u8, id: u16) {
    let id = id.to_be_bytes();
    put_frame(out, BINARY, &[&[command << 4, id[0], id[1]]]);
}

/// Appends the frame of a SEND; `id` is used when `qos` > 0.
pub fn put_send(out: &mut Vec<u8>, qos: u8, message_type: u16, id: u16, body: &[u8]) {
    let (kind, id) = (message_type.to_be_bytes(), id.to_be_bytes());
    let head = [SEND << 4 | qos << 1, kind[0], kind[1], id[0], id[1]];
    put_frame(out, BINARY, &[&head[..if qos > 0 { 5 } else { 3 }], body]);
}

/// What every message carries in its first 24 bytes: so loss, repeats and lateness are seen without a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Who it is of or for; the scenario says.
    pub stream: u64,
    pub seq: u64,
    /// When it should have been sent (open loop) or was (closed loop); `sys::now_ns`.
    pub intended_ns: u64,
}

impl Payload {
    pub const LEN: usize = 24;

    /// Writes into `body`, whose length is the message's.
    pub fn write(self, body: &mut [u8]) {
        body[..8].copy_from_slice(&self.stream.to_le_bytes());
        body[8..16].copy_from_slice(&self.seq.to_le_bytes());
        body[16..24].copy_from_slice(&self.intended_ns.to_le_bytes());
    }

    pub fn read(body: &[u8]) -> Option<Payload> {
        let word = |at: usize| body.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight")));
        Some(Payload { stream: word(0)?, seq: word(8)?, intended_ns: word(16)? })
    }
}

/// What one receiver has seen of one sequence. Messages may arrive out of order by less than the window's width.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Everything below was seen or is lost.
    base: u64,
    seen: u128,
    pub lost: u32,
    pub repeats: u32,
}

impl Tally {
    /// A receiver that joins when `next` is the next number.
    pub fn starting_at(next: u64) -> Tally {
        Tally { base: next, ..Tally::default() }
    }

    /// Takes note of number `seq`; false when it was seen before.
    pub fn see(&mut self, seq: u64) -> bool {
        if seq < self.base {
            self.repeats += 1;
            return false;
        }
        while seq - self.base >= 128 {
            self.shift();
        }
        let bit = 1u128 << (seq - self.base);
        if self.seen & bit != 0 {
            self.repeats += 1;
            return false;
        }
        self.seen |= bit;
        let whole = self.seen.trailing_ones();
        self.base += u64::from(whole);
        self.seen = self.seen.checked_shr(whole).unwrap_or(0);
        true
    }

    /// Whether number `seq` was seen (or, long ago, was lost).
    pub fn has(&self, seq: u64) -> bool {
        match seq.checked_sub(self.base) {
            None => true,
            Some(ahead) => ahead < 128 && self.seen & 1 << ahead != 0,
        }
    }

    /// Ends the sequence: numbers below `next` that were not seen are lost.
    pub fn finish(&mut self, next: u64) {
        while self.base < next {
            self.shift();
        }
    }

    fn shift(&mut self) {
        self.lost += u32::from(self.seen & 1 == 0);
        self.seen >>= 1;
        self.base += 1;
    }
}

/// Tests of the codec; run by `cargo test --benches`, which calls the harness without `--bench`.
pub fn self_test() {
    let mut out = Vec::new();
    put_send(&mut out, 1, 7, 9, b"hello");
    for cut in 0..out.len() {
        assert_eq!(frame_at(&mut out[..cut].to_vec(), 0), Ok(None), "cut at {cut}");
    }
    let frame = frame_at(&mut out, 0).unwrap().unwrap();
    assert_eq!((frame.opcode, frame.payload.end), (BINARY, out.len()));
    let packet = Packet::parse(&out[frame.payload]).unwrap();
    assert_eq!(packet, Packet { command: SEND, dup: false, qos: 1, id: 9, body: b"hello" });
    for length in [0, 125, 126, 65_535, 65_536] {
        let mut out = Vec::new();
        put_frame(&mut out, BINARY, &[&vec![0x5A; length]]);
        let frame = frame_at(&mut out, 0).unwrap().unwrap();
        assert!(frame.payload.len() == length && out[frame.payload].iter().all(|&byte| byte == 0x5A));
    }
    assert!(Packet::parse(&[0x00, 0, 0]).is_err() && Packet::parse(&[0x12, 0, 0, 1]).is_err());

    let mut tally = Tally::default();
    assert!([0, 2, 1, 5].iter().all(|&seq| tally.see(seq)) && !tally.see(2) && !tally.see(5));
    assert!(tally.has(2) && !tally.has(3) && tally.has(5) && !tally.has(6) && !tally.has(600));
    tally.finish(7);
    assert_eq!((tally.lost, tally.repeats), (3, 2), "3, 4 and 6 are lost; 2 and 5 came twice");
    let mut tally = Tally::default();
    assert!((0..1000).all(|seq| tally.see(seq)));
    assert!(tally.see(2000));
    tally.finish(2001);
    assert_eq!((tally.lost, tally.repeats), (1000, 0));
}
