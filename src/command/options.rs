//! The subcommands that call a server, as clap reads them. What each does is in `execute`.

use super::exit::CommandError;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Subcommand)]
pub enum CallCommand {
    /// Sends a message to everyone in a channel, or to a durable session.
    #[command(after_help = "Examples:\n  rainbow-server send news 'hello'\n  \
                            rainbow-server send --session ann --wait-stored <letter.json")]
    Send(On<SendOptions>),
    /// Sends a message to several channels; who is in two of them gets it once.
    #[command(after_help = "Example:\n  rainbow-server broadcast -c news -c weather 'storm at noon'")]
    Broadcast(On<BroadcastOptions>),
    /// Closes a client's connection, or all of a channel.
    #[command(after_help = "Example:\n  rainbow-server kick --channel news --code 4500 --reason 'closed for today'")]
    Kick(On<KickOptions>),
    /// Subscribes a client or a session to a channel.
    #[command(after_help = "Example:\n  rainbow-server sub --session ann news")]
    Sub(On<SubOptions>),
    /// Takes a client or a session out of a channel.
    #[command(after_help = "Example:\n  rainbow-server unsub --session ann news")]
    Unsub(On<MembershipOptions>),
    /// Lists the largest channels.
    #[command(after_help = "Example:\n  rainbow-server channels --limit 20")]
    Channels(On<ChannelsOptions>),
    /// Lists who is online in a channel, page by page.
    #[command(after_help = "Example:\n  rainbow-server members news --offset 100")]
    Members(On<MembersOptions>),
    /// Lists durable sessions, of all nodes: who is online, what waits for whom.
    #[command(after_help = "Examples:\n  rainbow-server sessions --state waiting --order oldest\n  \
                            rainbow-server sessions --find ann --offset 100")]
    Sessions(On<SessionsOptions>),
    /// Shows a durable session: online or not, its channels, what waits for it.
    #[command(after_help = "Example:\n  rainbow-server session ann")]
    Session(On<NameOption>),
    /// Ends a durable session and all that waits for it.
    #[command(after_help = "Example:\n  rainbow-server drop ann")]
    Drop(On<NameOption>),
    /// Shows how the server is doing.
    #[command(after_help = "Example:\n  rainbow-server info --json | jq .counters")]
    Info(On<NoOptions>),
    /// Shows live figures: connections, messages per second, backends, workers, store, the largest channels.
    #[command(after_help = "Examples:\n  rainbow-server top\n  rainbow-server top --once >figures.txt")]
    Top(On<TopOptions>),
    /// Follows a connection, a session, a channel or a user of a node: who sends what, and when it is acknowledged.
    #[command(after_help = "Examples:\n  rainbow-server tail --session ann\n  \
                            rainbow-server tail --channel news --seconds 10 --json | jq .type")]
    Tail(On<TailOptions>),
    /// Looks at the cluster.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Makes the server read its configuration again, all or nothing.
    #[command(after_help = "Example:\n  rainbow-server -f /etc/rainbow/rainbow.toml reload")]
    Reload(On<NoOptions>),
    /// Ends the server as SIGTERM does: clients are told to go, what is under way is finished first.
    #[command(after_help = "Example:\n  rainbow-server -f /etc/rainbow/rainbow.toml drain")]
    Drain(On<NoOptions>),
    /// Says whether the server takes clients: for a container's health check.
    #[command(after_help = "Example:\n  rainbow-server health && echo ready")]
    Health(On<HealthOptions>),
    /// Prints a call's URL with a signature, for curl; it is valid for signature_window.
    #[command(after_help = "Example:\n  curl -d hello \"$(rainbow-server sign '/send/?channel=news')\"")]
    Sign(On<SignOptions>),
    /// Prints a new random secret: for security_token or admin_token, or for webhook_secrets.
    #[command(after_help = "Example:\n  echo \"admin_token = '$(rainbow-server token)'\" >>rainbow.toml")]
    Token(TokenOptions),
}

#[derive(clap::Subcommand)]
pub enum ClusterCommand {
    /// Shows every node: its state as the one that is called sees it, its connections, since when.
    #[command(after_help = "Example:\n  rainbow-server cluster status --server http://10.0.0.2:1984")]
    Status(On<NoOptions>),
    /// Says that a node does not come back (SQLite): the names of its sessions are free, and its disk must not return.
    #[command(after_help = "Example:\n  rainbow-server cluster forget 1f0c95ab")]
    Forget(On<NodeOption>),
}

#[derive(clap::Args)]
pub struct NodeOption {
    /// As `cluster status` and /info/ show it.
    #[arg(value_name = "NODE")]
    pub node: String,
}

/// What a subcommand takes, and the server that it is for.
#[derive(clap::Args)]
pub struct On<A: clap::Args> {
    #[command(flatten)]
    pub what: A,
    #[command(flatten)]
    pub server: ServerOptions,
}

#[derive(clap::Args)]
pub struct ServerOptions {
    /// The server. Default: where the configuration listens (admin_listen if it is set), else http://127.0.0.1:1984.
    #[arg(long, value_name = "URL", help_heading = SERVER)]
    pub server: Option<String>,
    /// The server's configuration, for its address and its tokens. They may also come from the environment:
    /// RAINBOW_ADMIN_TOKEN, RAINBOW_SECURITY_TOKEN, RAINBOW_WEBHOOK_SECRETS.
    #[arg(short = 'f', long = "file", value_name = "FILE", help_heading = SERVER)]
    pub file: Option<PathBuf>,
    /// Prints the server's answer as JSON. It does so whenever stdout is no terminal.
    #[arg(long, conflicts_with = "text", help_heading = SERVER)]
    pub json: bool,
    /// Prints for people also where stdout is no terminal.
    #[arg(long, help_heading = SERVER)]
    pub text: bool,
}

/// What stands on the command line before the subcommand, and what only the process's own part knows of its terminal.
pub struct Defaults {
    pub file: Option<PathBuf>,
    pub port: Option<u16>,
    pub terminal: Terminal,
}

pub struct Terminal {
    /// Columns and rows of stdout, if it is a terminal.
    pub size: fn() -> Option<(usize, usize)>,
    /// Waits so long; true as soon as a signal tells the process to end.
    pub wait: fn(Duration) -> bool,
}

impl CallCommand {
    /// It goes on until a signal ends it, and has then something to put right.
    pub fn is_live(&self) -> bool {
        matches!(self, CallCommand::Top(_))
    }
}

#[derive(clap::Args)]
pub struct SendOptions {
    /// The channel, or with --session or --user the session's or the user's name.
    pub to: String,
    #[command(flatten)]
    pub message: MessageOptions,
    /// To one durable session, which may be away.
    #[arg(long, conflicts_with = "user")]
    pub session: bool,
    /// To all connections and sessions of a user.
    #[arg(long)]
    pub user: bool,
}

#[derive(clap::Args)]
pub struct BroadcastOptions {
    /// May be given often.
    #[arg(short, long = "channel", value_name = "CHANNEL", required = true)]
    pub channels: Vec<String>,
    #[command(flatten)]
    pub message: MessageOptions,
}

#[derive(clap::Args)]
pub struct MessageOptions {
    /// The message, byte for byte; left out or "-": stdin.
    body: Option<String>,
    /// Message type, 0 to 65534. Default: 1.
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    pub message_type: Option<u16>,
    /// 0: at most once, 1: at least once, 2: exactly once. Default: 2.
    #[arg(short, long, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: Option<u8>,
    /// How long to wait for the clients' answers. Default: the server's send_timeout.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// How long it may wait for those who are away.
    #[arg(long, value_name = "SECONDS")]
    pub ttl: Option<u64>,
    /// Your own id: the same call again is answered again, and not sent again.
    #[arg(long, value_name = "ID")]
    pub message_id: Option<String>,
    /// Do not wait for clients: it is enough that the message is stored for them.
    #[arg(long)]
    pub wait_stored: bool,
}

impl MessageOptions {
    pub fn body(&self) -> Result<Vec<u8>, CommandError> {
        if let Some(body) = self.body.as_ref().filter(|body| *body != "-") {
            return Ok(body.clone().into_bytes());
        }
        let mut body = Vec::new();
        let read = io::stdin().lock().take(BODY_BYTES_MAX + 1).read_to_end(&mut body).map_err(CommandError::Message)?;
        if read as u64 > BODY_BYTES_MAX {
            return Err(CommandError::Message(io::Error::other("over 1 GiB, more than any server takes")));
        }
        Ok(body)
    }
}

#[derive(clap::Args)]
pub struct KickOptions {
    /// The client's identity, or with --channel or --user the channel's or the user's name.
    pub target: String,
    /// Everyone who is in the channel.
    #[arg(long, conflicts_with = "user")]
    pub channel: bool,
    /// All connections of the user.
    #[arg(long)]
    pub user: bool,
    /// Close code, 1000 or 3000 to 4999. Default: 4500, on which our clients stay away.
    #[arg(long)]
    pub code: Option<u16>,
    /// What the client hears, 123 bytes at most.
    #[arg(long)]
    pub reason: Option<String>,
}

#[derive(clap::Args)]
pub struct MembershipOptions {
    /// The client's identity, or with --session the session's name.
    pub who: String,
    pub channel: String,
    /// The name is that of a durable session.
    #[arg(long)]
    pub session: bool,
}

#[derive(clap::Args)]
pub struct SubOptions {
    #[command(flatten)]
    pub membership: MembershipOptions,
    /// Everyone else leaves the channel first.
    #[arg(long)]
    pub occupy: bool,
}

#[derive(clap::Args)]
pub struct ChannelsOptions {
    #[arg(long, default_value_t = 20)]
    pub limit: usize,
}

#[derive(clap::Args)]
pub struct MembersOptions {
    /// The channel, or with --user the user's name.
    pub channel: String,
    /// Lists the connections of a user.
    #[arg(long)]
    pub user: bool,
    #[arg(long, default_value_t = 0)]
    pub offset: usize,
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
}

#[derive(clap::Args)]
pub struct SessionsOptions {
    /// Only those that are online, away, or have messages that wait.
    #[arg(long, value_name = "STATE", value_parser = ["online", "away", "waiting"])]
    pub state: Option<String>,
    /// By name, or those first whose oldest message has waited longest.
    #[arg(long, value_name = "ORDER", value_parser = ["name", "oldest"], default_value = "name")]
    pub order: String,
    /// Only those whose name contains that.
    #[arg(long, value_name = "TEXT")]
    pub find: Option<String>,
    #[arg(long, default_value_t = 0)]
    pub offset: usize,
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
}

#[derive(clap::Args)]
pub struct NameOption {
    /// The session's name.
    pub name: String,
}

#[derive(clap::Args)]
pub struct TopOptions {
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=60))]
    pub interval: u16,
    /// Looks twice, prints one frame and ends. It does so whenever stdout is no terminal.
    #[arg(long)]
    pub once: bool,
    /// Default: as many as the terminal has, or 80.
    #[arg(long, value_name = "N")]
    pub columns: Option<usize>,
}

#[derive(clap::Args)]
pub struct TailOptions {
    #[command(flatten)]
    pub whom: Whom,
    /// For so long, a minute at most.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub seconds: u64,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct Whom {
    /// A connection.
    #[arg(long)]
    pub identity: Option<String>,
    /// A durable session, whatever connection it has.
    #[arg(long, value_name = "NAME")]
    pub session: Option<String>,
    /// Everybody who is in the channel, and what is sent to it.
    #[arg(long)]
    pub channel: Option<String>,
    /// All connections of a user.
    #[arg(long)]
    pub user: Option<String>,
}

#[derive(clap::Args)]
pub struct NoOptions {}

#[derive(clap::Args)]
pub struct HealthOptions {
    /// Only whether the process lives.
    #[arg(long)]
    pub live: bool,
}

#[derive(clap::Args)]
pub struct SignOptions {
    /// Path and query of the call.
    pub path: String,
}

#[derive(clap::Args)]
pub struct TokenOptions {
    /// A Standard Webhooks secret (`whsec_…`).
    #[arg(long)]
    pub webhook: bool,
}

/// The most that `api_body_max` may be.
const BODY_BYTES_MAX: u64 = 1 << 30;
const SERVER: &str = "The server, and how its answer is printed";
