//! Command line to config to server.
fn main() {}
