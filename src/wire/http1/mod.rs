//! HTTP/1.1: heads and bodies, shared by the upgrade, the control API and the client of the business server.

pub mod body;
pub mod head;
