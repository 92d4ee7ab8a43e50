//! Descriptors that are used up are nobody's fault but ours: clients that are in keep their business server, it is not
//! taken for down, and others are let in again when there is room.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::http::Wire;
use crate::harness::metrics::read;
use crate::harness::ports::free_port;
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, TIMEOUT, Upgrade, eventually, sys};

/// One worker with a small table. The operator has an address of its own.
struct Small {
    backend: Backend,
    server: Server,
    operator: SocketAddr,
}

const DESCRIPTORS: u64 = 64;
const ACCEPT_ERRORS: &str = "rainbow_accept_errors_total";
const OUT_OF_DESCRIPTORS: &str = "rainbow_backend_failures_total{reason=\"out_of_descriptors\"}";

fn small(setup: impl Fn(Setup) -> Setup) -> Small {
    let (backend, admin) = (Backend::start(), free_port());
    let operator = SocketAddr::from(([127, 0, 0, 1], admin.number));
    let own = Setup::of(&backend).set("workers", "1").text("admin_listen", &operator.to_string());
    let server = setup(own).descriptors_max(DESCRIPTORS).start();
    Small { backend, server, operator }
}

impl Small {
    fn figures(&self) -> BTreeMap<String, f64> {
        read(self.operator)
    }

    fn wait_for_figure(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        eventually(name, || wanted(self.figures()[name]).then_some(()));
    }

    /// More of them than there are descriptors.
    fn flood(&self) -> Vec<Wire> {
        (0..2 * DESCRIPTORS).map(|_| Wire::connect(self.server.addr())).collect()
    }

    fn logged(&self, words: &str) -> usize {
        self.server.process.log.lines().iter().filter(|entry| entry.contains(words)).count()
    }
}

#[test]
fn clients_keep_their_backend_while_strangers_use_up_the_descriptors() {
    let small = small(|setup| setup.set("backend_idle_timeout", "0.2").set("first_byte_timeout", "60"));
    let mut clients: Vec<_> = (0..5).map(|n| Client::open(small.server.addr(), &format!("phone{n}"))).collect();
    let strangers = small.flood();
    small.wait_for_figure("rainbow_accept_pauses_total", |pauses| pauses >= 1.0);
    small.wait_for_figure("rainbow_backend_connections", |connections| connections == 0.0);
    for client in &mut clients {
        client.send(1, 7, 1, "x");
    }
    clients.iter_mut().for_each(|client| drop(client.expect(Command::Ack, 1)));
    let figures = small.figures();
    for untouched in [ACCEPT_ERRORS, "rainbow_backend_breaker_opened_total", OUT_OF_DESCRIPTORS] {
        assert_eq!(figures[untouched], 0.0, "{untouched}");
    }
    assert_eq!((small.logged("accepting pauses"), small.logged("accepting goes on")), (1, 0), "{}", small.server.log());
    drop(strangers);
    Upgrade::of("late").open(small.server.addr()).assert_open();
    small.server.process.log.wait_for("the change", TIMEOUT, |entry| entry.contains("accepting goes on"));
    assert_eq!((small.logged("accepting pauses"), small.logged("accepting goes on")), (1, 1), "{}", small.server.log());
}

#[test]
fn who_waits_to_be_accepted_is_let_in_as_soon_as_somebody_goes() {
    let small = small(|setup| setup);
    let greeting = || {
        let mut wire = Wire::connect(small.server.addr());
        wire.write(b"GET /hello/ HTTP/1.1\r\nHost: x\r\n\r\n");
        wire
    };
    let is_answered = |wire: &mut Wire, within| wire.response(Instant::now() + within).is_ok();
    let mut inside = VecDeque::new();
    let mut late = loop {
        let mut wire = greeting();
        if !is_answered(&mut wire, Duration::from_millis(300)) {
            break wire;
        }
        inside.push_back(wire);
        assert!(inside.len() < DESCRIPTORS as usize);
    };
    let begun = Instant::now();
    for _ in 0..10 {
        inside.pop_front();
        assert!(is_answered(&mut late, TIMEOUT));
        inside.push_back(std::mem::replace(&mut late, greeting()));
    }
    // Half a second each, if it were only looked from time to time.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(!is_answered(&mut late, Duration::from_millis(100)), "there is no more room than before");
}

#[test]
fn a_table_that_is_full_is_not_the_backends_failure_and_accepting_does_not_spin() {
    let small = small(|setup| setup.set("backend_idle_timeout", "0.2").set("breaker_failures", "1"));
    let mut client = Client::open(small.server.addr(), "phone");
    small.wait_for_figure("rainbow_backend_connections", |connections| connections == 0.0);
    let mut operator = Wire::connect(small.operator);
    let mut figures = || {
        operator.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        operator.response(Instant::now() + TIMEOUT).expect("figures").text()
    };
    let figure = |text: &str, name: &str| -> f64 {
        let sample = text.lines().find(|entry| entry.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
        sample.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    };
    figures();
    // No descriptor at all from here on: what is open stays, and nothing can be opened.
    sys::limit_descriptors(small.server.process.pid(), 3);
    client.send(1, 7, 1, "x");
    let _waiting = Wire::connect(small.server.addr());
    let text = eventually("both have failed", || {
        let text = figures();
        let failed = |name| figure(&text, name) >= 1.0;
        (failed(ACCEPT_ERRORS) && failed(OUT_OF_DESCRIPTORS)).then_some(text)
    });
    assert_eq!(figure(&text, "rainbow_backend_breaker_opened_total"), 0.0);
    let before = figure(&figures(), ACCEPT_ERRORS);
    std::thread::park_timeout(Duration::from_millis(500));
    let tried = figure(&figures(), ACCEPT_ERRORS) - before;
    assert!((1.0..=25.0).contains(&tried), "{tried} attempts in half a second");
    assert_eq!(small.logged("accepting pauses"), 1, "{}", small.server.log());
    sys::limit_descriptors(small.server.process.pid(), DESCRIPTORS);
    client.expect(Command::Ack, 1);
    assert_eq!(small.backend.messages().len(), 1);
    small.server.process.log.wait_for("the change", TIMEOUT, |entry| entry.contains("accepting goes on"));
}

#[test]
fn a_rush_that_is_handed_over_leaves_the_backend_its_descriptors() {
    let small =
        small(|setup| setup.set("workers", "2").text("store.kind", "sqlite").set("backend_idle_timeout", "0.2"));
    small.backend.on_connect(|request| {
        Reply::welcome().header("RAINBOWCLIENTSESSION", request.header("X-DEVICEID").expect("a device"))
    });
    // Each worker hands half of those that it accepts to the other one, and has room for more then. All of them want
    // their connect hook at once.
    let begun: Vec<Wire> =
        (0..4 * DESCRIPTORS).map(|n| Upgrade::of(&format!("phone{n}")).begin(small.server.addr())).collect();
    let deadline = Instant::now() + Duration::from_secs(2);
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut clients: Vec<Client> = begun.into_iter().filter_map(|wire| Client::begun(wire, left())).collect();
    assert!(clients.len() > DESCRIPTORS as usize, "{} in two tables", clients.len());
    small.wait_for_figure("rainbow_backend_connections", |connections| connections == 0.0);
    for client in &mut clients {
        client.send(1, 7, 1, "x");
    }
    clients.iter_mut().for_each(|client| drop(client.expect(Command::Ack, 1)));
    assert_eq!(small.figures()[OUT_OF_DESCRIPTORS], 0.0);
}

#[test]
fn workers_that_may_not_have_tables_of_their_own_share_one() {
    const OF_ALL: u64 = 160;
    let (backend, admin) = (Backend::start(), free_port());
    let operator = SocketAddr::from(([127, 0, 0, 1], admin.number));
    let setup = Setup::of(&backend).text("admin_listen", &operator.to_string()).set("backend_idle_timeout", "0.2");
    let setup = setup.set("connections_max", "1000").without_unshare().descriptors_max(OF_ALL);
    let small = Small { server: setup.start(), backend, operator };
    assert!(small.logged("unshare") == 1 && small.logged("connections_max = 1000") == 1, "{}", small.server.log());
    let mut clients: Vec<_> = (0..10).map(|n| Client::open(small.server.addr(), &format!("phone{n}"))).collect();
    let _strangers: Vec<Wire> = (0..2 * OF_ALL).map(|_| Wire::connect(small.server.addr())).collect();
    small.wait_for_figure("rainbow_accept_pauses_total", |pauses| pauses >= 2.0);
    small.wait_for_figure("rainbow_backend_connections", |connections| connections == 0.0);
    for client in &mut clients {
        client.send(1, 7, 1, "x");
    }
    clients.iter_mut().for_each(|client| drop(client.expect(Command::Ack, 1)));
    let figures = small.figures();
    for untouched in [ACCEPT_ERRORS, OUT_OF_DESCRIPTORS] {
        assert_eq!(figures[untouched], 0.0, "{untouched}");
    }
}

#[test]
fn more_connections_than_descriptors_are_named_at_the_start() {
    let started = |max: &str| {
        let server = Setup::new().set("workers", "1").set("connections_max", max).descriptors_max(DESCRIPTORS).start();
        server.process.log.lines().into_iter().find(|entry| entry.contains("connections_max")).unwrap_or_default()
    };
    let warning = started("1000");
    assert!(warning.contains("WARN") && warning.contains("RLIMIT_NOFILE") && warning.contains("64"), "{warning:?}");
    assert_eq!(started("10"), "");
}
