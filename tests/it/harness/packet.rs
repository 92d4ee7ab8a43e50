//! Rainbow's packets, a second implementation.

/// The high four bits of the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Send = 1,
    Ack = 2,
    Rec = 3,
    Rel = 4,
    Com = 5,
}

/// One packet. `kind` is the message type and only a SEND has one; a SEND of QoS 0 has id 0, which is not on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub command: Command,
    pub dup: bool,
    pub qos: u8,
    pub kind: u16,
    pub id: u16,
    pub body: Vec<u8>,
}

impl Packet {
    pub fn send(qos: u8, kind: u16, id: u16, body: impl AsRef<[u8]>) -> Packet {
        Packet { command: Command::Send, dup: false, qos, kind, id, body: body.as_ref().to_vec() }
    }

    pub fn answer(command: Command, id: u16, body: impl AsRef<[u8]>) -> Packet {
        Packet { command, dup: false, qos: 0, kind: 0, id, body: body.as_ref().to_vec() }
    }

    pub fn with_dup(mut self) -> Packet {
        self.dup = true;
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![(self.command as u8) << 4 | u8::from(self.dup) << 3 | self.qos << 1];
        if self.command == Command::Send {
            out.extend(self.kind.to_be_bytes());
        }
        if self.command != Command::Send || self.qos > 0 {
            out.extend(self.id.to_be_bytes());
        }
        out.extend(&self.body);
        out
    }

    /// Fails the test on what the server must never send.
    pub fn parse(bytes: &[u8]) -> Packet {
        let (&first, rest) = bytes.split_first().expect("the server sent an empty packet");
        let command = match first >> 4 {
            1 => Command::Send,
            2 => Command::Ack,
            3 => Command::Rec,
            4 => Command::Rel,
            5 => Command::Com,
            _ => panic!("the server sent command {} in {bytes:?}", first >> 4),
        };
        let (dup, qos) = (first & 0b1000 != 0, first >> 1 & 0b11);
        assert!(qos < 3 && first & 1 == 0, "the server sent QoS {qos}, reserved bit {} in {bytes:?}", first & 1);
        let mut rest = rest;
        let mut number = || {
            let (value, left) = rest.split_at_checked(2).unwrap_or_else(|| panic!("short packet {bytes:?}"));
            rest = left;
            u16::from_be_bytes([value[0], value[1]])
        };
        let kind = if command == Command::Send { number() } else { 0 };
        let id = if command != Command::Send || qos > 0 { number() } else { 0 };
        if command != Command::Send || qos > 0 {
            assert!((1..=65534).contains(&id), "the server sent message id {id}");
        }
        if matches!(command, Command::Rel | Command::Com) {
            assert!(rest.is_empty(), "the server sent {command:?} with a body");
        }
        Packet { command, dup, qos, kind, id, body: rest.to_vec() }
    }
}
