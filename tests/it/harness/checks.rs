//! The harness itself: a test that stands on a wrong one proves nothing.

use std::time::Duration;

use super::backend::Backend;
use super::call::{signature_2014, webhook_signature};
use super::client::{self, MASK};
use super::http::{self, percent, unpercent};
use super::ports::{free_port, port};
use super::{Command, Packet, Reply, Setup, TIMEOUT};

#[test]
fn the_backend_answers_in_every_framing() {
    let backend = Backend::start();
    backend.on("/length", |r| Reply::ok(&r.body));
    backend.on("/chunked", |r| Reply::ok(&r.body).chunked());
    backend.on("/until-close", |r| Reply::ok(&r.body).until_close());
    let to = ([127, 0, 0, 1], backend.port()).into();
    for path in ["/length", "/chunked", "/until-close"] {
        for body in [&b""[..], b"a", &[0xff; 70_000]] {
            let answer = http::request(to, "POST", path, &[("X-A", "b")], body);
            assert_eq!((answer.status, &answer.body[..]), (200, body), "{path}");
        }
    }
    assert_eq!(backend.wait_under("/length", 3)[2].header("x-a"), Some("b"));
    assert_eq!(http::get(to, "/nowhere").status, 404);
}

#[test]
fn the_backend_stops_and_returns_on_its_port() {
    let mut backend = Backend::start();
    let to = ([127, 0, 0, 1], backend.port()).into();
    assert_eq!(http::get(to, "/close/").status, 200);
    backend.stop();
    assert!(std::net::TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_err());
    backend.restart();
    assert_eq!(http::get(to, "/close/").status, 200);
}

#[test]
fn packets_are_what_the_protocol_draws() {
    let packet = Packet::send(2, 0x0102, 0x0304, "b").with_dup();
    assert_eq!(packet.bytes(), [0b0001_1100, 1, 2, 3, 4, b'b']);
    assert_eq!(Packet::send(0, 0x0102, 9, "b").bytes(), [0b0001_0000, 1, 2, b'b']);
    assert_eq!(Packet::answer(Command::Rel, 0x0304, "").bytes(), [0b0100_0000, 3, 4]);
    assert_eq!(Packet::parse(&packet.bytes()), packet);
}

#[test]
fn frames_are_those_of_the_rfc() {
    // RFC 6455 5.7: a masked "Hello", and an unmasked one.
    let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(MASK, masked[2..6]);
    assert_eq!(client::frame_bytes(true, client::TEXT, b"Hello"), masked);
    let (frame, size) = client::parse_frame(b"\x81\x05Hello!").expect("a whole frame");
    assert_eq!((frame.fin, frame.opcode, &frame.payload[..], size), (true, client::TEXT, &b"Hello"[..], 7));
    assert!(client::parse_frame(b"\x81\x05Hell").is_none());
}

#[test]
fn signatures_are_known_ones() {
    // sha1sum of "1234567890" + "42" + "testtoken", already in the order of strings.
    assert_eq!(signature_2014("testtoken", "1234567890", "42"), "c83632645a73c342bc8ac91666a2bcd49f1d24da");
    // The example of the Standard Webhooks specification.
    let signature = webhook_signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "1614265330",
        br#"{"test": 2432232314}"#,
    );
    assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[test]
fn percent_encoding_is_undone() {
    let text = "a b&c=d%é/~\r\n";
    assert_eq!(unpercent(&percent(text)), text);
    assert_eq!(percent("a b&~"), "a%20b%26~");
}

#[test]
fn a_server_may_end_with_the_thread_that_starts_it() {
    let number = free_port().number;
    let starts = std::thread::spawn(move || Setup::new().ends_with_its_thread().start_on(port(number)));
    let mut server = starts.join().expect("it starts");
    assert!(!server.exited_within(TIMEOUT).success(), "it was killed");
}
