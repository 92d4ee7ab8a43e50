//! Connections: reused, counted, balanced, closed, found by name.
//!
//! Also what a reload and a shutdown do to them, and what the backend sees of a request.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Mutex;

use super::rig::*;
use crate::base::client::ClientContext;
use crate::base::limits::Limits;
use crate::io::backend::{GiveUp, Options, Retry};
use crate::policy::backend::Failure;

fn is_unconnected(rig: &Rig) -> bool {
    rig.stats.connections.get() == 0
}

#[test]
fn a_keep_alive_connection_is_used_again() {
    on_ring(async {
        let backend = Backend::start(Connection::echo);
        let rig = Rig::new(backend.options());
        for tag in 0..50 {
            assert_eq!(rig.run(forward(tag, LATE)).await, ok(&format!("message {tag}")));
        }
        assert_eq!((backend.connection_count(), rig.stats.connections_opened.get()), (1, 1));
        assert_eq!((rig.stats.requests.get(), rig.stats.answers.get(), rig.stats.retries.get()), (50, 50, 0));
        assert!(rig.pool.is_idle());
    });
}

#[test]
fn connections_are_opened_on_demand_up_to_the_limit() {
    on_ring(async {
        let backend = Backend::start(Connection::echo);
        let rig = Rig::new(Options { connections_max: 3, connect_urls: Vec::new(), ..backend.options() });
        (0..30).for_each(|tag| rig.submit(forward(tag, LATE)));
        assert_eq!((rig.stats.connections.get(), rig.stats.waiting.get()), (3, 27));
        rig.until_ended(30).await;
        assert_eq!(backend.connection_count(), 3);
    });
}

#[test]
fn slow_messages_leave_connections_to_connects() {
    on_ring(async {
        let backend = Backend::start(|mut connection| match connection.request() {
            Some(request) if request.head.starts_with("POST") => connection.wait_for_end(),
            Some(_) => drop(connection.respond(200, b"")),
            None => {}
        });
        let rig = Rig::new(Options { connections_max: 8, ..backend.options() });
        (0..30).for_each(|tag| rig.submit(forward(tag, LATE)));
        assert_eq!((rig.stats.connections.get(), rig.stats.waiting.get()), (7, 23));
        assert_eq!(rig.run(connect(99)).await, ok(""));
    });
}

#[test]
fn an_old_connection_is_replaced() {
    on_ring(async {
        let backend = Backend::start(Connection::echo);
        let limits = Limits { backend_connection_age_ms: 10_000, ..Limits::DEFAULT };
        let rig = Rig::new(Options { limits, idle_timeout_ms: 60_000, ..backend.options() });
        assert_eq!(rig.run(forward(1, LATE)).await, ok("message 1"));
        rig.advance(7_000);
        assert_eq!(rig.run(forward(2, LATE)).await, ok("message 2"));
        assert_eq!(backend.connection_count(), 1, "young enough");
        rig.advance(4_000);
        assert_eq!(rig.run(forward(3, LATE)).await, ok("message 3"), "its last one");
        assert_eq!(rig.run(forward(4, LATE)).await, ok("message 4"));
        assert_eq!(backend.connection_count(), 2);
    });
}

#[test]
fn one_connection_keeps_the_order() {
    on_ring(async {
        let backend = Backend::start(Connection::echo);
        let rig = Rig::new(Options { connections_max: 1, ..backend.options() });
        (0..100).for_each(|tag| rig.submit(forward(tag, LATE)));
        rig.until_ended(100).await;
        assert!(rig.ended.borrow().iter().map(|(tag, _)| *tag).eq(0..100));
    });
}

#[test]
fn the_end_of_an_idle_connection_is_noticed_before_it_is_picked() {
    on_ring(async {
        let (close, on_close) = signal();
        let backend = Backend::start(move |mut connection| {
            while let Some(request) = connection.request() {
                connection.respond(200, &request.body);
                if connection.index == 0 {
                    return on_close.lock().unwrap().recv().unwrap();
                }
            }
        });
        let rig = Rig::new(backend.options());
        assert_eq!(rig.run(forward(1, Retry::Never)).await, ok("message 1"));
        assert_eq!(rig.stats.connections.get(), 1);
        close.send(()).unwrap();
        rig.until_at_once("the end noticed", is_unconnected).await;
        assert_eq!(rig.run(forward(2, Retry::Never)).await, ok("message 2"));
        assert_eq!((rig.stats.stale.get(), rig.stats.failures_reset.get()), (0, 0));
    });
}

/// On its second request the first connection closes without a response.
fn closes_under_the_second_request(mut connection: Connection) {
    while let Some(request) = connection.request() {
        if connection.index == 0 && request.body.ends_with(b" 2") {
            return;
        }
        connection.respond(200, &request.body);
    }
}

#[test]
fn a_request_that_crosses_the_closing_goes_out_again_at_once() {
    on_ring(async {
        let backend = Backend::start(closes_under_the_second_request);
        let rig = Rig::new(backend.options());
        rig.run(forward(1, LATE)).await;
        rig.submit(forward(2, LATE));
        rig.until_at_once("the answer", |rig| rig.ended.borrow().len() == 2).await;
        assert_eq!(rig.ended.borrow()[1], (2, ok("message 2")));
        assert_eq!((rig.stats.stale.get(), rig.stats.failures_reset.get(), rig.stats.retries.get()), (1, 0, 0));
    });
}

#[test]
fn a_message_of_qos_0_is_never_sent_twice() {
    on_ring(async {
        let backend = Backend::start(closes_under_the_second_request);
        let rig = Rig::new(backend.options());
        rig.run(forward(1, Retry::Never)).await;
        assert_eq!(rig.run(forward(2, Retry::Never)).await, failed(Failure::Reset));
        assert_eq!(backend.connection_count(), 1);
    });
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    on_ring(async {
        let backend = Backend::start(Connection::echo);
        let rig = Rig::new(Options { idle_timeout_ms: 60_000, ..backend.options() });
        rig.run(forward(1, LATE)).await;
        rig.advance(59_999);
        assert_eq!(rig.stats.connections.get(), 1);
        rig.advance(1);
        rig.until_at_once("closed", is_unconnected).await;
        assert_eq!(rig.run(forward(2, LATE)).await, ok("message 2"));
    });
}

#[test]
fn connection_close_is_obeyed() {
    on_ring(async {
        let backend = Backend::start(|mut connection| {
            let request = connection.request().unwrap();
            connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n");
            connection.send(&request.body[8..]);
            connection.wait_for_end();
        });
        let rig = Rig::new(backend.options());
        assert_eq!(rig.run(forward(1, Retry::Never)).await, ok("1"));
        assert_eq!(rig.run(forward(2, Retry::Never)).await, ok("2"));
        assert_eq!(backend.connection_count(), 2);
    });
}

#[test]
fn an_unsolicited_response_closes_the_connection() {
    on_ring(async {
        let (respond, on_respond) = signal();
        let backend = Backend::start(move |mut connection| {
            let request = connection.request().unwrap();
            connection.respond(200, &request.body);
            if connection.index == 0 {
                on_respond.lock().unwrap().recv().unwrap();
                connection.respond(200, b"for nobody");
            }
            connection.wait_for_end();
        });
        let rig = Rig::new(backend.options());
        rig.run(forward(1, LATE)).await;
        respond.send(()).unwrap();
        rig.until_at_once("closed", is_unconnected).await;
        assert_eq!(rig.stats.unasked.get(), 1);
        assert_eq!(rig.run(forward(2, LATE)).await, ok("message 2"));
    });
}

#[test]
fn several_backends_share_the_load() {
    on_ring(async {
        let backends = [(); 2].map(|()| Backend::start(Connection::echo));
        let urls = backends.iter().map(|backend| backend.url("/")).collect();
        let rig = Rig::new(Options { forward_urls: urls, connections_max: 2, ..Options::default() });
        (0..4).for_each(|tag| rig.submit(forward(tag, LATE)));
        assert!(rig.pool.upstreams().iter().all(|upstream| upstream.outstanding == 2));
        rig.until_ended(4).await;
    });
}

#[test]
fn a_dead_backend_among_several_costs_no_message() {
    on_ring(async {
        let (dead, alive) = (Backend::closed(), Backend::start(Connection::echo));
        let rig = Rig::new(Options { forward_urls: vec![dead.url("/"), alive.url("/")], ..Options::default() });
        for tag in 0..40 {
            assert_eq!(rig.run(forward(tag, LATE)).await, ok(&format!("message {tag}")));
        }
        assert_eq!(rig.stats.open_breakers.get(), 1);
        assert!(rig.stats.failures_refused.get() < 20, "passed over once its breaker is open");
    });
}

#[test]
fn a_name_is_resolved_elsewhere_and_all_its_addresses_are_tried() {
    on_ring(async {
        let backend = Backend::start(Connection::echo);
        let port = backend.address.port();
        let urls = vec![url_at("backend.test", port, "/")];
        // Nobody listens at 127.0.0.2, which is as loopback as 127.0.0.1.
        let addresses = || ["127.0.0.2", "127.0.0.1"].map(|text| text.parse::<IpAddr>().unwrap()).to_vec();
        let resolve = move |name: &str| {
            assert_eq!(name, "backend.test");
            Ok(addresses())
        };
        let rig =
            Rig::with(Options { forward_urls: urls, connections_max: 2, ..Options::default() }, resolve, |_, _| {});
        (0..4).for_each(|tag| rig.submit(forward(tag, Retry::Never)));
        rig.until_ended(4).await;
        assert!(rig.ended.borrow().iter().all(|(tag, end)| *end == ok(&format!("message {tag}"))));
        assert_eq!(rig.stats.failures_refused.get(), 0, "an address is not the backend");
    });
}

#[test]
fn an_unknown_name_is_a_failure() {
    on_ring(async {
        let rig = Rig::new(Options { forward_urls: vec![url_at("nowhere.test", 80, "/")], ..Options::default() });
        assert_eq!(rig.run(forward(1, Retry::Never)).await, failed(Failure::NoAddress));
        assert_eq!(rig.stats.failures_no_address.get(), 1);
        assert!(is_unconnected(&rig));
    });
}

#[test]
fn a_reload_moves_to_the_new_backend_and_leaves_the_old_one() {
    on_ring(async {
        let [old, new] = [(); 2].map(|()| Backend::start(Connection::echo));
        let rig = Rig::new(old.options());
        rig.run(forward(1, LATE)).await;
        rig.pool.reconfigure(new.options());
        rig.until_at_once("the old connection closed", is_unconnected).await;
        assert_eq!(rig.run(forward(2, LATE)).await, ok("message 2"));
        assert_eq!((old.connection_count(), new.connection_count()), (1, 1));
        assert_eq!(rig.pool.upstreams().len(), 1);
        rig.pool.reconfigure(Options::default());
        assert_eq!(rig.run(forward(3, LATE)).await, End::GaveUp(GiveUp::NoUrl));
    });
}

#[test]
fn a_reload_takes_waiting_requests_along() {
    on_ring(async {
        let (old, new) = (Backend::closed(), Backend::start(Connection::echo));
        let rig = Rig::new(old.options());
        (0..20).for_each(|tag| rig.submit(forward(tag, LATE)));
        rig.until("an open breaker", |rig| rig.stats.open_breakers.get() == 1).await;
        rig.pool.reconfigure(new.options());
        rig.until_ended(20).await;
        assert_eq!(new.connection_count() as u64, rig.stats.connections_opened.get());
    });
}

#[test]
fn closing_gives_everything_back_and_hangs_up() {
    on_ring(async {
        let backend = Backend::start(|mut connection| {
            connection.request();
            connection.wait_for_end();
        });
        let rig = Rig::new(Options { connections_max: 2, connect_urls: Vec::new(), ..backend.options() });
        (0..5).for_each(|tag| rig.submit(forward(tag, LATE)));
        rig.until_at_once("connected", |_| backend.connection_count() == 2).await;
        rig.pool.close();
        rig.until_ended(5).await;
        assert!(rig.ended.borrow().iter().all(|(_, end)| *end == End::GaveUp(GiveUp::Closed)));
        rig.until_at_once("closed", is_unconnected).await;
        assert_eq!(rig.run(forward(9, LATE)).await, End::GaveUp(GiveUp::Closed));
    });
}

#[test]
fn the_backend_sees_what_the_protocol_says() {
    on_ring(async {
        let (seen, requests) = std::sync::mpsc::channel();
        let seen = Mutex::new(seen);
        let backend = Backend::start(move |mut connection| {
            while let Some(request) = connection.request() {
                connection.respond(200, b"{\"status\": \"success\"}");
                seen.lock().unwrap().send(request).unwrap();
            }
        });
        let rig = Rig::new(Options { security_token: "testtoken".into(), ..backend.options() });
        let mut request = connect(1);
        (request.query, request.client_headers) =
            (Some("X-DEVICEID=1".into()), Some(Rc::from(&b"X-DEVICEID: 1\r\n"[..])));
        rig.run(request).await;
        let mut request = forward(2, LATE);
        request.client = ClientContext::of_absent(Some(Rc::from(&b"Y29va2ll"[..])), None);
        rig.run(request).await;
        let (connect, forward) = (requests.recv().unwrap(), requests.recv().unwrap());
        assert!(connect.head.starts_with("GET /connect/?X-DEVICEID=1&timestamp=1700000000&nonce="), "{}", connect.head);
        assert!(connect.head.contains("\r\nX-DEVICEID: 1\r\n"));
        assert!(forward.head.starts_with("POST /m/7/?timestamp=1700000000&nonce="), "{}", forward.head);
        assert!(forward.head.contains("\r\nRAINBOWCLIENTCOOKIE: Y29va2ll\r\n"));
        assert!([&connect, &forward].iter().all(|request| request.head.contains(&"a".repeat(64))));
        assert_eq!(forward.body, b"message 2");
    });
}
