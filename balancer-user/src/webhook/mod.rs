//! Incidents told to others over HTTP: to Alertmanager, and as plain JSON.
//!
//! What waits is in an [`outbox`], bounded and pure: time is an argument.
//! [`payload`] makes the bodies, [`send`] posts them, one task a receiver. The
//! daemon's loop only puts something into the outbox and never waits; a
//! receiver that is down for long costs the oldest message, which is counted
//! and logged.

pub mod outbox;
pub mod payload;
pub mod send;
