//! The replies of shards as the outcome of a call: what one of them refuses is a refusal of the call. Messages apart,
//! whose replies have figures of their own.

use super::refusal::Refusal;
use crate::shard::channel::traffic::Traffic;
use crate::shard::{ChannelMember, Reply, SessionSummary};

/// How many connections or sessions it was done for.
pub fn done(reply: Reply) -> Result<u32, Refusal> {
    match reply {
        Reply::Done { connections, refused: None } => Ok(connections),
        Reply::Done { refused: Some(why), .. } | Reply::Refused(why) => Err(Refusal::Shard(why)),
        other => unreachable!("not the reply to a change: {other:?}"),
    }
}

/// The one that is meant was there, and it was done.
pub fn found(reply: Reply, missing: Refusal) -> Result<(), Refusal> {
    if done(reply)? > 0 { Ok(()) } else { Err(missing) }
}

/// How many members, some of them, and what has been counted.
pub fn members(reply: Reply) -> Result<(usize, Vec<ChannelMember>, Option<Traffic>), Refusal> {
    match reply {
        Reply::Members { total, members, traffic } => Ok((total, members, traffic)),
        Reply::Refused(why) => Err(Refusal::Shard(why)),
        other => unreachable!("not the reply to a question for members: {other:?}"),
    }
}

/// Channels, with how many members each has.
pub fn channels(reply: Reply) -> Result<Vec<(String, usize)>, Refusal> {
    match reply {
        Reply::Channels(channels) => Ok(channels),
        Reply::Refused(why) => Err(Refusal::Shard(why)),
        other => unreachable!("not the reply to a question for channels: {other:?}"),
    }
}

/// How many durable sessions are meant, and some of them.
pub fn sessions(reply: Reply) -> Result<(usize, Vec<SessionSummary>), Refusal> {
    match reply {
        Reply::Sessions { total, sessions } => Ok((total, sessions)),
        Reply::Refused(why) => Err(Refusal::Shard(why)),
        other => unreachable!("not the reply to a question for sessions: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::QueryRefusal::TooBusy;

    #[test]
    fn what_a_shard_refuses_is_never_an_outcome() {
        let refused = || Reply::Refused(TooBusy);
        let partly = || Reply::Done { connections: 3, refused: Some(TooBusy) };
        let expected = Refusal::Shard(TooBusy);
        for reply in [refused(), partly()] {
            assert_eq!(done(reply.clone()), Err(expected.clone()));
            assert_eq!(found(reply, Refusal::NoSuchConnection), Err(expected.clone()));
        }
        assert_eq!(members(refused()), Err(expected.clone()));
        assert_eq!(channels(refused()), Err(expected.clone()));
        assert_eq!(sessions(refused()), Err(expected));
    }

    #[test]
    fn one_who_is_not_there_is_named() {
        assert_eq!(found(Reply::done(0), Refusal::NoSuchSession), Err(Refusal::NoSuchSession));
        assert_eq!(found(Reply::done(1), Refusal::NoSuchSession), Ok(()));
        assert_eq!(done(Reply::done(0)), Ok(0));
    }
}
