//! `rainbow-server top`: the figures of a server in the terminal, live. It asks for what a page asks for: plain figures
//! each time, and now and then what costs the server a walk over its channels.
//!
//! It draws on the terminal's second screen, and gives the first one back however it ends. What the frame says is in
//! `frame`.

use super::client::{Answer, call_within};
use super::exit::{CommandError, Exit};
use super::frame::{Rates, Size, draw};
use super::options::{Terminal, TopOptions};
use super::output::{Format, Output, Shape};
use super::request::Request;
use super::server::Server;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

pub fn watch(options: &TopOptions, server: &Server, terminal: &Terminal) -> Result<Exit, CommandError> {
    let mut watched = match Watched::begin(server)? {
        Ok(watched) => watched,
        Err(refused) => return Ok(Output::new(Format::Text, Shape::Info).print(&refused)),
    };
    let interval = Duration::from_secs(options.interval.into());
    if options.once || !io::stdout().is_terminal() {
        if (terminal.wait)(interval) {
            return Ok(Exit::Done);
        }
        watched.refresh(server)?;
        let frame = watched.frame(Size { columns: options.columns.unwrap_or(COLUMNS), rows: usize::MAX });
        let _ = writeln!(io::stdout(), "{}", frame.join("\n"));
        return Ok(Exit::Done);
    }
    let screen = Screen::open();
    loop {
        let (columns, rows) = (terminal.size)().unwrap_or((COLUMNS, ROWS));
        let size = Size { columns: options.columns.unwrap_or(columns), rows };
        // Whoever has closed the terminal reads no more.
        if screen.show(&watched.frame(size)).is_err() || (terminal.wait)(interval) {
            return Ok(Exit::Done);
        }
        // A server that is restarted comes back.
        watched.trouble = watched.refresh(server).err().map(|error| error.to_string());
    }
}

/// A server's figures, and those of a moment ago.
struct Watched {
    /// The last whole answer.
    whole: Value,
    whole_at: Instant,
    figures: Value,
    at: Instant,
    rates: Option<Rates>,
    /// Why the figures are old.
    trouble: Option<String>,
}

impl Watched {
    /// Or the server's refusal.
    fn begin(server: &Server) -> Result<Result<Watched, Answer>, CommandError> {
        let answer = call_within(server, &Request::get("/info/"), ANSWER_TIMEOUT)?;
        let at = Instant::now();
        let Some(whole) = read(&answer) else { return Ok(Err(answer)) };
        let figures = whole.clone();
        Ok(Ok(Watched { whole, whole_at: at, figures, at, rates: None, trouble: None }))
    }

    fn refresh(&mut self, server: &Server) -> Result<(), CommandError> {
        let is_whole = self.whole_at.elapsed() >= WHOLE_INTERVAL;
        let target = if is_whole { "/info/" } else { "/info/?brief=1" };
        let answer = call_within(server, &Request::get(target), ANSWER_TIMEOUT)?;
        let now = Instant::now();
        let Some(figures) = read(&answer) else {
            return Err(CommandError::Refused { server: server.name(), status: answer.status });
        };
        self.rates = Rates::between(&self.figures, &figures, now.duration_since(self.at));
        (self.figures, self.at) = (figures, now);
        if is_whole {
            (self.whole, self.whole_at) = (self.figures.clone(), now);
        }
        Ok(())
    }

    fn frame(&self, size: Size) -> Vec<String> {
        draw(&self.figures, &self.whole, self.rates.as_ref(), self.trouble.as_deref(), size)
    }
}

/// The figures that an answer has; `None` for a refusal.
fn read(answer: &Answer) -> Option<Value> {
    let figures: Value = serde_json::from_slice(&answer.body).ok()?;
    (answer.status == 200 && figures["status"] == 0).then_some(figures)
}

/// The terminal's second screen, without a cursor, for as long as this lives.
struct Screen;

impl Screen {
    fn open() -> Screen {
        let _ = io::stdout().write_all(OPEN.as_bytes());
        Screen
    }

    /// One write, so that nobody sees half of it. Each line ends the rest of what stood there.
    fn show(&self, rows: &[String]) -> io::Result<()> {
        let text = format!("{TO_TOP}{}{END_OF_ROW}{END_OF_SCREEN}", rows.join(&format!("{END_OF_ROW}\r\n")));
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(CLOSE.as_bytes());
        let _ = stdout.flush();
    }
}

/// xterm's control sequences, which every terminal of today has.
const OPEN: &str = "\x1b[?1049h\x1b[?25l";
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";
const TO_TOP: &str = "\x1b[H";
const END_OF_ROW: &str = "\x1b[K";
const END_OF_SCREEN: &str = "\x1b[J";
/// A terminal that does not say how large it is.
const COLUMNS: usize = 80;
const ROWS: usize = 24;
/// A server that answers later is in trouble, which the frame says.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const WHOLE_INTERVAL: Duration = Duration::from_secs(10);
