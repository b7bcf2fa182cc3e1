//! The controller of the balancer: everything but the thin binary.

pub mod api;
pub mod change;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod desired;
pub mod explain;
pub mod group;
pub mod health;
pub mod live;
pub mod maglev;
pub mod member;
pub mod metrics;
pub mod moment;
pub mod netlink;
mod packet_socket;
pub mod page;
mod parallel;
pub mod plan;
pub mod probe;
pub mod rehearsal;
pub mod revision;
pub mod seed;
pub mod verdict;
pub mod watch;
pub mod webhook;
