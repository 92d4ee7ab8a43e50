//! The table of keys: for each one its path, its words, how it is read, printed and copied, whether it is a secret and
//! whether a reload takes it. Everything that lists keys goes through it: parsing, environment variables, the default
//! file, /serverinfo/, README.md, reload. A new key is a field of `Config`, its default, and one line here.

use toml::Value;

use super::kind::*;
use super::values::Config;

/// One key. Keys of a table are named `table.key` (`store.kind`), those at the top level have no dot.
pub struct Key {
    pub path: &'static str,
    /// One line, shown in the default file and in README.md.
    pub doc: &'static str,
    /// Its value is never shown, logged or quoted.
    pub secret: bool,
    /// A reload takes it; otherwise it needs a restart.
    pub reloads: bool,
    pub(super) set: fn(&mut Config, &Input) -> Result<(), Wrong>,
    pub(super) value: fn(&Config) -> Value,
    pub(super) same: fn(&Config, &Config) -> bool,
    pub(super) copy: fn(&mut Config, &Config),
    pub(super) allowed: fn() -> Option<String>,
}

/// Keys that belong together, under a heading.
pub struct Group {
    pub title: &'static str,
    pub keys: &'static [Key],
}

/// All keys under their headings, in the order in which they are shown.
pub fn groups() -> &'static [Group] {
    GROUPS
}

/// All keys.
pub fn keys() -> impl Iterator<Item = &'static Key> + Clone {
    GROUPS.iter().flat_map(|group| group.keys)
}

impl Key {
    /// The table it stands in, empty for the top level.
    pub fn section(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// Its name within its table.
    pub fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }

    /// The environment variable that overrides it: `RAINBOW_STORE_KIND` for `store.kind`.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.path.replace('.', "_").to_ascii_uppercase())
    }

    /// Its value as it is written in TOML. Of secrets, too.
    pub fn literal(&self, config: &Config) -> String {
        (self.value)(config).to_string()
    }

    /// The range of its values, `1–16384` or `≥ 1ms`; `None` where there is no range.
    pub fn allowed(&self) -> Option<String> {
        (self.allowed)()
    }

    const fn secret(self) -> Key {
        Key { secret: true, ..self }
    }

    const fn restart(self) -> Key {
        Key { reloads: false, ..self }
    }
}

/// `key!(field, KIND, doc)`, or `key!("table.key" => field, KIND, doc)` for a key of a table; `field` may be a path of
/// fields.
macro_rules! key {
    ($field:ident, $kind:expr, $doc:literal) => {
        key!(stringify!($field) => $field, $kind, $doc)
    };
    ($path:expr => $($field:ident).+, $kind:expr, $doc:literal) => {
        Key {
            path: $path,
            doc: $doc,
            secret: false,
            reloads: true,
            set: |config, input| {
                config.$($field).+ = $kind.read(input)?;
                Ok(())
            },
            value: |config| ($kind.print)(&config.$($field).+),
            same: |one, other| one.$($field).+ == other.$($field).+,
            copy: |to, from| to.$($field).+.clone_from(&from.$($field).+),
            allowed: || $kind.allowed(),
        }
    };
}

/// Variables that begin so may be ours.
pub(super) const VARIABLE_PREFIX: &str = "RAINBOW_";

static GROUPS: &[Group] = &[
    Group { title: "The business server", keys: BACKEND },
    Group { title: "Signatures", keys: SIGNATURES },
    Group { title: "Listening", keys: LISTENING },
    Group { title: "The cluster", keys: CLUSTER },
    Group { title: "Clients", keys: CLIENTS },
    Group { title: "Calls", keys: CALLS },
    Group { title: "The process", keys: PROCESS },
    // Keys of a table come last: in the default file, what stands below `[store]` belongs to it.
    Group { title: "Durable sessions", keys: STORE },
];

static BACKEND: &[Key] = &[
    key!(
        connect_url,
        URLS,
        "Asked before a client is let in (GET). Several URLs are balanced. Empty: every client is let in."
    ),
    key!(
        forward_url,
        FORWARD_URLS,
        "Gets a client's message (POST); `{message_type}` is replaced. Empty: messages are answered with an empty body."
    ),
    key!(close_url, URLS, "Hears the end of a connection (GET). Empty: no requests."),
    key!(
        receipt_url,
        URLS,
        "Hears which stored message reached whom and when (POST, several at once). Empty: no requests."
    ),
    key!(
        dead_letter_url,
        FORWARD_URLS,
        "Gets a QoS 1/2 message that is refused after forward_attempts_max (POST); `{message_type}` is replaced."
    ),
    key!(connect_timeout, DURATION, "How long connect_url may take to answer."),
    key!(forward_timeout, DURATION, "How long one try of forward_url may take to answer."),
    key!(
        forward_deadline,
        DURATION,
        "How long a QoS 1/2 message is retried before it is left to the client's own repeats."
    ),
    key!(
        forward_attempts_max,
        COUNT32,
        "Attempts of a QoS 1/2 message that is answered 500 or another error of its own; then it is refused for good."
    ),
    key!(close_deadline, DURATION, "How long close_url is retried before an end is left unreported."),
    key!(
        close_events,
        CLOSE_EVENTS,
        "\"durable\": with a store, close_url hears of each end, also when the node has died. \"best-effort\": not \
         then."
    ),
    key!(
        forward_queue,
        COUNT,
        "Messages of one client that may wait for the backend before it is read for its acknowledgements only."
    ),
    key!(
        forward_queue_bytes,
        SIZE,
        "Memory of all clients' messages of one worker that may wait for the backend; at twice as much none is read."
    ),
    key!(
        forward_ahead_bytes,
        PART_SIZE,
        "Memory of one client's messages that may wait before the client is no longer read at all."
    ),
    key!(backend_connections, COUNT.within(1, 65_535), "Keep-alive connections to each backend host, per worker."),
    key!(backend_idle_timeout, DURATION, "A connection to the backend that is unused for so long is closed."),
    key!(backend_body_max, PART_SIZE, "The largest answer taken from the backend."),
    key!(
        "retry_backoff_min" => retry_backoff.min,
        DURATION,
        "The wait before the first repeat to a failing backend; each further one doubles it."
    ),
    key!(
        "retry_backoff_max" => retry_backoff.max,
        DURATION,
        "The longest wait between two repeats to a failing backend."
    ),
    key!(
        "breaker_failures" => breaker.failures,
        COUNT32,
        "Failures in a row after which a backend is left alone for a while."
    ),
    key!(
        "breaker_cooldown" => breaker.cooldown,
        DURATION,
        "How long it is left alone before one request tries it again."
    ),
];

static SIGNATURES: &[Key] = &[
    key!(
        "security_token" => secrets.security_token,
        SECRET,
        "Token of the SHA-1 signature, both ways. Empty: that signature is neither accepted nor sent."
    )
    .secret(),
    key!(
        "webhook_secrets" => secrets.webhook_secrets,
        SECRETS,
        "Standard Webhooks secrets (`whsec_…`), at most two; the first one signs."
    )
    .secret(),
    key!(signature_require, REQUIRE, "Which signature a call must carry: \"any\" that is configured, or \"webhook\"."),
    key!(
        signature_window,
        DURATION.within(1, 24 * 3_600_000),
        "How far a signature's time may be from ours, either way."
    ),
];

static LISTENING: &[Key] = &[
    key!(listen, IP, "The address to listen on; the port is http_port.").restart(),
    key!(http_port, PORT, "The port; \"auto\" is 1984, or the first free one of 1984–2003; 0: the system chooses.")
        .restart(),
    key!(
        admin_listen,
        SOCKET,
        "An address of its own for all paths but /connect/ and /hello/; on loopback it needs no token to look. Empty: \
         none, but where no secret is set, all calls are taken at 127.0.0.1:1983 only."
    )
    .restart(),
    key!(
        admin_hosts,
        HOSTS,
        "Names that requests to admin_listen may be sent to without a token, beside addresses and localhost."
    ),
    key!(
        "admin_token" => secrets.admin_token,
        SECRET,
        "Makes calls and opens /info/, /channel/ and /metrics, as `Authorization: Bearer …`. Empty: signatures only."
    )
    .secret(),
    key!(
        trusted_proxies,
        NETWORKS,
        "Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses and networks."
    ),
    key!(
        proxy_protocol,
        SWITCH,
        "Every connection to http_port begins with a PROXY header (version 1 or 2), from one of trusted_proxies."
    ),
    key!(
        allowed_origins,
        ORIGINS,
        "The web pages' origins that may connect. Empty: pages of the same host, and with an INI file all; \"*\": all."
    ),
];

static CLUSTER: &[Key] = &[
    key!(
        "cluster" => cluster.choice,
        CLUSTER_CHOICE,
        "\"auto\": nodes that find each other serve as one; \"off\": this node stays alone."
    )
    .restart(),
    key!("cluster_name" => cluster.name, NAME, "Nodes with other names are ignored.").restart(),
    key!(
        "cluster_secret" => cluster.secret,
        SECRET,
        "What nodes prove to each other. Empty: security_token; without either, nodes of this machine only."
    )
    .secret()
    .restart(),
    key!(
        "cluster_seeds" => cluster.seeds,
        SEEDS,
        "Where other nodes may be, as host:port of their http_port; beside those that the LAN's broadcast finds."
    )
    .restart(),
    key!(
        "cluster_address" => cluster.address,
        SOCKET,
        "Where other nodes reach this one (TCP and UDP). Empty: the first address of the machine, with http_port."
    )
    .restart(),
    key!(
        "cluster_listen" => cluster.listen,
        SOCKET,
        "An address for other nodes alone (TCP and UDP). Empty: they come to admin_listen or http_port."
    )
    .restart(),
];

static CLIENTS: &[Key] = &[
    key!(handshake_timeout, DURATION, "A request's head must be complete after so long."),
    key!(first_byte_timeout, DURATION, "A new connection that has sent nothing for so long is closed."),
    key!(
        idle_timeout,
        DURATION.at_least(0),
        "A client that has sent nothing but pongs for so long is closed. 0: never."
    ),
    key!(ping_interval, DURATION, "A client that is silent for so long gets a ping."),
    key!(pong_timeout, DURATION, "A client that does not answer a ping for so long is closed."),
    key!(close_timeout, DURATION, "How long the client may take to answer a close."),
    key!(ack_timeout, DURATION, "A message the client has not acknowledged is repeated after so long."),
    key!(ack_backoff, FACTOR, "Each further repeat waits this many times longer. 1: always ack_timeout."),
    key!(inflight_window, COUNT.within(1, 16_384), "QoS 1/2 messages to one client that may be unanswered at once."),
    key!(received_max, COUNT.within(1, 65_534), "QoS 2 ids of one client that may be held without REL."),
    key!(
        answers_bytes_max,
        PART_SIZE,
        "Memory of answers kept per client for its repeats; beyond it its messages wait until it releases some."
    ),
    key!(message_bytes_max, PART_SIZE, "The largest message taken from a client."),
    key!(outbox_bytes_max, PART_SIZE, "Memory of what may wait for one client to read it."),
    key!(
        clients_memory_max,
        SIZE,
        "Memory of what waits for all clients of one worker, of answers kept for their repeats, and of incomplete \
         messages; beyond it those that are behind are closed."
    ),
    key!(messages_per_second, COUNT32.at_least(0), "New messages per second taken from one client. 0: no limit."),
    key!(connections_max, COUNT, "Connections of the whole process.").restart(),
    key!(connections_per_address, COUNT.at_least(0), "Clients from one address, or one /64 of IPv6. 0: no limit."),
    key!(
        "handshakes_max" => handshakes.max,
        COUNT,
        "Connections of the whole process that have neither become a client nor made a call that was allowed."
    ),
    key!(
        "handshakes_per_address" => handshakes.per_address,
        COUNT.at_least(0),
        "The same from one address, or one /64 of IPv6. 0: no limit."
    ),
    key!(channels_per_connection, COUNT, "Channels one connection may be in."),
];

static CALLS: &[Key] = &[
    key!(send_timeout, DURATION, "How long /send/ waits for clients' answers when it names no `timeout`."),
    key!(send_timeout_max, DURATION, "The longest `timeout` a call may name."),
    key!(calls_max, COUNT, "Calls that may wait for clients' answers at once, per worker."),
    key!(api_body_max, PART_SIZE, "The largest body of a call."),
    key!(
        "trace_body_bytes" => traces.trace_body_bytes,
        SIZE.within(0, 4096),
        "As much of a message's body as /trace/ shows. 0: only its type, QoS and size."
    ),
    key!(bodies_bytes_max, SIZE, "Memory of bodies that do not come with their heads, of all calls of one worker."),
    key!(
        strict_status,
        SWITCH,
        "Refused calls get 4xx (503: try again) and problem+json, not 200; so do unknown parameters."
    ),
];

static PROCESS: &[Key] = &[
    key!(cores, CORES, "CPUs to pin workers to, one each: \"0-3,6\". \"all\": all allowed ones.").restart(),
    key!(
        workers,
        COUNT.within(0, 1024),
        "Workers; may exceed the CPUs. 0: one per CPU, or fewer by the cgroup's cpu.max."
    )
    .restart(),
    key!(
        driver,
        DRIVER,
        "What workers wait with: \"io_uring\", \"epoll\", or \"auto\": epoll where the kernel or a container forbids \
         io_uring."
    )
    .restart(),
    key!(
        drain_delay,
        DURATION.at_least(0),
        "After SIGTERM /readyz says \"draining\" at once, and all else is served for so long; a second SIGTERM ends \
         that."
    ),
    key!(
        drain_rate,
        COUNT32,
        "Clients closed per second after SIGTERM, or more, so that all are within half of shutdown_timeout."
    ),
    key!(shutdown_timeout, DURATION, "After SIGTERM, and drain_delay, the process ends within this time."),
    key!(log, FILTER, "What is logged: a level, or a filter like info,rainbow=debug."),
    key!(log_format, LOG_FORMAT, "How it is written: \"text\", or \"json\", one object per line.").restart(),
    key!(
        "otlp_endpoint" => traces.otlp_endpoint,
        COLLECTOR_URL,
        "An OpenTelemetry collector that gets spans by OTLP over HTTP, e.g. http://localhost:4318; /v1/traces is \
         added. Empty: none."
    )
    .restart(),
    key!(
        "otlp_ratio" => traces.otlp_ratio,
        FACTOR.within(0, 1),
        "How many of the traces that begin here are collected, 0 to 1; of others their `traceparent` says whether."
    ),
];

static STORE: &[Key] = &[
    key!(
        "store.kind" => store.kind,
        STORE_KIND,
        "What keeps messages for those who are away: \"none\", \"sqlite\" or \"redis\"."
    )
    .restart(),
    key!(
        "store.data_dir" => store.data_dir,
        PATH,
        "The directory of SQLite's files; made when it is missing."
    )
    .restart(),
    key!(
        "store.url" => store.url,
        STORE_URL,
        "Redis: redis://, valkey://, unix:, redis-sentinel:// or redis-cluster://; rediss:// and the like with \
         TLS; it may hold a password."
    )
    .secret()
    .restart(),
    key!(
        "store.durability" => store.durability,
        DURABILITY,
        "\"fsync\": what was promised is on disk. \"memory\": it outlives a crash of Rainbow, not one of the machine."
    )
    .restart(),
    key!(
        "store.commit_delay" => store.commit_delay,
        DURATION.within(0, 1000),
        "How long a commit may wait for more to come, when it pays."
    ),
    key!(
        "store.patience" => store.patience,
        DURATION,
        "A message that an online session has not acknowledged after so long is stored."
    ),
    key!("store.session_messages_max" => store.session_messages_max, COUNT.within(1, 30_000),
        "Messages that may wait for one session; more are refused."),
    key!("store.session_bytes_max" => store.session_bytes_max, PART_SIZE, "Bytes that may wait for one session."),
    key!("store.bytes_max" => store.bytes_max, SIZE,
        "Bytes that may be kept for all sessions and, in SQLite, for the ids of calls."),
    key!(
        "store.session_expiry" => store.session_expiry,
        DURATION,
        "How long a session outlives its last connection when connect_url names no time."
    ),
    key!("store.session_expiry_max" => store.session_expiry_max, DURATION, "The longest time connect_url may name."),
    key!("store.message_ttl" => store.message_ttl, DURATION, "How long a message waits when its call names no `ttl`."),
    key!(
        "store.dedupe_window" => store.dedupe_window,
        DURATION,
        "How long a call's `message_id` is remembered: a repeat is answered again, not sent again."
    ),
];

/// A key of a table that the real ones do not have.
#[cfg(test)]
pub(super) const fn test_key() -> Key {
    key!("attic.kind" => cluster.name, NAME, "A key of a table that is none of ours.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_field_of_the_config_has_one_key() {
        fn fields(config: &impl std::fmt::Debug) -> impl Iterator<Item = String> {
            let printed = format!("{config:#?}");
            let lines: Vec<String> =
                printed.lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned).collect();
            lines
                .into_iter()
                .filter(|line| !line.starts_with(' '))
                .filter_map(|line| Some(line.split_once(':')?.0.to_owned()))
        }
        let config = Config::default();
        let is_key = |field: &String| {
            !matches!(
                &**field,
                "file" | "secrets" | "store" | "cluster" | "breaker" | "handshakes" | "retry_backoff" | "traces"
            )
        };
        let top = fields(&config).filter(is_key);
        let top = top.chain(fields(&config.secrets)).chain(fields(&config.traces));
        let stored = fields(&config.store).map(|field| format!("store.{field}"));
        let clustered = fields(&config.cluster).map(|field| match &*field {
            "choice" => "cluster".into(),
            field => format!("cluster_{field}"),
        });
        let breaker = fields(&config.breaker).map(|field| format!("breaker_{field}"));
        let handshakes = fields(&config.handshakes).map(|field| format!("handshakes_{field}"));
        let backoff = fields(&config.retry_backoff).map(|field| format!("retry_backoff_{field}"));
        let top = top.chain(backoff);
        let fields: BTreeSet<String> = top.chain(stored).chain(clustered).chain(breaker).chain(handshakes).collect();
        let fields: BTreeSet<&str> = fields.iter().map(String::as_str).collect();
        let paths: Vec<&str> = keys().map(|key| key.path).collect();
        assert_eq!(paths.iter().copied().collect::<BTreeSet<_>>(), fields);
        assert_eq!(paths.len(), fields.len(), "a key stands in the table twice");
    }

    #[test]
    fn variables_of_different_keys_differ() {
        let variables: BTreeSet<String> = keys().map(Key::variable).collect();
        assert_eq!(variables.len(), keys().count());
        assert!(variables.contains("RAINBOW_CONNECT_URL"));
    }

    #[test]
    fn every_secret_of_the_config_is_marked() {
        let secret: Vec<&str> = keys().filter(|key| key.secret).map(|key| key.path).collect();
        assert_eq!(secret, ["security_token", "webhook_secrets", "admin_token", "cluster_secret", "store.url"]);
    }
}
