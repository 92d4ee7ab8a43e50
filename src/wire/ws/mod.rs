//! RFC 6455: frames, masks, messages, the opening handshake. Server side; the client side only where tests need it.

pub mod decoder;
pub mod frame;
pub mod handshake;
mod header;
pub mod mask;
pub mod utf8;
