//! Asks backends that a change gives traffic, and some of their siblings, for
//! their answers: beside the loop, for as long as the change is watched.
//!
//! These requests are no probes: no state of a backend depends on them. What
//! they mean is [`crate::verdict::answers`]. Bounded: one request to a backend
//! at a time, each with a timeout, and `MAX_CONCURRENT` in all. Dropping a
//! [`Comparing`] ends it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::vip::{Lane, Way};
use super::{Deadline, PrepareError, http, tcp, tls};
use crate::config::model::{Health, HttpProbe, ProbeKind, TlsProbe};
use crate::health::Failure;
use crate::verdict::answers::{Answer, Comparison};
use crate::verdict::panel::Panel;

/// Requests under way at a time. Each holds a file descriptor.
const MAX_CONCURRENT: usize = 64;
/// Between two requests to a backend while it has traffic.
const PERIOD: Duration = Duration::from_millis(250);
/// The same before it has: whoever made the change is waiting.
const PROVING_PERIOD: Duration = Duration::from_millis(50);
/// A probe asks for a light page and may be cut off early; how long a real one
/// takes is what is asked here.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);
const MOST_TIMEOUT: Duration = Duration::from_secs(5);

/// A comparison that goes on until it is dropped.
#[derive(Debug)]
pub struct Comparing {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Drop for Comparing {
    fn drop(&mut self) {
        self.task.abort();
        // Who waits for the proof waits for nothing any more.
        self.shared.proven.notify_one();
    }
}

#[derive(Debug)]
struct Shared {
    /// Never held while something is waited for.
    heard: Mutex<Vec<Comparison>>,
    is_before: AtomicBool,
    proven: Notify,
    permits: Semaphore,
}

impl Comparing {
    /// Begins to ask; `is_before` says that nothing has moved yet. Must be
    /// called within a tokio runtime.
    pub fn begin(panels: Vec<Panel>, is_before: bool, lane: Lane) -> Self {
        let heard = panels.iter().map(|panel| {
            let seats = panel.seats.iter();
            let backends = seats.map(|seat| (seat.backend.clone(), seat.role));
            Comparison::new(&panel.service, &panel.health.compare, backends, is_before)
        });
        let shared = Arc::new(Shared {
            heard: Mutex::new(heard.collect()),
            is_before: AtomicBool::new(is_before),
            proven: Notify::new(),
            permits: Semaphore::new(MAX_CONCURRENT),
        });
        let task = tokio::spawn(ask_all(panels, Arc::clone(&shared), lane));
        Self {
            shared,
            task: task.abort_handle(),
        }
    }

    /// Works on what was heard.
    pub fn heard<T>(&self, work: impl FnOnce(&mut Vec<Comparison>) -> T) -> T {
        work(&mut self.shared.heard())
    }

    /// Comes back once enough was heard for a verdict before the first stage.
    pub fn proven(&self) -> impl Future<Output = ()> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        async move { shared.proven.notified().await }
    }

    /// Whether enough was heard for that.
    pub fn is_proven(&self) -> bool {
        self.shared.heard().iter().all(Comparison::is_proven)
    }

    /// From here on a new stage is judged, and asked for at its pace.
    pub fn begin_stage(&self) {
        self.shared.is_before.store(false, Ordering::Relaxed);
        self.heard(|heard| heard.iter_mut().for_each(Comparison::begin_stage));
    }
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Vec<Comparison>> {
        // A panic elsewhere leaves each comparison whole: it is changed by
        // calls that cannot panic half-way.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, place: (usize, usize), path: usize, answer: Answer) {
        let mut heard = self.heard();
        let (panel, seat) = place;
        let Some(comparison) = heard.get_mut(panel) else {
            return;
        };
        comparison.add(seat, path, answer);
        let is_before = self.is_before.load(Ordering::Relaxed);
        if is_before && heard.iter().all(Comparison::is_proven) {
            // Once is enough: one that waits, or will, gets it.
            self.proven.notify_one();
        }
    }
}

/// Asks all of them, each in its own time.
async fn ask_all(panels: Vec<Panel>, shared: Arc<Shared>, lane: Lane) {
    let mut loops = Vec::new();
    for (at, panel) in panels.iter().enumerate() {
        let asker = match Asker::new(&panel.health) {
            Ok(Some(asker)) => Arc::new(asker),
            Ok(None) => continue,
            Err(error) => {
                let service = &panel.service;
                tracing::warn!(%service, %error, "answers cannot be compared");
                continue;
            }
        };
        for (seat, it) in panel.seats.iter().enumerate() {
            let (shared, asker) = (Arc::clone(&shared), Arc::clone(&asker));
            let lane = lane.clone();
            let way = move || lane.way(it.address, it.via.as_ref());
            loops.push(ask_on(shared, asker, way, (at, seat)));
        }
    }
    join_all(loops).await;
}

/// Asks one backend for one path after the other, without an end.
async fn ask_on(
    shared: Arc<Shared>,
    asker: Arc<Asker>,
    way: impl Fn() -> Way,
    place: (usize, usize),
) {
    loop {
        for path in 0..asker.paths.len() {
            let permit = shared.permits.acquire().await;
            let start = Instant::now();
            let said = asker.ask(&way(), path).await;
            let took = start.elapsed();
            drop(permit);
            // What is this host's own fault says nothing about the server.
            if !said.as_ref().is_err_and(Failure::is_local) {
                let said = said.map_err(|failure| failure.to_string());
                shared.add(place, path, Answer { said, took });
            }
            let period = match shared.is_before.load(Ordering::Relaxed) {
                true => PROVING_PERIOD,
                false => PERIOD,
            };
            sleep_until(start + period).await;
        }
    }
}

/// The requests of a service, ready to be sent to any of its backends.
struct Asker {
    paths: Vec<http::Client>,
    tls: Option<tls::Client>,
    timeout: Duration,
}

impl Asker {
    /// None where nothing can be asked, which no panel has.
    fn new(health: &Health) -> Result<Option<Self>, PrepareError> {
        let (probe, tls, port): (&HttpProbe, Option<&TlsProbe>, u16) = match &health.kind {
            ProbeKind::Http(probe) => (probe, None, 80),
            ProbeKind::Https(probe, tls) => (probe, Some(tls), 443),
            // What else is probed speaks something else.
            _ => return Ok(None),
        };
        let tls = tls.map(|tls| tls::Client::new(tls, probe.identity.as_ref(), tls::Alpn::Http1));
        let clients = health.compare.iter().map(|path| {
            let probe = HttpProbe {
                path: path.clone(),
                host: probe.host.clone(),
                expect_status: Vec::new(),
                identity: None,
            };
            http::Client::new(&probe, port)
        });
        let paths: Vec<http::Client> = clients.collect::<Result<_, _>>()?;
        let asker = Self {
            tls: tls.transpose()?,
            timeout: health.timeout.clamp(LEAST_TIMEOUT, MOST_TIMEOUT),
            paths,
        };
        Ok((!asker.paths.is_empty()).then_some(asker))
    }

    async fn ask(&self, way: &Way, path: usize) -> Result<u16, Failure> {
        let asked = self.ask_at(way, path).await;
        asked.map_err(|failure| way.explain(failure))
    }

    async fn ask_at(&self, way: &Way, path: usize) -> Result<u16, Failure> {
        let address = way.address();
        let deadline = Deadline {
            at: Instant::now() + self.timeout,
            limit: self.timeout,
        };
        let (stream, _ticket) = tcp::connect(way, &deadline).await?;
        let client = &self.paths[path];
        match &self.tls {
            None => client.ask(stream, address, &deadline).await,
            Some(tls) => {
                let stream = tls.handshake(stream, address, &deadline).await?;
                client.ask(stream, address, &deadline).await
            }
        }
    }
}

#[cfg(test)]
mod tests;
