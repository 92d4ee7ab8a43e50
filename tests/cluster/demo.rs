//! What the README's first lines promise: the demo in two shells is one chat. In a network of its own, so that the demos
//! have their usual ports and are nobody else's peers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command as Program;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::process::Process;
use crate::harness::{Client, Command, TIMEOUT, Upgrade, http};
use crate::network::Namespace;

/// Where people of the README stand: a directory, and shells in it.
struct Desk {
    namespace: Namespace,
    directory: PathBuf,
}

/// A demo that was started by `rainbow-server demo`.
struct Demo {
    process: Process,
    page: SocketAddr,
    clients: SocketAddr,
}

impl Desk {
    fn new() -> Desk {
        static DESKS: AtomicU32 = AtomicU32::new(0);
        let name = format!("rainbow-demo-{}-{}", std::process::id(), DESKS.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        Desk { namespace: Namespace::new(), directory }
    }

    fn demo(&self) -> Demo {
        let directory = self.directory.clone();
        let process = self.namespace.enter_to_stay(move || {
            let mut demo = Program::new("setpriv");
            demo.args(["--pdeathsig", "KILL"]).arg(env!("CARGO_BIN_EXE_rainbow-server")).arg("demo");
            demo.current_dir(directory);
            Process::start(demo, &[("RAINBOW_CLUSTER".into(), "auto".into())])
        });
        let printed = process.log.wait_for("the page's address", TIMEOUT, |entry| entry.contains("Open  http://"));
        let page = printed.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
        let page: SocketAddr = page.parse().expect("an address");
        let clients = SocketAddr::new(page.ip(), page.port() - 1);
        Demo { process, page, clients }
    }

    /// Somebody who has opened the page of that demo.
    fn person(&self, demo: &Demo, name: &str) -> Person {
        let page = self.namespace.enter(|| http::get(demo.page, "/").text());
        let port = format!("RAINBOW_PORT = \"{}\"", demo.clients.port());
        assert!(page.contains(&port), "the page leads to its own node, {port}");
        let upgrade = Upgrade::of(name).query("name", name).query("room", "lobby");
        let client = self.namespace.enter(|| upgrade.open(demo.clients));
        Person { client, sent: 0 }
    }

    fn reports(&self, demo: &Demo, what: &str, within: Duration) {
        demo.process.log.wait_for(what, within, |entry| entry.contains(what));
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

struct Person {
    client: Client,
    sent: u16,
}

impl Person {
    /// As the page does. The business server answers when it has the line.
    fn says(&mut self, text: &str) {
        self.sent += 1;
        let body = json!({"key": format!("{text}-{}", self.sent), "text": text}).to_string();
        self.client.send(1, 1, self.sent, &body);
    }

    /// Acknowledges what comes, to the line of that text.
    fn hears(&mut self, text: &str) {
        self.until(|kind, body| kind == 1 && body["text"] == text);
    }

    fn sees(&mut self, people: &[&str]) {
        self.until(|kind, body| {
            let names = body["people"].as_array().into_iter().flatten();
            let mut names: Vec<&str> = names.filter_map(|person| person["name"].as_str()).collect();
            names.sort_unstable();
            kind == 2 && names == people
        });
    }

    fn until(&mut self, is_it: impl Fn(u16, &Value) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            assert!(Instant::now() < deadline, "it has not come");
            let packet = self.client.next_packet();
            match (packet.command, packet.qos) {
                (Command::Send, 1) => self.client.answer(Command::Ack, packet.id, ""),
                (Command::Send, 2) => self.client.answer(Command::Rec, packet.id, ""),
                (Command::Rel, _) => self.client.answer(Command::Com, packet.id, ""),
                _ => {}
            }
            let body = serde_json::from_slice(&packet.body).unwrap_or_default();
            if packet.command == Command::Send && is_it(packet.kind, &body) {
                return;
            }
        }
    }
}

#[test]
fn the_demo_in_two_shells_is_one_chat() {
    let desk = Desk::new();
    let first = desk.demo();
    let begun = Instant::now();
    let mut second = desk.demo();
    assert_eq!((first.page.port(), second.page.port()), (1985, 1987));
    for demo in [&first, &second] {
        desk.reports(demo, "Another node was found", Duration::from_secs(5));
    }
    eprintln!("the demos found each other {:?} after the second one's start", begun.elapsed());
    let (mut ann, mut bob) = (desk.person(&first, "Ann"), desk.person(&second, "Bob"));
    ann.says("from the first");
    bob.hears("from the first");
    bob.says("from the second");
    ann.hears("from the second");

    // One is killed: the other goes on, and says so.
    second.process.kill();
    ann.says("still here");
    ann.hears("still here");
    desk.reports(&first, "is away", TIMEOUT);

    // It comes back where it was, with what waited there.
    let second = desk.demo();
    assert_eq!(second.page.port(), 1987);
    let mut bob = desk.person(&second, "Bob");
    ann.says("together again");
    bob.hears("together again");
}

#[test]
fn who_comes_to_one_demo_is_seen_at_the_other() {
    let desk = Desk::new();
    let (first, second) = (desk.demo(), desk.demo());
    desk.reports(&first, "Another node was found", Duration::from_secs(5));
    let mut ann = desk.person(&first, "Ann");
    let _bob = desk.person(&second, "Bob");
    // Each house says whom it has; a page unites them.
    ann.sees(&["Bob"]);
}

/// The last one has everything, and nobody is missed: neither by it nor when it starts again alone.
#[test]
fn a_demo_that_is_ended_is_missed_by_nobody() {
    let desk = Desk::new();
    let (mut first, mut second) = (desk.demo(), desk.demo());
    desk.reports(&second, "Another node was found", Duration::from_secs(5));
    let people = ["Ann", "Cid", "Dan"].map(|name| desk.person(&first, name));
    first.process.signal("INT");
    for mut person in people {
        assert_eq!(person.client.expect_close().0, 1001);
        person.client.leave();
    }
    assert!(first.process.wait(TIMEOUT).success());
    desk.reports(&second, "has left", TIMEOUT);
    for n in 0..8 {
        drop(desk.person(&second, &format!("new {n}")));
    }
    second.process.signal("INT");
    assert!(second.process.wait(TIMEOUT).success());
    // It goes on where the last one ended.
    let alone = desk.demo();
    assert_eq!(alone.page.port(), 1987);
    for n in 0..8 {
        drop(desk.person(&alone, &format!("later {n}")));
    }
}
