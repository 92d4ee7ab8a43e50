//! Durable sessions: what outlives the connection. A session belongs to one shard, its owner, for as long as the
//! process lives; connections come and go.
//!
//! ```text
//!             Attach: row stored, first page loaded          connection ends, or another takes over
//! (new) ─► Attaching ─────────────────────────────► Online ───────────────────────────────────► Absent ─► expired
//!              ▲                                                                                  │
//!              └──────────────────────────────────── Attach ──────────────────────────────────────┘
//! ```
//! Of an absent session only `Session` is in memory; its messages, received ids and answers are in the store. While it
//! is online, its connection holds the messages in flight (`Downlinks`) and what came from the client (`Uplinks`); when
//! the connection ends, what is not finished is stored.
//!
//! The files, from below: `state` (one session), `table` (all, and lists of them), `commands` (to the store, under
//! way), `scope` (what a step may change), `row` (writing a session's row), `pages` (loading what is stored),
//! `downlink`, `uplink` and `channels` (what happens to an attached session), `end` and `attach` (its connections, and
//! its way to other nodes), `dispatch` (what the store and the connections report).

pub mod attach;
pub mod channels;
pub mod commands;
pub mod dispatch;
pub mod downlink;
pub mod end;
pub mod pages;
pub mod row;
pub mod scope;
pub mod state;
pub mod table;
pub mod uplink;

#[cfg(test)]
mod tests;
