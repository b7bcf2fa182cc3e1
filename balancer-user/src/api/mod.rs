//! The control API: HTTP with JSON on a Unix socket.

pub mod client;
pub mod server;
pub mod types;
