//! What is known of all services in one second, and in the minutes before.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::config::model::{Backend, Config, Service};
use crate::metrics::{BackendObserved, Observed, RateObserved, ServiceObserved, Shape};

/// Seconds of traffic that are kept.
pub const HISTORY: usize = 180;

/// All that pages are made of, in one second.
#[derive(Debug, Clone, Default)]
pub struct Board {
    /// What the loop told.
    pub observed: Arc<Observed>,
    /// What seldom changes, of the services in the same order.
    pub roster: Arc<Roster>,
    /// The last seconds of traffic, the latest last; [`HISTORY`] at most.
    pub seconds: VecDeque<Arc<Second>>,
}

/// The traffic of all services in one second.
#[derive(Debug, Default)]
pub struct Second {
    roster: Arc<Roster>,
    /// In the order of the roster.
    rates: Vec<RateObserved>,
}

/// What seldom changes of all services.
#[derive(Debug, Default)]
pub struct Roster {
    /// In the file's order.
    pub services: Vec<Known>,
    shapes: Vec<Arc<Shape>>,
    places: HashMap<Arc<str>, usize>,
}

/// What seldom changes of a service.
#[derive(Debug, Default)]
pub struct Known {
    /// Its name.
    pub name: Arc<str>,
    /// `192.0.2.10:443/tcp`; empty for a moment while a change is made.
    pub endpoint: String,
    /// `l2`, `ipip`, `gue`, `nat` or `fullnat`.
    pub forward: String,
    /// What shares are of: `flows` or `packets`.
    pub measure: &'static str,
    /// Its backends, in the file's order.
    pub backends: Vec<KnownBackend>,
    /// Names and addresses, for who looks for one.
    text: String,
}

/// What seldom changes of a backend.
#[derive(Debug)]
pub struct KnownBackend {
    /// Its name.
    pub name: Arc<str>,
    /// `10.0.0.11`, or with a port where the file states one.
    pub endpoint: String,
    /// Its weight.
    pub weight: u16,
}

impl Known {
    /// Whether a part of its names or addresses is `text`, in lower case.
    pub fn is_found_by(&self, text: &str) -> bool {
        self.text.contains(text)
    }
}

impl Board {
    /// The services, with what seldom changes of them.
    pub fn services(&self) -> impl Iterator<Item = (&Known, &ServiceObserved)> {
        self.roster.services.iter().zip(&self.observed.services)
    }

    /// The traffic of all services in the last seconds, the latest last.
    pub fn totals(&self) -> impl Iterator<Item = RateObserved> {
        self.seconds.iter().map(|second| {
            let mut sum = RateObserved::default();
            for rate in &second.rates {
                sum += *rate;
            }
            sum
        })
    }

    /// The traffic of a service in the last seconds, the latest last; nothing
    /// in seconds in which it was not there.
    pub fn history(&self, service: &str) -> impl Iterator<Item = Option<RateObserved>> {
        self.seconds.iter().map(move |second| {
            let place = second.roster.places.get(service)?;
            second.rates.get(*place).copied()
        })
    }
}

/// Traffic of all backends of a service.
pub fn rate(backends: &[BackendObserved]) -> RateObserved {
    let mut sum = RateObserved::default();
    for backend in backends {
        sum += backend.rate;
    }
    sum
}

/// Makes a board a second.
#[derive(Debug, Default)]
pub struct Keeper {
    board: Board,
    /// What the roster was made with.
    config: Option<Arc<Config>>,
}

impl Keeper {
    /// Takes what is known in a second, and the configuration in force.
    pub fn take(&mut self, observed: Arc<Observed>, config: &Arc<Config>) -> Board {
        let is_same = {
            let known = self.config.as_ref();
            let is_known = known.is_some_and(|known| Arc::ptr_eq(known, config));
            let shapes = &self.board.roster.shapes;
            let services = &observed.services;
            let mut pairs = shapes.iter().zip(services);
            is_known
                && shapes.len() == services.len()
                && pairs.all(|(shape, service)| Arc::ptr_eq(shape, &service.shape))
        };
        if !is_same {
            self.board.roster = Arc::new(roster(&observed, config));
            self.config = Some(Arc::clone(config));
        }
        let services = observed.services.iter();
        let second = Second {
            roster: Arc::clone(&self.board.roster),
            rates: services.map(|service| rate(&service.backends)).collect(),
        };
        if self.board.seconds.len() == HISTORY {
            self.board.seconds.pop_front();
        }
        self.board.seconds.push_back(Arc::new(second));
        self.board.observed = observed;
        self.board.clone()
    }
}

fn roster(observed: &Observed, config: &Config) -> Roster {
    let services: HashMap<&str, &Service> = config
        .services
        .iter()
        .map(|service| (service.name.as_str(), service))
        .collect();
    let known = observed.services.iter().map(|observed| {
        let service = services.get(&*observed.shape.service).copied();
        known(&observed.shape, service)
    });
    let known: Vec<Known> = known.collect();
    let names = known.iter().map(|it| Arc::clone(&it.name));
    Roster {
        places: names.zip(0..).collect(),
        shapes: observed
            .services
            .iter()
            .map(|it| Arc::clone(&it.shape))
            .collect(),
        services: known,
    }
}

fn known(shape: &Shape, service: Option<&Service>) -> Known {
    let backends: HashMap<&str, &Backend> = service
        .iter()
        .flat_map(|service| &service.backends)
        .map(|backend| (backend.name.as_str(), backend))
        .collect();
    let backends = shape.backends.iter().map(|(name, weight)| KnownBackend {
        name: Arc::clone(name),
        endpoint: backends
            .get(&**name)
            .map_or_else(String::new, |backend| endpoint(backend)),
        weight: *weight,
    });
    let mut known = Known {
        name: Arc::clone(&shape.service),
        endpoint: service.map_or_else(String::new, dialled),
        forward: service.map_or_else(String::new, |it| it.forward.to_string()),
        measure: match service.map(|it| it.protocol) {
            Some(crate::config::model::Protocol::Udp) => "packets",
            _ => "flows",
        },
        backends: backends.collect(),
        text: String::new(),
    };
    let mut text = format!("{}\n{}", known.name, known.endpoint);
    for backend in &known.backends {
        text.push('\n');
        text.push_str(&backend.name);
        text.push('\n');
        text.push_str(&backend.endpoint);
    }
    known.text = text.to_lowercase();
    known
}

fn dialled(service: &Service) -> String {
    let (address, ports, protocol) = (service.address, &service.ports, service.protocol);
    match address.is_ipv6() {
        true => format!("[{address}]:{ports}/{protocol}"),
        false => format!("{address}:{ports}/{protocol}"),
    }
}

fn endpoint(backend: &Backend) -> String {
    match backend.port {
        Some(port) => std::net::SocketAddr::new(backend.address, port).to_string(),
        None => backend.address.to_string(),
    }
}
