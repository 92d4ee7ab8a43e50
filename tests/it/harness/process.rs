//! A child process that cannot outlive its test.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::TIMEOUT;
use super::log::Log;
use super::sys;

/// A running child; killed when dropped.
pub struct Process {
    child: Child,
    pub log: Log,
    ended: bool,
}

/// How a child ended and what it printed.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub text: String,
}

impl Process {
    /// Starts `command` without any `RAINBOW_*` variable of ours, which would override its configuration; but
    /// `RAINBOW_TEST_DRIVER` is the driver of every server, and each is alone: those of other tests would be its peers.
    pub fn start(command: Command, env: &[(String, String)]) -> Process {
        let mut process = Process::start_with_stderr(command, env, Stdio::piped());
        process.log.follow(process.child.stderr.take().expect("piped"));
        process
    }

    /// As `start`; its log has what it prints to stdout only.
    pub fn start_with_stderr(mut command: Command, env: &[(String, String)], stderr: Stdio) -> Process {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RAINBOW_") {
                command.env_remove(&name);
            }
        }
        if let Some(driver) = std::env::var_os("RAINBOW_TEST_DRIVER") {
            command.env("RAINBOW_DRIVER", driver);
        }
        command.env("RAINBOW_CLUSTER", "off");
        command.envs(env.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let log = Log::default();
        log.follow(child.stdout.take().expect("piped"));
        Process { child, log, ended: false }
    }

    /// Runs `command` to its end.
    pub fn run(command: Command, env: &[(String, String)]) -> Outcome {
        let mut process = Process::start(command, env);
        let status = process.wait(TIMEOUT);
        Outcome { status, text: process.log.text() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `TERM`, `HUP`, `INT`.
    pub fn signal(&self, signal: &str) {
        sys::kill(self.child.id(), signal);
    }

    /// The end that comes by itself, within `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let begun = Instant::now();
        let ended = self.log.wait_end(timeout);
        assert!(ended, "still running after {timeout:?}, its log:\n{}", self.log.text());
        let status = self.child.wait().expect("a child of ours");
        assert!(begun.elapsed() <= timeout + Duration::from_secs(1), "it closed its output long before it ended");
        self.ended = true;
        status
    }

    /// None while it runs.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("a child of ours");
        self.ended |= status.is_some();
        status
    }

    /// SIGKILL, and the end of it awaited.
    pub fn kill(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
            self.ended = true;
        }
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("a live process has VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("VmRSS: <n> kB");
        kib * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
