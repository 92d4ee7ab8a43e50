//! Proves the promises of durable sessions against a running server: the business server, the callers and the clients
//! of a run in one process, faults on every connection, a ledger on disk, and a verdict made of that ledger.
//!
//! It talks to Rainbow over sockets like any user; it shares the parsers, the packets and the signature with it and
//! nothing else. Called by `main` (`rainbow-server audit`) and by the crash tests.

mod bits;
mod business;
mod client;
mod closes;
mod command;
mod execute;
mod judge;
mod ledger;
mod options;
mod payload;
mod progress;
mod run;
mod supervisor;

pub use client::{Connection, Frame, Greeting};
pub use closes::Tally;
pub use command::{AuditCommand, hooks};
pub use execute::{Report, run};
pub use judge::{Row, Verdict, judge};
pub use ledger::Plant;
pub use options::{Options, Plan, Way};
pub use payload::{Corrupt, Direction, Payload, Stream};
pub use progress::Phase;
