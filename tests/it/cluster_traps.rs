//! Traps of clusters that no other test shows (tests/traps.md has them all).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster_sessions::Nodes;
use crate::harness::backend::Gate;
use crate::harness::call::{call, call_get, send, send_later};
use crate::harness::fleet::Sitting;
use crate::harness::nodes::SessionNodes;
use crate::harness::{
    Backend, Client, Command, Reply, Server, Setup, Upgrade, eventually, eventually_within, heavy, sys,
};
use crate::redis::take;

/// Directory 5: a node that fans out to many goes on reading its links.
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
    let start = || {
        let setup = Setup::of(&backend).text("cluster_name", &name).env("RAINBOW_CLUSTER", "auto");
        setup.set("workers", "1").text("listen", "0.0.0.0").text("cluster_secret", "").start()
    };
    let nodes = [start(), start()];
    let is_linked = |node: &Server| {
        let info = call_get(node.addr(), "/info/", &[]).json();
        info["peers"][0]["is_linked"] == true && info["peers"][0]["state"] == "live"
    };
    eventually("the nodes are linked", || nodes.iter().all(is_linked).then_some(()));
    let (here, there) = (nodes[0].addr(), nodes[1].addr());
    let crowd = Sitting::open(nodes[1].port(), CROWD);
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
                assert_eq!(answer["targets"], CROWD, "{answer}");
                fanouts += 1;
            }
            fanouts
        });
        let beside = calls(50);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (beside, fanning.join().expect("it ends"))
    });
    eprintln!("over the link: {alone:?} at most alone, {beside:?} beside {fanouts} fan-outs to {CROWD}");
    assert!(fanouts >= 10, "{fanouts}");
    assert!(beside < alone + Duration::from_millis(200), "{beside:?} beside the fan-outs, {alone:?} alone");
    drop(crowd);
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
    let _alone = heavy();
    let nodes = Nodes::start(2);
    let mut clients = [nodes.open(0, "ann").0, nodes.open(1, "ben").0];
    nodes.absent(1, "away");
    let closed = nodes.backend.closes().len();
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

const CROWD: usize = 3_000;
const IN_FLIGHT: usize = 1_000;
const CLOSES: usize = 200;
const REDIS_AWAY: Duration = Duration::from_secs(20);
