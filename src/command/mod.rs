//! The command line of an operator: `rainbow-server send`, `kick`, `info` and the others, each one call to a running
//! server.
//!
//! A subcommand (`options`) is carried out by `execute`: it becomes a request (`request`), which goes to the server
//! that `server` finds, with the signature or token that the configuration has. `client` carries it, `output` prints
//! the answer, `top` goes on asking and draws what it hears (`frame`), `exit` has the exit codes, `manual` writes the
//! manual page. It is a user of the HTTP interface like any other. Called by `main`.

mod client;
mod execute;
mod exit;
mod frame;
mod manual;
mod options;
mod output;
mod request;
mod server;
mod tail;
mod top;

pub use execute::execute;
pub use exit::{EXIT_CODES, Exit};
pub use manual::write_manual;
pub use options::{CallCommand, Defaults, Terminal};
