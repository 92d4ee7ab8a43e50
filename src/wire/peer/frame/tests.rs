//! Frames there and back, byte by byte, cut, damaged and too long.

use super::*;
use crate::base::id::Generation;
use proptest::prelude::*;

const MAX: usize = 1 << 20;

fn encoded(frame: Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode_into(&mut out);
    out
}

fn hello(generation: u32, address: (std::net::IpAddr, u16)) -> Hello {
    let node = NodeId { generation: Generation(generation), address: address.into() };
    Hello { versions: VersionRange::OURS, node, start: 5, unix_s: 1_800_000_000, link: 1, links: 2 }
}

#[test]
fn versions_in_common_are_found() {
    let range = |min, max| VersionRange { min, max };
    assert_eq!(range(1, 3).agree(range(2, 5)), Some(3));
    assert_eq!(range(2, 5).agree(range(1, 3)), Some(3));
    assert_eq!(range(1, 1).agree(range(2, 3)), None);
    assert_eq!(range(4, 4).agree(range(2, 3)), None);
}

#[test]
fn a_declared_length_is_refused_before_its_bytes_come() {
    let declared = u32::MAX.to_be_bytes();
    assert_eq!(Frame::decode(&declared, MAX), Err(Violation::TooLong { len: u32::MAX as usize, max: MAX }));
    assert_eq!(Frame::decode(&[0, 0, 0, 5], MAX), Ok(None));
    assert_eq!(Frame::decode(&[0, 0, 0, 0], MAX), Err(Violation::Kind(0)));
    assert_eq!(Frame::decode(&[0, 0, 0, 1, 99], MAX), Err(Violation::Kind(99)));
    assert_eq!(Frame::decode(&[0, 0, 0, 2, GOODBYE, 77], MAX), Err(Violation::Fields(GOODBYE)));
    let exactly = encoded(Frame::Resync);
    assert!(Frame::decode(&exactly, 1).is_ok() && Frame::decode(&exactly, 0).is_err());
}

#[test]
fn a_later_hello_may_have_more_fields() {
    let mut bytes = encoded(Frame::Hello(hello(1, ([127, 0, 0, 1].into(), 1984))));
    bytes.extend_from_slice(b"more");
    let len = u32::try_from(bytes.len() - LENGTH_BYTES).expect("short");
    bytes[..LENGTH_BYTES].copy_from_slice(&len.to_be_bytes());
    assert!(matches!(Frame::decode(&bytes, MAX), Ok(Some((Frame::Hello(_), used))) if used == bytes.len()));
}

#[test]
fn bits_outside_of_the_bitmap_are_a_violation() {
    let changes = Changes::encode([Change { bit: 1 << 16, is_set: true }].into_iter());
    let frame = |size_log2| Frame::Changes {
        number: ChangeNumber(1),
        size_log2,
        changes: Changes::new(&changes).expect("whole"),
    };
    assert_eq!(Frame::decode(&encoded(frame(16)), MAX), Err(Violation::Fields(CHANGES)));
    assert!(Frame::decode(&encoded(frame(17)), MAX).is_ok());
    assert_eq!(Frame::decode(&encoded(frame(31)), MAX), Err(Violation::Fields(CHANGES)), "a size beyond the limit");
}

#[test]
fn positions_ascend() {
    assert!(Positions::new(&[0, 1, 0, 2]).is_some());
    assert!(Positions::new(&[0, 2, 0, 2]).is_none());
    assert!(Positions::new(&[0, 2, 0]).is_none());
}

/// Every kind, with `body` where there is one.
fn all<'a>(number: u64, body: &'a [u8], encoded: &'a [u8], bits: &'a [u8; CHUNK_BYTES]) -> Vec<Frame<'a>> {
    let (id, change) = (number, ChangeNumber(number));
    let changes = Changes::new(encoded).expect("whole");
    let positions = Positions::new(&[0, 7, 255, 255]).expect("they ascend");
    vec![
        Frame::Hello(hello(number as u32, ([127, 0, 0, 1].into(), number as u16))),
        Frame::Goodbye(Goodbye::GenerationDead),
        Frame::Call { id, deadline_ms: 17, method: 3, body },
        Frame::Reply { id, outcome: 2, body },
        Frame::Changes { number: change, size_log2: 20, changes },
        Frame::Acknowledged { number: change },
        Frame::SnapshotBegin { number: change, size_log2: 16 },
        Frame::Chunk { index: 3, chunk: Chunk::Bits(bits) },
        Frame::Chunk { index: 3, chunk: Chunk::Positions(positions) },
        Frame::SnapshotEnd { number: change, checksum: !number },
        Frame::Checksum { number: change, checksum: !number },
        Frame::Resync,
        Frame::Heartbeat { sent_ms: number },
        Frame::HeartbeatEcho { sent_ms: number },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_survive_the_way(
        number: u64,
        body: Vec<u8>,
        bits in prop::collection::vec((0_u32..1 << 20, any::<bool>()), 0..20),
    ) {
        let changes = bits.iter().map(|(bit, is_set)| Change { bit: *bit, is_set: *is_set });
        let list = Changes::encode(changes.clone());
        prop_assert!(Changes::new(&list).expect("whole").iter().eq(changes));
        let mut stream = Vec::new();
        for frame in all(number, &body, &list, &[0xA5; CHUNK_BYTES]) {
            let start = stream.len();
            frame.encode_into(&mut stream);
            // Cut anywhere, more is needed; whole, it is read, whatever follows.
            let alone = &stream[start..];
            for length in (0..alone.len()).step_by(1 + alone.len() / 50) {
                prop_assert_eq!(Frame::decode(&alone[..length], MAX), Ok(None));
            }
            let followed = [alone, b"more"].concat();
            prop_assert_eq!(Frame::decode(&followed, MAX), Ok(Some((frame, alone.len()))));
        }
    }

    #[test]
    fn what_decodes_is_what_was_encoded(kind in 0_u8..16, fields in prop::collection::vec(0_u8..32, 0..60)) {
        let length = (fields.len() as u32 + 1).to_be_bytes();
        let bytes = [&length[..], &[kind], &fields].concat();
        if let Ok(Some((frame, used))) = Frame::decode(&bytes, MAX) {
            prop_assert_eq!(used, bytes.len());
            if kind != HELLO {
                prop_assert_eq!(encoded(frame), bytes);
            }
        }
    }
}
