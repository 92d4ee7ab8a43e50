//! The configuration as a value: every field that a key sets, with its default.

use crate::base::network::Network;
use crate::base::secret::Secret;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that can be set. Sizes are bytes, rates per second; a limit of 0 means "no limit" only where it says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    // The business server
    /// Called before a client is let in (GET). Several URLs are balanced. Empty: every client is let in.
    pub connect_url: Vec<String>,
    /// Gets a client's message (POST); `{message_type}` is replaced. Empty: clients' messages are answered with an
    /// empty body.
    pub forward_url: Vec<String>,
    /// Called when a connection has ended (GET). Empty: not called.
    pub close_url: Vec<String>,
    /// Called with which stored message reached which client, and when (POST, batched). Empty: not called.
    pub receipt_url: Vec<String>,
    /// Gets a message that is refused because all its attempts have failed (POST). Empty: not called.
    pub dead_letter_url: Vec<String>,
    pub connect_timeout: Duration,
    pub forward_timeout: Duration,
    /// How long Rainbow retries a QoS 1/2 message. Then only the client's own repeats try it again.
    pub forward_deadline: Duration,
    /// Attempts of a QoS 1/2 message that the business server answers with an error of the message's own (500).
    pub forward_attempts_max: u32,
    /// How long a close is retried.
    pub close_deadline: Duration,
    pub close_events: CloseEvents,
    /// Messages of one client that may wait for the backend before the client is no longer read.
    pub forward_queue: usize,
    /// Bytes of all clients of one worker that may wait for the backend.
    pub forward_queue_bytes: usize,
    pub forward_ahead_bytes: usize,
    /// Keep-alive connections to each backend URL's host, per worker.
    pub backend_connections: usize,
    pub backend_idle_timeout: Duration,
    pub backend_body_max: usize,
    pub retry_backoff: RetryBackoffConfig,
    pub breaker: BreakerConfig,

    // Signatures
    pub secrets: Secrets,
    pub signature_require: SignatureRequire,
    pub signature_window: Duration,

    // Listening
    /// Address to listen on; the port is `http_port`.
    pub listen: std::net::IpAddr,
    /// `None`: 1984, or the first free one of 1984–2003.
    pub http_port: Option<u16>,
    /// `None`: none, or where no secret is set one of its own on this machine, see `ADMIN_PORT`.
    pub admin_listen: Option<SocketAddr>,
    /// Names of this machine that a request to it may have in `Host`.
    pub admin_hosts: Vec<String>,
    pub allowed_origins: Vec<String>,
    /// Whose word about a client's address is taken.
    pub trusted_proxies: Vec<Network>,
    pub proxy_protocol: bool,

    pub cluster: ClusterConfig,

    // Clients
    pub handshake_timeout: Duration,
    pub first_byte_timeout: Duration,
    /// Close a client that has sent nothing but pongs for so long; 0: never.
    pub idle_timeout: Duration,
    pub ping_interval: Duration,
    pub pong_timeout: Duration,
    pub close_timeout: Duration,
    pub ack_timeout: Duration,
    /// Each further repeat waits this many times longer; 1: always `ack_timeout`.
    pub ack_backoff: f64,
    /// QoS 1/2 messages to one client that may be unanswered at once.
    pub inflight_window: usize,
    /// QoS 2 ids of one client that may wait for their REL.
    pub received_max: usize,
    /// Bytes of answers that are remembered per client for its repeats.
    pub answers_bytes_max: usize,
    pub message_bytes_max: usize,
    pub outbox_bytes_max: usize,
    /// Of all clients of one worker.
    pub clients_memory_max: usize,
    /// 0: no limit.
    pub messages_per_second: u32,
    /// In the whole process.
    pub connections_max: usize,
    /// 0: no limit.
    pub connections_per_address: usize,
    /// Connections of the whole process that have neither become a client nor made a call that was allowed.
    pub handshakes: HandshakesConfig,
    pub channels_per_connection: usize,

    // Calls
    /// For /send/ without `timeout`.
    pub send_timeout: Duration,
    pub send_timeout_max: Duration,
    /// Calls that may wait for clients' answers at once, per worker.
    pub calls_max: usize,
    pub api_body_max: usize,
    /// Of all calls of one worker.
    pub bodies_bytes_max: usize,
    /// Refused calls have an HTTP status of their own.
    pub strict_status: bool,

    // Durable sessions
    pub store: StoreConfig,

    // The process
    /// CPUs to pin workers to; empty: all allowed ones.
    pub cores: BTreeSet<usize>,
    /// 0: one per core.
    pub workers: usize,
    /// From SIGTERM, of which /readyz tells at once, to the beginning of the drain.
    pub drain_delay: Duration,
    /// Clients closed per second in a drain, of the whole process.
    pub drain_rate: u32,
    pub shutdown_timeout: Duration,
    /// A tracing filter: `info`, `rainbow=debug`, …
    pub log: String,
    pub driver: DriverChoice,
    pub log_format: LogFormat,
    pub traces: TracesConfig,

    // Where the configuration was read
    pub file: Option<PathBuf>,
}

/// What callers show, and what both sides sign with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Secrets {
    /// Token of the 2014 signature. Empty: the 2014 signature is not accepted, and none is sent.
    pub security_token: Secret,
    /// Standard Webhooks secrets (`whsec_…`), at most two, the first one signs.
    pub webhook_secrets: Vec<Secret>,
    /// Makes calls and opens /info/, /channel/ and /metrics. Empty: the signature only.
    pub admin_token: Secret,
}

impl Secrets {
    /// There is nothing that a caller could show.
    pub fn are_unset(&self) -> bool {
        self.security_token.is_empty() && self.webhook_secrets.is_empty() && self.admin_token.is_empty()
    }
}

/// Durable sessions: where messages for absent clients are stored, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreConfig {
    pub kind: StoreKind,
    /// Where SQLite's files lie; made when it is missing.
    pub data_dir: PathBuf,
    /// Redis's URL; may hold a password.
    pub url: Secret,
    pub durability: Durability,
    /// How long a commit may wait for more to come.
    pub commit_delay: Duration,
    /// A message to an online session that is not acknowledged after so long is stored.
    pub patience: Duration,
    /// Messages that may wait for one session.
    pub session_messages_max: usize,
    /// Bytes that may wait for one session.
    pub session_bytes_max: usize,
    /// Bytes that may be stored for all sessions together.
    pub bytes_max: usize,
    /// How long a session outlives its last connection where the backend names no time.
    pub session_expiry: Duration,
    /// The longest time the backend may name.
    pub session_expiry_max: Duration,
    /// How long a message waits where its call names no `ttl`.
    pub message_ttl: Duration,
    /// How long a call's `message_id` is remembered.
    pub dedupe_window: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// No session is durable.
    None,
    Sqlite,
    Redis,
}

/// Whether the end of a connection is reported also when its node has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseEvents {
    /// Where there is a store: each connection has a record in it.
    Durable,
    /// Only by the process that had the connection.
    BestEffort,
}

/// What "stored" means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk: it outlives a power failure.
    Fsync,
    /// In the hands of the system (SQLite) or of Redis: it outlives a crash of Rainbow, not one of the machine.
    Memory,
}

/// Which signatures a call by the business server must carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureRequire {
    /// Either scheme that is configured.
    Any,
    /// Standard Webhooks only.
    Webhook,
}

/// What a worker waits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverChoice {
    /// io_uring where the kernel allows it, else epoll.
    Auto,
    IoUring,
    Epoll,
}

/// Whether the node looks for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterChoice {
    Auto,
    Off,
}

/// How many connections may be neither a client nor a caller yet; its keys are `handshakes_max` and
/// `handshakes_per_address`.
#[derive(Clone, Debug, PartialEq)]
pub struct HandshakesConfig {
    pub max: usize,
    pub per_address: usize,
}

/// Waits between repeats to a failing backend; its keys are `retry_backoff_min` and `retry_backoff_max`.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryBackoffConfig {
    pub min: Duration,
    pub max: Duration,
}

/// When a backend is left alone; its keys are `breaker_failures` and `breaker_cooldown`.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerConfig {
    /// In a row.
    pub failures: u32,
    pub cooldown: Duration,
}

/// What is shown of what happens, to those who look and to a collector; the fields are named as their keys.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesConfig {
    /// Of a body, in `/trace/`.
    pub trace_body_bytes: usize,
    /// Empty: nobody collects spans.
    pub otlp_endpoint: String,
    /// Of the traces that begin here.
    pub otlp_ratio: f64,
}

/// With whom the node serves as one; its keys are `cluster`, `cluster_name` and so on.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    pub choice: ClusterChoice,
    pub name: String,
    /// What nodes prove to each other; empty: `security_token`.
    pub secret: Secret,
    /// `host:port`, where other nodes may be.
    pub seeds: Vec<String>,
    /// Where the other nodes reach this one; `None`: found out.
    pub address: Option<SocketAddr>,
    /// Where this node listens for the other nodes, and for nobody else; `None`: where it listens for callers.
    pub listen: Option<SocketAddr>,
}

/// How the lines of the log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    /// One object per line.
    Json,
}

impl Config {
    /// Of the operator's listener where no secret is set and none is configured; where it is taken, any free one.
    pub const ADMIN_PORT: u16 = 1983;
    /// Tried in this order when `http_port` is `None`; the range of the first implementation.
    pub const AUTO_PORTS: std::ops::RangeInclusive<u16> = 1984..=2003;
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Default for Config {
    fn default() -> Config {
        Config {
            connect_url: Vec::new(),
            forward_url: Vec::new(),
            close_url: Vec::new(),
            receipt_url: Vec::new(),
            dead_letter_url: Vec::new(),
            connect_timeout: secs(15),
            forward_timeout: secs(15),
            forward_deadline: secs(120),
            forward_attempts_max: 20,
            close_deadline: secs(3600),
            close_events: CloseEvents::Durable,
            forward_queue: 64,
            forward_queue_bytes: 64 << 20,
            forward_ahead_bytes: 256 << 10,
            backend_connections: 64,
            backend_idle_timeout: secs(60),
            backend_body_max: 1 << 20,
            retry_backoff: RetryBackoffConfig { min: Duration::from_millis(100), max: secs(5) },
            breaker: BreakerConfig { failures: 5, cooldown: secs(1) },
            secrets: Secrets::default(),
            signature_require: SignatureRequire::Any,
            signature_window: secs(10),
            listen: std::net::Ipv4Addr::UNSPECIFIED.into(),
            http_port: None,
            admin_listen: None,
            admin_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            cluster: ClusterConfig::default(),
            handshake_timeout: secs(10),
            first_byte_timeout: secs(10),
            idle_timeout: secs(0),
            ping_interval: secs(60),
            pong_timeout: secs(20),
            close_timeout: secs(5),
            ack_timeout: secs(3),
            ack_backoff: 1.0,
            inflight_window: 64,
            received_max: 1024,
            answers_bytes_max: 1 << 20,
            message_bytes_max: 1 << 20,
            outbox_bytes_max: 8 << 20,
            clients_memory_max: 1 << 30,
            messages_per_second: 0,
            connections_max: 2_000_000,
            connections_per_address: 0,
            handshakes: HandshakesConfig { max: 65_536, per_address: 0 },
            channels_per_connection: 1024,
            send_timeout: secs(10),
            send_timeout_max: secs(300),
            calls_max: 16_384,
            api_body_max: 1 << 20,
            bodies_bytes_max: 64 << 20,
            strict_status: false,
            store: StoreConfig::default(),
            cores: BTreeSet::new(),
            workers: 0,
            drain_delay: secs(0),
            drain_rate: 2_000,
            shutdown_timeout: secs(30),
            log: "info".into(),
            driver: DriverChoice::Auto,
            log_format: LogFormat::Text,
            traces: TracesConfig::default(),
            file: None,
        }
    }
}

impl Default for TracesConfig {
    fn default() -> TracesConfig {
        TracesConfig { trace_body_bytes: 0, otlp_endpoint: String::new(), otlp_ratio: 1.0 }
    }
}

impl Default for ClusterConfig {
    fn default() -> ClusterConfig {
        ClusterConfig {
            choice: ClusterChoice::Auto,
            name: "rainbow".into(),
            secret: Secret::default(),
            seeds: Vec::new(),
            address: None,
            listen: None,
        }
    }
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            kind: StoreKind::None,
            data_dir: "rainbow-data".into(),
            url: Secret::default(),
            durability: Durability::Fsync,
            commit_delay: Duration::from_millis(2),
            patience: secs(1),
            session_messages_max: 1000,
            session_bytes_max: 1 << 20,
            bytes_max: 10 << 30,
            session_expiry: secs(24 * 3600),
            session_expiry_max: secs(30 * 24 * 3600),
            message_ttl: secs(7 * 24 * 3600),
            dedupe_window: secs(3600),
        }
    }
}
