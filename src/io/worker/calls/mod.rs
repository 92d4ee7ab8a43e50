//! What calls wait for: the replies of shards (`gather`), the same call at another worker (`in_flight`), and the rest
//! (`pending`, which owns all of it for one worker).
//!
//! Parts of the worker that know nothing of it. The calls themselves are in `api`.

pub mod gather;
pub mod in_flight;
pub mod pending;
pub mod traces;
