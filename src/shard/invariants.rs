//! What must hold in a shard between any two inputs. Every room checks its own list of a connection; here their sums
//! are compared with what the arenas hold. Goes over everything, so it runs in debug builds and for small shards only.

use super::Shard;
use super::conn::Phase;
use super::parts::PartRef;
use super::session::NO_CONN;
use crate::base::time::Tick;

/// What one connection holds in the shard's arenas.
#[derive(Default)]
pub struct Holdings {
    pub items: usize,
    pub message_uses: usize,
    pub pending: usize,
    pub known: usize,
    pub waiting: usize,
    /// Bytes of its messages in the line and with the backend.
    pub line_bytes: usize,
    /// The calls that wait for it.
    pub parts: Vec<PartRef>,
}

impl Shard {
    pub(super) fn check_invariants(&self, now: Tick) {
        if self.conns.len() > CONNS_MAX {
            return;
        }
        self.channels.check_invariants();
        let mut all = Holdings::default();
        for (index, conn) in &self.conns {
            self.items.check(&conn.outbox, &self.messages, &mut all);
            self.check_uplink(index as u32, &mut all);
            self.check_downlink(index as u32, &mut all);
            self.check_phase(index as u32, now);
        }
        self.check_fanout(&mut all);
        let open = self.conns.iter().filter(|(_, conn)| conn.phase == Phase::Open).count();
        assert_eq!(self.open, open);
        assert_eq!(self.items.len(), all.items, "items are in outboxes, and nowhere else");
        assert_eq!(self.messages.uses(), all.message_uses, "messages are held by whom they are counted for");
        assert_eq!(self.pending.len(), all.pending);
        assert_eq!(self.known.len(), all.known);
        assert_eq!(self.line.len(), all.waiting);
        assert_eq!(self.line_bytes, all.line_bytes);
        all.parts.extend(self.storeline.parts());
        all.parts.extend(self.kept_parts.values());
        self.parts.check(&all.parts);
        self.check_sessions();
    }

    fn check_phase(&self, index: u32, now: Tick) {
        let conn = &self.conns[index as usize];
        assert!(conn.phase == Phase::Open || conn.downlink.list().is_empty(), "only the open wait for answers");
        assert!(matches!(conn.phase, Phase::Connecting | Phase::Open) || conn.joined.is_empty(), "who closes has left");
        assert!(conn.phase == Phase::Open || !conn.paused, "a closing client is read, for its close frame");
        assert!(!conn.paused || !conn.uplink.is_idle(), "what would resume it?");
        match conn.phase {
            Phase::Connecting => assert!(conn.outbox.is_empty() && conn.uplink.is_idle()),
            Phase::Open => self.check_timer(index, now),
            Phase::Closing => {}
            Phase::Moved => assert!(self.stubs.contains_key(&index) && conn.uplink.is_idle()),
            Phase::Gone => {
                assert!(conn.outbox.is_empty() && self.timers.deadline(index).is_none());
                assert!(!conn.uplink.is_idle() || conn.owes, "kept for what is with the backend only");
            }
        }
    }

    fn check_sessions(&self) {
        for (at, session) in self.sessions.iter() {
            for conn in [session.conn, session.holder].into_iter().filter(|&conn| conn != NO_CONN) {
                assert_eq!(self.conns[conn as usize].session, session.key(at), "a connection knows its session");
            }
            assert!(session.oldest <= session.next);
            assert_eq!(session.ends.is_none(), session.conn != NO_CONN, "an absent session has an end");
            assert_eq!(session.ends.is_some(), self.ends.deadline(at).is_some());
        }
    }

    /// The connection's one timer is not later than anything it waits for.
    fn check_timer(&self, index: u32, now: Tick) {
        let Some(armed) = self.timers.deadline(index) else { panic!("an open connection has a timer") };
        let need = self.earliest_repeat(index);
        assert!(need == Tick::NEVER || armed <= need.max(now + 1), "armed for {armed:?}, needed at {need:?}");
    }
}

const CONNS_MAX: usize = 64;
