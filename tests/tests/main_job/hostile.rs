//! The daemon under hostile input: on its socket, its HTTP address and its
//! file. Whatever comes, it lives on with the same tables, gives back what it
//! took, and forwards: a load goes through the VIP all the time, of which no
//! request may fail.
//!
//! `BALANCER_TEST_HOSTILE` chooses how many requests are drawn,
//! `BALANCER_TEST_SEED` which ones.

mod bed;
mod cases;
mod crowds;
mod files;
mod million;
mod others;
mod rate;
mod readers;
mod sizes;
mod wire;

use std::time::Duration;

/// By then all is over that the daemon ends by itself: its longest patience is
/// 30 s.
const LONG: Duration = Duration::from_secs(120);
