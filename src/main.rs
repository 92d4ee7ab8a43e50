//! Command line to configuration to server: `rainbow-server` and its subcommands.
//!
//! Nothing is decided here that the library does not offer; what goes wrong is printed, and is the exit code.

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use rainbow::audit::AuditCommand;
use rainbow::base::secret::Secret;
use rainbow::command::{CallCommand, Defaults, EXIT_CODES, Terminal, execute, write_manual};
use rainbow::config::{self, ClusterConfig, Config, Loaded, LogFormat, StoreConfig, StoreKind, process_env};
use rainbow::demo::{self, DemoConfig, NamedPorts, Ports, Seat};
use rainbow::io::log::writer::Log;
use rainbow::io::runtime::events::wait_for_end;
use rainbow::io::runtime::sys;
use rainbow::server::{self, Mode, NodeChange, Server};
use rainbow::store::{self, Progress};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Whoever started the server may have closed its stdout.
macro_rules! say {
    ($($text:tt)*) => {
        let _ = writeln!(std::io::stdout(), $($text)*);
    };
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A universal long-connection server: WebSocket clients in front, plain HTTP business servers behind.
#[derive(Parser)]
#[command(name = "rainbow-server", version = env!("BUILD_VERSION"), about, after_help = EXIT_CODES)]
struct Command {
    #[command(flatten)]
    serve: Serve,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Args, Clone)]
struct Serve {
    /// Configuration: TOML, or the INI of the first Rainbow (2014).
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Port to listen on; 0 takes any free one.
    #[arg(short, long)]
    port: Option<u16>,
    /// CPUs to pin workers to, such as 0-3,6.
    #[arg(long)]
    cores: Option<String>,
    /// Worker threads; more than CPUs are allowed.
    #[arg(long)]
    workers: Option<u16>,
    /// POINT:N: for tests of a debug build, which dies at that point of the store's work when it passes there the Nth
    /// time.
    #[arg(long, hide = true, value_name = "POINT:N")]
    crash_at: Option<String>,
}

#[derive(Subcommand)]
enum Action {
    /// Checks a configuration, or prints the default one.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// The server with a small chat as its business server, and a page to try it.
    Demo(DemoOptions),
    /// Sends every message back as it came: for conformance tests.
    Echo {
        #[arg(short, long)]
        port: Option<u16>,
    },
    /// Copies the SQLite store of a server, which may be running, into an empty directory.
    Backup {
        /// Made when it is missing.
        #[arg(value_name = "DIR")]
        target: PathBuf,
    },
    /// Proves the promises of a running server: what was acknowledged is never lost, QoS 2 is never doubled.
    Audit(Box<AuditCommand>),
    #[command(flatten)]
    Call(CallCommand),
    /// Prints the completions of a shell.
    #[command(after_help = "Example:\n  rainbow-server completions bash >/etc/bash_completion.d/rainbow-server")]
    Completions { shell: Shell },
    /// Prints the manual page.
    #[command(hide = true)]
    Man,
    /// The demo's business server alone.
    #[command(hide = true)]
    DemoBackend {
        #[arg(short, long, default_value_t = 0)]
        port: u16,
        /// Rainbow's port.
        #[arg(long, default_value_t = 1984)]
        rainbow: u16,
        #[arg(long, default_value = "")]
        token: String,
        /// Rainbow has a store: give everyone a durable session.
        #[arg(long)]
        sessions: bool,
    },
}

impl Action {
    /// It takes signals as values: it has workers, or a terminal to put right.
    fn takes_signals(&self) -> bool {
        match self {
            Action::Demo(_) | Action::Echo { .. } => true,
            Action::Call(call) => call.is_live(),
            _ => false,
        }
    }
}

#[derive(Args)]
struct DemoOptions {
    /// The server's port.
    #[arg(short, long)]
    port: Option<u16>,
    /// The page's port: the same after a restart, or the browser takes it for another page.
    #[arg(long, value_name = "PORT")]
    page: Option<u16>,
    /// The port where programs make calls.
    #[arg(long, value_name = "PORT")]
    admin: Option<u16>,
    /// Where messages for those who are away are kept; else rainbow-data, and for a second demo beside it
    /// rainbow-data-2.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Says what is wrong with a file, or that nothing is.
    Check {
        #[arg(short = 'f', long = "file", value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Prints every key with its default.
    Default,
}

fn main() -> ExitCode {
    let command = Command::parse();
    if command.action.as_ref().is_none_or(Action::takes_signals) {
        server::block_signals();
    }
    match command.action {
        None => serve(command.serve),
        Some(Action::Config { command: ConfigCommand::Default }) => {
            print!("{}", config::default_toml());
            ExitCode::SUCCESS
        }
        Some(Action::Config { command: ConfigCommand::Check { file } }) => {
            check(file.or(command.serve.file).as_deref())
        }
        Some(Action::Backup { target }) => back_up(command.serve, &target),
        Some(Action::Demo(options)) => run_demo(DemoOptions { port: options.port.or(command.serve.port), ..options }),
        Some(Action::Echo { port }) => echo(port.or(command.serve.port)),
        Some(Action::Audit(command)) => {
            // A thread per client and per caller: a huge page for the few bytes of each would make a gigabyte of 400.
            sys::forgo_huge_pages();
            match command.execute() {
                Ok(is_clean) => end(is_clean),
                Err(error) => fail(&format!("audit: {error}")),
            }
        }
        Some(Action::Call(call)) => {
            let terminal = Terminal { size: sys::terminal_size, wait: wait_for_end };
            let defaults = Defaults { file: command.serve.file, port: command.serve.port, terminal };
            ExitCode::from(execute(call, &defaults) as u8)
        }
        Some(Action::Completions { shell }) => {
            clap_complete::generate(shell, &mut Command::command(), "rainbow-server", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Some(Action::Man) => print_manual(),
        Some(Action::DemoBackend { port, rainbow: rainbow_port, token, sessions }) => {
            let address = (Ipv4Addr::LOCALHOST, port).into();
            match demo::run_backend(DemoConfig {
                rainbow_port,
                call_port: rainbow_port,
                token: token.into(),
                address,
                sessions,
            }) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&format!("demo-backend: {error}")),
            }
        }
    }
}

fn print_manual() -> ExitCode {
    let mut page = Vec::new();
    let written = write_manual(Command::command(), &mut page).and_then(|()| std::io::stdout().write_all(&page));
    written.map_or_else(|error| fail(&format!("man: {error}")), |()| ExitCode::SUCCESS)
}

fn serve(options: Serve) -> ExitCode {
    if let Some(point) = &options.crash_at
        && let Err(error) = server::crash_at(point)
    {
        return fail(&format!("--crash-at: {error}"));
    }
    let loaded = match load(&options) {
        Ok(loaded) => loaded,
        Err(errors) => return fail(&errors),
    };
    let log = match Log::start(&loaded.config.log, loaded.config.log_format) {
        Ok(log) => log,
        Err(error) => return fail(&format!("the log: {error}")),
    };
    let filter = log.filter();
    loaded.notices.iter().for_each(|notice| tracing::warn!("{notice}"));
    let has_no_file = options.file.is_none();
    let reread = Box::new(move || {
        let config = load(&options)?.config;
        filter.set(&config.log);
        Ok(config)
    });
    server::end_process_on_panic();
    match Server::start(loaded.config, mode(), reread) {
        Ok(server) => {
            if has_no_file {
                print_welcome(&server);
            }
            end(server.run())
        }
        Err(error) => fail(&error.to_string()),
    }
}

/// `RAINBOW_TEST_PANIC_TYPE=n` makes a message of type n panic, so that a test can see what that costs; with
/// `RAINBOW_TEST_PANIC_IN_TURN_TYPE` it does so where not only its connection is concerned.
fn mode() -> Mode {
    let variable = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let in_turn = variable("RAINBOW_TEST_PANIC_IN_TURN_TYPE").map(Mode::PanicInTurnOn);
    in_turn.or(variable("RAINBOW_TEST_PANIC_TYPE").map(Mode::PanicOn)).unwrap_or(Mode::Packets)
}

fn load(options: &Serve) -> Result<Loaded, String> {
    let options_set = [
        ("RAINBOW_CORES", options.cores.clone()),
        ("RAINBOW_WORKERS", options.workers.map(|workers| workers.to_string())),
    ];
    let replaced = |name: &str| options_set.iter().any(|(set, value)| *set == name && value.is_some());
    let options_first = options_set.iter().filter_map(|(name, value)| Some((String::from(*name), value.clone()?)));
    let env = process_env().filter(|(name, _)| !replaced(name)).chain(options_first);
    config::load(options.file.as_deref(), env, options.port).map_err(|errors| errors.to_string())
}

fn check(file: Option<&Path>) -> ExitCode {
    match config::load(file, process_env(), None) {
        Ok(loaded) => {
            loaded.notices.iter().for_each(|notice| drop(writeln!(std::io::stderr(), "{notice}")));
            println!("{}: no errors", file.map_or("the defaults".into(), |file| file.display().to_string()));
            ExitCode::SUCCESS
        }
        Err(errors) => fail(&errors.to_string()),
    }
}

/// The exit code is 0 when the copy was found sound.
fn back_up(options: Serve, target: &Path) -> ExitCode {
    let store = match load(&options) {
        Ok(loaded) => loaded.config.store,
        Err(errors) => return fail(&errors),
    };
    match store.kind {
        StoreKind::Sqlite => {}
        StoreKind::Redis => return fail("backup: the store is Redis. Back it up with its own means (BGSAVE)"),
        StoreKind::None => {
            return fail("backup: store.kind is \"none\". Name the server's configuration: -f FILE, before `backup`");
        }
    }
    let mut shown = 0;
    let mut progress = |progress: Progress| match progress {
        Progress::Copied { bytes, of } if bytes < shown || bytes == of || bytes - shown >= PROGRESS_BYTES => {
            shown = bytes;
            say!("copied {} of {} MiB", bytes >> 20, of >> 20);
        }
        Progress::Copied { .. } => {}
        Progress::Checking => {
            say!("checking the copy");
        }
    };
    match store::back_up(&store.data_dir, target, &mut progress) {
        Ok(backup) => {
            let store::Backup { bytes, sessions, messages } = backup;
            let directory = target.display();
            say!("{directory}: {sessions} sessions and {messages} messages in {} KiB, found sound", bytes >> 10);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&format!("backup: {error}")),
    }
}

fn echo(port: Option<u16>) -> ExitCode {
    let config = Config {
        http_port: port.or(Some(0)),
        listen: Ipv4Addr::LOCALHOST.into(),
        message_bytes_max: ECHO_BYTES_MAX,
        outbox_bytes_max: 4 * ECHO_BYTES_MAX,
        connect_url: Vec::new(),
        workers: 1,
        ..Config::default()
    };
    let _log = match Log::start(&config.log, config.log_format) {
        Ok(log) => log,
        Err(error) => return fail(&format!("the log: {error}")),
    };
    let reread = config.clone();
    match Server::start(config, Mode::Echo, Box::new(move || Ok(reread.clone()))) {
        Ok(server) => {
            say!("echo on ws://{}/", server.listen());
            end(server.run())
        }
        Err(error) => fail(&error.to_string()),
    }
}

/// Both halves on loopback and without a token, so that a plain curl may call; messages wait in SQLite. The demos of
/// this machine are the nodes of one cluster.
fn run_demo(options: DemoOptions) -> ExitCode {
    let seat = match options.data_dir {
        Some(data_dir) => Seat::at(data_dir),
        None => match Seat::take(Path::new(".")) {
            Ok(seat) => seat,
            Err(error) => return fail(&format!("demo: {error}")),
        },
    };
    let named = NamedPorts { rainbow: options.port, page: options.page, admin: options.admin };
    let chosen = Ports::choose(named, seat.number, Config::AUTO_PORTS, Config::ADMIN_PORT);
    let Ports { rainbow: rainbow_port, page, admin } = match chosen {
        Ok(ports) => ports,
        Err(error) => return fail(&format!("demo: {error}")),
    };
    // The business server comes first: its address belongs in the server's configuration.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, page));
    let token = Secret::default();
    let demo = match demo::start(DemoConfig { rainbow_port, call_port: admin, token, address, sessions: true }) {
        Ok(demo) => demo,
        Err(error) => return fail(&format!("demo: {address}: {error}")),
    };
    let hooks = format!("http://{}/rainbow", demo.address);
    let store = StoreConfig { kind: StoreKind::Sqlite, data_dir: seat.data_dir.clone(), ..StoreConfig::default() };
    let cluster = match demo_cluster() {
        Ok(cluster) => cluster,
        Err(errors) => return fail(&errors),
    };
    let config = Config {
        connect_url: vec![format!("{hooks}/connect/")],
        forward_url: vec![format!("{hooks}/message/{{message_type}}/")],
        close_url: vec![format!("{hooks}/close/")],
        http_port: Some(rainbow_port),
        listen: Ipv4Addr::LOCALHOST.into(),
        admin_listen: Some((Ipv4Addr::LOCALHOST, admin).into()),
        shutdown_timeout: Duration::from_secs(5),
        store,
        cluster,
        ..Config::default()
    };
    let _log = match Log::start("warn", LogFormat::Text) {
        Ok(log) => log,
        Err(error) => return fail(&format!("the log: {error}")),
    };
    let reread = config.clone();
    match Server::start(config, Mode::Packets, Box::new(move || Ok(reread.clone()))) {
        Ok(server) => {
            say!("\n  Open  http://{}/  in two browser windows and chat.", demo.address);
            say!("  Say something from here:  curl -d hello 'http://127.0.0.1:{admin}/send/?channel=room:lobby'");
            say!("  Ctrl-C ends it; what was said to those who are away is kept in {}.", seat.data_dir.display());
            print_seat(seat.number, rainbow_port);
            if let Err(error) = server.watch_nodes(move |change| print_node(change, admin)) {
                return fail(&format!("demo: {error}"));
            }
            let drained = server.run();
            demo.stop();
            end(drained)
        }
        Err(error) => fail(&error.to_string()),
    }
}

/// Of its own name, so that no other server without a token joins it; `RAINBOW_CLUSTER` and its kind change that.
fn demo_cluster() -> Result<ClusterConfig, String> {
    let name = ("RAINBOW_CLUSTER_NAME".into(), "demo".into());
    let set: Vec<(String, String)> = process_env().filter(|(name, _)| name.starts_with("RAINBOW_CLUSTER")).collect();
    let name = Some(name).filter(|(name, _)| !set.iter().any(|(set, _)| set == name));
    let loaded = config::load(None, set.into_iter().chain(name), None).map_err(|errors| errors.to_string())?;
    Ok(loaded.config.cluster)
}

fn print_seat(number: u16, rainbow_port: u16) {
    match number {
        1 => {
            say!("  The same command in another shell starts a second node, and the two are one chat.\n");
        }
        _ => {
            say!("  Demo {number} of this directory, with ports of its own (clients: {rainbow_port}).\n");
        }
    }
}

fn print_node(change: NodeChange, admin: u16) {
    match change {
        NodeChange::Linked(node) => {
            say!("  Another node was found: {}. What is said at one of the two is heard at both.", node.address);
        }
        NodeChange::Left(node) => {
            say!("  The node {} has left. Who was there is here; nothing is missed.", node.address);
        }
        NodeChange::Missed(node) => {
            let place = if node.address.port() == 0 { String::new() } else { format!(" ({})", node.address) };
            let node = node.generation;
            say!(
                "  A node{place} is away, and some sessions are on its disk. Start its demo again: until then some who"
            );
            say!("  come anew are turned away. If it is gone for good, and its directory is removed:");
            say!("  rainbow-server cluster forget {node} --server http://127.0.0.1:{admin}");
        }
    }
}

fn print_welcome(server: &Server) {
    let address = server.listen();
    let host =
        if address.ip().is_unspecified() { format!("127.0.0.1:{}", address.port()) } else { address.to_string() };
    let config = server.config();
    say!("\n  Rainbow {} listens on {address}.", env!("BUILD_VERSION"));
    say!("  Clients:     ws://{host}/connect/?X-DEVICEID=me&X-CLIENT-OS=terminal");
    if let Some(operator) = server.admin_listen().filter(|_| config.secrets.are_unset()) {
        say!("  Look at it:  http://{operator}/serverinfo/");
        say!("  A message:   curl -d hello 'http://{operator}/send/?channel=news&qos=0'");
    } else {
        say!("  Look at it:  http://{host}/serverinfo/");
    }
    if config.connect_url.is_empty() {
        say!("  There is no business server yet: every client is let in, and what clients send goes nowhere.");
        say!("  Name one:    RAINBOW_CONNECT_URL=http://localhost:8000/connect/ (also FORWARD_URL, CLOSE_URL)");
    }
    say!("  All settings: rainbow-server config default > rainbow.toml, then rainbow-server -f rainbow.toml");
    say!("  A chat to try: rainbow-server demo\n");
}

fn end(drained: bool) -> ExitCode {
    if drained { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fail(why: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "rainbow-server: {why}");
    ExitCode::FAILURE
}

/// 64 MiB between two lines.
const PROGRESS_BYTES: u64 = 64 << 20;
/// Autobahn sends up to 16 MiB.
const ECHO_BYTES_MAX: usize = 64 << 20;
