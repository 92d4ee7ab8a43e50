//! The server under test: configuration written to a directory of its own, a child process, its log.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::backend::Backend;
use super::ports::{Port, free_port};
use super::process::{Outcome, Process};
use super::sys::SystemCall;
use super::{TIMEOUT, TOKEN, http, sys};

/// How a server is to be started.
pub struct Setup {
    settings: Vec<(String, String)>,
    file: Option<(String, String)>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    with_file: bool,
    with_port: bool,
    /// What becomes the server: commands that change something for it.
    launcher: Vec<String>,
}

impl Setup {
    /// Two workers, loopback only, the 2014 token; no business server.
    pub fn new() -> Setup {
        let log = std::env::var("RAINBOW_IT_LOG").unwrap_or_else(|_| "info".into());
        let (settings, args, env, file, launcher) = Default::default();
        Setup { settings, file, args, env, with_file: true, with_port: true, launcher }
            .text("security_token", TOKEN)
            .text("listen", "127.0.0.1")
            .text("log", &log)
            .set("workers", "2")
    }

    /// All three hooks to this business server.
    pub fn of(backend: &Backend) -> Setup {
        Setup::new().backend(backend)
    }

    pub fn backend(self, backend: &Backend) -> Setup {
        self.text("connect_url", &backend.url("/connect/"))
            .text("forward_url", &backend.url("/message/{message_type}/"))
            .text("close_url", &backend.url("/close/"))
    }

    /// A key with its value as TOML writes it; a later one replaces an earlier one.
    pub fn set(mut self, key: &str, value: &str) -> Setup {
        self.settings.retain(|(k, _)| k != key);
        self.settings.push((key.into(), value.into()));
        self
    }

    pub fn text(self, key: &str, value: &str) -> Setup {
        let value = format!("{value:?}");
        self.set(key, &value)
    }

    /// This file, as it is, in place of the settings.
    pub fn file(mut self, name: &str, contents: &str) -> Setup {
        self.file = Some((name.into(), contents.into()));
        self
    }

    /// No `-f` at all.
    pub fn no_file(mut self) -> Setup {
        self.with_file = false;
        self
    }

    /// No `-p` at all.
    pub fn no_port(mut self) -> Setup {
        self.with_port = false;
        self
    }

    pub fn arg(mut self, arg: &str) -> Setup {
        self.args.push(arg.into());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Setup {
        self.env.push((name.into(), value.into()));
        self
    }

    /// With this RLIMIT_NOFILE.
    pub fn descriptors_max(mut self, max: u64) -> Setup {
        self.launcher.extend(sys::with_descriptor_limit(max));
        self
    }

    /// Where `unshare` is forbidden, as in many containers.
    pub fn without_unshare(mut self) -> Setup {
        self.launcher.extend(sys::without(&[SystemCall::UNSHARE]));
        self
    }

    /// As Docker runs it: under a seccomp filter like its default one, and not as root.
    pub fn in_a_container(mut self) -> Setup {
        let [setup, enter, register] = SystemCall::IO_URING;
        self.launcher.extend(sys::as_nobody());
        self.launcher.extend(sys::without(&[setup, enter, register, SystemCall::UNSHARE]));
        self
    }

    /// The server ends with the thread that starts it, and so with the test, however that ends.
    pub fn ends_with_its_thread(mut self) -> Setup {
        self.launcher.extend(["setpriv", "--pdeathsig", "KILL"].map(String::from));
        self
    }

    /// The configuration file's text.
    pub fn contents(&self) -> String {
        match &self.file {
            Some((_, contents)) => contents.clone(),
            None => self.settings.iter().map(|(k, v)| format!("{k} = {v}\n")).collect(),
        }
    }

    /// Starts it and waits until it answers.
    pub fn start(self) -> Server {
        let port = free_port();
        self.start_on(port)
    }

    pub fn start_on(self, port: Port) -> Server {
        let mut server = self.spawn_on(port);
        server.await_ready();
        server
    }

    /// For sub-commands that serve: they take the port behind their name, and know no `/hello/`.
    pub fn start_quietly(mut self) -> Server {
        let port = free_port();
        self.args.extend(["-p".into(), port.number.to_string()]);
        let server = self.no_port().spawn_on(port);
        super::eventually("it listens", || TcpStream::connect(server.addr()).ok());
        server
    }

    /// Starts it and waits for nothing.
    pub fn spawn(self) -> Server {
        self.spawn_on(free_port())
    }

    /// Starts it with this stderr, and waits until it answers.
    pub fn start_with_stderr(self, stderr: impl Into<Stdio>) -> Server {
        let (port, dir) = (free_port(), Dir::new());
        let (command, path) = self.command(&dir, Some(&port));
        let process = Process::start_with_stderr(command, &self.env, stderr.into());
        let server = Server { process, port, path, _dir: dir };
        super::eventually("it answers", || TcpStream::connect(server.addr()).ok());
        server
    }

    fn spawn_on(self, port: Port) -> Server {
        let dir = Dir::new();
        let (command, path) = self.command(&dir, Some(&port));
        let process = Process::start(command, &self.env);
        Server { process, port, path, _dir: dir }
    }

    /// Starts it and waits for its end: for configurations that are refused.
    pub fn refused(self) -> Outcome {
        let port = free_port();
        let dir = Dir::new();
        let (command, path) = self.command(&dir, Some(&port));
        let mut process = Process::start(command, &self.env);
        let deadline = Instant::now() + TIMEOUT;
        // A server that wrongly starts is told apart from one that is slow to refuse by its open port.
        while process.exited().is_none() {
            let accepted = TcpStream::connect((Ipv4Addr::LOCALHOST, port.number)).is_ok();
            assert!(!accepted, "started with a configuration that it should refuse:\n{}", read(&path));
            assert!(Instant::now() < deadline, "neither started nor refused:\n{}", process.log.text());
            process.log.wait_end(Duration::from_millis(20));
        }
        let status = process.wait(TIMEOUT);
        Outcome { status, text: process.log.text() }
    }

    /// Runs a sub-command (`config check`) to its end.
    pub fn run(self, subcommand: &[&str]) -> Outcome {
        let dir = Dir::new();
        let path = self.write(&dir);
        let mut command = binary();
        if self.with_file {
            command.arg("-f").arg(&path);
        }
        command.args(subcommand).args(&self.args);
        Process::run(command, &self.env)
    }

    fn command(&self, dir: &Dir, port: Option<&Port>) -> (Command, PathBuf) {
        let path = self.write(dir);
        let mut command = match self.launcher.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(dir.binary());
                command
            }
            None => binary(),
        };
        command.current_dir(&dir.path);
        if self.with_file {
            command.arg("-f").arg(&path);
        }
        if let Some(port) = port
            && self.with_port
        {
            command.arg("-p").arg(port.number.to_string());
        }
        command.args(&self.args);
        (command, path)
    }

    fn write(&self, dir: &Dir) -> PathBuf {
        let name = self.file.as_ref().map_or("rainbow.toml", |(name, _)| name);
        let path = dir.path.join(name);
        std::fs::write(&path, self.contents()).expect("a temporary directory is writable");
        path
    }
}

/// A running server; killed when dropped, and its log shown when the test fails.
pub struct Server {
    pub process: Process,
    port: Port,
    path: PathBuf,
    _dir: Dir,
}

impl Server {
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.number))
    }

    /// The operator's listener, as the log names it.
    pub fn admin_addr(&self) -> SocketAddr {
        let entry =
            self.process.log.wait_for("the operator's address", TIMEOUT, |entry| entry.contains(" admin_listen="));
        let (_, rest) = entry.split_once(" admin_listen=").expect("it was looked for");
        rest.split_whitespace().next().and_then(|address| address.parse().ok()).expect("an address")
    }

    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Ends it; its port may be used by the next.
    pub fn into_port(mut self) -> Port {
        std::mem::replace(&mut self.port, free_port())
    }

    /// Replaces the configuration file; nothing is told to the server.
    pub fn rewrite(&self, contents: &str) {
        std::fs::write(&self.path, contents).expect("a temporary directory is writable");
    }

    pub fn rss(&self) -> u64 {
        self.process.rss()
    }

    pub fn log(&self) -> String {
        self.process.log.text()
    }

    /// How many sockets each worker's own descriptor table holds.
    pub fn sockets_per_worker(&self) -> Vec<usize> {
        let tables = self.worker_tasks().into_iter().filter_map(|(_, task)| {
            let links = std::fs::read_dir(task.join("fd")).ok()?.flatten().map(|fd| std::fs::read_link(fd.path()));
            let sockets = links.filter(|to| to.as_ref().is_ok_and(|to| to.to_string_lossy().starts_with("socket:")));
            Some(sockets.count())
        });
        tables.collect()
    }

    /// The thread of the worker of that number, as the kernel names it.
    pub fn worker_thread(&self, worker: usize) -> u32 {
        let tasks = self.worker_tasks();
        let (_, task) = tasks.iter().find(|(number, _)| *number == worker).expect("there is such a worker");
        task.file_name().and_then(|tid| tid.to_str()?.parse().ok()).expect("a number")
    }

    /// Each worker's number and the folder of its thread.
    fn worker_tasks(&self) -> Vec<(usize, PathBuf)> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.pid())).expect("it runs");
        let workers = tasks.filter_map(|task| {
            let task = task.ok()?.path();
            let name = std::fs::read_to_string(task.join("comm")).ok()?;
            Some((name.trim().strip_prefix("rainbow-")?.parse().ok()?, task))
        });
        workers.collect()
    }

    /// SIGTERM; nothing is awaited.
    pub fn terminate(&self) {
        self.process.signal("TERM");
    }

    pub fn exited_within(&mut self, timeout: Duration) -> ExitStatus {
        self.process.wait(timeout)
    }

    /// The worker that lives is a worker that answers.
    pub fn assert_alive(&mut self) {
        assert!(self.process.exited().is_none(), "the server has ended:\n{}", self.log());
        let hello = http::get(self.addr(), "/hello/");
        assert_eq!((hello.status, hello.text().trim()), (200, "ok"), "/hello/ of a live server");
    }

    fn await_ready(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.process.exited() {
                self.process.log.wait_end(Duration::from_secs(1));
                panic!("ended at start with {status}:\n{}\nlog:\n{}", read(&self.path), self.log());
            }
            // The line says that all workers listen; before it, a call may meet a socket that is not here to stay.
            if self.process.log.lines().iter().any(|line| line.contains("listening")) {
                assert_eq!(http::get(self.addr(), "/hello/").text().trim(), "ok");
                return;
            }
            assert!(Instant::now() < deadline, "not listening on {} in time:\n{}", self.addr(), self.log());
            self.process.log.wait_change(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let died = self.process.exited();
        self.process.kill();
        if std::thread::panicking() {
            let lines = self.process.log.lines();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- server on {} (ended before: {died:?}), its last lines:\n{}", self.addr(), tail.join("\n"));
        }
    }
}

/// A directory that goes away with its owner.
pub struct Dir {
    pub path: PathBuf,
}

impl Dir {
    pub fn new() -> Dir {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("rainbow-it-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("the temporary directory is writable");
        Dir { path }
    }

    /// The path of the new file.
    pub fn write(&self, name: &str, contents: &str) -> String {
        let path = self.path.join(name);
        std::fs::write(&path, contents).expect("a temporary directory is writable");
        path.display().to_string()
    }
}

impl Dir {
    /// The server, where anybody may run it.
    fn binary(&self) -> PathBuf {
        let copy = self.path.join("rainbow-server");
        let original = server_binary();
        if std::fs::hard_link(&original, &copy).is_err() {
            std::fs::copy(&original, &copy).expect("a temporary directory is writable");
        }
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o777)).expect("it is ours");
        copy
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn binary() -> Command {
    Command::new(server_binary())
}

/// `RAINBOW_BIN`, which is a release build, or the one that cargo has built with the tests: that one looks at its whole
/// state again and again.
fn server_binary() -> PathBuf {
    std::env::var_os("RAINBOW_BIN").map_or_else(|| env!("CARGO_BIN_EXE_rainbow-server").into(), PathBuf::from)
}

fn read(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
