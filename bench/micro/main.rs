//! Micro benches: `cargo bench --bench micro [-- FILTER]`. Each piece of the hot path alone, so that a change in the load
//! harness's figures can be traced to it. `cargo test --benches` runs each once.

mod core;
mod shard;
mod store;
mod wire;

// As in the server: what is allocated costs what it costs there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}
