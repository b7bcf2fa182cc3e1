//! What probes found, handed to the one loop that acts on it.
//!
//! Thousands of good probes a second that change nothing are handed out
//! together, a tenth of a second's at a time: one thread waking another for
//! each costs more than what is done about it. One that changes a state is
//! handed out at once, with all that came before it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::target::Event;

/// Events that wait for the daemon; when they are full, probes wait too.
const MAX_WAITING: usize = 1024;
/// How long an event that changes nothing may wait for others.
const GATHERING: Duration = Duration::from_millis(100);

/// The events of a [`Scheduler`](super::Scheduler), for the one loop that
/// acts on them.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Stamped>,
    shared: Arc<Shared>,
    /// Nothing is looked for before then, but for what is urgent.
    rest: Instant,
}

/// An event and the incarnation of the target that it is about.
#[derive(Debug)]
pub(super) struct Stamped {
    pub(super) incarnation: u64,
    pub(super) event: Event,
}

impl Events {
    /// The events that came since the last call, in their order, at least one,
    /// of targets as they now are; `None` once the scheduler is gone. May be
    /// dropped while it waits without losing an event.
    pub async fn recv(&mut self) -> Option<Vec<Event>> {
        loop {
            tokio::select! {
                () = sleep_until(self.rest) => {}
                () = self.shared.urgent.notified() => {}
            }
            let mut stamped = Vec::new();
            if self.receiver.recv_many(&mut stamped, MAX_WAITING).await == 0 {
                return None;
            }
            self.rest = Instant::now() + GATHERING;
            let events = self.shared.current(stamped);
            if !events.is_empty() {
                return Some(events);
            }
        }
    }
}

/// The tasks' end.
#[derive(Debug, Clone)]
pub(super) struct Sender(mpsc::Sender<Stamped>);

impl Sender {
    /// Waits while too many events do. Nobody may be listening: probing goes
    /// on for [`States`](super::States).
    pub(super) async fn send(&self, shared: &Shared, stamped: Stamped) {
        let is_urgent = stamped.event.transition.is_some();
        match self.0.try_send(stamped) {
            Ok(()) if is_urgent => shared.urgent.notify_one(),
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(stamped)) => {
                shared.urgent.notify_one();
                let _ = self.0.send(stamped).await;
                shared.urgent.notify_one();
            }
        }
    }
}

/// Both ends.
pub(super) fn channel(shared: &Arc<Shared>) -> (Sender, Events) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    let events = Events {
        receiver,
        shared: Arc::clone(shared),
        rest: Instant::now(),
    };
    (Sender(sender), events)
}
