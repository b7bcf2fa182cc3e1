//! The control API: HTTP with JSON on a Unix socket.

pub mod access;
pub mod apply;
pub mod capture;
pub mod client;
pub mod connections;
pub mod events;
pub mod lines;
pub mod openapi;
pub mod page;
pub mod peer;
pub mod progress;
pub mod public;
pub mod server;
pub mod types;
