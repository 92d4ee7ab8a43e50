//! Why a connection does not become a client, and the HTTP response that says so.
//!
//! One enum for the checks of the upgrade, the business server's decision, and the session's attachment.

use crate::io::http::response::{Response, ResponseForm};
use crate::policy::admission::NotAdmitted;
use crate::shard::command::StoreError;
use crate::wire::ws::frame::{self, CloseCode};
use crate::wire::ws::handshake;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectRefusal {
    #[error("{0}")]
    Handshake(handshake::Refusal),
    #[error("an upgrade has no body")]
    HasBody,
    #[error("this origin is not allowed")]
    Origin,
    #[error("X-DEVICEID and X-CLIENT-OS must be given, as headers or as query parameters")]
    NoDevice,
    #[error("too many connections")]
    Full,
    #[error("too many connections from this address")]
    TooManyFromAddress,
    #[error("going away")]
    GoingAway,
    /// By the business server, which may give a reason.
    #[error("{}", .0.as_deref().unwrap_or("refused"))]
    Refused(Option<Box<str>>),
    #[error("the business server does not answer")]
    NoAnswer,
    #[error("the session cannot be stored: {0}")]
    SessionNotStored(StoreError),
    #[error("the session's worker is too busy")]
    OwnerBusy,
}

impl ConnectRefusal {
    pub fn status(&self) -> u16 {
        match self {
            ConnectRefusal::Handshake(error) => error.status(),
            ConnectRefusal::HasBody => 400,
            ConnectRefusal::NoDevice | ConnectRefusal::Refused(_) => 401,
            ConnectRefusal::Origin => 403,
            ConnectRefusal::TooManyFromAddress => 429,
            ConnectRefusal::Full
            | ConnectRefusal::GoingAway
            | ConnectRefusal::NoAnswer
            | ConnectRefusal::SessionNotStored(_)
            | ConnectRefusal::OwnerBusy => 503,
        }
    }

    /// For a client of `rainbow.2`, which cannot see an HTTP status in a browser: the 101, and a close at once.
    fn close_after(&self, mut response: Vec<u8>) -> Vec<u8> {
        let code = if self.status() == 503 { CloseCode::BACKEND_UNREACHABLE } else { CloseCode::REFUSED };
        frame::write_close(&mut response, code, &self.to_string());
        response
    }

    /// The last bytes for the client. `accepted` is the 101, where the refusal has to follow it.
    pub fn write(&self, out: &mut Vec<u8>, accepted: Option<Vec<u8>>) {
        match accepted {
            Some(response) => out.extend_from_slice(&self.close_after(response)),
            None => self.response().write(out, &ResponseForm::LAST),
        }
    }

    pub fn response(&self) -> Response {
        let response = Response::plain(self.status(), &self.to_string());
        match self {
            ConnectRefusal::Handshake(error) => {
                error.headers().iter().fold(response, |response, &(name, value)| response.with_header(name, value))
            }
            // Later the same request may succeed.
            _ if matches!(self.status(), 429 | 503) => response.with_retry_after(),
            _ => response,
        }
    }
}

impl From<NotAdmitted> for ConnectRefusal {
    fn from(why: NotAdmitted) -> ConnectRefusal {
        match why {
            NotAdmitted::Full => ConnectRefusal::Full,
            NotAdmitted::TooManyFromAddress => ConnectRefusal::TooManyFromAddress,
        }
    }
}
