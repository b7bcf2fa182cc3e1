//! What the screen shows, and what keys do to that. Pure.

use std::collections::{HashMap, VecDeque};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::api::types::{BackendStatus, ServiceStatus, Status};

/// Seconds of traffic that are kept of each service.
pub(super) const HISTORY: usize = 120;
/// Rows that a page key goes by.
const PAGE: usize = 10;

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Stay,
    Leave,
}

/// An order of services, or of backends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Sort {
    /// What needs attention first, then as in the file.
    #[default]
    Attention,
    Name,
    Traffic,
    /// What gets another share than its slots first.
    Skew,
}

impl Sort {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention first",
            Self::Name => "name",
            Self::Traffic => "traffic",
            Self::Skew => "skew",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Attention => Self::Name,
            Self::Name => Self::Traffic,
            Self::Traffic => Self::Skew,
            Self::Skew => Self::Attention,
        }
    }
}

/// The screen.
#[derive(Debug, Default)]
pub(super) struct Top {
    pub(super) status: Option<Status>,
    /// Why there is no newer status.
    pub(super) failure: Option<String>,
    /// What came in each second, by service: new flows, or packets for UDP.
    history: HashMap<String, VecDeque<u64>>,
    /// The service whose backends are shown.
    pub(super) inside: Option<String>,
    pub(super) sort: Sort,
    pub(super) filter: String,
    /// Whether keys go into the filter.
    pub(super) is_typing: bool,
    /// What is chosen, by name: it stays so when the order changes.
    chosen: Option<String>,
}

impl Top {
    /// Takes what the daemon says, or why it does not.
    pub(super) fn take(&mut self, answer: Result<Status, String>) {
        let status = match answer {
            Ok(status) => status,
            Err(failure) => {
                self.failure = Some(failure);
                return;
            }
        };
        self.failure = None;
        let mut history = std::mem::take(&mut self.history);
        for service in &status.services {
            let mut seconds = history.remove(&service.name).unwrap_or_default();
            if seconds.len() == HISTORY {
                seconds.pop_front();
            }
            seconds.push_back(rate(service) as u64);
            self.history.insert(service.name.clone(), seconds);
        }
        if let Some(inside) = &self.inside
            && !status.services.iter().any(|it| it.name == *inside)
        {
            self.chosen = None;
            self.inside = None;
        }
        self.status = Some(status);
    }

    /// The last seconds of a service, the latest last.
    pub(super) fn history(&self, service: &str) -> impl DoubleEndedIterator<Item = u64> {
        self.history.get(service).into_iter().flatten().copied()
    }

    /// The services that the filter leaves, in order.
    pub(super) fn services(&self) -> Vec<&ServiceStatus> {
        let Some(status) = &self.status else {
            return Vec::new();
        };
        let filter = match &self.inside {
            None => self.filter.to_lowercase(),
            Some(_) => String::new(),
        };
        let is_found = |service: &&ServiceStatus| {
            [
                service.name.as_str(),
                &service.state,
                &service.address.to_string(),
            ]
            .iter()
            .any(|text| text.to_lowercase().contains(&filter))
        };
        let mut found: Vec<&ServiceStatus> = status.services.iter().filter(is_found).collect();
        match self.sort {
            Sort::Attention => found.sort_by_key(|it| {
                let has_incident = status.incidents.iter().any(|one| one.service == it.name);
                (!has_incident, it.state == "up")
            }),
            Sort::Name => found.sort_by(|one, other| one.name.cmp(&other.name)),
            Sort::Traffic => found.sort_by(|one, other| rate(other).total_cmp(&rate(one))),
            Sort::Skew => found.sort_by(|one, other| skew(other).total_cmp(&skew(one))),
        }
        found
    }

    /// The service whose backends are shown.
    pub(super) fn service(&self) -> Option<&ServiceStatus> {
        let (status, name) = (self.status.as_ref()?, self.inside.as_ref()?);
        status.services.iter().find(|it| it.name == *name)
    }

    /// The backends that the filter leaves, in order.
    pub(super) fn backends(&self) -> Vec<&BackendStatus> {
        let Some(service) = self.service() else {
            return Vec::new();
        };
        let filter = self.filter.to_lowercase();
        let is_found = |backend: &&BackendStatus| {
            [backend.name.as_str(), &backend.state, &backend.endpoint()]
                .iter()
                .any(|text| text.to_lowercase().contains(&filter))
        };
        let mut found: Vec<&BackendStatus> = service.backends.iter().filter(is_found).collect();
        let traffic = |it: &BackendStatus| it.packets_per_second;
        let off = |it: &BackendStatus| {
            (it.share_seen.unwrap_or(it.share_expected) - it.share_expected).abs()
        };
        match self.sort {
            Sort::Attention => found.sort_by_key(|it| it.is_up() || it.state == "standby"),
            Sort::Name => found.sort_by(|one, other| one.name.cmp(&other.name)),
            Sort::Traffic => found.sort_by(|one, other| traffic(other).total_cmp(&traffic(one))),
            Sort::Skew => found.sort_by(|one, other| off(other).total_cmp(&off(one))),
        }
        found
    }

    /// Names of the rows, in order.
    fn names(&self) -> Vec<String> {
        match &self.inside {
            None => self.services().iter().map(|it| it.name.clone()).collect(),
            Some(_) => self.backends().iter().map(|it| it.name.clone()).collect(),
        }
    }

    /// The row that is chosen; the first one if what was chosen is gone.
    pub(super) fn chosen(&self) -> Option<usize> {
        let names = self.names();
        let found = self.chosen.as_ref();
        let found = found.and_then(|it| names.iter().position(|name| name == it));
        found.or((!names.is_empty()).then_some(0))
    }

    /// Does what a key is for.
    pub(super) fn press(&mut self, key: KeyEvent) -> Next {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Next::Leave,
                _ => Next::Stay,
            };
        }
        if self.is_typing {
            self.type_in(key.code);
            return Next::Stay;
        }
        match key.code {
            KeyCode::Char('q') => return Next::Leave,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Up | KeyCode::Char('k') => self.go(|at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.go(|at, _| at + 1),
            KeyCode::PageUp => self.go(|at, _| at.saturating_sub(PAGE)),
            KeyCode::PageDown => self.go(|at, _| at + PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.go(|_, _| 0),
            KeyCode::End | KeyCode::Char('G') => self.go(|_, last| last),
            KeyCode::Enter | KeyCode::Right | KeyCode::Char('l') => self.enter(),
            KeyCode::Esc | KeyCode::Left | KeyCode::Char('h') => self.leave(),
            _ => {}
        }
        Next::Stay
    }

    fn type_in(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
    }

    fn go(&mut self, to: impl Fn(usize, usize) -> usize) {
        let names = self.names();
        let (Some(at), Some(last)) = (self.chosen(), names.len().checked_sub(1)) else {
            return;
        };
        self.chosen = names.get(to(at, last).min(last)).cloned();
    }

    fn enter(&mut self) {
        if self.inside.is_some() {
            return;
        }
        if let Some(name) = self.chosen().and_then(|at| self.names().get(at).cloned()) {
            self.inside = Some(name);
            self.chosen = None;
            self.filter.clear();
        }
    }

    /// One step back: out of the filter, then out of the service.
    fn leave(&mut self) {
        if !self.filter.is_empty() {
            self.filter.clear();
        } else if let Some(service) = self.inside.take() {
            self.chosen = Some(service);
        }
    }
}

/// What came in the last second: new flows, or packets for UDP.
pub(super) fn rate(service: &ServiceStatus) -> f64 {
    let of = |backend: &BackendStatus| match service.protocol.as_str() {
        "tcp" => backend.flows_per_second,
        _ => backend.packets_per_second,
    };
    service.backends.iter().map(of).sum()
}

/// The share of what came since the table changed that went elsewhere than the
/// slots say, 0 to 1; below 0 where nothing came.
pub(super) fn skew(service: &ServiceStatus) -> f64 {
    if service.counted_since_change == 0 {
        return -1.0;
    }
    let off = |it: &BackendStatus| (it.share_seen.unwrap_or(0.0) - it.share_expected).abs();
    service.backends.iter().map(off).sum::<f64>() / 2.0
}
