//! The rooms of the server that are plain data, for the fuzz targets. The other rooms, and the libraries that those need,
//! take most of a build's time.

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
