//! uplink-during-peer: clients' messages while another worker sends to it steadily.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use super::Bench;
use super::crowd::{Busy, p99_row, uplink_beside};
use crate::api;
use crate::backend::Backend;
use crate::dialect::Dialect;
use crate::row::Row;
use crate::sys;
use crate::target::{Kind, Target};

const ROOM: &str = "steady";

/// Calls of a burst: each is one message for the other worker.
const BURST: usize = 32;

/// Uplink at a fixed rate to two workers, alone and while one of them gets `messages` a second from the other, to a channel
/// of one client. Its p99 must not grow threefold.
pub fn uplink_during_peer(bench: &Bench, messages: f64, rate: f64, must: Option<f64>) -> Result<Vec<Row>, String> {
    let backend = Backend::start(true).map_err(|error| format!("backend: {error}"))?;
    let cores = vec![bench.server_core(), bench.plan.generator_core];
    let kind = Kind::Rainbow { workers: 2, cores, config: String::new() };
    let mut target = Target::start(&kind, backend.port, bench.server_core())?;
    let busy = Busy::default();
    let send = || send_steadily(&target, messages, &busy);
    let ((alone, during, mut outcome), sent_per_second) = uplink_beside(bench, &target, rate, &busy, send)?;
    backend.judge(&mut outcome);
    if !target.is_alive() {
        outcome.faults.add(format!("the server has died:\n{}", target.log_tail()));
    }
    let case = format!("100 clients, {rate}/s, during {messages} messages/s");
    let mut row = p99_row("uplink-during-peer", case, &during, outcome).against(&alone, must);
    row.extra.push(("messages_per_second", sent_per_second));
    Ok(vec![row])
}

/// Sends while it is wanted; returns how many a second that were.
fn send_steadily(target: &Target, messages: f64, busy: &Busy) -> Result<f64, String> {
    let mut member = placed(target, 0)?;
    member.write_all(Dialect::Rainbow.upgrade_request(1_000, ROOM).as_bytes()).map_err(words)?;
    let mut caller = placed(target, 1)?;
    let mut drain = member.try_clone().map_err(words)?;
    let reader = thread::spawn(move || while drain.read(&mut [0; 1 << 16]).is_ok_and(|read| read > 0) {});
    let (mut nonce, mut sent, mut spent) = (0, 0_u64, Duration::ZERO);
    busy.ready.store(true, Relaxed);
    while !busy.over.load(Relaxed) {
        let is_wanted = busy.wanted.load(Relaxed);
        busy.resting.store(!is_wanted, Relaxed);
        if !is_wanted {
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        let begun = Instant::now();
        burst(&mut caller, &mut nonce)?;
        sent += BURST as u64;
        thread::sleep(Duration::from_secs_f64(BURST as f64 / messages).saturating_sub(begun.elapsed()));
        spent += begun.elapsed();
    }
    member.shutdown(std::net::Shutdown::Both).map_err(words)?;
    reader.join().expect("no panic");
    Ok(sent as f64 / spent.as_secs_f64().max(1e-9))
}

/// One write, and all answers.
fn burst(caller: &mut TcpStream, nonce: &mut u64) -> Result<(), String> {
    let mut calls = Vec::new();
    for _ in 0..BURST {
        *nonce += 1;
        api::Send { channel: ROOM, qos: 0, timeout_s: 5, body: b"steady" }.write(*nonce, &mut calls);
    }
    caller.write_all(&calls).map_err(words)?;
    let (mut answers, mut buffer) = (0, vec![0; 1 << 16]);
    while answers < BURST {
        let read = caller.read(&mut buffer).map_err(words)?;
        if read == 0 {
            return Err("the server has closed the caller's connection".into());
        }
        answers += memchr::memmem::find_iter(&buffer[..read], b"HTTP/1.1 200").count();
    }
    Ok(())
}

/// A connection that this worker serves: the kernel chooses, and its table shows where it is.
fn placed(target: &Target, worker: usize) -> Result<TcpStream, String> {
    for _ in 0..64 {
        let before = sys::sockets_of_thread(target.pid(), &format!("rainbow-{worker}"));
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, target.port)).map_err(words)?;
        thread::sleep(Duration::from_millis(20));
        if sys::sockets_of_thread(target.pid(), &format!("rainbow-{worker}")) > before {
            stream.set_nodelay(true).map_err(words)?;
            return Ok(stream);
        }
    }
    Err(format!("of 64 connections none is with worker {worker}"))
}

fn words(error: std::io::Error) -> String {
    error.to_string()
}
