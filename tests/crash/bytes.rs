//! The connection is cut after every byte of an exchange, in both directions, and resumed: each message is delivered once.
//!
//! One case per exchange (up or down, QoS 1 or 2), direction of the bytes, and number of bytes that get through. The
//! client remembers what a durable client remembers: its unfinished SEND or REL, and the ids that it has received.

use crate::deployment::{Deployment, look, send};
use crate::harness::client::{BINARY, frame_bytes};
use crate::harness::{Command, Packet, Reply, Server, TIMEOUT, eventually};
use rainbow::audit::{Connection, Frame};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Bytes that the client writes.
    Written,
    /// Bytes that the client reads.
    Read,
}

/// The client's memory, and what has come of the exchange.
#[derive(Debug, Default)]
struct Memory {
    /// What is unanswered: the SEND, or the REL once REC has come.
    unanswered: Option<Packet>,
    answers: Vec<Vec<u8>>,
    /// Ids received and, at QoS 2, not released.
    received: Vec<u16>,
    delivered: Vec<Vec<u8>>,
}

/// A connection that ends after so many bytes of one side.
struct CutConnection {
    connection: Connection,
    side: Side,
    left: usize,
}

impl CutConnection {
    /// An error once the connection is cut.
    fn send(&mut self, packet: &Packet) -> io::Result<()> {
        let bytes = frame_bytes(true, BINARY, &packet.bytes());
        if self.side == Side::Read || bytes.len() < self.left {
            self.left -= if self.side == Side::Written { bytes.len() } else { 0 };
            return self.connection.write(&bytes);
        }
        self.connection.write(&bytes[..self.left])?;
        // The server is to have every one of these bytes, and no more.
        self.connection.end_writing();
        while self.connection.read(TIMEOUT)? {}
        panic!("the server keeps a connection whose client has hung up");
    }

    fn receive(&mut self, timeout: Duration) -> io::Result<Option<Packet>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(Frame::Binary(range)) = self.connection.next_frame()? {
                return Ok(Some(Packet::parse(self.connection.payload(&range))));
            }
            let known = self.connection.unused();
            let left = deadline.saturating_duration_since(Instant::now());
            if self.side == Side::Read && self.left == 0 {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if left.is_zero() || !self.connection.read(left)? {
                return Ok(None);
            }
            if self.side == Side::Read {
                let new = self.connection.unused() - known;
                let cut = new.saturating_sub(self.left);
                self.connection.forget_last(cut);
                self.left -= new - cut;
            }
        }
    }
}

impl Memory {
    fn handle(&mut self, packet: &Packet, connection: &mut CutConnection) -> io::Result<()> {
        match packet.command {
            Command::Send => {
                if !self.received.contains(&packet.id) {
                    self.received.push(packet.id);
                    self.delivered.push(packet.body.clone());
                }
                let answer = if packet.qos == 1 { Command::Ack } else { Command::Rec };
                connection.send(&Packet::answer(answer, packet.id, ""))
            }
            Command::Rel => {
                self.received.retain(|id| *id != packet.id);
                connection.send(&Packet::answer(Command::Com, packet.id, ""))
            }
            Command::Ack => {
                self.answers.push(packet.body.clone());
                self.unanswered = None;
                Ok(())
            }
            Command::Rec => {
                self.answers.push(packet.body.clone());
                let rel = Packet::answer(Command::Rel, packet.id, "");
                self.unanswered = Some(rel.clone());
                connection.send(&rel)
            }
            Command::Com => {
                self.unanswered = None;
                Ok(())
            }
        }
    }
}

/// Numbers its answers, the same one to the same key, as a business server does that wants each message once.
fn answers_by_key(what: &str) -> Deployment {
    let deployment = Deployment::new(what);
    let known: Mutex<HashMap<String, usize>> = Mutex::default();
    deployment.backend.on_message(move |request| {
        let key = request.header("idempotency-key").expect("every message has its key").to_owned();
        let mut known = known.lock().unwrap();
        let next = known.len();
        Reply::ok(format!("answer {}", known.entry(key).or_insert(next)))
    });
    deployment
}

fn open(server: &Server, session: &str, side: Side, left: usize) -> CutConnection {
    let (connection, greeting) = Connection::open(server.addr(), session, 0, true).expect("let in");
    assert_eq!(greeting.session.as_deref(), Some(session));
    CutConnection { connection, side, left }
}

/// Bytes until the exchange is over without a cut.
const ALL: usize = usize::MAX;

/// Runs a client's message with a cut after `bytes`; true when that cut anything.
fn up(deployment: &Deployment, server: &Server, qos: u8, side: Side, bytes: usize) -> bool {
    let session = format!("up-{qos}-{side:?}-{bytes}");
    let body = format!("{session} says");
    let mut memory = Memory::default();
    let mut connection = open(server, &session, side, bytes);
    let message = Packet::send(qos, 5, 1, &body);
    memory.unanswered = Some(message.clone());
    let cut = converse(&mut memory, &mut connection, Some(message)).is_err();
    drop(connection);
    if cut {
        let mut connection = open(server, &session, Side::Read, ALL);
        let repeat = memory.unanswered.clone().map(Packet::with_dup);
        converse(&mut memory, &mut connection, repeat).expect("nothing cuts this connection");
    }
    let of_mine: Vec<_> = deployment.backend.messages().into_iter().filter(|request| request.text() == body).collect();
    let keys: HashSet<_> = of_mine.iter().map(|request| request.header("idempotency-key")).collect();
    assert_eq!(keys.len(), 1, "{session}: forwarded as {keys:?}");
    // Of QoS 1 an answer may be forgotten with its connection; then the same key lets the business server know the repeat.
    assert!(qos == 1 || of_mine.len() == 1, "{session}: forwarded {} times", of_mine.len());
    assert!(!memory.answers.is_empty(), "{session}: no answer");
    assert!(memory.answers.iter().all(|answer| *answer == memory.answers[0]), "{session}: {:?}", memory.answers);
    cut
}

/// Sends `first` and goes on until nothing is unanswered.
fn converse(memory: &mut Memory, connection: &mut CutConnection, first: Option<Packet>) -> io::Result<()> {
    if let Some(first) = first {
        connection.send(&first)?;
    }
    let deadline = Instant::now() + TIMEOUT;
    while memory.unanswered.is_some() {
        assert!(Instant::now() < deadline, "no answer: {memory:?}");
        if let Some(packet) = connection.receive(TIMEOUT)? {
            memory.handle(&packet, connection)?;
        }
    }
    Ok(())
}

/// Runs a message to a client with a cut after `bytes`; true when that cut anything.
fn down(server: &Server, qos: u8, side: Side, bytes: usize) -> bool {
    let session = format!("down-{qos}-{side:?}-{bytes}");
    let body = format!("to {session}");
    let mut memory = Memory::default();
    let mut connection = open(server, &session, side, bytes);
    let call = std::thread::spawn({
        let (to, session, body) = (server.addr(), session.clone(), body.clone());
        move || send(to, &session, &[("qos", &qos.to_string())], &body)
    });
    let cut = listen(server, &session, qos, &mut memory, &mut connection).is_err();
    drop(connection);
    if cut {
        let mut connection = open(server, &session, Side::Read, ALL);
        for id in memory.received.iter().filter(|_| qos == 2) {
            connection.send(&Packet::answer(Command::Rec, *id, "")).expect("nothing cuts this connection");
        }
        listen(server, &session, qos, &mut memory, &mut connection).expect("nothing cuts this connection");
    }
    let answer = call.join().expect("the call is answered");
    let promised = answer["connections"].as_u64().unwrap_or(0) + answer["stored"].as_u64().unwrap_or(0);
    assert_eq!((&answer["status"], promised), (&serde_json::json!(0), 1), "{session}: {answer}");
    assert_eq!(memory.delivered, [body.as_bytes()], "{session}");
    // Whoever comes back finds no message left; a REL may be, where COM was the last word on its connection.
    let mut connection = open(server, &session, Side::Read, ALL);
    while let Some(rest) = connection.receive(Duration::from_millis(20)).expect("nothing cuts this connection") {
        assert_eq!(rest.command, Command::Rel, "{session}: {rest:?} sent again");
    }
    cut
}

/// Answers what comes until the message has come and nothing of it is left at the server.
fn listen(
    server: &Server,
    session: &str,
    qos: u8,
    memory: &mut Memory,
    connection: &mut CutConnection,
) -> io::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        assert!(Instant::now() < deadline, "{session} still has something waiting: {memory:?}");
        match connection.receive(Duration::from_millis(20))? {
            Some(packet) => memory.handle(&packet, connection)?,
            None if memory.delivered.is_empty() || qos == 2 && !memory.received.is_empty() => {}
            None if look(server.addr(), session)["waiting"] == 0 => return Ok(()),
            None => {}
        }
    }
}

#[test]
fn a_clients_message_survives_a_cut_after_every_byte() {
    let deployment = answers_by_key("bytes-up");
    let server = deployment.start();
    for (qos, side) in [(1, Side::Written), (1, Side::Read), (2, Side::Written), (2, Side::Read)] {
        let cuts = (0..).take_while(|bytes| up(&deployment, &server, qos, side, *bytes)).count();
        // The packet's own bytes alone are more than these.
        assert!(cuts > 10, "QoS {qos}: only {cuts} places to cut what is {side:?}");
    }
}

#[test]
fn a_message_to_a_client_survives_a_cut_after_every_byte() {
    let deployment = answers_by_key("bytes-down");
    let server = deployment.start();
    for (qos, side) in [(1, Side::Written), (1, Side::Read), (2, Side::Written), (2, Side::Read)] {
        let cuts = (0..).take_while(|bytes| down(&server, qos, side, *bytes)).count();
        assert!(cuts >= 9, "QoS {qos}: only {cuts} places to cut what is {side:?}");
    }
    eventually("the server is well", || Some(look(server.addr(), "down-1-Read-0")));
}
