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
pub mod grant;

pub use actions::{Actions, Names};
pub use answer::ConnectAnswer;
pub use backoff::Backoff;
pub use balancer::{Balancer, Candidate};
pub use breaker::{Breaker, BreakerLimits, Permit};
pub use grant::{Grant, Granted};

/// Why there is no response that could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Failure {
    #[error("the backend's name does not resolve")]
    NoAddress,
    #[error("the backend does not accept connections")]
    Refused,
    #[error("this process has no descriptor or port left for a connection (see RLIMIT_NOFILE)")]
    OutOfDescriptors,
    #[error("the backend cut the connection before its answer was complete")]
    Reset,
    #[error("the backend did not answer in time")]
    Timeout,
    #[error("the backend's answer is not HTTP")]
    Malformed,
    #[error("the backend's answer is larger than allowed (backend_body_max, or a head of 64 KiB or 256 headers)")]
    TooLarge,
}

/// What is to be done with the request that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 2xx: the response's body goes back to the client.
    Success,
    /// The backend has refused the request, and would refuse it again.
    Final,
    /// 3xx: whoever answered has not done what was asked, and would answer the same again; redirects are not followed.
    Redirect,
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
        Ok(300..=399) => Verdict::Redirect,
        Ok(400..=499) => Verdict::Final,
        Ok(_) | Err(_) => Verdict::Retry,
    }
}

/// What a failed attempt is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// It has not failed, or the failure is our own.
    Nobody,
    /// A living application fails on this request; it is retried a limited number of times.
    Request,
    /// The upstream, for all requests of this hook.
    Upstream,
}

/// Who is to blame for a result. A backend that answers 429 or another 4xx is alive; so is one that answers 500 (RFC
/// 9110 §15.6.1: "an unexpected condition"), as opposed to 502, 503 and 504, which say that nobody is there to answer.
pub fn blame(answer: Result<u16, Failure>) -> Blame {
    match answer {
        Ok(502..=504) => Blame::Upstream,
        Ok(100..=499) | Err(Failure::OutOfDescriptors) => Blame::Nobody,
        Ok(_) | Err(Failure::TooLarge) => Blame::Request,
        Err(_) => Blame::Upstream,
    }
}

/// The request may be what brought the upstream down: it has reached it, as far as we know, and no answer of an
/// application came back.
pub fn is_suspect(answer: Result<u16, Failure>) -> bool {
    matches!(answer, Ok(502 | 504) | Err(Failure::Reset | Failure::Timeout | Failure::Malformed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_sorted_into_four_verdicts() {
        let verdict = |status| classify(Ok(status));
        assert_eq!([200, 204, 299].map(verdict), [Verdict::Success; 3]);
        assert_eq!([300, 301, 304, 307, 399].map(verdict), [Verdict::Redirect; 5]);
        assert_eq!([400, 401, 404, 410, 422, 499].map(verdict), [Verdict::Final; 6]);
        assert_eq!([408, 425, 429, 500, 502, 503, 599, 600, 999, 101].map(verdict), [Verdict::Retry; 10]);
    }

    #[test]
    fn every_failure_is_retried_and_charged_to_whose_it_is() {
        use Failure::*;
        for failure in [NoAddress, Refused, OutOfDescriptors, Reset, Timeout, Malformed, TooLarge] {
            assert_eq!(classify(Err(failure)), Verdict::Retry);
            let to_blame = match failure {
                TooLarge => Blame::Request,
                OutOfDescriptors => Blame::Nobody,
                _ => Blame::Upstream,
            };
            assert_eq!(blame(Err(failure)), to_blame);
        }
    }

    #[test]
    fn a_living_backend_that_refuses_one_request_is_not_down() {
        let blamed = |status| blame(Ok(status));
        assert_eq!([200, 302, 404, 408, 425, 429].map(blamed), [Blame::Nobody; 6]);
        assert_eq!([500, 501, 505, 599, 600].map(blamed), [Blame::Request; 5]);
        assert_eq!([502, 503, 504].map(blamed), [Blame::Upstream; 3]);
    }

    #[test]
    fn a_request_that_never_arrived_is_no_suspect() {
        use Failure::*;
        assert!(![NoAddress, Refused, OutOfDescriptors, TooLarge].into_iter().any(|failure| is_suspect(Err(failure))));
        assert!([Reset, Timeout, Malformed].into_iter().all(|failure| is_suspect(Err(failure))));
        assert!(![200, 404, 500, 503].into_iter().any(|status| is_suspect(Ok(status))));
    }
}
