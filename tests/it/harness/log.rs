//! What a child process prints, line by line, bounded, and awaited rather than polled.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// The last lines of a child's stdout and stderr, in the order of their arrival.
#[derive(Clone, Default)]
pub struct Log {
    inner: Arc<(Mutex<Lines>, Condvar)>,
}

#[derive(Default)]
struct Lines {
    recent: VecDeque<String>,
    readers: usize,
}

impl Log {
    /// Reads a pipe until its end, on a thread of its own.
    pub fn follow(&self, pipe: impl Read + Send + 'static) {
        self.inner.0.lock().unwrap().readers += 1;
        let log = self.clone();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let mut lines = log.inner.0.lock().unwrap();
                if lines.recent.len() == LINES_MAX {
                    lines.recent.pop_front();
                }
                lines.recent.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
                log.inner.1.notify_all();
                line.clear();
            }
            log.inner.0.lock().unwrap().readers -= 1;
            log.inner.1.notify_all();
        });
    }

    /// Waits for a line that `wanted` accepts, printed before or from now on.
    pub fn wait_for(&self, what: &str, timeout: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + timeout;
        let mut lines = self.inner.0.lock().unwrap();
        loop {
            if let Some(line) = lines.recent.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let text: Vec<_> = lines.recent.iter().cloned().collect();
                drop(lines);
                panic!("no line with {what} within {timeout:?} in:\n{}", text.join("\n"));
            }
            lines = self.inner.1.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Waits until every pipe has ended, which is when the process has; false when the time is over first.
    pub fn wait_end(&self, timeout: Duration) -> bool {
        let lines = self.inner.0.lock().unwrap();
        let (lines, _) = self.inner.1.wait_timeout_while(lines, timeout, |lines| lines.readers > 0).unwrap();
        lines.readers == 0
    }

    /// Waits for the next line or the end of a pipe, at most so long.
    pub fn wait_change(&self, timeout: Duration) {
        let lines = self.inner.0.lock().unwrap();
        let _ = self.inner.1.wait_timeout(lines, timeout).unwrap();
    }

    pub fn lines(&self) -> Vec<String> {
        self.inner.0.lock().unwrap().recent.iter().cloned().collect()
    }

    pub fn text(&self) -> String {
        self.lines().join("\n")
    }
}

const LINES_MAX: usize = 20_000;
