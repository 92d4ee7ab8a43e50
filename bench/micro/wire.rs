//! The wire: framer by payload size and split, unmask, UTF-8, packets, signatures, heads.

use divan::Bencher;
use divan::counter::BytesCount;
use rainbow::wire::packet::{MessageId, Packet, QoS};
use rainbow::wire::ws::decoder::{Decoder, Input, Limits};
use rainbow::wire::ws::frame::{ClientFrame, Opcode};
use rainbow::wire::ws::mask::unmask;
use rainbow::wire::ws::utf8::Utf8;
use rainbow::wire::{http1, sign};

const LIMITS: Limits = Limits { message_bytes_max: 1 << 20 };
const SIZES: [usize; 4] = [16, 128, 1024, 65_536];

/// `count` frames of `size` bytes each, as a client sends them.
pub fn frames(count: usize, size: usize) -> Vec<u8> {
    let payload = vec![0x5A; size];
    let mut bytes = Vec::new();
    for _ in 0..count {
        ClientFrame { fin: true, opcode: Opcode::Binary, key: [0x37, 0xFA, 0x21, 0x3D], payload: &payload }
            .write_into(&mut bytes);
    }
    bytes
}

/// Decodes `bytes` cut into chunks of `chunk`; how many messages there were. Payloads are unmasked in place: once more
/// through is the same work, as the mask is only XORed.
fn decode(decoder: &mut Decoder, bytes: &mut [u8], chunk: usize) -> usize {
    let mut messages = 0;
    for chunk in bytes.chunks_mut(chunk) {
        let mut input = Input::new(chunk);
        while decoder.next(&mut input, &LIMITS).expect("sound frames").is_some() {
            messages += 1;
        }
    }
    messages
}

/// One frame in one read: nothing is copied.
#[divan::bench(args = SIZES)]
fn framer_whole(bencher: Bencher, size: usize) {
    let (mut bytes, mut decoder) = (frames(1, size), Decoder::default());
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        assert_eq!(decode(&mut decoder, divan::black_box(&mut bytes), usize::MAX), 1);
    });
}

/// Sixteen frames in one read.
#[divan::bench(args = [16, 128, 1024])]
fn framer_sixteen_in_one_read(bencher: Bencher, size: usize) {
    let (mut bytes, mut decoder) = (frames(16, size), Decoder::default());
    bencher.counter(16usize).bench_local(|| {
        assert_eq!(decode(&mut decoder, divan::black_box(&mut bytes), usize::MAX), 16);
    });
}

/// A frame of 1,024 bytes that comes in pieces.
#[divan::bench(args = [1, 7, 100, 600])]
fn framer_split(bencher: Bencher, chunk: usize) {
    let (mut bytes, mut decoder) = (frames(1, 1024), Decoder::default());
    bencher.bench_local(|| {
        assert_eq!(decode(&mut decoder, divan::black_box(&mut bytes), chunk), 1);
    });
}

#[divan::bench(args = SIZES)]
fn mask(bencher: Bencher, size: usize) {
    let mut data = vec![0x5A; size];
    bencher.counter(BytesCount::new(size)).bench_local(|| unmask(divan::black_box(&mut data), [1, 2, 3, 4], 0));
}

#[divan::bench(args = SIZES)]
fn utf8_ascii(bencher: Bencher, size: usize) {
    let text = vec![b'a'; size];
    bencher.counter(BytesCount::new(size)).bench_local(|| Utf8::default().feed(divan::black_box(&text)).is_ok());
}

/// Three-byte characters, in pieces that cut them.
#[divan::bench(args = SIZES)]
fn utf8_chinese_in_two(bencher: Bencher, size: usize) {
    let text = "语".repeat(size / 3).into_bytes();
    bencher.counter(BytesCount::new(text.len())).bench_local(|| {
        let (first, second) = divan::black_box(&text).split_at(size / 2);
        let mut utf8 = Utf8::default();
        utf8.feed(first).expect("sound so far");
        utf8.feed(second).expect("sound");
        assert!(utf8.is_complete());
    });
}

#[divan::bench(args = SIZES)]
fn packet_encode(bencher: Bencher, size: usize) {
    let (body, mut out) = (vec![0x5A; size], Vec::new());
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        out.clear();
        send(divan::black_box(&body)).encode_into(&mut out);
        out.len()
    });
}

#[divan::bench]
fn packet_decode(bencher: Bencher) {
    let mut bytes = Vec::new();
    send(&[0x5A; 128]).encode_into(&mut bytes);
    bencher.bench_local(|| matches!(Packet::decode(divan::black_box(&bytes)), Ok(Packet::Send { .. })));
}

fn send(body: &[u8]) -> Packet<'_> {
    Packet::Send { dup: false, qos: QoS::AtLeastOnce, message_type: 7, id: MessageId::new(9), body }
}

/// What every call and every hook costs in signatures of 2014.
#[divan::bench]
fn signature_2014() -> [u8; 40] {
    sign::sign_2014(divan::black_box("security-token"), divan::black_box("1753948800"), divan::black_box("123456789"))
}

/// The head of a /send/ call.
#[divan::bench]
fn http_request_head(bencher: Bencher) {
    let head = b"POST /send/?channel=u17&msgtype=1&qos=1&timeout=10&timestamp=1753948800&nonce=17&signature=\
        af899576eab8a4366fcd8c96ab818cb83f1c3400 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 128\r\n\r\n";
    bencher.bench_local(|| {
        let mut slots = http1::REQUEST_SLOTS;
        let head = http1::head::RequestHead::parse(divan::black_box(head), &mut slots).expect("a sound head");
        assert!(head.keep_alive());
    });
}
