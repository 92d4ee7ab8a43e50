//! The embedded store: one SQLite file, one connection.

use super::{Answer, Held, Now, OpenError, Opened, Options, Purged, Request, State};
use crate::shard::steps::{Outcome, Refused};

pub struct Sqlite;

impl Sqlite {
    pub fn open(options: &Options, _: Now) -> Result<(Sqlite, Opened), OpenError> {
        Err(OpenError::Failed { path: options.data_dir.clone(), detail: "not built yet".into() })
    }

    pub fn commit(&mut self, requests: Vec<Request>, _: Now) -> Vec<Answer> {
        let refuse = |request| match request {
            Request::Shard { shard, work } => {
                Answer::Shard { shard, number: work.number, outcome: Outcome::Refused(Refused::Broken) }
            }
            Request::Claim { ticket, .. } => {
                Answer::Claim { ticket, claimed: super::Claimed::Refused(Refused::Broken) }
            }
            Request::Settle { .. } => Answer::Settled,
        };
        requests.into_iter().map(refuse).collect()
    }

    pub fn purge(&mut self, _: Now, _: usize) -> Purged {
        Purged::default()
    }

    pub fn tend(&mut self, _: bool) {}

    pub fn check(&mut self, _: Now) {}

    pub fn state(&self) -> State {
        State::Refusing { why: Refused::Broken, detail: "not built yet".into() }
    }

    pub fn held(&self) -> Held {
        Held::default()
    }

    pub fn set_bytes_max(&mut self, _: u64) {}

    pub fn close(self) {}
}
