//! Where each node has a disk of its own: a worker's sessions that are on their way to it and from it, and which node
//! may create or fetch a session whose name falls to this one.
//!
//! ```text
//! claimed: not here ─► grant ─► who has it? ─► nobody: create it
//!                                          └─► a node: it passes it on: freeze ─► fetch ─► on this disk: owned
//! leaving: frozen ─► what became of it? ─► arrived: delete, forget
//!                                      └─► never: thaw, owned again
//! ```
//! A session that leaves is nobody's until the other disk says what became of it: who is away decides nothing.

use crate::base::id::Generation;
use crate::base::time::Tick;
use crate::cluster::ownership::claims::{Claims, RequestId, SessionName, Token};
use crate::cluster::ownership::creation::{Creation, CreationOutput};
use crate::cluster::ownership::union::Standing;
use crate::cluster::transfers::Settled;
use crate::io::runtime::oneshot::ReturnAddress;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What another node asks about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameQuery {
    /// Is the session here?
    Has {
        name: SessionName,
    },
    /// What became of the transfer to this node?
    Settle {
        name: SessionName,
        token: Token,
    },
    /// It wants to create or fetch the session.
    Grant {
        name: SessionName,
        id: RequestId,
    },
    Release {
        name: SessionName,
        id: RequestId,
    },
    /// The session leaves, to become part of another: note which of its messages its client may have.
    NoteSent {
        name: SessionName,
    },
    /// It has a session of this name too: which one stays?
    Rival {
        name: SessionName,
        standing: Standing,
    },
}

/// What takes several nodes or the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskErrand {
    /// Find the session, or create it.
    Find { name: SessionName, token: Token },
    /// It was passed to `transfer`: fetch it from there.
    Fetch { name: SessionName, token: Token, transfer: Token, from: Generation },
    /// The session leaves by `to`.
    Freeze { name: SessionName, token: Token, to: Token },
    /// Ask what became of a session that leaves.
    Settle { name: SessionName, token: Token },
    /// It stays.
    Thaw { name: SessionName, token: Token },
    /// Say what became of one that was to come.
    Decide { token: Token, to: ReturnAddress },
    /// Note which messages the client of a session that leaves may have.
    NoteSent { name: SessionName, to: ReturnAddress },
    /// Another node has a session of this name: say which one stays.
    Compare { name: SessionName, standing: Standing, from: Generation, to: ReturnAddress },
}

pub struct Disks {
    own: Generation,
    /// Transfers to this disk that are under way.
    coming: BTreeSet<Token>,
    /// Nodes that do not come back.
    parted: BTreeSet<Generation>,
    leaving: BTreeMap<SessionName, Leaving>,
    settle_at: Tick,
    creation: Creation,
    /// Where grants go.
    grants: BTreeMap<(Generation, RequestId), ReturnAddress>,
    errands: VecDeque<DiskErrand>,
    answers: VecDeque<(ReturnAddress, u32)>,
}

struct Leaving {
    token: Token,
    /// It is being frozen, or somebody is being asked.
    is_busy: bool,
}

impl Disks {
    pub fn new(own: Generation) -> Disks {
        Disks {
            own,
            coming: BTreeSet::new(),
            parted: BTreeSet::new(),
            leaving: BTreeMap::new(),
            settle_at: Tick::NEVER,
            creation: Creation::default(),
            grants: BTreeMap::new(),
            errands: VecDeque::new(),
            answers: VecDeque::new(),
        }
    }

    /// Sessions that are on their way.
    pub fn moving_len(&self) -> usize {
        self.leaving.len() + self.coming.len()
    }

    pub fn is_leaving(&self, name: &str) -> bool {
        self.leaving.contains_key(name)
    }

    /// A session is claimed. `from`: whom it was asked of.
    pub fn claim(&mut self, name: SessionName, token: Token, expected: Option<Token>, from: Option<Generation>) {
        let passed = expected.filter(|expected| expected.owner() == Some(self.own));
        self.errands.push_back(match passed.zip(from) {
            Some((transfer, from)) => {
                self.coming.insert(transfer);
                DiskErrand::Fetch { name, token, transfer, from }
            }
            None => DiskErrand::Find { name, token },
        });
    }

    /// A session is to come by this transfer, to become part of one that is here.
    pub fn expect(&mut self, transfer: Token) {
        self.coming.insert(transfer);
    }

    /// The fetch has ended, and the session is known to everybody if it has come.
    pub fn on_fetched(&mut self, transfer: Token) {
        self.coming.remove(&transfer);
    }

    /// The session is passed on.
    pub fn pass(&mut self, name: SessionName, token: Token, to: Token) {
        self.leaving.insert(name.clone(), Leaving { token: to, is_busy: true });
        self.errands.push_back(DiskErrand::Freeze { name, token, to });
    }

    /// It was leaving when an earlier process ended.
    pub fn leaves(&mut self, name: SessionName, token: Token) {
        self.leaving.insert(name, Leaving { token, is_busy: false });
        self.settle_at = Tick(0);
    }

    /// It is frozen, or nobody knows.
    pub fn on_frozen(&mut self, name: &str, now: Tick) {
        self.set_idle(name, now);
    }

    /// Nobody could say what became of it.
    pub fn on_unsettled(&mut self, name: &str, now: Tick) {
        self.set_idle(name, now);
    }

    fn set_idle(&mut self, name: &str, now: Tick) {
        if let Some(leaving) = self.leaving.get_mut(name) {
            leaving.is_busy = false;
            self.settle_at = self.settle_at.min(now + SETTLE_MS);
        }
    }

    /// It has left, or stays.
    pub fn on_settled(&mut self, name: &str) {
        self.leaving.remove(name);
    }

    /// The node does not come back: what was on its way there stays. What is busy is asked about again soon, in vain.
    pub fn on_parted(&mut self, node: Generation) {
        self.parted.insert(node);
        let errands = &mut self.errands;
        let idle = self.leaving.iter_mut().filter(|(_, leaving)| !leaving.is_busy);
        for (name, leaving) in idle.filter(|(_, leaving)| leaving.token.owner() == Some(node)) {
            leaving.is_busy = true;
            errands.push_back(DiskErrand::Thaw { name: name.clone(), token: leaving.token });
        }
    }

    /// It is known to everybody at its new owner.
    pub fn on_known(&mut self, name: &SessionName) {
        if let Some(leaving) = self.leaving.get_mut(name).filter(|leaving| !leaving.is_busy) {
            leaving.is_busy = true;
            self.errands.push_back(DiskErrand::Settle { name: name.clone(), token: leaving.token });
        }
    }

    pub fn on_query(&mut self, claims: &Claims, (from, query): (Generation, NameQuery), to: ReturnAddress, now: Tick) {
        match query {
            NameQuery::Has { name } => {
                let is_here = claims.has(&name) || self.is_leaving(&name);
                self.answers.push_back((to, is_here.into()));
            }
            NameQuery::Settle { name, token }
                if self.coming.contains(&token) || claims.requested(&name) == Some(token) =>
            {
                self.answers.push_back((to, Settled::Pending.code()));
            }
            NameQuery::Settle { token, .. } => self.errands.push_back(DiskErrand::Decide { token, to }),
            NameQuery::NoteSent { name } if self.is_leaving(&name) => {
                self.errands.push_back(DiskErrand::NoteSent { name, to });
            }
            NameQuery::NoteSent { .. } => self.answers.push_back((to, 0)),
            NameQuery::Rival { name, standing } => {
                self.errands.push_back(DiskErrand::Compare { name, standing, from, to });
            }
            NameQuery::Grant { name, id } => {
                self.grants.insert((from, id), to);
                self.creation.request(from, id, name, now);
                self.take_grants();
            }
            NameQuery::Release { name, id } => {
                self.grants.remove(&(from, id));
                self.creation.finished(from, id, &name, now);
                self.answers.push_back((to, 1));
                self.take_grants();
            }
        }
    }

    fn take_grants(&mut self) {
        while let Some(output) = self.creation.poll_output() {
            let (requester, code) = match output {
                CreationOutput::Grant { to, id } => ((to, id), 1),
                CreationOutput::Refuse { to, id } => ((to, id), 0),
            };
            self.answers.extend(self.grants.remove(&requester).map(|to| (to, code)));
        }
    }

    pub fn on_time(&mut self, now: Tick) {
        self.creation.handle_timers(now);
        self.take_grants();
        if self.settle_at > now {
            return;
        }
        let due = self.leaving.iter_mut().filter(|(_, leaving)| !leaving.is_busy).take(SETTLED_MAX);
        for (name, leaving) in due {
            leaving.is_busy = true;
            let (name, token) = (name.clone(), leaving.token);
            let is_over = token.owner().is_some_and(|node| self.parted.contains(&node));
            self.errands.push_back(match is_over {
                true => DiskErrand::Thaw { name, token },
                false => DiskErrand::Settle { name, token },
            });
        }
        let has_more = self.leaving.values().any(|leaving| !leaving.is_busy);
        self.settle_at = if has_more { now + SETTLE_SOON_MS } else { Tick::NEVER };
    }

    pub fn next_tick(&self) -> Tick {
        self.settle_at.min(self.creation.next_tick())
    }

    pub fn poll_errand(&mut self) -> Option<DiskErrand> {
        self.errands.pop_front()
    }

    pub fn poll_answer(&mut self) -> Option<(ReturnAddress, u32)> {
        self.answers.pop_front()
    }
}

/// Between two questions about the same session, and how many sessions are asked about at once.
const SETTLE_MS: u64 = 1_000;
const SETTLED_MAX: usize = 64;
const SETTLE_SOON_MS: u64 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Generation = Generation(1);
    const OTHER: Generation = Generation(2);

    fn errands(disks: &mut Disks) -> Vec<DiskErrand> {
        std::iter::from_fn(|| disks.poll_errand()).collect()
    }

    #[test]
    fn a_session_that_leaves_is_asked_about_until_somebody_knows() {
        let (mut disks, name): (Disks, SessionName) = (Disks::new(OWN), "s".into());
        let (token, to) = (Token::new(OWN, 1), Token::new(OTHER, 2));
        let settle = DiskErrand::Settle { name: name.clone(), token: to };
        disks.pass(name.clone(), token, to);
        assert_eq!(errands(&mut disks), [DiskErrand::Freeze { name: name.clone(), token, to }]);
        disks.on_time(Tick(5_000));
        assert_eq!(errands(&mut disks), [], "it is being frozen");
        disks.on_frozen(&name, Tick(5_000));
        disks.on_time(Tick(5_999));
        assert_eq!((errands(&mut disks), disks.next_tick()), (vec![], Tick(6_000)));
        for now in [6_000, 7_000, 8_000] {
            disks.on_time(Tick(now));
            assert_eq!(errands(&mut disks), std::slice::from_ref(&settle), "at {now}");
            disks.on_time(Tick(now + 500));
            assert_eq!(errands(&mut disks), [], "one question at a time");
            disks.on_unsettled(&name, Tick(now));
        }
        disks.on_parted(OTHER);
        assert_eq!(errands(&mut disks), [DiskErrand::Thaw { name: name.clone(), token: to }], "it does not come back");
        assert!(disks.is_leaving(&name));
        disks.on_settled(&name);
        disks.on_time(Tick(20_000));
        assert_eq!((disks.is_leaving(&name), errands(&mut disks), disks.next_tick()), (false, vec![], Tick::NEVER));
    }

    #[test]
    fn what_is_under_way_is_pending_and_the_rest_is_the_stores_to_say() {
        let (mut disks, name): (Disks, SessionName) = (Disks::new(OWN), "s".into());
        let (claims, to) = (Claims::new(OWN, 7, Tick(0)), ReturnAddress::unpack(5));
        let (token, transfer) = (Token::new(OWN, 1), Token::new(OWN, 2));
        disks.claim(name.clone(), token, Some(transfer), Some(OTHER));
        let fetch = DiskErrand::Fetch { name: name.clone(), token, transfer, from: OTHER };
        assert_eq!(errands(&mut disks), [fetch]);
        let settle = NameQuery::Settle { name: name.clone(), token: transfer };
        disks.on_query(&claims, (OTHER, settle.clone()), to, Tick(0));
        assert_eq!((errands(&mut disks), disks.poll_answer().map(|(_, code)| code)), (vec![], Some(3)));
        disks.on_fetched(transfer);
        disks.on_query(&claims, (OTHER, settle), to, Tick(0));
        assert_eq!(disks.poll_answer().map(|(_, code)| code), None);
        assert!(matches!(errands(&mut disks)[..], [DiskErrand::Decide { token, .. }] if token == transfer));
    }
}
