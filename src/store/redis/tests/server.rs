//! A redis-server of the test's own, and a proxy to it that can be cut.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Killed, and its directory removed, when it goes.
pub struct Server {
    child: Option<Child>,
    pub port: u16,
    /// Of a cluster's node, where it speaks to the others.
    pub bus: u16,
    pub dir: PathBuf,
    more: Vec<String>,
}

impl Server {
    /// Each answer of it comes after its fsync.
    pub fn start() -> Server {
        Server::with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    pub fn with(more: &[&str]) -> Server {
        let more = more.iter().map(|arg| arg.to_string()).collect();
        let mut server = Server { child: None, port: 0, bus: 0, dir: new_dir(), more };
        server.find_a_port();
        server
    }

    pub fn sentinel(config: &str) -> Server {
        let mut server = Server { child: None, port: 0, bus: 0, dir: new_dir(), more: Vec::new() };
        let file = server.dir.join("sentinel.conf");
        fs::write(&file, config).expect("its settings");
        server.more = vec![file.to_string_lossy().into_owned(), "--sentinel".into()];
        server.find_a_port();
        server
    }

    pub fn cluster_node() -> Server {
        let bus = free_port();
        let more = ["--appendonly", "yes", "--appendfsync", "always", "--cluster-enabled", "yes", "--cluster-port"];
        let more = more.iter().map(|arg| arg.to_string()).chain([bus.to_string()]).collect();
        let mut server = Server { child: None, port: 0, bus, dir: new_dir(), more };
        server.find_a_port();
        server
    }

    fn find_a_port(&mut self) {
        // The port is free when it is looked for; another process may be quicker.
        let started = (0..5).any(|_| {
            self.port = free_port();
            self.run()
        });
        assert!(started, "redis-server does not start");
    }

    /// Starts it where it was, with what lies in its directory.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.run(), "redis-server does not start again");
    }

    /// The same with other settings.
    pub fn restart_with(&mut self, more: &[&str]) {
        self.more = more.iter().map(|arg| arg.to_string()).collect();
        self.restart();
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// As a power failure would, but for the disk.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }

    fn run(&mut self) -> bool {
        // Another one than the machine's, Valkey for instance.
        let program = std::env::var("RAINBOW_TEST_REDIS").unwrap_or_else(|_| "redis-server".into());
        let sentinel = self.more.iter().any(|arg| arg == "--sentinel");
        let mut child = Command::new(program)
            // A sentinel's file of settings comes first.
            .args(&self.more)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--logfile", ""])
            .args(if sentinel { &[][..] } else { &["--save", ""] })
            .arg("--dir")
            .arg(&self.dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server is needed for these tests: apt-get install redis-server");
        let mut log = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        let ready = loop {
            line.clear();
            if log.read_line(&mut line).expect("a log in UTF-8") == 0 {
                break false;
            }
            if line.contains("Ready to accept connections") || line.contains("Sentinel ID is") {
                break true;
            }
        };
        // It goes on to log; somebody must read.
        thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        if ready {
            self.child = Some(child);
        } else {
            child.wait().expect("it ends");
        }
        ready
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn query(&self, words: &str) -> redis::Value {
        let mut command = redis::Cmd::new();
        words.split(' ').for_each(|word| {
            command.arg(word);
        });
        self.run_command(&command)
    }

    pub fn run_command(&self, command: &redis::Cmd) -> redis::Value {
        let client = redis::Client::open(self.url()).expect("a URL");
        command.query(&mut client.get_connection().expect("a connection")).expect("an answer")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn new_dir() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("rainbow-redis-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let dir = std::env::temp_dir().join(name);
    fs::create_dir_all(&dir).expect("a directory for Redis");
    dir
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").port()
}

/// Hands bytes on, both ways, until it is to cut them.
pub struct Proxy {
    pub port: u16,
    cut: Arc<Cut>,
}

#[derive(Default)]
struct Cut {
    /// Bytes of answers that still come through, once `armed`.
    left: AtomicUsize,
    armed: AtomicBool,
    /// How many connections were cut.
    count: AtomicU32,
    /// The server's ends of cut connections: they stay open, as where a network fails. A stale connection is what the
    /// store must be able to end.
    server_ends: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("its address").port();
        let cut = Arc::new(Cut::default());
        let shared = cut.clone();
        // It ends with the process: a test's few lines are not worth a way to stop it.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (from, to) = (client.try_clone().expect("a handle"), server.try_clone().expect("a handle"));
                let cut = shared.clone();
                thread::spawn(move || cut.hand_down(server, client));
                let cut = shared.clone();
                thread::spawn(move || cut.hand_up(from, to));
            }
        });
        Proxy { port: own, cut }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The next answers come through up to that many bytes; then their connection is cut, once.
    pub fn cut_answers_after(&self, bytes: usize) {
        self.cut.left.store(bytes, Ordering::SeqCst);
        self.cut.armed.store(true, Ordering::SeqCst);
    }

    pub fn cuts(&self) -> u32 {
        self.cut.count.load(Ordering::SeqCst)
    }
}

impl Cut {
    /// What the client says.
    fn hand_up(&self, mut client: TcpStream, mut server: TcpStream) {
        let _ = std::io::copy(&mut client, &mut server);
        let end = server.local_addr().ok();
        let was_cut = |server: &TcpStream| server.local_addr().ok() == end;
        if !self.server_ends.lock().expect("no panic").iter().any(was_cut) {
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    /// What the server answers, as far as it comes through.
    fn hand_down(&self, mut server: TcpStream, mut client: TcpStream) {
        let mut buffer = [0; 16384];
        while let Ok(length @ 1..) = server.read(&mut buffer) {
            let armed = self.armed.load(Ordering::SeqCst);
            let through = if armed { length.min(self.left.load(Ordering::SeqCst)) } else { length };
            if client.write_all(&buffer[..through]).is_err() {
                break;
            }
            if armed {
                self.left.fetch_sub(through, Ordering::SeqCst);
            }
            if through < length {
                self.armed.store(false, Ordering::SeqCst);
                self.count.fetch_add(1, Ordering::SeqCst);
                // Before the client's end: `hand_up` looks for it then.
                self.server_ends.lock().expect("no panic").push(server);
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    }
}
