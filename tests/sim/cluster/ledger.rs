//! What must be true of sessions on disks: which session lies where as a whole, which messages were acknowledged, and
//! who has what.

use super::disk::{Change, Copy, Disk, Stage};
use rainbow::cluster::ownership::claims::SessionName;
use rainbow::shard::command::{SessionId, Token};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Ledger {
    /// Which session has a message, and messages that two have.
    holders: BTreeMap<u64, SessionId>,
    twofold: BTreeSet<u64>,
    /// Names that were created twice by nodes that could not see each other. Until they are one, little is promised of
    /// what one of them has.
    apart: BTreeSet<SessionName>,
    /// Those that have become one, with the last message from before.
    joined: BTreeMap<SessionName, u64>,
    /// Those that have become part of others.
    absorbed: BTreeSet<SessionId>,
    /// Messages of QoS 2 of which nobody knows whether their client has them.
    uncertain: BTreeMap<SessionName, u64>,
    /// Per session the nodes that its creator could not see.
    unseen: BTreeMap<SessionId, BTreeSet<u16>>,
    /// Messages that were acknowledged to their callers.
    acknowledged: BTreeMap<SessionName, BTreeSet<u64>>,
}

impl Ledger {
    /// A node has a session stored, perhaps for the first time.
    pub fn note_creation(&mut self, session: SessionId, unseen: BTreeSet<u16>) {
        self.unseen.entry(session).or_insert(unseen);
    }

    pub fn note_message(&mut self, message: u64, session: SessionId) {
        if *self.holders.entry(message).or_insert(session) != session {
            self.twofold.insert(message);
        }
    }

    /// Two sessions of one name have it: before they are one each may hand it over.
    pub fn is_twofold(&self, message: u64) -> bool {
        self.twofold.contains(&message)
    }

    pub fn were_apart(&self, session: SessionId, other: u16) -> bool {
        self.unseen.get(&session).is_some_and(|unseen| unseen.contains(&other))
    }

    /// A session was created although another of its name is there.
    pub fn created_apart(&mut self, name: &SessionName) {
        self.apart.insert(name.clone());
    }

    pub fn is_apart(&self, name: &str) -> bool {
        self.apart.contains(name)
    }

    /// It comes from before two sessions of the name have become one, or they have not.
    pub fn was_apart(&self, name: &str, message: u64) -> bool {
        self.is_apart(name) || self.joined.get(name).is_some_and(|last| message <= *last)
    }

    /// The session that leaves by this transfer has become part of another one.
    pub fn united(&mut self, disks: &BTreeMap<u16, Disk>, name: &SessionName, (token, uncertain): (Token, u32)) {
        let leaving = disks.values().filter_map(|disk| disk.copies.get(name));
        let leaving = leaving.filter(|copy| copy.stage == Stage::Leaving(token));
        self.absorbed.extend(leaving.map(|copy| copy.session));
        *self.uncertain.entry(name.clone()).or_default() += u64::from(uncertain);
    }

    pub fn uncertain(&self, name: &str) -> u64 {
        self.uncertain.get(name).copied().unwrap_or(0)
    }

    /// True: two of one name are one again, as the disks have it.
    pub fn join(&mut self, disks: &BTreeMap<u16, Disk>, name: &SessionName, last: u64) -> bool {
        let copies = disks.values().filter(|disk| disk.copies.contains_key(name)).count();
        let is_one = copies == 1 && self.apart.remove(name);
        if is_one {
            self.joined.insert(name.clone(), last);
        }
        is_one
    }

    pub fn acknowledge(&mut self, name: &SessionName, token: u64) {
        self.acknowledged.entry(name.clone()).or_default().insert(token);
    }

    pub fn acknowledged(&self, name: &str) -> impl Iterator<Item = u64> {
        self.acknowledged.get(name).into_iter().flatten().copied()
    }

    /// Where a session is as a whole, there alone.
    pub fn check_change(&self, disks: &BTreeMap<u16, Disk>, at: u16, change: &Change) {
        let copies = |name: &SessionName, session: SessionId| {
            let of_others = disks.iter().filter(move |(port, _)| **port != at);
            let copies = of_others.filter_map(|(port, disk)| Some((*port, *disk.copies.get(name)?)));
            copies.filter(move |(_, copy)| copy.session == session).collect::<Vec<(u16, Copy)>>()
        };
        match change {
            Change::Created(name, session) | Change::Arrived(name, session) | Change::Stayed(name, session) => {
                let whole = copies(name, *session).into_iter().find(|(_, copy)| copy.stage == Stage::Whole);
                assert_eq!(whole, None, "{change:?} at {at}: it is somebody's already");
            }
            Change::Deleted(name, session) => {
                let others = copies(name, *session);
                let is_safe = others.iter().any(|(_, copy)| !matches!(copy.stage, Stage::Partial(_)));
                assert!(
                    is_safe || self.absorbed.contains(session),
                    "{change:?} at {at}, and it is nowhere else: {others:?}"
                );
            }
            Change::United(..) => {}
        }
    }

    /// The session of a name that a node acknowledges something for.
    pub fn check_owner(&self, disks: &BTreeMap<u16, Disk>, at: u16, name: &SessionName) {
        let whole = |disk: &Disk| disk.copies.get(name).is_some_and(|copy| copy.stage == Stage::Whole);
        assert!(whole(&disks[&at]), "{at} acknowledges for {name}, which is {:?}", disks[&at].copies.get(name));
        let other = disks.iter().find(|(port, disk)| **port != at && whole(disk));
        assert!(other.is_none() || self.is_apart(name), "{at} and {:?} own {name}", other.map(|(port, _)| port));
    }

    /// Long after the last fault: each session is on one disk.
    pub fn check_places(&self, disks: &BTreeMap<u16, Disk>) {
        let mut places: BTreeMap<(&SessionName, SessionId), Vec<(u16, Stage)>> = BTreeMap::new();
        for (port, disk) in disks {
            for (name, copy) in &disk.copies {
                places.entry((name, copy.session)).or_default().push((*port, copy.stage));
            }
        }
        let mut names = BTreeSet::new();
        for ((name, session), places) in &places {
            assert!(places.len() == 1, "{name} {session:?} lies on {places:?}");
            let is_whole = places.iter().all(|(_, stage)| *stage == Stage::Whole);
            assert!(is_whole, "{name} {session:?} is under way for ever: {places:?}");
            assert!(names.insert(*name), "{name} is twice there");
        }
    }
}
