//! What the operator costs: ten open pages and a scraper, beside connections that say nothing, each in a channel of its own.
//! The figure is the CPU that all workers together spend more than without them, as a share of one CPU.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::Bench;
use super::million::{PER_TABLE, Shared, await_count};
use crate::dialect::Dialect;
use crate::round::Outcome;
use crate::row::Row;
use crate::swarm::{Play, Swarm};
use crate::sys;
use crate::target::{Kind, Target};

const PAGES: usize = 10;
const SCRAPE: Duration = Duration::from_secs(15);
/// A page asks for brief figures each second, and for all of them, with the past, each so many.
const WHOLE_EACH: u64 = 10;
const ADMIN_TOKEN: &str = "bench-admin-token";

pub fn pages(bench: &Bench, clients: usize, watch_s: f64) -> Result<Vec<Row>, String> {
    let workers = clients.div_ceil(PER_TABLE).max(1);
    // Nothing else shall happen meanwhile.
    let config = format!(
        "admin_token = \"{ADMIN_TOKEN}\"\nping_interval = \"1h\"\nhandshake_timeout = 120\nfirst_byte_timeout = 120\n\
         connect_timeout = 60\n"
    );
    let mut started = bench.start(&Kind::Rainbow { workers, cores: vec![bench.server_core()], config })?;
    let shared = Shared::default();
    let used = thread::scope(|scope| {
        for number in 0..workers {
            let (first, shared, port) = (number * PER_TABLE, &shared, started.target.port);
            let share = PER_TABLE.min(clients - first);
            scope.spawn(move || {
                if let Err(what) = sit(port, first, share, shared) {
                    shared.fail(what);
                }
            });
        }
        let used = watch(&started.target, clients, watch_s, &shared);
        shared.over.store(true, Relaxed);
        used
    });
    let Used { idle, watched, answers } = used?;
    let mut outcome =
        Outcome { faults: std::mem::take(&mut *shared.faults.lock().expect("no panic")), ..Outcome::default() };
    started.judge(&mut outcome);
    let idle_mean = idle.iter().sum::<f64>() / idle.len() as f64;
    Ok(vec![Row {
        scenario: "pages",
        case: format!("{PAGES} pages and a scraper, {clients} clients and channels, {workers} workers"),
        target: started.target.name.clone(),
        unit: "% of a CPU",
        value: watched - idle_mean,
        low: watched - idle[0].max(idle[1]),
        high: watched - idle[0].min(idle[1]),
        must: (clients >= 100_000).then_some(1.0),
        ops: answers,
        faults: outcome.faults,
        extra: vec![("without_them", idle_mean), ("with_them", watched)],
        ..Row::default()
    }])
}

/// In percent of a CPU.
struct Used {
    /// Before and after.
    idle: [f64; 2],
    watched: f64,
    answers: u64,
}

fn watch(target: &Target, clients: usize, watch_s: f64, shared: &Shared) -> Result<Used, String> {
    sys::own_table(&[]).map_err(|error| format!("unshare: {error}"))?;
    await_count(&shared.open, clients as u64, "connected", shared)?;
    target.wait_for("connections", clients as u64)?;
    let watch = Duration::from_secs_f64(watch_s);
    // What connecting has left to do is done.
    thread::sleep(watch / 4);
    let (over, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = cpu_percent(target, watch)?;
    let watched = thread::scope(|scope| {
        let (over, answers) = (&over, &answers);
        let readers = [
            scope.spawn(move || look(target.port, over, answers)),
            scope.spawn(move || scrape(target.port, over, answers)),
        ];
        let used = cpu_percent(target, watch);
        over.store(true, Relaxed);
        for reader in readers {
            reader.join().expect("no panic").map_err(|error| format!("a page: {error}"))?;
        }
        used
    })?;
    let after = cpu_percent(target, watch)?;
    Ok(Used { idle: [before, after], watched, answers: answers.load(Relaxed) })
}

fn cpu_percent(target: &Target, time: Duration) -> Result<f64, String> {
    let now = || {
        target.pids().into_iter().map(sys::cpu_ns).sum::<Result<u64, _>>().map_err(|error| format!("/proc: {error}"))
    };
    let (before, began) = (now()?, Instant::now());
    thread::sleep(time);
    Ok((now()? - before) as f64 / began.elapsed().as_nanos() as f64 * 100.0)
}

/// The pages in turn, each once a second, over a connection of its own.
fn look(port: u16, over: &AtomicBool, answers: &AtomicU64) -> Result<(), String> {
    let mut pages = (0..PAGES).map(|_| Page::open(port)).collect::<Result<Vec<_>, _>>()?;
    let (began, mut looks) = (Instant::now(), 0);
    while !over.load(Relaxed) {
        let page = looks as usize % PAGES;
        answers.fetch_add(pages[page].look()?, Relaxed);
        looks += 1;
        let next = began + Duration::from_secs(1) * looks / PAGES as u32;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn scrape(port: u16, over: &AtomicBool, answers: &AtomicU64) -> Result<(), String> {
    let mut scraper = Page::open(port)?;
    let mut next = Instant::now();
    while !over.load(Relaxed) {
        if next <= Instant::now() {
            scraper.get("/metrics")?;
            answers.fetch_add(1, Relaxed);
            next += SCRAPE;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What polls as src/io/api/serverinfo/poll.js does.
struct Page {
    stream: BufReader<TcpStream>,
    looks: u64,
    /// The last sample of the past that it knows.
    last: Option<u64>,
}

impl Page {
    fn open(port: u16) -> Result<Page, String> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(|error| error.to_string())?;
        Ok(Page { stream: BufReader::new(stream), looks: 0, last: None })
    }

    /// How many answers it took.
    fn look(&mut self) -> Result<u64, String> {
        let is_whole = self.looks.is_multiple_of(WHOLE_EACH);
        self.looks += 1;
        if !is_whole {
            return self.get("/info/?brief=1").map(|_| 1);
        }
        self.get("/info/")?;
        let after = self.last.map_or_else(String::new, |last| format!("&after={last}"));
        let past = self.get(&format!("/info/history/?span=hour{after}"))?;
        let past: serde_json::Value = serde_json::from_slice(&past).map_err(|error| error.to_string())?;
        self.last = past["last"].as_u64();
        Ok(2)
    }

    fn get(&mut self, path: &str) -> Result<Vec<u8>, String> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\r\n");
        let words = |error: std::io::Error| format!("{path}: {error}");
        self.stream.get_mut().write_all(request.as_bytes()).map_err(words)?;
        let (mut head, mut len) = (String::new(), None);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            if self.stream.read_line(&mut head).map_err(words)? == 0 {
                return Err(format!("{path}: the connection has ended"));
            }
            if let Some(value) = head[start..].to_ascii_lowercase().strip_prefix("content-length:") {
                len = value.trim().parse::<usize>().ok();
            }
        }
        let mut body = vec![0; len.ok_or_else(|| format!("{path}: no length in {head}"))?];
        self.stream.read_exact(&mut body).map_err(words)?;
        if head.starts_with("HTTP/1.1 200") { Ok(body) } else { Err(format!("{path}: {head}")) }
    }
}

/// Connects its share, and stays until all is over.
fn sit(port: u16, first: usize, share: usize, shared: &Shared) -> Result<(), String> {
    sys::own_table(&[]).map_err(|error| format!("unshare: {error}"))?;
    let mut swarm = Swarm::new(port, first as u32, Dialect::Rainbow).map_err(|error| format!("epoll: {error}"))?;
    swarm.connecting_max = CONNECTING_MAX;
    swarm.timeout_ns = 60_000_000_000;
    let mut quiet = Quiet { shared };
    swarm.connect(&mut quiet, share, move |who| format!("own:{}", first + who as usize))?;
    while !shared.over.load(Relaxed) && swarm.faults.count == 0 {
        swarm.turn(&mut quiet, 50_000_000).map_err(|error| format!("epoll: {error}"))?;
    }
    match swarm.faults.words.pop() {
        Some(what) => Err(what),
        None => Ok(()),
    }
}

struct Quiet<'a> {
    shared: &'a Shared,
}

impl Play for Quiet<'_> {
    fn on_open(&mut self, _swarm: &mut Swarm, _who: u32) {
        self.shared.open.fetch_add(1, Relaxed);
    }

    fn on_message(&mut self, swarm: &mut Swarm, who: u32, _opcode: u8, _payload: &[u8]) {
        swarm.faults.add(format!("client {who} got a message"));
    }
}

/// Of one thread.
const CONNECTING_MAX: usize = 256;
