//! Clients that make the server hold as much for them as they can. Each kind of them costs no more than src/config/README.md says,
//! and whoever behaves is served meanwhile. `RAINBOW_HOSTILE=1000 cargo test --test it hostile -- --nocapture` tries
//! that many.

use crate::harness::client::frame_bytes;
use crate::harness::http::Wire;
use crate::harness::metrics::read;
use crate::harness::{Backend, Client, Command, Packet, Reply, Server, Setup, eventually, send};
use std::io::Write;
use std::time::Duration;

/// Of a worker, by `clients_memory_max`; there are two.
const BUDGET: u64 = 8 << 20;
/// What an allocator keeps of what was given back, what a client costs that does nothing, and what one input may add.
const SLACK: u64 = 16 << 20;
const SLACK_PER_CLIENT: u64 = 40 << 10;

struct Siege {
    server: Server,
    attackers: Vec<Client>,
    before: u64,
    name: &'static str,
}

impl Siege {
    fn begin(name: &'static str, setup: Setup) -> Siege {
        let budget = BUDGET.to_string();
        let server = setup.set("clients_memory_max", &budget).set("workers", "2").start();
        let attackers = (0..attackers()).map(|n| Client::open(server.addr(), &format!("attacker{n}"))).collect();
        let before = server.rss();
        Siege { server, attackers, before, name }
    }

    /// Each says `bytes` so often, or until nobody takes more of it.
    fn all_say(&mut self, bytes: &[u8], times: usize) {
        for client in &mut self.attackers {
            client.stream().set_write_timeout(Some(Duration::from_millis(20))).expect("not zero");
            let mut stream = client.stream();
            for _ in 0..times {
                if stream.write_all(bytes).is_err() {
                    break;
                }
            }
        }
    }

    /// Messages that nobody reads, until the kernel takes no more of them for anybody.
    fn fill_sockets(&mut self) {
        let body = vec![b'x'; 64 << 10];
        let dropped = || read(self.server.addr())["rainbow_messages_dropped_qos0_total{direction=\"out\"}"];
        let wanted = self.attackers.len() as f64;
        eventually("the sockets are full", || {
            for _ in 0..20 {
                send(self.server.addr(), "all", &[("qos", "0")], &body);
            }
            (dropped() > wanted).then_some(())
        });
    }

    fn end(mut self) {
        let mut honest = Client::open(self.server.addr(), "honest");
        honest.send(1, 1, 1, "am I served?");
        honest.expect(Command::Ack, 1);
        let grown = self.server.rss().saturating_sub(self.before);
        let most = 4 * BUDGET + SLACK + SLACK_PER_CLIENT * self.attackers.len() as u64;
        println!("{} × {}: {} KiB more", self.attackers.len(), self.name, grown >> 10);
        assert!(grown <= most, "{}: {} MiB more, {} may be", self.name, grown >> 20, most >> 20);
        self.server.assert_alive();
    }
}

fn attackers() -> usize {
    std::env::var("RAINBOW_HOSTILE").map_or(40, |text| text.parse().expect("a number"))
}

fn backend() -> Backend {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "all"));
    backend
}

fn packets(packet: &Packet, times: usize) -> Vec<u8> {
    frame_bytes(true, 2, &packet.bytes()).repeat(times)
}

#[test]
fn who_reads_nothing_costs_what_readme_says() {
    let backend = backend();
    let mut siege = Siege::begin("reads nothing", Setup::of(&backend));
    siege.fill_sockets();
    siege.end();
}

#[test]
fn answers_to_packets_that_nobody_reads_cost_what_readme_says() {
    let backend = backend();
    for (name, packet) in
        [("repeats REL", Packet::answer(Command::Rel, 7, "")), ("repeats REC", Packet::answer(Command::Rec, 7, ""))]
    {
        let mut siege = Siege::begin(name, Setup::of(&backend));
        siege.fill_sockets();
        siege.all_say(&packets(&packet, 1000), 300);
        siege.end();
    }
}

#[test]
fn pings_whose_answers_nobody_reads_cost_what_readme_says() {
    let backend = backend();
    let mut siege = Siege::begin("pings", Setup::of(&backend));
    siege.fill_sockets();
    siege.all_say(&frame_bytes(true, 9, &[b'p'; 125]).repeat(100), 1000);
    siege.end();
}

#[test]
fn messages_that_do_not_end_cost_what_readme_says() {
    let backend = backend();
    let mut siege = Siege::begin("begins a message of 1 MiB", Setup::of(&backend));
    let whole = frame_bytes(true, 2, &Packet::send(0, 1, 0, vec![b'x'; (1 << 20) - 100]).bytes());
    siege.all_say(&whole[..whole.len() - 1], 1);
    siege.end();
}

#[test]
fn answers_that_are_not_released_cost_what_readme_says() {
    let backend = backend();
    backend.on_message(|request| match request.text().as_str() {
        "x" => Reply::ok(vec![b'a'; 100_000]),
        _ => Reply::ok("you are"),
    });
    let mut siege = Siege::begin("releases nothing", Setup::of(&backend));
    let burst: Vec<u8> = (1..=12).flat_map(|id| packets(&Packet::send(2, 1, id, "x"), 1)).collect();
    siege.all_say(&burst, 1);
    siege.end();
}

#[test]
fn heads_that_do_not_end_cost_what_readme_says() {
    let backend = backend();
    let siege = Siege::begin("does not end its head", Setup::of(&backend));
    let head = format!("GET /connect/ HTTP/1.1\r\nX: {}", "x".repeat(15_000));
    let wires: Vec<Wire> = (0..attackers())
        .map(|_| {
            let mut wire = Wire::connect(siege.server.addr());
            wire.write(head.as_bytes());
            wire
        })
        .collect();
    siege.end();
    drop(wires);
}
