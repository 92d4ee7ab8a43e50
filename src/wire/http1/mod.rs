//! HTTP/1.1: heads and bodies, shared by the upgrade, the control API and the client of the business server.
//!
//! Bytes go through three steps: `HeadScanner` finds where a head ends while it arrives, `RequestHead` or
//! `ResponseHead` reads it in place, and `BodyDecoder` takes off the framing that the head declares. What two HTTP
//! implementations could read in two ways is refused here, so that nothing behind Rainbow can be smuggled past it.

pub mod body;
pub mod head;
pub mod names;
pub mod query;
pub mod scan;

pub use body::{BodyDecoder, BodyError, Progress};
pub use head::{BodyFraming, Headers, REQUEST_SLOTS, RESPONSE_SLOTS, RequestHead, ResponseHead};
pub use httparse::Header;
pub use names::{begins_with_name, is_same_name};
pub use query::{percent_decode, percent_encode_into, push_number, query_get, query_pairs};
pub use scan::{HeadError, HeadLimits, HeadScanner};
