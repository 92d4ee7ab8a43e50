//! One worker: its shard and everything that carries out what the shard puts out.
//!
//! `turn` joins the parts, which know nothing of it: `sockets` writes to clients, `responses` to callers, `bodies`
//! bounds what callers send, `connecting` and `calls` are what tasks wait for, `peers` are the other workers,
//! `wakeups` says what the next turn has to do, `descriptors` how many sockets there may be. `shared` belongs to all
//! workers. What is built on a worker lies beside this folder (`client`,
//! `http`, `api`, `service`).

pub mod bodies;
pub mod calls;
pub mod connecting;
pub mod descriptors;
pub mod message;
pub mod peers;
pub mod presence;
pub mod responses;
pub mod rules;
pub mod shared;
pub mod sockets;
pub mod turn;
pub mod wakeups;
