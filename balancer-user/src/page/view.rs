//! What one open page is shown in one second.
//!
//! Of the services some rows, those that the viewer's filter, order and page
//! number choose; in full only those that the viewer has unfolded. What does
//! not change is sent once: history when a row comes into view, revisions and
//! old incidents when there is a new one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;

use super::board::{self, Board, HISTORY, Known, Roster};
use super::headline::{self, gravity, standing};
use crate::desired::BackendState;
use crate::metrics::{BackendObserved, RateObserved, RevisionObserved, ServiceObserved};
use crate::revision::UnixSeconds;
use crate::watch::incident::Incident;

mod shown;

pub use shown::{BackendRow, Full, RevisionRow, Row, Shown, Totals};

/// Services in a row each.
pub const ROWS: usize = 50;
/// Services in full.
pub const MAX_UNFOLDED: usize = 6;
/// Backends of a service in full.
pub const MAX_BACKENDS: usize = 100;
/// Incidents that are open.
pub const MAX_INCIDENTS: usize = 20;
/// Letters of a filter that count.
const MAX_FILTER_LEN: usize = 100;

/// With fewer flows a share says nothing.
const LEAST_FLOWS: f64 = 100.0;
/// A share that differs by less than this much of all is not marked.
const LEAST_DIFFERENCE: f64 = 0.02;
/// Nor one that differs by less than this part of itself.
const LEAST_FACTOR: f64 = 1.2;
/// Nor one that differs by less than so many standard deviations.
const DEVIATIONS: f64 = 4.0;

/// What a viewer asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// Part of a name or an address of a service or of one of its backends.
    pub filter: String,
    /// Only services that are not as they should be.
    pub trouble: bool,
    /// The order of the rows.
    pub sort: Sort,
    /// Which [`ROWS`] rows, from 1 on.
    pub page: usize,
    /// Names of services to show in full, with commas between them.
    pub unfolded: String,
}

/// An order of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// What needs attention first, then as in the file.
    #[default]
    Attention,
    /// By name.
    Name,
    /// Most new flows first.
    Flows,
    /// Most bits first.
    Bits,
    /// What goes elsewhere than the slots say first.
    Skew,
}

/// One open page.
#[derive(Debug)]
pub struct Viewer {
    wanted: Wanted,
    /// Services whose history it has.
    seeded: HashSet<Arc<str>>,
    /// What the filter leaves of the services, until these are others.
    found: Option<(Arc<Roster>, Vec<bool>)>,
    closed: Option<Vec<u64>>,
    revisions: Option<Vec<RevisionRow>>,
}

/// A service and where it is in the file.
type Placed<'a> = (usize, &'a Known, &'a ServiceObserved);

impl Viewer {
    /// Of a page that was just opened.
    pub fn new(mut wanted: Wanted) -> Self {
        let filter = wanted.filter.trim().to_lowercase();
        wanted.filter = filter.chars().take(MAX_FILTER_LEN).collect();
        Self {
            wanted,
            seeded: HashSet::new(),
            found: None,
            closed: None,
            revisions: None,
        }
    }

    /// What it is shown next.
    pub fn show(&mut self, board: &Board) -> Shown {
        let observed = &board.observed;
        let mut incidents: HashMap<&str, usize> = HashMap::new();
        for incident in &observed.incidents {
            *incidents.entry(&incident.service).or_default() += 1;
        }
        let mut found = self.find(board, &incidents);
        order(&mut found, self.wanted.sort, &incidents);
        let pages = found.len().div_ceil(ROWS).max(1);
        let page = self.wanted.page.clamp(1, pages);
        let rows = found.iter().skip((page - 1) * ROWS).take(ROWS);
        let mut seeded = HashSet::new();
        let services = rows.map(|(_, known, service)| {
            let mut row = row(known, service);
            row.incidents = incidents.get(&*known.name).copied().unwrap_or_default();
            if !self.seeded.contains(&known.name) {
                row.history = Some(history(board, known));
            }
            seeded.insert(Arc::clone(&known.name));
            row
        });
        let services: Vec<Row> = services.collect();
        let is_first = self.revisions.is_none();
        self.seeded = seeded;
        Shown {
            at: observed.at,
            started_at: observed.started_at,
            headline: headline::headline(observed),
            interfaces: observed.interfaces.clone(),
            revision: observed.revision.as_ref().map(|it| it.number),
            change: observed.change_under_way.clone(),
            totals: totals(board, is_first),
            found: found.len(),
            page: (page, pages),
            services,
            unfolded: self.unfolded(board),
            incidents: observed
                .incidents
                .iter()
                .take(MAX_INCIDENTS)
                .cloned()
                .collect(),
            open_incidents: observed.open_incidents.values().sum(),
            problems: observed.problems.clone(),
            closed: self.closed(board),
            revisions: self.revisions(board),
        }
    }

    fn find<'a>(&mut self, board: &'a Board, incidents: &HashMap<&str, usize>) -> Vec<Placed<'a>> {
        let roster = &board.roster;
        let is_same = |(known, _): &(Arc<Roster>, Vec<bool>)| Arc::ptr_eq(known, roster);
        if !self.found.as_ref().is_some_and(is_same) {
            let services = roster.services.iter();
            let found = services.map(|it| it.is_found_by(&self.wanted.filter));
            self.found = Some((Arc::clone(roster), found.collect()));
        }
        let found = self.found.iter().flat_map(|(_, found)| found);
        let services = board.services().zip(found).zip(0..);
        let found = services.filter_map(|(((known, service), found), place)| {
            let is_trouble = || gravity(service.state) > 0 || incidents.contains_key(&*known.name);
            let is_shown = *found && (!self.wanted.trouble || is_trouble());
            is_shown.then_some((place, known, service))
        });
        found.collect()
    }

    fn unfolded(&self, board: &Board) -> Vec<Full> {
        let names: Vec<&str> = self.wanted.unfolded.split(',').take(MAX_UNFOLDED).collect();
        let services = board
            .services()
            .filter(|(known, _)| names.contains(&&*known.name));
        services
            .take(MAX_UNFOLDED)
            .map(|(known, service)| full(known, service))
            .collect()
    }

    fn closed(&mut self, board: &Board) -> Option<Vec<Incident>> {
        let closed = &board.observed.closed;
        let numbers: Vec<u64> = closed.iter().map(|it| it.number).collect();
        let is_new = self.closed.as_ref() != Some(&numbers);
        self.closed = Some(numbers);
        is_new.then(|| closed.clone())
    }

    fn revisions(&mut self, board: &Board) -> Option<Vec<RevisionRow>> {
        let revisions = board.observed.revisions.iter().map(revision);
        let revisions: Vec<RevisionRow> = revisions.collect();
        if self.revisions.as_ref() == Some(&revisions) {
            return None;
        }
        self.revisions = Some(revisions.clone());
        Some(revisions)
    }
}

fn order(found: &mut [Placed<'_>], sort: Sort, incidents: &HashMap<&str, usize>) {
    let skew = |it: &Placed<'_>| it.2.skew().filter(|_| it.2.is_even).unwrap_or(-1.0);
    let rate = |it: &Placed<'_>| board::rate(&it.2.backends);
    match sort {
        Sort::Attention => found.sort_by_key(|(place, known, service)| {
            let incidents = incidents.contains_key(&*known.name);
            let worst = (incidents, gravity(service.state));
            (std::cmp::Reverse(worst), *place)
        }),
        Sort::Name => found.sort_by(|one, other| one.1.name.cmp(&other.1.name)),
        Sort::Skew => found.sort_by_cached_key(|it| Falling(skew(it))),
        Sort::Flows => found.sort_by_cached_key(|it| Falling(rate(it).flows.into())),
        Sort::Bits => found.sort_by_cached_key(|it| Falling(rate(it).bits.into())),
    }
}

/// The largest first.
#[derive(PartialEq)]
struct Falling(f64);

impl Eq for Falling {}

impl PartialOrd for Falling {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Falling {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.total_cmp(&self.0)
    }
}

fn totals(board: &Board, is_first: bool) -> Totals {
    let services = &board.observed.services;
    let mut rate = RateObserved::default();
    for service in services {
        rate += board::rate(&service.backends);
    }
    let states = services.iter().flat_map(|it| &it.backends);
    let (up, wanted) = standing(states.map(|it| &it.state));
    let well = services.iter().filter(|it| gravity(it.state) == 0);
    Totals {
        services: (services.len(), well.count()),
        backends: (wanted, up),
        flows: short(rate.flows),
        packets: short(rate.packets),
        bits: short(rate.bits),
        history: is_first.then(|| board.totals().map(|it| short(it.packets)).collect()),
    }
}

fn row(known: &Known, service: &ServiceObserved) -> Row {
    let rate = board::rate(&service.backends);
    let (up, wanted) = standing(service.backends.iter().map(|it| &it.state));
    Row {
        name: Arc::clone(&known.name),
        endpoint: known.endpoint.clone(),
        forward: known.forward.clone(),
        measure: known.measure,
        state: service.state,
        backends: (wanted, up),
        incidents: 0,
        flows: short(rate.flows),
        packets: short(rate.packets),
        bits: short(rate.bits),
        skew: service.skew().filter(|_| service.is_even).map(share),
        history: None,
    }
}

fn history(board: &Board, known: &Known) -> Vec<Option<f64>> {
    let of = |rate: RateObserved| match known.measure {
        "packets" => short(rate.packets),
        _ => short(rate.flows),
    };
    let mut points = Vec::with_capacity(HISTORY);
    points.extend(board.history(&known.name).map(|it| it.map(of)));
    points
}

fn full(known: &Known, service: &ServiceObserved) -> Full {
    let all = service.recent();
    let pairs = known.backends.iter().zip(&service.backends);
    let mut backends: Vec<BackendRow> = pairs
        .map(|(known, backend)| BackendRow {
            name: Arc::clone(&known.name),
            endpoint: known.endpoint.clone(),
            weight: known.weight,
            state: match backend.state {
                BackendState::Up if backend.is_ramping => "slow-start",
                state => state.name(),
            },
            expected: share(backend.share),
            seen: all.map(|all| share(backend.recent / all)),
            is_off: service.is_even && all.is_some_and(|all| is_off(backend, all)),
            flows: short(backend.rate.flows),
            packets: short(backend.rate.packets),
            bits: short(backend.rate.bits),
            handshake_micros: backend.handshake_micros,
            probe_micros: backend.probe_micros,
            failure: backend.failure.clone(),
        })
        .collect();
    let more = backends.len().saturating_sub(MAX_BACKENDS);
    if more > 0 {
        backends.sort_by_key(|it| (!it.is_off, matches!(it.state, "up" | "standby")));
        backends.truncate(MAX_BACKENDS);
    }
    Full {
        name: Arc::clone(&known.name),
        backends,
        more,
    }
}

/// Whether a backend's share of `all` flows is another than its slots'.
fn is_off(backend: &BackendObserved, all: f64) -> bool {
    let (expected, seen) = (backend.share, backend.recent / all);
    let difference = (seen - expected).abs();
    let deviation = (expected * (1.0 - expected) / all).sqrt();
    let (less, more) = (seen.min(expected), seen.max(expected));
    all >= LEAST_FLOWS
        && difference >= LEAST_DIFFERENCE
        && difference >= DEVIATIONS * deviation
        && more >= LEAST_FACTOR * less
}

fn revision(observed: &RevisionObserved) -> RevisionRow {
    RevisionRow {
        number: observed.number,
        author: observed.author.clone(),
        cause: observed.cause,
        outcome: observed.outcome,
        at: observed.at as UnixSeconds,
        summary: observed.summary.clone(),
        why: observed.why.clone(),
    }
}

/// With one digit behind the point.
fn short(figure: f32) -> f64 {
    (f64::from(figure) * 10.0).round() / 10.0
}

/// To a hundredth of a percent.
fn share(figure: f64) -> f64 {
    (figure * 1e4).round() / 1e4
}
