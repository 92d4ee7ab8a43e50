//! How long to wait before the next attempt: exponential, with full jitter, so that a thousand messages that failed
//! together are not retried together.
//!
//! Pure: chance is passed in, and time is the caller's. Called by the breaker for its cooldown, and by the backend's
//! dispatcher for a request's next attempt.

use crate::base::rng::Rng;

/// Bounds of the wait, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub min_ms: u64,
    pub max_ms: u64,
}

impl Backoff {
    /// The longest wait after so many failed attempts (1-based): doubled each time, up to `max_ms`.
    pub fn ceiling_ms(&self, attempts: u32) -> u64 {
        let doublings = attempts.saturating_sub(1).min(63);
        let doubled = self.min_ms.saturating_mul(1 << doublings);
        doubled.min(self.max_ms.max(self.min_ms))
    }

    /// A wait in `0..=ceiling`: "full jitter", which works off a crowd of retries fastest, and with the fewest of them.
    pub fn delay_ms(&self, attempts: u32, rng: &mut Rng) -> u64 {
        rng.below(self.ceiling_ms(attempts).saturating_add(1))
    }

    /// A wait in the upper half of `0..=ceiling`, where an immediate retry would do harm.
    pub fn pause_ms(&self, attempts: u32, rng: &mut Rng) -> u64 {
        let ceiling = self.ceiling_ms(attempts);
        ceiling - rng.below(ceiling / 2 + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::rng::Rng;

    #[test]
    fn the_ceiling_doubles_up_to_its_maximum() {
        let backoff = Backoff { min_ms: 100, max_ms: 5000 };
        let ceilings: Vec<u64> = (1..=8).map(|attempts| backoff.ceiling_ms(attempts)).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.ceiling_ms(0), 100, "before the first failure as after it");
    }

    #[test]
    fn a_crowd_is_spread_over_the_whole_wait() {
        let (backoff, mut rng) = (Backoff { min_ms: 1000, max_ms: 1000 }, Rng::new(3));
        let mut tenths = [0; 11];
        for _ in 0..1000 {
            tenths[backoff.delay_ms(1, &mut rng) as usize / 100] += 1;
        }
        assert!(tenths[..10].iter().all(|&count| (50..200).contains(&count)), "{tenths:?}");
    }

    proptest! {
        #[test]
        fn delays_stay_within_bounds(min_ms: u64, max_ms: u64, attempts: u32, seed: u64) {
            let (backoff, mut rng) = (Backoff { min_ms, max_ms }, Rng::new(seed));
            let ceiling = backoff.ceiling_ms(attempts);
            prop_assert!(ceiling <= max_ms.max(min_ms) && ceiling >= min_ms.min(max_ms));
            prop_assert!(ceiling <= backoff.ceiling_ms(attempts.saturating_add(1)));
            prop_assert!(backoff.delay_ms(attempts, &mut rng) <= ceiling);
            let pause = backoff.pause_ms(attempts, &mut rng);
            prop_assert!(pause <= ceiling && pause >= ceiling / 2);
        }
    }
}
