//! A node's disk, which outlasts its processes: the real SQLite store in a directory of its own, with group commit. What
//! was not committed is lost with the process; what was committed may be lost to the process alone.
//!
//! Beside it stands what the disk must have, by its own answers.

use rainbow::base::id::Generation;
use rainbow::base::time::Tick;
use rainbow::cluster::ownership::claims::SessionName;
use rainbow::config::{Durability, StoreKind};
use rainbow::shard::command::transfer::{Outcome, TransferAnswer, TransferCommand, United, shadow_name};
use rainbow::shard::command::{Completion, Mutation, Operation, SessionId, Token, UnixMs};
use rainbow::store::{Opened, Options, Request, Response, Sharing, Store, StoreNode, TransferId};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How a session lies on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Whole,
    /// It leaves by this transfer.
    Leaving(Token),
    /// It comes by this transfer.
    Partial(Token),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    pub session: SessionId,
    pub stage: Stage,
}

/// What a commit has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Created(SessionName, SessionId),
    Arrived(SessionName, SessionId),
    /// It was to leave, and stays.
    Stayed(SessionName, SessionId),
    /// It lies on another disk.
    Deleted(SessionName, SessionId),
    /// What has come by this transfer has become part of the session of that name that was here.
    United(SessionName, Token, United),
}

/// A mistake of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskBug {
    /// A session that was leaving when the process ended is the next one's.
    ForgetsLeaving,
    /// What was settled as `Never` is written all the same.
    WritesAfterNever,
}

pub struct Disk {
    dir: PathBuf,
    store: Option<Store>,
    queue: Vec<Request>,
    pub is_scheduled: bool,
    /// Nothing is committed before.
    pub stuck_until: Tick,
    pub copies: BTreeMap<SessionName, Copy>,
    bug: Option<DiskBug>,
}

impl Disk {
    pub fn new(bug: Option<DiskBug>) -> Disk {
        Disk {
            dir: new_dir(),
            store: None,
            queue: Vec::new(),
            is_scheduled: false,
            stuck_until: Tick(0),
            copies: BTreeMap::new(),
            bug,
        }
    }

    /// Another life of its node begins.
    pub fn open(&mut self, life: Generation, now: Tick) -> Opened {
        let node = StoreNode { generation: life, sharing: Sharing::Cluster, ..StoreNode::alone() };
        let options = Options {
            kind: StoreKind::Sqlite,
            data_dir: self.dir.clone(),
            url: Default::default(),
            durability: Durability::Memory,
            bytes_max: 1 << 30,
            cluster_name: "simulated".into(),
            node,
        };
        let (store, mut opened) = Store::open(&options, unix_ms(now)).unwrap_or_else(|error| panic!("{error}"));
        self.store = Some(store);
        self.copies.retain(|_, copy| !matches!(copy.stage, Stage::Partial(_)));
        let whole = opened.sessions.iter().map(|session| (&session.row, Stage::Whole));
        let leaving = opened.leaving.iter().map(|(session, token)| (&session.row, Stage::Leaving(*token)));
        let copy = |stage, row: &rainbow::shard::command::SessionRow| Copy { session: row.session, stage };
        let found: BTreeMap<SessionName, Copy> =
            whole.chain(leaving).map(|(row, stage)| (row.name.clone(), copy(stage, row))).collect();
        assert_eq!(found, self.copies, "a disk has what it had when its process ended");
        if self.bug == Some(DiskBug::ForgetsLeaving) {
            for (session, token) in opened.leaving.drain(..) {
                let name = session.row.name.clone();
                self.copies.get_mut(&name).expect("it was found").stage = Stage::Whole;
                let thaw = Request::Transfer { id: TransferId(0), command: TransferCommand::Thaw { name, token } };
                self.store.as_mut().expect("just opened").commit(vec![thaw], unix_ms(now));
                opened.sessions.push(session);
            }
        }
        opened
    }

    /// The process ends: what it has not committed is lost.
    pub fn crash(&mut self) {
        self.store = None;
        self.queue.clear();
        self.is_scheduled = false;
    }

    pub fn push(&mut self, request: Request) {
        self.queue.push(request);
    }

    /// Everything that waits, in one commit.
    pub fn commit(&mut self, now: Tick) -> (Vec<Response>, Vec<Change>) {
        let mut requests = std::mem::take(&mut self.queue);
        let mut responses = Vec::new();
        if self.bug == Some(DiskBug::WritesAfterNever) {
            requests.retain(|request| match request {
                Request::Transfer { id, command: TransferCommand::Settle { token } }
                    if self.copies.values().any(|copy| copy.stage == Stage::Partial(*token)) =>
                {
                    responses.push(Response::Transfer { id: *id, answer: TransferAnswer::Settled(Outcome::Never) });
                    false
                }
                _ => true,
            });
        }
        let noted: Vec<Option<Noted>> = requests.iter().map(Noted::of).collect();
        let store = self.store.as_mut().expect("its process runs");
        let of_store = store.commit(requests, unix_ms(now));
        let mut changes = Vec::new();
        for (noted, response) in noted.into_iter().zip(&of_store) {
            changes.extend(noted.and_then(|noted| noted.follow(response, &mut self.copies)));
        }
        responses.extend(of_store);
        (responses, changes)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.store = None;
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// What of a request matters to the copies.
enum Noted {
    Put(SessionName, SessionId),
    Drop(SessionId),
    Mutate(SessionId),
    Freeze(SessionName, Token),
    Write(SessionName, Token, Option<SessionId>),
    Delete(SessionName),
    Thaw(SessionName),
    Settle(Token),
    Unite(SessionName, Token),
}

impl Noted {
    fn of(request: &Request) -> Option<Noted> {
        Some(match request {
            Request::Shard { command, .. } => match &command.operation {
                Operation::Mutate(Mutation::PutSession(row)) => Noted::Put(row.name.clone(), row.session),
                Operation::Mutate(Mutation::DropSession { session }) => Noted::Drop(*session),
                Operation::Mutate(mutation) => Noted::Mutate(mutation.session()),
                Operation::Load { .. } => return None,
            },
            Request::Transfer { command, .. } => match command {
                TransferCommand::Freeze { name, token } => Noted::Freeze(name.clone(), *token),
                TransferCommand::Write { name, token, part } => {
                    Noted::Write(name.clone(), *token, part.head.as_ref().map(|head| head.row.session))
                }
                TransferCommand::Delete { name, .. } => Noted::Delete(name.clone()),
                TransferCommand::Thaw { name, .. } => Noted::Thaw(name.clone()),
                TransferCommand::Settle { token } => Noted::Settle(*token),
                TransferCommand::Unite { name, token, .. } => Noted::Unite(name.clone(), *token),
                _ => return None,
            },
            _ => return None,
        })
    }

    fn follow(self, response: &Response, copies: &mut BTreeMap<SessionName, Copy>) -> Option<Change> {
        match (self, response) {
            (Noted::Put(name, session), Response::Shard { completion: Completion::Done, .. }) => {
                // At a start the row of one that leaves is written: when it ends, and where its numbers go on.
                match copies.get(&name) {
                    Some(copy) => assert_eq!(copy.session, session, "{name} is another's"),
                    None => {
                        copies.insert(name.clone(), Copy { session, stage: Stage::Whole });
                        return Some(Change::Created(name, session));
                    }
                }
            }
            (Noted::Drop(session), Response::Shard { completion: Completion::Done, .. }) => {
                copies.retain(|_, copy| copy.session != session);
            }
            (Noted::Mutate(session), Response::Shard { completion: Completion::Done, .. }) => {
                let copy = copies.iter().find(|(_, copy)| copy.session == session);
                let is_whole = copy.is_none_or(|(_, copy)| copy.stage == Stage::Whole);
                assert!(is_whole, "{copy:?} is written although it is not this disk's");
            }
            (Noted::Freeze(name, token), Response::Transfer { answer: TransferAnswer::Done, .. }) => {
                copies.get_mut(&name).expect("it is there").stage = Stage::Leaving(token);
            }
            (Noted::Write(name, token, session), Response::Transfer { answer, .. }) => {
                return arrives(name, (token, session), answer, copies);
            }
            (Noted::Delete(name), Response::Transfer { answer: TransferAnswer::Done, .. }) => {
                let copy = copies.remove(&name).expect("it was there");
                return Some(Change::Deleted(name, copy.session));
            }
            (Noted::Unite(name, token), Response::Transfer { answer: TransferAnswer::United(united), .. }) => {
                copies.remove(&shadow_name(token)).expect("it lay beside the other one");
                return Some(Change::United(name, token, *united));
            }
            (Noted::Thaw(name), Response::Transfer { answer: TransferAnswer::Here(session), .. }) => {
                let session = session.row.session;
                copies.insert(name.clone(), Copy { session, stage: Stage::Whole });
                return Some(Change::Stayed(name, session));
            }
            (Noted::Settle(token), Response::Transfer { answer: TransferAnswer::Settled(Outcome::Never), .. }) => {
                copies.retain(|_, copy| copy.stage != Stage::Partial(token));
            }
            _ => {}
        }
        None
    }
}

fn arrives(
    name: SessionName,
    (token, session): (Token, Option<SessionId>),
    answer: &TransferAnswer,
    copies: &mut BTreeMap<SessionName, Copy>,
) -> Option<Change> {
    let before = copies.get(&name).copied();
    match answer {
        TransferAnswer::Here(here) => {
            let session = here.row.session;
            copies.insert(name.clone(), Copy { session, stage: Stage::Whole });
            let is_new = before.is_none_or(|copy| copy.stage != Stage::Whole);
            return is_new.then_some(Change::Arrived(name, session));
        }
        TransferAnswer::Done if before.is_none_or(|copy| matches!(copy.stage, Stage::Partial(_))) => {
            if let Some(session) = session.or(before.map(|copy| copy.session)) {
                copies.insert(name, Copy { session, stage: Stage::Partial(token) });
            }
        }
        // It is given up.
        TransferAnswer::Refused(_) if before.is_some_and(|copy| copy.stage == Stage::Partial(token)) => {
            copies.remove(&name);
        }
        _ => {}
    }
    None
}

pub fn unix_ms(now: Tick) -> UnixMs {
    UnixMs(UNIX_MS_AT_ZERO + now.0)
}

/// In memory, where there is such a place. What the store would fill with 16 MiB stands there already, empty.
fn new_dir() -> PathBuf {
    static DIRS: AtomicU64 = AtomicU64::new(0);
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let number = DIRS.fetch_add(1, Ordering::Relaxed);
    let dir = base.join(format!("rainbow-sim-{}-{number}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory");
    let reserve = fs::File::create(dir.join("reserve")).expect("a file");
    reserve.set_len(16 << 20).expect("room");
    dir
}

pub const UNIX_MS_AT_ZERO: u64 = 1 << 40;
