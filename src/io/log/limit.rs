//! How often one place of the code may log: clients and backends can cause some lines as often as they like.
//!
//! It counts per call site and window of a second. What a window has no room for is suppressed; `report_suppressed`
//! logs how much that was. Lines of debug and trace, which the operator has switched on, and audit lines have no limit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The target of the lines that say who changed what.
pub const AUDIT_TARGET: &str = "rainbow::audit";

/// A layer of the subscriber. Clones share their counts.
#[derive(Clone)]
pub struct LineLimit {
    sites: Arc<Mutex<HashMap<Identifier, Site>>>,
    suppressed: &'static AtomicU64,
}

struct Site {
    metadata: &'static Metadata<'static>,
    window_begun: Instant,
    lines: u32,
    suppressed: u64,
}

impl LineLimit {
    pub fn new(suppressed: &'static AtomicU64) -> LineLimit {
        LineLimit { sites: Arc::default(), suppressed }
    }

    /// Logs for each call site how many of its lines were suppressed since this was last called.
    pub fn report_suppressed(&self) {
        let mut reported = Vec::new();
        for site in self.sites.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            match std::mem::take(&mut site.suppressed) {
                0 => {}
                lines => reported.push((site.metadata, lines)),
            }
        }
        // Not while the lock is held: these lines come by here, too.
        for (metadata, lines) in reported {
            let (target, line) = (metadata.target(), metadata.line());
            warn!(lines, of = target, line, "log lines were suppressed: over {LINES_MAX} a second");
        }
    }

    fn admits(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        if *metadata.level() >= Level::DEBUG || metadata.target() == AUDIT_TARGET {
            return true;
        }
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Site { metadata, window_begun: now, lines: 0, suppressed: 0 };
        let site = sites.entry(metadata.callsite()).or_insert(new);
        if now.duration_since(site.window_begun) >= WINDOW {
            (site.window_begun, site.lines) = (now, 0);
        }
        if site.lines == LINES_MAX {
            site.suppressed += 1;
            self.suppressed.fetch_add(1, Relaxed);
            return false;
        }
        site.lines += 1;
        true
    }
}

impl<S: Subscriber> Layer<S> for LineLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.admits(event.metadata(), Instant::now())
    }
}

/// Enough for one line per worker of a large machine at its start and end.
const LINES_MAX: u32 = 100;
const WINDOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn a_call_site_has_a_limit_per_second_of_its_own() {
        let suppressed = Box::leak(Box::new(AtomicU64::new(0)));
        let limit = LineLimit::new(suppressed);
        let subscriber = tracing_subscriber::registry().with(limit.clone());
        tracing::subscriber::with_default(subscriber, || {
            let log = || warn!("often");
            (0..LINES_MAX + 7).for_each(|_| log());
            warn!("another place");
            (0..2 * LINES_MAX).for_each(|_| tracing::info!(target: AUDIT_TARGET, "kick"));
            assert_eq!(suppressed.load(Relaxed), 7);
            let of = |lines| limit.sites.lock().expect("no panics").values().filter(|s| s.lines == lines).count();
            assert_eq!((of(LINES_MAX), of(1)), (1, 1));
            limit.report_suppressed();
            assert!(limit.sites.lock().expect("no panics").values().all(|site| site.suppressed == 0));
            let metadata =
                limit.sites.lock().expect("no panics").values().find(|s| s.lines == LINES_MAX).map(|s| s.metadata);
            let metadata = metadata.expect("it has logged");
            assert!(!limit.admits(metadata, Instant::now()));
            assert!(limit.admits(metadata, Instant::now() + WINDOW));
        });
    }
}
