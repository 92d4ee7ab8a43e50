//! The rooms of the server that are plain data, and so fuzzed. Without the others and what those need, which is most of
//! what compiling takes.

#[path = "../../src/base/mod.rs"]
pub mod base;
#[path = "../../src/cluster/mod.rs"]
pub mod cluster;
#[path = "../../src/metrics/mod.rs"]
pub mod metrics;
#[path = "../../src/policy/mod.rs"]
pub mod policy;
#[path = "../../src/shard/mod.rs"]
pub mod shard;
#[path = "../../src/wire/mod.rs"]
pub mod wire;
