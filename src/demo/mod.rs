//! The demo's business server: a small chat (rooms, names, history in memory) and the page to it.
//!
//! It is a business server like any user's: it reaches Rainbow over HTTP only and knows nothing of its insides; it
//! shares no more than the parsers and the signature with it. It may be killed and started again while people chat.
//! Called by `main`, in the server's process (`demo`) or in one of its own (`demo-backend`).

mod caller;
mod config;
mod hooks;
mod http;
mod ports;
mod rooms;
mod seats;
mod server;

pub use config::DemoConfig;
pub use ports::{NamedPorts, Ports};
pub use seats::Seat;
pub use server::{Demo, run_backend, start};
