//! `balancer check --live` in real networks: each rule wrong once and just
//! right once, with the exact place of its finding.
//!
//! Needs root; `BALANCER_BIN` names another binary than that of `cargo xtask
//! build`. Its tests mostly wait, so several run at a time. What no veth can have, LRO,
//! and VLAN interfaces, which not every kernel has, are shown by unit tests over
//! a snapshot.

mod daemon;
mod fixture;
mod interfaces;
mod network;
mod peers;
mod ways;

use std::time::Duration;

/// How long a condition may take that nothing is measured by.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
