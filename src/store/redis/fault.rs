//! Why a batch got no responses, and whether it helps to try it again; what an error that Redis answers means for the
//! store.

use crate::shard::command::StoreError;
use crate::store::opening::OpenError;
use redis::ServerError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No answer came, so what Redis has done is not known: the batch is tried again.
    Unanswered(String),
    /// Trying again at once does not help.
    Refused { reason: StoreError, detail: String },
    /// Trying again later does not help either: the operator must look.
    Permanent { reason: StoreError, detail: String },
}

impl Fault {
    pub fn broken(detail: String) -> Fault {
        Fault::Refused { reason: StoreError::Broken, detail }
    }

    pub fn of_answer(error: &ServerError) -> Fault {
        Fault::Refused { reason: store_error(error), detail: error.to_string() }
    }
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> OpenError {
        match fault {
            Fault::Unanswered(detail) | Fault::Refused { detail, .. } | Fault::Permanent { detail, .. } => {
                OpenError::Redis { detail }
            }
        }
    }
}

/// A script, which is the same for all sessions, could not read what lies under its keys: this concerns the session or
/// claim that they belong to. What Redis itself refuses has a code of its own.
pub fn is_damage(error: &ServerError) -> bool {
    let (code, text) = (error.code(), error.details().unwrap_or_default());
    let is_wrong_type = code == "WRONGTYPE" || text.contains("WRONGTYPE");
    is_wrong_type || code == "ERR" && text.contains("user_script") && !text.contains("OOM")
}

/// What an error of a script or of Redis itself means for the request.
pub fn store_error(error: &ServerError) -> StoreError {
    let text = error.to_string();
    // An error within a script has the script's own code; the text contains what Redis refused.
    if text.contains("OOM command not allowed") {
        return StoreError::StoreFull;
    }
    match error.code() {
        "OOM" => StoreError::StoreFull,
        "MISCONF" if text.contains("No space left") => StoreError::DiskFull,
        "MISCONF" => StoreError::ReadOnly,
        _ => StoreError::Broken,
    }
}
