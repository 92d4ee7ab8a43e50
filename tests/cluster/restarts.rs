//! Nodes that are restarted one after the other while everybody goes on.

use crate::harness::call::signed_target;
use crate::harness::client::Message;
use crate::harness::http::Wire;
use crate::harness::{Client, Command, Server, TIMEOUT, Upgrade, heavy};
use crate::hosts::{Host, Hosts, NODE, during, of_2014, pause, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What callers and clients have seen.
#[derive(Default)]
struct Record {
    /// Bodies that a client has got; noted before they are acknowledged.
    got: Mutex<BTreeSet<String>>,
    connections: Mutex<Vec<Connection>>,
    calls: Mutex<Vec<Call>>,
    /// Calls that were refused, or whose answer did not come.
    unanswered: AtomicU32,
    has_ended: AtomicBool,
}

/// From a client's 101 to its close.
#[derive(Debug)]
#[expect(dead_code, reason = "printed when a call was not delivered")]
struct Connection {
    client: usize,
    /// Of the host.
    node: u8,
    begun: Instant,
    ended: Option<Instant>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "printed when a call was not delivered")]
struct Call {
    client: usize,
    node: u8,
    body: String,
    begun: Instant,
    ended: Instant,
    answer: Value,
}

#[test]
fn a_rolling_restart_acknowledges_nothing_that_is_lost() {
    let _alone = heavy();
    let mut hosts = Hosts::start(3);
    let mut servers: Vec<Server> = hosts.hosts.iter_mut().map(|host| host.server.take().expect("it runs")).collect();
    let (record, hosts) = (Record::default(), &hosts.hosts[..]);
    std::thread::scope(|scope| {
        let end = EndsRun(&record.has_ended);
        let record = &record;
        (0..CLIENTS).for_each(|client| drop(scope.spawn(move || be_client(client, hosts, record))));
        let are_there = || (record.connections.lock().unwrap().len() == CLIENTS).then_some(());
        until(TIMEOUT, are_there, || "clients".into());
        (0..CALLERS).for_each(|caller| drop(scope.spawn(move || be_caller(caller, hosts, record))));
        during(Duration::from_secs(1), || {});
        for host in hosts {
            let mut server = servers.remove(0);
            server.terminate();
            let status = server.exited_within(TIMEOUT);
            assert!(status.success(), "{status}: {}", server.log());
            drop(server);
            servers.push(host.start_at_its_port(of_2014()));
            let are_linked = || hosts.iter().all(|host| host.live() == 2).then_some(());
            until(Duration::from_secs(5), are_linked, || format!("{:?}", host.peers()));
            during(Duration::from_secs(1), || {});
        }
        drop(end);
    });
    record.judge();
}

/// Its clients come before it has found the others.
#[test]
fn a_client_of_a_node_that_has_just_started_is_reached_from_every_node() {
    let _alone = heavy();
    let mut hosts = Hosts::start(3);
    let mut missed = Vec::new();
    for round in 0..ROUNDS {
        let mut server = hosts.hosts[2].server.take().expect("it runs");
        server.terminate();
        assert!(server.exited_within(TIMEOUT).success());
        drop(server);
        let (others, restarted) = hosts.hosts.split_at_mut(2);
        let setup = of_2014();
        let (mut client, took) = std::thread::scope(|scope| {
            let namespace = restarted[0].namespace.handle();
            let client = scope.spawn(move || {
                let begun = Instant::now();
                let client = until(TIMEOUT, || namespace.enter(|| open(round)), || "no connection".into());
                (client, begun.elapsed())
            });
            restarted[0].start(setup);
            client.join().expect("it is let in")
        });
        for (number, other) in others.iter().enumerate() {
            let (answer, _) = other.send(&format!("c{round}"));
            if answer["targets"] != 1 && answer["status"] == 0 {
                missed.push(format!("round {round}, by {number}: {answer}"));
            }
        }
        eprintln!("its first client was let in {took:?} after the process was started");
        client.close(1000, "");
        hosts.until_linked(Duration::from_secs(5));
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// Also when the test fails.
struct EndsRun<'a>(&'a AtomicBool);

impl Drop for EndsRun<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connects to one node after the other, as each closes it, and acknowledges everything.
fn be_client(number: usize, hosts: &[Host], record: &Record) {
    for host in hosts.iter().cycle().skip(number) {
        if record.has_ended() {
            return;
        }
        let Some(client) = host.namespace.enter(|| open(number)) else {
            pause(Duration::from_millis(20));
            continue;
        };
        let index = record.begin(number, host);
        read(client, record);
        record.connections.lock().unwrap()[index].ended = Some(Instant::now());
    }
}

/// Until the node closes it, or the run has ended.
fn read(mut client: Client, record: &Record) {
    while !record.has_ended() {
        match client.next_within(Duration::from_millis(100)) {
            Ok(Message::Packet(packet)) if packet.command == Command::Send => {
                record.got.lock().unwrap().insert(String::from_utf8_lossy(&packet.body).into_owned());
                client.answer(Command::Ack, packet.id, "");
            }
            Ok(Message::Close(code, _)) => {
                assert_eq!(code, 1001, "a node that stops says that it goes away");
                return client.close(code, "");
            }
            Err(crate::harness::Gone::Ended) => return,
            _ => {}
        }
    }
}

fn open(number: usize) -> Option<Client> {
    let upgrade = Upgrade::of(&format!("phone {number}")).query("channels", &format!("c{number}"));
    let mut wire = Wire::new(TcpStream::connect_timeout(&NODE, TIMEOUT).ok()?);
    wire.stream.write_all(upgrade.head("x").as_bytes()).ok()?;
    Client::begun(wire, TIMEOUT)
}

/// Sends to one client after the other, by one node after the other.
fn be_caller(caller: usize, hosts: &[Host], record: &Record) {
    for (number, host) in hosts.iter().cycle().skip(caller).enumerate() {
        if record.has_ended() {
            return;
        }
        let client = number % CLIENTS;
        let (body, begun) = (format!("{caller} {number}"), Instant::now());
        match host.namespace.enter(|| send(&format!("c{client}"), &body)) {
            Some(answer) => {
                let call = Call { client, node: host.port.number(), body, begun, ended: Instant::now(), answer };
                record.calls.lock().unwrap().push(call);
            }
            None => drop(record.unanswered.fetch_add(1, Ordering::Relaxed)),
        }
        pause(Duration::from_millis(5));
    }
}

fn send(channel: &str, body: &str) -> Option<Value> {
    let target = signed_target("/send/", &[("channel", channel), ("qos", "1"), ("timeout", "2")]);
    let mut wire = Wire::new(TcpStream::connect_timeout(&NODE, TIMEOUT).ok()?);
    let request = format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    wire.stream.write_all(request.as_bytes()).ok()?;
    let response = wire.response(Instant::now() + TIMEOUT).ok()?;
    (response.status == 200).then(|| response.json())
}

impl Record {
    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    fn begin(&self, client: usize, host: &Host) -> usize {
        let mut connections = self.connections.lock().unwrap();
        connections.push(Connection { client, node: host.port.number(), begun: Instant::now(), ended: None });
        connections.len() - 1
    }

    fn judge(self) {
        let got = self.got.into_inner().unwrap();
        let (calls, connections) = (self.calls.into_inner().unwrap(), self.connections.into_inner().unwrap());
        // The close may be on its way to its client for a while.
        let is_throughout = |connection: &Connection, call: &Call| {
            let ended = connection.ended.expect("all have ended");
            connection.client == call.client && connection.begun < call.begun && call.ended + MARGIN < ended
        };
        let (mut acknowledged, mut to_nobody, mut refused) = (0, 0, 0);
        for call in &calls {
            let (answer, body) = (&call.answer, &call.body);
            match (answer["status"].as_u64(), answer["connections"].as_u64()) {
                (Some(0), Some(0)) => {
                    let missed = connections.iter().find(|connection| is_throughout(connection, call));
                    if let Some(connection) = missed {
                        let now = Instant::now();
                        panic!("its client was there all the time: {call:?} {connection:?}; it is {now:?}");
                    }
                    to_nobody += 1;
                }
                (Some(0), _) => {
                    assert!(got.contains(body), "acknowledged and lost: {body:?} {answer}");
                    acknowledged += 1;
                }
                _ => refused += 1,
            }
        }
        let (unanswered, connections) = (self.unanswered.into_inner(), connections.len());
        eprintln!(
            "rolling restart: of {} calls {acknowledged} acknowledged, {to_nobody} while their client was nowhere, \
             {refused} answered 1, {unanswered} by no node; {connections} connections of {CLIENTS} clients",
            calls.len()
        );
        assert!(acknowledged > 500 && connections >= 2 * CLIENTS, "it was under load");
    }
}

const ROUNDS: usize = 5;
const CLIENTS: usize = 30;
const CALLERS: usize = 3;
const MARGIN: Duration = Duration::from_secs(1);
