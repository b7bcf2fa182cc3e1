//! Where in the source each part of a configuration stands.

use std::ops::Range;

use super::model::Config;

/// A part of a configuration, by position; the key may be `""` for the
/// table as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File,
    /// A key above all tables.
    Top(&'static str),
    /// A key of `[node]`.
    Node(&'static str),
    /// A key of the nth service.
    Service(usize, &'static str),
    /// A key of the nth service's `[service.health]`.
    Health(usize, &'static str),
    /// A key of the nth service's mth backend.
    Backend(usize, usize, &'static str),
}

impl Place {
    /// The service it is in.
    pub fn service(self) -> Option<usize> {
        match self {
            Self::File | Self::Top(_) | Self::Node(_) => None,
            Self::Service(service, _) | Self::Health(service, _) => Some(service),
            Self::Backend(service, _, _) => Some(service),
        }
    }

    /// Its config path, such as `service.web.backend.web-1.weight`.
    pub fn path(self, config: &Config) -> String {
        let service_name = |index: usize| match config.services.get(index) {
            Some(service) => format!("service.{}", service.name),
            None => format!("service[{index}]"),
        };
        let (mut path, key) = match self {
            Self::File => return String::new(),
            Self::Top(key) => return key.to_owned(),
            Self::Node(key) => ("node".to_owned(), key),
            Self::Service(service, key) => (service_name(service), key),
            Self::Health(service, key) => (service_name(service) + ".health", key),
            Self::Backend(service, backend, key) => {
                let found = config.services.get(service);
                let found = found.and_then(|service| service.backends.get(backend));
                let path = match found {
                    Some(found) => format!("{}.backend.{}", service_name(service), found.name),
                    None => format!("{}.backend[{backend}]", service_name(service)),
                };
                (path, key)
            }
        };
        if !key.is_empty() {
            path.push('.');
            path.push_str(key);
        }
        path
    }
}

/// The byte ranges of a configuration's parts.
///
/// Kept by position, not by path text: a file of 100,000 backends would
/// otherwise cost more in map keys than in parsing.
#[derive(Debug, Clone, Default)]
pub struct Spans {
    pub(super) top: TableSpans,
    pub(super) node: TableSpans,
    pub(super) services: Vec<ServiceSpans>,
}

/// The byte ranges of one service's parts.
#[derive(Debug, Clone, Default)]
pub(super) struct ServiceSpans {
    pub(super) table: TableSpans,
    pub(super) health: TableSpans,
    pub(super) backends: Vec<TableSpans>,
}

/// The byte ranges of a table's header and of its values.
#[derive(Debug, Clone, Default)]
pub(super) struct TableSpans {
    pub(super) header: Option<Range<usize>>,
    pub(super) values: Vec<(&'static str, Range<usize>)>,
}

impl TableSpans {
    /// The value of `key`; the header where the file leaves the key out.
    fn find(&self, key: &str) -> Option<Range<usize>> {
        self.values
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, span)| span.clone())
            .or_else(|| self.header.clone())
    }
}

impl Spans {
    /// Whether the file itself has that key.
    pub fn has_key(&self, place: Place) -> bool {
        let table = match place {
            Place::File => None,
            Place::Top(_) => Some(&self.top),
            Place::Node(_) => Some(&self.node),
            Place::Service(service, _) => self.services.get(service).map(|it| &it.table),
            Place::Health(service, _) => self.services.get(service).map(|it| &it.health),
            Place::Backend(service, backend, _) => self
                .services
                .get(service)
                .and_then(|it| it.backends.get(backend)),
        };
        let key = match place {
            Place::File => return false,
            Place::Top(key) | Place::Node(key) | Place::Service(_, key) | Place::Health(_, key) => {
                key
            }
            Place::Backend(_, _, key) => key,
        };
        table.is_some_and(|table| table.values.iter().any(|(name, _)| *name == key))
    }

    /// Where a part stands; a part that the file leaves out is looked for
    /// one level up, so that a finding about a default points at its table.
    pub fn find(&self, place: Place) -> Option<Range<usize>> {
        match place {
            Place::File => None,
            Place::Top(key) => self.top.find(key),
            Place::Node(key) => self.node.find(key),
            Place::Service(service, key) => self.services.get(service)?.table.find(key),
            Place::Health(service, key) => {
                let service = self.services.get(service)?;
                let found = service.health.find(key);
                found.or_else(|| service.table.header.clone())
            }
            Place::Backend(service, backend, key) => {
                let service = self.services.get(service)?;
                let found = service.backends.get(backend);
                let found = found.and_then(|backend| backend.find(key));
                found.or_else(|| service.table.header.clone())
            }
        }
    }
}
