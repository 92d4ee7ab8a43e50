//! Bytes of a client as frames. Cut anywhere they must say the same as whole, and nothing that the RFC forbids gets through.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rainbow::wire::ws::decoder::{Decoder, Event, Input, Limits, Violation};
use rainbow::wire::ws::frame::{CONTROL_PAYLOAD_MAX, CloseCode};

// Small, so that the fuzzer reaches it; beyond the 16-bit length's minimum, so that every length form is reached too.
const LIMITS: Limits = Limits { message_bytes_max: 300 };

#[derive(PartialEq, Debug)]
enum Seen {
    Message(bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<CloseCode>, String),
    Violation(Violation),
}

// Four bytes say in what lengths the input arrives, the rest is what arrives.
fuzz_target!(|data: &[u8]| {
    let Some((lens, stream)) = data.split_first_chunk::<4>() else { return };
    let whole = decode(stream, &[usize::MAX]);
    whole.iter().for_each(check);
    assert_eq!(decode(stream, &lens.map(|len| usize::from(len).max(1))), whole);
    assert_eq!(decode(stream, &[1]), whole);
});

fn check(seen: &Seen) {
    match seen {
        Seen::Message(text, data) => {
            assert!(data.len() <= LIMITS.message_bytes_max);
            assert!(!text || std::str::from_utf8(data).is_ok());
        }
        Seen::Ping(data) | Seen::Pong(data) => assert!(data.len() <= CONTROL_PAYLOAD_MAX),
        Seen::Close(code, reason) => assert!(code.map_or(reason.is_empty(), CloseCode::is_valid_on_wire)),
        Seen::Violation(violation) => assert!(violation.close_code().is_valid_on_wire()),
    }
}

/// What the stream says up to a close or a violation, when it arrives in these lengths, over and over.
fn decode(mut stream: &[u8], lens: &[usize]) -> Vec<Seen> {
    let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
    for &len in lens.iter().cycle() {
        if stream.is_empty() || feed(&mut decoder, stream.split_off(..len.min(stream.len())), &mut seen) {
            break;
        }
    }
    seen
}

/// True when the client has nothing more to say.
fn feed(decoder: &mut Decoder, chunk: Option<&[u8]>, seen: &mut Vec<Seen>) -> bool {
    let mut chunk = chunk.unwrap_or_default().to_vec();
    let mut input = Input::new(&mut chunk);
    loop {
        seen.push(match decoder.next(&mut input, &LIMITS) {
            Ok(Some(Event::Message { text, data })) => Seen::Message(text, data.to_vec()),
            Ok(Some(Event::Ping(data))) => Seen::Ping(data.to_vec()),
            Ok(Some(Event::Pong(data))) => Seen::Pong(data.to_vec()),
            Ok(Some(Event::Close { code, reason })) => Seen::Close(code, reason.to_owned()),
            Ok(None) => {
                assert_eq!(input.remaining(), 0);
                return false;
            }
            Err(violation) => Seen::Violation(violation),
        });
        if matches!(seen.last(), Some(Seen::Close(..) | Seen::Violation(_))) {
            return true;
        }
    }
}
