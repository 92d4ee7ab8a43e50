//! Who owns a durable session where several nodes share a store: what a worker asks of the store, and what the store
//! answers. What is made of that is in `cluster::ownership`.

use super::command::StoredSession;
use crate::base::id::Generation;
use std::sync::Arc;

/// Names one ownership of one session: the owner's generation, and a number that is drawn for each claim. 0 is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl Token {
    pub fn new(owner: Generation, drawn: u64) -> Token {
        Token(u64::from(owner.0) << 32 | drawn & 0xFFFF_FFFF)
    }

    /// `None`: nobody.
    pub fn owner(self) -> Option<Generation> {
        (self.0 != 0).then_some(Generation((self.0 >> 32) as u32))
    }
}

/// For the store; each is atomic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnershipCommand {
    /// If the record's token is `expected` (`None`: nobody owns it, or there is none), it becomes `token`, one of this
    /// node's.
    Claim { name: Arc<str>, expected: Option<Token>, token: Token },
    /// If the record's token is still `token`, it becomes `to`, one of another node's.
    Pass { name: Arc<str>, token: Token, to: Token },
    /// Is the record's token still this one?
    Verify { name: Arc<str>, token: Token },
}

/// Of a `Claim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimAnswer {
    Claimed,
    /// The record has another token than expected; `None`: nobody owns the session.
    Taken(Option<Token>),
    /// The store did not answer: it may have carried the claim out, or not.
    Unknown,
    /// This node has no lease, or was buried: what it claims nobody would adopt.
    NoLease,
    /// What lies in the store cannot be read.
    Damaged,
}

/// Of any other command with a token, and of the shards' writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAnswer {
    Stored,
    Fenced,
    Unknown,
}

/// What became of an `OwnershipCommand`.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnershipAnswer {
    /// The session as it lies in the store, where it is this node's now.
    Claim {
        name: Arc<str>,
        token: Token,
        answer: ClaimAnswer,
        session: Option<Box<StoredSession>>,
    },
    Pass {
        name: Arc<str>,
        token: Token,
        answer: WriteAnswer,
    },
    Verify {
        name: Arc<str>,
        token: Token,
        answer: WriteAnswer,
    },
}

impl OwnershipCommand {
    pub fn name(&self) -> &Arc<str> {
        let (OwnershipCommand::Claim { name, .. }
        | OwnershipCommand::Pass { name, .. }
        | OwnershipCommand::Verify { name, .. }) = self;
        name
    }

    /// The answer of a store that did not do it, or of which nobody knows.
    pub fn undone(self, claim: ClaimAnswer, write: WriteAnswer) -> OwnershipAnswer {
        match self {
            OwnershipCommand::Claim { name, token, .. } => {
                OwnershipAnswer::Claim { name, token, answer: claim, session: None }
            }
            OwnershipCommand::Pass { name, token, .. } => OwnershipAnswer::Pass { name, token, answer: write },
            OwnershipCommand::Verify { name, token } => OwnershipAnswer::Verify { name, token, answer: write },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_to_its_owner() {
        assert_eq!(Token::new(Generation(7), u64::MAX).owner(), Some(Generation(7)));
        assert_ne!(Token::new(Generation(7), 1), Token::new(Generation(7), 2));
        assert_eq!(Token(0).owner(), None);
    }
}
