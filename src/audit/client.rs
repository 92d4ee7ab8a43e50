//! One client of the audit on a thread of its own: it sends, answers, loses its line in every way, and comes back.
//!
//! Faults are drawn from the run's seed: cut now, cut in the middle of a write or of what was just read, a second
//! connection while the first still stands, a pause without reading, an absence. The session itself (ids, what is
//! unanswered, what was received) survives them all. Started by `audit::run`.

use super::Shared;
use super::board::{Phase, count};
use super::ledger::{Entry, Fact, Ledger};
use super::line::{Frame, Line};
use super::payload::{Direction, Stream};
use super::session::{Desk, Session};
use crate::base::rng::Rng;
use crate::wire::packet::{MessageId, Packet, QoS};
use crate::wire::ws::frame::{ClientFrame, CloseCode, Opcode};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

pub struct Client {
    shared: Arc<Shared>,
    number: u32,
    session: Session,
    ledger: Ledger,
    rng: Rng,
    line: Option<Line>,
    out: Vec<u8>,
    /// The server has promised to keep the session.
    promised: bool,
    attempts: u32,
    /// Not before then: the next attempt to connect; the next read.
    away_until: Instant,
    paused_until: Instant,
    next_fault: Option<Instant>,
    cut_next: Option<Cut>,
    sends: bool,
    finale: bool,
    returned: bool,
}

/// Where the line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Write,
    Read,
}

impl Client {
    pub fn new(shared: Arc<Shared>, number: u32) -> io::Result<Client> {
        let name = format!("client-{number}");
        let ledger = Ledger::create(&shared.options.ledger, &name, shared.options.plant)?;
        let mut rng = Rng::new(shared.options.seed ^ u64::from(number) << 32);
        // Every third session goes round the end of the ids soon.
        let first_id =
            if number % 3 == 2 { MessageId(MessageId::MAX.0 - rng.below(200) as u16) } else { MessageId::MIN };
        let session = Session::new(shared.run, number, first_id);
        let now = Instant::now();
        count(&shared.board.senders);
        Ok(Client {
            shared,
            number,
            session,
            ledger,
            rng,
            line: None,
            out: Vec::new(),
            promised: false,
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
            let phase = self.shared.board.phase();
            if phase == Phase::Over {
                return self.leave();
            }
            if phase == Phase::Finale && !std::mem::replace(&mut self.finale, true) {
                self.line = None;
                self.away_until = Instant::now();
            }
            if phase > Phase::Running {
                (self.cut_next, self.paused_until) = (None, Instant::now());
                self.away_until = self.away_until.min(Instant::now() + BACKOFF_MAX);
                self.stop_sending();
            }
            let turn = if self.line.is_some() { self.turn(phase) } else { self.connect() };
            if let Err(error) = turn {
                if error.kind() == io::ErrorKind::InvalidData {
                    self.shared.board.complain(format!("session {}: {error}", self.number));
                }
                self.line = None;
                self.cut_next = None;
            }
        }
    }

    /// Faults, what is due, what has come; blocks for a moment at most.
    fn turn(&mut self, phase: Phase) -> io::Result<()> {
        let now = Instant::now();
        if phase == Phase::Running && self.is_fault_due(now) {
            return self.fault(now);
        }
        if now < self.paused_until {
            thread::sleep((self.paused_until - now).min(LOOK));
            return Ok(());
        }
        if phase == Phase::Running {
            self.fill_window(now);
        }
        if self.session.repeat_at().is_some_and(|due| due <= now) {
            let (session, mut desk) = split(&mut self.session, &mut self.out, &mut self.ledger, &self.shared);
            session.repeat_due(now, &mut desk);
        }
        self.write()?;
        let wake = [self.session.repeat_at(), self.next_fault.filter(|_| phase == Phase::Running)];
        let wake = wake.into_iter().flatten().min().map_or(LOOK, |wake| wake.saturating_duration_since(now));
        // What was written may have been the last.
        let Some(line) = &mut self.line else { return Ok(()) };
        let kept = line.unused();
        if !line.read(wake.min(LOOK))? {
            return Ok(());
        }
        let cut = self.cut_next == Some(Cut::Read);
        if cut {
            let new = line.unused() - kept;
            line.forget_last(self.rng.below(new as u64 + 1) as usize);
        }
        self.handle_frames()?;
        self.write()?;
        if cut { self.cut(Instant::now()) } else { Ok(()) }
    }

    fn handle_frames(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let Some(line) = &mut self.line else { return Ok(()) };
        while let Some(frame) = line.next_frame()? {
            let (session, mut desk) = split(&mut self.session, &mut self.out, &mut self.ledger, &self.shared);
            match frame {
                Frame::Binary(range) => match Packet::decode(line.payload(&range)) {
                    Ok(packet) => session.on_packet(packet, now, &mut desk),
                    Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
                },
                Frame::Ping(range) => {
                    let pong = line.payload(&range);
                    ClientFrame { fin: true, opcode: Opcode::Pong, key: [1, 2, 3, 4], payload: pong }
                        .write_into(desk.out);
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
        let quota = self.shared.quota();
        while self.session.in_flight() < WINDOW {
            let open: Vec<QoS> =
                self.shared.options.qos.iter().copied().filter(|qos| self.session.sent(*qos) < quota).collect();
            if open.is_empty() {
                return self.stop_sending();
            }
            let qos = open[self.rng.below(open.len() as u64) as usize];
            let (session, mut desk) = split(&mut self.session, &mut self.out, &mut self.ledger, &self.shared);
            session.send(qos, now, &mut desk);
        }
    }

    fn stop_sending(&mut self) {
        if std::mem::replace(&mut self.sends, false) {
            self.shared.board.senders.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What is to be said goes out, after the ledger; or a part of it, when the line is to be cut here.
    fn write(&mut self) -> io::Result<()> {
        self.ledger.flush();
        let Some(line) = self.line.as_mut().filter(|_| !self.out.is_empty()) else { return Ok(()) };
        let out = std::mem::take(&mut self.out);
        if self.cut_next == Some(Cut::Write) {
            let len = self.rng.below(out.len() as u64) as usize;
            line.write(&out[..len])?;
            return self.cut(Instant::now());
        }
        line.write(&out)?;
        self.out = out;
        self.out.clear();
        Ok(())
    }

    // — Connecting —

    fn connect(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if now < self.away_until {
            thread::sleep((self.away_until - now).min(LOOK));
            return Ok(());
        }
        self.attempts += 1;
        let backoff = (BACKOFF_MIN * 2u32.pow(self.attempts.min(8))).min(BACKOFF_MAX);
        self.away_until = now + backoff.mul_f64(0.5 + self.rng.below(100) as f64 / 200.0);
        match self.open() {
            Ok(line) => {
                self.line = Some(line);
                Ok(())
            }
            Err(error) => {
                count(&self.shared.board.connects_failed);
                Err(error)
            }
        }
    }

    /// A new connection of this session, with everything unanswered said again.
    fn open(&mut self) -> io::Result<Line> {
        let keeps = !self.shared.options.channels;
        let (line, greeting) = Line::open(self.shared.options.target, &self.shared.session_name(self.number), keeps)?;
        let board = &self.shared.board;
        count(&board.connects);
        (self.attempts, self.away_until) = (0, Instant::now());
        let now = Instant::now();
        let name = greeting.session.as_deref();
        if keeps && name != Some(&self.shared.session_name(self.number)) {
            let wrong = format!("greeted as {name:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, wrong));
        }
        if keeps && self.promised && !greeting.resumed {
            board.complain(format!("session {} was begun anew", self.number));
            let stream = Stream { direction: Direction::Down, qos: QoS::AtLeastOnce, session: self.number };
            self.ledger.note(Entry { fact: Fact::SessionLost, stream, sequence: 0, key: 0 });
        }
        let first = !std::mem::replace(&mut self.promised, true);
        self.out.clear();
        let (session, mut desk) = split(&mut self.session, &mut self.out, &mut self.ledger, &self.shared);
        if greeting.resumed {
            session.resume(now, &mut desk)
        } else {
            session.start_afresh(now, &mut desk)
        }
        if first {
            count(&self.shared.board.opened);
        }
        if self.finale && !std::mem::replace(&mut self.returned, true) {
            count(&self.shared.board.returned);
        }
        Ok(line)
    }

    // — Faults —

    fn is_fault_due(&mut self, now: Instant) -> bool {
        if self.shared.options.cuts_per_second == 0 {
            return false;
        }
        let mean_ms = 1000 * u64::from(self.shared.options.sessions) / u64::from(self.shared.options.cuts_per_second);
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
                count(&self.shared.board.pauses);
                self.paused_until = now + Duration::from_millis(50 + self.rng.below(1500));
            }
            _ => {
                count(&self.shared.board.absences);
                let _ = self.cut(now);
                self.away_until = now + Duration::from_millis(200 + self.rng.below(3000));
            }
        }
        Ok(())
    }

    /// The line is gone, whatever was under way.
    fn cut(&mut self, now: Instant) -> io::Result<()> {
        count(&self.shared.board.cuts);
        (self.line, self.cut_next) = (None, None);
        self.out.clear();
        self.away_until = now + Duration::from_millis(self.rng.below(100));
        Ok(())
    }

    /// A second connection while the first one still stands. What the first has not read yet it never will.
    fn take_over(&mut self) -> io::Result<()> {
        self.cut_next = None;
        let older = self.line.take().expect("a line to take over from");
        let newer = self.open()?;
        self.line = Some(newer);
        self.write()?;
        count(&self.shared.board.takeovers);
        if !self.shared.options.channels && older.ends_with(CloseCode::TAKEN_OVER.0, OLDER_ENDS) {
            count(&self.shared.board.takeovers_told);
        }
        Ok(())
    }

    /// The run is over.
    fn leave(mut self) {
        let mut out = Vec::new();
        let code = CloseCode::NORMAL.0.to_be_bytes();
        ClientFrame { fin: true, opcode: Opcode::Close, key: [1, 2, 3, 4], payload: &code }.write_into(&mut out);
        if let Some(line) = &mut self.line {
            let _ = line.write(&out);
        }
        self.ledger.flush();
    }
}

fn split<'a>(
    session: &'a mut Session,
    out: &'a mut Vec<u8>,
    ledger: &'a mut Ledger,
    shared: &'a Shared,
) -> (&'a mut Session, Desk<'a>) {
    (session, Desk { out, ledger, board: &shared.board })
}

/// Messages of a client that may be unanswered at once.
const WINDOW: usize = 16;
/// How often a waiting thread looks at the phase.
const LOOK: Duration = Duration::from_millis(100);
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// An older connection is closed when the newer one is let in; longer is as good as never.
const OLDER_ENDS: Duration = Duration::from_secs(3);
