//! A capture of live packets, without the packets: whose are wanted, what the
//! numbers in them mean, and how many may be taken.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use balancer_common::layout::Member;

use crate::config::model::{Config, Service};
use crate::dataplane::capture::Wanted;
use crate::dataplane::{ServiceId, State};
use crate::desired::Builder;

/// Names that a refusal lists.
const MAX_LISTED: usize = 20;

/// A member at the time of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seated {
    /// The backend's name.
    pub backend: Arc<str>,
    /// Number of the interface its packets leave by; 0 is the one they come
    /// in on.
    pub egress: u32,
}

/// What the numbers in packets mean: also those that are no longer in force,
/// as a packet may have been told before a change and is read after it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    services: HashMap<ServiceId, Arc<str>>,
    members: BTreeMap<(ServiceId, u16, u16), Seated>,
}

impl Names {
    /// Adds what a state's numbers mean, which the builder has made.
    pub fn extend(&mut self, builder: &Builder, state: &State) {
        for (id, name) in builder.service_names() {
            let Some(service) = state.services.get(&id) else {
                continue;
            };
            self.services.entry(id).or_insert_with(|| Arc::from(name));
            let seats = builder.seats(name).into_iter().zip(&service.members);
            for ((seat, member), index) in seats.zip(0..) {
                let Some(seat) = seat.filter(|_| member.kind != Member::NONE) else {
                    continue;
                };
                let seated = Seated {
                    backend: seat.backend,
                    egress: member.egress,
                };
                self.members.insert((id, index, member.incarnation), seated);
            }
        }
    }

    /// A service's name.
    pub fn service(&self, id: ServiceId) -> Option<&Arc<str>> {
        self.services.get(&id)
    }

    /// A member by service, index and incarnation.
    pub fn member(&self, id: ServiceId, index: u16, incarnation: u16) -> Option<&Seated> {
        self.members.get(&(id, index, incarnation))
    }
}

/// A backend as it is named: `web-1` of any service, or `web/web-1`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    service: Option<String>,
    backend: String,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            Some(service) => write!(f, "{service}/{}", self.backend),
            None => f.write_str(&self.backend),
        }
    }
}

/// Whose packets are wanted, by name: of one of the services, if any is named,
/// and of one of the backends, if any is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    services: BTreeSet<String>,
    backends: Vec<Named>,
}

impl Filter {
    /// A filter of names that there are.
    ///
    /// # Errors
    /// What is not there, and what is.
    pub fn new(services: &[String], backends: &[String], config: &Config) -> Result<Self, String> {
        let all = || config.services.iter();
        for name in services {
            if config.service(name).is_none() {
                let there_are = listed(all().map(|service| service.name.as_str()));
                return Err(format!("there is no service {name}; there are {there_are}"));
            }
        }
        let filter = Self {
            services: services.iter().cloned().collect(),
            backends: backends.iter().map(|text| named(text)).collect(),
        };
        for backend in &filter.backends {
            if let Some(service) = &backend.service
                && config.service(service).is_none()
            {
                let there_are = listed(all().map(|service| service.name.as_str()));
                return Err(format!(
                    "backend {backend}: there is no service {service}; there are {there_are}"
                ));
            }
            let asked: Vec<&Service> = all()
                .filter(|service| filter.may_be_of(backend, &service.name))
                .collect();
            let is_there = |service: &&Service| service.backend(&backend.backend).is_some();
            if !asked.iter().any(is_there) {
                let there = asked.iter().flat_map(|service| {
                    let backends = service.backends.iter();
                    backends.map(|backend| format!("{}/{}", service.name, backend.name))
                });
                return Err(format!(
                    "there is no backend {backend}{}; there are {}",
                    filter.among(),
                    listed(there)
                ));
            }
        }
        Ok(filter)
    }

    fn among(&self) -> String {
        if self.services.is_empty() {
            return String::new();
        }
        let names = listed(self.services.iter().map(String::as_str));
        format!(" in service {names}")
    }

    fn may_be_of(&self, backend: &Named, service: &str) -> bool {
        let is_asked = self.services.is_empty() || self.services.contains(service);
        is_asked && backend.service.as_ref().is_none_or(|it| it == service)
    }

    /// The same by numbers. Names that nobody has give nothing.
    pub fn wanted(&self, names: &Names) -> Wanted {
        if self.backends.is_empty() && self.services.is_empty() {
            return Wanted::All;
        }
        if self.backends.is_empty() {
            let is_asked = |name: &str| self.services.contains(name);
            let services = names.services.iter().filter(|(_, name)| is_asked(name));
            return Wanted::Services(services.map(|(id, _)| *id).collect());
        }
        let is_asked = |key: &(ServiceId, u16, u16), seated: &Seated| {
            let service = names.service(key.0);
            service.is_some_and(|service| {
                let mut backends = self.backends.iter();
                backends.any(|it| *it.backend == *seated.backend && self.may_be_of(it, service))
            })
        };
        let members = names.members.iter();
        let members = members.filter(|(key, seated)| is_asked(key, seated));
        Wanted::Members(members.map(|(key, _)| *key).collect())
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.services.is_empty() {
            let services = self.services.iter().map(String::as_str);
            parts.push(format!("service {}", listed(services)));
        }
        if !self.backends.is_empty() {
            let backends = self.backends.iter().map(ToString::to_string);
            parts.push(format!("backend {}", listed(backends)));
        }
        f.write_str(&parts.join(", "))
    }
}

fn named(text: &str) -> Named {
    match text.split_once('/') {
        Some((service, backend)) => Named {
            service: Some(service.to_owned()),
            backend: backend.to_owned(),
        },
        None => Named {
            service: None,
            backend: text.to_owned(),
        },
    }
}

/// `a, b or 3 more`, shortened where there are many.
fn listed<T: fmt::Display>(names: impl Iterator<Item = T>) -> String {
    let names: Vec<String> = names.map(|name| name.to_string()).collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    let shown = names[..names.len().min(MAX_LISTED)].join(", ");
    match names.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// How many packets may be taken: so many a second, and those of one second at
/// once.
#[derive(Debug)]
pub struct Allowance {
    per_second: f64,
    /// What may be taken now.
    left: f64,
    taken: u64,
}

impl Allowance {
    /// One that has not begun.
    pub fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            left: per_second,
            taken: 0,
        }
    }

    /// What may be taken from now on, when so many were in all and so much
    /// time has gone by since it was asked last.
    pub fn grant(&mut self, taken: u64, gone_by: Duration) -> u64 {
        let used = taken.saturating_sub(self.taken);
        self.taken = taken;
        let left = self.left - used as f64 + self.per_second * gone_by.as_secs_f64();
        // CPUs that looked at the same time may have taken a few too many.
        self.left = left.clamp(0.0, self.per_second);
        self.left as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn config() -> Config {
        let file = r#"
            [node]
            interfaces = ["eth0"]
            [[service]]
            name = "web"
            address = "192.0.2.1"
            port = 80
            protocol = "tcp"
            forward = "l2"
            [[service.backend]]
            name = "one"
            address = "10.0.0.1"
            [[service.backend]]
            name = "two"
            address = "10.0.0.2"
            [[service]]
            name = "dns"
            address = "192.0.2.1"
            port = 53
            protocol = "udp"
            forward = "l2"
            [[service.backend]]
            name = "one"
            address = "10.0.0.1"
            "#;
        config::examine("test", file, None).config.unwrap()
    }

    fn names() -> Names {
        let seated = |name: &str| Seated {
            backend: Arc::from(name),
            egress: 0,
        };
        Names {
            services: [(1, Arc::from("web")), (2, Arc::from("dns"))].into(),
            members: [
                ((1, 0, 1), seated("one")),
                ((1, 1, 1), seated("two")),
                ((1, 1, 2), seated("one")),
                ((2, 0, 1), seated("one")),
            ]
            .into(),
        }
    }

    fn filter(services: &[&str], backends: &[&str]) -> Result<Filter, String> {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        Filter::new(&owned(services), &owned(backends), &config())
    }

    #[test]
    fn names_become_the_numbers_of_all_who_bear_them_or_bore_them() {
        let wanted = |services, backends| filter(services, backends).unwrap().wanted(&names());
        assert_eq!(wanted(&[], &[]), Wanted::All);
        assert_eq!(wanted(&["dns"], &[]), Wanted::Services([2].into()));
        let members = |it: &[(u32, u16, u16)]| Wanted::Members(it.iter().copied().collect());
        assert_eq!(
            wanted(&[], &["one"]),
            members(&[(1, 0, 1), (1, 1, 2), (2, 0, 1)])
        );
        assert_eq!(wanted(&["web"], &["one"]), members(&[(1, 0, 1), (1, 1, 2)]));
        assert_eq!(wanted(&[], &["dns/one"]), members(&[(2, 0, 1)]));
        assert_eq!(wanted(&[], &["web/two"]), members(&[(1, 1, 1)]));
    }

    #[test]
    fn name_that_nobody_has_is_refused_with_those_there_are() {
        let refused = |services, backends| filter(services, backends).unwrap_err();
        assert_eq!(
            refused(&["shop"], &[]),
            "there is no service shop; there are web, dns"
        );
        assert_eq!(
            refused(&[], &["three"]),
            "there is no backend three; there are web/one, web/two, dns/one"
        );
        assert_eq!(
            refused(&["dns"], &["two"]),
            "there is no backend two in service dns; there are dns/one"
        );
        assert_eq!(
            refused(&[], &["shop/one"]),
            "backend shop/one: there is no service shop; there are web, dns"
        );
        assert_eq!(
            refused(&["dns"], &["web/one"]),
            "there is no backend web/one in service dns; there are none"
        );
    }

    #[test]
    fn filter_is_told_in_a_sentence() {
        let told = |services, backends| filter(services, backends).unwrap().to_string();
        assert_eq!(told(&[], &[]), "");
        assert_eq!(told(&["web"], &["one"]), "service web, backend one");
        assert_eq!(told(&[], &["dns/one"]), "backend dns/one");
    }

    #[test]
    fn second_has_no_more_than_its_packets_and_an_idle_time_saves_one_second() {
        let mut allowance = Allowance::new(100);
        assert_eq!(allowance.grant(0, Duration::ZERO), 100);
        assert_eq!(allowance.grant(100, Duration::ZERO), 0);
        assert_eq!(allowance.grant(100, Duration::from_millis(50)), 5);
        assert_eq!(allowance.grant(105, Duration::from_secs(60)), 100);
        // More than was granted.
        assert_eq!(allowance.grant(300, Duration::ZERO), 0);
        // A slow rate comes to whole packets in time.
        let mut allowance = Allowance::new(1);
        assert_eq!(allowance.grant(1, Duration::ZERO), 0);
        for _ in 0..19 {
            assert_eq!(allowance.grant(1, Duration::from_millis(50)), 0);
        }
        assert_eq!(allowance.grant(1, Duration::from_millis(60)), 1);
    }
}
