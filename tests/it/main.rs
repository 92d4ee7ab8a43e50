//! Black-box tests: the built server as a child process, real sockets on free ports, nothing of the crate's own code.
//!
//! They are written from the protocol alone: what a client and a business server can see. One file per room of the house,
//! one test per promise. `RAINBOW_TEST_FULL=1` lengthens the tests that measure memory under load.

mod harness;

mod api;
mod backend_down;
mod chaos;
mod closes;
mod cluster;
mod cluster_disks;
mod cluster_sessions;
mod cluster_traps;
mod compat_2014;
mod config_cli;
mod connect;
mod containers;
mod descriptors;
mod drain;
mod forward;
mod framing;
mod heads;
mod hooks;
mod hostile;
mod idle;
mod info;
mod limits;
mod load;
mod logging;
mod operator;
mod pauses;
mod proxies;
mod qos_down;
mod qos_up;
mod redis;
mod rolling;
mod secrets;
mod service_manager;
mod sessions_api;
mod signatures;
mod stalls;
mod strangers;
mod subcommands;
mod users;
