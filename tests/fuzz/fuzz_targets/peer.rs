//! The frames of a link between nodes: whatever comes is a frame, needs more, or is a violation; a frame means the same
//! when it is encoded again, its lists can be read, and so can what is in calls and replies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rainbow::cluster::calls::{Answer, Call};
use rainbow::wire::peer::frame::{CHUNK_BITS, Chunk, Frame};

fuzz_target!(|received: &[u8]| {
    let mut rest = received;
    while let Ok(Some((frame, used))) = Frame::decode(rest, BYTES_MAX) {
        assert!((1..=rest.len()).contains(&used));
        assert_eq!(Frame::decode(&rest[..used - 1], BYTES_MAX), Ok(None));
        check_lists(frame);
        let mut encoded = Vec::new();
        frame.encode_into(&mut encoded);
        if matches!(frame, Frame::Hello(_)) {
            // Fields of later versions are left out.
            assert!(encoded.len() <= used);
        } else {
            assert_eq!(encoded, rest[..used]);
        }
        assert_eq!(Frame::decode(&encoded, BYTES_MAX), Ok(Some((frame, encoded.len()))));
        rest = &rest[used..];
    }
});

fn check_lists(frame: Frame<'_>) {
    match frame {
        Frame::Changes { size_log2, changes, .. } => {
            assert!(changes.iter().all(|change| change.bit < 1 << size_log2));
        }
        Frame::Chunk { chunk: Chunk::Positions(positions), .. } => assert!(positions.iter().len() <= CHUNK_BITS),
        Frame::Call { method, body, .. } => {
            if let Some(call) = Call::decode(method, body) {
                let mut encoded = Vec::new();
                call.encode_into(&mut encoded);
                assert_eq!((call.method(), &encoded[..]), (method, body));
            }
        }
        Frame::Reply { outcome, body, .. } => {
            if let Some(answer) = Answer::decode(outcome, body) {
                let mut encoded = Vec::new();
                answer.encode_into(&mut encoded);
                assert_eq!((answer.outcome(), &encoded[..]), (outcome, body));
            }
        }
        _ => {}
    }
}

const BYTES_MAX: usize = 1 << 16;
