//! Incidents: a sign that lasts, from when it is first seen to its end.
//!
//! One sign is one incident, however often it is seen: what is known of it is
//! brought up to date. It ends when the sign has been gone for a while, so that
//! what comes and goes is told once.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Kind, Sign};
use crate::revision::UnixSeconds;

/// A sign that is gone for that long is over.
const GONE: Duration = Duration::from_secs(5);
/// One that an earlier daemon left open has that long to show its sign again:
/// what is usual has to be learnt anew first.
const ADOPTED: Duration = Duration::from_secs(60);
/// Figures change with every look: who listens hears of it that often at most.
const AGAIN: Duration = Duration::from_secs(60);

/// The revision in force, for telling who changed what before it began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Since {
    /// Its number.
    pub revision: u64,
    /// Who made it.
    pub author: String,
    /// What it did.
    pub summary: String,
    /// How long before the incident it came into force.
    pub seconds_before: u64,
}

/// Something that is or was wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Incident {
    /// Its number, from 1 on.
    pub number: u64,
    /// What it is of.
    pub kind: Kind,
    /// The service's name; empty where it is of the whole node.
    pub service: String,
    /// The backend's, if it is of one.
    pub backend: Option<String>,
    /// What is expected and seen, as last looked.
    pub what: String,
    /// What is most likely behind it.
    pub cause: String,
    /// The command that helps.
    pub command: String,
    /// When it was seen first.
    pub opened_at: UnixSeconds,
    /// When it was over.
    pub closed_at: Option<UnixSeconds>,
    /// The revision in force then.
    pub since: Option<Since>,
}

impl Incident {
    /// How long it lasted, if it is over.
    pub fn seconds(&self) -> Option<u64> {
        Some(self.closed_at?.saturating_sub(self.opened_at))
    }
}

impl std::fmt::Display for Incident {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.service.as_str(), &self.backend) {
            ("", _) => write!(f, "node: ")?,
            (service, None) => write!(f, "service {service}: ")?,
            (service, Some(backend)) => write!(f, "service {service}: backend {backend} ")?,
        }
        write!(f, "{}; {}", self.what, self.cause)
    }
}

/// What happened to an incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// It began.
    Opened {
        /// The incident.
        incident: Incident,
    },
    /// What is seen of it, or its likely cause, is another.
    Updated {
        /// When.
        at: UnixSeconds,
        /// The incident.
        incident: Incident,
    },
    /// It is over.
    Closed {
        /// The incident.
        incident: Incident,
    },
}

impl Event {
    /// The incident that it is about.
    pub fn incident(&self) -> &Incident {
        match self {
            Self::Opened { incident }
            | Self::Updated { incident, .. }
            | Self::Closed { incident } => incident,
        }
    }
}

/// Seconds that two clocks may differ by without one having been set.
const CLOCKS_DIFFER: u64 = 3;

type Key = (Kind, String, Option<String>);

/// The incidents that are open.
#[derive(Debug, Default)]
pub struct Book {
    open: BTreeMap<Key, Open>,
    last: u64,
}

#[derive(Debug)]
struct Open {
    incident: Incident,
    /// One moment of its by both clocks: the one that nobody sets, and the
    /// wall's.
    reference: Option<(Duration, UnixSeconds)>,
    /// When its sign was seen last.
    seen: Duration,
    /// What was told of it last, and when: what is seen, and the cause.
    told: (String, String),
    told_at: Duration,
}

impl Open {
    fn of(incident: Incident, at: Duration) -> Self {
        Self {
            told: (incident.what.clone(), incident.cause.clone()),
            incident,
            reference: None,
            seen: at,
            told_at: at,
        }
    }

    /// Takes a later sign, and gives what is to be told of it.
    fn update(&mut self, sign: Sign, at: Duration, now: UnixSeconds) -> Option<Event> {
        self.seen = at;
        let incident = &mut self.incident;
        (incident.what, incident.cause) = (sign.what, sign.cause);
        let is_told = self.told.0 == incident.what && self.told.1 == incident.cause;
        if is_told || at < self.told_at + AGAIN {
            return None;
        }
        self.told = (incident.what.clone(), incident.cause.clone());
        self.told_at = at;
        let incident = incident.clone();
        Some(Event::Updated { at: now, incident })
    }

    /// The incident at its end. Where the clock was set meanwhile, its beginning
    /// is told by the clock of today, so that it is as long as it was.
    fn close(self, at: Duration, now: UnixSeconds) -> Incident {
        let mut incident = self.incident;
        if let Some((then, wall)) = self.reference {
            let elapsed = at.saturating_sub(then).as_secs() as i64;
            let set_by = (now as i64).saturating_sub(wall as i64) - elapsed;
            if set_by.unsigned_abs() > CLOCKS_DIFFER {
                incident.opened_at = incident.opened_at.saturating_add_signed(set_by);
            }
        }
        incident.closed_at = Some(now);
        incident
    }
}

impl Book {
    /// Goes on with what an earlier daemon left: those that were open, and the
    /// number of the last.
    pub fn adopt(open: Vec<Incident>, last: u64) -> Self {
        let seen = ADOPTED.saturating_sub(GONE);
        let open = open.into_iter().map(|incident| {
            let service = incident.service.clone();
            let key = (incident.kind, service, incident.backend.clone());
            let mut open = Open::of(incident, Duration::ZERO);
            open.seen = seen;
            (key, open)
        });
        Self {
            open: open.collect(),
            last,
        }
    }

    /// The number of the last one.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The incidents that are open, the gravest kinds first.
    pub fn open(&self) -> impl Iterator<Item = &Incident> {
        self.open.values().map(|it| &it.incident)
    }

    /// Takes all signs of one look. `since` is the revision in force,
    /// `repairs` whether the daemon writes anew what differs in the kernel.
    pub fn take(
        &mut self,
        at: Duration,
        now: UnixSeconds,
        signs: Vec<Sign>,
        since: Option<&Since>,
        repairs: bool,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        for sign in signs {
            let key = (sign.kind, sign.service.clone(), sign.backend.clone());
            if let Some(open) = self.open.get_mut(&key) {
                events.extend(open.update(sign, at, now));
                continue;
            }
            self.last += 1;
            let incident = Incident {
                number: self.last,
                kind: sign.kind,
                command: command(&sign, since, repairs),
                service: sign.service,
                backend: sign.backend,
                what: sign.what,
                cause: sign.cause,
                opened_at: now,
                closed_at: None,
                since: since.cloned(),
            };
            self.open.insert(key, Open::of(incident.clone(), at));
            events.push(Event::Opened { incident });
        }
        for open in self.open.values_mut() {
            open.reference.get_or_insert((at, now));
        }
        let is_over = |_: &Key, open: &mut Open| at >= open.seen + GONE;
        let over = self.open.extract_if(.., is_over);
        events.extend(over.map(|(_, open)| {
            let incident = open.close(at, now);
            Event::Closed { incident }
        }));
        events
    }
}

/// A change that came into force that short before is the first suspect.
const SUSPICIOUS: u64 = 600;

fn command(sign: &Sign, since: Option<&Since>, repairs: bool) -> String {
    match sign.kind {
        Kind::Pins => "balancer verify".to_owned(),
        Kind::Skew | Kind::Drift if repairs => "balancer verify".to_owned(),
        // Nobody else puts it right.
        Kind::Skew | Kind::Drift => "balancer verify --repair".to_owned(),
        Kind::Unconfirmed => "balancer confirm".to_owned(),
        Kind::Interface | Kind::PeerDigest | Kind::MapCapacity => {
            "balancer check --live FILE".to_owned()
        }
        Kind::OldDrain => match &sign.backend {
            Some(backend) => format!("balancer backend undrain {} {backend}", sign.service),
            None => "balancer status".to_owned(),
        },
        // No change of ours is behind it.
        Kind::Clock | Kind::OneSource | Kind::HotByBytes | Kind::CertificateEnds => {
            "balancer status".to_owned()
        }
        _ if since.is_some_and(|it| it.seconds_before <= SUSPICIOUS && it.revision > 1) => {
            "balancer rollback".to_owned()
        }
        Kind::ServiceDown | Kind::FailOpen | Kind::BackupsUsed => "balancer status".to_owned(),
        Kind::BackendDown
        | Kind::BackendHeld
        | Kind::BackendRelieved
        | Kind::Handshakes
        | Kind::Slow
        | Kind::Resets => match &sign.backend {
            Some(backend) => format!("balancer backend drain {} {backend}", sign.service),
            None => "balancer status".to_owned(),
        },
        Kind::TrafficStopped | Kind::TrafficSurge => "balancer check --live FILE".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(kind: Kind, backend: Option<&str>, what: &str) -> Sign {
        Sign {
            kind,
            service: "web".to_owned(),
            backend: backend.map(str::to_owned),
            what: what.to_owned(),
            cause: "something".to_owned(),
        }
    }

    fn since(revision: u64, seconds_before: u64) -> Since {
        Since {
            revision,
            author: "root".to_owned(),
            summary: "weights".to_owned(),
            seconds_before,
        }
    }

    #[test]
    fn sign_that_lasts_is_one_incident_and_ends_when_it_has_been_gone_for_a_while() {
        let mut book = Book::default();
        let mut at = 0;
        let mut look = |signs| {
            at += 1;
            book.take(Duration::from_secs(at), 1000 + at, signs, None, true)
        };
        let down = |why| vec![sign(Kind::BackendDown, Some("web-1"), why)];
        let opened = look(down("refused"));
        assert!(matches!(&opened[..], [Event::Opened { incident }] if incident.number == 1));
        // It comes and goes, and its figures change.
        for signs in [down("timeout"), vec![], vec![], down("reset"), vec![]] {
            assert_eq!(look(signs), []);
        }
        for _ in 0..3 {
            assert_eq!(look(vec![]), []);
        }
        let closed = look(vec![]);
        let [Event::Closed { incident }] = &closed[..] else {
            panic!("{closed:?}");
        };
        assert_eq!((incident.number, incident.what.as_str()), (1, "reset"));
        assert_eq!(incident.seconds(), Some(9));
        // The next one is another.
        let again = look(down("refused"));
        assert_eq!(again[0].incident().number, 2);
        assert_eq!(book.open().count(), 1);
    }

    #[test]
    fn clock_that_is_set_meanwhile_makes_no_incident_longer_or_shorter() {
        for by in [7200_i64, -7200] {
            let mut book = Book::default();
            let down = || vec![sign(Kind::BackendDown, Some("web-1"), "is down")];
            let opened = book.take(Duration::from_secs(1), 100_000, down(), None, true);
            assert_eq!(opened[0].incident().opened_at, 100_000);
            let later = 100_030_u64.saturating_add_signed(by);
            book.take(Duration::from_secs(31), later, down(), None, true);
            let closed = book.take(Duration::from_secs(41), later + 10, vec![], None, true);
            let [Event::Closed { incident }] = &closed[..] else {
                panic!("{closed:?}");
            };
            assert_eq!(incident.seconds(), Some(40));
            assert_eq!(incident.closed_at, Some(later + 10));
            // The same of one that an earlier daemon opened a minute before.
            let mut left = incident.clone();
            (left.opened_at, left.closed_at) = (99_940, None);
            let mut next = Book::adopt(vec![left], 1);
            next.take(Duration::from_secs(1), 100_000, down(), None, true);
            let later = 100_030_u64.saturating_add_signed(by);
            let closed = next.take(Duration::from_secs(31), later, vec![], None, true);
            assert_eq!(closed[0].incident().seconds(), Some(90));
        }
    }

    #[test]
    fn next_daemon_goes_on_with_those_that_are_open_and_with_their_numbers() {
        let mut book = Book::default();
        let down = || vec![sign(Kind::BackendDown, Some("web-1"), "is down")];
        let lost = sign(Kind::TrafficStopped, None, "nobody comes");
        let signs = [down(), vec![lost]].concat();
        assert_eq!(
            book.take(Duration::from_secs(900), 1000, signs, None, true)
                .len(),
            2
        );
        let mut next = Book::adopt(book.open().cloned().collect(), book.last());
        assert!(next.open().eq(book.open()));
        // The one is seen again, the other not.
        for second in 1..60 {
            let told = next.take(
                Duration::from_secs(second),
                1100 + second,
                down(),
                None,
                true,
            );
            assert_eq!(told, [], "second {second}");
        }
        let told = next.take(Duration::from_secs(60), 1160, down(), None, true);
        let [Event::Closed { incident }] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(
            (incident.kind, incident.opened_at),
            (Kind::TrafficStopped, 1000)
        );
        let opened = next.take(
            Duration::from_secs(61),
            1161,
            vec![sign(Kind::Skew, None, "x")],
            None,
            true,
        );
        assert_eq!(opened[0].incident().number, 3);
        assert_eq!(
            next.open()
                .find(|it| it.kind == Kind::BackendDown)
                .unwrap()
                .number,
            1
        );
    }

    #[test]
    fn incident_that_changes_is_told_again_once_a_minute_and_one_that_does_not_never() {
        let mut book = Book::default();
        let mut updates = Vec::new();
        for second in 0..300 {
            // The figures of one change all the time; the other's cause does once.
            let cause = if second < 90 { "refused" } else { "timeout" };
            let mut down = sign(Kind::BackendDown, Some("web-1"), "is down");
            down.cause = cause.to_owned();
            let figures = format!("gets {second} %");
            let signs = vec![sign(Kind::Skew, Some("web-2"), &figures), down];
            let at = Duration::from_secs(second);
            let events = book.take(at, 1000 + second, signs, None, true);
            updates.extend(events.into_iter().filter_map(|event| match event {
                Event::Updated { at, incident } => Some((at, incident.kind, incident.to_string())),
                _ => None,
            }));
        }
        let of = |kind| updates.iter().filter(move |it| it.1 == kind);
        let skew: Vec<u64> = of(Kind::Skew).map(|it| it.0).collect();
        assert_eq!(skew, [1060, 1120, 1180, 1240]);
        let down: Vec<_> = of(Kind::BackendDown)
            .map(|it| (it.0, it.2.as_str()))
            .collect();
        assert_eq!(
            down,
            [(1090, "service web: backend web-1 is down; timeout")]
        );
    }

    #[test]
    fn other_kind_or_backend_is_an_incident_of_its_own() {
        let mut book = Book::default();
        let signs = vec![
            sign(Kind::BackendDown, Some("web-1"), "is down"),
            sign(Kind::BackendDown, Some("web-2"), "is down"),
            sign(Kind::ServiceDown, None, "nobody is up"),
        ];
        let events = book.take(Duration::ZERO, 0, signs, None, true);
        assert_eq!(events.len(), 3);
        let texts: Vec<String> = book.open().map(ToString::to_string).collect();
        assert_eq!(texts[0], "service web: backend web-1 is down; something");
        assert_eq!(texts[2], "service web: nobody is up; something");
    }

    #[test]
    fn change_of_the_last_minutes_is_the_first_suspect() {
        let of = |kind, since: Option<Since>| {
            let sign = sign(kind, Some("web-1"), "is down");
            command(&sign, since.as_ref(), true)
        };
        assert_eq!(
            of(Kind::BackendDown, Some(since(41, 30))),
            "balancer rollback"
        );
        let drain = "balancer backend drain web web-1";
        assert_eq!(of(Kind::BackendDown, Some(since(41, 3600))), drain);
        // There is nothing before the first.
        assert_eq!(of(Kind::BackendDown, Some(since(1, 30))), drain);
        assert_eq!(of(Kind::BackendDown, None), drain);
        assert_eq!(of(Kind::Skew, Some(since(41, 30))), "balancer verify");
    }

    #[test]
    fn difference_that_nobody_repairs_names_the_command_that_does() {
        for kind in [Kind::Skew, Kind::Drift] {
            let sign = sign(kind, Some("web-1"), "gets 70 %");
            assert_eq!(command(&sign, None, true), "balancer verify");
            assert_eq!(command(&sign, None, false), "balancer verify --repair");
        }
    }
}
