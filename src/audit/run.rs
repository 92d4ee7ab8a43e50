//! What all threads of a run share: its options, its number, its progress; and the names that follow from them.

use super::closes::Closes;
use super::options::Options;
use super::progress::Progress;
use crate::base::rng::Rng;
use std::net::SocketAddr;

#[derive(Debug)]
pub struct Run {
    pub options: Options,
    /// Drawn for every run: a second run against the same server recognises the messages of the first as foreign.
    pub number: u64,
    pub progress: Progress,
    pub closes: Closes,
}

impl Run {
    /// Messages of one stream.
    pub fn quota(&self) -> u64 {
        let streams = 2 * u64::from(self.options.sessions) * self.options.qos.len() as u64;
        self.options.messages.map_or(u64::MAX, |messages| messages.div_ceil(streams))
    }

    /// Where somebody connects now.
    pub fn target(&self, rng: &mut Rng) -> SocketAddr {
        let targets = &self.options.targets;
        targets[rng.below(targets.len() as u64) as usize]
    }

    /// Begins the names of this run's sessions.
    pub fn prefix(&self) -> String {
        format!("audit-{:08x}-", self.number as u32)
    }

    /// The name of a session, of its channel, and of its client's device.
    pub fn session_name(&self, session: u32) -> String {
        self.prefix() + &session.to_string()
    }
}
