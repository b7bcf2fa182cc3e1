//! The controller of the balancer: everything but the thin binary.

pub mod config;
