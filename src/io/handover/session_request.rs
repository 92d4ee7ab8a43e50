//! The session that a connection is to be attached to, as the business server named it. Plain data: it goes with the
//! connection when another worker owns the session.

use std::sync::Arc;

/// The durable session that the backend wants for a connection; it may go to another worker.
#[derive(Default)]
pub struct SessionRequest {
    pub name: Arc<str>,
    pub expiry_s: Option<u64>,
    pub cookie: Option<Box<[u8]>>,
    pub unsubscribe: Vec<String>,
    pub subscribe: Vec<String>,
    /// The 101.
    pub response: Vec<u8>,
    pub greets: bool,
}
