//! The command line of `rainbow-server audit`.

use super::execute::{Report, run};
use super::ledger::Plant;
use super::options::{Options, Plan, Way};
use crate::config::url::HttpUrl;
use crate::wire::packet::QoS;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// Proves the promises of a running server: nothing acknowledged is lost, nothing of QoS 2 comes twice.
#[derive(Clone, Debug, clap::Args)]
pub struct AuditCommand {
    /// Where Rainbow listens; given often: the nodes of a cluster, between which clients and callers roam.
    #[arg(long, default_value = "http://127.0.0.1:1984")]
    url: Vec<String>,
    /// Rainbow's `security_token`: without one, it takes no calls there.
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    token: String,
    /// Where the audit's business server listens; Rainbow's three hooks must lead there.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The same, on 127.0.0.1.
    #[arg(long, value_name = "PORT", conflicts_with = "listen")]
    backend_port: Option<u16>,
    #[arg(long, default_value_t = 100)]
    sessions: u32,
    /// In all: both directions, every QoS.
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// Ends the run earlier.
    #[arg(long)]
    seconds: Option<u64>,
    /// Faults of lines per second: cuts at any byte, second connections, pauses, absences.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0)]
    cuts: u32,
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    qos: Vec<u8>,
    /// Where the ledger is kept; made when it is not there. Default: a temporary one, removed when all is well.
    #[arg(long, value_name = "DIR")]
    ledger: Option<PathBuf>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// No durable sessions: for a server without a store. Use it without cuts.
    #[arg(long)]
    channels: bool,
    /// Calls in a hundred without `message_id`.
    #[arg(long, value_name = "PERCENT", default_value_t = 30)]
    plain: u64,
    /// Messages in a hundred that the business server answers with 500, or takes and does not answer.
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    stumbles: u64,
    /// The server's command line: the audit starts it, with the hooks in its environment, and kills it. With several
    /// --url one is started for each, and {port} stands for its port.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["kill", "restart"])]
    server: Option<String>,
    /// A point where the server kills itself; may be given often. Needs --server.
    #[arg(long, value_name = "NAME", requires = "server")]
    crash_at: Vec<String>,
    /// Ends the run after so many kills.
    #[arg(long)]
    kills: Option<u64>,
    /// How long a server lives on average, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 600)]
    life: u64,
    /// How long a node stays away on average that was killed, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    away: u64,
    /// Kills the server; run by the shell at random moments.
    #[arg(long, value_name = "COMMAND", requires = "restart")]
    kill: Option<String>,
    /// Starts it again; must not wait for its end.
    #[arg(long, value_name = "COMMAND", requires = "kill")]
    restart: Option<String>,
    /// Makes the audit see what did not happen, to show that it would be caught.
    #[arg(long)]
    plant: Option<Plant>,
}

impl AuditCommand {
    /// Runs the audit and prints what it found; true when every promise was kept.
    pub fn execute(self) -> Result<bool, String> {
        let listen = self.backend_port.map_or(self.listen, |port| SocketAddr::from(([127, 0, 0, 1], port)));
        let listener = TcpListener::bind(listen).map_err(|error| format!("{listen}: {error}"))?;
        let backend = listener.local_addr().map_err(|error| error.to_string())?;
        let (ledger, is_ours) = self.make_ledger().map_err(|error| format!("the ledger: {error}"))?;
        let options = self.options(backend, ledger.clone())?;
        println!("business server of the audit: http://{backend}/   ledger: {}", ledger.display());
        hooks(backend).iter().for_each(|(name, url)| println!("  {name} = \"{url}\""));
        let report = run(options, listener).map_err(|error| error.to_string())?;
        print(&report);
        let clean = report.violations() == 0;
        if clean && is_ours {
            let _ = std::fs::remove_dir_all(&ledger);
        }
        Ok(clean)
    }

    fn make_ledger(&self) -> io::Result<(PathBuf, bool)> {
        let temporary = || std::env::temp_dir().join(format!("rainbow-audit-{}", std::process::id()));
        let dir = self.ledger.clone().unwrap_or_else(temporary);
        std::fs::create_dir_all(&dir)?;
        if std::fs::read_dir(&dir)?.next().is_some() {
            return Err(io::Error::other(format!("{} is not empty", dir.display())));
        }
        Ok((dir, self.ledger.is_none()))
    }

    fn options(self, backend: SocketAddr, ledger: PathBuf) -> Result<Options, String> {
        let target =
            |url: &String| HttpUrl::parse(url).map_err(|error| format!("{url}: {error}")).and_then(|url| resolve(&url));
        let targets = self.url.iter().map(target).collect::<Result<Vec<SocketAddr>, String>>()?;
        let qos: Option<Vec<QoS>> =
            self.qos.iter().map(|qos| QoS::from_u8(*qos).filter(|qos| *qos != QoS::AtMostOnce)).collect();
        let qos = qos.filter(|qos| !qos.is_empty()).ok_or("--qos takes 1, 2 or both: of QoS 0 nothing is promised")?;
        if self.sessions == 0 {
            return Err("--sessions must be 1 or more".into());
        }
        let plan = self.plan(backend)?;
        Ok(Options {
            targets,
            token: self.token.into(),
            sessions: self.sessions,
            messages: Some(self.messages),
            seconds: self.seconds,
            cuts_per_second: self.cuts,
            qos,
            ledger,
            seed: self.seed,
            channels: self.channels,
            plain_percent: self.plain,
            stumbles_percent: self.stumbles,
            plant: self.plant,
            plan,
            shows_progress: true,
        })
    }

    fn plan(&self, backend: SocketAddr) -> Result<Option<Plan>, String> {
        let way = match (&self.server, &self.kill, &self.restart) {
            (Some(server), ..) => {
                let command: Vec<String> = server.split_whitespace().map(String::from).collect();
                if command.is_empty() {
                    return Err("--server is empty".into());
                }
                if self.url.len() > 1 && !server.contains("{port}") {
                    return Err("with several --url the --server needs {port}, as in -p {port}".into());
                }
                let mut env: Vec<(String, String)> =
                    hooks(backend).map(|(name, url)| (format!("RAINBOW_{}", name.to_uppercase()), url)).into();
                env.push(("RAINBOW_SECURITY_TOKEN".into(), self.token.clone()));
                Way::Child { command, env, points: self.crash_at.clone() }
            }
            (None, Some(kill), Some(restart)) => Way::Shell { kill: kill.clone(), restart: restart.clone() },
            _ => return Ok(None),
        };
        let kills = self.kills.unwrap_or(u64::MAX);
        let (life, away) = (Duration::from_millis(self.life), Duration::from_millis(self.away));
        Ok(Some(Plan { way, kills, life, away }))
    }
}

/// The keys of Rainbow's configuration that lead to a business server, with their values.
pub fn hooks(backend: SocketAddr) -> [(&'static str, String); 3] {
    let url = |path: &str| format!("http://{backend}{path}");
    [("connect_url", url("/connect/")), ("forward_url", url("/message/{message_type}/")), ("close_url", url("/close/"))]
}

fn resolve(url: &HttpUrl) -> Result<SocketAddr, String> {
    let address = format!("{}:{}", url.host, url.port);
    let mut found = address.to_socket_addrs().map_err(|error| format!("{address}: {error}"))?;
    found.next().ok_or_else(|| format!("{address}: no address"))
}

fn print(report: &Report) {
    println!("\n{}", report.verdict);
    println!(
        "{:.1} s; {} kills ({} at named points, {} during recovery)",
        report.seconds, report.kills, report.kills_at_points, report.kills_in_recovery
    );
    println!(
        "{} connects, {} cuts, {} takeovers ({} told), {} pauses, {} absences",
        report.connects, report.cuts, report.takeovers, report.takeovers_notified, report.pauses, report.absences
    );
    println!(
        "calls: {} broken, {} silent, {} refused, {} given up; their answers counted {} connections and {} stored; \
         clients' messages unanswered: {}",
        report.calls_broken,
        report.calls_silent,
        report.calls_refused,
        report.calls_given_up,
        report.connections,
        report.stored,
        report.unanswered,
    );
    println!("{}", report.closes);
    if !report.complaint.is_empty() {
        println!("the last complaint: {}", report.complaint);
    }
    println!("{}", if report.violations() == 0 { "every promise was kept" } else { "PROMISES WERE BROKEN" });
    println!("{}", report.to_json());
}
