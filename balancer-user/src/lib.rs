//! The controller of the balancer: everything but the thin binary.

pub mod config;
pub mod dataplane;
pub mod maglev;
pub mod health;
pub mod probe;
