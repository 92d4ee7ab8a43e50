//! What the store's thread has done, and what the store holds. The thread writes; /metrics and /info/ read.

use super::counter::{Counter, Gauge};
use super::figure::figures;
use super::histogram::Durations;

figures! {
    pub struct StoreMetrics {
        /// Mutations requested of the store.
        mutations: Counter as "store_steps" in "store_mutations",
        /// Pages of messages requested.
        loads: Counter as "store_loads",
        /// Calls with a message_id that it looked up.
        claims: Counter as "store_claims",
        /// Changes of who owns a session.
        ownerships: Counter as "store_ownerships",
        /// Connections noted, and struck out when their closes were reported.
        connections: Counter as "store_connections",
        /// Requests that it refused.
        refused: Counter as "store_refused",
        /// Requests refused because what is stored for the session is damaged, and sessions unread at the start.
        damaged: Counter as "store_damaged",
        /// Its commits.
        commits: Counter as "store_commits",
        /// Messages whose time was over before they reached their session.
        expired: Counter as "store_expired",
        /// Messages that wait in the store.
        messages: Gauge as "store_messages",
        /// Bytes that wait in the store.
        bytes: Gauge as "store_bytes",
        /// 1 while the store makes no promises.
        refusing: Gauge as "store_refusing",
    }
    unexported {
        /// Lengths of its commits, from the first request taken to the answers.
        commit: Durations,
        /// The longest commit, in microseconds.
        commit_us_max: Gauge,
    }
}
