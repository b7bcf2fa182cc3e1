//! What the network answers: who claims a service's address, and whether
//! backends take packets for it.
//!
//! Frames are made and read by [`frames`], which is pure; `sockets` puts them
//! on the wire and hears what comes back, past the host's own stack. All of it
//! is bounded: two or three tries, and a second for the last answer.

mod claims;
mod frames;
mod sockets;
mod vips;

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

pub(super) use claims::ask as ask_for_claims;
pub(super) use vips::ask as ask_backends;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(250);
/// Frames sent at once, so that no queue on the way overflows.
const BURST: usize = 64;
/// Between two bursts: 12,800 frames a second.
const BURST_PAUSE: Duration = Duration::from_millis(5);

async fn pause(time: Duration) {
    sleep_until(Instant::now() + time).await;
}
