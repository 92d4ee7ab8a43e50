//! What is known of one life of a node, and what that makes of it.
//!
//! Two witnesses speak: SWIM, whose word is a hint, and the links, which are used or silent. A node is `Down` only when
//! both say so, and comes back when one of them hears of it. `Dead` is for good: a later life of the node is there, it
//! said goodbye, or the store has ended its lease.

use super::swim::SwimId;
use crate::base::id::NodeId;
use crate::base::time::Tick;
use foca::State;

/// What a node's calls, directory and sessions may count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerState {
    /// SWIM has heard of it; its first link is being made.
    Joining,
    Live,
    /// Its links work; SWIM doubts it. It is served as if it were live.
    Suspected,
    /// SWIM hears of it, or does not yet doubt it; no link works. Calls name it unreachable.
    LinkDown,
    /// Neither SWIM nor links hear of it. Whoever adopts its sessions needs the store's word, too.
    Down,
    /// This life of it has ended.
    Dead,
}

/// Why it is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Announced,
    LinkUp,
    SwimSuspects,
    SwimLost,
    NoLink,
    LinkEnded,
    LinkSilent,
    /// A later life of it, or another node at its address, is there.
    Replaced(NodeId),
    Left,
    /// The store says that its lease has ended.
    LeaseEnded,
    /// The operator has dropped it.
    Forgotten,
}

/// The links to a node, taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Since the node was heard of.
    Never {
        since: Tick,
    },
    Up {
        heard: Tick,
    },
    Ended,
}

#[derive(Debug)]
pub struct Peer {
    id: SwimId,
    swim: State,
    links: Links,
    state: PeerState,
    reason: Reason,
    since: Tick,
    /// SWIM has this other life at the address.
    displaced_by: Option<NodeId>,
    comebacks: u32,
    comeback_at: Tick,
}

impl Peer {
    pub fn new(id: SwimId, now: Tick) -> Peer {
        let (state, reason) = (PeerState::Joining, Reason::Announced);
        Peer {
            id,
            swim: State::Alive,
            links: Links::Never { since: now },
            state,
            reason,
            since: now,
            displaced_by: None,
            comebacks: 0,
            comeback_at: now,
        }
    }

    pub fn id(&self) -> SwimId {
        self.id
    }

    pub fn node(&self) -> NodeId {
        self.id.node
    }

    pub fn state(&self) -> PeerState {
        self.state
    }

    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// When it came into this state.
    pub fn since(&self) -> Tick {
        self.since
    }

    pub fn is_linked(&self) -> bool {
        matches!(self.links, Links::Up { .. })
    }

    /// It is heard of at its address again, after another life was there. Late messages of the dead do that, and who
    /// stood still reads many of them at once; who does it again and again, in different seconds, is alive. True from
    /// then on.
    pub(super) fn comes_back(&mut self, now: Tick) -> bool {
        if now.since_ms(self.comeback_at) >= COMEBACK_MS {
            (self.comebacks, self.comeback_at) = (self.comebacks + 1, now);
        }
        self.comebacks >= COMEBACKS_MIN
    }

    pub(super) fn set_swim(&mut self, id: SwimId, swim: State) {
        debug_assert_eq!(id.node.generation, self.id.node.generation, "one life");
        self.id = id;
        self.swim = swim;
    }

    /// SWIM has another life at its address, and nothing to say of this one.
    pub(super) fn displace(&mut self, by: NodeId) {
        self.displaced_by = Some(by);
        self.swim = State::Down;
    }

    pub(super) fn take_displaced(&mut self) -> Option<NodeId> {
        self.displaced_by.take()
    }

    /// As its handshake says.
    pub(super) fn set_start(&mut self, start: u64) {
        self.id.start = self.id.start.max(start);
    }

    pub(super) fn set_links(&mut self, links: Links) {
        self.links = links;
    }

    pub(super) fn heard(&mut self, now: Tick) {
        if self.is_linked() {
            self.links = Links::Up { heard: now };
        }
    }

    /// Nobody is to blame for a silence during which we were not listening.
    pub(super) fn resume(&mut self, ms: u64) {
        match &mut self.links {
            Links::Up { heard: at } | Links::Never { since: at } => *at = *at + ms,
            Links::Ended => {}
        }
    }

    /// Ends this life; true if it had not ended before.
    pub(super) fn end(&mut self, reason: Reason, now: Tick) -> bool {
        let is_new = self.state != PeerState::Dead;
        if is_new {
            (self.state, self.reason, self.since) = (PeerState::Dead, reason, now);
        }
        is_new
    }

    /// What the witnesses say now; true if that is another state or reason than before.
    pub(super) fn judge(&mut self, now: Tick) -> bool {
        if self.state == PeerState::Dead {
            return false;
        }
        let (state, reason) = self.verdict(now);
        let is_new = (state, reason) != (self.state, self.reason);
        if is_new {
            (self.state, self.reason, self.since) = (state, reason, now);
        }
        is_new
    }

    fn verdict(&self, now: Tick) -> (PeerState, Reason) {
        let link_fault = match self.links {
            Links::Up { heard } if now.since_ms(heard) < LINK_SILENT_MS => None,
            Links::Up { .. } => Some(Reason::LinkSilent),
            Links::Ended => Some(Reason::LinkEnded),
            Links::Never { since } if now.since_ms(since) < FIRST_LINK_MS && self.swim != State::Down => {
                return (PeerState::Joining, Reason::Announced);
            }
            Links::Never { .. } => Some(Reason::NoLink),
        };
        match (self.swim, link_fault) {
            (State::Alive, None) => (PeerState::Live, Reason::LinkUp),
            (State::Suspect, None) => (PeerState::Suspected, Reason::SwimSuspects),
            (State::Down, None) => (PeerState::Suspected, Reason::SwimLost),
            (State::Down, Some(reason)) => (PeerState::Down, reason),
            (_, Some(reason)) => (PeerState::LinkDown, reason),
        }
    }

    /// When its silence has lasted too long, if nothing is heard until then.
    pub(super) fn judged_at(&self) -> Tick {
        match (self.state, self.links) {
            (PeerState::Dead, _) | (_, Links::Ended) => Tick::NEVER,
            (PeerState::Joining, Links::Never { since }) => since + FIRST_LINK_MS,
            (_, Links::Never { .. }) => Tick::NEVER,
            (_, Links::Up { .. }) if self.reason == Reason::LinkSilent => Tick::NEVER,
            (_, Links::Up { heard }) => heard + LINK_SILENT_MS,
        }
    }
}

const COMEBACKS_MIN: u32 = 4;
const COMEBACK_MS: u64 = 1_000;
/// Three heartbeats.
pub const LINK_SILENT_MS: u64 = 3_000;
/// Until a node that was heard of must have a link.
pub const FIRST_LINK_MS: u64 = 5_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        let mut peer = Peer::new(SwimId::anybody(([127, 0, 0, 1], 1).into()), Tick(0));
        peer.set_links(Links::Up { heard: Tick(0) });
        assert!(peer.judge(Tick(0)));
        peer
    }

    #[test]
    fn one_witness_declares_nobody_down() {
        let mut peer = peer();
        let id = peer.id();
        peer.set_swim(id, State::Down);
        assert!(peer.judge(Tick(1)) && !peer.judge(Tick(2)));
        assert_eq!((peer.state(), peer.reason()), (PeerState::Suspected, Reason::SwimLost));
        peer.set_swim(id, State::Alive);
        peer.set_links(Links::Ended);
        assert!(peer.judge(Tick(3)));
        assert_eq!((peer.state(), peer.reason(), peer.since()), (PeerState::LinkDown, Reason::LinkEnded, Tick(3)));
        peer.set_swim(id, State::Down);
        assert!(peer.judge(Tick(4)));
        assert_eq!(peer.state(), PeerState::Down);
        peer.set_links(Links::Up { heard: Tick(5) });
        assert!(peer.judge(Tick(5)), "down for ten seconds is not dead");
        assert_eq!(peer.state(), PeerState::Suspected);
    }

    #[test]
    fn a_silent_link_is_as_good_as_none() {
        let mut peer = peer();
        assert_eq!(peer.judged_at(), Tick(LINK_SILENT_MS));
        assert!(!peer.judge(Tick(LINK_SILENT_MS - 1)));
        assert!(peer.judge(Tick(LINK_SILENT_MS)));
        assert_eq!((peer.state(), peer.reason()), (PeerState::LinkDown, Reason::LinkSilent));
        assert_eq!(peer.judged_at(), Tick::NEVER);
        peer.heard(Tick(LINK_SILENT_MS + 1));
        assert!(peer.judge(Tick(LINK_SILENT_MS + 1)));
        assert_eq!(peer.state(), PeerState::Live);
    }

    #[test]
    fn a_life_that_has_ended_does_not_come_back() {
        let mut peer = peer();
        assert!(peer.end(Reason::Left, Tick(1)) && !peer.end(Reason::LeaseEnded, Tick(2)), "it is reported once");
        peer.heard(Tick(3));
        assert!(!peer.judge(Tick(3)));
        assert_eq!((peer.state(), peer.reason()), (PeerState::Dead, Reason::Left));
    }
}
