//! The control API as values: path to route, request to call, outcome to answer. An HTTP error status is answered only
//! where the request cannot be read at all, or may succeed later.

mod answer;
mod call;
mod limits;
pub mod outcome;
mod read;
mod refusal;
pub mod remembered;
mod route;

pub use answer::{Sent, is_refusal, write_ignored, write_problem, write_refusal, write_sent};
pub use call::{Call, KickTarget, Targets, Timeouts};
pub use limits::{CHANNELS_PER_BROADCAST, NAME_BYTES_MAX, SESSIONS_LISTED_MAX};
pub use read::{ReadSend, Signature, ignored_parameters, read_call, read_send, session_name};
pub use refusal::Refusal;
pub use route::{Access, Route};
