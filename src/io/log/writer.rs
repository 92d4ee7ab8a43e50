//! The log: lines are formatted by the thread that logs, and written to stderr by a thread of their own.
//!
//! Whoever logs never waits and never fails. A line that finds the queue full, or that stderr does not take (a full
//! disk, a reader that has gone), is lost and counted; when a line is written again, the log says how many were lost.
//! What happens more often than `limit` allows is suppressed and counted as well.
//!
//! Called by the binary, at the start and at the end; everybody else uses `tracing`.

use super::limit::LineLimit;
use crate::config::{LogFormat, log_targets};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};
use tracing::error;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

/// The process's log; flushed when it is dropped.
pub struct Log {
    filter: reload::Handle<Targets, Registry>,
}

/// Changes the filter while the server runs.
#[derive(Clone)]
pub struct LogFilter(reload::Handle<Targets, Registry>);

/// Lines that did not get into the log since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLoss {
    pub lost: u64,
    pub suppressed: u64,
}

impl Log {
    /// Once per process, after the signals were blocked. From here on panics go to the log, too.
    pub fn start(filter: &str, format: LogFormat) -> io::Result<Log> {
        let limit = LineLimit::new(&SUPPRESSED);
        let sender = LineSender::start(io::stderr(), &LOST, limit.clone())?;
        let (filter, handle) = reload::Layer::new(parse(filter));
        let writer = sender.clone();
        let lines = fmt::layer().with_writer(move || writer.clone()).log_internal_errors(false);
        let lines = match format {
            LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
            LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        };
        let subscriber = tracing_subscriber::registry().with(filter).with(lines).with(limit);
        subscriber.try_init().map_err(io::Error::other)?;
        let _ = QUEUE.set(sender.queue);
        std::panic::set_hook(Box::new(log_panic));
        Ok(Log { filter: handle })
    }

    pub fn filter(&self) -> LogFilter {
        LogFilter(self.filter.clone())
    }

    pub fn loss() -> LogLoss {
        LogLoss { lost: LOST.load(Relaxed), suppressed: SUPPRESSED.load(Relaxed) }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        flush();
    }
}

/// Waits until what was logged before is written or lost, for `FLUSH_TIMEOUT` at most.
pub fn flush() {
    let Some(queue) = QUEUE.get() else { return };
    let (flushed, wait) = bounded(1);
    let end = Instant::now() + FLUSH_TIMEOUT;
    if queue.send_deadline(Entry::Flush(flushed), end).is_ok() {
        let _ = wait.recv_deadline(end);
    }
}

impl LogFilter {
    pub fn set(&self, filter: &str) {
        // It fails only when the subscriber is gone, and then nobody logs.
        let _ = self.0.reload(parse(filter));
    }
}

/// What the configuration has checked.
fn parse(filter: &str) -> Targets {
    log_targets(filter).unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO))
}

/// The standard hook writes to stderr itself, and would wait there for a reader.
fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => error!(thread = name, "{info}\n{backtrace}"),
        _ => error!(thread = name, "{info}"),
    }
}

enum Entry {
    Line(Vec<u8>),
    /// Answered when all lines before it were written or lost.
    Flush(Sender<()>),
}

/// Where formatted lines go; never waits.
#[derive(Clone)]
struct LineSender {
    queue: Sender<Entry>,
    queued_bytes: Arc<AtomicUsize>,
    lost: &'static AtomicU64,
}

impl LineSender {
    fn start<W: Write + Send + 'static>(out: W, lost: &'static AtomicU64, limit: LineLimit) -> io::Result<LineSender> {
        let (queue, lines) = bounded(QUEUE_LINES_MAX);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let writer = LineWriter { out, lines, queued_bytes: queued_bytes.clone(), lost, lost_reported: 0, torn: false };
        thread::Builder::new().name("rainbow-log".into()).spawn(move || writer.run(&limit))?;
        Ok(LineSender { queue, queued_bytes, lost })
    }
}

impl Write for LineSender {
    /// One call is one line: so the subscriber's formatter does it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let len = line.len();
        let is_room = self.queued_bytes.fetch_add(len, Relaxed) + len <= QUEUE_BYTES_MAX;
        if !is_room || self.queue.try_send(Entry::Line(line.to_vec())).is_err() {
            self.queued_bytes.fetch_sub(len, Relaxed);
            self.lost.fetch_add(1, Relaxed);
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct LineWriter<W> {
    out: W,
    lines: Receiver<Entry>,
    queued_bytes: Arc<AtomicUsize>,
    lost: &'static AtomicU64,
    /// How many of them the log has reported.
    lost_reported: u64,
    /// The last line was written in part.
    torn: bool,
}

impl<W: Write> LineWriter<W> {
    /// Until all senders are gone. While nothing is logged it sleeps without a timer.
    fn run(mut self, limit: &LineLimit) {
        let (mut is_idle, mut reported) = (true, Instant::now());
        loop {
            let entry = match is_idle {
                true => self.lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => self.lines.recv_timeout(REPORT_INTERVAL),
            };
            is_idle = entry.is_err();
            match entry {
                Ok(Entry::Line(line)) => self.write_line(&line),
                Ok(Entry::Flush(flushed)) => drop(flushed.send(())),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if is_idle || reported.elapsed() >= REPORT_INTERVAL {
                limit.report_suppressed();
                reported = Instant::now();
            }
        }
    }

    fn write_line(&mut self, line: &[u8]) {
        self.queued_bytes.fetch_sub(line.len(), Relaxed);
        let newline: &[u8] = if self.torn { b"\n" } else { b"" };
        let written = self.write_all(newline).and_then(|()| {
            self.torn = false;
            self.write_all(line)
        });
        if written.is_err() {
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        let lost = self.lost.load(Relaxed);
        if lost > self.lost_reported {
            let lines = lost - self.lost_reported;
            self.lost_reported = lost;
            error!(lines, total = lost, "log lines were lost: stderr did not take them");
        }
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.out.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.torn = !bytes.is_empty();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process has made the descriptor, which it shares, one that does not block.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(WOULD_BLOCK_PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// That of the one log.
static QUEUE: OnceLock<Sender<Entry>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// A burst of a second at the speed of a slow disk.
const QUEUE_LINES_MAX: usize = 4096;
const QUEUE_BYTES_MAX: usize = 4 << 20;
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Not shorter than the window of `limit`: what was suppressed in one is known at the next.
const REPORT_INTERVAL: Duration = Duration::from_millis(1_000);
const WOULD_BLOCK_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Takes what it has room for.
    #[derive(Clone, Default)]
    struct Disk {
        written: Arc<Mutex<Vec<u8>>>,
        room: Arc<AtomicUsize>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room.load(Relaxed));
            if count == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.room.fetch_sub(count, Relaxed);
            self.written.lock().expect("no panics").extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sender(disk: &Disk) -> LineSender {
        let lost = Box::leak(Box::new(AtomicU64::new(0)));
        let suppressed = Box::leak(Box::new(AtomicU64::new(0)));
        LineSender::start(disk.clone(), lost, LineLimit::new(suppressed)).expect("a thread")
    }

    fn wait_until_written(sender: &LineSender) {
        let (flushed, wait) = bounded(1);
        sender.queue.send(Entry::Flush(flushed)).expect("the writer lives");
        wait.recv().expect("the writer lives");
    }

    #[test]
    fn a_line_that_is_not_taken_is_counted_and_the_next_one_stands_on_its_own() {
        let disk = Disk::default();
        disk.room.store(7, Relaxed);
        let mut sender = sender(&disk);
        for line in ["one\n", "two, torn\n", "three\n"] {
            sender.write_all(line.as_bytes()).expect("it never fails");
        }
        wait_until_written(&sender);
        assert_eq!(sender.lost.load(Relaxed), 2);
        disk.room.store(100, Relaxed);
        sender.write_all(b"four\n").expect("it never fails");
        wait_until_written(&sender);
        assert_eq!(&*disk.written.lock().expect("no panics"), b"one\ntwo\nfour\n");
        assert_eq!((sender.lost.load(Relaxed), sender.queued_bytes.load(Relaxed)), (2, 0));
    }

    #[test]
    fn a_writer_that_hangs_holds_up_nobody_and_only_so_much_waits() {
        let (disk, lost) = (Disk::default(), Box::leak(Box::new(AtomicU64::new(0))));
        let (queue, lines) = bounded(QUEUE_LINES_MAX);
        let mut sender = LineSender { queue, queued_bytes: Arc::default(), lost };
        let line = vec![b'x'; 10_000];
        (0..1_000).for_each(|_| sender.write_all(&line).expect("it never fails"));
        assert_eq!(lines.len(), QUEUE_BYTES_MAX / line.len());
        (0..2 * QUEUE_LINES_MAX).for_each(|_| sender.write_all(b"x").expect("it never fails"));
        assert_eq!(lines.len(), QUEUE_LINES_MAX);
        assert_eq!(lost.load(Relaxed), (1_000 + 2 * QUEUE_LINES_MAX - QUEUE_LINES_MAX) as u64);
        assert!(disk.written.lock().expect("no panics").is_empty());
    }
}
