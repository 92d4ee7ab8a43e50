//! One connection to one Redis server, made ready: the server is new enough, a master, evicts nothing, keeps what it is
//! told as durably as was promised, and no older connection of ours can still do anything on it.

use super::Fault;
use super::script::Script;
use crate::config::Durability;
use crate::shard::command::StoreError;
use redis::io::tcp::TcpSettings;
use redis::{Client, Cmd, Connection, ConnectionInfo, ErrorKind, RedisError, Value, cmd};
use std::collections::HashMap;
use std::time::Duration;

pub struct Line {
    connection: Connection,
    pub here: Here,
    /// Where the server is, for messages to people.
    pub address: String,
    /// Each batch ends with WAITAOF.
    waits: bool,
}

/// Names a connection as the server knows it. One on which an answer was lost may still have a batch under way: it is
/// ended by its name before the batch is tried again, or steps could be done in the wrong order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// Of the server's process; a restart ends all connections.
    run: String,
    client: i64,
}

/// What a server must be, whichever it is.
#[derive(Clone, Copy, Debug)]
pub struct Demands {
    pub durability: Durability,
    /// It is a node of a Redis cluster.
    pub cluster: bool,
}

impl Line {
    /// `stale`: connections that were given up. Those on this server are ended.
    pub fn open(info: &ConnectionInfo, demands: Demands, stale: &mut Vec<Here>) -> Result<Line, Fault> {
        let address = info.addr().to_string();
        let settings = TcpSettings::default().set_nodelay(true);
        let refused = |error: RedisError| no_connection(&address, &error);
        let client = Client::open(info.clone().set_tcp_settings(settings)).map_err(refused)?;
        let connection = client.get_connection_with_timeout(CONNECT_TIMEOUT).map_err(refused)?;
        connection.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(refused)?;
        connection.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(refused)?;
        let mut line = Line { connection, here: Here { run: String::new(), client: 0 }, address, waits: false };
        line.prepare(demands, stale)?;
        Ok(line)
    }

    fn prepare(&mut self, demands: Demands, stale: &mut Vec<Here>) -> Result<(), Fault> {
        let Value::Int(client) = self.ask(cmd("CLIENT").arg("ID"))? else { return Err(self.nonsense("CLIENT ID")) };
        let facts = self.facts()?;
        self.here = Here { run: facts.text("run_id"), client };
        if facts.text("loading") == "1" {
            return Err(Fault::Lost(format!("{} is still reading its data", self.address)));
        }
        if facts.text("role") != "master" {
            return Err(Fault::Lost(format!("{} is a replica, not the master", self.address)));
        }
        self.check_kind(&facts, demands)?;
        self.waits = self.check_durability(&facts, demands.durability)?;
        self.end_stale(stale)?;
        for script in Script::ALL {
            self.ask(cmd("SCRIPT").arg("LOAD").arg(script.text()))?;
        }
        Ok(())
    }

    fn facts(&mut self) -> Result<Facts, Fault> {
        let Value::BulkString(text) = self.ask(&cmd("INFO"))? else { return Err(self.nonsense("INFO")) };
        Ok(Facts::parse(&String::from_utf8_lossy(&text)))
    }

    fn check_kind(&self, facts: &Facts, demands: Demands) -> Result<(), Fault> {
        let address = &self.address;
        let (version, policy) = (facts.text("redis_version"), facts.text("maxmemory_policy"));
        if facts.version() < (7, 0) {
            return Err(broken(format!("{address}: Redis {version} is too old; 7.0 or newer, or Valkey, is needed")));
        }
        if policy != "noeviction" {
            return Err(broken(format!(
                "{address}: maxmemory-policy is {policy}, so Redis throws stored messages away; set it to noeviction"
            )));
        }
        match (facts.text("cluster_enabled") == "1", demands.cluster) {
            (true, false) => {
                Err(broken(format!("{address} is a node of a Redis cluster; use redis-cluster:// in store.url")))
            }
            (false, true) => Err(broken(format!("{address} is no node of a Redis cluster; use redis:// in store.url"))),
            _ => Ok(()),
        }
    }

    /// Whether batches must end with WAITAOF.
    fn check_durability(&mut self, facts: &Facts, durability: Durability) -> Result<bool, Fault> {
        if durability == Durability::Memory {
            return Ok(false);
        }
        let address = self.address.clone();
        let instead = "or set store.durability = \"memory\", which promises what Redis's memory does and no more";
        if facts.text("aof_enabled") != "1" {
            return Err(broken(format!(
                "{address}: store.durability = \"fsync\" needs appendonly yes and appendfsync always; set them, \
                 {instead}"
            )));
        }
        let waits = facts.version() >= (7, 2);
        let appendfsync = self.setting("appendfsync")?;
        let enough = match appendfsync.as_deref() {
            Some("always") => waits || self.setting("no-appendfsync-on-rewrite")?.as_deref() == Some("no"),
            Some("no") => false,
            // Where CONFIG is not allowed, WAITAOF alone must tell.
            _ => waits,
        };
        if enough {
            return Ok(waits);
        }
        let found = appendfsync.unwrap_or_else(|| "not to be seen (CONFIG GET is not allowed)".into());
        Err(broken(format!(
            "{address}: store.durability = \"fsync\" needs appendfsync always and no-appendfsync-on-rewrite no (Redis \
             below 7.2 cannot say when it has synced; appendfsync is {found}); set them, {instead}"
        )))
    }

    fn setting(&mut self, name: &str) -> Result<Option<String>, Fault> {
        match self.ask(cmd("CONFIG").arg("GET").arg(name)) {
            Ok(value) => {
                let pair: Option<(String, String)> = redis::from_redis_value(value).ok();
                Ok(pair.map(|(_, set)| set))
            }
            Err(Fault::Refuse { .. }) => Ok(None),
            Err(lost) => Err(lost),
        }
    }

    fn end_stale(&mut self, stale: &mut Vec<Here>) -> Result<(), Fault> {
        let run = self.here.run.clone();
        for old in stale.iter().filter(|old| old.run == run) {
            match self.ask(cmd("CLIENT").arg("KILL").arg("ID").arg(old.client)) {
                Ok(_) => {}
                Err(Fault::Refuse { detail, .. }) => {
                    return Err(broken(format!("{detail}: the server's user must be allowed CLIENT KILL")));
                }
                Err(lost) => return Err(lost),
            }
        }
        stale.retain(|old| old.run != run);
        Ok(())
    }

    /// Whether it has reached its maxmemory.
    pub fn is_full(&mut self) -> Result<bool, Fault> {
        let facts = self.facts()?;
        let (used, most) = (facts.count("used_memory"), facts.count("maxmemory"));
        Ok(most > 0 && used >= most)
    }

    pub fn ask(&mut self, question: &Cmd) -> Result<Value, Fault> {
        self.send(&question.get_packed_command())?;
        match self.receive()? {
            Value::ServerError(error) if is_passing(error.code()) => {
                Err(Fault::Lost(format!("{}: {error}", self.address)))
            }
            Value::ServerError(error) => Err(broken(format!("{}: {error}", self.address))),
            value => Ok(value),
        }
    }

    pub fn send(&mut self, packed: &[u8]) -> Result<(), Fault> {
        self.connection.send_packed_command(packed).map_err(|error| lost(&self.address, &error))
    }

    pub fn receive(&mut self) -> Result<Value, Fault> {
        self.connection.recv_response().map_err(|error| lost(&self.address, &error))
    }

    /// A batch of `count` calls in one transaction. `None`: Redis took it for none, and nothing was done; each call by
    /// itself may be.
    pub fn transact(&mut self, packed: &[u8], count: usize) -> Result<Option<Vec<Value>>, Fault> {
        let mut whole = cmd("MULTI").get_packed_command();
        whole.extend_from_slice(packed);
        cmd("EXEC").write_packed_command(&mut whole);
        self.send(&whole)?;
        self.send_wait()?;
        let mut passing = None;
        for _ in 0..=count {
            match self.receive()? {
                Value::ServerError(error) if is_passing(error.code()) => passing = Some(error),
                _ => {}
            }
        }
        let answers = self.receive()?;
        self.receive_wait()?;
        match (answers, passing) {
            (Value::Array(answers), _) if answers.len() == count => Ok(Some(answers)),
            (Value::ServerError(_), Some(error)) => Err(Fault::Lost(format!("{}: {error}", self.address))),
            (Value::ServerError(_), None) => Ok(None),
            _ => Err(self.nonsense("EXEC")),
        }
    }

    /// Ends a batch that has written; its answer is read by `receive_wait`.
    pub fn send_wait(&mut self) -> Result<(), Fault> {
        if !self.waits {
            return Ok(());
        }
        let wait_ms = ANSWER_TIMEOUT.as_millis() as u64 * 4 / 5;
        self.send(&cmd("WAITAOF").arg(1).arg(0).arg(wait_ms).get_packed_command())
    }

    pub fn receive_wait(&mut self) -> Result<(), Fault> {
        if !self.waits {
            return Ok(());
        }
        match self.receive()? {
            Value::Array(synced) if matches!(synced[..], [Value::Int(1..), ..]) => Ok(()),
            Value::Array(_) => Err(Fault::Lost(format!("{}: no fsync in time", self.address))),
            Value::ServerError(error) => Err(broken(format!("{}: WAITAOF: {error}", self.address))),
            _ => Err(self.nonsense("WAITAOF")),
        }
    }

    fn nonsense(&self, to: &str) -> Fault {
        broken(format!("{}: {to} was not answered as Redis answers it", self.address))
    }
}

/// Errors that pass by themselves or with a new connection: the batch is tried again.
pub fn is_passing(code: &str) -> bool {
    const PASSING: [&str; 11] = [
        "LOADING",
        "READONLY",
        "MOVED",
        "ASK",
        "TRYAGAIN",
        "CLUSTERDOWN",
        "MASTERDOWN",
        "NOSCRIPT",
        "BUSY",
        "NOREPLICAS",
        "UNBLOCKED",
    ];
    PASSING.contains(&code)
}

fn broken(detail: String) -> Fault {
    Fault::Refuse { reason: StoreError::Broken, detail }
}

fn lost(address: &str, error: &RedisError) -> Fault {
    Fault::Lost(format!("{address}: {error}"))
}

fn no_connection(address: &str, error: &RedisError) -> Fault {
    let hopeless = matches!(error.kind(), ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig)
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"));
    if hopeless { broken(format!("{address}: {error}")) } else { lost(address, error) }
}

/// The lines of INFO.
struct Facts(HashMap<String, String>);

impl Facts {
    fn parse(text: &str) -> Facts {
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        Facts(pairs.map(|(name, value)| (name.into(), value.trim().into())).collect())
    }

    fn text(&self, name: &str) -> String {
        self.0.get(name).cloned().unwrap_or_default()
    }

    fn count(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }

    /// Valkey says here which Redis it is compatible with.
    fn version(&self) -> (u32, u32) {
        let text = self.text("redis_version");
        let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A full batch with its fsync takes some milliseconds; a server that says nothing for so long is gone or stands still.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
