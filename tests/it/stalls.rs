//! A worker that is stuck costs what it holds, and nothing else: every call is answered in time and says what it does
//! not know, and the process ends when it is told to.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::call::signed_target;
use crate::harness::http::{Response, Wire};
use crate::harness::stall::Stall;
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, TIMEOUT, Upgrade, eventually, eventually_within};

const CLIENTS: usize = 16;

/// Two workers with clients and callers' connections on both; worker 1 gets stuck.
struct Stuck {
    stall: Option<Stall>,
    _backend: Backend,
    server: Server,
    clients: Vec<Client>,
    /// A connection to the worker that is not stuck.
    caller: Wire,
}

impl Stuck {
    fn begin(also: impl FnOnce(Setup) -> Setup) -> Stuck {
        let backend = Backend::start();
        backend.on_connect(|request| {
            let session = request.header("X-DEVICEID").unwrap_or_default().to_owned();
            Reply::welcome().header("RAINBOWCLIENTCHANNEL", "all").header("RAINBOWCLIENTSESSION", &session)
        });
        let server = also(Setup::of(&backend).set("workers", "2").set("shutdown_timeout", "2")).start();
        let clients: Vec<_> = (0..CLIENTS).map(|n| Client::open(server.addr(), &format!("phone{n}"))).collect();
        let mut callers: Vec<Wire> = (0..CLIENTS).map(|_| Wire::connect(server.addr())).collect();
        callers.iter_mut().for_each(|caller| drop(request(caller, "GET", "/hello/", b"")));
        let stall = Stall::of(&server, 1);
        let hello = |caller: &mut Wire| try_call(caller, "GET", "/hello/", b"", Duration::from_secs(1)).is_some();
        let caller = callers.into_iter().find_map(|mut caller| hello(&mut caller).then_some(caller));
        let caller = caller.expect("one of so many is with the other worker");
        Stuck { stall: Some(stall), _backend: backend, server, clients, caller }
    }

    fn post(&mut self, path: &str, params: &[(&str, &str)], body: &str) -> (Value, Duration) {
        let begun = Instant::now();
        let response = request(&mut self.caller, "POST", &signed_target(path, params), body.as_bytes());
        (response.json(), begun.elapsed())
    }

    fn look(&mut self, path: &str) -> (Response, Duration) {
        let begun = Instant::now();
        (request(&mut self.caller, "GET", &signed_target(path, &[]), b""), begun.elapsed())
    }
}

fn request(caller: &mut Wire, method: &str, target: &str, body: &[u8]) -> Response {
    try_call(caller, method, target, body, 2 * TIMEOUT).unwrap_or_else(|| panic!("{method} {target} is not answered"))
}

/// `None` when there is no answer in time.
fn try_call(caller: &mut Wire, method: &str, target: &str, body: &[u8], timeout: Duration) -> Option<Response> {
    let length = body.len();
    caller.write(format!("{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n").as_bytes());
    caller.write(body);
    caller.response(Instant::now() + timeout).ok()
}

/// Most that a look may take: a scraper gives up after ten seconds.
const LOOK: Duration = Duration::from_secs(5);

#[test]
fn a_send_is_answered_in_time_and_says_what_it_does_not_know() {
    let mut stuck = Stuck::begin(|setup| setup);
    let answer = |mut client: Client| {
        std::thread::spawn(move || {
            let packet = client.packet_within(Duration::from_secs(1))?;
            client.answer(Command::Ack, packet.id, "");
            Some(client)
        })
    };
    let answering: Vec<_> = std::mem::take(&mut stuck.clients).into_iter().map(answer).collect();
    let (answer, took) = stuck.post("/send/", &[("channel", "all"), ("qos", "1"), ("timeout", "2")], "hello");
    let reached = answering.into_iter().filter_map(|client| client.join().expect("no panic")).count();
    println!("{answer} after {took:?}, {reached} reached");
    assert!(reached > 0 && reached < CLIENTS, "{reached} of them are with the worker that is not stuck");
    assert_eq!((&answer["status"], &answer["connections"]), (&1.into(), &(reached as u64).into()), "{answer}");
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn pages_and_metrics_do_not_wait_for_it() {
    let mut stuck = Stuck::begin(|setup| setup);
    for path in ["/info/", "/metrics", "/channel/", "/serverinfo/", "/readyz"] {
        let (response, took) = stuck.look(path);
        println!("{path}: {} after {took:?}", response.status);
        assert!(took < LOOK, "{path} takes {took:?}");
    }
}

/// Not at once: who is not ready for some seconds is not dead, and a restart costs everybody their connection.
#[test]
fn livez_names_it_when_it_has_been_stuck_for_long() {
    let mut stuck = Stuck::begin(|setup| setup);
    eventually("it is not ready", || (stuck.look("/readyz").0.status == 503).then_some(()));
    assert_eq!(stuck.look("/livez").0.status, 200, "it may go on yet");
    let dead = || Some(stuck.look("/livez").0).filter(|response| response.status == 503);
    let response = eventually_within(3 * TIMEOUT, "it is dead", dead);
    let text = response.text();
    assert!(text.contains("worker 1 is stuck"), "{text}");
    stuck.stall = None;
    eventually("it lives again", || (stuck.look("/livez").0.status == 200).then_some(()));
}

#[test]
fn a_reload_says_who_has_not_taken_it() {
    let mut stuck = Stuck::begin(|setup| setup);
    let (answer, took) = stuck.post("/updateconfig/", &[], "");
    println!("{answer} after {took:?}");
    assert_ne!(answer["status"], 0, "{answer}");
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[test]
fn the_process_ends_in_time_all_the_same() {
    let mut stuck = Stuck::begin(|setup| setup);
    let begun = Instant::now();
    stuck.server.terminate();
    let status = stuck.server.exited_within(Duration::from_secs(5));
    println!("{status} after {:?}", begun.elapsed());
    assert!(!status.success(), "not everything was done");
}

#[test]
fn a_session_of_its_is_refused_in_time() {
    let mut stuck = Stuck::begin(|setup| setup.set("store.kind", "\"sqlite\""));
    eventually("it is known to be stuck", || (stuck.look("/readyz").0.status == 503).then_some(()));
    let server = stuck.server.addr();
    // Half of all names are the stuck worker's, and half of all connections reach it: they get no answer.
    let open = |n| {
        let mut wire = Wire::connect(server);
        wire.write(Upgrade::of(&format!("newcomer{n}")).head("x").as_bytes());
        wire.response(Instant::now() + Duration::from_secs(1)).map(|response| response.status).ok()
    };
    let statuses: Vec<_> = (0..2 * CLIENTS).map(open).collect();
    println!("{statuses:?}");
    for status in [Some(101), Some(503), None] {
        assert!(statuses.contains(&status), "{status:?} is not among {statuses:?}");
    }
}

#[test]
fn nobody_is_lost_when_it_goes_on() {
    let mut stuck = Stuck::begin(|setup| setup);
    let (answer, _) = stuck.post("/send/", &[("channel", "all"), ("qos", "0")], "while it stands");
    println!("{answer}");
    stuck.stall = None;
    for client in &mut stuck.clients {
        assert_eq!(client.expect_send().body, b"while it stands");
        client.assert_open();
    }
}
