//! The business server of a run: `backend` answers Rainbow's hooks, `caller` makes the calls.
//!
//! Both note in the ledger what they send and see. Started by `execute`.

pub mod backend;
pub mod caller;
