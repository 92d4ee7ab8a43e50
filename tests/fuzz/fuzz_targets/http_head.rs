//! Bytes from a socket as a request and as a response: scanner, head, query, body. Any split must equal the whole, and
//! what is let pass must be free of the shapes that smuggling needs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rainbow::wire::http1::{
    BodyDecoder, BodyError, BodyFraming, HeadError, HeadLimits, HeadScanner, Headers, REQUEST_SLOTS, RESPONSE_SLOTS,
    RequestHead, ResponseHead, query_pairs,
};

const BODY_MAX: usize = 1000;

// The first byte says where the input is cut, the rest is what arrives.
fuzz_target!(|data: &[u8]| {
    let Some((&step, input)) = data.split_first() else { return };
    let step = usize::from(step).max(1);
    if let Some(len) = scan(input, step, &HeadLimits::REQUEST) {
        let mut slots = REQUEST_SLOTS;
        if let Ok(head) = RequestHead::parse(&input[..len], &mut slots) {
            check_request(&head);
            check_framing(head.headers, head.framing);
            check_body(head.framing, &input[len..], step);
        }
    }
    if let Some(len) = scan(input, step, &HeadLimits::RESPONSE) {
        let mut slots = RESPONSE_SLOTS;
        if let Ok(head) = ResponseHead::parse(&input[..len], &mut slots) {
            assert!((100..600).contains(&head.status));
            assert!(!(head.keep_alive() && head.framing == BodyFraming::UntilClose));
            check_framing(head.headers, head.framing);
            check_body(head.framing, &input[len..], step);
        }
    }
});

fn scan(input: &[u8], step: usize, limits: &HeadLimits) -> Option<usize> {
    let whole = HeadScanner::default().advance(input, limits);
    assert_eq!(scan_in_pieces(input, step, limits), whole);
    let len = whole.ok()??;
    let head = &input[..len];
    assert!(len <= limits.bytes_max && head.ends_with(b"\r\n\r\n"));
    assert_eq!(
        head.iter().filter(|byte| **byte == b'\n').count(),
        head.windows(2).filter(|pair| pair == b"\r\n").count()
    );
    assert!(head.iter().all(|byte| *byte >= 0x20 && *byte != 0x7F || matches!(byte, b'\r' | b'\n' | b'\t')));
    Some(len)
}

fn scan_in_pieces(input: &[u8], step: usize, limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
    let mut scanner = HeadScanner::default();
    for len in (0..input.len()).step_by(step).chain([input.len()]) {
        if let Some(len) = scanner.advance(&input[..len], limits)? {
            return Ok(Some(len));
        }
    }
    Ok(None)
}

fn check_request(head: &RequestHead<'_>) {
    assert!(head.path.starts_with('/') || head.path == "*");
    assert!(head.framing != BodyFraming::UntilClose);
    assert!(head.headers.all("host").count() <= 1);
    assert!(query_pairs(head.query).count() <= head.query.len());
    head.keep_alive();
    head.headers.get_loose("x-deviceid");
}

/// No head that is let pass leaves two ways to read where its body ends.
fn check_framing(headers: Headers<'_>, framing: BodyFraming) {
    let (lengths, codings) = (headers.all("content-length").count(), headers.all("transfer-encoding").count());
    assert!(codings <= 1 && !(codings == 1 && lengths > 0));
    assert!(framing != BodyFraming::Chunked || codings == 1);
    assert!(!matches!(framing, BodyFraming::Length(_)) || lengths > 0);
}

fn check_body(framing: BodyFraming, input: &[u8], step: usize) {
    let whole = decode(framing, input, input.len().max(1));
    assert_eq!(decode(framing, input, step), whole);
    if let Ok((body, _, _)) = whole {
        assert!(body.len() <= BODY_MAX);
    }
}

fn decode(framing: BodyFraming, input: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), BodyError> {
    let mut decoder = BodyDecoder::new(framing, BODY_MAX)?;
    let (mut body, mut consumed) = (Vec::new(), 0);
    for piece in input.chunks(step) {
        let progress = decoder.advance(piece, &mut body)?;
        consumed += progress.consumed;
        if progress.done {
            break;
        }
        assert_eq!(progress.consumed, piece.len());
    }
    Ok((body, consumed, decoder.is_done()))
}
