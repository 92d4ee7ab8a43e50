//! One connection to one Redis server, checked when it is opened: the server is new enough and a master, it evicts
//! nothing, it keeps data as durably as the operator asked for, and no older connection of ours can do anything on it.

use crate::config::Durability;
use crate::shard::command::UnixMs;
use crate::store::redis::fault::Fault;
use crate::store::redis::script::Script;
use redis::io::tcp::TcpSettings;
use redis::{Client, Cmd, Connection, ConnectionInfo, ErrorKind, RedisError, Value, cmd};
use std::collections::HashMap;
use std::time::Duration;

pub struct ServerConnection {
    connection: Connection,
    client: ClientId,
    /// The server's address, for log and error texts.
    address: String,
    /// Each batch that writes ends with WAITAOF.
    needs_waitaof: bool,
    /// Its clock, when `INFO` was answered last; 0: it does not say.
    time: UnixMs,
}

/// The connection as the server knows it. When an answer was lost, its connection may still have a batch in flight: the
/// connection is killed before the batch is tried again, or writes could be done in the wrong order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientId {
    /// The server's process; a restart ends all connections.
    run_id: String,
    id: i64,
}

/// What every server must fulfil.
#[derive(Clone, Copy, Debug)]
pub struct Requirements {
    pub durability: Durability,
    /// The server is a node of a Redis cluster.
    pub cluster: bool,
}

impl ServerConnection {
    /// `stale`: connections that were given up. Those to this server are killed.
    pub fn open(
        info: &ConnectionInfo,
        requirements: Requirements,
        stale: &mut Vec<ClientId>,
    ) -> Result<ServerConnection, Fault> {
        let address = info.addr().to_string();
        let settings = TcpSettings::default().set_nodelay(true);
        let refused = |error: RedisError| connect_fault(&address, &error);
        let client = Client::open(info.clone().set_tcp_settings(settings)).map_err(refused)?;
        let connection = client.get_connection_with_timeout(CONNECT_TIMEOUT).map_err(refused)?;
        connection.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(refused)?;
        connection.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(refused)?;
        let mut opened = ServerConnection {
            connection,
            client: ClientId { run_id: String::new(), id: 0 },
            address,
            needs_waitaof: false,
            time: UnixMs(0),
        };
        opened.prepare(requirements, stale)?;
        Ok(opened)
    }

    fn prepare(&mut self, requirements: Requirements, stale: &mut Vec<ClientId>) -> Result<(), Fault> {
        let Value::Int(id) = self.query(cmd("CLIENT").arg("ID"))? else {
            return Err(self.unexpected_answer("CLIENT ID"));
        };
        let info = self.info()?;
        self.client = ClientId { run_id: info.text("run_id"), id };
        if info.text("loading") == "1" {
            return Err(Fault::Unanswered(format!("{} is still reading its data", self.address)));
        }
        if info.text("role") != "master" {
            return Err(Fault::Unanswered(format!("{} is a replica, not the master", self.address)));
        }
        self.check_kind(&info, requirements)?;
        self.needs_waitaof = self.check_durability(&info, requirements.durability)?;
        self.kill_stale(stale)?;
        for script in Script::ALL {
            self.query(cmd("SCRIPT").arg("LOAD").arg(script.text()))?;
        }
        Ok(())
    }

    fn info(&mut self) -> Result<Info, Fault> {
        let Value::BulkString(text) = self.query(&cmd("INFO"))? else { return Err(self.unexpected_answer("INFO")) };
        let info = Info::parse(&String::from_utf8_lossy(&text));
        self.time = UnixMs(info.count("server_time_usec") / 1000);
        Ok(info)
    }

    pub fn time(&self) -> Option<UnixMs> {
        Some(self.time).filter(|time| time.0 > 0)
    }

    fn check_kind(&self, info: &Info, requirements: Requirements) -> Result<(), Fault> {
        let address = &self.address;
        let (version, policy) = (info.text("redis_version"), info.text("maxmemory_policy"));
        if info.version() < (7, 0) {
            return Err(Fault::broken(format!(
                "{address}: Redis {version} is too old; 7.0 or newer, or Valkey, is needed"
            )));
        }
        if policy != "noeviction" {
            return Err(Fault::broken(format!(
                "{address}: maxmemory-policy is {policy}, so Redis throws stored messages away; set it to noeviction"
            )));
        }
        match (info.text("cluster_enabled") == "1", requirements.cluster) {
            (true, false) => {
                Err(Fault::broken(format!("{address} is a node of a Redis cluster; use redis-cluster:// in store.url")))
            }
            (false, true) => {
                Err(Fault::broken(format!("{address} is no node of a Redis cluster; use redis:// in store.url")))
            }
            _ => Ok(()),
        }
    }

    /// Whether batches must end with WAITAOF.
    fn check_durability(&mut self, info: &Info, durability: Durability) -> Result<bool, Fault> {
        if durability == Durability::Memory {
            return Ok(false);
        }
        let address = self.address.clone();
        let instead = "or set store.durability = \"memory\", which promises what Redis's memory does and no more";
        if info.text("aof_enabled") != "1" {
            return Err(Fault::broken(format!(
                "{address}: store.durability = \"fsync\" needs appendonly yes and appendfsync always; set them, \
                 {instead}"
            )));
        }
        let has_waitaof = info.version() >= (7, 2);
        let appendfsync = self.setting("appendfsync")?;
        let enough = match appendfsync.as_deref() {
            Some("always") => has_waitaof || self.setting("no-appendfsync-on-rewrite")?.as_deref() == Some("no"),
            Some("no") => false,
            // Where CONFIG is not allowed, WAITAOF alone must show it.
            _ => has_waitaof,
        };
        if enough {
            return Ok(has_waitaof);
        }
        let found = appendfsync.unwrap_or_else(|| "not to be seen (CONFIG GET is not allowed)".into());
        Err(Fault::broken(format!(
            "{address}: store.durability = \"fsync\" needs appendfsync always and no-appendfsync-on-rewrite no (Redis \
             below 7.2 cannot say when it has synced; appendfsync is {found}); set them, {instead}"
        )))
    }

    fn setting(&mut self, name: &str) -> Result<Option<String>, Fault> {
        match self.query(cmd("CONFIG").arg("GET").arg(name)) {
            Ok(value) => {
                let pair: Option<(String, String)> = redis::from_redis_value(value).ok();
                Ok(pair.map(|(_, set)| set))
            }
            Err(Fault::Refused { .. }) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn kill_stale(&mut self, stale: &mut Vec<ClientId>) -> Result<(), Fault> {
        let run_id = self.client.run_id.clone();
        for old in stale.iter().filter(|old| old.run_id == run_id) {
            match self.query(cmd("CLIENT").arg("KILL").arg("ID").arg(old.id)) {
                Ok(_) => {}
                Err(Fault::Refused { detail, .. }) => {
                    return Err(Fault::broken(format!("{detail}: the server's user must be allowed CLIENT KILL")));
                }
                Err(fault) => return Err(fault),
            }
        }
        stale.retain(|old| old.run_id != run_id);
        Ok(())
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn into_client_id(self) -> ClientId {
        self.client
    }

    /// Whether the server has reached its maxmemory.
    pub fn is_full(&mut self) -> Result<bool, Fault> {
        let info = self.info()?;
        let (used, most) = (info.count("used_memory"), info.count("maxmemory"));
        Ok(most > 0 && used >= most)
    }

    pub fn query(&mut self, command: &Cmd) -> Result<Value, Fault> {
        self.send(&command.get_packed_command())?;
        match self.receive()? {
            Value::ServerError(error) if is_transient(error.code()) => {
                Err(Fault::Unanswered(format!("{}: {error}", self.address)))
            }
            Value::ServerError(error) => Err(Fault::broken(format!("{}: {error}", self.address))),
            value => Ok(value),
        }
    }

    pub fn send(&mut self, packed: &[u8]) -> Result<(), Fault> {
        self.connection.send_packed_command(packed).map_err(|error| unanswered(&self.address, &error))
    }

    pub fn receive(&mut self) -> Result<Value, Fault> {
        self.connection.recv_response().map_err(|error| unanswered(&self.address, &error))
    }

    /// A batch of `count` commands in one transaction. `None`: Redis refused the transaction and did nothing; it may
    /// accept the commands one by one.
    pub fn transact(&mut self, packed: &[u8], count: usize) -> Result<Option<Vec<Value>>, Fault> {
        let mut transaction = cmd("MULTI").get_packed_command();
        transaction.extend_from_slice(packed);
        cmd("EXEC").write_packed_command(&mut transaction);
        self.send(&transaction)?;
        self.send_waitaof()?;
        let mut transient = None;
        for _ in 0..=count {
            match self.receive()? {
                Value::ServerError(error) if is_transient(error.code()) => transient = Some(error),
                _ => {}
            }
        }
        let answers = self.receive()?;
        self.receive_waitaof()?;
        match (answers, transient) {
            (Value::Array(answers), _) if answers.len() == count => Ok(Some(answers)),
            (Value::ServerError(_), Some(error)) => Err(Fault::Unanswered(format!("{}: {error}", self.address))),
            (Value::ServerError(_), None) => Ok(None),
            _ => Err(self.unexpected_answer("EXEC")),
        }
    }

    /// Ends a batch that has written; `receive_waitaof` reads the answer.
    pub fn send_waitaof(&mut self) -> Result<(), Fault> {
        if !self.needs_waitaof {
            return Ok(());
        }
        let wait_ms = ANSWER_TIMEOUT.as_millis() as u64 * 4 / 5;
        self.send(&cmd("WAITAOF").arg(1).arg(0).arg(wait_ms).get_packed_command())
    }

    pub fn receive_waitaof(&mut self) -> Result<(), Fault> {
        if !self.needs_waitaof {
            return Ok(());
        }
        match self.receive()? {
            Value::Array(synced) if matches!(synced[..], [Value::Int(1..), ..]) => Ok(()),
            Value::Array(_) => Err(Fault::Unanswered(format!("{}: no fsync in time", self.address))),
            Value::ServerError(error) => Err(Fault::broken(format!("{}: WAITAOF: {error}", self.address))),
            _ => Err(self.unexpected_answer("WAITAOF")),
        }
    }

    fn unexpected_answer(&self, to: &str) -> Fault {
        Fault::broken(format!("{}: {to} was not answered as Redis answers it", self.address))
    }
}

/// The error passes by itself or with a new connection: the batch is tried again.
pub fn is_transient(code: &str) -> bool {
    const TRANSIENT: [&str; 11] = [
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
    TRANSIENT.contains(&code)
}

fn unanswered(address: &str, error: &RedisError) -> Fault {
    Fault::Unanswered(format!("{address}: {error}"))
}

fn connect_fault(address: &str, error: &RedisError) -> Fault {
    // What the certificate lacks will not come by itself.
    if error.to_string().contains("certificate") {
        return Fault::broken(format!(
            "{address}: {error}. Put the CA of its certificate among this machine's, or name its file in SSL_CERT_FILE"
        ));
    }
    let permanent = matches!(error.kind(), ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig)
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"));
    if permanent { Fault::broken(format!("{address}: {error}")) } else { unanswered(address, error) }
}

/// The answer to INFO, by field.
struct Info(HashMap<String, String>);

impl Info {
    fn parse(text: &str) -> Info {
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        Info(pairs.map(|(name, value)| (name.into(), value.trim().into())).collect())
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
/// A full batch with its fsync takes some milliseconds; a server that is silent for so long is gone or hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
