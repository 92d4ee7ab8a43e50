//! What the dispatcher and the tasks of connections are to each other.
//!
//! The dispatcher starts tasks through `ConnectionTasks` and knows no more of them; a task reports to the dispatcher,
//! at last how its connection ended. So neither file imports the other. Implemented by `pool`.

use std::net::IpAddr;
use std::sync::Arc;

use super::connections::Unsent;
use super::ids::ConnectionIndex;
use crate::policy::backend::Failure;

/// Starts what waits for the network. A task begins to run only after the call that started it, when no borrow is held.
pub trait ConnectionTasks {
    /// Connects to one of the addresses and reads responses, until the connection ends.
    fn start_connection(&self, connection: ConnectionIndex, addresses: Arc<[IpAddr]>, port: u16);

    /// Sends the rest of a request.
    fn start_sending(&self, connection: ConnectionIndex, unsent: Unsent);
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// No connection came about, or its response could not be read.
    Failed(Failure),
    /// Closed or reset with no byte of a response on it: idle, or as our request was on its way.
    ClosedUntouched,
    /// Closed after a response that did not leave it usable.
    Spent,
    /// The backend sent something without a request.
    Unsolicited,
}

impl ConnectionEnd {
    /// What the end means to a request that was on the connection.
    pub fn failure(self) -> Failure {
        match self {
            ConnectionEnd::Failed(failure) => failure,
            ConnectionEnd::ClosedUntouched | ConnectionEnd::Spent => Failure::Reset,
            ConnectionEnd::Unsolicited => Failure::Malformed,
        }
    }
}
