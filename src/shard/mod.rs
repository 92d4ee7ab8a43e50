//! Everything one core owns, as plain data.
