//! What foca needs to know of us: the identity of a member, its bytes, and chance from our seeded generator.
//!
//! A member is a node and the start of that life of it. Of two lives at one address the one that started later is the
//! living one. A node that was declared down wrongly comes back with a later start and its old generation: another life
//! for SWIM, and the same node to everybody else.

use crate::base::id::{Generation, NodeId};
use crate::base::rng::Rng;
use crate::wire::peer::cursor::{Cursor, put_node};
use bytes::{Buf, BufMut};
use foca::{Codec, Header, Identity, Member, Message, State};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use thiserror::Error;

/// A life of a node, as SWIM counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwimId {
    pub node: NodeId,
    /// At the process's start the later of the wall clock's milliseconds and one more than the last start that the node
    /// remembers; it grows when the node was declared down.
    pub start: u64,
}

impl SwimId {
    /// Stands for whoever is at an address, to announce ourselves to it.
    pub fn anybody(address: SocketAddr) -> SwimId {
        SwimId { node: NodeId { generation: Generation(0), address }, start: 0 }
    }

    /// The later life of one address.
    pub fn outlives(&self, other: &SwimId) -> bool {
        (self.start, self.node.generation) > (other.start, other.node.generation)
    }
}

impl Identity for SwimId {
    type Addr = SocketAddr;

    /// `Membership` renews its identity itself: it knows the start that it has to beat, and when to back off.
    fn renew(&self) -> Option<SwimId> {
        None
    }

    fn addr(&self) -> SocketAddr {
        self.node.address
    }

    fn win_addr_conflict(&self, adversary: &SwimId) -> bool {
        self.outlives(adversary)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SwimError {
    #[error("no room for it")]
    Full,
    #[error("no message of SWIM")]
    Malformed,
}

/// A whole message of SWIM: foca's header, and the members that ride along.
#[derive(Clone, Debug, PartialEq)]
pub struct SwimMessage {
    pub header: Header<SwimId>,
    /// Nothing for the kinds of message that carry no members.
    pub members: Option<Vec<Member<SwimId>>>,
}

impl SwimMessage {
    /// As many members are read as there are bytes for, whatever number is declared.
    pub fn decode(bytes: &[u8]) -> Option<SwimMessage> {
        let mut cursor = Cursor::new(bytes);
        let header = take_header(&mut cursor)?;
        if cursor.end().is_some() {
            return Some(SwimMessage { header, members: None });
        }
        let declared = cursor.u16()?;
        let mut members = Vec::new();
        for _ in 0..declared {
            members.push(take_member(&mut cursor)?);
        }
        cursor.end()?;
        Some(SwimMessage { header, members: Some(members) })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_header(&mut out, &self.header);
        if let Some(members) = &self.members {
            out.extend_from_slice(&u16::try_from(members.len()).expect("of one datagram").to_be_bytes());
            members.iter().for_each(|member| put_member(&mut out, member));
        }
        out
    }
}

/// Writes and reads foca's values.
pub struct SwimCodec;

impl Codec<SwimId> for SwimCodec {
    type Error = SwimError;

    fn encode_header(&mut self, header: &Header<SwimId>, buf: impl BufMut) -> Result<(), SwimError> {
        put_whole(buf, |out| put_header(out, header))
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<SwimId>, SwimError> {
        take_whole(buf, take_header)
    }

    fn encode_member(&mut self, member: &Member<SwimId>, buf: impl BufMut) -> Result<(), SwimError> {
        put_whole(buf, |out| put_member(out, member))
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<SwimId>, SwimError> {
        take_whole(buf, take_member)
    }
}

fn put_whole(mut buf: impl BufMut, put: impl FnOnce(&mut Vec<u8>)) -> Result<(), SwimError> {
    let mut out = Vec::with_capacity(HEADER_BYTES_MAX);
    put(&mut out);
    if buf.remaining_mut() < out.len() {
        return Err(SwimError::Full);
    }
    buf.put_slice(&out);
    Ok(())
}

fn take_whole<T>(mut buf: impl Buf, take: impl FnOnce(&mut Cursor<'_>) -> Option<T>) -> Result<T, SwimError> {
    let mut cursor = Cursor::new(buf.chunk());
    let taken = take(&mut cursor).ok_or(SwimError::Malformed)?;
    let used = buf.chunk().len() - cursor.rest().len();
    buf.advance(used);
    Ok(taken)
}

fn put_id(out: &mut Vec<u8>, id: &SwimId) {
    put_node(out, id.node);
    out.extend_from_slice(&id.start.to_be_bytes());
}

fn take_id(cursor: &mut Cursor<'_>) -> Option<SwimId> {
    Some(SwimId { node: cursor.node()?, start: cursor.u64()? })
}

fn put_member(out: &mut Vec<u8>, member: &Member<SwimId>) {
    put_id(out, member.id());
    out.extend_from_slice(&member.incarnation().to_be_bytes());
    out.push(match member.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    });
}

fn take_member(cursor: &mut Cursor<'_>) -> Option<Member<SwimId>> {
    let (id, incarnation) = (take_id(cursor)?, cursor.u16()?);
    let state = match cursor.u8()? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        _ => return None,
    };
    Some(Member::new(id, incarnation, state))
}

fn put_header(out: &mut Vec<u8>, header: &Header<SwimId>) {
    put_id(out, &header.src);
    out.extend_from_slice(&header.src_incarnation.to_be_bytes());
    put_id(out, &header.dst);
    match &header.message {
        Message::Ping(number) => out.extend_from_slice(&[0, *number]),
        Message::Ack(number) => out.extend_from_slice(&[1, *number]),
        Message::PingReq { target: id, probe_number } => put_indirect(out, 2, *probe_number, id),
        Message::IndirectPing { origin: id, probe_number } => put_indirect(out, 3, *probe_number, id),
        Message::IndirectAck { target: id, probe_number } => put_indirect(out, 4, *probe_number, id),
        Message::ForwardedAck { origin: id, probe_number } => put_indirect(out, 5, *probe_number, id),
        Message::Announce => out.push(6),
        Message::Feed => out.push(7),
        Message::Gossip => out.push(8),
        Message::Broadcast => out.push(9),
        Message::TurnUndead => out.push(10),
    }
}

fn put_indirect(out: &mut Vec<u8>, kind: u8, number: u8, id: &SwimId) {
    out.extend_from_slice(&[kind, number]);
    put_id(out, id);
}

fn take_header(cursor: &mut Cursor<'_>) -> Option<Header<SwimId>> {
    let (src, src_incarnation, dst) = (take_id(cursor)?, cursor.u16()?, take_id(cursor)?);
    let message = match cursor.u8()? {
        0 => Message::Ping(cursor.u8()?),
        1 => Message::Ack(cursor.u8()?),
        kind @ 2..=5 => {
            let (probe_number, id) = (cursor.u8()?, take_id(cursor)?);
            match kind {
                2 => Message::PingReq { target: id, probe_number },
                3 => Message::IndirectPing { origin: id, probe_number },
                4 => Message::IndirectAck { target: id, probe_number },
                _ => Message::ForwardedAck { origin: id, probe_number },
            }
        }
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        // 9, a broadcast, is a kind that no node of ours sends.
        10 => Message::TurnUndead,
        _ => return None,
    };
    Some(Header { src, src_incarnation, dst, message })
}

/// foca draws from our generator, so that a seed replays what it does.
pub struct Draws(pub Rng);

impl rand_core::TryRng for Draws {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.0.next_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.0.next_u64().to_le_bytes()[..part.len()]);
        }
        Ok(())
    }
}

/// An address that nobody has, for a message that is judged before its receiver is known.
pub const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Three identities of at most 31 bytes, an incarnation, a kind and a number.
const HEADER_BYTES_MAX: usize = 97;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids() -> impl Strategy<Value = SwimId> {
        (any::<u32>(), any::<IpAddr>(), any::<u16>(), any::<u64>()).prop_map(|(generation, ip, port, start)| SwimId {
            node: NodeId { generation: Generation(generation), address: (ip, port).into() },
            start,
        })
    }

    fn messages() -> impl Strategy<Value = Message<SwimId>> {
        (0..10_u8, any::<u8>(), ids()).prop_map(|(kind, probe_number, id)| match kind {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: id, probe_number },
            3 => Message::IndirectPing { origin: id, probe_number },
            4 => Message::IndirectAck { target: id, probe_number },
            5 => Message::ForwardedAck { origin: id, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            _ => Message::TurnUndead,
        })
    }

    proptest! {
        #[test]
        fn messages_survive_the_way(
            (src, dst, message) in (ids(), ids(), messages()),
            incarnation: u16,
            members in prop::option::of(prop::collection::vec((ids(), any::<u16>(), 0..3_u8), 0..5)),
        ) {
            let state = |n| [State::Alive, State::Suspect, State::Down][usize::from(n)];
            let members: Option<Vec<_>> = members
                .map(|list| list.into_iter().map(|(id, count, n)| Member::new(id, count, state(n))).collect());
            let header = Header { src, src_incarnation: incarnation, dst, message };
            let message = SwimMessage { header, members };
            let bytes = message.encode();
            for length in 0..bytes.len() {
                let cut = SwimMessage::decode(&bytes[..length]);
                prop_assert!(cut.is_none_or(|cut| cut.members.is_none()), "only the list may be missing");
            }
            prop_assert_eq!(SwimMessage::decode(&bytes), Some(message.clone()));
            // foca's own view of it is the same.
            let mut rest = &bytes[..];
            prop_assert_eq!(SwimCodec.decode_header(&mut rest), Ok(message.header));
        }

        #[test]
        fn nonsense_is_no_message(bytes in prop::collection::vec(0_u8..8, 0..120)) {
            if let Some(message) = SwimMessage::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_member_that_does_not_fit_leaves_the_buffer_clean() {
        let member = Member::alive(SwimId::anybody(NOWHERE));
        let mut buf = Vec::new().limit(10);
        assert_eq!(SwimCodec.encode_member(&member, &mut buf), Err(SwimError::Full));
        assert!(buf.into_inner().is_empty());
    }
}
