//! The main job with everything real: the `balancer` binary in a lab, with
//! servers and clients from packages on both sides of it.
//!
//! Each test builds a network of its own and ends with it removed. Needs root
//! and `cargo xtask build`; `BALANCER_BIN` names another binary. Tests share
//! the machine's CPUs, so they run one at a time: `--test-threads=1`. Figures
//! that were measured are printed, and shown with `--nocapture`.

mod access;
mod alerts;
mod answers;
mod apply;
mod atomic;
mod bad_servers;
mod by_vip;
mod by_vip_tls;
mod capture;
mod commands;
mod crash;
mod decap;
mod demo;
mod drain;
mod explain;
mod failure;
mod faults;
mod fixture;
mod forwarding;
mod generic;
mod grpc;
mod hostile;
mod incidents;
mod loadtest;
mod metrics;
mod network;
mod other_layout;
mod outages;
mod page;
mod ping;
mod plan;
mod pressure;
mod probes;
mod programs;
mod programs_swapped;
mod random_changes;
mod refusals;
mod reload;
mod restart;
mod restart_adopts;
mod revisions;
mod state_dir;
mod states;
mod stop;
mod top;
mod udp;
mod verify;
mod what_if;

use std::time::Duration;

/// How long a condition may take that nothing is measured by.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
