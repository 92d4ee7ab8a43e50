//! Durable sessions of a cluster whose nodes have a disk each (SQLite): a session goes from disk to disk with its
//! client, and what was promised to it is neither lost nor doubled, whatever becomes of nodes on the way.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster_sessions::{calls_find_sessions, name_sessions_for_a_minute, sessions_keep_their_time, with_clock};
use crate::harness::call::{call, call_get, send_later};
use crate::harness::nodes::{SessionNodes, figure_of, name_sessions_by_device};
use crate::harness::{Backend, Client, Command, Server, Setup, TIMEOUT, Upgrade, eventually, eventually_within, sys};
use crate::redis::take;
use crate::sessions_api::DataDir;

/// Nodes of one cluster, each with a directory of its own. Every device is a session of that name, in the channel `all`
/// and in one of its own name.
pub struct Nodes {
    backend: Backend,
    name: String,
    dirs: Vec<DataDir>,
    nodes: Vec<Option<Server>>,
}

impl Nodes {
    pub fn start(count: usize) -> Nodes {
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        let backend = Backend::start();
        name_sessions_by_device(&backend);
        let name = format!("it-disks-{}-{}", std::process::id(), CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let dirs = (0..count).map(|_| DataDir::new()).collect();
        let mut nodes = Nodes { backend, name, dirs, nodes: Vec::new() };
        nodes.nodes = (0..count).map(|n| Some(nodes.setup(n).start())).collect();
        nodes.until_linked();
        nodes
    }

    fn setup(&self, node: usize) -> Setup {
        let setup = self.dirs[node].setup(&self.backend);
        setup.text("cluster_name", &self.name).env("RAINBOW_CLUSTER", "auto").set("workers", "2")
    }

    fn kill(&mut self, node: usize) {
        let killed = self.nodes[node].take().expect("it runs");
        sys::kill(killed.process.pid(), "KILL");
        drop(killed);
    }

    fn restart(&mut self, node: usize) {
        self.nodes[node] = Some(self.setup(node).start());
        self.until_linked();
    }

    /// The client is refused while its session is on its way, and comes again.
    fn enter(&self, node: usize, name: &str) -> Client {
        eventually_within(Duration::from_secs(40), "it is let in", || {
            Upgrade::of(name).try_open(self.node(node).addr()).ok()
        })
    }

    /// On all nodes that run.
    fn sessions(&self) -> u64 {
        self.figure("rainbow_sessions{")
    }

    /// Of all rows that begin so, of all nodes that run.
    fn figure(&self, begin: &str) -> u64 {
        self.running().into_iter().map(|node| figure_of(node, begin)).sum()
    }
}

impl SessionNodes for Nodes {
    fn node(&self, node: usize) -> &Server {
        self.nodes[node].as_ref().expect("it runs")
    }

    fn running(&self) -> Vec<&Server> {
        self.nodes.iter().flatten().collect()
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
    eventually("it is on one disk", || (nodes.sessions() == 1).then_some(()));
    let counters = call_get(nodes.node(1).addr(), "/info/", &[]).json()["counters"].clone();
    assert_eq!((&counters["sessions_fetched"], &counters["session_fetches_failed"]), (&json!(1), &json!(0)));
    let moving = |node: &Server| call_get(node.addr(), "/info/", &[]).json()["sessions_moving"].clone();
    eventually("none is on its way", || nodes.running().into_iter().all(|node| moving(node) == 0).then_some(()));
    // And back, with nothing that waits.
    client.leave();
    let (_client, greeting) = nodes.open(0, "ann");
    assert_eq!((&greeting["resumed"], &greeting["waiting"]), (&json!(true), &json!(0)), "{greeting}");
}

#[test]
fn a_client_that_connects_elsewhere_takes_its_session_along() {
    let nodes = Nodes::start(2);
    let (mut first, _) = nodes.open(0, "ann");
    for round in 0..6 {
        let here = (round + 1) % 2;
        // It has not acknowledged this one: it is repeated where it goes.
        let body = format!("in flight {round}");
        let answer = send_later(nodes.node(round % 2).addr(), "of ann", &[("qos", "2")], &body);
        let sent = first.expect_send();
        assert_eq!(sent.text(), body);
        // Right after it has come, it is on its way for a moment.
        let mut second = nodes.enter(here, "ann");
        assert_eq!(first.expect_close().0, 4409);
        let answer = answer.join().expect("it is answered");
        assert_eq!((&answer["status"], &answer["stored"]), (&json!(0), &json!(1)), "{answer}");
        assert_eq!(take(&mut second, 1), [body]);
        for node in 0..2 {
            let body = format!("{round}, from {node}");
            let answer = std::thread::scope(|scope| {
                let answer = scope.spawn(|| nodes.send_until_taken(node, "of ann", &body));
                assert_eq!(take(&mut second, 1).concat(), body);
                answer.join().expect("it is taken")
            });
            assert_eq!(answer["targets"], 1, "{round}: {answer}");
        }
        first = second;
    }
}

#[test]
fn every_call_finds_a_session_on_every_node() {
    calls_find_sessions(&Nodes::start(2));
}

/// Its sessions are on its disk: nobody else has them, and nobody says that it has.
/// Each times what it has by its own; what moves keeps the time that it has left.
#[test]
fn node_clocks_an_hour_apart_change_nothing() {
    for shift in ["-1h", "+1h"] {
        let mut nodes = Nodes::start(1);
        nodes.dirs.push(DataDir::new());
        let shifted = with_clock(nodes.setup(1), shift).start();
        nodes.nodes.push(Some(shifted));
        name_sessions_for_a_minute(&nodes.backend);
        sessions_keep_their_time(&nodes, shift);
        let mut stopped = nodes.nodes.pop().flatten().expect("it runs");
        stopped.terminate();
        assert!(stopped.exited_within(TIMEOUT).success(), "{}", stopped.log());
        eventually_within(TIMEOUT, "the brief one has ended", || (nodes.sessions() == 2).then_some(()));
        assert_eq!(nodes.open(0, "ben").1["resumed"], true, "{shift}");
    }
}

#[test]
fn a_node_that_is_away_keeps_its_sessions() {
    let mut nodes = Nodes::start(2);
    nodes.absent(1, "ann");
    assert_eq!(nodes.send(0, "of ann", "before")["stored"], 1);
    nodes.kill(1);
    let refused = nodes.send(0, "of ann", "lost, and said so");
    assert_eq!((&refused["status"], &refused["unreachable"]), (&json!(1), &json!(1)), "{refused}");
    let refused = call(nodes.node(0).addr(), "/send/", &[("session", "ann"), ("qos", "1")], "x").json();
    assert_eq!(refused["status"], 1, "{refused}");
    assert!(Upgrade::of("ann").try_open(nodes.node(0).addr()).is_err(), "it is not made anew");
    nodes.restart(1);
    nodes.send_until_taken(0, "of ann", "after");
    let mut client = nodes.enter(0, "ann");
    assert_eq!(take(&mut client, 2), ["before", "after"]);
}

/// A crowd of sessions moves from one node to another while one of the two is killed and started again, several times:
/// each is somewhere, with each of its messages once.
#[test]
fn sessions_that_move_survive_the_death_of_either_node() {
    let mut nodes = Nodes::start(3);
    let names: Vec<String> = (0..24).map(|n| format!("user {n}")).collect();
    names.iter().for_each(|name| nodes.absent(0, name));
    assert_eq!(nodes.send(1, "all", "first")["stored"], 24);
    for victim in [0, 1, 1, 0] {
        let to = nodes.node(1).addr();
        let (sender, let_in) = mpsc::channel();
        std::thread::scope(|scope| {
            for name in &names {
                let sender = sender.clone();
                scope.spawn(move || {
                    // Whoever is on its way when the node dies gets no answer.
                    let mut wire = Upgrade::of(name).begin(to);
                    let is_answered = wire.response(Instant::now() + TIMEOUT).is_ok();
                    let _ = sender.send(is_answered);
                });
            }
            // Some have moved, and others are on their way.
            for _ in 0..4 {
                let _ = let_in.recv_timeout(TIMEOUT);
            }
            nodes.kill(victim);
        });
        nodes.restart(victim);
    }
    let answer = nodes.send_until_taken(2, "all", "last");
    assert_eq!((&answer["targets"], &answer["stored"]), (&json!(24), &json!(24)), "{answer}");
    for (n, name) in names.iter().enumerate() {
        let mut client = nodes.enter(n % 3, name);
        assert_eq!(take(&mut client, 2), ["first", "last"], "{name}");
        client.leave();
    }
    eventually("each is on one disk", || (nodes.sessions() == 24).then_some(()));
}

/// What it has moves to the other disk before it ends.
#[test]
fn a_node_that_stops_in_order_hands_its_sessions_over() {
    let mut nodes = Nodes::start(2);
    let names: Vec<String> = (0..20).map(|n| format!("user {n}")).collect();
    names.iter().for_each(|name| nodes.absent(1, name));
    assert_eq!(nodes.send(0, "all", "before")["stored"], 20);
    let mut stopped = nodes.nodes[1].take().expect("it runs");
    stopped.terminate();
    assert!(stopped.exited_within(TIMEOUT).success());
    for name in &names {
        let mut client = nodes.enter(0, name);
        assert_eq!(take(&mut client, 1), ["before"], "{name}");
    }
    nodes.restart(1);
    eventually("each is on one disk", || (nodes.sessions() == 20).then_some(()));
}

/// Clients connect with the same new names on all nodes at once, while another node joins: whom a name falls to differs
/// from node to node for a moment, and still each name is one session.
#[test]
fn while_a_node_joins_each_new_name_becomes_one_session() {
    let mut nodes = Nodes::start(2);
    nodes.dirs.push(DataDir::new());
    let setup = nodes.setup(2);
    let third: OnceLock<Server> = OnceLock::new();
    let names = std::thread::scope(|scope| {
        let (nodes, third) = (&nodes, &third);
        let crowds: Vec<_> = (0..CROWDS).map(|nth| scope.spawn(move || crowd(nodes, third, nth))).collect();
        assert!(third.set(setup.start()).is_ok());
        crowds.into_iter().flat_map(|crowd| crowd.join().expect("it has ended")).collect::<Vec<String>>()
    });
    nodes.nodes.push(third.into_inner());
    nodes.until_linked();
    let made = names.iter().filter(|name| nodes.session(0, name)["online"].is_boolean()).count() as u64;
    // A slow machine makes fewer in its three seconds.
    assert!(made > 20 && made as usize * 10 > names.len() * 9, "{made} of {} names", names.len());
    eventually("each is on one disk", || (nodes.sessions() == made).then_some(()));
    let answer = nodes.send_until_taken(2, "all", "to all");
    assert_eq!(answer["targets"], made, "{answer}");
    assert_eq!(nodes.figure("rainbow_sessions_united_total "), 0, "none was made twice");
}

/// One new name after the other, on all nodes at the same moment, until all have been there for a while. Who is refused
/// does not come again.
fn crowd(nodes: &Nodes, third: &OnceLock<Server>, nth: usize) -> Vec<String> {
    let (mut names, mut since) = (Vec::new(), None);
    while since.is_none_or(|since: Instant| since.elapsed() < Duration::from_secs(3)) {
        let name = format!("user {nth}-{}", names.len());
        since = since.or(third.get().map(|_| Instant::now()));
        std::thread::scope(|scope| {
            for node in nodes.running().into_iter().chain(third.get()) {
                scope.spawn(|| drop(Upgrade::of(&name).try_open(node.addr())));
            }
        });
        names.push(name);
    }
    names
}

/// Nothing is left on its disk: nobody looks for it there, nor leaves a name to it.
#[test]
fn a_node_that_stops_in_order_is_missed_by_nobody() {
    let mut nodes = Nodes::start(2);
    nodes.absent(1, "ann");
    let (mut ben, _) = nodes.open(1, "ben");
    let mut stopped = nodes.nodes[1].take().expect("it runs");
    stopped.terminate();
    assert_eq!(ben.expect_close().0, 1001);
    ben.leave();
    assert!(stopped.exited_within(TIMEOUT).success());
    for life in 0..2 {
        let answer = nodes.send(0, "all", "to everybody");
        assert_eq!((&answer["status"], &answer["unreachable"]), (&json!(0), &Value::Null), "{answer}");
        // About half of the names fell to the other node.
        for n in 0..8 {
            Upgrade::of(&format!("new {life} {n}")).open(nodes.node(0).addr()).leave();
        }
        // Nor after a restart.
        nodes.kill(0);
        nodes.restart(0);
    }
}

/// As the others show it.
fn away(nodes: &Nodes, seen_by: usize) -> Option<String> {
    let info = call_get(nodes.node(seen_by).addr(), "/info/", &[]).json();
    let peers = info["peers"].as_array()?;
    peers.iter().find(|peer| peer["is_linked"] == false)?["node"].as_str().map(String::from)
}

#[test]
fn a_node_that_is_forgotten_is_missed_by_nobody() {
    let mut nodes = Nodes::start(3);
    nodes.absent(2, "ann");
    assert_eq!(nodes.send(0, "of ann", "gone with its disk")["stored"], 1);
    let there = call_get(nodes.node(0).addr(), "/info/", &[]).json()["peers"][0]["node"].as_str().map(String::from);
    let forget =
        |nodes: &Nodes, node: &str| call(nodes.node(0).addr(), "/cluster/forget/", &[("node", node)], "").json();
    assert_eq!(forget(&nodes, &there.expect("a peer"))["msg"], "the node is there: stop it first");
    nodes.kill(2);
    let node = eventually("it is missed", || away(&nodes, 0));
    assert_eq!(nodes.send(1, "of ann", "x")["unreachable"], 1);
    let forgotten = forget(&nodes, &node);
    assert_eq!((&forgotten["status"], &forgotten["unreachable"]), (&json!(0), &json!(0)), "{forgotten}");
    for node in 0..2 {
        let answer = eventually("nobody is missed", || {
            let answer = nodes.send(node, "of ann", "x");
            (answer["status"] == 0).then_some(answer)
        });
        assert_eq!(answer["targets"], 0, "{answer}");
    }
    // Nor after a restart.
    nodes.kill(0);
    nodes.restart(0);
    let _client = nodes.enter(0, "ann");
    assert_eq!(nodes.send(1, "all", "to the new one")["targets"], 1);
}

#[test]
fn a_node_that_starts_alone_knows_whom_it_misses() {
    let mut nodes = Nodes::start(2);
    nodes.absent(1, "ann");
    assert_eq!(nodes.send(0, "of ann", "before")["stored"], 1);
    nodes.kill(1);
    nodes.kill(0);
    nodes.restart(0);
    let missed = call_get(nodes.node(0).addr(), "/info/", &[]).json()["peers"].clone();
    assert_eq!((&missed[0]["state"], &missed[0]["is_linked"]), (&json!("missed"), &json!(false)), "{missed}");
    assert!(away(&nodes, 0).is_some_and(|node| node.len() == 8), "by the name that `cluster forget` takes: {missed}");
    let refused = nodes.send(0, "of ann", "lost, and said so");
    assert_eq!((&refused["status"], &refused["unreachable"]), (&json!(1), &json!(1)), "{refused}");
    assert!(Upgrade::of("ann").try_open(nodes.node(0).addr()).is_err(), "it is not made anew");
    nodes.restart(1);
    let mut client = nodes.enter(0, "ann");
    assert_eq!(take(&mut client, 1), ["before"]);
}

#[test]
fn who_acknowledges_is_acknowledged_wherever_it_is() {
    let nodes = Nodes::start(2);
    nodes.absent(0, "ann");
    let (mut client, _) = nodes.open(1, "ann");
    for node in 0..2 {
        let answer = send_later(nodes.node(node).addr(), "of ann", &[("qos", "1")], "x");
        let sent = client.expect_send();
        client.answer(Command::Ack, sent.id, "");
        let answer = answer.join().expect("it is answered");
        assert_eq!(answer["status"], 0, "{answer}");
    }
}

const CROWDS: usize = 12;
