//! What a message of the audit looks like: it names its stream and proves that it is whole.
//!
//! ```text
//! run u64 · session u32 · direction u8 · QoS u8 · sequence u64 · filler · checksum u64      integers are big-endian
//! ```
//! The same message always has the same bytes, so no copy is stored for a repeat. Called by the caller and the client
//! when they send, by the client and the backend when they receive.

use crate::base::rng::Rng;
use crate::wire::packet::QoS;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From a client to the business server.
    Up,
    /// From the business server to a client.
    Down,
}

/// The messages of one session, one direction and one QoS: sent one after the other, numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    pub direction: Direction,
    pub qos: QoS,
    pub session: u32,
}

/// One message of the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Tells this run's messages from an earlier one's.
    pub run: u64,
    pub stream: Stream,
    pub sequence: u64,
}

/// The bytes are not a message of the audit, or not as they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

impl Payload {
    /// Appends the message's bytes.
    pub fn write_into(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let Payload { run, stream, sequence } = *self;
        out.extend_from_slice(&run.to_be_bytes());
        out.extend_from_slice(&stream.session.to_be_bytes());
        out.extend_from_slice(&[stream.direction as u8, stream.qos as u8]);
        out.extend_from_slice(&sequence.to_be_bytes());
        let mut rng = Rng::new(checksum(&out[start..]));
        let filler = match rng.below(100) {
            0 => rng.below(LONG_BYTES),
            _ => rng.below(SHORT_BYTES),
        };
        let end = out.len() + filler as usize;
        while out.len() < end {
            out.extend_from_slice(&rng.next_u64().to_be_bytes());
        }
        out.truncate(end);
        let sum = checksum(&out[start..]);
        out.extend_from_slice(&sum.to_be_bytes());
    }

    pub fn read(body: &[u8]) -> Result<Payload, Corrupt> {
        let (rest, sum) = body.split_last_chunk().ok_or(Corrupt)?;
        if checksum(rest) != u64::from_be_bytes(*sum) {
            return Err(Corrupt);
        }
        let (run, rest) = rest.split_first_chunk().ok_or(Corrupt)?;
        let (session, rest) = rest.split_first_chunk().ok_or(Corrupt)?;
        let ([direction, qos], rest) = rest.split_first_chunk().ok_or(Corrupt)?;
        let (sequence, _) = rest.split_first_chunk().ok_or(Corrupt)?;
        let direction = match direction {
            0 => Direction::Up,
            1 => Direction::Down,
            _ => return Err(Corrupt),
        };
        let stream =
            Stream { direction, qos: QoS::from_u8(*qos).ok_or(Corrupt)?, session: u32::from_be_bytes(*session) };
        Ok(Payload { run: u64::from_be_bytes(*run), stream, sequence: u64::from_be_bytes(*sequence) })
    }
}

/// FNV-1a, mixed once more at the end: finds any change of a byte and any cut; made against accidents, not against
/// enemies.
pub fn checksum(bytes: &[u8]) -> u64 {
    let sum = bytes
        .iter()
        .fold(0xCBF2_9CE4_8422_2325u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3));
    Rng::new(sum).next_u64()
}

/// What the audit's business server answers to a client's message.
pub fn answer_to(sequence: u64) -> String {
    format!("seen {sequence}")
}

/// The message types of the two directions.
pub const UP_TYPE: u16 = 21;
pub const DOWN_TYPE: u16 = 22;
const SHORT_BYTES: u64 = 300;
/// One message in a hundred is longer than a read of the server's.
const LONG_BYTES: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(sequence: u64) -> Payload {
        let stream = Stream { direction: Direction::Down, qos: QoS::ExactlyOnce, session: 7 };
        Payload { run: 99, stream, sequence }
    }

    #[test]
    fn a_message_is_read_as_it_was_written_and_is_always_the_same() {
        for sequence in 0..300 {
            let (mut once, mut twice) = (Vec::new(), Vec::new());
            payload(sequence).write_into(&mut once);
            payload(sequence).write_into(&mut twice);
            assert_eq!(once, twice);
            assert_eq!(Payload::read(&once), Ok(payload(sequence)));
        }
    }

    #[test]
    fn any_changed_or_missing_byte_is_seen() {
        let mut bytes = Vec::new();
        payload(5).write_into(&mut bytes);
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert_eq!(Payload::read(&bytes), Err(Corrupt), "byte {at} was changed");
            bytes[at] ^= 1;
            assert_eq!(Payload::read(&bytes[..at]), Err(Corrupt), "cut at {at}");
        }
    }
}
