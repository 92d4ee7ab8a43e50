//! Silent clients: pings, the wait for their pongs, and the limit of idleness.

use super::conn::Phase;
use super::outbox::Item;
use super::{Bug, Shard};
use crate::base::time::Tick;
use crate::wire::ws::frame::{self, CloseCode, Opcode};

impl Shard {
    /// Pings a silent client; closes one that does not answer pings, or says nothing for too long.
    pub(super) fn keep_alive(&mut self, index: u32, now: Tick) {
        let conn = &self.conns[index as usize];
        if conn.phase != Phase::Open || conn.paused {
            return;
        }
        if now >= self.pong_limit(index) {
            self.stats.pong_timeouts += 1;
            self.begin_close(index, CloseCode::GOING_AWAY, "no pong", now);
        } else if self.settings.idle_timeout_ms > 0 && now >= conn.spoke + self.settings.idle_timeout_ms {
            self.stats.idle_timeouts += 1;
            self.begin_close(index, CloseCode::GOING_AWAY, "idle", now);
        } else if now >= self.ping_due(index) {
            self.ping(index, now);
            if now.since_ms(self.conns[index as usize].spoke) >= self.settings.ping_interval_ms {
                self.forget_old_answers(index);
            }
        }
    }

    /// Sends a ping unless one is out.
    pub(super) fn ping(&mut self, index: u32, now: Tick) {
        let conn = &mut self.conns[index as usize];
        let asks = !self.settings.is_planted(Bug::NeverPings);
        if asks && conn.phase == Phase::Open && (conn.pinged == Tick::NEVER || conn.heard > conn.pinged) {
            conn.pinged = now;
            self.stats.pings += 1;
            let (ping, len) = frame::header(Opcode::Ping, 0);
            self.push_item(index, Item::small(&ping[..len]), now);
        }
    }

    /// Anything heard after the ping went out answers it: the client lives.
    fn pong_limit(&self, index: u32) -> Tick {
        let conn = &self.conns[index as usize];
        let unanswered = conn.pinged != Tick::NEVER && conn.heard <= conn.pinged && !conn.paused;
        if unanswered { conn.pinged + self.settings.pong_timeout_ms } else { Tick::NEVER }
    }

    /// Rounded up, so that many clients' pings share a wake-up.
    fn ping_due(&self, index: u32) -> Tick {
        let conn = &self.conns[index as usize];
        if self.pong_limit(index) != Tick::NEVER {
            return Tick::NEVER;
        }
        let due = conn.heard + self.settings.ping_interval_ms;
        Tick(due.0.checked_next_multiple_of(PING_GRAIN_MS).unwrap_or(due.0))
    }

    /// Of a client that is not being read nothing can be expected.
    pub(super) fn next_keepalive(&self, index: u32) -> Tick {
        let conn = &self.conns[index as usize];
        if conn.paused {
            return Tick::NEVER;
        }
        let idle = match self.settings.idle_timeout_ms {
            0 => Tick::NEVER,
            idle => conn.spoke + idle,
        };
        self.ping_due(index).min(self.pong_limit(index)).min(idle)
    }
}

const PING_GRAIN_MS: u64 = 64;
