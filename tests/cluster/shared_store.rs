//! Nodes that share a Redis on another host: they find each other by it, and sessions live through its failover and
//! through the death of a node.

use crate::harness::call::send_if_there;
use crate::harness::client::Message;
use crate::harness::fleet::Ends;
use crate::harness::{Client, Command, Gone, Upgrade, heavy};
use crate::hosts::{DISCOVERY, Host, Hosts, NODE_PORT, during, pause, until, with};
use crate::network::{Family, Lan, Namespace};
use crate::redis::{Redis, Watched, sharing};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Neither broadcasts nor seeds lead from one network to the other.
#[test]
fn nodes_of_two_networks_find_each_other_by_their_redis() {
    let (one, other) = (Lan::new(1), Lan::new(2));
    let router = Namespace::new();
    let ways = [one.connect(&router, "eth0", Family::V4), other.connect(&router, "eth1", Family::V4)];
    router.run("sysctl -q -w net.ipv4.ip_forward=1");
    let _redis = Redis::start(&router, 6379);
    let mut hosts = [&one, &other].map(|lan| Host::new(lan, Family::V4));
    for (host, way) in hosts.iter_mut().zip(ways) {
        host.namespace.run(&format!("ip route add default via {}", way.v4()));
        host.start(with(&[]));
    }
    during(Duration::from_secs(3), || assert!(hosts.iter().all(|host| host.live() == 0), "nothing leads there"));
    for (host, way) in hosts.iter_mut().zip(ways) {
        host.server = None;
        host.start(sharing(&format!("redis://{}:6379", way.v4())));
    }
    let hosts = Hosts { lan: one, hosts: hosts.into() };
    let took = hosts.until_linked(DISCOVERY);
    eprintln!("found each other by Redis {took:?} after the last one's start");
    hosts.assert_one(&mut hosts.clients());
}

/// What callers were promised, and what sessions got.
#[derive(Default)]
struct Record {
    promised: Mutex<BTreeMap<usize, BTreeSet<String>>>,
    got: Mutex<BTreeMap<usize, Vec<String>>>,
    /// When a call was promised, and how long it had taken since it was first made.
    calls: Mutex<Vec<(Instant, Duration)>>,
    callers_end: AtomicBool,
    clients_end: AtomicBool,
}

#[test]
fn sessions_live_through_a_failover_of_their_redis() {
    let _alone = heavy();
    let mut hosts = Hosts::new(3, Family::V4);
    let (store, people) = (Namespace::new(), Namespace::new());
    let at = hosts.lan.connect(&store, "eth0", Family::V4).v4();
    hosts.lan.connect(&people, "eth0", Family::V4);
    let mut watched = Watched::start(&store, &at);
    hosts.hosts.iter_mut().for_each(|host| host.start(sharing(&Watched::url(&at))));
    hosts.until_linked(DISCOVERY);
    let addresses: Vec<SocketAddr> = hosts.hosts.iter().map(address).collect();
    let record = Record::default();
    std::thread::scope(|scope| {
        let (record, addresses, people) = (&record, &addresses[..], &people);
        let ends = Ends([&record.callers_end, &record.clients_end]);
        for session in 0..SESSIONS {
            scope.spawn(move || people.handle().enter(|| be_client(session, addresses, record)));
        }
        for caller in 0..CALLERS {
            scope.spawn(move || people.handle().enter(|| be_caller(caller, addresses, record)));
        }
        pause(Duration::from_secs(3));
        let failed = Instant::now();
        watched.master.kill();
        let later = |calls: &Vec<(Instant, Duration)>| calls.iter().filter(|(at, _)| *at > failed).count();
        let goes_on = || (later(&record.calls.lock().unwrap()) > 100).then_some(());
        until(Duration::from_secs(30), goes_on, || "nothing is promised after the failover".into());
        pause(Duration::from_secs(3));
        record.callers_end.store(true, Ordering::Relaxed);
        let all_got = || record.all_got().then_some(());
        until(Duration::from_secs(30), all_got, || format!("promised and lost: {:?}", record.missing()));
        let longest = record.calls.lock().unwrap().iter().map(|(_, took)| *took).max();
        eprintln!("sentinel failover: the longest call took {longest:?}, with its retries");
        drop(ends);
    });
    for (session, got) in record.got.lock().unwrap().iter() {
        let once: BTreeSet<&String> = got.iter().collect();
        assert_eq!(once.len(), got.len(), "doubled: {session}");
    }
    let count: usize = record.promised.lock().unwrap().values().map(BTreeSet::len).sum();
    eprintln!("sentinel failover: {count} messages of QoS 2 to {SESSIONS} sessions, none lost, none doubled");
    assert!(count > 300, "it was under load: {count}");
}

impl Record {
    fn missing(&self) -> Vec<String> {
        let (promised, got) = (self.promised.lock().unwrap(), self.got.lock().unwrap());
        let has = |session: &usize, body: &String| got.get(session).is_some_and(|got| got.contains(body));
        let of = |(session, bodies): (&usize, &BTreeSet<String>)| {
            bodies.iter().filter(|body| !has(session, body)).cloned().collect::<Vec<_>>()
        };
        promised.iter().flat_map(of).collect()
    }

    fn all_got(&self) -> bool {
        self.missing().is_empty()
    }
}

fn address(host: &Host) -> SocketAddr {
    format!("{}:{NODE_PORT}", host.port.v4()).parse().expect("an address")
}

/// One session, on one node after the other.
fn be_client(session: usize, addresses: &[SocketAddr], record: &Record) {
    let name = format!("user{session}");
    let upgrade = Upgrade::of(&name).query("session", &name).query("channels", &format!("of{session}"));
    // Of QoS 2, until REL: ids belong to the session, which outlives its connections.
    let mut unreleased = BTreeSet::new();
    for to in addresses.iter().cycle().skip(session) {
        if record.clients_end.load(Ordering::Relaxed) {
            return;
        }
        if let Some(mut client) = upgrade.open_if_there(*to) {
            serve(session, &mut client, &mut unreleased, record);
        }
        pause(Duration::from_millis(100));
    }
}

fn serve(session: usize, client: &mut Client, unreleased: &mut BTreeSet<u16>, record: &Record) {
    while !record.clients_end.load(Ordering::Relaxed) {
        match client.next_within(Duration::from_millis(100)) {
            Ok(Message::Packet(packet)) if packet.command == Command::Send => {
                if unreleased.insert(packet.id) {
                    record.got.lock().unwrap().entry(session).or_default().push(packet.text());
                }
                client.answer(Command::Rec, packet.id, "");
            }
            Ok(Message::Packet(packet)) if packet.command == Command::Rel => {
                unreleased.remove(&packet.id);
                client.answer(Command::Com, packet.id, "");
            }
            Ok(Message::Close(..)) | Err(Gone::Ended) => return,
            _ => {}
        }
    }
}

fn be_caller(caller: usize, addresses: &[SocketAddr], record: &Record) {
    for number in 0.. {
        let (session, body, begun) = (number % SESSIONS, format!("{caller}:{number}"), Instant::now());
        for to in addresses.iter().cycle().skip(caller + number) {
            if record.callers_end.load(Ordering::Relaxed) {
                return;
            }
            let params = [("channel", &*format!("of{session}")), ("qos", "2"), ("timeout", "2"), ("message_id", &body)];
            if send_if_there(*to, &params, &body).is_some_and(|answer| answer["status"] == 0 && answer["targets"] == 1)
            {
                break;
            }
            pause(Duration::from_millis(50));
        }
        record.promised.lock().unwrap().entry(session).or_default().insert(body);
        record.calls.lock().unwrap().push((Instant::now(), begun.elapsed()));
        pause(Duration::from_millis(5));
    }
}

const SESSIONS: usize = 20;
const CALLERS: usize = 3;
