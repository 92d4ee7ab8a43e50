//! Silent clients: pings, the wait for their pongs, and the limit of idleness.

use super::outbox::Item;
use super::table::Table;
use crate::base::id::ConnIndex;
use crate::base::time::Tick;
use crate::shard::context::Context;
use crate::shard::planted::Bug;
use crate::shard::settings::Settings;
use crate::wire::ws::frame::CloseCode;

/// What `check` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alive {
    Yes,
    /// The client has been pinged and has sent nothing else for a whole interval.
    Quiet,
}

/// Pings a silent client; closes one that does not answer pings, or is idle for too long.
pub fn check(table: &mut Table, index: ConnIndex, cx: &mut Context<'_>) -> Alive {
    let details = table.details(index);
    if !table.conn(index).is_open() || details.paused {
        return Alive::Yes;
    }
    let idle_ms = cx.settings.idle_timeout_ms;
    if cx.now >= pong_limit(table, index, cx.settings) {
        cx.metrics.pong_timeouts.increment();
        table.close(index, CloseCode::GOING_AWAY, "no pong", cx);
    } else if idle_ms > 0 && cx.now >= details.active + idle_ms {
        cx.metrics.idle_timeouts.increment();
        table.close(index, CloseCode::GOING_AWAY, "idle", cx);
    } else if cx.now >= ping_due(table, index, cx.settings) {
        ping(table, index, cx);
        if cx.now.since_ms(table.details(index).active) >= cx.settings.ping_interval_ms {
            return Alive::Quiet;
        }
    }
    Alive::Yes
}

/// Sends a ping unless one is out.
pub fn ping(table: &mut Table, index: ConnIndex, cx: &mut Context<'_>) {
    let open = table.conn(index).is_open();
    let details = table.details_mut(index);
    let none_out = details.pinged == Tick::NEVER || details.received > details.pinged;
    if open && none_out && !cx.is_planted(Bug::NeverPings) {
        details.pinged = cx.now;
        cx.metrics.pings.increment();
        table.push(index, Item::Ping, cx);
    }
}

/// The client's pong has come.
pub fn on_pong(table: &mut Table, index: ConnIndex) {
    table.details_mut(index).pinged = Tick::NEVER;
}

/// When to check next. Of a client that is not being read nothing can be expected.
pub fn next_check(table: &Table, index: ConnIndex, settings: &Settings) -> Tick {
    let details = table.details(index);
    if details.paused {
        return Tick::NEVER;
    }
    let idle = match settings.idle_timeout_ms {
        0 => Tick::NEVER,
        idle_ms => details.active + idle_ms,
    };
    ping_due(table, index, settings).min(pong_limit(table, index, settings)).min(idle)
}

/// Anything that came after the ping went out answers it: the client lives.
fn pong_limit(table: &Table, index: ConnIndex, settings: &Settings) -> Tick {
    let details = table.details(index);
    let unanswered = details.pinged != Tick::NEVER && details.received <= details.pinged && !details.paused;
    if unanswered { details.pinged + settings.pong_timeout_ms } else { Tick::NEVER }
}

/// Rounded up, so that many clients' pings share a wake-up.
fn ping_due(table: &Table, index: ConnIndex, settings: &Settings) -> Tick {
    if pong_limit(table, index, settings) != Tick::NEVER {
        return Tick::NEVER;
    }
    let due = table.details(index).received + settings.ping_interval_ms;
    Tick(due.0.checked_next_multiple_of(PING_GRAIN_MS).unwrap_or(due.0))
}

const PING_GRAIN_MS: u64 = 64;

#[cfg(test)]
mod tests;
