//! Named points at which the process can be made to die, for the crash tests: in debug builds only, and only after
//! `arm` (the hidden option `--crash-at NAME:N`). In a release build a point does nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// All points, in the order in which a run reaches them.
pub const POINTS: [&str; 13] = [
    "open.before",       // nothing has been opened
    "open.inside",       // tables are made, or a log of an earlier crash is read back; not all sessions are read yet
    "open.after",        // the store is open, no shard has its sessions
    "commit.before",     // the requests are taken, nothing is written
    "unite.inside",      // two sessions have become one, the commit is not written
    "commit.inside",     // all mutations of the batch are written, the commit is not
    "commit.after",      // committed, no shard has its completions
    "told.before",       // the first shard is about to get its completions
    "told.inside",       // one shard has its completions, the others have not
    "told.after",        // all shards have their completions
    "purge.inside",      // expired messages are deleted, not committed
    "checkpoint.before", // the log is about to be written back
    "close.before",      // the last batch is completed, the store is about to be closed
];

struct Armed {
    name: &'static str,
    /// Passes until the process dies.
    passes_left: AtomicU64,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArmError {
    #[error("write NAME:N, e.g. commit.after:3")]
    Form,
    #[error("there is no such point; there are {}", POINTS.join(", "))]
    Unknown,
    #[error("only a debug build can be made to die")]
    Release,
    #[error("a point is armed already")]
    Twice,
}

/// `commit.inside:3`: the process dies when it passes that point for the third time. Called once, by `main`.
pub fn arm(point: &str) -> Result<(), ArmError> {
    let (name, passes) = parse(point)?;
    if !cfg!(debug_assertions) {
        return Err(ArmError::Release);
    }
    ARMED.set(Armed { name, passes_left: AtomicU64::new(passes) }).map_err(|_| ArmError::Twice)
}

/// Ends the process when this point is armed and this is the pass: nothing is flushed, no destructor runs.
#[inline]
pub fn point(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "{name} is in POINTS");
    if cfg!(debug_assertions)
        && let Some(armed) = ARMED.get()
        && armed.name == name
        && armed.passes_left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

fn parse(point: &str) -> Result<(&'static str, u64), ArmError> {
    let (name, passes) = point.split_once(':').ok_or(ArmError::Form)?;
    let passes = passes.parse().ok().filter(|passes| *passes > 0).ok_or(ArmError::Form)?;
    let name = POINTS.into_iter().find(|known| *known == name).ok_or(ArmError::Unknown)?;
    Ok((name, passes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_with_the_pass_at_which_it_kills() {
        assert_eq!(parse("commit.inside:3"), Ok(("commit.inside", 3)));
        assert_eq!(parse("commit.inside"), Err(ArmError::Form));
        assert_eq!(parse("commit.inside:0"), Err(ArmError::Form));
        assert_eq!(parse("commit.inside:x"), Err(ArmError::Form));
        assert_eq!(parse("commit.beside:1"), Err(ArmError::Unknown));
    }
}
