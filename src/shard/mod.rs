//! Everything one core owns, as plain data.
pub mod arena;
pub mod channels;
pub mod wheel;
