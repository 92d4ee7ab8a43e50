//! Names inside one shard: sessions, members of channels, queries. Connections are named in `base::id`, since their
//! keys leave the shard.

use crate::base::id::ConnIndex;

/// A durable session's slot in its shard's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionIndex(pub u32);

impl SessionIndex {
    /// For indexing a table.
    pub fn slot(self) -> usize {
        self.0 as usize
    }
}

/// A session's slot and the slot's generation, checked when the store has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    pub index: SessionIndex,
    pub generation: u32,
}

impl SessionKey {
    /// Of a connection without a session; matches no session.
    pub const NONE: SessionKey = SessionKey { index: SessionIndex(u32::MAX), generation: 0 };

    pub fn is_some(self) -> bool {
        self != SessionKey::NONE
    }
}

/// A member of a channel: a connection or a session, in four bytes. `kind` tells which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    Connection(ConnIndex),
    Session(SessionIndex),
}

impl Member {
    pub fn kind(self) -> MemberKind {
        match self.0 & SESSION {
            0 => MemberKind::Connection(ConnIndex(self.0)),
            _ => MemberKind::Session(SessionIndex(self.0 & !SESSION)),
        }
    }
}

impl From<ConnIndex> for Member {
    fn from(index: ConnIndex) -> Member {
        debug_assert!(index.0 < SESSION, "fewer connections than 2^31");
        Member(index.0)
    }
}

impl From<SessionIndex> for Member {
    fn from(index: SessionIndex) -> Member {
        debug_assert!(index.0 < SESSION, "fewer sessions than 2^31");
        Member(index.0 | SESSION)
    }
}

/// Names a query to the shard. Made by whoever sends the query, given back with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryId(pub u64);

const SESSION: u32 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_what_it_was_made_of() {
        for index in [0, 1, SESSION - 1] {
            assert_eq!(Member::from(ConnIndex(index)).kind(), MemberKind::Connection(ConnIndex(index)));
            assert_eq!(Member::from(SessionIndex(index)).kind(), MemberKind::Session(SessionIndex(index)));
        }
        assert_eq!(size_of::<Member>(), 4);
    }
}
