//! Every connect that the business server may have answered with success is followed by one close, however long it is
//! away; one that is given up is counted and logged.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use crate::harness::backend::Gate;
use crate::harness::backend::Request;
use crate::harness::metrics::read;
use crate::harness::{Backend, Client, Reply, Setup, TIMEOUT, Upgrade, call, eventually, sys};
use crate::sessions_api::DataDir;

const GIVEN_UP: &str = "rainbow_closes_given_up_total";

/// More than are with the pool at a time.
const MANY: usize = 200;

#[test]
fn many_ends_are_told_once_each_after_an_outage() {
    let mut backend = Backend::start();
    let server = Setup::of(&backend).set("retry_backoff_max", "0.2").set("breaker_cooldown", "0.2").start();
    let clients: Vec<_> = (0..MANY).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    backend.stop();
    clients.into_iter().for_each(Client::cut);
    eventually("the ends are noticed", || {
        (read(server.addr())["rainbow_connections"] == 0.0
            && read(server.addr())["rainbow_backend_failures_total{reason=\"refused\"}"] > 1.0)
            .then_some(())
    });
    backend.restart();
    let reported = backend.wait_under("/close", MANY);
    let mut identities: Vec<_> = reported.iter().map(|close| close.identity().expect("named").to_owned()).collect();
    identities.sort_unstable();
    identities.dedup();
    assert_eq!(identities.len(), MANY, "each end is reported");
    let keys = reported
        .iter()
        .all(|close| close.header("idempotency-key") == Some(&format!("{}-close", close.identity().expect("named"))));
    assert!(keys, "a backend that hears of an end twice can tell");
    assert_eq!(read(server.addr())[GIVEN_UP], 0.0);
}

#[test]
fn an_end_that_is_given_up_is_counted_and_logged() {
    let mut backend = Backend::start();
    let server = Setup::of(&backend).set("close_deadline", "0.5").start();
    let client = Client::open(server.addr(), "phone");
    backend.stop();
    client.cut();
    eventually("it is counted", || (read(server.addr())[GIVEN_UP] == 1.0).then_some(()));
    server.process.log.wait_for("the end that was not reported", TIMEOUT, |entry| entry.contains("close_deadline"));
}

#[test]
fn a_connect_that_succeeds_too_late_is_followed_by_its_close() {
    let backend = Backend::start();
    let gate = Gate::new();
    backend.on_connect({
        let gate = gate.clone();
        move |_| {
            gate.pass();
            Reply::welcome()
        }
    });
    let server = Setup::of(&backend).set("connect_timeout", "0.3").start();
    assert_eq!(Upgrade::of("phone").refused(server.addr()).status, 503);
    let identity = backend.identity_of("phone");
    gate.open();
    let reported = backend.wait_under("/close", 1);
    assert_eq!(reported[0].identity(), Some(identity.as_str()));
}

#[test]
fn a_connect_whose_answer_is_lost_is_followed_by_its_close() {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::reset());
    let server = Setup::of(&backend).set("connect_timeout", "0.3").start();
    assert_eq!(Upgrade::of("phone").refused(server.addr()).status, 503);
    assert_eq!(backend.wait_under("/close", 1)[0].identity(), Some(backend.identity_of("phone").as_str()));
}

#[test]
fn a_connect_that_nobody_heard_or_that_was_refused_has_no_close() {
    let mut backend = Backend::start();
    backend.on_connect(|request| match request.header("x-deviceid") {
        Some("refused") => Reply::ok(r#"{"status":"fail"}"#),
        Some("broken") => Reply::status(500, ""),
        Some("lost") => Reply::reset(),
        _ => Reply::welcome(),
    });
    let server = Setup::of(&backend).set("connect_timeout", "0.3").start();
    assert_eq!(Upgrade::of("refused").refused(server.addr()).status, 401);
    assert_eq!(Upgrade::of("broken").refused(server.addr()).status, 503);
    backend.stop();
    assert_eq!(Upgrade::of("unheard").refused(server.addr()).status, 503);
    backend.restart();
    eventually("the backend is back", || Upgrade::of("back").try_open(server.addr()).ok()).cut();
    // Whose close is the last one that could come.
    assert_eq!(Upgrade::of("lost").refused(server.addr()).status, 503);
    let mut reported: Vec<_> =
        backend.wait_under("/close", 2).iter().filter_map(|r| r.identity().map(String::from)).collect();
    let mut expected = ["back", "lost"].map(|device| backend.identity_of(device));
    reported.sort_unstable();
    expected.sort_unstable();
    assert_eq!(reported, expected);
}

#[test]
fn ends_that_the_backend_does_not_take_before_our_own_are_logged() {
    let mut backend = Backend::start();
    let mut server = Setup::of(&backend).set("shutdown_timeout", "1").start();
    let clients: Vec<_> = (0..3).map(|i| Client::open(server.addr(), &format!("phone{i}"))).collect();
    backend.stop();
    clients.into_iter().for_each(Client::cut);
    eventually("the ends are noticed", || (read(server.addr())["rainbow_connections"] == 0.0).then_some(()));
    server.terminate();
    server.exited_within(Duration::from_secs(5));
    let reported: u32 = server
        .log()
        .lines()
        .filter_map(|entry| entry.split(" closes=").nth(1)?.split(' ').next()?.parse::<u32>().ok())
        .sum();
    assert_eq!(reported, 3, "{}", server.log());
}

/// Their identities, each of which was named once.
fn identities(reported: &[Request]) -> BTreeSet<String> {
    let identities: BTreeSet<String> =
        reported.iter().map(|close| close.identity().expect("named").to_owned()).collect();
    assert_eq!(identities.len(), reported.len(), "each end is reported once");
    identities
}

#[test]
fn the_ends_of_a_server_that_was_killed_are_told_by_the_next_one() {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCOOKIE", "of a former life"));
    let dir = DataDir::new();
    let setup = || dir.setup(&backend);
    let server = setup().start();
    let device = |n: usize| format!("phone{n}");
    let mut clients: Vec<_> = (0..50).map(|n| Client::open(server.addr(), &device(n))).collect();
    let rest = clients.split_off(10);
    clients.into_iter().for_each(Client::cut);
    let reported_before: BTreeSet<String> = identities(&backend.wait_under("/close", 10));
    eventually("they are struck out", || {
        (read(server.addr())["rainbow_store_connections_total"] == 60.0).then_some(())
    });
    sys::kill(server.process.pid(), "KILL");
    let server = setup().start_on(server.into_port());
    let reported = backend.wait_under("/close", 50);
    // Whoever is told twice would be told by now.
    eventually("all are struck out", || (read(server.addr())["rainbow_store_connections_total"] == 40.0).then_some(()));
    let all = identities(&backend.wait_under("/close", reported.len()));
    let expected: BTreeSet<String> = (0..50).map(|n| backend.identity_of(&device(n))).collect();
    assert!(all == expected && reported_before.len() == 10, "{all:?}");
    for close in &reported[10..] {
        let identity = close.identity().expect("named");
        assert_eq!(close.header("idempotency-key"), Some(format!("{identity}-close").as_str()));
        assert_eq!(close.header("rainbowclientcookie"), Some("of a former life"));
        assert_eq!(close.header("rainbowclosecode"), Some("1006"));
    }
    drop(rest);
    // And nothing is left for the one after it.
    sys::kill(server.process.pid(), "KILL");
    let server = setup().start_on(server.into_port());
    Client::open(server.addr(), "the last one").cut();
    identities(&backend.wait_under("/close", 51));
}

#[test]
fn without_durable_closes_nothing_is_noted() {
    let backend = Backend::start();
    let setup = || Setup::of(&backend).text("store.kind", "sqlite");
    let server = setup().text("close_events", "best-effort").start();
    Client::open(server.addr(), "phone").cut();
    backend.wait_under("/close", 1);
    Client::open(server.addr(), "phone").cut();
    backend.wait_under("/close", 2);
    assert_eq!(read(server.addr())["rainbow_store_connections_total"], 0.0);
}

#[test]
fn a_close_says_how_the_connection_has_ended() {
    let (backend, dir) = (Backend::start(), DataDir::new());
    backend.on_connect(|request| match request.header("x-deviceid") {
        Some("ann") => Reply::welcome().header("RAINBOWCLIENTSESSION", "ann's"),
        _ => Reply::welcome(),
    });
    let server = dir.setup(&backend).start();
    let ended = |count: usize, act: &dyn Fn(Client), device: &str| {
        act(Client::open(server.addr(), device));
        let close = backend.wait_under("/close", count).pop().expect("one more");
        assert_eq!(close.identity(), Some(backend.identity_of(device).as_str()));
        let of = |name| close.header(name).map(String::from);
        (of("rainbowclosecode"), of("rainbowclosereason"), of("rainbowclientsession"))
    };
    let some = |text: &str| Some(String::from(text));
    let leave = |mut client: Client| {
        client.close(4123, "enough");
        client.expect_close();
    };
    assert_eq!(ended(1, &leave, "phone"), (some("4123"), some("enough"), None));
    assert_eq!(ended(2, &Client::cut, "cut"), (some("1006"), some(""), None));
    assert_eq!(ended(3, &Client::leave, "ann"), (some("1000"), some(""), some("ann's")));
    let kick = |mut client: Client| {
        let channel = json!({"identity": backend.identity_of("kicked"), "code": 4501, "reason": "no\r\nX-Forged: 1"});
        assert_eq!(call(server.addr(), "/kick/", &[], channel.to_string().as_bytes()).json()["status"], 0);
        assert_eq!(client.expect_close().0, 4501);
    };
    assert_eq!(ended(4, &kick, "kicked"), (some("4501"), some("no  X-Forged: 1"), None));
}

#[test]
fn the_ends_of_a_server_that_stops_in_order_are_told_by_it_alone() {
    let (backend, dir) = (Backend::start(), DataDir::new());
    let mut server = dir.setup(&backend).start();
    let clients: Vec<_> = (0..40).map(|n| Client::open(server.addr(), &format!("phone{n}"))).collect();
    server.terminate();
    clients.into_iter().for_each(|mut client| {
        client.expect_close();
    });
    assert!(server.exited_within(TIMEOUT).success());
    identities(&backend.wait_under("/close", 40));
    let server = dir.setup(&backend).start_on(server.into_port());
    Client::open(server.addr(), "the last one").cut();
    backend.wait_under("/close", 41);
    eventually("its own record alone comes and goes", || {
        (read(server.addr())["rainbow_store_connections_total"] == 2.0).then_some(())
    });
    assert_eq!(identities(&backend.seen_under("/close")).len(), 41);
}
