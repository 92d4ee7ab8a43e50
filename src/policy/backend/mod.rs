//! Decisions about the business server: what a response means, when to retry, which upstream to choose, and when to
//! stop sending to one.
//!
//! Owns the breaker, the backoff and the balancer, and reads the headers and the connect answer that act on a
//! connection. Never waits, never sends and reads no clock: the caller passes the time in and does what is decided.
//! Called by `io::backend`, which owns the connections, and by the worker, which applies `Actions` to its shard.

pub mod actions;
pub mod answer;
pub mod backoff;
pub mod balancer;
pub mod breaker;

pub use actions::{Actions, Names};
pub use answer::ConnectAnswer;
pub use backoff::Backoff;
pub use balancer::{Balancer, Candidate};
pub use breaker::{Breaker, BreakerLimits, Permit};

/// Why there is no response that could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Failure {
    #[error("the backend's name does not resolve")]
    NoAddress,
    #[error("the backend does not accept connections")]
    Refused,
    #[error("the backend cut the connection before its answer was complete")]
    Reset,
    #[error("the backend did not answer in time")]
    Timeout,
    #[error("the backend's answer is not HTTP")]
    Malformed,
    #[error("the backend's answer is larger than allowed")]
    TooLarge,
}

/// What is to be done with the request that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 2xx: the response's body goes back to the client.
    Success,
    /// The backend has decided, and would decide the same again: 3xx (redirects are not followed) and 4xx.
    Final,
    /// The same request may succeed later.
    Retry,
}

/// The verdict on a status, or on the failure to get one.
pub fn classify(answer: Result<u16, Failure>) -> Verdict {
    match answer {
        Ok(200..=299) => Verdict::Success,
        // RFC 9110 §15.5.9 (request timeout), RFC 8470 §5.2 (too early), RFC 6585 §4 (too many requests): all three say
        // "not now" rather than "not this".
        Ok(408 | 425 | 429) => Verdict::Retry,
        Ok(300..=499) => Verdict::Final,
        Ok(_) | Err(_) => Verdict::Retry,
    }
}

/// True when the result counts as a failure of the backend itself, and not of this one request. A backend that answers
/// 429 or another 4xx is alive.
pub fn is_backend_failure(answer: Result<u16, Failure>) -> bool {
    !matches!(answer, Ok(100..=499))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_sorted_into_three_verdicts() {
        let verdict = |status| classify(Ok(status));
        assert_eq!([200, 204, 299].map(verdict), [Verdict::Success; 3]);
        assert_eq!([301, 304, 400, 401, 404, 410, 422, 499].map(verdict), [Verdict::Final; 8]);
        assert_eq!([408, 425, 429, 500, 502, 503, 599, 600, 999, 101].map(verdict), [Verdict::Retry; 10]);
    }

    #[test]
    fn every_failure_is_retried_and_speaks_against_the_backend() {
        use Failure::*;
        for failure in [NoAddress, Refused, Reset, Timeout, Malformed, TooLarge] {
            assert_eq!(classify(Err(failure)), Verdict::Retry);
            assert!(is_backend_failure(Err(failure)));
        }
    }

    #[test]
    fn a_living_backend_that_refuses_one_request_is_not_down() {
        assert!([200, 302, 404, 408, 425, 429].iter().all(|&status| !is_backend_failure(Ok(status))));
        assert!([500, 502, 503, 504, 600].iter().all(|&status| is_backend_failure(Ok(status))));
    }
}
