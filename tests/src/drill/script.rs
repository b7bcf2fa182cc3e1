//! What a drill is made of: the outage as its team wrote it down, the change
//! that brought it about, and a fault that does the same from outside.

use anyhow::Result;
use balancer_user::watch::Kind;

use super::scene::Scene;

/// One outage, and how it is played.
#[derive(Debug)]
pub struct Script {
    /// What went wrong, as the command line has it.
    pub name: &'static str,
    /// The same as a heading.
    pub title: &'static str,
    /// What its team wrote down.
    pub postmortem: Postmortem,
    /// The network and the configuration in force.
    pub setting: Setting,
    /// The wrong change.
    pub change: Change,
    /// The same trouble without a change.
    pub fault: Fault,
}

/// An outage as its team wrote it down.
#[derive(Debug)]
pub struct Postmortem {
    /// The day.
    pub date: &'static str,
    /// Who noticed.
    pub impact: &'static str,
    /// Its root cause.
    pub cause: &'static str,
    /// In order, the first at minute 0.
    pub events: &'static [Event],
}

impl Postmortem {
    /// The minute of the first event of a kind.
    pub fn minute(&self, mark: Mark) -> u32 {
        let mut events = self.events.iter();
        let found = events.find(|it| it.mark == Some(mark));
        found.map_or(0, |it| it.minute)
    }
}

/// A line of a timeline.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// From the first line on.
    pub minute: u32,
    /// What happened, in short.
    pub what: &'static str,
    /// What that means.
    pub mark: Option<Mark>,
}

/// The moments that outages are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Somebody was told that something is wrong.
    Detected,
    /// The cause was known.
    Named,
    /// The service was as it should be.
    Resolved,
}

/// A line of no mark.
pub(super) const fn at(minute: u32, what: &'static str) -> Event {
    Event {
        minute,
        what,
        mark: None,
    }
}

/// A line with one.
pub(super) const fn marked(minute: u32, mark: Mark, what: &'static str) -> Event {
    Event {
        minute,
        what,
        mark: Some(mark),
    }
}

/// The network and the configuration in force.
#[derive(Debug)]
pub struct Setting {
    /// The service's name; backends are called after it.
    pub service: &'static str,
    /// Its backends.
    pub backends: u8,
    /// Hosts beside them, and the service that web servers on them are of;
    /// empty for none.
    pub others: (u8, &'static str),
    /// Keys of `[node]`, and of the service; a line each.
    pub node_keys: &'static str,
    /// Likewise.
    pub service_keys: &'static str,
    /// Each backend's declared capacity in flows a second.
    pub capacity: Option<u64>,
    /// Whether `allowed_backends` names the backends' addresses.
    pub has_pool: bool,
}

/// A service `web` on four backends.
pub(super) const PLAIN: Setting = Setting {
    service: "web",
    backends: 4,
    others: (0, ""),
    node_keys: "",
    service_keys: "",
    capacity: None,
    has_pool: false,
};

/// The wrong change.
#[derive(Debug)]
pub struct Change {
    /// What somebody did, in one sentence.
    pub what: &'static str,
    /// The backends after it: weight, and the place of the host.
    pub backends: &'static [Target],
    /// The rules whose errors stop it; then, once those are overridden, those
    /// that stop it next, and so on.
    pub stopped_by: &'static [&'static [&'static str]],
    /// Part of the reason why it is undone when these rules were overridden.
    pub undone_because: &'static str,
}

impl Change {
    /// All rules that have to be overridden.
    pub fn rules(&self) -> Vec<&'static str> {
        self.stopped_by
            .iter()
            .flat_map(|it| it.iter().copied())
            .collect()
    }
}

/// A backend in the file.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name's number, from 0.
    pub number: usize,
    /// The host, from 0; those beside the backends come after them.
    pub host: usize,
    /// Its weight.
    pub weight: u16,
}

/// A backend at its own host.
pub(super) const fn own(number: usize, weight: u16) -> Target {
    Target {
        number,
        host: number,
        weight,
    }
}

/// A backend at another host.
pub(super) const fn elsewhere(number: usize, host: usize) -> Target {
    Target {
        number,
        host,
        weight: 100,
    }
}

/// The same trouble without a change.
#[derive(Debug)]
pub struct Fault {
    /// What happens, in one sentence.
    pub what: &'static str,
    /// Makes it happen.
    pub bring: fn(&mut Scene<'_>) -> Result<()>,
    /// The incidents that have to name it.
    pub named: &'static [(Kind, usize)],
    /// What each of them has to say.
    pub words: &'static [&'static str],
    /// What each of them has to have typed.
    pub remedy: &'static str,
}
