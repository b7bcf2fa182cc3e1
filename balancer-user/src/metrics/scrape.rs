//! A scrape: reads what is counted, and writes it piece by piece.
//!
//! Nothing here waits for the daemon's loop, and the loop never waits for it.
//! A few scrapes go at a time, half of them for one address at most; others are
//! refused; who reads too slowly is left.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::ledger::Ledger;
use super::process::Process;
use super::text::{self, Format};
use super::{Detail, Observed, Snapshot, families};
use crate::api::connections::{Entrances, Who};
use crate::dataplane::meter::Meter;
use crate::dataplane::shadow::Blueprint;
use crate::dataplane::{Counters, Error};
use crate::probe::scheduler::States;

/// Scrapes at a time.
pub const MAX_AT_ONCE: usize = 4;
/// Of one address.
pub const MAX_OF_ONE: usize = 2;
/// Pieces that wait to be sent.
const MAX_WAITING: usize = 2;
/// Who has not taken all by then is left. Prometheus gives up after ten seconds.
pub const PATIENCE: Duration = Duration::from_secs(30);
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
    entrances: Entrances,
    reader: Mutex<Reader>,
    /// Whose scrapes are under way.
    under_way: Mutex<Vec<Who>>,
    refused: AtomicU64,
}

/// The text in pieces, then nothing; a client that was left gets no such end.
pub type Pieces = mpsc::Receiver<Option<String>>;

/// A scrape under way.
struct Turn {
    scraper: Arc<Scraper>,
    who: Who,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut under_way = self.scraper.under_way();
        if let Some(at) = under_way.iter().position(|it| *it == self.who) {
            under_way.swap_remove(at);
        }
    }
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
    /// Of what is published, what these targets' probes found, and who comes in.
    pub fn new(
        published: watch::Receiver<Published>,
        probes: States,
        entrances: Entrances,
    ) -> Self {
        Self {
            published,
            probes,
            entrances,
            reader: Mutex::default(),
            under_way: Mutex::default(),
            refused: AtomicU64::default(),
        }
    }

    /// Reads all, then gives the text in pieces.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn scrape(
        self: &Arc<Self>,
        client: IpAddr,
        detail: Option<Detail>,
        format: Format,
    ) -> Result<Pieces, Refusal> {
        let turn = self.turn(Who::at(client)).ok_or_else(|| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            Refusal::Busy
        })?;
        let scraper = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || scraper.snapshot(detail)).await;
        let snapshot = read
            .map_err(|error| Refusal::Unreadable(error.to_string()))?
            .map_err(|error| Refusal::Unreadable(error.to_string()))?;
        let (sender, pieces) = mpsc::channel(MAX_WAITING);
        let written = write(Arc::new(snapshot), format, sender);
        tokio::spawn(async move {
            let _ = timeout(PATIENCE, written).await;
            drop(turn);
        });
        Ok(pieces)
    }

    fn turn(self: &Arc<Self>, who: Who) -> Option<Turn> {
        let mut under_way = self.under_way();
        let own = under_way.iter().filter(|it| **it == who).count();
        if own >= MAX_OF_ONE || under_way.len() >= MAX_AT_ONCE {
            return None;
        }
        under_way.push(who);
        Some(Turn {
            scraper: Arc::clone(self),
            who,
        })
    }

    fn under_way(&self) -> MutexGuard<'_, Vec<Who>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
            connections: self.entrances.seen(),
            refused_scrapes: self.refused.load(Ordering::Relaxed),
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
async fn write(snapshot: Arc<Snapshot>, format: Format, sender: mpsc::Sender<Option<String>>) {
    for family in families::all() {
        let snapshot = Arc::clone(&snapshot);
        let written = tokio::task::spawn_blocking(move || text::family(family, &snapshot, format));
        let Ok(piece) = written.await else {
            return;
        };
        if !piece.is_empty() && sender.send(Some(piece)).await.is_err() {
            return;
        }
    }
    for last in [Some(format.end().to_owned()), None] {
        let _ = sender.send(last).await;
    }
}
