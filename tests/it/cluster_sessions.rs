//! Durable sessions of a cluster whose nodes share a Redis: a session is wherever its client is, and nothing that was
//! promised to it is lost, whatever becomes of nodes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::call::{call, call_get, send_later};
use crate::harness::nodes::{SessionNodes, figure_of, name_sessions_by_device};
use crate::harness::{Backend, Client, Command, Reply, Server, Setup, TIMEOUT, eventually_within, sys};
use crate::redis::{Redis, take};

/// Nodes of one cluster with one Redis. Every device is a session of that name, in the channel `all` and in one of its
/// own name.
pub struct Nodes {
    pub backend: Backend,
    pub redis: Redis,
    name: String,
    pub nodes: Vec<Server>,
}

impl Nodes {
    pub fn start(count: usize) -> Nodes {
        Nodes::start_with(count, |setup| setup)
    }

    pub fn start_with(count: usize, also: impl Fn(Setup) -> Setup) -> Nodes {
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        let (backend, redis) = (Backend::start(), Redis::start());
        name_sessions_by_device(&backend);
        let name = format!("it-sessions-{}-{}", std::process::id(), CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let mut nodes = Nodes { backend, redis, name, nodes: Vec::new() };
        nodes.nodes = (0..count).map(|_| also(nodes.setup()).start()).collect();
        nodes.until_linked();
        nodes
    }

    pub fn setup(&self) -> Setup {
        self.redis.setup(&self.backend).text("cluster_name", &self.name).env("RAINBOW_CLUSTER", "auto")
    }

    /// That the node has.
    fn sessions(&self, node: usize) -> u64 {
        figure_of(&self.nodes[node], "rainbow_sessions{")
    }
}

impl SessionNodes for Nodes {
    fn node(&self, node: usize) -> &Server {
        &self.nodes[node]
    }

    fn running(&self) -> Vec<&Server> {
        self.nodes.iter().collect()
    }
}

#[test]
fn a_session_is_resumed_on_another_node_with_all_that_waits() {
    let nodes = Nodes::start(3);
    nodes.absent(0, "ann");
    let expected: Vec<String> = (0..30).map(|n| format!("message {n}")).collect();
    for (n, body) in expected.iter().enumerate() {
        let answer = nodes.send(n % 3, "all", body);
        assert_eq!((&answer["status"], &answer["stored"]), (&json!(0), &json!(1)), "{answer}");
    }
    let (mut client, greeting) = nodes.open(1, "ann");
    assert_eq!((&greeting["resumed"], &greeting["waiting"]), (&json!(true), &json!(30)), "{greeting}");
    assert_eq!(take(&mut client, 30), expected);
    // And back, with nothing that waits.
    client.leave();
    let (_client, greeting) = nodes.open(0, "ann");
    assert_eq!((&greeting["resumed"], &greeting["waiting"]), (&json!(true), &json!(0)), "{greeting}");
}

#[test]
fn a_client_that_connects_elsewhere_takes_its_session_along() {
    let nodes = Nodes::start(2);
    let (mut first, _) = nodes.open(0, "ann");
    for round in 0..10 {
        let here = (round + 1) % 2;
        // It has not acknowledged this one: it is repeated where it goes.
        let body = format!("in flight {round}");
        let answer = send_later(nodes.nodes[round % 2].addr(), "of ann", &[("qos", "2")], &body);
        let sent = first.expect_send();
        assert_eq!(sent.text(), body);
        let (mut second, greeting) = nodes.open(here, "ann");
        assert_eq!(greeting["resumed"], true, "{greeting}");
        assert_eq!(first.expect_close().0, 4409);
        let answer = answer.join().expect("it is answered");
        assert_eq!((&answer["status"], &answer["stored"]), (&json!(0), &json!(1)), "{answer}");
        assert_eq!(take(&mut second, 1), [body]);
        // From every node it is reached at once.
        for node in 0..2 {
            let answer = send_later(nodes.nodes[node].addr(), "of ann", &[("qos", "1")], "x");
            let sent = second.expect_send();
            second.answer(Command::Ack, sent.id, "");
            let answer = answer.join().expect("it is answered");
            assert_eq!((&answer["status"], &answer["connections"]), (&json!(0), &json!(1)), "{round}: {answer}");
        }
        first = second;
    }
}

#[test]
fn every_call_finds_a_session_on_every_node() {
    calls_find_sessions(&Nodes::start(2));
}

/// Of two nodes, wherever they keep their sessions.
pub fn calls_find_sessions(nodes: &impl SessionNodes) {
    nodes.absent(0, "ann");
    let to = nodes.node(1).addr();
    assert_eq!(nodes.session(1, "ann")["channels"], json!(["all", "of ann"]));
    let sent = call(to, "/send/", &[("session", "ann"), ("qos", "1")], "by name").json();
    assert_eq!((&sent["status"], &sent["stored"]), (&json!(0), &json!(1)), "{sent}");
    let subscribed = call(to, "/sub/", &[], r#"{"session": "ann", "channel": "new"}"#).json();
    assert_eq!(subscribed["status"], 0, "{subscribed}");
    assert_eq!(nodes.send(1, "new", "to the new channel")["stored"], 1);
    assert_eq!(call(to, "/unsub/", &[], r#"{"session": "ann", "channel": "new"}"#).outcome(), 0);
    assert_eq!(nodes.send(1, "new", "nobody is there")["targets"], 0);
    assert_eq!(nodes.session(1, "ann")["waiting"], 2);
    assert_eq!(call(to, "/session/drop/", &[("session", "ann")], "").outcome(), 0);
    for node in 0..2 {
        let gone = call(nodes.node(node).addr(), "/send/", &[("session", "ann"), ("qos", "1")], "").json();
        assert!(gone["msg"].as_str().is_some_and(|why| why.contains("no such session")), "{gone}");
    }
    let (_client, greeting) = nodes.open(1, "ann");
    assert_eq!((&greeting["resumed"], &greeting["waiting"]), (&json!(false), &json!(0)));
}

#[test]
fn a_list_of_sessions_has_those_of_all_nodes() {
    let nodes = Nodes::start(2);
    let _online = [nodes.open(0, "cid"), nodes.open(1, "ann")];
    nodes.absent(1, "bob");
    for node in &nodes.nodes {
        let page = |params: &[(&str, &str)]| call_get(node.addr(), "/sessions/", params).json();
        let names = |page: &Value| -> Vec<Value> {
            page["sessions"].as_array().expect("a list").iter().map(|one| one["session"].clone()).collect()
        };
        let all = page(&[]);
        assert_eq!((&all["status"], &all["total"]), (&json!(0), &json!(3)), "{all}");
        assert_eq!(names(&all), ["ann", "bob", "cid"]);
        assert_eq!(names(&page(&[("offset", "2"), ("limit", "1")])), ["cid"]);
        assert_eq!(names(&page(&[("state", "away")])), ["bob"]);
    }
}

/// The node is killed: its sessions are the others' as soon as its lease has ended, and what was sent to them meanwhile
/// was refused or stored.
#[test]
fn the_sessions_of_a_node_that_is_killed_go_on_elsewhere() {
    let mut nodes = Nodes::start(3);
    let names: Vec<String> = (0..40).map(|n| format!("user {n}")).collect();
    names.iter().for_each(|name| nodes.absent(2, name));
    assert_eq!(nodes.send(0, "all", "before")["stored"], 40);
    let killed = nodes.nodes.pop().expect("three");
    sys::kill(killed.process.pid(), "KILL");
    // Nobody has them now: nothing is promised to them.
    let refused = nodes.send(0, "all", "lost, and said so");
    assert_eq!((&refused["status"], &refused["unreachable"]), (&json!(1), &json!(1)), "{refused}");
    // One comes back before anybody has adopted it: it is taken by force.
    let (mut early, greeting) = nodes.open(1, "user 7");
    assert_eq!((&greeting["resumed"], &greeting["waiting"]), (&json!(true), &json!(1)), "{greeting}");
    assert_eq!(take(&mut early, 1), ["before"]);
    early.leave();
    let answer = nodes.send_until_taken(0, "all", "after");
    assert_eq!((&answer["stored"], &answer["targets"]), (&json!(40), &json!(40)), "{answer}");
    let [one, other] = [0, 1].map(|node| nodes.sessions(node));
    assert!(one + other == 40 && one >= 5 && other >= 5, "each is one node's, and both have a share: {one}, {other}");
    for (n, name) in names.iter().enumerate() {
        let (mut client, greeting) = nodes.open(n % 2, name);
        assert_eq!(greeting["resumed"], true);
        let expected: &[&str] = if n == 7 { &["after"] } else { &["before", "after"] };
        assert_eq!(take(&mut client, expected.len()), expected, "{name}");
    }
}

#[test]
fn the_ends_of_a_node_that_is_killed_are_told_by_the_others() {
    let mut nodes = Nodes::start(3);
    nodes.backend.on_connect(|_| Reply::welcome());
    let device = |n: usize| format!("phone {n}");
    let clients: Vec<Client> = (0..40).map(|n| Client::open(nodes.nodes[2].addr(), &device(n))).collect();
    let staying = Client::open(nodes.nodes[0].addr(), "staying");
    let killed = nodes.nodes.pop().expect("three");
    sys::kill(killed.process.pid(), "KILL");
    drop(clients);
    let mut reported = BTreeSet::new();
    eventually_within(Duration::from_secs(40), "the others tell of each", || {
        let closes = nodes.backend.seen_under("/close");
        reported = closes.iter().filter_map(|close| close.identity().map(String::from)).collect();
        assert_eq!(reported.len(), closes.len(), "each once");
        (closes.len() >= 40).then_some(())
    });
    let expected: BTreeSet<String> = (0..40).map(|n| nodes.backend.identity_of(&device(n))).collect();
    assert_eq!(reported, expected, "and of nobody else");
    staying.cut();
    nodes.backend.wait_under("/close", 41);
}

#[test]
fn a_node_that_is_killed_and_started_again_has_its_sessions_at_once() {
    let mut nodes = Nodes::start(2);
    nodes.absent(1, "ann");
    assert_eq!(nodes.send(0, "of ann", "before")["stored"], 1);
    let killed = nodes.nodes.pop().expect("two");
    sys::kill(killed.process.pid(), "KILL");
    let begun = Instant::now();
    nodes.nodes.push(nodes.setup().start_on(killed.into_port()));
    nodes.until_linked();
    nodes.send_until_taken(0, "of ann", "after");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let (mut client, _) = nodes.open(0, "ann");
    assert_eq!(take(&mut client, 2), ["before", "after"]);
}

#[test]
fn a_node_that_stops_in_order_leaves_its_sessions_to_the_others_at_once() {
    let mut nodes = Nodes::start(2);
    nodes.absent(1, "ann");
    let (mut client, _) = nodes.open(1, "ben");
    assert_eq!(nodes.send(0, "of ann", "before")["stored"], 1);
    let mut stopped = nodes.nodes.pop().expect("two");
    stopped.terminate();
    assert_eq!(client.expect_close().0, 1001);
    assert!(stopped.exited_within(TIMEOUT).success());
    let begun = Instant::now();
    nodes.send_until_taken(0, "all", "after");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for (name, expected) in [("ann", &["before", "after"][..]), ("ben", &["after"])] {
        let (mut client, _) = nodes.open(0, name);
        assert_eq!(take(&mut client, expected.len()), expected, "{name}");
    }
}

#[test]
fn a_session_of_expiry_0_is_not_resumed_elsewhere() {
    let nodes = Nodes::start(2);
    nodes.backend.on_connect(|request| {
        let device = request.header("X-DEVICEID").expect("a device");
        let welcome = Reply::welcome().header("RAINBOWCLIENTSESSION", device);
        welcome.header("RAINBOWCLIENTSESSIONEXPIRY", "0").header("RAINBOWCLIENTCHANNEL", "all")
    });
    for node in [0, 1, 0] {
        let (client, greeting) = nodes.open(node, "ann");
        assert_eq!((&greeting["resumed"], &greeting["waiting"]), (&json!(false), &json!(0)), "{greeting}");
        // In flight when the session ends.
        let answer = send_later(nodes.nodes[1 - node].addr(), "all", &[("qos", "1")], "x");
        client.leave();
        eventually_within(TIMEOUT, "it has ended", || (nodes.sessions(node) == 0).then_some(()));
        answer.join().expect("it is answered");
    }
}

/// It ends with its node, which was killed: whoever comes next has a new one, and its client's messages are nobody's.
#[test]
fn a_session_of_expiry_0_ends_with_its_node() {
    let mut nodes = Nodes::start(2);
    nodes.backend.on_connect(|request| {
        let welcome = Reply::welcome().header("RAINBOWCLIENTSESSION", request.header("X-DEVICEID").expect("a device"));
        welcome.header("RAINBOWCLIENTSESSIONEXPIRY", "0").header("RAINBOWCLIENTCHANNEL", "all")
    });
    let names: Vec<String> = (0..4).map(|n| format!("user {n}")).collect();
    let clients: Vec<_> = names.iter().map(|name| nodes.open(1, name).0).collect();
    let answer = send_later(nodes.nodes[0].addr(), "all", &[("qos", "1")], "in flight");
    eventually_within(TIMEOUT, "they are there", || (nodes.sessions(1) == 4).then_some(()));
    let killed = nodes.nodes.pop().expect("two");
    sys::kill(killed.process.pid(), "KILL");
    answer.join().expect("it is answered");
    drop((clients, killed));
    let mut clients = Vec::new();
    for name in &names {
        let (client, greeting) = nodes.open(0, name);
        assert_eq!((&greeting["resumed"], &greeting["waiting"]), (&json!(false), &json!(0)), "{name} {greeting}");
        clients.push(client);
    }
    let answer = send_later(nodes.nodes[0].addr(), "all", &[("qos", "2")], "after");
    clients.iter_mut().for_each(|client| assert_eq!(take(client, 1), ["after"]));
    // The killed node may have others.
    let answer = answer.join().expect("it is answered");
    assert_eq!((&answer["connections"], &answer["targets"]), (&json!(4), &json!(4)), "{answer}");
}

/// Whichever of the two is wrong.
#[test]
fn node_clocks_an_hour_apart_change_nothing() {
    for shift in ["-1h", "+1h"] {
        let mut nodes = Nodes::start(1);
        let shifted = with_clock(nodes.setup(), shift).start();
        nodes.nodes.push(shifted);
        name_sessions_for_a_minute(&nodes.backend);
        sessions_keep_their_time(&nodes, shift);
        // It hands over what it has.
        let mut stopped = nodes.nodes.pop().expect("two");
        stopped.terminate();
        assert!(stopped.exited_within(TIMEOUT).success(), "{}", stopped.log());
        eventually_within(TIMEOUT, "the brief one has ended", || (nodes.sessions(0) == 2).then_some(()));
        assert_eq!(nodes.open(0, "ben").1["resumed"], true, "{shift}");
    }
}

/// The process's clock is so far from that of the others. Calls that are signed it would refuse.
pub fn with_clock(setup: Setup, shift: &str) -> Setup {
    let list = ["-c", "ls /usr/lib/*/faketime/libfaketimeMT.so.1"];
    let found = std::process::Command::new("sh").args(list).output().expect("sh");
    let paths = String::from_utf8(found.stdout).expect("UTF-8");
    let preload = paths.lines().next().expect("faketime is needed for this test: apt-get install faketime");
    setup.env("LD_PRELOAD", preload).env("FAKETIME", shift).env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}

/// As `name_sessions_by_device`, for a minute; but `brief` for two seconds.
pub fn name_sessions_for_a_minute(backend: &Backend) {
    backend.on_connect(|request| {
        let device = request.header("X-DEVICEID").expect("a device");
        let expiry_s = if device == "brief" { "2" } else { "60" };
        let welcome = Reply::welcome().header("RAINBOWCLIENTSESSION", device).header("RAINBOWCLIENTCHANNEL", device);
        welcome.header("RAINBOWCLIENTSESSIONEXPIRY", expiry_s)
    });
}

/// The second node's clock is wrong. What has a minute left where it was is still there, with what waits; `ben` and
/// `brief` stay behind.
pub fn sessions_keep_their_time(nodes: &impl SessionNodes, shift: &str) {
    eventually_within(TIMEOUT, "they are linked", || {
        let info = call_get(nodes.node(0).addr(), "/info/", &[]).json();
        (info["peers"][0]["state"] == "live" && info["peers"][0]["is_linked"] == true).then_some(())
    });
    let absent = |name: &str| {
        nodes.open(1, name).0.leave();
        eventually_within(TIMEOUT, "it is absent", || (nodes.session(0, name)["online"] == false).then_some(()));
    };
    ["ann", "ben"].into_iter().for_each(absent);
    let params = [("channel", "ann"), ("qos", "2"), ("expiry", "60")];
    let answer = call(nodes.node(0).addr(), "/send/", &params, "x").json();
    assert_eq!(answer["stored"], 1, "{shift} {answer}");
    let (mut client, greeting) = nodes.open(0, "ann");
    assert_eq!((&greeting["resumed"], &greeting["waiting"]), (&json!(true), &json!(1)), "{shift} {greeting}");
    assert_eq!(take(&mut client, 1), ["x"]);
    client.leave();
    eventually_within(TIMEOUT, "it is absent", || (nodes.session(0, "ann")["online"] == false).then_some(()));
    for name in ["ann", "ben"] {
        let left_s = nodes.session(0, name)["expires_s"].as_u64().expect("a number");
        assert!((50..=60).contains(&left_s), "{shift} {name} {left_s}");
    }
    absent("brief");
}

/// It stands still; its client connects elsewhere, and is served after a second. When the node goes on, it has lost the
/// session, and knows it.
#[test]
fn a_node_that_stands_still_loses_the_session_to_force_and_gives_nothing_back() {
    let nodes = Nodes::start(2);
    let (mut first, _) = nodes.open(0, "ann");
    let pid = nodes.nodes[0].process.pid();
    sys::kill(pid, "STOP");
    let begun = Instant::now();
    let (mut second, greeting) = nodes.open(1, "ann");
    let took = begun.elapsed();
    assert_eq!(greeting["resumed"], true);
    assert!(took < Duration::from_secs(4), "{took:?}");
    sys::kill(pid, "CONT");
    assert_eq!(first.expect_close().0, 4409);
    nodes.until_linked();
    let nodes = &nodes;
    for node in [0, 1] {
        let answer = thread::scope(|scope| {
            let body = format!("by {node}");
            let answer = scope.spawn(move || nodes.send_until_taken(node, "of ann", &format!("by {node}")));
            assert_eq!(take(&mut second, 1), [body]);
            answer.join().expect("it is taken")
        });
        assert_eq!(answer["targets"], 1, "{answer}");
    }
}

/// Calls wait at the old owner, which has not heard yet that the session was taken from it.
#[test]
fn a_message_at_the_old_owner_before_it_hears_of_the_claim_is_delivered_in_order() {
    let nodes = &Nodes::start(2);
    let (mut client, _) = nodes.open(0, "ann");
    for round in 0..4 {
        let old = &nodes.nodes[round % 2];
        let body = |n: usize| format!("{round}.{n}");
        sys::kill(old.process.pid(), "STOP");
        let early = send_later(old.addr(), "of ann", &[("qos", "2"), ("message_id", &body(0))], body(0));
        let (mut next, greeting) = nodes.open(1 - round % 2, "ann");
        assert_eq!(greeting["resumed"], true);
        sys::kill(old.process.pid(), "CONT");
        thread::scope(|scope| {
            let calling = scope.spawn(|| {
                // It may have been refused; whatever it was, its repeat is the same message.
                early.join().expect("it is answered");
                for n in 0..5 {
                    let answer = nodes.send_until_taken(n % 2, "of ann", &body(n));
                    assert_eq!(answer["targets"], 1, "{answer}: it is somewhere");
                }
            });
            assert_eq!(take(&mut next, 5), (0..5).map(body).collect::<Vec<_>>());
            calling.join().expect("all are taken");
        });
        assert_eq!(client.expect_close().0, 4409);
        client = next;
        nodes.until_linked();
    }
}

/// Nobody has to adopt them: what is sent to them at the moment of the end is stored.
#[test]
fn a_node_that_stops_hands_its_sessions_over_first() {
    let mut nodes = Nodes::start(2);
    let names: Vec<String> = (0..60).map(|n| format!("user {n}")).collect();
    names.iter().for_each(|name| nodes.absent(1, name));
    let (mut client, _) = nodes.open(1, "ben");
    let mut stopped = nodes.nodes.pop().expect("two");
    stopped.terminate();
    assert_eq!(client.expect_close().0, 1001);
    client.leave();
    assert!(stopped.exited_within(TIMEOUT).success(), "{}", stopped.log());
    let answer = nodes.send(0, "all", "at once");
    assert_eq!((&answer["status"], &answer["stored"]), (&json!(0), &json!(61)), "{answer}");
    assert_eq!(nodes.sessions(0), 61);
    for name in names.iter().map(String::as_str).chain(["ben"]) {
        let (mut client, greeting) = nodes.open(0, name);
        assert_eq!((&greeting["resumed"], &greeting["waiting"]), (&json!(true), &json!(1)), "{name} {greeting}");
        assert_eq!(take(&mut client, 1), ["at once"]);
    }
}

#[test]
fn nodes_that_stop_together_do_not_wait_for_each_other() {
    let mut nodes = Nodes::start(2);
    (0..20).for_each(|n| nodes.absent(n % 2, &format!("user {n}")));
    let begun = Instant::now();
    nodes.nodes.iter().for_each(Server::terminate);
    for node in &mut nodes.nodes {
        assert!(node.exited_within(TIMEOUT).success(), "{}", node.log());
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}
