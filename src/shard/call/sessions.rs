//! Which durable sessions a list is to have, in which order, and what it says of each. Plain values: they travel
//! between workers and between nodes.

use crate::base::id::Identity;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedSessions {
    pub state: SessionState,
    pub order: SessionOrder,
    /// What the name must contain; empty: any name.
    pub find: Box<str>,
    /// The first so many, in that order.
    pub most: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionState {
    #[default]
    Any,
    Online,
    Away,
    /// Messages wait for it in the store.
    Waiting,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionOrder {
    #[default]
    Name,
    /// By the age of the oldest message that waits; those for which none waits come last.
    Oldest,
}

/// One session of a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionSummary {
    pub name: Arc<str>,
    /// Its connection, while it is online.
    pub identity: Option<Identity>,
    pub user: Option<Box<str>>,
    pub waiting: u32,
    pub waiting_bytes: u64,
    /// How long the oldest message has waited. No time of day: the clock of the node that asks may be another.
    pub oldest_ms: Option<u64>,
    /// What is left until it ends, while it is absent.
    pub left_ms: Option<u64>,
}

/// Where a session stands in a list.
pub type SessionRank = (u64, Arc<str>);

impl SessionState {
    pub const ALL: [SessionState; 4] =
        [SessionState::Any, SessionState::Online, SessionState::Away, SessionState::Waiting];
}

impl SessionOrder {
    pub const ALL: [SessionOrder; 2] = [SessionOrder::Name, SessionOrder::Oldest];
}

impl WantedSessions {
    /// A session that stands so is meant.
    pub fn means(&self, name: &str, is_online: bool, waiting: u32) -> bool {
        let fits = match self.state {
            SessionState::Any => true,
            SessionState::Online => is_online,
            SessionState::Away => !is_online,
            SessionState::Waiting => waiting > 0,
        };
        fits && name.contains(&*self.find)
    }

    /// `oldest`: by any clock, since when the oldest message waits.
    pub fn rank(&self, name: &Arc<str>, oldest: Option<u64>) -> SessionRank {
        let since = match self.order {
            SessionOrder::Name => 0,
            SessionOrder::Oldest => oldest.unwrap_or(u64::MAX),
        };
        (since, name.clone())
    }

    /// Several parts of a list as one, in its order.
    pub fn merge(&self, sessions: &mut Vec<SessionSummary>) {
        sessions
            .sort_by_cached_key(|session| self.rank(&session.name, session.oldest_ms.map(|age| u64::MAX - 1 - age)));
        sessions.truncate(self.most);
    }
}
