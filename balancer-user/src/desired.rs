//! From configuration, health and next hops to the state the kernel should
//! hold.
//!
//! [`Builder`] keeps what has to stay the same from one state to the next:
//! numbers of services, seats of members, and the past owners of slots in
//! change (see `balancer_common::affinity`). Pure: time is an argument.

mod book;
mod options;
mod ramps;
pub mod relief;
mod seating;
mod staging;
mod translation;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use book::{Book, Drain, Owner, Templates};
pub use ramps::Ramps;
pub use relief::Relief;
pub use seating::Seating;
pub use staging::Staging;
pub use world::{
    BackendState, Standing, World, backend_state, eligible, fails_open, keeps_flows, probed,
};

use crate::config::capacity::weight_in_use;
use crate::config::model::{Config, Protocol, Seed, Service};
use crate::dataplane::{ServiceId, ServiceKey, ServiceState, Settings, State, Table};
use crate::maglev;
use crate::parallel;
use crate::seed;

/// Who sits where: what a reader of counters and traces needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The backend's name.
    pub backend: Arc<str>,
    /// Its address: another server of that name has another seat.
    pub address: IpAddr,
    /// Index of its counters.
    pub counter: u32,
    /// Slots it owns as `current`.
    pub slot_count: u32,
}

/// Makes one state after the other.
#[derive(Debug, Default)]
pub struct Builder {
    services: BTreeMap<String, Book>,
    last_service: ServiceId,
    free_counters: BTreeSet<u32>,
    next_counter: u32,
    /// Tables of another builder, which need not be built once more.
    templates: Templates,
    tables_built: usize,
    /// Whether somebody will ask for many slots, one by one.
    is_asked_often: bool,
}

/// A state, and what changed in who counts where.
#[derive(Debug)]
pub struct Built {
    /// What the kernel should hold.
    pub state: State,
    /// Counter indexes given to new members: to be zeroed before use.
    pub fresh_counters: Vec<u32>,
}

impl Builder {
    /// The state for this configuration in this world.
    pub fn build(&mut self, config: &Config, seed: &Seed, world: &World, now: Instant) -> Built {
        self.build_part(config, None, seed, world, now)
    }

    /// The state in the middle of a change.
    pub fn build_staged(
        &mut self,
        staging: &Staging,
        seed: &Seed,
        world: &World,
        now: Instant,
    ) -> Built {
        self.build_part(staging.config(), Some(staging), seed, world, now)
    }

    fn build_part(
        &mut self,
        config: &Config,
        staging: Option<&Staging>,
        seed: &Seed,
        world: &World,
        now: Instant,
    ) -> Built {
        self.drop_services(config);
        let mut fresh_counters = Vec::new();
        let mut services = BTreeMap::new();
        let is_hidden = |name: &str| staging.is_some_and(|staging| staging.hides(name));
        let mut books = Vec::new();
        for service in config.services.iter().filter(|it| !is_hidden(&it.name)) {
            let mut book = self.take_book(&service.name);
            if book.is_another(service, config.node.table_size) {
                self.last_service += 1;
                book.begin_anew(self.last_service);
            }
            self.seat(&mut book, service, &mut fresh_counters);
            book.follow_drains(service, now);
            books.push((service, book));
        }
        let templates = &self.templates;
        let built = parallel::map(books.iter_mut().collect(), |(service, book)| {
            let blend = staging.and_then(|staging| staging.blend(&service.name));
            let template = templates.get(&service.name);
            let size = config.node.table_size;
            let built = book.rebuild(service, blend, template, (size, world, now));
            let members = book.members(config, service, world);
            let plain = ServiceState::new(keys(service), members, book.table.clone());
            let indexes = book.indexes();
            let state = options::with_options(service, plain, |name| indexes.get(name).copied());
            (built, state)
        });
        for ((service, book), (built, state)) in books.into_iter().zip(built) {
            self.tables_built += built;
            services.insert(book.id, state);
            self.services.insert(service.name.clone(), book);
        }
        Built {
            state: State {
                flow_keys: seed::flow_keys(seed),
                settings: Settings {
                    answer_echo: config.node.answer_echo,
                    flow_records: config.node.flow_table_size,
                    nat: translation::settings(config),
                    handshake_sample: of_all_hashes(config.node.handshake_sample),
                },
                services,
            },
            fresh_counters,
        }
    }

    /// A builder that has seen nothing, and takes a table that this one has
    /// built from the same names, weights, indexes and size, and not from
    /// anything before it, for the one that it would build.
    pub fn beside(&self) -> Self {
        let templates = self.services.iter();
        let template = |(name, book): (&String, &Book)| Some((name.clone(), book.template()?));
        Self {
            templates: templates.filter_map(template).collect(),
            is_asked_often: true,
            ..Self::default()
        }
    }

    /// How many tables were built so far: what a change costs goes by that.
    pub fn tables_built(&self) -> usize {
        self.tables_built
    }

    /// When something is over next: a drain, or a wait for silence.
    pub fn next_settling(&self) -> Option<Instant> {
        let books = self.services.values();
        books.filter_map(Book::next_end).min()
    }

    /// Services whose wait for silence is over: for each, the dataplane's
    /// marks are wanted by [`Builder::end_round`].
    pub fn rounds_over(&self, now: Instant) -> Vec<ServiceId> {
        let is_over = |book: &&Book| book.round_ends().is_some_and(|end| end <= now);
        let books = self.services.values().filter(is_over);
        books.map(|book| book.id).collect()
    }

    /// Settles the slots of which nothing was heard; the next state has them.
    /// `touched` are the marks of [`Dataplane::take_marks`]; blocks that are
    /// not in it count as touched.
    ///
    /// [`Dataplane::take_marks`]: crate::dataplane::Dataplane::take_marks
    pub fn end_round(&mut self, service: ServiceId, touched: &[bool], now: Instant) {
        for book in self.services.values_mut() {
            if book.id == service {
                book.end_round(touched, now);
            }
        }
    }

    /// The number of a service.
    pub fn service_id(&self, name: &str) -> Option<ServiceId> {
        Some(self.services.get(name)?.id)
    }

    /// Numbers and names of all services.
    pub fn service_names(&self) -> impl Iterator<Item = (ServiceId, &str)> {
        let services = self.services.iter();
        services.map(|(name, book)| (book.id, name.as_str()))
    }

    /// Name of the service with this number.
    pub fn service_name(&self, id: ServiceId) -> Option<&str> {
        self.services
            .iter()
            .find(|(_, book)| book.id == id)
            .map(|(name, _)| name.as_str())
    }

    /// Members of a service by index.
    pub fn seats(&self, service: &str) -> Vec<Option<Seat>> {
        let Some(book) = self.services.get(service) else {
            return Vec::new();
        };
        book.seats
            .iter()
            .map(|owner| {
                owner.as_ref().map(|owner| Seat {
                    backend: Arc::clone(&owner.name),
                    address: owner.address,
                    counter: owner.counter,
                    slot_count: owner.slot_count,
                })
            })
            .collect()
    }

    /// Name and counter index of each member of a service.
    pub fn owners(&self, service: &str) -> impl Iterator<Item = (&str, u32)> {
        let book = self.services.get(service);
        let seats = book
            .into_iter()
            .flat_map(|book| book.seats.iter().flatten());
        seats.map(|owner| (&*owner.name, owner.counter))
    }

    /// A service's table; it has its slots.
    pub fn table(&self, service: &str) -> Option<&Table> {
        Some(&self.services.get(service)?.table)
    }

    /// Slots of a service's table.
    pub fn slot_count(&self, service: &str) -> u32 {
        self.services
            .get(service)
            .map_or(0, |book| book.table.slot_count())
    }

    /// How often slots of a service may have moved since it has been known.
    pub fn moves(&self, service: &str) -> u32 {
        self.services.get(service).map_or(0, |book| book.moves)
    }

    /// Until when at least a service keeps flows of earlier owners, if there
    /// may be such.
    pub fn settles_at(&self, service: &str) -> Option<Instant> {
        self.services.get(service)?.last_end()
    }

    /// Counter indexes of all members.
    pub fn counters(&self) -> Vec<u32> {
        let mut counters: Vec<u32> = self
            .services
            .values()
            .flat_map(|book| book.seats.iter().flatten())
            .map(|owner| owner.counter)
            .collect();
        counters.sort_unstable();
        counters
    }

    /// All counter indexes are below.
    pub fn counter_count(&self) -> u32 {
        self.next_counter
    }

    fn drop_services(&mut self, config: &Config) {
        let services = config.services.iter();
        let wanted: BTreeSet<&str> = services.map(|service| service.name.as_str()).collect();
        let gone: Vec<String> = self
            .services
            .keys()
            .filter(|name| !wanted.contains(name.as_str()))
            .cloned()
            .collect();
        for name in gone {
            if let Some(book) = self.services.remove(&name) {
                let counters = book.seats.into_iter().flatten().map(|owner| owner.counter);
                self.free_counters.extend(counters);
            }
        }
    }

    fn take_book(&mut self, name: &str) -> Book {
        if let Some(book) = self.services.remove(name) {
            return book;
        }
        self.last_service += 1;
        let mut book = Book::new(self.last_service);
        book.is_asked_often = self.is_asked_often;
        book
    }

    /// Frees the seats of backends that are gone and seats new ones. A seat
    /// belongs to a name at an address: another server gets another
    /// incarnation, so that no flow record leads to it by mistake.
    fn seat(&mut self, book: &mut Book, service: &Service, fresh: &mut Vec<u32>) {
        if book.is_seated(service) {
            return;
        }
        let wanted: BTreeMap<&str, IpAddr> = service
            .backends
            .iter()
            .map(|backend| (backend.name.as_str(), backend.address))
            .collect();
        let mut free_seats = book.free_seats();
        let stays = |owner: &Owner| wanted.get(&*owner.name) == Some(&owner.address);
        self.free_counters.extend(book.vacate(stays));
        let seated: BTreeSet<Arc<str>> = book
            .seats
            .iter()
            .flatten()
            .map(|owner| Arc::clone(&owner.name))
            .collect();
        for backend in &service.backends {
            if seated.contains(backend.name.as_str()) {
                continue;
            }
            let counter = self.free_counters.pop_first().unwrap_or_else(|| {
                self.next_counter += 1;
                self.next_counter - 1
            });
            fresh.push(counter);
            let owner = Owner {
                name: backend.name.as_str().into(),
                address: backend.address,
                counter,
                slot_count: 0,
                drain: Drain::No,
            };
            book.give_seat(owner, &mut free_seats);
        }
    }
}

/// The keys that lead to a service.
pub fn keys(service: &Service) -> Vec<ServiceKey> {
    let protocol = match service.protocol {
        Protocol::Tcp => balancer_common::parse::PROTOCOL_TCP,
        Protocol::Udp => balancer_common::parse::PROTOCOL_UDP,
    };
    let key = |port| ServiceKey {
        address: service.address,
        port,
        protocol,
    };
    match &service.ports {
        crate::config::model::Ports::Any => vec![key(0)],
        ports => ports.iter().map(key).collect(),
    }
}

/// A share, 0 to 1, of all 32-bit numbers.
pub fn of_all_hashes(share: f64) -> u32 {
    // Casts saturate: a share of 1 is all but one of 2^32.
    (share * (f64::from(u32::MAX) + 1.0)) as u32
}

/// Slots that each backend would own, in the file's order, were every one
/// that is wanted up: backups have none then.
pub fn slot_counts(service: &Service, table_size: u32) -> Vec<u32> {
    let entries: Vec<maglev::Entry<'_>> = service
        .backends
        .iter()
        .enumerate()
        .filter(|(_, backend)| weight_in_use(backend) > 0)
        .map(|(index, backend)| maglev::Entry {
            identity: &backend.name,
            index: index as u16,
            weight: backend.weight,
        })
        .collect();
    let mut counts = vec![0; service.backends.len()];
    for owner in maglev::build(&entries, table_size) {
        counts[usize::from(owner)] += 1;
    }
    counts
}

#[cfg(test)]
mod tests;
