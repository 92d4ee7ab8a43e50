//! A model of Redis: atomic commands on records with tokens, leases by its own clock, and a failover to an older copy.

use rainbow::base::id::{Generation, Identity};
use rainbow::base::keyed_hash::HashKey;
use rainbow::base::time::Tick;
use rainbow::cluster::ownership::adoption::{Orphan, OrphanPage};
use rainbow::cluster::ownership::claims::{ClaimAnswer, OwnershipCommand, SessionName, Token, WriteAnswer};
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
    /// Some of the dead one's connections become the sender's.
    TakeConnections(Generation),
    /// Its close was reported by the sender, whose it was.
    RemoveConnection {
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
    Taken {
        dead: Generation,
        connections: Option<Vec<Identity>>,
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
    /// Connections that one node takes over are there for the next one, too.
    TakesACopy,
}

#[derive(Clone, Default)]
pub struct Records {
    pub sessions: BTreeMap<SessionName, Token>,
    pub leases: BTreeMap<Generation, Tick>,
    pub buried: BTreeSet<Generation>,
    pub connections: BTreeSet<(Generation, Identity)>,
    /// What each node's last question for a dead node's connections was answered, and the question's number.
    answered: BTreeMap<Generation, (u64, Vec<Identity>)>,
}

#[derive(Default)]
pub struct Store {
    pub records: Records,
    pub copy: Records,
    pub away_until: Tick,
    /// Counts failovers: connections of before are broken.
    pub epoch: u64,
    pub bug: Option<StoreBug>,
    /// Answers to such questions that have arrived, by node: one that was lost is asked for again.
    pub arrived: BTreeMap<Generation, u64>,
}

impl Store {
    /// The answer to a command of this node arrives.
    pub fn arrives(&mut self, by: Generation, answer: &Answer) {
        if matches!(answer, Answer::Taken { .. }) {
            *self.arrived.entry(by).or_default() += 1;
        }
    }

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
                let mut answer = records.write(&name, token);
                // Nobody would look for what a life owns that has ended.
                if answer == WriteAnswer::Stored && !to.owner().is_some_and(|to| records.has_lease(to)) {
                    answer = WriteAnswer::Unknown;
                }
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
            Command::TakeConnections(dead) if !records.has_lease(by) => Answer::Taken { dead, connections: None },
            Command::TakeConnections(dead) => {
                let is_copied = self.bug == Some(StoreBug::TakesACopy);
                let number = self.arrived.get(&by).copied().unwrap_or_default();
                let known = records.answered.get(&by).filter(|(of, _)| *of == number);
                let taken = known.map(|(_, taken)| taken.clone());
                let taken = taken.unwrap_or_else(|| records.take_connections(by, dead, is_copied));
                // An empty one is not kept: the next question may be for another node's.
                records.answered.remove(&by);
                if !taken.is_empty() {
                    records.answered.insert(by, (number, taken.clone()));
                }
                Answer::Taken { dead, connections: Some(taken) }
            }
            Command::RemoveConnection { identity } => {
                records.connections.remove(&(by, identity));
                Answer::Nothing
            }
            Command::Record { identity } => {
                // Who has no lease could die without anybody noticing.
                let is_stored = records.has_lease(by);
                if is_stored {
                    records.connections.insert((by, identity));
                }
                Answer::Recorded { identity, is_stored }
            }
        }
    }

    /// A node says that it ends.
    pub fn close(&mut self, node: Generation, now: Tick) {
        if let Some(until) = self.records.leases.get_mut(&node) {
            *until = now;
            self.records.buried.insert(node);
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
            Command::TakeConnections(dead) => Answer::Taken { dead, connections: None },
            // It lies there until the node itself has ended.
            Command::RemoveConnection { .. } => Answer::Nothing,
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

    fn take_connections(&mut self, by: Generation, dead: Generation, is_copied: bool) -> Vec<Identity> {
        let of_dead = self.connections.iter().filter(|(of, _)| *of == dead);
        let taken: Vec<Identity> = of_dead.map(|(_, identity)| *identity).take(PAGE).collect();
        for identity in &taken {
            if !is_copied || self.connections.contains(&(by, *identity)) {
                self.connections.remove(&(dead, *identity));
            }
            self.connections.insert((by, *identity));
        }
        taken
    }
}

const PAGE: usize = 4;
pub const SESSIONS_KEY: HashKey = HashKey::new(31, 37);
