//! A scrape: reads what is counted, and writes it piece by piece.
//!
//! Nothing here waits for the daemon's loop, and the loop never waits for it.
//! A few scrapes go at a time, others are refused; who reads too slowly is
//! left.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::ledger::Ledger;
use super::process::Process;
use super::text::{self, Format};
use super::{Detail, Observed, Snapshot, families};
use crate::dataplane::meter::Meter;
use crate::dataplane::shadow::Blueprint;
use crate::dataplane::{Counters, Error};
use crate::probe::scheduler::States;

/// Scrapes at a time.
const MAX_AT_ONCE: usize = 4;
/// Pieces that wait to be sent.
const MAX_WAITING: usize = 2;
/// Who takes no piece for that long is left.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the counters are read where tables are being replaced.
const TRIES: usize = 3;

/// What the loop publishes.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// What it knows.
    pub observed: Arc<Observed>,
    /// The tables in force.
    pub blueprint: Option<Blueprint>,
    /// All counter indexes are below.
    pub counter_count: u32,
}

/// Answers scrapes.
#[derive(Debug)]
pub struct Scraper {
    published: watch::Receiver<Published>,
    probes: States,
    reader: Mutex<Reader>,
    permits: Arc<Semaphore>,
}

/// What is kept from one scrape to the next.
#[derive(Debug, Default)]
struct Reader {
    meter: Option<Meter>,
    ledger: Ledger,
}

/// Why there are no metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Too many ask at once.
    Busy,
    /// The counters cannot be read.
    Unreadable(String),
}

impl Scraper {
    /// Of what is published, and what these targets' probes found.
    pub fn new(published: watch::Receiver<Published>, probes: States) -> Self {
        Self {
            published,
            probes,
            reader: Mutex::default(),
            permits: Arc::new(Semaphore::new(MAX_AT_ONCE)),
        }
    }

    /// Reads all, then gives the text in pieces.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn scrape(
        self: &Arc<Self>,
        detail: Option<Detail>,
        format: Format,
    ) -> Result<mpsc::Receiver<String>, Refusal> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let permit = permit.map_err(|_| Refusal::Busy)?;
        let scraper = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || scraper.snapshot(detail)).await;
        let snapshot = read
            .map_err(|error| Refusal::Unreadable(error.to_string()))?
            .map_err(|error| Refusal::Unreadable(error.to_string()))?;
        let (sender, pieces) = mpsc::channel(MAX_WAITING);
        tokio::spawn(write(Arc::new(snapshot), format, sender, permit));
        Ok(pieces)
    }

    /// All that is known now.
    fn snapshot(&self, detail: Option<Detail>) -> Result<Snapshot, Error> {
        // One at a time: totals are told in the order in which they are read.
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tries = 0;
        let (published, counters) = loop {
            let published = self.published.borrow().clone();
            tries += 1;
            match reader.read(&published) {
                Ok(counters) => break (published, counters),
                Err(error) if tries == TRIES => return Err(error),
                // Other tables took their place; what is published is about them.
                Err(_) => {}
            }
        };
        let observed = published.observed;
        let detail = detail.unwrap_or_else(|| Detail::for_backends(observed.backend_count()));
        let probes = self.probes.counts();
        Ok(Snapshot {
            services: reader.ledger.take(&observed, &counters, &probes, detail),
            reasons: counters.reasons,
            delayed_probes: self.probes.delayed_probes(),
            lateness: self.probes.lateness(),
            process: Process::look(),
            detail,
            observed,
        })
    }
}

impl Reader {
    fn read(&mut self, published: &Published) -> Result<Counters, Error> {
        let Some(blueprint) = &published.blueprint else {
            return Ok(Counters::default());
        };
        let meter = match self.meter.take() {
            Some(meter) if meter.is_of(blueprint) => meter,
            _ => Meter::open(blueprint)?,
        };
        self.meter.insert(meter).read(published.counter_count)
    }
}

/// Writes a family at a time, beside the threads that serve.
async fn write(
    snapshot: Arc<Snapshot>,
    format: Format,
    sender: mpsc::Sender<String>,
    permit: OwnedSemaphorePermit,
) {
    for family in families::all() {
        let snapshot = Arc::clone(&snapshot);
        let written = tokio::task::spawn_blocking(move || text::family(family, &snapshot, format));
        let Ok(piece) = written.await else {
            return;
        };
        if !piece.is_empty() && sender.send_timeout(piece, PATIENCE).await.is_err() {
            return;
        }
    }
    let _ = sender.send_timeout(format.end().to_owned(), PATIENCE).await;
    drop(permit);
}
