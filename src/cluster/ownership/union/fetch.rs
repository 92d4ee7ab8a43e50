//! The session that does not stay becomes part of the one that is here, step by step. It is fetched as any session is,
//! and lies beside the other one until the last part is there; then the store makes it part of that one, in one
//! transaction, and the shard hears of it. Whatever ends before that leaves both where they are.
//!
//! ```text
//! Pass ─► NoteSent ─► Read ─► Store(Write) ─► Begin ─► Store(Unite) ─► End ─► Over(United)
//!   │        │         │ ▲        │ │           │                       │
//!   │        │         │ └ more ──┘ │           │                       │ not done
//!   └────────┴─────────┴────────────┴───────────┴─► Store(Settle) ◄─────┘   ─► Over(GivenUp)
//! ```

use super::super::claims::SessionName;
use crate::base::time::Tick;
use crate::shard::command::transfer::{
    Backlog, Outcome, Position, Room, SessionPart, TransferAnswer, TransferCommand, United, shadow_name,
};
use crate::shard::command::{StoreError, Token};
use std::sync::Arc;

/// What is to be done now. The answer goes to the method that is named; it returns the next step.
#[derive(Debug)]
pub enum Action {
    /// The other node is to pass its session on to this token: `on_replied`.
    Pass,
    /// It is to note what its client may have: `on_replied`.
    NoteSent,
    /// A part of its session: `on_part`.
    Read(Position),
    /// Of this node's store: `on_stored`.
    Store(TransferCommand),
    /// The shard makes room in the session that is here: `on_place`.
    Begin {
        backlog: Backlog,
        channels: Vec<Arc<str>>,
    },
    /// The shard hears what has come of it, `None` if nothing: `on_ended`.
    End {
        taken: Option<Backlog>,
    },
    Over(End),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    United(United),
    /// Both are where they were.
    GivenUp,
    /// The disk did it after it had been given up: the shard does not know what the store has.
    TooLate,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Pass,
    Note,
    Part,
    Write,
    Room,
    Unite,
    Settle,
}

/// One session on its way.
#[derive(Debug)]
pub struct Fetch {
    name: SessionName,
    token: Token,
    pending: Pending,
    deadline: Tick,
    backlog: Backlog,
    channels: Vec<Arc<str>>,
    /// Behind the part that is being written; `None`: it was the last one.
    next: Option<Position>,
    /// What the store was last told to do, and how often.
    command: Option<TransferCommand>,
    attempts: u32,
    united: Option<United>,
}

impl Fetch {
    /// The first step is `Action::Pass`.
    pub fn new(name: SessionName, token: Token, now: Tick) -> Fetch {
        Fetch {
            name,
            token,
            pending: Pending::Pass,
            deadline: now + FETCH_MS_MAX,
            backlog: Backlog::default(),
            channels: Vec::new(),
            next: None,
            command: None,
            attempts: 0,
            united: None,
        }
    }

    /// The other node has done it, or has not, or does not answer.
    pub fn on_replied(&mut self, is_done: bool) -> Action {
        match self.pending {
            _ if !is_done => self.give_up(),
            Pending::Pass => {
                self.pending = Pending::Note;
                Action::NoteSent
            }
            _ => self.read(Position::Start),
        }
    }

    fn read(&mut self, from: Position) -> Action {
        self.pending = Pending::Part;
        Action::Read(from)
    }

    /// `None`: it cannot be had.
    pub fn on_part(&mut self, part: Option<Box<SessionPart>>, now: Tick) -> Action {
        let Some(mut part) = part.filter(|_| now < self.deadline) else { return self.give_up() };
        self.channels.append(&mut part.into_shadow(self.token));
        self.backlog.add(&part.messages);
        self.next = part.next.clone();
        // It does not come as a session of its own: the last part is like those before.
        part.next.get_or_insert(Position::Start);
        self.pending = Pending::Write;
        self.store(TransferCommand::Write { name: shadow_name(self.token), token: self.token, part })
    }

    fn store(&mut self, command: TransferCommand) -> Action {
        (self.command, self.attempts) = (Some(command.clone()), 1);
        Action::Store(command)
    }

    pub fn on_stored(&mut self, answer: TransferAnswer) -> Action {
        if answer == TransferAnswer::Refused(StoreError::Unreachable)
            && self.pending != Pending::Settle
            && self.attempts < STORE_ATTEMPTS
            && let Some(command) = &self.command
        {
            // Nobody knows whether it was done: a second time changes nothing.
            self.attempts += 1;
            return Action::Store(command.clone());
        }
        self.command = None;
        match (self.pending, answer) {
            (Pending::Write, TransferAnswer::Done) => match self.next.take() {
                Some(from) => self.read(from),
                None => {
                    self.pending = Pending::Room;
                    Action::Begin { backlog: self.backlog, channels: std::mem::take(&mut self.channels) }
                }
            },
            (Pending::Unite, answer) => {
                self.united = match answer {
                    TransferAnswer::United(united) => Some(united),
                    _ => None,
                };
                Action::End { taken: self.united.map(|united| united.taken) }
            }
            (Pending::Settle, TransferAnswer::Settled(Outcome::Arrived)) => Action::Over(End::TooLate),
            (Pending::Settle, _) => Action::Over(End::GivenUp),
            _ => self.give_up(),
        }
    }

    /// `None`: the session is not here any more, or takes nothing now.
    pub fn on_place(&mut self, room: Option<Room>) -> Action {
        let Some(Room { session, first, channels }) = room else { return self.give_up() };
        self.pending = Pending::Unite;
        // The store gets it behind all that the shard has given out for the session, and before whatever follows.
        self.store(TransferCommand::Unite { name: self.name.clone(), token: self.token, session, first, channels })
    }

    pub fn on_ended(&mut self) -> Action {
        match self.united {
            Some(united) => Action::Over(End::United(united)),
            None => self.give_up(),
        }
    }

    /// Nothing of it comes any more, and what has come is removed.
    fn give_up(&mut self) -> Action {
        self.pending = Pending::Settle;
        Action::Store(TransferCommand::Settle { token: self.token })
    }
}

const FETCH_MS_MAX: u64 = 30_000;
/// Each waits as long as a disk may stand still. One that stands still for longer has failed.
const STORE_ATTEMPTS: u32 = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Generation;
    use crate::shard::command::{Offset, SessionId};

    const TOKEN: Token = Token(5 << 32 | 7);
    const ROOM: Room = Room { session: SessionId(9), first: Offset(40), channels: Vec::new() };

    fn fetch() -> Fetch {
        assert_eq!(TOKEN.owner(), Some(Generation(5)));
        Fetch::new("ann".into(), TOKEN, Tick(0))
    }

    fn part(next: Option<Position>) -> Option<Box<SessionPart>> {
        Some(Box::new(SessionPart { next, ..SessionPart::default() }))
    }

    fn is_settling(step: &Action) -> bool {
        matches!(step, Action::Store(TransferCommand::Settle { token: TOKEN }))
    }

    /// At the part that is written last.
    fn read(fetch: &mut Fetch) -> Action {
        assert!(matches!(fetch.on_replied(true), Action::NoteSent));
        assert!(matches!(fetch.on_replied(true), Action::Read(Position::Start)));
        fetch.on_part(part(None), Tick(1))
    }

    fn begin(fetch: &mut Fetch) -> Action {
        read(fetch);
        assert!(matches!(fetch.on_stored(TransferAnswer::Done), Action::Begin { .. }));
        fetch.on_place(Some(ROOM))
    }

    #[test]
    fn parts_come_one_after_the_other_and_the_last_one_is_like_those_before() {
        let mut fetch = fetch();
        fetch.on_replied(true);
        fetch.on_replied(true);
        let behind = Position::Messages(Offset(3));
        let Action::Store(TransferCommand::Write { name, part: written, .. }) =
            fetch.on_part(part(Some(behind.clone())), Tick(1))
        else {
            panic!("it is written");
        };
        assert_eq!((name, &written.next), (shadow_name(TOKEN), &Some(behind.clone())));
        assert!(matches!(fetch.on_stored(TransferAnswer::Done), Action::Read(from) if from == behind));
        let Action::Store(TransferCommand::Write { part: written, .. }) = fetch.on_part(part(None), Tick(2)) else {
            panic!("it is written");
        };
        assert_eq!(written.next, Some(Position::Start), "it would be a session of its own");
        assert!(matches!(fetch.on_stored(TransferAnswer::Done), Action::Begin { .. }));
    }

    #[test]
    fn what_the_store_has_taken_is_what_the_shard_hears() {
        let mut fetch = fetch();
        let Action::Store(TransferCommand::Unite { first, session, .. }) = begin(&mut fetch) else {
            panic!("they become one");
        };
        assert_eq!((first, session), (ROOM.first, ROOM.session));
        let taken = Backlog { messages: 2, bytes: 20, oldest: None };
        let united = United { taken, repeats: 1, uncertain: 3 };
        assert!(
            matches!(fetch.on_stored(TransferAnswer::United(united)), Action::End { taken: Some(of) } if of == taken)
        );
        assert!(matches!(fetch.on_ended(), Action::Over(End::United(of)) if of == united));
    }

    #[test]
    fn whoever_fails_leaves_both_where_they_are() {
        assert!(is_settling(&fetch().on_replied(false)), "it is not passed on");
        let mut noting = fetch();
        noting.on_replied(true);
        assert!(is_settling(&noting.on_replied(false)), "what was sent is not noted");
        let mut reading = fetch();
        read(&mut reading);
        assert!(is_settling(&reading.on_stored(TransferAnswer::Refused(StoreError::DiskFull))));
        let mut slow = fetch();
        slow.on_replied(true);
        slow.on_replied(true);
        assert!(is_settling(&slow.on_part(part(None), Tick(FETCH_MS_MAX))), "it has taken too long");
        let mut beginning = fetch();
        read(&mut beginning);
        beginning.on_stored(TransferAnswer::Done);
        assert!(is_settling(&beginning.on_place(None)), "the session has gone");
        assert!(matches!(beginning.on_stored(TransferAnswer::Settled(Outcome::Never)), Action::Over(End::GivenUp)));
    }

    #[test]
    fn a_disk_that_stands_still_is_told_again_and_in_the_end_given_up() {
        let unknown = || TransferAnswer::Refused(StoreError::Unreachable);
        let mut fetch = fetch();
        let first = begin(&mut fetch);
        let repeated = fetch.on_stored(unknown());
        let (Action::Store(first), Action::Store(repeated)) = (first, repeated) else { panic!("both to the store") };
        assert_eq!(first, repeated);
        for _ in 2..STORE_ATTEMPTS {
            assert!(matches!(fetch.on_stored(unknown()), Action::Store(TransferCommand::Unite { .. })));
        }
        assert!(matches!(fetch.on_stored(unknown()), Action::End { taken: None }));
        assert!(is_settling(&fetch.on_ended()));
        assert!(matches!(fetch.on_stored(TransferAnswer::Settled(Outcome::Arrived)), Action::Over(End::TooLate)));
    }
}
