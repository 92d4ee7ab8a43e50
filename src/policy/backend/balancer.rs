//! Which of several backends gets the next request: the one with the fewest unanswered requests, ties in turn.
//!
//! Least outstanding rather than plain turns: a slow or cold backend gets fewer requests without a measurement of it.
//! Knows no breaker and no connection; the caller says which backends are usable at all.

/// One backend as the balancer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Requests sent (or about to be) and not yet answered.
    pub outstanding: usize,
    /// Its breaker admits a request and there is a connection for it, or room for one more.
    pub usable: bool,
}

/// Remembers whose turn it is among equals.
#[derive(Clone, Debug, Default)]
pub struct Balancer {
    next: usize,
}

impl Balancer {
    /// The index of the candidate that gets the request. `None` when none is usable (all breakers open, or all
    /// connections busy): the request then waits, or fails at once if it is never retried. Sending to an open one after
    /// all would be the load that the breaker is there to stop.
    pub fn pick(&mut self, candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
        // One pass: the first of the least from `next` on, or else the first of the least before it.
        let mut best: Option<(usize, usize, bool)> = None;
        for (index, candidate) in candidates.enumerate().filter(|(_, candidate)| candidate.usable) {
            let past_turn = index < self.next;
            let is_better = match best {
                None => true,
                Some((_, least, best_past_turn)) => {
                    candidate.outstanding < least || (candidate.outstanding == least && best_past_turn && !past_turn)
                }
            };
            if is_better {
                best = Some((index, candidate.outstanding, past_turn));
            }
        }
        let (index, ..) = best?;
        self.next = index + 1;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pick(balancer: &mut Balancer, loads: &[usize]) -> Option<usize> {
        balancer.pick(loads.iter().map(|&outstanding| Candidate { outstanding, usable: outstanding != OPEN }))
    }

    const OPEN: usize = usize::MAX;

    #[test]
    fn equals_take_turns() {
        let mut balancer = Balancer::default();
        let turns: Vec<_> = (0..6).map(|_| pick(&mut balancer, &[0, 0, 0]).unwrap()).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn the_least_loaded_is_asked() {
        let mut balancer = Balancer::default();
        assert_eq!(pick(&mut balancer, &[3, 1, 2]), Some(1));
        assert_eq!(pick(&mut balancer, &[3, 1, 1]), Some(2), "the tie goes to the one after the last");
        assert_eq!(pick(&mut balancer, &[0, 1, 1]), Some(0));
    }

    #[test]
    fn open_breakers_are_passed_over_and_all_open_is_none() {
        let mut balancer = Balancer::default();
        assert_eq!(pick(&mut balancer, &[OPEN, 9, OPEN]), Some(1));
        assert_eq!(pick(&mut balancer, &[OPEN, OPEN]), None);
        assert_eq!(pick(&mut balancer, &[]), None);
    }

    proptest! {
        #[test]
        fn nobody_usable_has_less_than_the_chosen(
            rounds in prop::collection::vec(prop::collection::vec((0usize..4, any::<bool>()), 0..6), 1..20),
        ) {
            let mut balancer = Balancer::default();
            for loads in rounds {
                let all = || loads.iter().map(|&(outstanding, usable)| Candidate { outstanding, usable });
                let least = all().filter(|candidate| candidate.usable).map(|candidate| candidate.outstanding).min();
                let picked = balancer.pick(all());
                prop_assert_eq!(picked.map(|index| loads[index].0), least);
                prop_assert!(picked.is_none_or(|index| loads[index].1));
            }
        }

        /// Every one of `n` equals is asked once in any `n` picks in a row.
        #[test]
        fn turns_are_fair(n in 1usize..8, skip in 0usize..8) {
            let mut balancer = Balancer::default();
            let loads = vec![0; n];
            for _ in 0..skip {
                pick(&mut balancer, &loads);
            }
            let mut seen: Vec<_> = (0..n).map(|_| pick(&mut balancer, &loads).unwrap()).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..n).collect::<Vec<_>>());
        }
    }
}
