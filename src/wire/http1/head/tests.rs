//! What heads say, and the table of smuggling shapes that must be refused.

use super::*;
use proptest::prelude::*;

/// Scans and parses as the owner of a read buffer does, and keeps what the test wants.
fn request<T>(head: &[u8], keep: impl FnOnce(RequestHead<'_>) -> T) -> Result<T, HeadError> {
    let len = HeadScanner::default().advance(head, &HeadLimits::REQUEST)?.expect("a whole head");
    let mut slots = REQUEST_SLOTS;
    RequestHead::parse(&head[..len], &mut slots).map(keep)
}

fn response<T>(head: &[u8], keep: impl FnOnce(ResponseHead<'_>) -> T) -> Result<T, HeadError> {
    let len = HeadScanner::default().advance(head, &HeadLimits::RESPONSE)?.expect("a whole head");
    let mut slots = RESPONSE_SLOTS;
    ResponseHead::parse(&head[..len], &mut slots).map(keep)
}

/// The framing of a request with these header lines besides Host.
fn framing(version: &str, lines: &str) -> Result<BodyFraming, HeadError> {
    request(format!("POST / {version}\r\nHost: a\r\n{lines}\r\n").as_bytes(), |head| head.framing)
}

#[test]
fn a_request_is_read_in_place() {
    let head = b"POST /send/?channel=a%20b&qos=1 HTTP/1.1\r\nHost: push.example:1984\r\n\
                 X-One:  first \r\nx-one: second\r\nX_DEVICEID: d\r\nConnection: keep-alive, Upgrade\r\n\r\n";
    request(head, |head| {
        assert_eq!((head.method, head.path, head.query), ("POST", "/send/", "channel=a%20b&qos=1"));
        assert_eq!((head.target, head.version_minor), ("/send/?channel=a%20b&qos=1", 1));
        assert_eq!(head.header("X-ONE"), Some(&b"first"[..]));
        assert_eq!(head.headers.all("x-one").collect::<Vec<_>>(), [b"first".as_slice(), b"second"]);
        assert_eq!(head.header("x-deviceid"), None);
        assert_eq!(head.headers.get_loose("x-deviceid"), Some(&b"d"[..]));
        assert_eq!(head.headers.get_text("host"), Some("push.example:1984"));
        assert!(head.headers.has_token("connection", "upgrade"));
        assert!(!head.headers.has_token("connection", "grade"));
        assert_eq!(head.headers.iter().count(), 5);
        assert_eq!(head.framing, BodyFraming::None);
    })
    .unwrap();
}

#[test]
fn one_empty_line_before_a_request_is_tolerated() {
    assert_eq!(request(b"\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n", |head| head.path.to_owned()), Ok("/a".into()));
}

#[test]
fn targets_of_every_form_are_split_or_refused() {
    let split = |method: &str, target: &str| {
        request(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), |head| {
            (head.path.to_owned(), head.query.to_owned())
        })
    };
    let both = |path: &str, query: &str| Ok((path.to_owned(), query.to_owned()));
    assert_eq!(split("GET", "/"), both("/", ""));
    assert_eq!(split("GET", "/connect?a=b?c"), both("/connect", "a=b?c"));
    assert_eq!(split("GET", "//evil.example/x"), both("//evil.example/x", ""));
    assert_eq!(split("GET", "http://a.example:80/hello/?x"), both("/hello/", "x"));
    assert_eq!(split("GET", "WS://a.example?x=/"), both("/", "x=/"));
    assert_eq!(split("GET", "http://a.example"), both("/", ""));
    assert_eq!(split("OPTIONS", "*"), both("*", ""));
    for (method, target) in [
        ("GET", "*"),
        ("CONNECT", "a.example:443"),
        ("GET", "hello/"),
        ("GET", "ftp://a/"),
        ("GET", "http:///x"),
        ("GET", "http://user@a/"),
        ("GET", "/a#b"),
        ("GET", "/\u{E4}"),
    ] {
        assert_eq!(split(method, target), Err(HeadError::Target), "{method} {target}");
    }
}

#[test]
fn malformed_requests_are_refused_with_the_reason() {
    let cases: &[(&[u8], HeadError)] = &[
        (b"GET /\r\nHost: a\r\n\r\n", HeadError::RequestLine),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::RequestLine),
        (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", HeadError::RequestLine),
        (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::RequestLine),
        (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::RequestLine),
        (b"GET / x HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::Version),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", HeadError::Version),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", HeadError::Version),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HeadError::Version),
        (b"GET / http/1.1\r\nHost: a\r\n\r\n", HeadError::RequestLine),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", HeadError::HeaderName),
        (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", HeadError::HeaderName),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", HeadError::HeaderName),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\x80: x\r\n\r\n", HeadError::HeaderName),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", HeadError::Folded),
        (b"GET / HTTP/1.1\r\n\r\n", HeadError::HostMissing),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", HeadError::HostRepeated),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHOST: b\r\n\r\n", HeadError::HostRepeated),
        (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", HeadError::HostMalformed),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", HeadError::HostMalformed),
        (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", HeadError::HostMalformed),
    ];
    for (head, error) in cases {
        assert_eq!(request(head, |_| ()), Err(*error), "{}", head.escape_ascii());
    }
    assert_eq!(request(b"GET / HTTP/1.0\r\n\r\n", |_| ()), Ok(()));
    assert_eq!(request(b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", |_| ()), Ok(()));
    assert_eq!(request(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", |_| ()), Ok(()));
}

#[test]
fn bodies_are_framed_as_declared() {
    assert_eq!(framing("HTTP/1.1", ""), Ok(BodyFraming::None));
    assert_eq!(framing("HTTP/1.1", "Content-Length: 0\r\n"), Ok(BodyFraming::Length(0)));
    assert_eq!(framing("HTTP/1.0", "content-length:\t0042 \r\n"), Ok(BodyFraming::Length(42)));
    assert_eq!(framing("HTTP/1.1", "Content-Length: 7\r\nContent-Length: 7\r\n"), Ok(BodyFraming::Length(7)));
    assert_eq!(framing("HTTP/1.1", "Content-Length: 18446744073709551615\r\n"), Ok(BodyFraming::Length(u64::MAX)));
    assert_eq!(framing("HTTP/1.1", "Transfer-Encoding: Chunked\r\n"), Ok(BodyFraming::Chunked));
}

#[test]
fn smuggling_shapes_are_refused() {
    let cases = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", HeadError::LengthWithTransferCoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", HeadError::LengthWithTransferCoding),
        ("Content-Length: 5\r\nTransfer-Encoding: identity\r\n", HeadError::LengthWithTransferCoding),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", HeadError::LengthsDiffer),
        ("Content-Length: 5, 5\r\n", HeadError::LengthMalformed),
        ("Content-Length: +5\r\n", HeadError::LengthMalformed),
        ("Content-Length: -1\r\n", HeadError::LengthMalformed),
        ("Content-Length: 0x5\r\n", HeadError::LengthMalformed),
        ("Content-Length: 5 5\r\n", HeadError::LengthMalformed),
        ("Content-Length: 5_0\r\n", HeadError::LengthMalformed),
        ("Content-Length: 1e1\r\n", HeadError::LengthMalformed),
        ("Content-Length:\r\n", HeadError::LengthMalformed),
        ("Content-Length: 5\r\nContent-Length: x\r\n", HeadError::LengthMalformed),
        ("Content-Length: 18446744073709551616\r\n", HeadError::LengthMalformed),
        ("Content-Length: \u{0663}\r\n", HeadError::LengthMalformed),
        ("Content-Length : 5\r\n", HeadError::HeaderName),
        ("Transfer-Encoding : chunked\r\n", HeadError::HeaderName),
        ("Transfer-Encoding: gzip, chunked\r\n", HeadError::TransferCoding),
        ("Transfer-Encoding: chunked, chunked\r\n", HeadError::TransferCoding),
        ("Transfer-Encoding: chunked,\r\n", HeadError::TransferCoding),
        ("Transfer-Encoding: ,chunked\r\n", HeadError::TransferCoding),
        ("Transfer-Encoding: chunked;q=1\r\n", HeadError::TransferCoding),
        ("Transfer-Encoding: xchunked\r\n", HeadError::TransferCoding),
        ("Transfer-Encoding: \"chunked\"\r\n", HeadError::TransferCoding),
        ("Transfer-Encoding:\r\n", HeadError::TransferCoding),
        ("Transfer-Encoding: identity\r\n", HeadError::TransferCoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", HeadError::TransferCoding),
        ("Transfer-Encoding: chunked\r\ntransfer-encoding: identity\r\n", HeadError::TransferCoding),
        ("Transfer-Encoding:\r\n chunked\r\n", HeadError::Folded),
        ("Transfer-Encoding: \x0Bchunked\r\n", HeadError::ControlByte { byte: 0x0B }),
        ("X: y\rTransfer-Encoding: chunked\r\n", HeadError::BareCr),
        ("X: y\nTransfer-Encoding: chunked\r\n", HeadError::BareLf),
    ];
    for (lines, error) in cases {
        assert_eq!(framing("HTTP/1.1", lines), Err(error), "{}", lines.escape_debug());
        let answer = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        assert_eq!(response(answer.as_bytes(), |_| ()), Err(error), "response: {}", lines.escape_debug());
    }
    assert_eq!(framing("HTTP/1.0", "Transfer-Encoding: chunked\r\n"), Err(HeadError::TransferCodingInHttp10));
}

#[test]
fn keep_alive_follows_version_and_connection() {
    let keep_alive = |version: &str, connection: &str| {
        request(format!("GET / {version}\r\nHost: a\r\n{connection}\r\n").as_bytes(), |head| head.keep_alive()).unwrap()
    };
    assert!(keep_alive("HTTP/1.1", ""));
    assert!(!keep_alive("HTTP/1.1", "Connection: Close\r\n"));
    assert!(!keep_alive("HTTP/1.1", "Connection: keep-alive\r\nConnection: x, close\r\n"));
    assert!(!keep_alive("HTTP/1.0", ""));
    assert!(keep_alive("HTTP/1.0", "Connection: Keep-Alive\r\n"));
}

#[test]
fn expect_continue_is_for_http_1_1() {
    let expects = |version: &str| {
        request(format!("POST / {version}\r\nHost: a\r\nExpect: 100-Continue\r\n\r\n").as_bytes(), |head| {
            head.expects_continue()
        })
        .unwrap()
    };
    assert!(expects("HTTP/1.1"));
    assert!(!expects("HTTP/1.0"));
}

#[test]
fn responses_end_where_status_and_headers_say() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", 200, BodyFraming::Length(3), true),
        ("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", 200, BodyFraming::Chunked, true),
        ("HTTP/1.1 200 OK\r\n\r\n", 200, BodyFraming::UntilClose, false),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", 200, BodyFraming::UntilClose, false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", 200, BodyFraming::Length(3), false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n", 200, BodyFraming::Length(3), true),
        ("HTTP/1.1 500 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 500, BodyFraming::Length(0), false),
        ("HTTP/1.1 100 Continue\r\n\r\n", 100, BodyFraming::None, true),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", 204, BodyFraming::None, true),
        ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 304, BodyFraming::None, true),
    ];
    for (head, status, framing, keep_alive) in cases {
        let read = response(head.as_bytes(), |head| (head.status, head.framing, head.keep_alive()));
        assert_eq!(read, Ok((status, framing, keep_alive)), "{head}");
    }
}

#[test]
fn malformed_responses_are_refused_with_the_reason() {
    let cases: &[(&[u8], HeadError)] = &[
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", HeadError::StatusLine),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", HeadError::StatusLine),
        (b"HTTP/2 200 OK\r\n\r\n", HeadError::Version),
        (b"HTTP/1.1 2000 OK\r\n\r\n", HeadError::StatusLine),
        (b"HTTP/1.1 099 OK\r\n\r\n", HeadError::StatusLine),
        (b"HTTP/1.1 600 OK\r\n\r\n", HeadError::StatusLine),
        (b"HTTP/1.1  200 OK\r\n\r\n", HeadError::StatusLine),
        (b"HTTP/1.1 OK\r\n\r\n", HeadError::StatusLine),
        (b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n", HeadError::HeaderName),
        (b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", HeadError::Folded),
    ];
    for (head, error) in cases {
        assert_eq!(response(head, |_| ()), Err(*error), "{}", head.escape_ascii());
    }
}

#[test]
fn a_parser_with_fewer_slots_than_headers_says_so() {
    let mut slots = [Slot::uninit(); 1];
    let refused = RequestHead::parse(b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n", &mut slots).err();
    assert_eq!(refused, Some(HeadError::TooManyHeaders { max: 1 }));
}

#[test]
fn names_compare_loosely_only_in_dashes_and_case() {
    assert!(same_name_loosely("X_DEVICEID", "x-deviceid"));
    assert!(same_name_loosely("X-Client_OS", "x_client-os"));
    assert!(!same_name_loosely("X-DEVICEID", "XDEVICEID"));
    assert!(!same_name_loosely("X-DEVICEIDS", "X-DEVICEID"));
}

proptest! {
    /// Whatever the scanner lets pass, the parsers answer, and scanner and parser agree on the length (asserted
    /// inside).
    #[test]
    fn measured_garbage_never_panics(
        start in "(GET|POST|HTTP/1.1) [!-~]{1,20} (HTTP/1.1|[ -~]{0,10})",
        lines in proptest::collection::vec(
            "(Host|Content-Length|Transfer-Encoding|[!-~]{1,9}):? ?[ -~\u{80}-\u{ff}]{0,12}",
            0..6,
        ),
    ) {
        let head = format!("{start}\r\n{}\r\n", lines.iter().map(|line| format!("{line}\r\n")).collect::<String>());
        if let Ok(Some(len)) = HeadScanner::default().advance(head.as_bytes(), &HeadLimits::REQUEST) {
            let measured = &head.as_bytes()[..len];
            let mut slots = REQUEST_SLOTS;
            if let Ok(head) = RequestHead::parse(measured, &mut slots) {
                prop_assert!(head.path.starts_with('/') || head.path == "*");
                prop_assert!(head.framing != BodyFraming::UntilClose);
                prop_assert!(head.headers.all("host").count() <= 1);
            }
            let mut slots = RESPONSE_SLOTS;
            if let Ok(head) = ResponseHead::parse(measured, &mut slots) {
                prop_assert!((100..600).contains(&head.status));
            }
        }
    }
}
