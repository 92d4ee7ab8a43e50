//! One thread: runtime, shard, io (to be filled).
