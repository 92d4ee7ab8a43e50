//! Outages: timeouts, refusals, the breaker, deadlines, a full queue.
//!
//! No request is ever lost, and none is sent to a backend that is known to be down.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::rig::*;
use crate::base::limits::Limits;
use crate::base::rng::Rng;
use crate::io::backend::{GiveUp, Hook, HookRequest, Options, Retry};
use crate::policy::backend::{Failure, Verdict};

fn silent(mut connection: Connection) {
    connection.request();
    connection.wait_for_end();
}

#[test]
fn silence_is_a_timeout_and_ends_the_connection() {
    on_ring(async {
        let backend = Backend::start(silent);
        let rig = Rig::new(backend.options());
        rig.submit(forward(1, Retry::Never));
        rig.submit(connect(2));
        rig.until_at_once("connected", |rig| rig.stats.connections_opened.get() == 2).await;
        rig.advance(14_999);
        assert!(rig.ended.borrow().is_empty());
        rig.advance(1);
        assert_eq!(*rig.ended.borrow(), [(1, failed(Failure::Timeout)), (2, failed(Failure::Timeout))]);
        rig.until_at_once("closed", |rig| rig.stats.connections.get() == 0).await;
        assert_eq!((rig.stats.failures_timeout.get(), rig.stats.gave_up.get()), (2, 2));
    });
}

#[test]
fn a_timeout_is_retried_until_a_response_comes() {
    on_ring(async {
        let backend =
            Backend::start(|connection| if connection.index < 2 { silent(connection) } else { connection.echo() });
        let rig = Rig::new(backend.options());
        rig.submit(forward(1, LATE));
        for connections in 1..=2 {
            rig.until("connected", |rig| rig.stats.connections_opened.get() == connections).await;
            rig.advance(15_000);
        }
        rig.until_ended(1).await;
        assert_eq!(rig.ended.borrow()[0], (1, ok("message 1")));
        assert_eq!((rig.stats.failures_timeout.get(), rig.stats.retries.get()), (2, 2));
    });
}

#[test]
fn a_connect_that_hangs_is_cut_off() {
    on_ring(async {
        // Bound, listening with the shortest queue and never accepting: once that is full, SYNs are dropped.
        let backend = Backend::closed();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        drop(backend);
        let address = listener.local_addr().unwrap();
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 0) }, 0);
        let _fills_the_queue = std::net::TcpStream::connect(address).unwrap();
        let urls = vec![url_at("127.0.0.1", address.port(), "/")];
        let rig = Rig::new(Options { forward_urls: urls, ..Options::default() });
        rig.submit(forward(1, Retry::Never));
        rig.until_at_once("connecting", |rig| rig.stats.connections.get() == 1).await;
        monoio::time::sleep(std::time::Duration::from_millis(1)).await;
        rig.advance(15_000);
        rig.until_ended(1).await;
        assert_eq!(rig.ended.borrow()[0], (1, failed(Failure::Timeout)));
        rig.until_at_once("closed", |rig| rig.stats.connections.get() == 0).await;
        assert_eq!(rig.stats.connections_opened.get(), 0);
    });
}

#[test]
fn refused_then_retried_then_answered() {
    on_ring(async {
        let backend = Backend::closed();
        let rig = Rig::new(backend.options());
        rig.submit(forward(1, LATE));
        rig.until("refused", |rig| rig.stats.failures_refused.get() == 3).await;
        backend.open(Connection::echo);
        rig.until_ended(1).await;
        assert_eq!(rig.ended.borrow()[0], (1, ok("message 1")));
        assert_eq!((rig.stats.retries.get(), rig.stats.gave_up.get()), (3, 0));
    });
}

#[test]
fn requests_without_retry_fail_at_once_while_it_is_down() {
    on_ring(async {
        let backend = Backend::closed();
        let rig = Rig::new(backend.options());
        for tag in 0..5 {
            assert_eq!(rig.run(connect(tag)).await, failed(Failure::Refused));
        }
        assert_eq!((rig.stats.open_breakers.get(), rig.stats.breaker_opened.get()), (1, 1));
        let down_at = rig.now();
        assert_eq!(rig.run(connect(5)).await, End::GaveUp(GiveUp::Down));
        assert_eq!((rig.now(), rig.stats.requests.get()), (down_at, 5), "no request went out");
        assert_eq!(
            rig.run(forward(6, Retry::Never)).await,
            failed(Failure::Refused),
            "messages find out for themselves"
        );
        rig.advance(1000);
        backend.open(Connection::echo);
        assert_eq!(rig.run(connect(7)).await, ok(""), "the probe");
        assert_eq!(rig.stats.open_breakers.get(), 0);
    });
}

/// Answers messages of type 13 with this status, or with the end of the connection; all others well.
fn poisoned(status: Option<u16>) -> Backend {
    Backend::start(move |mut connection| {
        while let Some(request) = connection.request() {
            let is_poison = request.head.starts_with("POST /m/13/");
            match status {
                Some(status) if is_poison => connection.respond(status, b""),
                None if is_poison => return,
                _ => connection.respond(200, b""),
            };
        }
    })
}

fn poison(tag: u64) -> HookRequest {
    HookRequest { hook: Hook::Forward { message_type: 13 }, ..forward(tag, LATE) }
}

#[test]
fn a_message_answered_500_is_refused_after_its_attempts_and_opens_no_breaker() {
    on_ring(async {
        let backend = poisoned(Some(500));
        let rig = Rig::new(Options { forward_attempts_max: 7, ..backend.options() });
        (0..20).for_each(|tag| rig.submit(poison(tag)));
        for tag in 100..160 {
            assert_eq!(rig.run(connect(tag)).await, ok(""), "newcomers come in");
            assert_eq!(rig.run(forward(1000 + tag, Retry::Never)).await, ok(""), "and what others send arrives");
        }
        rig.until_ended(20 + 2 * 60).await;
        let refused = End::Answered { verdict: Verdict::Final, status: 500, body: Vec::new() };
        assert_eq!(rig.ended.borrow().iter().filter(|(_, end)| *end == refused).count(), 20);
        assert_eq!((rig.stats.poison.get(), rig.stats.retries.get()), (20, 20 * 6));
        assert_eq!((rig.stats.breaker_opened.get(), rig.stats.gave_up.get()), (0, 0));
    });
}

#[test]
fn dead_letters_have_room_and_time_of_their_own() {
    on_ring(async {
        let backend = poisoned(Some(500));
        let away = Backend::start(
            |mut connection| while connection.request().is_some_and(|_| connection.respond(503, b"")) {},
        );
        let limits = Limits { dead_letters_max: 6, backend_queue_max: 20, ..Limits::DEFAULT };
        let dead_letter_urls = vec![away.url("/dead/")];
        let rig = Rig::new(Options { forward_attempts_max: 2, dead_letter_urls, limits, ..backend.options() });
        (0..10).for_each(|tag| rig.submit(poison(tag)));
        rig.until_ended(10).await;
        assert_eq!((rig.stats.poison.get(), rig.stats.dead_letters_lost.get()), (10, 4), "there is room for six");
        (100..120).for_each(|tag| rig.submit(forward(tag, LATE)));
        rig.until_ended(30).await;
        assert!(!rig.pool.is_idle(), "six dead letters wait");
        rig.until("their time is over", |rig| rig.stats.dead_letters_lost.get() == 10).await;
        assert!(rig.pool.is_idle());
        assert_eq!((rig.ended.borrow().len(), rig.stats.dead_letters.get()), (30, 0), "the sink hears of none");
    });
}

#[test]
fn a_message_that_brings_the_backend_down_does_not_keep_it_down() {
    on_ring(async {
        // Each crashes its handler: no answer at all.
        let backend = poisoned(None);
        let rig = Rig::new(Options { forward_timeout_ms: 200, ..backend.options() });
        (0..6).for_each(|tag| rig.submit(poison(tag)));
        rig.until("the breaker opens", |rig| rig.stats.breaker_opened.get() >= 1).await;
        for tag in 100..110 {
            assert_eq!(rig.run(connect(tag)).await, ok(""), "connects have a breaker of their own");
            assert_eq!(rig.run(forward(1000 + tag, LATE)).await, ok(""), "a healthy message is the probe");
        }
        assert!(rig.ended.borrow().iter().all(|(tag, _)| *tag >= 100), "the others still have time");
    });
}

#[test]
fn an_outage_of_two_minutes_is_probed_gently_and_ends_at_once() {
    on_ring(async {
        const WAITING: usize = 1000;
        let backend = Backend::closed();
        let rig = Rig::new(backend.options());
        (0..WAITING as u64).for_each(|tag| rig.submit(forward(tag, LATE)));
        let began = rig.now();
        rig.until("two minutes", |rig| rig.now().since_ms(began) >= 120_000).await;
        let (requests, opened) = (rig.stats.requests.get(), rig.stats.breaker_opened.get());
        // 64 connections were tried before the first one had failed; then probes, from one a second to one in five.
        assert!(requests <= 64 + 5 + 60, "{requests} requests to a dead backend");
        assert!(opened >= 120_000 / 5000, "{opened} probes are too few to notice its return");
        assert!(rig.ended.borrow().is_empty() && rig.stats.waiting.get() >= WAITING as u64 - 1);

        let back = rig.now();
        backend.open(Connection::echo);
        rig.until_ended(WAITING).await;
        assert!(rig.now().since_ms(back) <= 5000, "one probe, and then all at once, not after their own backoffs");
        assert!(rig.ended.borrow().iter().all(|(tag, end)| *end == ok(&format!("message {tag}"))));
        assert!(backend.connection_count() <= 64 + 1);
        assert_eq!((rig.stats.open_breakers.get(), rig.stats.jobs.get()), (0, 0));
    });
}

#[test]
fn a_lone_request_probes_as_soon_as_the_breaker_lets_it() {
    on_ring(async {
        let backend = Backend::closed();
        let rig = Rig::new(backend.options());
        rig.submit(forward(1, LATE));
        let began = rig.now();
        rig.until("a minute", |rig| rig.now().since_ms(began) >= 60_000).await;
        assert!(rig.stats.requests.get() >= 10, "cooldown or backoff, not both: {}", rig.stats.requests.get());
    });
}

#[test]
fn deadlines_give_requests_back_in_the_order_of_submission() {
    on_ring(async {
        let backend = Backend::closed();
        let rig = Rig::new(backend.options());
        let deadline = rig.now() + 120_000;
        (0..200).for_each(|tag| rig.submit(forward(tag, Retry::Until(deadline))));
        rig.until("the last minute", |rig| rig.now() >= deadline - 60_000).await;
        assert!(rig.ended.borrow().is_empty());
        rig.until_ended(200).await;
        assert!(rig.now().since_ms(deadline) <= 50, "noticed in time");
        assert!(rig.ended.borrow().iter().all(|(_, end)| *end == End::GaveUp(GiveUp::Deadline)));
        assert!(rig.ended.borrow().iter().map(|(tag, _)| *tag).is_sorted());
        assert!(rig.pool.is_idle());
    });
}

#[test]
fn a_deadline_cuts_an_attempt_short_without_blaming_the_backend() {
    on_ring(async {
        let backend = Backend::start(silent);
        let rig = Rig::new(backend.options());
        let deadline = rig.now() + 100;
        (0..10).for_each(|tag| rig.submit(forward(tag, Retry::Until(deadline))));
        rig.until_at_once("connected", |rig| rig.stats.connections_opened.get() == 10).await;
        rig.advance(100);
        rig.until_ended(10).await;
        assert!(rig.ended.borrow().iter().all(|(_, end)| *end == End::GaveUp(GiveUp::Deadline)));
        assert_eq!((rig.stats.failures_timeout.get(), rig.stats.open_breakers.get()), (0, 0));
    });
}

#[test]
fn a_full_queue_gives_the_request_back() {
    on_ring(async {
        let backend = Backend::start(silent);
        let limits = Limits { backend_queue_max: 3, ..Limits::DEFAULT };
        let options = Options { connections_max: 1, limits, queue_bytes_max: 1000, ..backend.options() };
        let rig = Rig::new(options.clone());
        let mut large = forward(1, LATE);
        large.body = vec![0; 5000];
        rig.submit(large);
        let refused = rig.pool.submit(forward(2, LATE)).expect_err("no room for its bytes");
        assert_eq!((refused.tag.0, refused.body), (2, b"message 2".to_vec()));
        rig.pool.close();
        rig.until_ended(1).await;

        let rig = Rig::new(Options { queue_bytes_max: backend.options().queue_bytes_max, ..options });
        (0..3).for_each(|tag| rig.submit(forward(tag, LATE)));
        assert!(rig.pool.submit(forward(3, LATE)).is_err());
        assert_eq!((rig.stats.queue_full.get(), rig.stats.jobs.get()), (1, 3));
    });
}

#[test]
fn a_hook_without_a_url_says_so() {
    on_ring(async {
        let rig = Rig::new(Options::default());
        assert_eq!(rig.run(forward(1, LATE)).await, End::GaveUp(GiveUp::NoUrl));
        assert_eq!(rig.run(connect(2)).await, End::GaveUp(GiveUp::NoUrl));
    });
}

/// A backend that does everything wrong that it can, now and then.
fn chaotic(mut connection: Connection) {
    static SEED: AtomicUsize = AtomicUsize::new(1);
    let mut rng = Rng::new(SEED.fetch_add(1, Ordering::SeqCst) as u64);
    while let Some(request) = connection.request() {
        let body = request.body;
        let is_alive = match rng.below(20) {
            0 => return,
            1 => connection.send(b"\x16\x03\x01"),
            2 => connection.respond(500, b"oops"),
            3 => connection.respond(429, b"slowly"),
            4 => connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"),
            5 => {
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
                return;
            }
            // In one piece: HTTP/1.1 cannot tell a second response that comes later from that of the next request.
            6 => connection.send(&b"HTTP/1.1 204 X\r\n\r\n".repeat(2)),
            7 => connection.respond(404, &body),
            8 => {
                let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                connection.send(&[head.as_bytes(), &body].concat());
                return;
            }
            _ => connection.respond(200, &body),
        };
        if !is_alive {
            return;
        }
    }
}

#[test]
fn no_request_is_lost_and_none_comes_back_twice() {
    on_ring(async {
        let backends = [(); 2].map(|()| Backend::start(chaotic));
        let urls = |path| backends.iter().map(|backend| backend.url(path)).collect();
        let options = Options {
            connect_urls: urls("/connect/"),
            forward_urls: urls("/m/{message_type}/"),
            close_urls: urls("/close/"),
            connections_max: 8,
            ..Options::default()
        };
        let (rig, mut rng) = (Rig::new(options), Rng::new(5));
        const REQUESTS: u64 = 2000;
        for tag in 0..REQUESTS {
            let retry = if rng.chance(50) { LATE } else { Retry::Never };
            let mut request = forward(tag, retry);
            match rng.below(4) {
                0 => (request.hook, request.retry) = (Hook::Connect, Retry::Never),
                1 => request.hook = Hook::Close,
                _ => {}
            }
            let is_never_retried = request.retry == Retry::Never;
            rig.submit(request);
            if is_never_retried || rng.chance(20) {
                rig.until("some room", |rig| rig.stats.jobs.get() < 100).await;
            }
        }
        rig.until_ended(REQUESTS as usize).await;
        let tags: BTreeSet<u64> = rig.ended.borrow().iter().map(|(tag, _)| *tag).collect();
        assert!(tags.into_iter().eq(0..REQUESTS));
        for (tag, end) in rig.ended.borrow().iter() {
            // A response is that of its own request, however the connections went.
            if let End::Answered { status: 200, body, .. } = end {
                assert!(body.is_empty() || *body == format!("message {tag}").into_bytes(), "{tag}: {end:?}");
            }
        }
        assert!(rig.pool.is_idle() && rig.stats.waiting.get() == 0);
        assert!(
            rig.ended.borrow().iter().filter(|(_, end)| matches!(end, End::Answered { .. })).count()
                > REQUESTS as usize / 2
        );
        rig.pool.close();
        rig.until_at_once("closed", |rig| rig.stats.connections.get() == 0).await;
    });
}
