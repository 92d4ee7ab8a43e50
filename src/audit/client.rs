//! One client of the audit on a thread of its own: it sends, answers, loses its connection in every way, and connects
//! again.
//!
//! Faults are drawn from the run's seed: cut now, cut in the middle of a write or of what was just read, a second
//! connection while the first is open, a pause without reading, an absence. The session itself (ids, what is
//! unanswered, what was received) survives them all. Started by `audit::run`.

mod connection;
mod session;

pub use connection::{Connection, Frame, Greeting};

use super::ledger::{Entry, Fact, Ledger};
use super::payload::{Direction, Stream};
use super::progress::{Phase, count};
use super::run::Run;
use crate::base::rng::Rng;
use crate::wire::packet::{MessageId, Packet, QoS};
use crate::wire::ws::frame::{ClientFrame, CloseCode, Opcode};
use session::{Outputs, Session};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

pub struct Client {
    run: Arc<Run>,
    number: u32,
    session: Session,
    ledger: Ledger,
    rng: Rng,
    connection: Option<Connection>,
    out: Vec<u8>,
    /// The server has promised to store the session.
    has_session: bool,
    attempts: u32,
    /// The client does not connect before then; it does not read before then.
    away_until: Instant,
    paused_until: Instant,
    next_fault: Option<Instant>,
    cut_next: Option<Cut>,
    sends: bool,
    finale: bool,
    returned: bool,
}

/// In the middle of what the connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Write,
    Read,
}

impl Client {
    pub fn new(run: Arc<Run>, number: u32) -> io::Result<Client> {
        let name = format!("client-{number}");
        let ledger = Ledger::create(&run.options.ledger, &name, run.options.plant)?;
        let mut rng = Rng::new(run.options.seed ^ u64::from(number) << 32);
        // Every third session goes round the end of the ids soon.
        let first_id =
            if number % 3 == 2 { MessageId(MessageId::MAX.0 - rng.below(200) as u16) } else { MessageId::MIN };
        let session = Session::new(run.number, number, first_id);
        let now = Instant::now();
        count(&run.progress.senders);
        Ok(Client {
            run,
            number,
            session,
            ledger,
            rng,
            connection: None,
            out: Vec::new(),
            has_session: false,
            attempts: 0,
            away_until: now,
            paused_until: now,
            next_fault: None,
            cut_next: None,
            sends: true,
            finale: false,
            returned: false,
        })
    }

    pub fn run(mut self) {
        loop {
            let phase = self.run.progress.phase();
            if phase == Phase::Over {
                return self.leave();
            }
            if phase == Phase::Finale && !std::mem::replace(&mut self.finale, true) {
                self.connection = None;
                self.away_until = Instant::now();
            }
            if phase > Phase::Running {
                (self.cut_next, self.paused_until) = (None, Instant::now());
                self.away_until = self.away_until.min(Instant::now() + BACKOFF_MAX);
                self.stop_sending();
            }
            let turn = if self.connection.is_some() { self.turn(phase) } else { self.connect() };
            if let Err(error) = turn {
                if error.kind() == io::ErrorKind::InvalidData {
                    self.run.progress.complain(format!("session {}: {error}", self.number));
                }
                self.connection = None;
                self.cut_next = None;
            }
        }
    }

    /// Brings about a fault that is due, sends what is due, handles what has come. Blocks for a moment at most.
    fn turn(&mut self, phase: Phase) -> io::Result<()> {
        let now = Instant::now();
        if phase == Phase::Running && self.is_fault_due(now) {
            return self.fault(now);
        }
        if now < self.paused_until {
            thread::sleep((self.paused_until - now).min(CHECK));
            return Ok(());
        }
        if phase == Phase::Running {
            self.fill_window(now);
        }
        if self.session.next_repeat().is_some_and(|due| due <= now) {
            let (session, mut outputs) = split(&mut self.session, &mut self.out, &mut self.ledger, &self.run);
            session.repeat_due(now, &mut outputs);
        }
        self.write()?;
        let wake = [self.session.next_repeat(), self.next_fault.filter(|_| phase == Phase::Running)];
        let wake = wake.into_iter().flatten().min().map_or(CHECK, |wake| wake.saturating_duration_since(now));
        // The connection may have been cut in that write.
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let unused_before = connection.unused();
        if !connection.read(wake.min(CHECK))? {
            return Ok(());
        }
        let cut = self.cut_next == Some(Cut::Read);
        if cut {
            let new = connection.unused() - unused_before;
            connection.forget_last(self.rng.below(new as u64 + 1) as usize);
        }
        self.handle_frames()?;
        self.write()?;
        if cut { self.cut(Instant::now()) } else { Ok(()) }
    }

    fn handle_frames(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let Some(connection) = &mut self.connection else { return Ok(()) };
        while let Some(frame) = connection.next_frame()? {
            let (session, mut outputs) = split(&mut self.session, &mut self.out, &mut self.ledger, &self.run);
            match frame {
                Frame::Binary(range) => match Packet::decode(connection.payload(&range)) {
                    Ok(packet) => session.on_packet(packet, now, &mut outputs),
                    Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
                },
                Frame::Ping(range) => {
                    let pong = connection.payload(&range);
                    ClientFrame { fin: true, opcode: Opcode::Pong, key: [1, 2, 3, 4], payload: pong }
                        .write_into(outputs.out);
                }
                Frame::Close(code) if code == CloseCode::GOING_AWAY.0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Frame::Close(code) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("closed with {code}")));
                }
                Frame::Other => {}
            }
        }
        Ok(())
    }

    fn fill_window(&mut self, now: Instant) {
        if !self.sends {
            return;
        }
        let quota = self.run.quota();
        while self.session.in_flight() < WINDOW {
            let open: Vec<QoS> =
                self.run.options.qos.iter().copied().filter(|qos| self.session.sent(*qos) < quota).collect();
            if open.is_empty() {
                return self.stop_sending();
            }
            let qos = open[self.rng.below(open.len() as u64) as usize];
            let (session, mut outputs) = split(&mut self.session, &mut self.out, &mut self.ledger, &self.run);
            session.send(qos, now, &mut outputs);
        }
    }

    fn stop_sending(&mut self) {
        if std::mem::replace(&mut self.sends, false) {
            self.run.progress.senders.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Writes the packets, after the ledger; or a part of them, when the connection is to be cut here.
    fn write(&mut self) -> io::Result<()> {
        self.ledger.flush();
        let Some(connection) = self.connection.as_mut().filter(|_| !self.out.is_empty()) else { return Ok(()) };
        let out = std::mem::take(&mut self.out);
        if self.cut_next == Some(Cut::Write) {
            let len = self.rng.below(out.len() as u64) as usize;
            connection.write(&out[..len])?;
            return self.cut(Instant::now());
        }
        connection.write(&out)?;
        self.out = out;
        self.out.clear();
        Ok(())
    }

    // — Connecting —

    fn connect(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if now < self.away_until {
            thread::sleep((self.away_until - now).min(CHECK));
            return Ok(());
        }
        self.attempts += 1;
        let backoff = (BACKOFF_MIN * 2u32.pow(self.attempts.min(8))).min(BACKOFF_MAX);
        self.away_until = now + backoff.mul_f64(0.5 + self.rng.below(100) as f64 / 200.0);
        match self.open() {
            Ok(connection) => {
                self.connection = Some(connection);
                Ok(())
            }
            Err(error) => {
                count(&self.run.progress.connects_failed);
                Err(error)
            }
        }
    }

    /// Opens a new connection of this session and sends everything unanswered again.
    fn open(&mut self) -> io::Result<Connection> {
        let durable = !self.run.options.channels;
        let progress = &self.run.progress;
        let attempt = progress.attempts.fetch_add(1, Ordering::Relaxed);
        let (connection, greeting) =
            Connection::open(self.run.target(&mut self.rng), &self.run.session_name(self.number), attempt, durable)?;
        self.run.closes.let_in(attempt);
        count(&progress.connects);
        (self.attempts, self.away_until) = (0, Instant::now());
        let now = Instant::now();
        let name = greeting.session.as_deref();
        if durable && name != Some(&self.run.session_name(self.number)) {
            let wrong = format!("greeted as {name:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
        }
        if durable && self.has_session && !greeting.resumed {
            progress.complain(format!("session {} was begun anew", self.number));
            let stream = Stream { direction: Direction::Down, qos: QoS::AtLeastOnce, session: self.number };
            self.ledger.note(Entry { fact: Fact::SessionLost, stream, sequence: 0, key: 0 });
        }
        let first = !std::mem::replace(&mut self.has_session, true);
        self.out.clear();
        let (session, mut outputs) = split(&mut self.session, &mut self.out, &mut self.ledger, &self.run);
        if greeting.resumed {
            session.resume(now, &mut outputs)
        } else {
            session.start_afresh(now, &mut outputs)
        }
        if first {
            count(&self.run.progress.opened);
        }
        if self.finale && !std::mem::replace(&mut self.returned, true) {
            count(&self.run.progress.returned);
        }
        Ok(connection)
    }

    // — Faults —

    fn is_fault_due(&mut self, now: Instant) -> bool {
        if self.run.options.cuts_per_second == 0 {
            return false;
        }
        let mean_ms = 1000 * u64::from(self.run.options.sessions) / u64::from(self.run.options.cuts_per_second);
        let due = self.next_fault.is_some_and(|due| due <= now);
        if due || self.next_fault.is_none() {
            self.next_fault = Some(now + Duration::from_millis(self.rng.below(2 * mean_ms + 1)));
        }
        due
    }

    fn fault(&mut self, now: Instant) -> io::Result<()> {
        match self.rng.below(100) {
            0..35 => self.cut_next = Some(Cut::Write),
            35..55 => self.cut_next = Some(Cut::Read),
            55..65 => return self.cut(now),
            65..80 => return self.take_over(),
            80..90 => {
                count(&self.run.progress.pauses);
                self.paused_until = now + Duration::from_millis(50 + self.rng.below(1500));
            }
            _ => {
                count(&self.run.progress.absences);
                let _ = self.cut(now);
                self.away_until = now + Duration::from_millis(200 + self.rng.below(3000));
            }
        }
        Ok(())
    }

    /// Drops the connection with everything that was in flight.
    fn cut(&mut self, now: Instant) -> io::Result<()> {
        count(&self.run.progress.cuts);
        (self.connection, self.cut_next) = (None, None);
        self.out.clear();
        self.away_until = now + Duration::from_millis(self.rng.below(100));
        Ok(())
    }

    /// Opens a second connection while the first is open. What the first has not read is lost.
    fn take_over(&mut self) -> io::Result<()> {
        self.cut_next = None;
        let older = self.connection.take().expect("a connection to take over from");
        let newer = self.open()?;
        self.connection = Some(newer);
        self.write()?;
        count(&self.run.progress.takeovers);
        if !self.run.options.channels && older.ends_with(CloseCode::TAKEN_OVER.0, TAKEOVER_CLOSE_TIMEOUT) {
            count(&self.run.progress.takeovers_notified);
        }
        Ok(())
    }

    /// The run is over.
    fn leave(mut self) {
        let mut out = Vec::new();
        let code = CloseCode::NORMAL.0.to_be_bytes();
        ClientFrame { fin: true, opcode: Opcode::Close, key: [1, 2, 3, 4], payload: &code }.write_into(&mut out);
        if let Some(connection) = &mut self.connection {
            let _ = connection.write(&out);
        }
        self.ledger.flush();
    }
}

fn split<'a>(
    session: &'a mut Session,
    out: &'a mut Vec<u8>,
    ledger: &'a mut Ledger,
    run: &'a Run,
) -> (&'a mut Session, Outputs<'a>) {
    (session, Outputs { out, ledger, progress: &run.progress })
}

/// Messages of a client that may be unanswered at once.
const WINDOW: usize = 16;
/// How often a waiting thread checks the phase.
const CHECK: Duration = Duration::from_millis(100);
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// An older connection is closed when the newer one is let in; longer is as good as never.
const TAKEOVER_CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
