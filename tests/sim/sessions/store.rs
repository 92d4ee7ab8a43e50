//! The store as a shard may expect one: it does the work in its order, a group per commit, tells after it, and what was
//! not committed is gone with a crash. It refuses for a while, is late, tears a group, falls back to an older copy. It
//! can be told to make a mistake (`Fault`), which has to be noticed.

use crate::peer::token_of;
use rainbow::base::rng::Rng;
use rainbow::shard::steps::{
    Expired, Found, Kept, Order, Outcome, Page, Received, Refused, SessionId, SessionRow, Step, Told, UnixMs, What,
    Work,
};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

/// A mistake of the store's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Tells before the commit.
    SkipsSync,
    /// Says that it is done when it was refused.
    CallsRefusedDone,
    ForgetsReceived,
    ForgetsReleased,
    ForgetsChannels,
    /// A message that is gone takes its claim along.
    ForgetsClaims,
    /// A row that exists stays as it is.
    KeepsOldRows,
    /// A page begins behind the message that it should begin with.
    SkipsOnPages,
    /// Loads do not see the steps of their own group.
    LoadsTooEarly,
    /// A message that is done takes those before it along.
    RemovesTooMuch,
}

impl Fault {
    pub const ALL: &[Fault] = &[
        Fault::SkipsSync,
        Fault::CallsRefusedDone,
        Fault::ForgetsReceived,
        Fault::ForgetsReleased,
        Fault::ForgetsChannels,
        Fault::ForgetsClaims,
        Fault::KeepsOldRows,
        Fault::SkipsOnPages,
        Fault::LoadsTooEarly,
        Fault::RemovesTooMuch,
    ];
}

/// What is durable of a session.
#[derive(Clone, Debug)]
pub struct Entry {
    pub row: SessionRow,
    pub channels: BTreeSet<Arc<str>>,
    pub messages: BTreeMap<Order, Kept>,
    pub received: BTreeMap<u16, Received>,
    claims: BTreeMap<Arc<str>, UnixMs>,
}

pub enum Says {
    Told(Told),
    Expired(Expired),
}

#[derive(Default)]
pub struct Store {
    pub disk: BTreeMap<SessionId, Entry>,
    older: BTreeMap<SessionId, Entry>,
    /// Given out by the shard, in its order.
    queue: VecDeque<Work>,
    /// Being written.
    group: Vec<Work>,
    /// On its way to the shard.
    says: VecDeque<Says>,
    last_number: u64,
    /// Of all that was given out and not told: the message that is to be kept.
    untold: VecDeque<Option<(SessionId, u64)>>,
    /// Of what was told last: sessions whose messages were to be kept.
    just_told: Vec<SessionId>,
    /// Something stays that the shard believes gone, or gone that it believes there, until it is loaded again.
    pub left_behind: bool,
    /// Why it refuses, and until when.
    refusing: Option<(Refused, u64)>,
    /// It fell back to an older copy and has noticed.
    pub fell_back: bool,
    fault: Option<Fault>,
    /// What the shard was told to be safe: session and token.
    pub promised: HashSet<(SessionId, u64)>,
    /// It has done what it refused: counts in memory are not exact before the next start.
    pub inexact: bool,
    pub refusals: u64,
    pub torn: u64,
    pub known: u64,
    pub expired: u64,
    /// By session, since the process began. What is in memory when it expires is counted down twice.
    pub expired_of: BTreeMap<SessionId, u32>,
}

impl Store {
    pub fn new(fault: Option<Fault>) -> Store {
        Store { fault, ..Store::default() }
    }

    pub fn give(&mut self, work: Work) {
        self.last_number += 1;
        assert_eq!(work.number, self.last_number, "work is numbered without gaps");
        let kept = match &work.what {
            What::Step(Step::Keep(kept)) if !kept.released => Some((kept.session, token_of(kept.message.parts().1))),
            _ => None,
        };
        self.untold.push_back(kept);
        self.queue.push_back(work);
    }

    pub fn wants_to_take(&self) -> bool {
        !self.queue.is_empty() && self.group.is_empty()
    }

    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.group.is_empty() && self.says.is_empty()
    }

    /// A group or what is told of one is under way: a good moment to die.
    pub fn is_busy(&self) -> bool {
        !self.is_idle()
    }

    pub fn refuse_until(&mut self, why: Refused, until: u64) {
        self.refusing = Some((why, until));
    }

    pub fn heal(&mut self) {
        self.refusing = None;
    }

    pub fn remember(&mut self) {
        self.older = self.disk.clone();
    }

    /// Another copy takes over, and it lacks what was promised.
    pub fn fall_back(&mut self, to_nothing: bool) {
        self.disk = if to_nothing { BTreeMap::new() } else { std::mem::take(&mut self.older) };
        self.fell_back = true;
    }

    /// The next group; false when there is none.
    pub fn take(&mut self, rng: &mut Rng, now: u64) {
        let most = if rng.chance(30) { 1 + rng.below(4) as usize } else { usize::MAX };
        self.group = self.queue.drain(..self.queue.len().min(most)).collect();
        if self.fault == Some(Fault::SkipsSync) {
            let mut copy = self.disk.clone();
            self.tell(&mut copy, rng, now);
        }
    }

    /// The group is on disk, and what became of it is on its way.
    pub fn commit(&mut self, rng: &mut Rng, now: u64) {
        if self.fault == Some(Fault::SkipsSync) {
            let group = std::mem::take(&mut self.group);
            group.iter().for_each(|work| drop(self.carry_out(work, rng, now)));
            return;
        }
        let mut disk = std::mem::take(&mut self.disk);
        self.tell(&mut disk, rng, now);
        self.disk = disk;
        self.group.clear();
    }

    fn tell(&mut self, disk: &mut BTreeMap<SessionId, Entry>, rng: &mut Rng, now: u64) {
        std::mem::swap(&mut self.disk, disk);
        let mut told = Told { upto: 0, other: Vec::new() };
        let before = (self.fault == Some(Fault::LoadsTooEarly)).then(|| self.disk.clone());
        let group = std::mem::take(&mut self.group);
        for work in &group {
            told.upto = work.number;
            let outcome = match (&work.what, &before) {
                (What::Load { session, after, most }, Some(before)) => page(before, *session, *after, *most, rng, now),
                _ => self.carry_out(work, rng, now),
            };
            if outcome != Outcome::Done {
                told.other.push((work.number, outcome));
            }
        }
        self.group = group;
        self.says.push_back(Says::Told(told));
        std::mem::swap(&mut self.disk, disk);
    }

    fn carry_out(&mut self, work: &Work, rng: &mut Rng, now: u64) -> Outcome {
        let refused = self.refusal(work, rng, now);
        match &work.what {
            _ if refused == Some(Refused::Unreachable) && rng.chance(50) => {
                if let What::Step(step) = &work.what {
                    self.step(step, now);
                    (self.inexact, self.left_behind) = (true, true);
                }
            }
            _ if refused.is_some() => {}
            What::Step(step) => return self.step(step, now),
            What::Load { session, after, most } => {
                let after = match self.fault {
                    Some(Fault::SkipsOnPages) => after.map(Order::next),
                    _ => *after,
                };
                return page(&self.disk, *session, after, *most, rng, now);
            }
        }
        self.refusals += 1;
        self.left_behind |= matches!(work.what, What::Step(Step::Remove { .. }));
        match refused {
            Some(_) if self.fault == Some(Fault::CallsRefusedDone) && matches!(work.what, What::Step(_)) => {
                Outcome::Done
            }
            Some(why) => Outcome::Refused(why),
            None => unreachable!("done above"),
        }
    }

    fn refusal(&self, work: &Work, rng: &mut Rng, now: u64) -> Option<Refused> {
        if self.fell_back {
            return Some(Refused::Broken);
        }
        let (why, _) = self.refusing.filter(|(_, until)| now < *until)?;
        match (why, &work.what) {
            // Reading and making room need no room.
            (Refused::DiskFull, What::Load { .. } | What::Step(Step::Remove { .. } | Step::Drop { .. })) => None,
            (Refused::StoreFull, What::Step(Step::Keep(kept))) if !kept.released => Some(why),
            (Refused::StoreFull, _) => None,
            (Refused::Unreachable, _) => rng.chance(70).then_some(why),
            _ => Some(why),
        }
    }

    fn step(&mut self, step: &Step, now: u64) -> Outcome {
        let fault = self.fault;
        if let Step::Put(row) = step {
            return self.put(row);
        }
        if let Step::Drop { session } = step {
            self.disk.remove(session);
            return Outcome::Done;
        }
        let Some(entry) = self.disk.get_mut(&session_of(step)) else {
            // Its row was refused, or it was dropped.
            return if let Step::Keep(_) = step { Outcome::Refused(Refused::Fenced) } else { Outcome::Done };
        };
        match step {
            Step::Put(_) | Step::Drop { .. } => unreachable!("done above"),
            Step::Join { .. } if fault == Some(Fault::ForgetsChannels) => {}
            Step::Join { channel, .. } => drop(entry.channels.insert(channel.clone())),
            Step::Leave { channel, .. } => drop(entry.channels.remove(channel)),
            Step::Keep(kept) => {
                entry.claims.retain(|_, until| until.0 > now);
                if entry.messages.contains_key(&kept.order) {
                    return Outcome::Done;
                }
                if let Some(claim) = &kept.claim {
                    if entry.claims.contains_key(&claim.message_id) {
                        self.known += 1;
                        return Outcome::Known;
                    }
                    entry.claims.insert(claim.message_id.clone(), claim.until);
                }
                entry.messages.insert(kept.order, (**kept).clone());
            }
            Step::Release { .. } if fault == Some(Fault::ForgetsReleased) => {}
            Step::Release { order, .. } => {
                if let Some(kept) = entry.messages.get_mut(order) {
                    kept.released = true;
                }
            }
            Step::Remove { order, .. } => {
                let removed = entry.messages.remove(order);
                if fault == Some(Fault::RemovesTooMuch) {
                    entry.messages.retain(|other, _| other > order);
                }
                if let (Some(Fault::ForgetsClaims), Some(claim)) = (fault, removed.and_then(|kept| kept.claim)) {
                    entry.claims.remove(&claim.message_id);
                }
            }
            Step::Receive { .. } if fault == Some(Fault::ForgetsReceived) => {}
            Step::Receive { received, .. } => drop(entry.received.insert(received.id.0, received.clone())),
            Step::Forget { id, .. } => drop(entry.received.remove(&id.0)),
        }
        Outcome::Done
    }

    fn put(&mut self, row: &SessionRow) -> Outcome {
        if self.disk.values().any(|entry| entry.row.name == row.name && entry.row.session != row.session) {
            return Outcome::Refused(Refused::NameTaken);
        }
        match self.disk.get_mut(&row.session) {
            Some(_) if self.fault == Some(Fault::KeepsOldRows) => {}
            Some(entry) => entry.row = row.clone(),
            None => {
                let entry = Entry {
                    row: row.clone(),
                    channels: BTreeSet::new(),
                    messages: BTreeMap::new(),
                    received: BTreeMap::new(),
                    claims: BTreeMap::new(),
                };
                self.disk.insert(row.session, entry);
            }
        }
        Outcome::Done
    }

    /// What was told last has been acted on.
    pub fn begin_to_say(&mut self) {
        self.just_told.clear();
    }

    /// The next of what it has to say.
    pub fn say(&mut self) -> Option<Says> {
        let says = self.says.pop_front()?;
        if let Says::Told(told) = &says {
            let first = self.last_number + 1 - self.untold.len() as u64;
            for number in first..=told.upto {
                let kept = self.untold.pop_front().expect("told once");
                self.just_told.extend(kept.map(|(session, _)| session));
                let other = told.other.iter().find(|(of, _)| *of == number).map(|(_, outcome)| outcome);
                if other.is_none_or(|other| *other == Outcome::Known) {
                    self.promised.extend(kept);
                }
            }
        }
        Some(says)
    }

    /// What has expired goes, and the shard hears of it behind what it was told before.
    pub fn purge(&mut self, now: u64) {
        if self.fell_back || self.refusing.is_some_and(|(_, until)| now < until) {
            return;
        }
        for (&session, entry) in &mut self.disk {
            let gone: Vec<Order> =
                entry.messages.iter().filter(|(_, kept)| has_expired(kept, now)).map(|(order, _)| *order).collect();
            if gone.is_empty() {
                continue;
            }
            let gone: Vec<Kept> = gone.iter().map(|order| entry.messages.remove(order).expect("just seen")).collect();
            let bytes = gone.iter().map(|kept| kept.message.len() as u64).sum();
            self.expired += gone.len() as u64;
            *self.expired_of.entry(session).or_default() += gone.len() as u32;
            self.says.push_back(Says::Expired(Expired { session, messages: gone.len() as u32, bytes }));
        }
    }

    /// The process dies: of the group under way a part from its beginning may be on disk, and nobody is told.
    pub fn crash(&mut self, rng: &mut Rng, now: u64) {
        let len = rng.below(self.group.len() as u64 + 1) as usize;
        self.torn += u64::from(len > 0 && len < self.group.len());
        let group = std::mem::take(&mut self.group);
        for work in &group[..len] {
            drop(self.carry_out(work, rng, now));
        }
    }

    /// Another process begins to give out work.
    pub fn restart(&mut self) {
        self.queue.clear();
        self.says.clear();
        self.untold.clear();
        self.expired_of.clear();
        self.inexact = false;
        self.last_number = 0;
    }

    /// As a process finds it when it starts.
    pub fn found(&self) -> Vec<Found> {
        let found = |entry: &Entry| {
            let waiting = || entry.messages.values().filter(|kept| !kept.released);
            Found {
                row: entry.row.clone(),
                channels: entry.channels.iter().cloned().collect(),
                waiting: waiting().count() as u32,
                waiting_bytes: waiting().map(|kept| kept.message.len() as u64).sum(),
                next: entry.messages.keys().next_back().map_or(Order(0), |order| order.next()),
                oldest: waiting().map(|kept| kept.stored).min(),
                first: entry.messages.keys().next().copied(),
            }
        };
        self.disk.values().map(found).collect()
    }

    /// Messages that wait on disk, and their bytes; what has expired and is not purged yet included.
    pub fn waiting(&self, session: SessionId) -> (u32, u64) {
        let Some(entry) = self.disk.get(&session) else { return (0, 0) };
        let waiting = || entry.messages.values().filter(|kept| !kept.released);
        (waiting().count() as u32, waiting().map(|kept| kept.message.len() as u64).sum())
    }

    /// Messages on their way to the disk, or told of and not yet heard.
    pub fn keeps_under_way(&self, session: SessionId) -> u32 {
        let keeps = |work: &&Work| matches!(&work.what, What::Step(Step::Keep(kept)) if kept.session == session);
        let just_told = self.just_told.iter().filter(|told| **told == session).count();
        (self.queue.iter().filter(keeps).count() + self.group.iter().filter(keeps).count() + just_told) as u32
    }
}

fn page(
    disk: &BTreeMap<SessionId, Entry>,
    session: SessionId,
    after: Option<Order>,
    most: usize,
    rng: &mut Rng,
    now: u64,
) -> Outcome {
    let Some(entry) = disk.get(&session) else { return Outcome::Loaded(Page::default()) };
    let behind = entry.messages.values().filter(|kept| after.is_none_or(|after| kept.order > after));
    let behind: Vec<&Kept> = behind.filter(|kept| !has_expired(kept, now)).collect();
    let len = behind.len().min(most).min(1 + rng.below(5) as usize);
    let mut received: Vec<Received> = entry.received.values().cloned().collect();
    received.sort_by_key(|received| received.sequence);
    Outcome::Loaded(Page {
        messages: behind[..len].iter().map(|kept| (*kept).clone()).collect(),
        received: if after.is_none() { received } else { Vec::new() },
        more: len < behind.len(),
    })
}

fn has_expired(kept: &Kept, now: u64) -> bool {
    !kept.released && kept.expires.0 <= now
}

pub fn session_of(step: &Step) -> SessionId {
    match step {
        Step::Put(row) => row.session,
        Step::Keep(kept) => kept.session,
        Step::Join { session, .. }
        | Step::Leave { session, .. }
        | Step::Release { session, .. }
        | Step::Remove { session, .. }
        | Step::Receive { session, .. }
        | Step::Forget { session, .. }
        | Step::Drop { session } => *session,
    }
}
