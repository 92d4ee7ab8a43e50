//! A node with many clients is killed under load: the others serve on, its clients are on other nodes soon, and each
//! close is reported once. `RAINBOW_TEST_FULL=1` has 5,000 clients, and 500 otherwise.

use crate::harness::{Client, Reply, Upgrade, full, heavy, sys};
use crate::hosts::{DISCOVERY, Host, Hosts, NODE_PORT, pause, until};
use crate::network::{Family, Namespace};
use crate::redis::{Redis, sharing};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Identities of each node's clients, as its business server knows them, and how often each one's close was reported.
#[derive(Default)]
struct Hooks {
    connected: Mutex<Vec<String>>,
    closed: Mutex<BTreeMap<String, usize>>,
}

#[test]
fn a_node_with_many_clients_that_is_killed_is_made_up_for() {
    let _alone = heavy();
    sys::raise_descriptor_limit();
    let clients = if full() { 5_000 } else { 500 };
    let mut hosts = Hosts::new(3, Family::V4);
    let (store, people) = (Namespace::new(), Namespace::new());
    let at = hosts.lan.connect(&store, "eth0", Family::V4).v4();
    hosts.lan.connect(&people, "eth0", Family::V4);
    let _redis = Redis::start(&store, 6379);
    let hooks: Vec<Arc<Hooks>> = hosts.hosts.iter().map(note_hooks).collect();
    hosts.hosts.iter_mut().for_each(|host| host.start(sharing(&format!("redis://{at}:6379"))));
    hosts.until_linked(DISCOVERY);
    let addresses: Vec<SocketAddr> = hosts.hosts.iter().map(address).collect();
    let lost = people.enter(|| open_all(clients, |_| addresses[2], |_| Duration::ZERO));
    let dead: Vec<String> = hooks[2].connected.lock().unwrap().clone();
    assert_eq!(dead.len(), clients);

    let ends = AtomicBool::new(false);
    let (killed, back, sends) = std::thread::scope(|scope| {
        let caller = |host| {
            let ends = &ends;
            scope.spawn(move || be_caller(host, ends))
        };
        let callers: Vec<_> = hosts.hosts[..2].iter().map(caller).collect();
        let ending = Ending(&ends);
        pause(Duration::from_secs(2));
        let killed = Instant::now();
        sys::kill(hosts.hosts[2].server().process.pid(), "KILL");
        drop(lost);
        // As our clients do: each after a random part of half a second, to any node that is there.
        let wait = |n: usize| Duration::from_millis((n * 7_919 % 500) as u64);
        let back = people.enter(|| open_all(clients, |n| addresses[n % 2], wait));
        let took = killed.elapsed();
        assert_eq!(back.len(), clients);
        pause(Duration::from_secs(2));
        drop(ending);
        let calls: Vec<_> = callers.into_iter().map(|caller| caller.join().expect("it serves")).collect();
        let sends: Vec<(Instant, Duration)> = calls.iter().flat_map(|(_, sends)| sends.iter().copied()).collect();
        (killed, (back, took, calls), sends)
    });
    let reported = || {
        let closes: usize = hooks.iter().map(|hooks| dead_closes(hooks, &dead)).sum();
        (closes >= clients).then_some(())
    };
    until(Duration::from_secs(60).saturating_sub(killed.elapsed()), reported, || "closes are missing".into());
    let reported = killed.elapsed();
    // Each once, and of nobody else: those who are back are there.
    pause(Duration::from_secs(1));
    let all: Vec<(String, usize)> =
        hooks.iter().flat_map(|hooks| hooks.closed.lock().unwrap().clone().into_iter()).collect();
    assert_eq!(all.len(), clients, "closes of clients that are there");
    assert!(all.iter().all(|(_, times)| *times == 1), "a close was reported twice");
    let longest = |is_meant: fn(&Instant, &Instant) -> bool| {
        let meant = sends.iter().filter(|(begun, _)| is_meant(begun, &killed));
        meant.map(|(_, took)| *took).max().expect("some")
    };
    let (before, after) = (longest(Instant::lt), longest(Instant::ge));
    eprintln!(
        "kill -9 of a node with {clients} clients: all were on other nodes after {:?}, all closes reported once after \
         {reported:?}; of {} sends to the others' clients the longest took {before:?} before it and {after:?} after it",
        back.1,
        sends.len()
    );
    // The machine may have others to serve: what a send takes without any fault is no pause.
    assert!(after < PAUSE + before, "{after:?}");
}

/// Also when the test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn address(host: &Host) -> SocketAddr {
    format!("{}:{NODE_PORT}", host.port.v4()).parse().expect("an address")
}

fn note_hooks(host: &Host) -> Arc<Hooks> {
    let hooks = Arc::new(Hooks::default());
    let (connected, closed) = (hooks.clone(), hooks.clone());
    host.backend().on_connect(move |request| {
        connected.connected.lock().unwrap().push(request.identity().expect("it is named").to_owned());
        Reply::welcome().header("RAINBOWCLIENTCHANNEL", &request.param("channels").unwrap_or_default())
    });
    host.backend().on_close(move |request| {
        let identity = request.identity().expect("it is named").to_owned();
        *closed.closed.lock().unwrap().entry(identity).or_default() += 1;
        Reply::ok("")
    });
    hooks
}

fn dead_closes(hooks: &Hooks, dead: &[String]) -> usize {
    let closed = hooks.closed.lock().unwrap();
    dead.iter().filter(|identity| closed.contains_key(*identity)).count()
}

/// Clients that are numbered, each at its node and after its wait.
fn open_all(
    count: usize,
    node: impl Fn(usize) -> SocketAddr + Sync,
    wait: impl Fn(usize) -> Duration + Sync,
) -> Vec<Client> {
    let begun = Instant::now();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|number| wait(*number));
    std::thread::scope(|scope| {
        let (node, wait, order) = (&node, &wait, &order);
        let open = move |first: usize| {
            let mine = order.iter().skip(first).step_by(OPENERS);
            let opened = mine.map(|&number| {
                pause(wait(number).saturating_sub(begun.elapsed()));
                Upgrade::of(&format!("phone{number}")).open(node(number))
            });
            opened.collect::<Vec<Client>>()
        };
        let openers: Vec<_> = (0..OPENERS).map(|first| scope.spawn(move || open(first))).collect();
        openers.into_iter().flat_map(|opener| opener.join().expect("every client is let in")).collect()
    })
}

/// Sends to a client of its node, one message after the other: the client, and how long each took.
fn be_caller(host: &Host, ends: &AtomicBool) -> (Client, Vec<(Instant, Duration)>) {
    let channel = format!("steady{}", host.port.number());
    let (mut client, mut sends) = (host.client(&channel), Vec::new());
    while !ends.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let (answer, _) = host.send_to(&channel, &mut [&mut client]);
        assert_eq!(answer["connections"], 1, "{answer}");
        sends.push((begun, begun.elapsed()));
    }
    (client, sends)
}

const OPENERS: usize = 16;
const PAUSE: Duration = Duration::from_millis(200);
