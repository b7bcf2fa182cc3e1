//! Who sits where, for the next controller.
//!
//! The kernel's tables name services, members and counters by numbers. What
//! the numbers mean is kept beside them, in the state directory. It is
//! written before the tables are, with all that the change may still leave in
//! force, before and after: whichever of both a killed controller left, its
//! successor finds it here, by service, index and incarnation, which together
//! are never given twice. What it does not find, it does not guess.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use balancer_common::layout::Member;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::book::{Book, Drain, Identity, Owner};
use super::{Builder, ServiceId};
use crate::dataplane::{ServiceState, State};

/// What the numbers in the tables mean.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seating {
    /// The number that was given to a service last.
    last_service: ServiceId,
    services: BTreeMap<ServiceId, SeatedService>,
}

/// A service by its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SeatedService {
    name: String,
    identity: Option<Identity>,
    /// How often each index has been given away.
    incarnations: Vec<u16>,
    backends: Vec<SeatedBackend>,
}

/// A backend by its index and incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SeatedBackend {
    index: u16,
    incarnation: u16,
    name: Arc<str>,
    address: IpAddr,
    counter: u32,
    /// While it is drained: until when, in nanoseconds of `CLOCK_MONOTONIC`.
    drained_until: Option<u64>,
}

impl Seating {
    /// What holds while `next` may come into force, or may not.
    pub fn with(&self, next: &Self) -> Self {
        let mut both = next.clone();
        both.last_service = both.last_service.max(self.last_service);
        for (id, service) in &self.services {
            let Some(into) = both.services.get_mut(id) else {
                both.services.insert(*id, service.clone());
                continue;
            };
            let known: BTreeSet<(u16, u16)> =
                into.backends.iter().map(SeatedBackend::key).collect();
            let gone = service
                .backends
                .iter()
                .filter(|it| !known.contains(&it.key()));
            into.backends.extend(gone.cloned());
        }
        both
    }
}

impl SeatedBackend {
    fn key(&self) -> (u16, u16) {
        (self.index, self.incarnation)
    }
}

impl Builder {
    /// What the numbers in its states mean.
    pub fn seating(&self) -> Seating {
        let clock = Clock::of_this_process();
        let services = self.services.iter().map(|(name, book)| {
            let service = SeatedService {
                name: name.clone(),
                identity: book.identity,
                incarnations: book.incarnations.clone(),
                backends: seated(book, clock),
            };
            (book.id, service)
        });
        Seating {
            last_service: self.last_service,
            services: services.collect(),
        }
    }

    /// Goes on from a state that another controller brought into force, whose
    /// tables have their slots.
    ///
    /// # Errors
    /// What of the state has no meaning in `seating`.
    pub fn adopt(seating: &Seating, state: &State) -> Result<Self, String> {
        let clock = Clock::of_this_process();
        let mut builder = Self {
            last_service: seating.last_service,
            ..Self::default()
        };
        for (id, service) in &state.services {
            let seated = seating
                .services
                .get(id)
                .ok_or_else(|| format!("service number {id} is unknown"))?;
            let book = book(*id, service, seated, clock)?;
            builder.last_service = builder.last_service.max(*id);
            if builder.services.insert(seated.name.clone(), book).is_some() {
                return Err(format!("two services are called {}", seated.name));
            }
        }
        let counters: BTreeSet<u32> = builder.counters().into_iter().collect();
        if counters.len() != builder.counters().len() {
            return Err("two members count in one place".to_owned());
        }
        builder.next_counter = counters.last().map_or(0, |last| last + 1);
        builder.free_counters = (0..builder.next_counter)
            .filter(|counter| !counters.contains(counter))
            .collect();
        Ok(builder)
    }
}

fn seated(book: &Book, clock: Clock) -> Vec<SeatedBackend> {
    let seats = book.seats.iter().zip(&book.incarnations).zip(0..);
    seats
        .filter_map(|((owner, incarnation), index)| {
            let owner = owner.as_ref()?;
            Some(SeatedBackend {
                index,
                incarnation: *incarnation,
                name: Arc::clone(&owner.name),
                address: owner.address,
                counter: owner.counter,
                drained_until: match owner.drain {
                    Drain::No => None,
                    Drain::Until(end) => Some(clock.nanoseconds_at(end)),
                    Drain::Over => Some(0),
                },
            })
        })
        .collect()
}

fn book(
    id: ServiceId,
    service: &ServiceState,
    seated: &SeatedService,
    clock: Clock,
) -> Result<Book, String> {
    let mut book = Book::new(id);
    book.identity = seated.identity;
    book.incarnations = seated.incarnations.clone();
    book.table = service.table.clone();
    let slots = book.table.slots().unwrap_or_default();
    let named: BTreeSet<u16> = slots
        .iter()
        .flat_map(|slot| [slot.current(), slot.previous()])
        .collect();
    for (member, index) in service.members.iter().zip(0u16..) {
        let at = usize::from(index);
        if book.incarnations.len() <= at {
            book.incarnations.push(0);
        }
        book.incarnations[at] = member.incarnation;
        if member.kind == Member::NONE {
            book.seats.push(None);
            if named.contains(&index) {
                book.vacated.insert(index);
            }
            continue;
        }
        let key = (index, member.incarnation);
        let owner = seated
            .backends
            .iter()
            .find(|backend| backend.key() == key && backend.counter == member.counter)
            .ok_or_else(|| {
                format!(
                    "service {}: member {index} in incarnation {} is unknown",
                    seated.name, member.incarnation
                )
            })?;
        book.seats.push(Some(Owner {
            name: Arc::clone(&owner.name),
            address: owner.address,
            counter: owner.counter,
            slot_count: 0,
            drain: match owner.drained_until {
                None => Drain::No,
                Some(end) => clock.instant_at(end).map_or(Drain::Over, Drain::Until),
            },
        }));
    }
    Ok(book)
}

/// One moment in two scales: `Instant` means nothing to another process.
#[derive(Debug, Clone, Copy)]
struct Clock {
    instant: Instant,
    monotonic: Duration,
}

impl Clock {
    /// Always the same, so that a deadline is always the same number.
    fn of_this_process() -> Self {
        static CLOCK: OnceLock<Clock> = OnceLock::new();
        *CLOCK.get_or_init(|| Self {
            instant: Instant::now(),
            // Every Linux has this clock.
            monotonic: clock_gettime(ClockId::CLOCK_MONOTONIC)
                .map_or(Duration::ZERO, Duration::from),
        })
    }

    fn nanoseconds_at(self, moment: Instant) -> u64 {
        let later = moment.saturating_duration_since(self.instant);
        let earlier = self.instant.saturating_duration_since(moment);
        u64::try_from((self.monotonic + later).saturating_sub(earlier).as_nanos())
            .unwrap_or(u64::MAX)
    }

    /// `None` if that was before this process was.
    fn instant_at(self, nanoseconds: u64) -> Option<Instant> {
        let later = Duration::from_nanos(nanoseconds).checked_sub(self.monotonic)?;
        self.instant.checked_add(later)
    }
}
