//! Nodes with a disk each that have not met make sessions of the same names; then they meet, and each name is one
//! session, with all that either had.

use crate::harness::call::{call_get, send, send_later};
use crate::harness::server::Dir;
use crate::harness::{Client, Command, Setup, TIMEOUT, Upgrade, heavy, sys};
use crate::hosts::{HEALING, Host, Hosts, NODE, pause, until, with};
use crate::network::Family;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Hosts of one LAN, the cables of all but the first one pulled.
struct Rivals {
    hosts: Hosts,
    dirs: Vec<Dir>,
}

impl Rivals {
    fn start(count: usize, also: impl Fn(Setup) -> Setup) -> Rivals {
        let dirs = (0..count).map(|_| Dir::new()).collect();
        let mut rivals = Rivals { hosts: Hosts::new(count, Family::V4), dirs };
        for host in &rivals.hosts.hosts[1..] {
            rivals.hosts.lan.pull_cable(host.port);
        }
        for node in 0..count {
            let setup = also(rivals.setup(node));
            rivals.hosts.hosts[node].start(setup);
        }
        rivals
    }

    fn setup(&self, node: usize) -> Setup {
        let path = self.dirs[node].path.join("store");
        let path = format!("{:?}", path.to_str().expect("a path of text"));
        with(&[("store.kind", "\"sqlite\""), ("store.data_dir", &path), ("ack_timeout", "\"500ms\"")])
    }

    fn host(&self, node: usize) -> &Host {
        &self.hosts.hosts[node]
    }

    fn meet(&self) {
        self.hosts.hosts[1..].iter().for_each(|host| self.hosts.lan.plug_in(host.port));
    }

    /// In the channels `all`, `both` and one of this node's.
    fn open(&self, node: usize, name: &str) -> Result<Client, u16> {
        let channels = format!("all;;both;;{name} at {node}");
        let upgrade = Upgrade::of("phone").query("session", name).query("channels", &channels);
        self.host(node).namespace.enter(|| upgrade.try_open(NODE).map_err(|response| response.status))
    }

    /// The client is refused while its session is on its way, and comes again.
    fn enter(&self, node: usize, name: &str) -> Client {
        until(Duration::from_secs(40), || self.open(node, name).ok(), || self.hosts.views())
    }

    fn absent(&self, node: usize, name: &str) {
        self.open(node, name).expect("it is let in").leave();
        let is_absent = || (self.session(node, name)["online"] == false).then_some(());
        until(TIMEOUT, is_absent, || format!("{}", self.session(node, name)));
    }

    fn session(&self, node: usize, name: &str) -> Value {
        self.host(node).namespace.enter(|| call_get(NODE, "/session/", &[("session", name)]).json())
    }

    fn send(&self, node: usize, channel: &str, qos: &str, body: &str) -> Value {
        self.host(node).namespace.enter(|| send(NODE, channel, &[("qos", qos)], body))
    }

    /// Of all nodes together.
    fn figure(&self, family: &str) -> u64 {
        let of_node = |host: &Host| -> u64 {
            let metrics = host.namespace.enter(|| call_get(NODE, "/metrics", &[]).text());
            let rows = metrics.lines().filter(|row| row.split(['{', ' ']).next() == Some(family));
            rows.filter_map(|row| row.rsplit(' ').next()?.parse::<u64>().ok()).sum()
        };
        self.hosts.hosts.iter().filter(|host| host.server.is_some()).map(of_node).sum()
    }

    fn until_one_each(&self, sessions: u64, limit: Duration) -> Duration {
        let begun = Instant::now();
        let count = || self.figure("rainbow_sessions");
        until(
            limit,
            || (count() == sessions).then_some(()),
            || format!("{} sessions\n{}", count(), self.hosts.views()),
        );
        begun.elapsed()
    }

    fn kill(&mut self, node: usize) {
        let killed = self.hosts.hosts[node].server.take().expect("it runs");
        sys::kill(killed.process.pid(), "KILL");
    }

    fn restart(&mut self, node: usize) {
        let setup = self.setup(node);
        self.hosts.hosts[node].server = None;
        self.hosts.hosts[node].start(setup);
    }
}

/// So many messages, each acknowledged at its QoS, and under how many ids each has come.
fn take(client: &mut Client, count: usize) -> BTreeMap<String, u32> {
    let (mut bodies, mut ended) = (BTreeMap::new(), BTreeSet::new());
    let mut ids = BTreeSet::new();
    while ended.len() < count {
        let packet = client.packet_within(TIMEOUT).unwrap_or_else(|| panic!("{ended:?} of {count}: {bodies:?}"));
        match (packet.command, packet.qos) {
            (Command::Send, qos) => {
                // On a busy machine one that was not acknowledged in time comes again.
                if ids.insert(packet.id) {
                    *bodies.entry(packet.text()).or_insert(0) += 1;
                }
                ended.extend((qos == 1).then_some(packet.id));
                client.answer(if qos == 1 { Command::Ack } else { Command::Rec }, packet.id, "");
            }
            (Command::Rel, _) => {
                ended.insert(packet.id);
                client.answer(Command::Com, packet.id, "");
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    bodies
}

fn once_each(bodies: impl IntoIterator<Item = String>) -> BTreeMap<String, u32> {
    bodies.into_iter().map(|body| (body, 1)).collect()
}

#[test]
fn sessions_that_were_made_apart_become_one_with_all_that_waits() {
    let rivals = Rivals::start(3, |setup| setup);
    let mut expected = Vec::new();
    for node in 0..3 {
        rivals.absent(node, "ann");
        for (n, qos) in ["2", "1", "2"].into_iter().enumerate() {
            let body = format!("{n} at {node}");
            let answer = rivals.send(node, "all", qos, &body);
            assert_eq!((&answer["status"], &answer["stored"]), (&json!(0), &json!(1)), "{answer}");
            expected.push(body);
        }
    }
    rivals.meet();
    let took = rivals.until_one_each(1, HEALING);
    eprintln!("{took:?} after the cable was plugged in, it was one session");
    assert_eq!(rivals.figure("rainbow_sessions_united_total"), 2);
    for node in 0..3 {
        let session = rivals.session(node, "ann");
        let mut channels: Vec<&str> =
            session["channels"].as_array().expect("a list").iter().flat_map(Value::as_str).collect();
        channels.sort_unstable();
        assert_eq!(channels, ["all", "ann at 0", "ann at 1", "ann at 2", "both"], "{session}");
        assert_eq!(session["waiting"], 9, "{session}");
    }
    for (node, channel) in [(0, "ann at 1"), (1, "ann at 2"), (2, "ann at 0")] {
        let answer = rivals.send(node, channel, "2", channel);
        assert_eq!((&answer["status"], &answer["stored"]), (&json!(0), &json!(1)), "{answer}");
        expected.push(channel.into());
    }
    let mut client = rivals.enter(0, "ann");
    assert_eq!(take(&mut client, expected.len()), once_each(expected));
    client.leave();
}

#[test]
fn of_two_clients_the_one_that_came_last_stays() {
    let rivals = Rivals::start(2, |setup| setup);
    rivals.absent(0, "bob");
    assert_eq!(rivals.send(0, "bob at 0", "2", "perhaps, stored before")["stored"], 1);
    let mut older = rivals.open(0, "bob").expect("it is let in");
    // It has these, and does not say so.
    assert_eq!(older.expect_send().text(), "perhaps, stored before");
    for (qos, body) in [("1", "again"), ("2", "perhaps")] {
        let answer = rivals.host(0).namespace.enter(|| send_later(NODE, "bob at 0", &[("qos", qos)], body));
        let new = std::iter::repeat_with(|| older.expect_send()).find(|sent| !sent.dup);
        assert_eq!(new.expect("endless").text(), body);
        let answer = answer.join().expect("it is answered");
        assert_eq!((&answer["status"], &answer["stored"]), (&json!(0), &json!(1)), "{answer}");
    }
    let mut younger = rivals.open(1, "bob").expect("it is let in");
    rivals.meet();
    rivals.until_one_each(1, HEALING);
    assert_eq!(older.expect_close().0, 4409);
    assert_eq!(take(&mut younger, 1), once_each(["again".into()]));
    assert_eq!(rivals.figure("rainbow_messages_uncertain_total"), 2);
    let log = rivals.host(1).server().log();
    let is_logged = |text: &str| ["dropped: QoS 2 messages", "bob", "=2"].iter().all(|part| text.contains(part));
    assert!(log.lines().any(is_logged), "{log}");
    // It is in the channels of both, at once.
    for (node, channel) in [(0, "bob at 0"), (1, "bob at 0"), (0, "bob at 1"), (0, "both")] {
        let answer = rivals.host(node).namespace.enter(|| send_later(NODE, channel, &[("qos", "2")], channel));
        assert_eq!(take(&mut younger, 1), once_each([channel.into()]));
        let answer = answer.join().expect("it is answered");
        assert_eq!((&answer["status"], &answer["connections"]), (&json!(0), &json!(1)), "{channel}: {answer}");
    }
    younger.assert_open();
}

/// Either node is killed while the sessions become one, the node that takes them in once in the transaction.
#[test]
fn nothing_is_lost_or_doubled_when_a_node_is_killed_meanwhile() {
    let _alone = heavy();
    let mut rivals = Rivals::start(2, |setup| setup.arg("--crash-at").arg("unite.inside:3"));
    let names: Vec<String> = (0..NAMES).map(|n| format!("user {n}")).collect();
    for node in 0..2 {
        names.iter().for_each(|name| rivals.absent(node, name));
        for qos in ["1", "2"] {
            let answer = rivals.send(node, "all", qos, &format!("{qos} at {node}"));
            assert_eq!((&answer["status"], &answer["stored"]), (&json!(0), &json!(NAMES)), "{answer}");
        }
    }
    rivals.meet();
    let crashed = until(
        HEALING,
        || {
            (0..2)
                .find(|node| rivals.hosts.hosts[*node].server.as_mut().is_some_and(|it| it.process.exited().is_some()))
        },
        || "none has died".into(),
    );
    rivals.restart(crashed);
    for round in 0..6 {
        let begun = rivals.figure("rainbow_sessions");
        let has_gone_on = || (rivals.figure("rainbow_sessions") < begun).then_some(());
        if begun > NAMES && round > 0 {
            until(HEALING, has_gone_on, || rivals.hosts.views());
        }
        pause(Duration::from_millis(round * 37));
        let victim = (crashed + round as usize) % 2;
        rivals.kill(victim);
        rivals.restart(victim);
    }
    rivals.until_one_each(NAMES, Duration::from_secs(40));
    let expected = || ["1 at 0", "2 at 0", "1 at 1", "2 at 1"].map(String::from);
    for name in &names {
        assert_eq!(rivals.session(0, name)["waiting"], 4, "{name}");
        let mut client = rivals.enter(0, name);
        let uncertain = rivals.figure("rainbow_messages_uncertain_total");
        assert_eq!(uncertain, 0);
        assert_eq!(take(&mut client, 4), once_each(expected()), "{name}");
        client.leave();
    }
    rivals.until_one_each(NAMES, TIMEOUT);
}

const NAMES: u64 = 24;
