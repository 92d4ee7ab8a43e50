//! With SQLite: a session goes from one node's disk to another's, in two phases.
//!
//! ```text
//! Destination                          Source
//!   request(epoch) ──────────────────►   freeze on disk, for this epoch and destination
//!   store on disk  ◄──────── data(epoch)
//!   stored(epoch)  ──────────────────►   delete from disk
//!                  ◄─────── deleted(epoch)
//! ```
//! From the freeze on, the source does not serve the session until the destination says that it will never store this
//! epoch. The destination says so once it has forgotten the epoch, and serves the session once it lies on its disk. So
//! one of them serves it at most; every message may be lost or repeated, and each side may restart, since what counts
//! is on its disk.

use crate::base::id::Generation;

/// One transfer of a session; drawn by the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    Request(Epoch),
    /// With the session's data.
    Data(Epoch),
    Stored(Epoch),
    Deleted(Epoch),
    /// What became of it? Sent by the source while it is frozen.
    Resolve(Epoch),
    /// The destination will never store it.
    Aborted(Epoch),
    /// The source does not have the session, or it is on its way to somebody else.
    NotHere(Epoch),
}

/// What a side has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    Send(Message),
    /// Stop serving, write the freeze to the disk, then `Source::on_frozen`.
    Freeze(Transfer),
    /// Take the freeze off the disk and serve the session again.
    Thaw,
    /// Remove the session, then `Source::on_deleted`.
    Delete(Epoch),
    /// Write the data to the disk, then `Destination::on_stored`.
    Store(Epoch),
    /// The session is here.
    Serve,
    /// It cannot be had now.
    Fail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub epoch: Epoch,
    pub to: Generation,
}

/// The side that has the session, as it lies on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Serving,
    /// Being written.
    Freezing(Transfer),
    Frozen(Transfer),
    Gone,
}

impl Source {
    pub fn on_message(&mut self, from: Generation, message: Message) -> Action {
        match (*self, message) {
            (Source::Serving, Message::Request(epoch)) => {
                let transfer = Transfer { epoch, to: from };
                *self = Source::Freezing(transfer);
                Action::Freeze(transfer)
            }
            (Source::Freezing(transfer), Message::Request(epoch)) if transfer == (Transfer { epoch, to: from }) => {
                Action::Nothing
            }
            (Source::Frozen(transfer), Message::Request(epoch)) if transfer == (Transfer { epoch, to: from }) => {
                Action::Send(Message::Data(epoch))
            }
            (_, Message::Request(epoch)) => Action::Send(Message::NotHere(epoch)),
            (Source::Frozen(transfer), Message::Stored(epoch)) if transfer.epoch == epoch => Action::Delete(epoch),
            // Deleted before, and the answer was lost.
            (Source::Gone, Message::Stored(epoch)) => Action::Send(Message::Deleted(epoch)),
            (Source::Frozen(transfer), Message::Aborted(epoch)) if transfer.epoch == epoch => {
                *self = Source::Serving;
                Action::Thaw
            }
            _ => Action::Nothing,
        }
    }

    pub fn on_frozen(&mut self) -> Action {
        let Source::Freezing(transfer) = *self else { return Action::Nothing };
        *self = Source::Frozen(transfer);
        Action::Send(Message::Data(transfer.epoch))
    }

    pub fn on_deleted(&mut self, epoch: Epoch) -> Action {
        *self = Source::Gone;
        Action::Send(Message::Deleted(epoch))
    }

    /// When a link to the destination comes up, and from time to time.
    pub fn resolve(&self) -> Action {
        match self {
            Source::Frozen(transfer) => Action::Send(Message::Resolve(transfer.epoch)),
            _ => Action::Nothing,
        }
    }

    pub fn serves(&self) -> bool {
        *self == Source::Serving
    }
}

/// The side that wants it. `Absent` is what a restart makes of everything but `Stored`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    Absent,
    Requesting(Epoch),
    Storing(Epoch),
    Stored(Epoch),
}

impl Destination {
    pub fn request(&mut self, epoch: Epoch) -> Action {
        debug_assert_eq!(*self, Destination::Absent);
        *self = Destination::Requesting(epoch);
        Action::Send(Message::Request(epoch))
    }

    pub fn on_message(&mut self, message: Message) -> Action {
        match (*self, message) {
            (Destination::Requesting(of), Message::Data(epoch)) if of == epoch => {
                *self = Destination::Storing(epoch);
                Action::Store(epoch)
            }
            (Destination::Requesting(of), Message::NotHere(epoch)) if of == epoch => {
                *self = Destination::Absent;
                Action::Fail
            }
            (Destination::Stored(of), Message::Data(epoch) | Message::Resolve(epoch)) if of == epoch => {
                Action::Send(Message::Stored(epoch))
            }
            // On its way to the disk; or the request is repeated, and is answered with the data.
            (Destination::Storing(of), Message::Resolve(epoch)) if of == epoch => Action::Nothing,
            (Destination::Requesting(of), Message::Resolve(epoch)) if of == epoch => {
                Action::Send(Message::Request(epoch))
            }
            // An epoch that was forgotten is never stored.
            (_, Message::Resolve(epoch)) => Action::Send(Message::Aborted(epoch)),
            _ => Action::Nothing,
        }
    }

    /// The data is on the disk: the session is here. The source must hear of it, besides.
    pub fn on_stored(&mut self, epoch: Epoch) -> [Action; 2] {
        if *self != Destination::Storing(epoch) {
            return [Action::Nothing; 2];
        }
        *self = Destination::Stored(epoch);
        [Action::Serve, Action::Send(Message::Stored(epoch))]
    }

    /// The client has gone, or the source does not answer.
    pub fn give_up(&mut self) {
        if matches!(self, Destination::Requesting(_)) {
            *self = Destination::Absent;
        }
    }

    pub fn serves(&self) -> bool {
        matches!(self, Destination::Stored(_))
    }
}

#[cfg(test)]
mod tests;
