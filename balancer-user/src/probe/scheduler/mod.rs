//! Makes the probes of all backends, each in its own time.
//!
//! One task a target sleeps until its probe is due, makes it, lets the
//! target's [`Monitor`] judge and tells the daemon. [`Scheduler::states`] is
//! the truth; an [`Event`] only says that it moved, and none of a target that
//! was removed or replaced is ever handed out, so that an old address cannot
//! vouch for a new one.
//!
//! Invariants: changing some targets does not disturb the others; a target
//! is probed once at a time; the number of probes under way is bounded, and
//! one that had to wait for its turn is counted ([`States::delayed_probes`]),
//! and how late each began ([`States::lateness`]), as it weakens the time in
//! which a death is noticed; a target that cannot
//! be probed keeps its state and says so with every probe it misses.

mod target;
mod task;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub use self::target::{Event, TargetError, TargetId, TargetSpec, TargetStatus};
use self::task::{Random, Task};
use super::vip::{Lane, Way};
use super::{PrepareError, Prober};
use crate::config::model::ProbeKind;
use crate::health::{Counts, Durations, Monitor, Outcome, State, Timing};

/// Probes under way at a time. Each holds a file descriptor: a daemon with
/// many backends raises its limit to this and what it needs besides.
const MAX_CONCURRENT_PROBES: usize = 4096;
/// Events that wait for the daemon; when they are full, probes wait too.
const MAX_WAITING_EVENTS: usize = 1024;
/// Targets that are looked at while the tasks wait.
const PAGE: usize = 1024;

/// The events of a [`Scheduler`], for the one loop that acts on them.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Stamped>,
    shared: Arc<Shared>,
}

impl Events {
    /// The next event of a target as it now is; `None` once the scheduler is
    /// gone. May be dropped while it waits without losing an event.
    pub async fn recv(&mut self) -> Option<Event> {
        loop {
            let stamped = self.receiver.recv().await?;
            if self.shared.is_current(&stamped) {
                return Some(stamped.event);
            }
        }
    }
}

/// An event and the incarnation of the target that it is about.
#[derive(Debug)]
struct Stamped {
    incarnation: u64,
    event: Event,
}

/// Makes the probes of a changing set of targets. Dropping it ends them all.
#[derive(Debug)]
pub struct Scheduler {
    shared: Arc<Shared>,
    events: mpsc::Sender<Stamped>,
    random: Random,
    next_incarnation: u64,
}

impl Scheduler {
    /// A scheduler without targets, and its events; probes by VIPs take that
    /// lane. Someone must receive
    /// them: while 1024 wait, probing waits as well.
    pub fn new(lane: Lane) -> (Self, Events) {
        let prepare: Prepare = Box::new(|kind| {
            let prober = Arc::new(Prober::new(kind)?);
            Ok(Arc::new(move |id, way, timeout| {
                let prober = Arc::clone(&prober);
                async move { prober.probe(&id, way, timeout).await }.boxed()
            }))
        });
        Self::with(prepare, MAX_CONCURRENT_PROBES, lane)
    }

    fn with(prepare: Prepare, max_concurrent: usize, lane: Lane) -> (Self, Events) {
        let shared = Arc::new(Shared {
            targets: Mutex::default(),
            permits: Semaphore::new(max_concurrent),
            delayed: AtomicU64::new(0),
            lateness: Mutex::default(),
            prepare,
            lane,
        });
        let (sender, receiver) = mpsc::channel(MAX_WAITING_EVENTS);
        let scheduler = Self {
            shared: Arc::clone(&shared),
            events: sender,
            random: Random::seeded(),
            next_incarnation: 0,
        };
        (scheduler, Events { receiver, shared })
    }

    /// Probes these targets from now on and no others; must be called within
    /// a tokio runtime.
    ///
    /// A target that stays is not disturbed. Other timing changes its next
    /// probe and keeps its state. Another address or another kind of probe
    /// makes it a new target, which begins in its `initial` state: what was
    /// known is not known of that server. No event tells of that, so the
    /// caller reads [`Scheduler::states`] afterwards.
    ///
    /// Returned are the targets whose probe cannot be made as configured.
    /// They are kept and prepared anew each time they are due, as a missing
    /// `ca_file` may come back; until then every probe of theirs is a
    /// [`Failure::Local`](crate::health::Failure::Local), which leaves their
    /// state as it is.
    #[must_use = "a target that cannot be probed must be reported"]
    pub fn set_targets(&mut self, specs: Vec<TargetSpec>) -> Vec<TargetError> {
        let (prepared, errors) = self.prepare_new(&specs);
        let shared = Arc::clone(&self.shared);
        let mut targets = shared.targets();
        let mut before = std::mem::take(&mut *targets);
        for (spec, attempt) in specs.into_iter().zip(prepared) {
            let entry = match (before.remove(&spec.id), attempt) {
                (Some(entry), Prepared::NotNeeded) => entry.retimed(spec),
                (_, Prepared::New(attempt)) => self.start(spec, Some(attempt)),
                (_, Prepared::NotNeeded | Prepared::Failed) => self.start(spec, None),
            };
            targets.insert(entry.spec.id.clone(), entry);
        }
        errors
    }

    /// What is known of the targets; the handle may go to other tasks.
    pub fn states(&self) -> States {
        States {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Prepares the probes of the targets that are new, before the lock is
    /// taken, as this may read files. The targets of a service stand together
    /// and share what is prepared: their `ca_file` is read once and not a
    /// thousand times.
    fn prepare_new(&self, specs: &[TargetSpec]) -> (Vec<Prepared>, Vec<TargetError>) {
        let mut errors = Vec::new();
        let mut last: Option<(&ProbeKind, Result<Attempt, PrepareError>)> = None;
        let prepared = specs.iter().map(|spec| {
            if self.shared.has_same_server(spec) {
                return Prepared::NotNeeded;
            }
            let kind = &spec.health.kind;
            let result = match &last {
                Some((last_kind, result)) if *last_kind == kind => result.clone(),
                _ => (self.shared.prepare)(kind),
            };
            last = Some((kind, result.clone()));
            match result {
                Ok(attempt) => Prepared::New(attempt),
                Err(error) => {
                    let id = spec.id.clone();
                    errors.push(TargetError { id, error });
                    Prepared::Failed
                }
            }
        });
        (prepared.collect(), errors)
    }

    fn start(&mut self, spec: TargetSpec, attempt: Option<Attempt>) -> Entry {
        let incarnation = self.next_incarnation;
        self.next_incarnation += 1;
        let retimed = Arc::new(Notify::new());
        let task = Task {
            shared: Arc::clone(&self.shared),
            events: self.events.clone(),
            id: spec.id.clone(),
            incarnation,
            kind: spec.health.kind.clone(),
            address: spec.address,
            via: spec.via.clone(),
            attempt,
            retimed: Arc::clone(&retimed),
            random: Random(self.random.next()),
        };
        let timing = Timing::from(&spec.health);
        Entry {
            monitor: Monitor::resumed(timing, spec.initial, Instant::now().into_std()),
            spec,
            incarnation,
            retimed,
            task: AbortOnDrop(tokio::spawn(task.run()).abort_handle()),
        }
    }
}

/// What is known of a scheduler's targets, at any time and from any task.
#[derive(Debug, Clone)]
pub struct States {
    shared: Arc<Shared>,
}

impl States {
    /// Every target, by service and backend.
    pub fn all(&self) -> Vec<TargetStatus> {
        let targets = self.shared.targets();
        targets.values().map(Entry::status).collect()
    }

    /// The state of every target.
    pub fn health(&self) -> BTreeMap<TargetId, State> {
        let targets = self.shared.targets();
        let states = targets.iter();
        states
            .map(|(id, entry)| (id.clone(), entry.monitor.state()))
            .collect()
    }

    /// One target.
    pub fn one(&self, id: &TargetId) -> Option<TargetStatus> {
        self.shared.targets().get(id).map(Entry::status)
    }

    /// How many probes of each target ended how, by service and backend. Taken
    /// a page at a time: tasks that have a probe to note do not wait for all.
    pub fn counts(&self) -> Vec<(TargetId, Counts)> {
        let mut all: Vec<(TargetId, Counts)> = Vec::new();
        loop {
            let targets = self.shared.targets();
            let after = match all.last() {
                Some((id, _)) => Bound::Excluded(id.clone()),
                None => Bound::Unbounded,
            };
            let rest = targets.range((after, Bound::Unbounded));
            let before = all.len();
            all.extend(
                rest.take(PAGE)
                    .map(|(id, entry)| (id.clone(), entry.monitor.counts())),
            );
            if all.len() < before + PAGE {
                return all;
            }
        }
    }

    /// Probes that started late because too many were under way.
    pub fn delayed_probes(&self) -> u64 {
        self.shared.delayed.load(Ordering::Relaxed)
    }

    /// How long after its time each probe began: busy CPUs, or too many under
    /// way.
    pub fn lateness(&self) -> Durations {
        *self.shared.lateness()
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // Dropping a target aborts its task; `Events` may outlive us.
        self.shared.targets().clear();
    }
}

/// Makes one probe.
type Attempt = Arc<dyn Fn(TargetId, Way, Duration) -> BoxFuture<'static, Outcome> + Send + Sync>;
/// Makes what makes probes; a test puts its own script here.
type Prepare = Box<dyn Fn(&ProbeKind) -> Result<Attempt, PrepareError> + Send + Sync>;

/// What [`Scheduler::set_targets`] needs to start a target.
enum Prepared {
    /// It runs already.
    NotNeeded,
    New(Attempt),
    /// The task tries again by itself.
    Failed,
}

/// What the tasks and the scheduler share. The lock is never held while one
/// of them waits.
struct Shared {
    targets: Mutex<BTreeMap<TargetId, Entry>>,
    permits: Semaphore,
    delayed: AtomicU64,
    lateness: Mutex<Durations>,
    prepare: Prepare,
    lane: Lane,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    fn targets(&self) -> MutexGuard<'_, BTreeMap<TargetId, Entry>> {
        // A panic elsewhere leaves each entry whole: it is changed by calls
        // that cannot panic half-way.
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lateness(&self) -> MutexGuard<'_, Durations> {
        // Two numbers that are added to: nothing is left half-way.
        self.lateness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_same_server(&self, spec: &TargetSpec) -> bool {
        let targets = self.targets();
        let entry = targets.get(&spec.id);
        entry.is_some_and(|entry| entry.spec.is_same_server(spec))
    }

    fn is_current(&self, stamped: &Stamped) -> bool {
        let targets = self.targets();
        let entry = targets.get(&stamped.event.id);
        entry.is_some_and(|entry| entry.incarnation == stamped.incarnation)
    }

    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        match self.permits.try_acquire() {
            Ok(permit) => Some(permit),
            Err(_) => {
                self.delayed.fetch_add(1, Ordering::Relaxed);
                // It fails only if the semaphore is closed, which it never is.
                self.permits.acquire().await.ok()
            }
        }
    }
}

/// One target in the scheduler's hands.
#[derive(Debug)]
struct Entry {
    spec: TargetSpec,
    /// Tells this target from others that had its name.
    incarnation: u64,
    monitor: Monitor,
    /// Wakes the task when the timing has changed.
    retimed: Arc<Notify>,
    #[expect(dead_code, reason = "held for its drop")]
    task: AbortOnDrop,
}

impl Entry {
    fn status(&self) -> TargetStatus {
        TargetStatus {
            id: self.spec.id.clone(),
            address: self.spec.address,
            monitor: self.monitor.clone(),
        }
    }

    fn retimed(mut self, spec: TargetSpec) -> Self {
        let timing = Timing::from(&spec.health);
        if timing != self.monitor.timing() {
            self.monitor.set_timing(timing);
            self.retimed.notify_one();
        }
        self.spec = spec;
        self
    }
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
