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

mod events;
mod states;
mod target;
mod task;
mod thread;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub use self::events::Events;
use self::events::{Sender, Stamped};
pub use self::states::States;
pub use self::target::{Event, TargetError, TargetId, TargetSpec, TargetStatus};
use self::task::{Random, Task};
use self::thread::Home;
use super::vip::{Lane, Way};
use super::{PrepareError, Prober};
use crate::config::model::ProbeKind;
use crate::health::{Durations, Monitor, Outcome, Timing};

/// Probes under way at a time. Each holds a file descriptor: a daemon with
/// many backends raises its limit to this and what it needs besides.
const MAX_CONCURRENT_PROBES: usize = 4096;
/// Probes of one such time are begun together, so that the thread that makes
/// them wakes a hundred times a second and not once for each; jitter spreads
/// them over the times. It makes a probe earlier, never later.
const TOGETHER: Duration = Duration::from_millis(10);

/// Makes the probes of a changing set of targets. Dropping it ends them all.
#[derive(Debug)]
pub struct Scheduler {
    shared: Arc<Shared>,
    events: Sender,
    random: Random,
    next_incarnation: u64,
    home: Home,
}

impl Scheduler {
    /// A scheduler without targets, and its events; probes by VIPs take that
    /// lane. Someone must receive the events: while 1024 wait, probing waits
    /// as well. The error is that no thread can be had for probes.
    pub fn new(lane: Lane) -> io::Result<(Self, Events)> {
        let prepare: Prepare = Box::new(|kind| {
            let prober = Arc::new(Prober::new(kind)?);
            Ok(Arc::new(move |id, way, timeout| {
                let prober = Arc::clone(&prober);
                async move { prober.probe(&id, way, timeout).await }.boxed()
            }))
        });
        let home = Home::own()?;
        Ok(Self::with(prepare, MAX_CONCURRENT_PROBES, lane, home))
    }

    fn with(prepare: Prepare, max_concurrent: usize, lane: Lane, home: Home) -> (Self, Events) {
        let shared = Arc::new(Shared {
            targets: Mutex::default(),
            permits: Semaphore::new(max_concurrent),
            delayed: AtomicU64::new(0),
            lateness: Mutex::default(),
            begun: Instant::now().into_std(),
            urgent: Notify::new(),
            prepare,
            lane,
        });
        let (sender, events) = events::channel(&shared);
        let scheduler = Self {
            shared,
            events: sender,
            random: Random::seeded(),
            next_incarnation: 0,
            home,
        };
        (scheduler, events)
    }

    /// Probes these targets from now on and no others.
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
        let timing = Timing::from(&spec.health);
        let watched = Arc::new(Watched(Mutex::new(Judge {
            monitor: Monitor::resumed(timing, spec.initial, Instant::now().into_std()),
            timeout: spec.health.timeout,
        })));
        let task = Task {
            watched: Arc::clone(&watched),
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
        Entry {
            spec,
            incarnation,
            watched,
            retimed,
            task: AbortOnDrop(self.home.spawn(task.run())),
        }
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
    /// What [`TOGETHER`] is counted from.
    begun: std::time::Instant,
    /// Told when an event is waiting that changes a state.
    urgent: Notify,
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

    /// The events among these that are about targets as they now are.
    fn current(&self, stamped: Vec<Stamped>) -> Vec<Event> {
        let targets = self.targets();
        let is_current = |it: &Stamped| {
            let entry = targets.get(&it.event.id);
            entry.is_some_and(|entry| entry.incarnation == it.incarnation)
        };
        let current = stamped.into_iter().filter(is_current);
        current.map(|it| it.event).collect()
    }

    /// The moment, not after this one, at which probes are made together.
    fn together(&self, due: std::time::Instant) -> std::time::Instant {
        let since = due.saturating_duration_since(self.begun);
        let over = since.as_nanos() % TOGETHER.as_nanos();
        due.checked_sub(Duration::from_nanos_u128(over))
            .unwrap_or(due)
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

/// What a target's task works with. It has a lock of its own, which is never
/// held while something is waited for: thousands of tasks need not pass by the
/// one lock of all targets, nor look themselves up.
#[derive(Debug)]
struct Watched(Mutex<Judge>);

#[derive(Debug)]
struct Judge {
    monitor: Monitor,
    timeout: Duration,
}

impl Watched {
    fn judge(&self) -> MutexGuard<'_, Judge> {
        // A panic elsewhere leaves it whole: it is changed by calls that
        // cannot panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One target in the scheduler's hands.
#[derive(Debug)]
struct Entry {
    spec: TargetSpec,
    /// Tells this target from others that had its name.
    incarnation: u64,
    watched: Arc<Watched>,
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
            monitor: self.watched.judge().monitor.clone(),
        }
    }

    fn retimed(mut self, spec: TargetSpec) -> Self {
        let timing = Timing::from(&spec.health);
        let mut judge = self.watched.judge();
        judge.timeout = spec.health.timeout;
        if timing != judge.monitor.timing() {
            judge.monitor.set_timing(timing);
            self.retimed.notify_one();
        }
        drop(judge);
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
