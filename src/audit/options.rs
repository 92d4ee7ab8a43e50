//! What a run of the audit is to do: against which server, with how many sessions and messages, with which faults, and
//! how the server is started and killed. Made by `command`, or by the crash tests.

use super::ledger::Plant;
use crate::base::secret::Secret;
use crate::wire::packet::QoS;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Options {
    /// Where Rainbow listens: the nodes of a cluster, of which clients and callers choose one each time.
    pub targets: Vec<SocketAddr>,
    /// Rainbow's `security_token`.
    pub token: Secret,
    pub sessions: u32,
    /// In all, both directions and all QoS together; `None`: until the kills or the seconds are over.
    pub messages: Option<u64>,
    pub seconds: Option<u64>,
    /// Faults of connections per second, over all sessions.
    pub cuts_per_second: u32,
    /// 1, 2 or both.
    pub qos: Vec<QoS>,
    /// An existing directory without a ledger in it.
    pub ledger: PathBuf,
    pub seed: u64,
    /// No durable sessions: clients are found by their channel, and nothing survives a cut.
    pub channels: bool,
    /// Calls in a hundred that carry no `message_id`, so that they may be answered without the disk.
    pub plain_percent: u64,
    /// Forwarded messages in a hundred for which the business server stumbles: a 500, or no answer at all, though it
    /// has taken the message.
    pub stumbles_percent: u64,
    pub plant: Option<Plant>,
    /// How the audit starts and kills the server; `None`: not at all.
    pub plan: Option<Plan>,
    /// A line per second to stderr.
    pub shows_progress: bool,
}

impl Options {
    /// A small run without faults.
    pub fn new(target: SocketAddr, token: &str, ledger: PathBuf) -> Options {
        Options {
            targets: vec![target],
            token: token.into(),
            sessions: 10,
            messages: Some(1000),
            seconds: None,
            cuts_per_second: 0,
            qos: vec![QoS::AtLeastOnce, QoS::ExactlyOnce],
            ledger,
            seed: 1,
            channels: false,
            plain_percent: 30,
            stumbles_percent: 0,
            plant: None,
            plan: None,
            shows_progress: false,
        }
    }
}

/// How the server is started and ended.
#[derive(Clone, Debug)]
pub struct Plan {
    pub way: Way,
    /// After so many the run ends.
    pub kills: u64,
    /// How long a server lives on average after it is ready.
    pub life: Duration,
    /// How long one stays away on average that was killed, where there are several.
    pub away: Duration,
}

#[derive(Clone, Debug)]
pub enum Way {
    /// Our own child, one for each target: program and arguments, in which `{port}` is the target's, environment, and
    /// the names of points where it can kill itself.
    Child { command: Vec<String>, env: Vec<(String, String)>, points: Vec<String> },
    /// A server that the audit did not start: commands for the shell.
    Shell { kill: String, restart: String },
}
