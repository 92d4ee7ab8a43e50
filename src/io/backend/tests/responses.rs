//! Responses: whole, in pieces, too large, not HTTP at all.
//!
//! Each goes to the request that it belongs to, and a connection that is out of step is not used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::rig::*;
use crate::io::backend::{Options, Retry};
use crate::policy::backend::{Failure, Verdict};

#[test]
fn a_chunked_response_is_read_whole() {
    on_ring(async {
        let backend = Backend::start(|mut connection| {
            while connection.request().is_some() {
                connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Enc");
                connection.send(b"oding: chunked\r\n\r\n5\r\nhe");
                connection.send(b"llo\r\n1\r\n!\r\n0");
                connection.send(b"\r\n\r\n");
            }
        });
        let rig = Rig::new(backend.options());
        for tag in 0..3 {
            assert_eq!(rig.run(forward(tag, Retry::Never)).await, ok("hello!"));
        }
        assert_eq!(backend.connection_count(), 1);
    });
}

#[test]
fn a_response_that_ends_with_its_connection_is_read_whole() {
    on_ring(async {
        let backend = Backend::start(|mut connection| {
            connection.request();
            connection.send(b"HTTP/1.0 200 OK\r\n\r\nhello");
        });
        let rig = Rig::new(backend.options());
        assert_eq!(rig.run(forward(1, Retry::Never)).await, ok("hello"));
        assert_eq!(rig.run(forward(2, Retry::Never)).await, ok("hello"));
    });
}

#[test]
fn large_bodies_pass_in_both_directions() {
    on_ring(async {
        let backend = Backend::start(Connection::echo);
        let rig = Rig::new(Options { body_bytes_max: 8 << 20, ..backend.options() });
        // More than the socket's buffers take at once, so that the rest has to be sent later.
        let mut request = forward(1, Retry::Never);
        request.body = (0..8 << 20).map(|i: u32| (i % 251) as u8).collect();
        let body = request.body.clone();
        assert_eq!(rig.run(request).await, End::Answered { verdict: Verdict::Success, status: 200, body });
        assert_eq!(rig.run(forward(2, Retry::Never)).await, ok("message 2"));
        assert_eq!(backend.connection_count(), 1, "still in step after it");
    });
}

#[test]
fn a_response_before_the_end_of_its_request_ends_the_connection() {
    on_ring(async {
        let backend = Backend::start(|mut connection| {
            if connection.index == 0 {
                connection.respond(413, b"no");
                return connection.wait_for_end();
            }
            connection.echo();
        });
        let rig = Rig::new(backend.options());
        let mut request = forward(1, Retry::Never);
        request.body = vec![0; 16 << 20];
        let end = rig.run(request).await;
        assert_eq!(end, End::Answered { verdict: Verdict::Final, status: 413, body: b"no".to_vec() });
        assert_eq!(rig.run(forward(2, Retry::Never)).await, ok("message 2"));
    });
}

#[test]
fn a_body_of_2_gb_is_refused_unread() {
    on_ring(async {
        let (sent, backend_sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&sent);
        let backend = Backend::start(move |mut connection| {
            connection.request();
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2147483648\r\n\r\n");
            while connection.send(&[b'x'; 65536]) {
                counted.fetch_add(65536, Ordering::SeqCst);
            }
            backend_sent.fetch_add(1, Ordering::SeqCst);
        });
        let rig = Rig::new(backend.options());
        assert_eq!(rig.run(forward(1, Retry::Never)).await, failed(Failure::TooLarge));
        rig.until_at_once("closed", |rig| rig.stats.connections.get() == 0).await;
        assert!(sent.load(Ordering::SeqCst) < 64 << 20, "bounded by the sockets' buffers");
        assert_eq!(rig.stats.failures_too_large.get(), 1);
    });
}

#[test]
fn a_body_that_never_ends_is_cut_off() {
    for head in ["HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"] {
        on_ring(async {
            let backend = Backend::start(move |mut connection| {
                connection.request();
                connection.send(head.as_bytes());
                let chunk = [b"8000\r\n", &[b'x'; 0x8000][..], b"\r\n"].concat();
                while connection.send(&chunk) {}
            });
            let rig = Rig::new(Options { body_bytes_max: 1 << 20, ..backend.options() });
            assert_eq!(rig.run(forward(1, Retry::Never)).await, failed(Failure::TooLarge));
        });
    }
}

#[test]
fn what_is_not_http_is_a_failure_of_the_backend() {
    for bytes in
        ["SSH-2.0-OpenSSH_9.9\r\n\r\n", "\0\0\0", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "HTTP/1.1 20 OK\r\n\r\n"]
    {
        on_ring(async {
            let backend = Backend::start(move |mut connection| {
                connection.request();
                connection.send(bytes.as_bytes());
                connection.wait_for_end();
            });
            let rig = Rig::new(backend.options());
            assert_eq!(rig.run(forward(1, Retry::Never)).await, failed(Failure::Malformed), "{bytes:?}");
            assert_eq!(rig.stats.failures_rubbish.get(), 1);
        });
    }
}

#[test]
fn a_cut_response_is_a_failure_and_is_retried() {
    on_ring(async {
        let backend = Backend::start(|mut connection| {
            if connection.index == 0 {
                connection.request();
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
                return;
            }
            connection.echo();
        });
        let rig = Rig::new(backend.options());
        assert_eq!(rig.run(forward(1, LATE)).await, ok("message 1"));
        assert_eq!((rig.stats.failures_reset.get(), rig.stats.retries.get()), (1, 1));
    });
}

#[test]
fn statuses_decide_what_is_retried() {
    on_ring(async {
        let requests = AtomicUsize::new(0);
        let backend = Backend::start(move |mut connection| {
            while let Some(request) = connection.request() {
                match requests.fetch_add(1, Ordering::SeqCst) {
                    0 => connection.respond(404, b"final"),
                    1 => connection.respond(503, b"for a connect"),
                    2 => connection.respond(500, b"once more"),
                    3 => connection.respond(429, b"slowly"),
                    _ => connection.respond(200, &request.body),
                };
            }
        });
        let rig = Rig::new(backend.options());
        let answered = |verdict, status, body: &str| End::Answered { verdict, status, body: body.into() };
        assert_eq!(rig.run(forward(1, LATE)).await, answered(Verdict::Final, 404, "final"));
        assert_eq!(rig.run(connect(2)).await, answered(Verdict::Retry, 503, "for a connect"));
        assert_eq!(rig.run(forward(3, LATE)).await, ok("message 3"));
        assert_eq!((rig.stats.requests.get(), rig.stats.retries.get()), (5, 2));
        assert_eq!((rig.stats.status_4xx.get(), rig.stats.status_5xx.get()), (2, 2));
        assert_eq!(backend.connection_count(), 1, "an error is a response like any other");
    });
}

#[test]
fn the_sink_may_submit_again() {
    on_ring(async {
        let backend = Backend::start(Connection::echo);
        let pool: std::rc::Rc<std::cell::OnceCell<crate::io::backend::Pool>> = Default::default();
        let of_sink = std::rc::Rc::clone(&pool);
        let rig = Rig::with(
            backend.options(),
            |_| Ok(Vec::new()),
            move |tag, _| {
                if tag < 100 {
                    assert!(of_sink.get().unwrap().submit(forward(tag + 1, LATE)).is_ok());
                }
            },
        );
        assert!(pool.set(rig.pool.clone()).is_ok());
        rig.submit(forward(1, LATE));
        rig.until_ended(100).await;
        assert_eq!(backend.connection_count(), 1);
    });
}
