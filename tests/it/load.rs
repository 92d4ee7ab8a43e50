//! A thousand clients that talk: memory that stays, and a business server that is killed under them.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command as Process;
use std::time::{Duration, Instant};

use crate::harness::backend::read_request;
use crate::harness::fleet::Talking;
use crate::harness::http::Wire;
use crate::harness::ports::{Port, free_port};
use crate::harness::{Backend, Command, Packet, Reply, Server, Setup, full, heavy, process, sys};

#[test]
fn memory_does_not_grow_under_steady_load() {
    let _alone = heavy();
    sys::raise_descriptor_limit();
    let backend = Backend::start();
    backend.forgetful();
    backend.on_message(|r| Reply::ok(r.body.clone()));
    let server = Setup::of(&backend).text("listen", "0.0.0.0").set("backend_connections", "16").start();
    let mut fleet = Talking::open(server.port(), CLIENTS);
    let mut answered = 0u64;
    // The server keeps each client's last 64 answers for its repeats: they are there before growth is looked for.
    for member in fleet.members.iter_mut() {
        (1..=IN_FLIGHT)
            .for_each(|id| member.send(&Packet::send(1, 1, id, format!("message {id} of {}", member.number))));
    }
    let timeout = Instant::now() + Duration::from_secs(60);
    while answered < CLIENTS as u64 * u64::from(IN_FLIGHT) {
        assert!(Instant::now() < timeout, "only {answered} answers in a minute");
        fleet.turn(Duration::from_millis(250), |_, _| answered += 1);
    }
    let (warm, all) = if full() { (10, 60) } else { (4, 12) };
    let begun = Instant::now();
    answered = 0;
    let mut sent = vec![(IN_FLIGHT, begun); CLIENTS];
    // The most that it held while it warmed up: the allocator gives pages back, and takes them again, within that.
    let mut peak = server.rss();
    let mut sampled = begun;
    let mut due = begun;
    while begun.elapsed() < Duration::from_secs(all) {
        // Two messages per client and second: steady, and little enough for two shared cores.
        if Instant::now() >= due {
            due += Duration::from_millis(50);
            for member in fleet.members.iter_mut() {
                let (id, at) = &mut sent[member.number];
                if *at <= Instant::now() {
                    *id = *id % 60_000 + 1;
                    *at = Instant::now() + Duration::from_millis(450 + member.number as u64 % 100);
                    member.send(&Packet::send(1, 1, *id, format!("message {id} of {}", member.number)));
                }
            }
        }
        let timeout = due.saturating_duration_since(Instant::now());
        fleet.turn(timeout, |_, packet| {
            assert_eq!(packet.command, Command::Ack);
            answered += 1;
        });
        if begun.elapsed() < Duration::from_secs(warm) && sampled.elapsed() >= Duration::from_millis(250) {
            sampled = Instant::now();
            peak = peak.max(server.rss());
        }
    }
    let after = server.rss();
    fleet.assert_all_open();
    assert!(answered > CLIENTS as u64 * all / 2, "only {answered} answers in {all} s");
    println!("RSS {peak} to {after} bytes over {answered} messages");
    // A few pages are noise; a message kept per message would be tens of MiB.
    assert!(after <= peak + (2 << 20), "RSS went from {peak} to {after} bytes over {answered} messages");
}

/// Answers of QoS 1 that the server keeps per client.
const IN_FLIGHT: u16 = 64;

#[test]
fn killing_the_backend_costs_no_client_and_no_message() {
    let _alone = heavy();
    sys::raise_descriptor_limit();
    let port = free_port();
    let mut backend = start_backend(&port);
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", port.number);
    let server = Setup::new()
        .text("listen", "0.0.0.0")
        .text("connect_url", &url("/connect/"))
        .text("forward_url", &url("/message/{message_type}/"))
        .text("close_url", &url("/close/"))
        .set("backend_connections", "16")
        .set("retry_backoff_max", "1")
        .start();
    let mut fleet = Talking::open(server.port(), CLIENTS);
    let mut talk = Talk::begin(&mut fleet);
    talk.until(&mut fleet, &server, CLIENTS * MESSAGES / 4);
    backend.kill();
    let mut heard = arrivals(&backend.log.text());
    // Everybody has something under way while nobody is there to answer.
    let away = Instant::now() + Duration::from_secs(2);
    while Instant::now() < away {
        talk.turn(&mut fleet, away.saturating_duration_since(Instant::now()));
    }
    assert!(talk.answered < CLIENTS * MESSAGES, "the backend was killed too late to show anything");
    fleet.assert_all_open();
    backend = start_backend(&port);
    talk.until(&mut fleet, &server, CLIENTS * MESSAGES);
    fleet.assert_all_open();
    backend.kill();
    heard.extend(arrivals(&backend.log.text()));
    assert_in_order(&heard);
}

/// The conversation of the fleet: every client sends its messages in order, two at a time, and is answered in order.
struct Talk {
    sent: Vec<u16>,
    acknowledged: Vec<u16>,
    answered: usize,
}

impl Talk {
    fn begin(fleet: &mut Talking) -> Talk {
        for member in &mut fleet.members {
            for id in 1..=2 {
                let message = message(member.number, id);
                member.send(&message);
            }
        }
        Talk { sent: vec![2; CLIENTS], acknowledged: vec![0; CLIENTS], answered: 0 }
    }

    fn turn(&mut self, fleet: &mut Talking, timeout: Duration) {
        fleet.turn(timeout, |member, packet| {
            let number = member.number;
            assert_eq!(packet.command, Command::Ack);
            let expected = self.acknowledged[number] + 1;
            assert_eq!(packet.id, expected, "client {number} is answered out of order");
            assert_eq!(packet.text(), format!("{number} {expected}"));
            self.acknowledged[number] = expected;
            self.answered += 1;
            if usize::from(self.sent[number]) < MESSAGES {
                self.sent[number] += 1;
                member.send(&message(number, self.sent[number]));
            }
        });
    }

    fn until(&mut self, fleet: &mut Talking, server: &Server, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(40);
        while self.answered < count {
            assert!(Instant::now() < deadline, "{} of {count} answered; log:\n{}", self.answered, server.log());
            self.turn(fleet, Duration::from_millis(200));
            fleet.assert_all_open();
        }
    }
}

fn message(number: usize, id: u16) -> Packet {
    Packet::send(1, 1, id, format!("{number} {id}"))
}

/// `key number id` lines of the business server, in the order of their arrival.
fn arrivals(log: &str) -> Vec<(String, usize, u16)> {
    log.lines()
        .filter_map(|line| line.strip_prefix("heard "))
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        })
        .collect()
}

/// First arrivals of each client's messages are in order, and a repeat carries the key of its first.
fn assert_in_order(heard: &[(String, usize, u16)]) {
    let mut last: BTreeMap<usize, u16> = BTreeMap::new();
    let mut keys: HashMap<&str, (usize, u16)> = HashMap::new();
    for (key, number, id) in heard {
        match keys.insert(key, (*number, *id)) {
            Some(first) => assert_eq!(first, (*number, *id), "one key for two messages"),
            None => {
                let before = last.insert(*number, *id).unwrap_or(0);
                assert_eq!(*id, before + 1, "client {number}");
            }
        }
    }
    assert_eq!(last.len(), CLIENTS);
    assert!(last.values().all(|&id| usize::from(id) == MESSAGES));
}

/// The business server as a process of its own, so that it can be killed: this test binary, run again.
fn start_backend(port: &Port) -> process::Process {
    let mut command = Process::new(std::env::current_exe().expect("this test binary"));
    command.args(["--exact", "load::serve_as_backend_process", "--ignored", "--nocapture", "--test-threads=1"]);
    let backend = process::Process::start(command, &[(PORT_VARIABLE.into(), port.number.to_string())]);
    backend.log.wait_for("listening", crate::harness::TIMEOUT, |line| line.contains("listening"));
    backend
}

#[test]
#[ignore = "no test of its own: the process that killing_the_backend_costs_no_client_and_no_message starts and kills"]
fn serve_as_backend_process() {
    let Some(port) = std::env::var(PORT_VARIABLE).ok().and_then(|port| port.parse::<u16>().ok()) else { return };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a reserved port");
    say("listening");
    for stream in listener.incoming() {
        std::thread::spawn(move || {
            let mut wire = Wire::new(stream.expect("a client"));
            while let Ok(Some(request)) = read_request(&mut wire, 0) {
                let body = match request.path.starts_with("/message") {
                    true => {
                        say(&format!("heard {} {}", request.header("Idempotency-Key").unwrap_or("-"), request.text()));
                        request.body
                    }
                    false => br#"{"status": "success"}"#.to_vec(),
                };
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                wire.take_spared().expect("it was seen");
                wire.write(&[head.as_bytes(), &body].concat());
            }
        });
    }
}

/// One line in one write, past the capture of the test harness, so that a kill leaves no half of one.
fn say(line: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(format!("{line}\n").as_bytes());
}

const CLIENTS: usize = 1000;
const MESSAGES: usize = 8;
const PORT_VARIABLE: &str = "IT_BACKEND_PORT";
