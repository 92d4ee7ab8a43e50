//! The exit codes of the subcommands that call a server, and what goes wrong with the text for each.

use crate::config::UrlError;
use std::io;

/// What a script learns. The numbers are promised in `EXIT_CODES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The server did it, for everybody who was meant.
    Done = 0,
    /// The server refused it, or did it for some only.
    Refused = 1,
    /// The command line or the configuration is wrong; nothing was sent. clap's own code, too.
    Usage = 2,
    /// No connection to the server; nothing was sent.
    Unreachable = 3,
    /// The call was sent and no answer came: it may have been carried out.
    Unanswered = 4,
}

/// Why there is no answer to print.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("--server {url}: {error}. {}", .error.hint())]
    Server { url: String, error: UrlError },
    #[error("{0}")]
    Config(String),
    #[error("the message: {0}")]
    Message(io::Error),
    #[error(
        "the server's configuration has no security_token to sign with: name it with -f, or set \
             RAINBOW_SECURITY_TOKEN"
    )]
    NoToken,
    #[error("signature_require is \"webhook\": that signature covers the body and stands in headers, not in a URL")]
    OnlyWebhook,
    #[error("{path}: {error}. {}", .error.hint())]
    Path { path: String, error: UrlError },
    #[error("{path}: a path begins with /")]
    NoPath { path: String },
    #[error("{0}: no randomness")]
    Random(io::Error),
    #[error("{server}: {error}. Is it running there? (--server URL, or -f with the server's configuration)")]
    Unreachable { server: String, error: io::Error },
    #[error("{server} answers {status}")]
    Refused { server: String, status: u16 },
    #[error("{server}: the call was sent, and no whole answer came: {error}. It may have been carried out")]
    Unanswered { server: String, error: io::Error },
}

impl CommandError {
    pub fn exit(&self) -> Exit {
        match self {
            CommandError::Unreachable { .. } => Exit::Unreachable,
            CommandError::Unanswered { .. } => Exit::Unanswered,
            CommandError::Refused { .. } => Exit::Refused,
            _ => Exit::Usage,
        }
    }
}

/// For `--help` and the manual page.
pub const EXIT_CODES: &str = "\
Exit codes of the subcommands that call a server:
  0  done
  1  the server refused it, or did it for some only
  2  wrong usage or configuration; nothing was sent
  3  no connection to the server; nothing was sent
  4  sent, and no answer came: it may have been carried out";
