//! The store as a shard may expect one: it does the command in its order, a group per commit, completes it afterwards, and what was
//! not committed is gone with a crash. It refuses for a while, is late, tears a group, falls back to an older copy. It
//! can be told to make a mistake (`Fault`), which has to be noticed.

use crate::peer::token_of;
use rainbow::base::rng::Rng;
use rainbow::shard::command::{
    Command, CommandNumber, Completion, Completions, ExpiredMessages, Mutation, Offset, Operation, Page, Received,
    SessionId, SessionRow, StoreError, StoredMessage, StoredSession, UnixMs,
};
use rainbow::wire::packet::QoS;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

/// A mistake of the store's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Completes before the commit.
    SkipsSync,
    /// Report that it is done when it was refused.
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
    /// It goes by the wall clock as it stood at its start.
    IgnoresClockSteps,
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
        Fault::IgnoresClockSteps,
    ];
}

/// What is durable of a session.
#[derive(Clone, Debug)]
pub struct Entry {
    pub row: SessionRow,
    pub channels: BTreeSet<Arc<str>>,
    pub messages: BTreeMap<Offset, StoredMessage>,
    pub received: BTreeMap<u16, Received>,
    claims: BTreeMap<Arc<str>, UnixMs>,
}

pub enum Report {
    Completions(Completions),
    Expired(ExpiredMessages),
}

#[derive(Default)]
pub struct Store {
    pub disk: BTreeMap<SessionId, Entry>,
    older: BTreeMap<SessionId, Entry>,
    /// Given out by the shard, in its order.
    queue: VecDeque<Command>,
    /// Being written.
    group: Vec<Command>,
    /// On its way to the shard.
    says: VecDeque<Report>,
    last_number: u64,
    /// Per command that is not completed: the message that it stores.
    uncompleted: VecDeque<Option<(SessionId, u64)>>,
    /// Sessions whose messages were stored by the last completions.
    just_completed: Vec<SessionId>,
    /// Something stays that the shard believes gone, or gone that it believes there, until it is loaded again.
    pub left_behind: bool,
    /// Why it refuses, and until when.
    refusing: Option<(StoreError, u64)>,
    /// It fell back to an older copy and has noticed.
    pub fell_back: bool,
    fault: Option<Fault>,
    /// The shard's limit: as many messages may be under way.
    commands_max: usize,
    /// What the wall clock showed when virtual time was 0.
    unix_ms_at_zero: u64,
    /// Messages that completions called stored: session and token.
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
    pub fn new(fault: Option<Fault>, unix_ms_at_zero: u64, commands_max: usize) -> Store {
        Store { fault, unix_ms_at_zero, commands_max, ..Store::default() }
    }

    pub fn set_unix_ms_at_zero(&mut self, unix_ms_at_zero: u64) {
        if self.fault != Some(Fault::IgnoresClockSteps) {
            self.unix_ms_at_zero = unix_ms_at_zero;
        }
    }

    pub fn give(&mut self, command: Command) {
        self.last_number += 1;
        assert_eq!(command.number, CommandNumber(self.last_number), "command is numbered without gaps");
        let stored = match &command.operation {
            Operation::Mutate(Mutation::PutMessage(stored)) if !stored.released => {
                Some((stored.session, token_of(stored.message.parts().1)))
            }
            _ => None,
        };
        self.uncompleted.push_back(stored);
        let messages = self.uncompleted.iter().flatten().count();
        assert!(messages <= self.commands_max, "{messages} messages wait for a store that is busy");
        self.queue.push_back(command);
    }

    pub fn wants_to_take(&self) -> bool {
        !self.queue.is_empty() && self.group.is_empty()
    }

    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.group.is_empty() && self.says.is_empty()
    }

    /// A group or its completions are under way: a good moment to die.
    pub fn is_busy(&self) -> bool {
        !self.is_idle()
    }

    pub fn refuse_until(&mut self, why: StoreError, until: u64) {
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
            self.complete_group(&mut copy, rng, now);
        }
    }

    /// The group is on disk, and what became of it is on its way.
    pub fn commit(&mut self, rng: &mut Rng, now: u64) {
        if self.fault == Some(Fault::SkipsSync) {
            let group = std::mem::take(&mut self.group);
            group.iter().for_each(|command| drop(self.carry_out(command, rng, now)));
            return;
        }
        let mut disk = std::mem::take(&mut self.disk);
        self.complete_group(&mut disk, rng, now);
        self.disk = disk;
        self.group.clear();
    }

    fn complete_group(&mut self, disk: &mut BTreeMap<SessionId, Entry>, rng: &mut Rng, now: u64) {
        std::mem::swap(&mut self.disk, disk);
        let mut completions = Completions::default();
        let before = (self.fault == Some(Fault::LoadsTooEarly)).then(|| self.disk.clone());
        let group = std::mem::take(&mut self.group);
        for command in &group {
            completions.upto = command.number;
            let outcome = match (&command.operation, &before) {
                (Operation::Load { session, after, most }, Some(before)) => page(before, *session, *after, *most, rng),
                _ => self.carry_out(command, rng, now),
            };
            if outcome != Completion::Done {
                completions.exceptions.push((command.number, outcome));
            }
        }
        self.group = group;
        self.says.push_back(Report::Completions(completions));
        std::mem::swap(&mut self.disk, disk);
    }

    fn carry_out(&mut self, command: &Command, rng: &mut Rng, now: u64) -> Completion {
        let refused = self.refusal(command, rng, now);
        match &command.operation {
            _ if refused == Some(StoreError::Unreachable) && rng.chance(50) => {
                if let Operation::Mutate(step) = &command.operation {
                    self.step(step, self.unix_ms_at_zero + now);
                    (self.inexact, self.left_behind) = (true, true);
                }
            }
            _ if refused.is_some() => {}
            Operation::Mutate(step) => return self.step(step, self.unix_ms_at_zero + now),
            Operation::Load { session, after, most } => {
                let after = match self.fault {
                    Some(Fault::SkipsOnPages) => after.map(Offset::next),
                    _ => *after,
                };
                return page(&self.disk, *session, after, *most, rng);
            }
        }
        self.refusals += 1;
        self.left_behind |= matches!(command.operation, Operation::Mutate(Mutation::RemoveMessage { .. }));
        match refused {
            Some(_)
                if self.fault == Some(Fault::CallsRefusedDone) && matches!(command.operation, Operation::Mutate(_)) =>
            {
                Completion::Done
            }
            Some(why) => Completion::Refused(why),
            None => unreachable!("done above"),
        }
    }

    fn refusal(&self, command: &Command, rng: &mut Rng, now: u64) -> Option<StoreError> {
        if self.fell_back {
            return Some(StoreError::Broken);
        }
        let (why, _) = self.refusing.filter(|(_, until)| now < *until)?;
        match (why, &command.operation) {
            // Reading and making room need no room.
            (
                StoreError::DiskFull,
                Operation::Load { .. }
                | Operation::Mutate(Mutation::RemoveMessage { .. } | Mutation::DropSession { .. }),
            ) => None,
            (StoreError::StoreFull, Operation::Mutate(Mutation::PutMessage(stored))) if !stored.released => Some(why),
            (StoreError::StoreFull, _) => None,
            (StoreError::Unreachable, _) => rng.chance(70).then_some(why),
            _ => Some(why),
        }
    }

    fn step(&mut self, step: &Mutation, now: u64) -> Completion {
        let fault = self.fault;
        if let Mutation::PutSession(row) = step {
            return self.put(row);
        }
        if let Mutation::DropSession { session } = step {
            self.disk.remove(session);
            return Completion::Done;
        }
        let Some(entry) = self.disk.get_mut(&step.session()) else {
            // Its row was refused, or it was dropped.
            return if let Mutation::PutMessage(_) = step {
                Completion::Refused(StoreError::Fenced)
            } else {
                Completion::Done
            };
        };
        match step {
            Mutation::PutSession(_) | Mutation::DropSession { .. } => unreachable!("done above"),
            Mutation::JoinChannel { .. } if fault == Some(Fault::ForgetsChannels) => {}
            Mutation::JoinChannel { channel, .. } => drop(entry.channels.insert(channel.clone())),
            Mutation::LeaveChannel { channel, .. } => drop(entry.channels.remove(channel)),
            Mutation::PutMessage(stored) => {
                entry.claims.retain(|_, until| until.0 > now);
                if entry.messages.contains_key(&stored.offset) {
                    return Completion::Done;
                }
                if let Some(claim) = &stored.claim {
                    if entry.claims.contains_key(&claim.message_id) {
                        self.known += 1;
                        return Completion::Duplicate;
                    }
                    entry.claims.insert(claim.message_id.clone(), claim.until);
                }
                entry.messages.insert(stored.offset, (**stored).clone());
            }
            Mutation::ReleaseMessage { .. } if fault == Some(Fault::ForgetsReleased) => {}
            Mutation::ReleaseMessage { offset, .. } => {
                let Some(stored) = entry.messages.get_mut(offset) else { return Completion::Absent };
                stored.released = true;
            }
            Mutation::RemoveMessage { offset, .. } => {
                let removed = entry.messages.remove(offset);
                let outcome = if removed.is_some() { Completion::Done } else { Completion::Absent };
                if fault == Some(Fault::RemovesTooMuch) {
                    entry.messages.retain(|other, _| other > offset);
                }
                if let (Some(Fault::ForgetsClaims), Some(claim)) = (fault, removed.and_then(|stored| stored.claim)) {
                    entry.claims.remove(&claim.message_id);
                }
                return outcome;
            }
            Mutation::PutReceived { .. } if fault == Some(Fault::ForgetsReceived) => {}
            Mutation::PutReceived { received, .. } => drop(entry.received.insert(received.id.0, received.clone())),
            Mutation::RemoveReceived { id, .. } => drop(entry.received.remove(&id.0)),
        }
        Completion::Done
    }

    fn put(&mut self, row: &SessionRow) -> Completion {
        if self.disk.values().any(|entry| entry.row.name == row.name && entry.row.session != row.session) {
            return Completion::Refused(StoreError::NameTaken);
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
        Completion::Done
    }

    /// The last completions have been acted on.
    pub fn begin_reports(&mut self) {
        self.just_completed.clear();
    }

    /// The next of what it has to say.
    pub fn next_report(&mut self) -> Option<Report> {
        let says = self.says.pop_front()?;
        if let Report::Completions(completions) = &says {
            let first = self.last_number + 1 - self.uncompleted.len() as u64;
            for number in first..=completions.upto.0 {
                let stored = self.uncompleted.pop_front().expect("completed once");
                self.just_completed.extend(stored.map(|(session, _)| session));
                let other = completions.exceptions.iter().find(|(of, _)| of.0 == number).map(|(_, outcome)| outcome);
                if other.is_none_or(|other| *other == Completion::Duplicate) {
                    self.promised.extend(stored);
                }
            }
        }
        Some(says)
    }

    /// What has expired goes, and the shard hears of it behind the completions before it.
    pub fn purge(&mut self, now: u64) {
        if self.fell_back || self.refusing.is_some_and(|(_, until)| now < until) {
            return;
        }
        let unix_ms = self.unix_ms_at_zero + now;
        for (&session, entry) in &mut self.disk {
            let gone: Vec<Offset> = entry
                .messages
                .iter()
                .filter(|(_, stored)| has_expired(stored, unix_ms))
                .map(|(offset, _)| *offset)
                .collect();
            if gone.is_empty() {
                continue;
            }
            let gone: Vec<StoredMessage> =
                gone.iter().map(|offset| entry.messages.remove(offset).expect("just seen")).collect();
            let bytes = gone.iter().map(|stored| stored.message.len() as u64).sum();
            self.expired += gone.len() as u64;
            *self.expired_of.entry(session).or_default() += gone.len() as u32;
            self.says.push_back(Report::Expired(ExpiredMessages { session, messages: gone.len() as u32, bytes }));
        }
    }

    /// The process dies: of the group under way a part from its beginning may be on disk, and nobody hears.
    pub fn crash(&mut self, rng: &mut Rng, now: u64) {
        let len = rng.below(self.group.len() as u64 + 1) as usize;
        self.torn += u64::from(len > 0 && len < self.group.len());
        let group = std::mem::take(&mut self.group);
        for command in &group[..len] {
            drop(self.carry_out(command, rng, now));
        }
    }

    /// Another process begins to give out command.
    pub fn restart(&mut self) {
        self.queue.clear();
        self.says.clear();
        self.uncompleted.clear();
        self.expired_of.clear();
        self.inexact = false;
        self.last_number = 0;
    }

    /// As a process finds it when it starts.
    pub fn found(&self) -> Vec<StoredSession> {
        let found = |entry: &Entry| {
            let waiting = || entry.messages.values().filter(|stored| !stored.released);
            StoredSession {
                row: entry.row.clone(),
                channels: entry.channels.iter().cloned().collect(),
                waiting: waiting().count() as u32,
                waiting_bytes: waiting().map(|stored| stored.message.len() as u64).sum(),
                next: entry.messages.keys().next_back().map_or(Offset(0), |offset| offset.next()),
                oldest: waiting().map(|stored| stored.stored).min(),
                first: entry.messages.keys().next().copied(),
            }
        };
        self.disk.values().map(found).collect()
    }

    /// Messages that wait on disk, and their bytes; what has expired and is not purged yet included.
    pub fn waiting(&self, session: SessionId) -> (u32, u64) {
        let Some(entry) = self.disk.get(&session) else { return (0, 0) };
        let waiting = || entry.messages.values().filter(|stored| !stored.released);
        (waiting().count() as u32, waiting().map(|stored| stored.message.len() as u64).sum())
    }

    /// Messages on their way to the disk, or completed and not yet acted on.
    pub fn keeps_under_way(&self, session: SessionId) -> u32 {
        let keeps = |command: &&Command| matches!(&command.operation, Operation::Mutate(Mutation::PutMessage(stored)) if stored.session == session);
        let just_completed = self.just_completed.iter().filter(|completed| **completed == session).count();
        (self.queue.iter().filter(keeps).count() + self.group.iter().filter(keeps).count() + just_completed) as u32
    }
}

fn page(
    disk: &BTreeMap<SessionId, Entry>,
    session: SessionId,
    after: Option<Offset>,
    most: usize,
    rng: &mut Rng,
) -> Completion {
    let Some(entry) = disk.get(&session) else { return Completion::Loaded(Page::default()) };
    let behind = entry.messages.values().filter(|stored| after.is_none_or(|after| stored.offset > after));
    let behind: Vec<&StoredMessage> = behind.collect();
    let len = behind.len().min(most).min(1 + rng.below(5) as usize);
    let mut received: Vec<Received> = entry.received.values().cloned().collect();
    received.sort_by_key(|received| received.sequence);
    Completion::Loaded(Page {
        messages: behind[..len].iter().map(|stored| (*stored).clone()).collect(),
        received: if after.is_none() { received } else { Vec::new() },
        more: len < behind.len(),
    })
}

fn has_expired(stored: &StoredMessage, now: u64) -> bool {
    let id_in_use = stored.released || stored.sent && stored.message.qos == QoS::ExactlyOnce;
    !id_in_use && stored.expires.0 <= now
}
