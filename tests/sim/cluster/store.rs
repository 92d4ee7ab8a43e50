//! A model of Redis: atomic commands on records with tokens, leases by its own clock, and a failover to an older copy.

use rainbow::base::id::{Generation, Identity};
use rainbow::base::keyed_hash::HashKey;
use rainbow::base::time::Tick;
use rainbow::cluster::ownership::adoption::{Orphan, OrphanPage};
use rainbow::cluster::ownership::claims::{ClaimAnswer, OwnershipCommand, SessionName, Token, WriteAnswer};
use rainbow::cluster::ownership::closes::{CloseAnswer, ClosePage, CloseRecord};
use rainbow::cluster::ownership::lease::{LEASE_MS, Lease};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
pub enum Command {
    Claims(OwnershipCommand),
    Write {
        name: SessionName,
        token: Token,
    },
    /// Renews the sender's lease, and reads all.
    Renew,
    Bury(Generation),
    /// Nothing of a dead node is left.
    RemoveLease(Generation),
    ReadOrphans {
        dead: Generation,
        from: u64,
    },
    ReadCloses {
        dead: Generation,
        from: u64,
    },
    ClaimClose {
        dead: Generation,
        identity: Identity,
        expected: Option<Generation>,
    },
    RemoveClose {
        dead: Generation,
        identity: Identity,
    },
    /// Before a connection's 101.
    Record {
        identity: Identity,
    },
}

#[derive(Clone, Debug)]
pub enum Answer {
    Claim {
        name: SessionName,
        token: Token,
        answer: ClaimAnswer,
    },
    Pass {
        name: SessionName,
        token: Token,
        answer: WriteAnswer,
    },
    Write {
        name: SessionName,
        token: Token,
        answer: WriteAnswer,
    },
    /// `None`: no answer. An empty list: the sender has been buried.
    Leases(Option<Vec<Lease>>),
    Buried {
        node: Generation,
        is_buried: bool,
    },
    Orphans {
        dead: Generation,
        page: Option<OrphanPage>,
    },
    Closes {
        dead: Generation,
        page: Option<ClosePage>,
    },
    ClaimedClose {
        dead: Generation,
        identity: Identity,
        answer: CloseAnswer,
    },
    RemovedClose {
        dead: Generation,
        identity: Identity,
    },
    Recorded {
        identity: Identity,
        is_stored: bool,
    },
    Nothing,
}

/// A mistake of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreBug {
    /// Writes are carried out whatever their token.
    ComparesNothing,
}

#[derive(Clone, Default)]
pub struct Records {
    pub sessions: BTreeMap<SessionName, Token>,
    pub leases: BTreeMap<Generation, Tick>,
    pub buried: BTreeSet<Generation>,
    pub closes: BTreeMap<(Generation, Identity), Option<Generation>>,
}

#[derive(Default)]
pub struct Store {
    pub records: Records,
    pub copy: Records,
    pub away_until: Tick,
    /// Counts failovers: connections of before are broken.
    pub epoch: u64,
    pub bug: Option<StoreBug>,
}

impl Store {
    /// Carries a command out for a node.
    pub fn carry_out(&mut self, by: Generation, command: Command, now: Tick) -> Answer {
        let compares = self.bug != Some(StoreBug::ComparesNothing);
        let records = &mut self.records;
        match command {
            Command::Claims(OwnershipCommand::Claim { name, expected, token }) => {
                let answer = records.claim(by, &name, expected, token);
                Answer::Claim { name, token, answer }
            }
            Command::Claims(OwnershipCommand::Pass { name, token, to }) => {
                let answer = records.write(&name, token);
                if answer == WriteAnswer::Stored {
                    records.sessions.insert(name.clone(), to);
                }
                Answer::Pass { name, token, answer }
            }
            Command::Claims(OwnershipCommand::Verify { name, token }) => {
                let answer = records.write(&name, token);
                Answer::Write { name, token, answer }
            }
            Command::Write { name, token } => {
                let answer = if compares { records.write(&name, token) } else { WriteAnswer::Stored };
                Answer::Write { name, token, answer }
            }
            Command::Renew => Answer::Leases(Some(records.renew(by, now))),
            Command::Bury(node) => {
                let has_ended = records.leases.get(&node).is_none_or(|until| *until <= now);
                if has_ended {
                    records.buried.insert(node);
                }
                Answer::Buried { node, is_buried: has_ended }
            }
            Command::RemoveLease(node) => {
                records.leases.remove(&node);
                Answer::Nothing
            }
            Command::ReadOrphans { dead, from } => Answer::Orphans { dead, page: Some(records.orphans(dead, from)) },
            Command::ReadCloses { dead, from } => Answer::Closes { dead, page: Some(records.close_page(dead, from)) },
            Command::ClaimClose { dead, identity, expected } => {
                let is_free = records.closes.get(&(dead, identity)) == Some(&expected);
                if is_free {
                    records.closes.insert((dead, identity), Some(by));
                }
                let answer = if is_free { CloseAnswer::Done } else { CloseAnswer::Taken };
                Answer::ClaimedClose { dead, identity, answer }
            }
            Command::RemoveClose { dead, identity } => {
                records.closes.remove(&(dead, identity));
                Answer::RemovedClose { dead, identity }
            }
            Command::Record { identity } => {
                // Who has no lease could die without anybody noticing.
                let is_stored = records.has_lease(by);
                if is_stored {
                    records.closes.insert((by, identity), None);
                }
                Answer::Recorded { identity, is_stored }
            }
        }
    }

    /// What the sender finds out when the store does not answer.
    pub fn no_answer(command: Command) -> Answer {
        match command {
            Command::Claims(OwnershipCommand::Claim { name, token, .. }) => {
                Answer::Claim { name, token, answer: ClaimAnswer::Unknown }
            }
            Command::Claims(OwnershipCommand::Pass { name, token, .. }) => {
                Answer::Pass { name, token, answer: WriteAnswer::Unknown }
            }
            Command::Claims(OwnershipCommand::Verify { name, token }) | Command::Write { name, token } => {
                Answer::Write { name, token, answer: WriteAnswer::Unknown }
            }
            Command::Renew => Answer::Leases(None),
            Command::Bury(node) => Answer::Buried { node, is_buried: false },
            Command::RemoveLease(_) => Answer::Nothing,
            Command::ReadOrphans { dead, .. } => Answer::Orphans { dead, page: None },
            Command::ReadCloses { dead, .. } => Answer::Closes { dead, page: None },
            Command::ClaimClose { dead, identity, .. } => {
                Answer::ClaimedClose { dead, identity, answer: CloseAnswer::Failed }
            }
            // The next pass finds it.
            Command::RemoveClose { dead, identity } => Answer::RemovedClose { dead, identity },
            Command::Record { identity } => Answer::Recorded { identity, is_stored: false },
        }
    }

    pub fn fail_over(&mut self, now: Tick) {
        self.records = self.copy.clone();
        self.epoch += 1;
        self.away_until = now + 300;
    }
}

impl Records {
    fn has_lease(&self, node: Generation) -> bool {
        self.leases.contains_key(&node) && !self.buried.contains(&node)
    }

    fn claim(&mut self, by: Generation, name: &SessionName, expected: Option<Token>, token: Token) -> ClaimAnswer {
        if !self.has_lease(by) {
            return ClaimAnswer::NoLease;
        }
        let of = self.sessions.get(name).copied();
        if of != expected {
            return ClaimAnswer::Taken(of);
        }
        self.sessions.insert(name.clone(), token);
        ClaimAnswer::Claimed
    }

    fn write(&self, name: &SessionName, token: Token) -> WriteAnswer {
        if self.sessions.get(name) == Some(&token) { WriteAnswer::Stored } else { WriteAnswer::Fenced }
    }

    fn renew(&mut self, by: Generation, now: Tick) -> Vec<Lease> {
        if self.buried.contains(&by) {
            return Vec::new();
        }
        self.leases.insert(by, now + LEASE_MS);
        let leases = self.leases.iter();
        leases.map(|(node, until)| Lease { node: *node, remaining_ms: until.since_ms(now) }).collect()
    }

    fn orphans(&self, dead: Generation, from: u64) -> OrphanPage {
        let orphans = self.sessions.iter().filter(|(_, token)| token.owner() == Some(dead));
        let page = orphans.skip(from as usize).take(PAGE).map(|(name, token)| Orphan {
            name: name.clone(),
            hash: SESSIONS_KEY.hash(name),
            token: *token,
        });
        let sessions: Vec<Orphan> = page.collect();
        let next = (sessions.len() == PAGE).then_some(from + PAGE as u64);
        OrphanPage { sessions, next }
    }

    fn close_page(&self, dead: Generation, from: u64) -> ClosePage {
        let of_dead = self.closes.iter().filter(|((of, _), _)| *of == dead);
        let page = of_dead.skip(from as usize).take(PAGE).map(|((_, identity), claimed_by)| CloseRecord {
            identity: *identity,
            cookie: None,
            claimed_by: *claimed_by,
        });
        let records: Vec<CloseRecord> = page.collect();
        let next = (records.len() == PAGE).then_some(from + PAGE as u64);
        ClosePage { records, next }
    }
}

const PAGE: usize = 4;
pub const SESSIONS_KEY: HashKey = HashKey::new(31, 37);
