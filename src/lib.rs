//! Rainbow: a universal long-connection server.
//!
//! Imports run one way, from folder to folder and inside each; `tests/tidy` has the order and checks it. `wire`,
//! `shard`, `policy` and `cluster` name no runtime, no socket, no clock, no randomness and no async: what they do can
//! be simulated, fuzzed, replayed and handed on.
//!
//! # Who owns what
//!
//! ```text
//! process    io::worker::shared   config, mailboxes, presence, calls in flight, metrics
//!  └ worker  io::worker::turn     one thread, one ring, one descriptor table, and what no other touches:
//!     ├ shard                     what connections, channels, sessions and calls are, as plain data
//!     │   ├ connection::table     slots, phases, outboxes, one timer each
//!     │   ├ connection::downlink  messages to clients that are not finished    (in flight, queued)
//!     │   ├ connection::uplink    messages from clients that are not finished  (known ids, forward queue)
//!     │   ├ channel::members      who is in which channel
//!     │   ├ session::scope        durable sessions, and their commands to the store
//!     │   └ call::waiting         calls that wait for clients
//!     ├ io::worker::sockets       the clients' sockets, for writing
//!     ├ io::worker::descriptors   how many of them its table may hold
//!     ├ io::client::task          one per client: its socket, for reading, and its place in the admission
//!     ├ io::worker::responses     responses to callers, until their sockets have taken them
//!     ├ io::backend::pool         keep-alive connections to the business server, and the requests that wait for one
//!     ├ io::worker::connecting    connections on their way in: connect hooks, attachments
//!     ├ io::store::queue          commands of this shard to the store
//!     ├ io::cluster::calls        links to the workers of other nodes, and clients whose 101 waits for the peers
//!     └ io::worker::peers         messages for other workers that have no room yet
//! cluster thread io::cluster::thread  this node's part in its cluster (cluster::node), and its links to the others
//! store thread  io::store::thread the database; after the start nobody else waits for a disk or for Redis
//! ```
//!
//! # The life of a connection
//!
//! 1. `io::service::accept` accepts a socket; `io::http::connection` reads the request head, `io::service::serve`
//!    sees an upgrade.
//! 2. `io::client::upgrade` checks it (`wire::ws::handshake`, `policy::admission`), takes a slot
//!    (`Shard::reserve`: phase *Connecting*) and sends the connect hook (`policy::headers`, `io::hooks`,
//!    `io::backend`).
//! 3. `io::service::completions` reads the answer. Accepted: `io::client::lifecycle` subscribes the connection and
//!    opens it (`Input::Opened`: phase *Open*), or attaches it to its session (`shard::session::attach`) in the worker
//!    that owns that, to which `io::client::handover` carries the socket. Refused: a 401 or 503.
//! 4. `io::client::task` reads from then on. `shard::connection::keepalive` pings who is silent.
//! 5. It ends: the client closes, is too slow, is silent, breaks the protocol, is kicked, or the server drains. All go
//!    through `shard::connection::table` (*Closing*, *Gone*). Its channels are left and its session stores what is
//!    unfinished (`shard::session::end`). When its last message is answered, the close hook is sent (`Output::Closed`).
//!
//! # The life of a message up
//!
//! 1. `io::client::task` reads bytes; `Shard::handle` decodes them (`shard::connection::transport`) into a packet.
//! 2. `shard::connection::uplink`: `known_ids` recognises a repeat, which is answered or absorbed. A new message joins
//!    the client's forward queue; one per client is with the backend, so order is kept.
//! 3. `Output::Forward` becomes an HTTP request (`io::hooks`; `io::backend`, `policy::backend`). One of QoS 1 or 2 is
//!    retried until its deadline.
//! 4. The answer comes back as `Input::Forwarded`. Its headers act on the connection (`io::client::lifecycle`); its
//!    body goes out as ACK or REC. A session's QoS 2 answer is stored first (`shard::session::uplink`).
//!
//! # The life of a call down
//!
//! 1. `io::service::serve` reads the request, `io::api::access` checks the signature, `policy::api` makes a call of it,
//!    `io::api::calls` carries it out.
//! 2. `io::api::query` sends one query to each shard that may have members (`io::worker::presence`) and gathers the
//!    replies (`io::worker::calls::gather`). With a `message_id`, `io::api::idempotent` sees to it that the call is
//!    carried out once.
//! 3. `shard::fanout` delivers: at once to a few members, in slices to many. `shard::connection::downlink` gives the
//!    message an id and room in the client's window; `shard::session::downlink` stores it for those who are away, or
//!    do not acknowledge for a while.
//! 4. The message waits in the outbox (`shard::connection::outbox`) as a packet. At the end of the turn
//!    `io::worker::sockets` writes all that waits for a client at once, framed by its transport.
//!    A node that may have members gets the message over this worker's link to it (`io::cluster::calls`), carries it
//!    out as its own (`io::api::remote`), and replies to the same gather (`io::service::links`).
//! 5. ACK or REC comes up, `shard::call::waiting` counts it; the last one, or the deadline, makes the reply, which goes
//!    back through the gather to the caller (`io::worker::responses`).

/// Invariant: a client and a business server like any user's; what it finds is proved by the ledger alone.
pub mod audit;
/// Invariant: plain numbers, newtypes and containers; nothing here knows of anything above.
pub mod base;
/// Invariant: who the peers are, where channels are and who owns a session, as plain data.
pub mod cluster;
/// Invariant: one subcommand is one call over HTTP; what the server said is the exit code.
pub mod command;
/// Invariant: a `Config` that exists is a valid one.
pub mod config;
/// Invariant: a business server like any user's; it reaches Rainbow over HTTP only.
pub mod demo;
/// Invariant: the only place that names monoio, libc, crossbeam, sockets, `unsafe` and the clock.
pub mod io;
/// Invariant: any number of readers, and one writer per figure (admission apart); a scrape waits for nobody.
pub mod metrics;
/// Invariant: decisions about backends, calls and admission, without waiting, sockets or a clock.
pub mod policy;
/// Invariant: every worker that was started has ended when `run` returns.
pub mod server;
/// Invariant: everything one worker owns, as plain data; the same inputs give the same outputs.
pub mod shard;
/// Invariant: what was answered `Done` is on disk; storage only, the decisions are the shard's.
pub mod store;
/// Invariant: bytes ⇄ values, bounded by the limits passed in; no input panics.
pub mod wire;
/// Invariant: one thread owns one shard, one ring and one descriptor table.
pub mod worker;
