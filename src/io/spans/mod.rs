//! Spans: what this server did for a trace, as OpenTelemetry has it, on its way to a collector.
//!
//! `recorder` decides which spans are collected, and each worker has one; `exporter` is the thread that sends them, by
//! `otlp` in builds with that feature. Between them is a queue without locks: a worker never waits, and a span that
//! finds no room is dropped and counted.

pub mod exporter;
#[cfg(feature = "otlp")]
mod otlp;
pub mod recorder;
pub mod span;
