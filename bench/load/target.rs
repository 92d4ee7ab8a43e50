//! What is measured: a server or a floor, started as a process of its own, pinned, and stopped when dropped.

use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::api::{TOKEN, sign};
use crate::dialect::Dialect;
use crate::sys;

/// What to start.
#[derive(Clone, Debug)]
pub enum Kind {
    /// The server under test: this many workers on these cores; `config` is added to its file.
    Rainbow { workers: usize, cores: Vec<usize>, config: String },
    /// Two nodes on one core: clients come to one of them, callers to that or to the other.
    Cluster { callers_elsewhere: bool },
    /// One of `bench/floor/`, by its name there.
    Floor(&'static str),
    /// Another server, by its name in `bench/peers/`.
    Peer(&'static str),
}

/// A running process that listens on `port`.
pub struct Target {
    pub name: String,
    pub port: u16,
    pub kind: Kind,
    child: Child,
    log: PathBuf,
    /// The other node of a cluster.
    other: Option<Box<Target>>,
}

impl Target {
    /// Starts it and waits until it answers. `backend` is the port of the hooks; 0 for none.
    pub fn start(kind: &Kind, backend: u16, core: usize) -> Result<Target, String> {
        Target::start_in(kind, backend, core, None)
    }

    /// The same in a cgroup, whose file of processes is named.
    pub fn start_in(kind: &Kind, backend: u16, core: usize, cgroup: Option<CString>) -> Result<Target, String> {
        if let Kind::Cluster { .. } = kind {
            return Target::start_cluster(kind, backend, core);
        }
        let port = free_port();
        let dir = scratch_dir();
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let tag = format!("{}-{}", kind.name(), STARTED.fetch_add(1, Relaxed));
        let log = dir.join(format!("{tag}.log"));
        let cores = kind.cores().unwrap_or(vec![core]);
        let mut command = match kind {
            Kind::Rainbow { workers, cores, config } => {
                let file = dir.join(format!("{tag}.toml"));
                write(&file, &rainbow_config(backend, config, &tag));
                let mut command = Command::new(rainbow_binary());
                let cores = cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
                command.arg("-f").arg(file).args(["-p", &port.to_string(), "--cores", &cores]);
                command.args(["--workers", &workers.to_string()]);
                command
            }
            Kind::Cluster { .. } => unreachable!("two servers"),
            Kind::Floor(name) => {
                let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
                command.args(["floor", name, &port.to_string()]);
                command
            }
            Kind::Peer(name) => {
                let (file, template) = (dir.join(format!("{tag}.conf")), peer_file(name));
                let text = fs::read_to_string(&template).map_err(|error| format!("{}: {error}", template.display()))?;
                let text = text.replace("{port}", &port.to_string()).replace("{dir}", &dir.to_string_lossy());
                write(&file, &text);
                let (program, options) = if *name == "nchan" { ("nginx", "-c") } else { (*name, "-c") };
                let mut command = Command::new(format!("/usr/sbin/{program}"));
                command.arg(options).arg(file);
                command
            }
        };
        let output = fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        // The server would take it for one of its own settings.
        command.env_remove(BINARY_VARIABLE);
        if kind.is_clustered() {
            // Others on this machine may be told to stay alone.
            command.env("RAINBOW_CLUSTER", "auto");
        }
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a file")).stderr(output);
        sys::prepare(&mut command, cores, cgroup);
        let child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let mut target = Target { name: kind.name(), port, kind: kind.clone(), child, log, other: None };
        target.await_ready()?;
        Ok(target)
    }

    fn start_cluster(kind: &Kind, backend: u16, core: usize) -> Result<Target, String> {
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench-{}-{}", std::process::id(), CLUSTERS.fetch_add(1, Relaxed));
        let config = format!("cluster_name = \"{name}\"\n");
        let node = Kind::Rainbow { workers: 1, cores: vec![core], config };
        let (mut cluster, other) = (Target::start(&node, backend, core)?, Target::start(&node, backend, core)?);
        (cluster.name, cluster.kind, cluster.other) = (kind.name(), kind.clone(), Some(Box::new(other)));
        cluster.await_linked()?;
        Ok(cluster)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Those of all nodes.
    pub fn pids(&self) -> Vec<u32> {
        std::iter::once(self.pid()).chain(self.other.as_ref().map(|other| other.pid())).collect()
    }

    /// Where callers come to.
    pub fn api_port(&self) -> u16 {
        match (&self.kind, &self.other) {
            (Kind::Cluster { callers_elsewhere: true }, Some(other)) => other.port,
            _ => self.port,
        }
    }

    fn await_linked(&self) -> Result<(), String> {
        let nodes = [Some(self), self.other.as_deref()];
        let is_linked = |node: &Target| node.info().is_some_and(|info| info["peers"][0]["is_linked"] == true);
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if nodes.iter().flatten().all(|node| is_linked(node)) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("two nodes did not find each other:\n{}", self.log_tail()))
    }

    fn await_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended at its start ({status}):\n{}", self.name, self.log_tail()));
            }
            if self.answers().is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("{} did not answer on port {}:\n{}", self.name, self.port, self.log_tail()))
    }

    /// Some when it is ready: Rainbow says so itself, the others accept.
    fn answers(&self) -> Option<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        if matches!(self.kind, Kind::Rainbow { .. } | Kind::Cluster { .. }) {
            stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").ok()?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).ok()?;
            return (&answer[9..] == b"200").then_some(());
        }
        Some(())
    }

    /// Waits until a figure of `/info/` has come to a value.
    pub fn wait_for(&self, name: &str, value: u64) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut last = None;
        while Instant::now() < deadline {
            last = self.info().and_then(|info| info.get(name)?.as_u64());
            if last == Some(value) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("{name} of /info/ did not come to {value}: {last:?}"))
    }

    fn info(&self) -> Option<serde_json::Value> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs().to_string();
        let query = format!("timestamp={timestamp}&nonce=1&signature={}", sign(&timestamp, "1"));
        let request = format!("GET /info/?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let body = &answer[crate::ws::head_end(&answer)?..];
        serde_json::from_slice(body).ok()
    }

    /// The last lines that it wrote, for an error message.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> u64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap_or_default();
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * sys::PAGE
    }

    /// Whether it still runs; a server that died explains every fault after it.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None)) && self.other.as_mut().is_none_or(|other| other.is_alive())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Kind {
    /// The server on one core, its defaults but for the hooks.
    pub fn rainbow(core: usize) -> Kind {
        Kind::Rainbow { workers: 1, cores: vec![core], config: String::new() }
    }

    /// Its configuration names a cluster of its own.
    fn is_clustered(&self) -> bool {
        matches!(self, Kind::Rainbow { config, .. } if config.contains("cluster_name"))
    }

    pub fn name(&self) -> String {
        match self {
            Kind::Rainbow { .. } => "rainbow".into(),
            Kind::Cluster { callers_elsewhere: false } => "same node".into(),
            Kind::Cluster { callers_elsewhere: true } => "other node".into(),
            Kind::Floor(name) => format!("floor:{name}"),
            Kind::Peer(name) => (*name).into(),
        }
    }

    pub fn dialect(&self) -> Dialect {
        match self {
            Kind::Peer("nchan") => Dialect::Nchan,
            Kind::Peer("mosquitto") => Dialect::Mqtt,
            _ => Dialect::Rainbow,
        }
    }

    fn cores(&self) -> Option<Vec<usize>> {
        match self {
            Kind::Rainbow { cores, .. } => Some(cores.clone()),
            _ => None,
        }
    }
}

fn peer_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers").join(format!("{name}.conf"))
}

/// `tag` is another one for each server of this run.
fn rainbow_config(backend: u16, more: &str, tag: &str) -> String {
    // Other servers on this machine and of this run must not be its peers; earlier versions know this key, too.
    let process = std::process::id();
    let mut config = format!("security_token = \"{TOKEN}\"\nlog = \"warn\"\nlisten = \"127.0.0.1\"\n");
    if !more.contains("cluster_name") {
        config += &format!("cluster_name = \"bench-{process}-{tag}\"\n");
    }
    if backend != 0 && !more.contains("connect_url") {
        config += &format!(
            "connect_url = \"http://127.0.0.1:{backend}/connect/\"\n\
             forward_url = \"http://127.0.0.1:{backend}/message/{{message_type}}/\"\n"
        );
    }
    config + more
}

const BINARY_VARIABLE: &str = "RAINBOW_BIN";

/// The one that is named, or the server that cargo built with this harness.
pub fn rainbow_binary() -> PathBuf {
    std::env::var_os(BINARY_VARIABLE).map_or_else(|| env!("CARGO_BIN_EXE_rainbow-server").into(), PathBuf::from)
}

/// A port that nobody listens on now. Another may take it before we do; then the start fails and says so.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// Where configs and logs of this run lie; removed by `remove_scratch`.
pub fn scratch_dir() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("rainbow-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("the temporary directory can be written");
    dir
}

pub fn remove_scratch() {
    let _ = fs::remove_dir_all(scratch_dir());
}

pub fn write(file: &Path, text: &str) {
    fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}
