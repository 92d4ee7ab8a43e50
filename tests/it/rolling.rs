//! Nodes that are drained one after the other while everybody goes on: nothing that was promised is lost or comes twice,
//! and those who lost a node do not come back all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster_sessions::Nodes;
use crate::harness::call::send_if_there;
use crate::harness::client::Message;
use crate::harness::fleet::Ends;
use crate::harness::nodes::SessionNodes;
use crate::harness::{Backend, Client, Command, Gone, Server, Setup, TIMEOUT, Upgrade, eventually_within, heavy};

/// What a close says of when to come back.
fn retry_after(reason: &str) -> Option<Duration> {
    let seconds: f64 = reason.strip_prefix("going away; retry_after=")?.parse().ok()?;
    Some(Duration::from_secs_f64(seconds))
}

fn pause(length: Duration) {
    let end = Instant::now() + length;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}

#[test]
fn clients_are_closed_at_drain_rate() {
    let backend = Backend::start();
    let mut server = Setup::of(&backend).set("drain_rate", "100").set("shutdown_timeout", "20").start();
    let mut clients: Vec<Client> = (0..200).map(|n| Client::open(server.addr(), &format!("phone {n}"))).collect();
    let begun = Instant::now();
    server.terminate();
    let closed: Vec<Duration> = thread::scope(|scope| {
        let reading = |client: &'_ mut Client| {
            let (code, reason) = client.expect_close();
            assert!(code == 1001 && reason.len() <= 123 && retry_after(&reason).is_some(), "{code} {reason}");
            begun.elapsed()
        };
        let reading: Vec<_> = clients.iter_mut().map(|client| scope.spawn(move || reading(client))).collect();
        reading.into_iter().map(|reading| reading.join().expect("it is closed")).collect()
    });
    let last = closed.iter().max().expect("two hundred");
    assert!((Duration::from_millis(1_500)..Duration::from_secs(5)).contains(last), "{last:?} for 200 at 100 a second");
    let within = |ms| closed.iter().filter(|after| after.as_millis() < ms).count();
    assert!(within(1_000) < 130, "{} in the first second", within(1_000));
    drop(clients);
    assert!(server.exited_within(Duration::from_secs(20)).success());
}

#[test]
fn a_thousand_clients_of_a_drained_node_do_not_come_back_at_one_moment() {
    let _alone = heavy();
    let backend = Backend::start();
    let start = || Setup::of(&backend).env("RAINBOW_CLUSTER", "off").start();
    let (drained, other) = (start(), start());
    let clients: Vec<Client> = (0..1_000).map(|n| Client::open(drained.addr(), &format!("phone {n}"))).collect();
    let to = other.addr();
    drained.terminate();
    let came: Vec<Instant> = thread::scope(|scope| {
        let come_back = |mut client: Client| {
            let (code, reason) = client.expect_close();
            assert_eq!(code, 1001);
            client.leave();
            pause(retry_after(&reason).unwrap_or_else(|| panic!("{reason:?} does not say when")));
            let came = Instant::now();
            (came, Client::open(to, "phone"))
        };
        let coming = clients.into_iter().map(|client| {
            let coming = thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, move || come_back(client));
            coming.expect("a thread")
        });
        let coming: Vec<_> = coming.collect();
        coming.into_iter().map(|coming| coming.join().expect("it has come back").0).collect()
    });
    let first = came.iter().min().expect("a thousand");
    let mut windows: BTreeMap<u128, usize> = BTreeMap::new();
    for at in &came {
        *windows.entry(at.duration_since(*first).as_millis() / 100).or_default() += 1;
    }
    let fullest = windows.values().max().expect("there are some");
    eprintln!("a thousand clients came back over {} windows of 100 ms, {fullest} at most in one", windows.len());
    assert!(windows.len() >= 15 && *fullest <= 200, "{windows:?}");
}

/// What callers were promised, and what sessions got.
#[derive(Default)]
struct Record {
    /// By session, in the order in which it was acknowledged.
    promised: Mutex<BTreeMap<usize, Vec<String>>>,
    got: Mutex<BTreeMap<usize, Vec<String>>>,
    calls: Mutex<Vec<Call>>,
    /// Moves of clients from a node to the next.
    connected: Mutex<Vec<Duration>>,
    callers_end: AtomicBool,
    clients_end: AtomicBool,
}

struct Call {
    took: Duration,
    is_taken: bool,
}

/// Sessions roam, callers use any node, and each node is restarted.
#[test]
fn a_rolling_restart_loses_nothing_and_doubles_nothing() {
    let _alone = heavy();
    let mut nodes = Nodes::start(3);
    nodes.backend.forgetful();
    let addresses: Vec<SocketAddr> = nodes.nodes.iter().map(Server::addr).collect();
    let record = Record::default();
    let missing = || {
        let (promised, got) = (record.promised.lock().unwrap(), record.got.lock().unwrap());
        let of = |(session, bodies): (&usize, &Vec<String>)| {
            let has = |body: &&String| !got.get(session).is_some_and(|got| got.contains(body));
            bodies.iter().filter(has).map(|body| format!("{session}: {body}")).collect::<Vec<_>>()
        };
        promised.iter().flat_map(of).collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let (record, addresses) = (&record, &addresses[..]);
        let ends = Ends([&record.callers_end, &record.clients_end]);
        for session in 0..SESSIONS {
            scope.spawn(move || be_client(session, addresses, record));
        }
        let are_there = || (record.connected.lock().unwrap().len() >= SESSIONS).then_some(());
        eventually_within(TIMEOUT, "every session has a client", are_there);
        let callers: Vec<_> =
            (0..CALLERS).map(|caller| scope.spawn(move || be_caller(caller, addresses, record))).collect();
        pause(Duration::from_secs(1));
        for node in 0..3 {
            let mut stopped = nodes.nodes.remove(node);
            stopped.terminate();
            assert!(stopped.exited_within(TIMEOUT).success(), "{}", stopped.log());
            let next = nodes.setup().start_on(stopped.into_port());
            nodes.nodes.insert(node, next);
            nodes.until_linked();
            record.until_normal();
        }
        record.callers_end.store(true, Ordering::Relaxed);
        callers.into_iter().for_each(|caller| caller.join().expect("it ends"));
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline && !missing().is_empty() {
            pause(Duration::from_millis(50));
        }
        assert_eq!(missing(), [""; 0], "promised and lost");
        drop(ends);
    });
    record.judge();
}

impl Call {
    fn is_normal(&self) -> bool {
        self.is_taken && self.took < Duration::from_secs(1)
    }
}

fn be_client(session: usize, addresses: &[SocketAddr], record: &Record) {
    let name = format!("user {session}");
    // Of QoS 2, until REL: ids belong to the session, which outlives its connections.
    let mut unreleased = BTreeSet::new();
    for to in addresses.iter().cycle().skip(session) {
        let begun = Instant::now();
        let upgrade = Upgrade::of(&name).header("Sec-WebSocket-Protocol", "rainbow.2");
        let Some(mut client) = upgrade.open_if_there(*to) else {
            if record.clients_end.load(Ordering::Relaxed) {
                return;
            }
            pause(Duration::from_millis(50));
            continue;
        };
        record.connected.lock().unwrap().push(begun.elapsed());
        match serve(session, &mut client, &mut unreleased, record) {
            Some(wait) => pause(wait),
            None => return client.leave(),
        }
    }
}

/// To the end of the connection, and how long to wait then; `None`: the test ends.
fn serve(session: usize, client: &mut Client, unreleased: &mut BTreeSet<u16>, record: &Record) -> Option<Duration> {
    loop {
        if record.clients_end.load(Ordering::Relaxed) {
            return None;
        }
        match client.next_within(Duration::from_millis(100)) {
            Ok(Message::Packet(packet)) if packet.command == Command::Send && packet.qos == 2 => {
                if unreleased.insert(packet.id) {
                    record.got.lock().unwrap().entry(session).or_default().push(packet.text());
                }
                client.answer(Command::Rec, packet.id, "");
            }
            Ok(Message::Packet(packet)) if packet.command == Command::Rel => {
                unreleased.remove(&packet.id);
                client.answer(Command::Com, packet.id, "");
            }
            Ok(Message::Close(code, reason)) => {
                assert_eq!(code, 1001, "a node that stops says that it goes away: {reason}");
                client.close(code, "");
                return Some(retry_after(&reason).expect("it says when to come back"));
            }
            Err(Gone::Ended) => return Some(Duration::from_millis(50)),
            _ => {}
        }
    }
}

/// Sends to one session after the other, and each message until a node has promised it.
fn be_caller(caller: usize, addresses: &[SocketAddr], record: &Record) {
    for number in 0.. {
        let (session, body) = (number % SESSIONS, format!("{caller}:{number}"));
        for to in addresses.iter().cycle().skip(caller + number) {
            if record.callers_end.load(Ordering::Relaxed) {
                return;
            }
            let begun = Instant::now();
            let answer = send(*to, &format!("of user {session}"), &body).unwrap_or_default();
            let call = Call { took: begun.elapsed(), is_taken: answer["status"] == 0 };
            record.calls.lock().unwrap().push(call);
            if answer["status"] == 0 {
                assert_eq!(answer["targets"], 1, "its session is somewhere at any time: {session} {answer}");
                break;
            }
            pause(Duration::from_millis(20));
        }
        record.promised.lock().unwrap().entry(session).or_default().push(body);
    }
}

fn send(to: SocketAddr, channel: &str, body: &str) -> Option<serde_json::Value> {
    send_if_there(to, &[("channel", channel), ("qos", "2"), ("timeout", "2"), ("message_id", body)], body)
}

impl Record {
    /// Within ten seconds there is one in which every call is taken at its first attempt, and soon.
    fn until_normal(&self) {
        let begun = Instant::now();
        loop {
            let before = self.calls.lock().unwrap().len();
            pause(Duration::from_secs(1));
            let calls = self.calls.lock().unwrap();
            let (count, is_normal) = (calls.len() - before, calls[before..].iter().all(Call::is_normal));
            if count >= CALLERS && is_normal {
                return eprintln!("normal {:?} after the restart: {count} calls in a second", begun.elapsed());
            }
            let slow = calls[before..].iter().filter(|call| !call.is_normal()).count();
            assert!(begun.elapsed() < TIMEOUT, "{slow} of {count} calls in a second were refused or slow");
        }
    }

    fn judge(self) {
        let (promised, got) = (self.promised.into_inner().unwrap(), self.got.into_inner().unwrap());
        let connected = self.connected.into_inner().unwrap();
        let mut count = 0;
        for (session, bodies) in &promised {
            let got = &got[session];
            let promised: BTreeSet<&String> = bodies.iter().collect();
            let once: BTreeSet<&String> = got.iter().collect();
            assert_eq!(once.len(), got.len(), "doubled: {session} {got:?}");
            let lost: Vec<_> = promised.difference(&once).collect();
            assert!(lost.is_empty(), "promised and lost: {session} {lost:?}");
            for caller in 0..CALLERS {
                let by_it = |bodies: &Vec<String>| {
                    let of_caller = bodies.iter().filter_map(|body| body.strip_prefix(&format!("{caller}:")));
                    of_caller.map(|number| number.parse().expect("a number")).collect::<Vec<u32>>()
                };
                assert!(by_it(got).is_sorted(), "out of order: {session} {got:?}");
            }
            count += bodies.len();
        }
        eprintln!("rolling restart: {count} messages of QoS 2 to {SESSIONS} sessions, {} connections", connected.len());
        assert!(
            count > 300 && connected.len() >= SESSIONS + SESSIONS / 2,
            "it was under load: {count}, {}",
            connected.len()
        );
    }
}

const SESSIONS: usize = 24;
const CALLERS: usize = 3;
