//! Real redis-servers on a host of their own: one, or a master with a replica and a sentinel that watches them.

use crate::harness::process::Process;
use crate::harness::{Setup, TIMEOUT};
use crate::hosts::with;
use crate::network::Namespace;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A server that syncs before it answers, or a sentinel.
pub struct Redis {
    process: Process,
    dir: PathBuf,
}

/// A master, its replica, and a sentinel.
pub struct Watched {
    pub master: Redis,
    _replica: Redis,
    _sentinel: Redis,
}

impl Redis {
    /// At all addresses of the host.
    pub fn start(host: &Namespace, port: u16) -> Redis {
        let more = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--protected-mode", "no"];
        Redis::run(host, port, more.map(String::from).to_vec(), "", "Ready to accept connections")
    }

    /// `config`: of a sentinel; it rewrites its file.
    fn run(host: &Namespace, port: u16, more: Vec<String>, config: &str, sign: &'static str) -> Redis {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("rainbow-cluster-redis-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a directory for Redis");
        // It ends with the thread that starts it, and that one with the namespace.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "redis-server"]);
        if !config.is_empty() {
            let file = dir.join("sentinel.conf");
            std::fs::write(&file, config).expect("a file in our directory");
            command.arg(file).arg("--sentinel");
        }
        command.args(["--port", &port.to_string(), "--bind", "0.0.0.0", "--logfile", ""]);
        command.arg("--dir").arg(&dir).args(more);
        let process = host.enter_to_stay(move || Process::start(command, &[]));
        process.log.wait_for("Redis is ready", TIMEOUT, |entry| entry.contains(sign));
        Redis { process, dir }
    }

    pub fn kill(&mut self) {
        self.process.kill();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Watched {
    /// Of a host that others reach at this address.
    pub fn start(host: &Namespace, address: &str) -> Watched {
        let master = Redis::start(host, MASTER_PORT);
        let common = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--protected-mode", "no"];
        let mut more = common.map(String::from).to_vec();
        more.extend(["--replicaof".into(), address.into(), MASTER_PORT.to_string()]);
        let replica = Redis::run(host, MASTER_PORT + 1, more, "", "MASTER <-> REPLICA sync: Finished with success");
        let config = format!(
            "sentinel monitor main {address} {MASTER_PORT} 1\nsentinel down-after-milliseconds main 1000\n\
             sentinel failover-timeout main 3000\n"
        );
        let no_mode = ["--protected-mode", "no"].map(String::from).to_vec();
        let sentinel = Redis::run(host, SENTINEL_PORT, no_mode, &config, "+slave slave");
        Watched { master, _replica: replica, _sentinel: sentinel }
    }

    /// For `store.url`.
    pub fn url(address: &str) -> String {
        format!("redis-sentinel://{address}:{SENTINEL_PORT}/main")
    }
}

/// A node that keeps its sessions there.
pub fn sharing(url: &str) -> Setup {
    with(&[("store.kind", "\"redis\""), ("store.url", &format!("{url:?}"))])
}

const MASTER_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
