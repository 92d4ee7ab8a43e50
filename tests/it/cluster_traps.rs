//! Traps of clusters that no other test shows (tests/traps.md has them all).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster_sessions::Nodes;
use crate::harness::backend::Gate;
use crate::harness::call::{call, call_get, send, send_later};
use crate::harness::client::Message;
use crate::harness::fleet::{Crowd, Sitting};
use crate::harness::nodes::{SessionNodes, figure_of};
use crate::harness::packet::Packet;
use crate::harness::{
    Backend, Client, Command, Gone, Reply, Server, Setup, TIMEOUT, Upgrade, eventually, eventually_within, full, heavy,
    sys,
};
use crate::redis::take;

/// Directory 4: a node with half a million channels gets a link. Its messages go on, and the other node knows of all its
/// channels soon. Few channels with a debug build; tests/run.sh runs this and the next one with the other build too.
#[test]
fn half_a_million_channels_at_link_up_delay_no_message() {
    let _alone = heavy();
    sys::raise_descriptor_limit();
    let (channels, each) = if is_release() { (500_000, 1_000) } else { (2_000, 200) };
    let (backend, count) = (Backend::start(), AtomicUsize::new(0));
    backend.forgetful();
    backend.on_connect(move |_| {
        let first = count.fetch_add(1, Ordering::Relaxed) * each;
        let channels: Vec<String> = (first..first + each).map(|n| format!("c{n}")).collect();
        Reply::welcome().header("RAINBOWCLIENTCHANNEL", &channels.join(";;"))
    });
    let name = format!("it-many-{}", std::process::id());
    let start = || {
        let setup = Setup::of(&backend).text("cluster_name", &name).env("RAINBOW_CLUSTER", "auto");
        setup.set("workers", "1").start()
    };
    let here = start();
    let mut client = Client::open(here.addr(), "phone");
    let _sitting = Sitting::open(here.port(), channels / each - 1);
    let metric = |node: &Server| figure_of(node, "rainbow_channels ");
    eventually_within(Duration::from_secs(60), "all channels are there", || {
        (metric(&here) == channels as u64).then_some(())
    });
    let mut one_send = |to: &Server| {
        let begun = Instant::now();
        let answer = send(to.addr(), "c7", &[("qos", "0")], "x");
        assert_eq!(answer["targets"], 1, "{answer}");
        client.expect_send();
        begun.elapsed()
    };
    let alone = (0..200).map(|_| one_send(&here)).max().expect("some");
    let (there, mut beside) = thread::scope(|scope| {
        let started = scope.spawn(|| {
            let begun = Instant::now();
            let node = start();
            (node, begun)
        });
        let mut beside = Duration::ZERO;
        while !started.is_finished() {
            beside = beside.max(one_send(&here));
        }
        (started.join().expect("it starts"), beside)
    });
    let (there, begun) = there;
    // It serves no call before it knows.
    one_send(&there);
    let known = begun.elapsed();
    let linked = || call_get(there.addr(), "/info/", &[]).json()["peers"][0]["is_linked"] == true;
    eventually("it has met the other", || linked().then_some(()));
    (0..200).for_each(|_| beside = beside.max(one_send(&here)));
    eprintln!(
        "{channels} channels: a send took {alone:?} at most alone and {beside:?} at link-up; a send by the other node \
         reached its client {known:?} after the start of its process"
    );
    assert!(beside < alone + Duration::from_millis(200), "{beside:?}, {alone:?} alone");
    assert!(known < Duration::from_secs(3), "{known:?}");
}

/// Directory 5: a node that fans out to many goes on reading its links. `RAINBOW_TEST_FULL=1` has 100,000 members.
#[test]
fn a_node_that_fans_out_to_many_goes_on_reading_its_links() {
    let _alone = heavy();
    sys::raise_descriptor_limit();
    let backend = Backend::start();
    backend.forgetful();
    backend.on_connect(|request| {
        let is_of_fleet = request.header("X-DEVICEID").is_some_and(|device| device.starts_with("fleet-"));
        Reply::welcome().header("RAINBOWCLIENTCHANNEL", if is_of_fleet { "crowd" } else { "one" })
    });
    let name = format!("it-traps-{}", std::process::id());
    let (members, workers, pause_ms) = match (is_release(), full()) {
        (_, true) => (100_000, "7", 500), // each worker has descriptors of its own, and they share the cores
        (true, _) => (15_000, "1", 200),
        _ => (3_000, "1", 200),
    };
    let start = || {
        let setup = Setup::of(&backend).text("cluster_name", &name).env("RAINBOW_CLUSTER", "auto");
        setup.set("workers", workers).text("listen", "0.0.0.0").text("cluster_secret", "").start()
    };
    let nodes = [start(), start()];
    let is_linked = |node: &Server| {
        let info = call_get(node.addr(), "/info/", &[]).json();
        info["peers"][0]["is_linked"] == true && info["peers"][0]["state"] == "live"
    };
    eventually("the nodes are linked", || nodes.iter().all(is_linked).then_some(()));
    let (here, there) = (nodes[0].addr(), nodes[1].addr());
    let _crowd = Crowd::open(nodes[1].port(), members);
    eventually_within(Duration::from_secs(120), "the crowd is there", || {
        let info = call_get(there, "/info/", &[]).json();
        (info["connections"] == members).then_some(())
    });
    let mut client = Client::open(there, "phone");
    // The longest call to the one over the link, of so many.
    let mut calls = |count: usize| (0..count).map(|_| one_call(here, &mut client)).max().expect("there are some");
    let alone = calls(50);
    let done = std::sync::atomic::AtomicBool::new(false);
    let (beside, fanouts) = thread::scope(|scope| {
        let fanning = scope.spawn(|| {
            let mut fanouts = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let answer = send(there, "crowd", &[("qos", "0")], "x");
                assert_eq!(answer["targets"], members, "{answer}");
                fanouts += 1;
            }
            fanouts
        });
        let beside = calls(50);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (beside, fanning.join().expect("it ends"))
    });
    eprintln!("over the link: {alone:?} at most alone, {beside:?} beside {fanouts} fan-outs to {members}");
    assert!(fanouts >= 10, "{fanouts}");
    assert!(beside < alone + Duration::from_millis(pause_ms), "{beside:?} beside the fan-outs, {alone:?} alone");
}

/// Of the server.
fn is_release() -> bool {
    std::env::var_os("RAINBOW_BIN").is_some()
}

fn one_call(node: SocketAddr, client: &mut Client) -> Duration {
    let begun = Instant::now();
    let answer = send_later(node, "one", &[("qos", "1"), ("timeout", "5")], "y");
    let sent = client.expect_send();
    client.answer(Command::Ack, sent.id, "");
    let answer = answer.join().expect("it is answered");
    assert_eq!((&answer["status"], &answer["connections"]), (&json!(0), &json!(1)), "{answer}");
    begun.elapsed()
}

/// Membership 1: a node is killed and back within a second. Its connections are gone, and each close is reported once,
/// whoever does it: its next life and the others may.
#[test]
fn the_closes_of_a_node_that_is_killed_and_back_at_once_are_reported_once() {
    let mut nodes = Nodes::start(3);
    nodes.backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "all"));
    let device = |n: usize| format!("phone {n}");
    let clients: Vec<Client> = (0..CLOSES).map(|n| Client::open(nodes.nodes[2].addr(), &device(n))).collect();
    let mut expected: Vec<String> = (0..CLOSES).map(|n| nodes.backend.identity_of(&device(n))).collect();
    let killed = nodes.nodes.pop().expect("three");
    sys::kill(killed.process.pid(), "KILL");
    let begun = Instant::now();
    nodes.nodes.push(nodes.setup().start_on(killed.into_port()));
    nodes.until_linked();
    drop(clients);
    let mut client = Client::open(nodes.nodes[2].addr(), "of the next life");
    let closed = || {
        let closes = nodes.backend.seen_under("/close");
        closes.iter().filter_map(|close| close.identity().map(String::from)).collect::<Vec<_>>()
    };
    eventually_within(Duration::from_secs(60), "all are reported", || (closed().len() >= CLOSES).then_some(()));
    // The others judge by the lease, which has ended by then.
    while begun.elapsed() < BURIED {
        assert_eq!(send(nodes.nodes[0].addr(), "all", &[("qos", "0")], "x")["targets"], 1);
        client.expect_send();
    }
    let mut closed = closed();
    closed.sort();
    expected.sort();
    assert_eq!(closed, expected, "each once, and nobody else");
}

/// Session ownership 1, with Redis.
#[test]
fn of_two_clients_at_two_nodes_at_once_one_stays_and_has_all() {
    two_clients_at_once(&Nodes::start(2));
}

/// Session ownership 1, with a disk on each node.
#[test]
fn of_two_clients_at_two_nodes_with_disks_one_stays_and_has_all() {
    two_clients_at_once(&crate::cluster_disks::Nodes::start(2));
}

fn two_clients_at_once(nodes: &(impl SessionNodes + Sync)) {
    for round in 0..ROUNDS {
        let name = format!("user {round}");
        let mut expected = BTreeSet::new();
        // In half of the rounds there is one already, on either node.
        if round % 4 < 2 {
            nodes.absent(round % 2, &name);
            expected.extend(["waits".to_owned()]);
            assert_eq!(nodes.send(0, &format!("of {name}"), "waits")["stored"], 1);
        }
        let both = Barrier::new(2);
        let mut clients = thread::scope(|scope| {
            let enter = |node| {
                let (both, name) = (&both, &name);
                scope.spawn(move || Contender::enter(nodes.node(node).addr(), name, both))
            };
            [enter(0), enter(1)].map(|client| client.join().expect("it is let in"))
        });
        // Callers at both nodes at the same time, before anybody knows who stays.
        let callers = [0, 1].map(|node| {
            let (to, channel, body) = (nodes.node(node).addr(), format!("of {name}"), format!("by {node}"));
            expected.insert(body.clone());
            thread::spawn(move || send_until_stored(to, &channel, &body))
        });
        let deadline = Instant::now() + TIMEOUT;
        while clients.iter().all(|client| client.closed.is_none()) {
            assert!(Instant::now() < deadline, "{name}: both stay");
            clients.iter_mut().for_each(Contender::read);
        }
        callers.into_iter().for_each(|caller| caller.join().expect("it is stored"));
        clients.sort_by_key(|client| client.closed.is_none());
        let [gone, stays] = clients;
        assert_eq!(gone.closed, Some(4409), "{name}");
        stays.take_all(&name, &expected);
    }
}

/// A client that says nothing until it is known to stay.
struct Contender {
    client: Client,
    sends: Vec<Packet>,
    closed: Option<u16>,
}

impl Contender {
    /// It is refused while the session is on its way, and comes again.
    fn enter(to: SocketAddr, name: &str, both: &Barrier) -> Contender {
        let upgrade = Upgrade::of(name);
        both.wait();
        let client = eventually("it is let in", || upgrade.try_open(to).ok());
        Contender { client, sends: Vec::new(), closed: None }
    }

    fn read(&mut self) {
        if self.closed.is_some() {
            return;
        }
        match self.client.next_within(Duration::from_millis(5)) {
            Ok(Message::Packet(packet)) => self.sends.push(packet),
            Ok(Message::Close(code, _)) => self.closed = Some(code),
            Err(Gone::Ended) => panic!("it ended without a close"),
            _ => {}
        }
    }

    /// Acknowledges what has come and what comes, until it is all that is expected, each once.
    fn take_all(mut self, name: &str, expected: &BTreeSet<String>) {
        let (mut bodies, mut ended) = (BTreeMap::new(), BTreeSet::new());
        let mut come: VecDeque<Packet> = self.sends.drain(..).collect();
        while ended.len() < expected.len() {
            let packet = come.pop_front().unwrap_or_else(|| self.client.next_packet());
            match packet.command {
                Command::Send => {
                    self.client.answer(Command::Rec, packet.id, "");
                    bodies.insert(packet.id, packet.text());
                }
                Command::Rel => {
                    self.client.answer(Command::Com, packet.id, "");
                    ended.insert(packet.id);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        let count = bodies.len();
        assert_eq!(
            (bodies.into_values().collect::<BTreeSet<_>>(), count),
            (expected.clone(), expected.len()),
            "{name}"
        );
        self.client.assert_open();
        self.client.leave();
    }
}

/// As callers do that have to know: again with the same id, until it is promised.
fn send_until_stored(to: SocketAddr, channel: &str, body: &str) {
    let id = format!("{body} {channel}");
    let params = [("qos", "2"), ("wait", "stored"), ("message_id", id.as_str()), ("timeout", "5")];
    eventually_within(Duration::from_secs(20), "the message is stored", || {
        let answer = send(to, channel, &params, body);
        (answer["status"] == 0 && answer["stored"] == 1).then_some(())
    });
}

/// Session ownership 4: the owner is killed with 1,000 messages in flight. All come again elsewhere, with DUP and their
/// ids; what the client has answered with REC does not come twice.
#[test]
fn a_thousand_messages_in_flight_come_again_where_the_client_goes() {
    let _alone = heavy();
    let mut nodes = Nodes::start_with(2, |setup| setup.set("inflight_window", "2000"));
    nodes.backend.forgetful();
    let (mut client, _) = nodes.open(1, "ann");
    let to = nodes.nodes[0].addr();
    thread::scope(|scope| {
        for caller in 0..8 {
            scope.spawn(move || {
                for n in (caller..IN_FLIGHT).step_by(8) {
                    let params = [("channel", "of ann"), ("qos", "2"), ("wait", "stored"), ("timeout", "20")];
                    let answer = call(to, "/send/", &params, format!("{n}")).json();
                    assert_eq!((&answer["status"], &answer["stored"]), (&json!(0), &json!(1)), "{answer}");
                }
            });
        }
    });
    let first: Vec<(u16, String)> = (0..IN_FLIGHT)
        .map(|_| {
            let sent = client.expect_send();
            (sent.id, sent.text())
        })
        .collect();
    // A half of them is answered; the server has it when it says REL.
    let (answered, unanswered) = first.split_at(IN_FLIGHT / 2);
    for (id, _) in answered {
        client.answer(Command::Rec, *id, "");
    }
    let mut released = BTreeSet::new();
    while released.len() < answered.len() {
        let packet = client.next_packet();
        if packet.command == Command::Rel {
            released.insert(packet.id);
        }
    }
    let killed = nodes.nodes.pop().expect("two");
    sys::kill(killed.process.pid(), "KILL");
    drop(client);
    let (mut client, greeting) = eventually_within(Duration::from_secs(20), "the session is elsewhere", || {
        let upgrade = Upgrade::of("ann").header("Sec-WebSocket-Protocol", "rainbow.2");
        let mut client = upgrade.try_open(to).ok()?;
        let greeting = client.expect_send();
        let greeting: serde_json::Value = serde_json::from_slice(&greeting.body).expect("JSON");
        (greeting["resumed"] == true).then_some((client, greeting))
    });
    assert_eq!(greeting["resumed"], true, "{greeting}");
    let (mut repeats, mut ended) = (Vec::new(), BTreeSet::new());
    let expected: BTreeSet<(u16, String)> = unanswered.iter().cloned().collect();
    while repeats.len() < unanswered.len() || ended.len() < IN_FLIGHT {
        let packet = client.next_packet();
        match packet.command {
            Command::Send => {
                assert!(packet.dup, "it is a repeat: {}", packet.text());
                client.answer(Command::Rec, packet.id, "");
                repeats.push((packet.id, packet.text()));
            }
            Command::Rel => {
                client.answer(Command::Com, packet.id, "");
                ended.insert(packet.id);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(repeats.len(), expected.len(), "none twice");
    assert_eq!(repeats.into_iter().collect::<BTreeSet<_>>(), expected, "with their ids, and nothing of what had REC");
}

/// Session ownership 6: Redis stands still for longer than three leases.
#[test]
fn while_redis_is_away_no_node_is_dead_and_nothing_ends() {
    let nodes = Nodes::start(2);
    let mut clients = [nodes.open(0, "ann").0, nodes.open(1, "ben").0];
    nodes.absent(1, "away");
    let closed = nodes.backend.wait_under("/close", 1).len();
    let peers_are_live = || {
        nodes.nodes.iter().all(|node| {
            let peer = &call_get(node.addr(), "/info/", &[]).json()["peers"][0];
            peer["state"] == "live" && peer["is_linked"] == true
        })
    };
    sys::kill(nodes.redis.pid(), "STOP");
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < REDIS_AWAY {
        for node in &nodes.nodes {
            sent += 1;
            send(node.addr(), "all", &[("qos", "0")], format!("{sent}"));
            clients.iter_mut().for_each(|client| assert_eq!(client.expect_send().text(), format!("{sent}")));
        }
        assert!(peers_are_live(), "after {:?}", begun.elapsed());
    }
    sys::kill(nodes.redis.pid(), "CONT");
    let answer = thread::scope(|scope| {
        let answer = scope.spawn(|| nodes.send_until_taken(0, "all", "after"));
        clients.iter_mut().for_each(|client| assert_eq!(take(client, 1), ["after"]));
        answer.join().expect("it is taken")
    });
    assert_eq!(answer["targets"], 3, "{answer}");
    assert!(peers_are_live());
    assert_eq!(nodes.backend.closes().len(), closed, "nobody has gone");
    let (mut client, greeting) = nodes.open(0, "away");
    assert_eq!((&greeting["resumed"], &greeting["waiting"]), (&json!(true), &json!(1)), "{greeting}");
    assert_eq!(take(&mut client, 1), ["after"]);
    for node in &nodes.nodes {
        assert!(!node.log().contains("a node has ended"), "{}", node.log());
    }
}

/// Session ownership 8: a survivor is killed after it has claimed closes, some of which the business server has heard
/// and others not. The last survivor reports all, and a repeat has the same key.
#[test]
fn a_reaper_that_is_killed_leaves_its_closes_to_the_next_one() {
    let _alone = heavy();
    let mut nodes = Nodes::start(3);
    nodes.backend.on_connect(|_| Reply::welcome());
    let gate = Gate::new();
    nodes.backend.on_close({
        let gate = gate.clone();
        move |_| {
            gate.pass();
            Reply::ok("")
        }
    });
    let device = |n: usize| format!("phone {n}");
    let clients: Vec<Client> = (0..CLOSES).map(|n| Client::open(nodes.nodes[2].addr(), &device(n))).collect();
    sys::kill(nodes.nodes.pop().expect("three").process.pid(), "KILL");
    drop(clients);
    // Some have been called for, by both survivors, and have no answer.
    let calls = || nodes.backend.seen_under("/close").len();
    eventually_within(Duration::from_secs(40), "the survivors report", || (calls() >= CLOSES / 2).then_some(()));
    sys::kill(nodes.nodes.pop().expect("two").process.pid(), "KILL");
    gate.open();
    let expected: BTreeSet<String> = (0..CLOSES).map(|n| nodes.backend.identity_of(&device(n))).collect();
    let reported = || {
        let closes = nodes.backend.seen_under("/close");
        closes.iter().filter_map(|close| close.identity().map(String::from)).collect::<BTreeSet<_>>()
    };
    eventually_within(Duration::from_secs(60), "all are reported", || (reported() == expected).then_some(()));
    for close in nodes.backend.seen_under("/close") {
        let key = format!("{}-close", close.identity().expect("it is named"));
        assert_eq!(close.header("idempotency-key"), Some(key.as_str()), "a repeat is known by its key");
    }
}

const IN_FLIGHT: usize = 1_000;
const CLOSES: usize = 200;
/// Longer than three leases.
const BURIED: Duration = Duration::from_secs(20);
const ROUNDS: usize = 24;
const REDIS_AWAY: Duration = Duration::from_secs(20);
