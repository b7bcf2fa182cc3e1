//! Everyday changes, made to the configuration itself.
//!
//! A change is an edit of the model. What it adds is read by the parser of
//! the file, and the whole configuration then passes the checks of the file:
//! there is no second way in. Pure.

mod edit;

use std::collections::HashMap;
use std::sync::Mutex;

use crate::api::types::{Change, ShareChange};
use crate::config::check::check_config;
use crate::config::diagnostic::Report;
use crate::config::model::{Backend, Backends, Config, Service};
use crate::config::spans::Spans;
use crate::config::{self, render};
use crate::desired;
use crate::probe::scheduler::TargetId;

pub use edit::Edit;

/// A configuration with a change in it, checked.
#[derive(Debug, Clone)]
pub struct Edited {
    /// The configuration as changed.
    pub config: Config,
    /// What was done.
    pub edit: Edit,
    /// Findings of the check about it.
    pub report: Report,
}

/// Slot counts of services as they were last asked for, so that a change to
/// one service builds one table and not those of all.
#[derive(Debug, Default)]
pub struct TableMemo {
    /// The last two of each service: before and after the last change.
    known: Mutex<HashMap<String, [Option<Known>; 2]>>,
}

/// The counts of a service, and what they came from.
#[derive(Debug)]
struct Known {
    /// Shared with the configurations that have them.
    backends: Backends,
    table_size: u32,
    counts: Vec<u32>,
}

impl TableMemo {
    /// As [`desired::slot_counts`].
    pub fn slot_counts(&self, service: &Service, table_size: u32) -> Vec<u32> {
        self.counts(service, table_size, || {
            desired::slot_counts(service, table_size)
        })
    }

    /// The same for one who has the counts: they are remembered.
    pub fn remember(&self, service: &Service, table_size: u32, counts: Vec<u32>) {
        self.counts(service, table_size, || counts);
    }

    fn counts(
        &self,
        service: &Service,
        table_size: u32,
        count: impl FnOnce() -> Vec<u32>,
    ) -> Vec<u32> {
        let lock = || {
            let known = self.known.lock();
            known.unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        let is_it = |known: &&Known| {
            known.table_size == table_size && has_same_weights(&known.backends, &service.backends)
        };
        if let Some(known) = lock().get(&service.name)
            && let Some(found) = known.iter().flatten().find(is_it)
        {
            return found.counts.clone();
        }
        // Not under the lock: others count at the same time.
        let counts = count();
        let mut known = lock();
        let known = known.entry(service.name.clone()).or_default();
        known.swap(0, 1);
        known[0] = Some(Known {
            backends: service.backends.clone(),
            table_size,
            counts: counts.clone(),
        });
        counts
    }
}

/// Whether tables of these are the same.
fn has_same_weights(one: &Backends, other: &Backends) -> bool {
    let weight = |backend: &Backend| if backend.drain { 0 } else { backend.weight };
    let is_same =
        |(one, other): (&Backend, &Backend)| one.name == other.name && weight(one) == weight(other);
    one.is_shared_with(other) || one.len() == other.len() && one.iter().zip(other).all(is_same)
}

/// Makes the change; the error says why it cannot be made.
pub fn edit(running: &Config, change: &Change, tables: &TableMemo) -> Result<Edited, String> {
    let mut next = running.clone();
    let edit = match change {
        Change::ServiceAdd { toml } => {
            let added = parse_services(running, toml)?;
            let names = added.iter().map(|service| service.name.clone()).collect();
            next.services.extend(added);
            Edit::ServicesAdded(names)
        }
        Change::ServiceRemove { service } => {
            find_service(&mut next, service)?;
            next.services.retain(|other| other.name != *service);
            Edit::ServiceRemoved(service.clone())
        }
        Change::BackendAdd { service, toml } => {
            let found = find_service(&mut next, service)?;
            let added = parse_backend(running, found, toml)?;
            let id = id(service, &added.name);
            found.backends.push(added);
            Edit::BackendAdded(id)
        }
        Change::BackendRemove { service, backend } => {
            find_backend(&mut next, service, backend)?;
            find_service(&mut next, service)?
                .backends
                .retain(|other| other.name != *backend);
            Edit::BackendRemoved(id(service, backend))
        }
        Change::BackendDrain { service, backend } => {
            set_drain(find_backend(&mut next, service, backend)?, service, true)?
        }
        Change::BackendUndrain { service, backend } => {
            set_drain(find_backend(&mut next, service, backend)?, service, false)?
        }
        Change::BackendWeight {
            service,
            backend,
            weight,
        } => set_weight(find_backend(&mut next, service, backend)?, service, *weight)?,
    };
    check_edited(next, edit, tables)
}

/// Shares of all backends whose share differs between two configurations.
pub fn share_changes(before: &Config, after: &Config, tables: &TableMemo) -> Vec<ShareChange> {
    let mut changes = Vec::new();
    let shares = |service: &Service, config: &Config| {
        let size = config.node.table_size;
        let counts = tables.slot_counts(service, size);
        let names = service.backends.iter().map(|backend| backend.name.clone());
        names
            .zip(counts)
            .map(|(name, count)| (name, f64::from(count) / f64::from(size)))
            .collect::<Vec<_>>()
    };
    let same_size = before.node.table_size == after.node.table_size;
    for service in &after.services {
        let was = before.service(&service.name);
        if was.is_some_and(|was| same_size && was.backends == service.backends) {
            continue;
        }
        let old = was.map(|was| shares(was, before)).unwrap_or_default();
        let new = shares(service, after);
        for (backend, share) in &new {
            let was = old
                .iter()
                .find(|(name, _)| name == backend)
                .map(|(_, s)| *s);
            if was != Some(*share) {
                changes.push(ShareChange {
                    service: service.name.clone(),
                    backend: backend.clone(),
                    before: was,
                    after: Some(*share),
                });
            }
        }
        changes.extend(gone(&service.name, &old, &new));
    }
    for service in &before.services {
        if after.service(&service.name).is_none() {
            changes.extend(gone(&service.name, &shares(service, before), &[]));
        }
    }
    changes
}

fn gone<'a>(
    service: &'a str,
    old: &'a [(String, f64)],
    new: &'a [(String, f64)],
) -> impl Iterator<Item = ShareChange> + 'a {
    old.iter()
        .filter(move |(name, _)| !new.iter().any(|(other, _)| other == name))
        .map(move |(name, share)| ShareChange {
            service: service.to_owned(),
            backend: name.clone(),
            before: Some(*share),
            after: None,
        })
}

/// The services of a fragment as it would stand in a file.
fn parse_services(running: &Config, toml: &str) -> Result<Vec<Service>, String> {
    // Keys before the first header would be read as the node's, and dropped.
    if let Some(key) = top_keys(toml).into_iter().find(|key| key != "service") {
        return Err(format!(
            "`{key}` stands outside of a [[service]] table; a service can be added, nothing else \
             can be set"
        ));
    }
    let mut base = running.clone();
    base.services.clear();
    let added = parse(&base, toml)?.services;
    if added.is_empty() {
        return Err("the text has no [[service]] table".to_owned());
    }
    for service in &added {
        if running.service(&service.name).is_some() {
            return Err(format!("service {} exists already", service.name));
        }
    }
    Ok(added)
}

/// The backend of a fragment as it would stand below `[[service.backend]]`.
fn parse_backend(running: &Config, service: &Service, toml: &str) -> Result<Backend, String> {
    // Tables of its own would be read as the service's, and dropped.
    let tables = ["service", "node"];
    if let Some(key) = top_keys(toml)
        .into_iter()
        .find(|key| tables.contains(&key.as_str()))
    {
        return Err(format!(
            "service {}: the text must hold the keys of one backend, it has a table `{key}`",
            service.name
        ));
    }
    let mut base = running.clone();
    base.services = vec![Service {
        backends: Backends::default(),
        ..service.clone()
    }];
    let parsed = parse(&base, &format!("[[service.backend]]\n{toml}\n"))?;
    let mut backends = parsed
        .services
        .iter()
        .flat_map(|service| &service.backends)
        .cloned();
    match (backends.next(), backends.next()) {
        (Some(backend), None) if service.backend(&backend.name).is_some() => Err(format!(
            "service {}: backend {} exists already",
            service.name, backend.name
        )),
        (Some(backend), None) => Ok(backend),
        _ => Err("the text must describe one backend".to_owned()),
    }
}

/// The keys at the top of a text; none where it is no TOML, which reading it
/// in its place says better.
fn top_keys(toml: &str) -> Vec<String> {
    let table = toml.parse::<toml::Table>().unwrap_or_default();
    table.into_iter().map(|(key, _)| key).collect()
}

/// Reads `addition` at the end of `base`. Rules are not looked at yet.
fn parse(base: &Config, addition: &str) -> Result<Config, String> {
    let text = format!("{}\n{addition}", render::render(base));
    let parsed = config::parse::parse(&text);
    parsed.config.ok_or_else(|| {
        let report = Report::new("the addition", text, parsed.findings);
        report.render(false)
    })
}

/// What the check finds about a configuration that has no text.
pub fn examine(config: &Config, tables: &TableMemo) -> Report {
    let counts = |service: &Service, size: u32| tables.slot_counts(service, size);
    let findings = check_config(config, &Spans::default(), Some(&counts));
    Report::new("the configuration as changed", "", findings)
}

fn check_edited(config: Config, edit: Edit, tables: &TableMemo) -> Result<Edited, String> {
    let report = examine(&config, tables);
    if report.has_errors() {
        return Err(report.render(false));
    }
    Ok(Edited {
        config,
        edit,
        report,
    })
}

fn set_weight(backend: &mut Backend, service: &str, weight: u16) -> Result<Edit, String> {
    let before = std::mem::replace(&mut backend.weight, weight);
    if before == weight {
        return Err(format!(
            "service {service}: backend {} has weight {weight} already",
            backend.name
        ));
    }
    Ok(Edit::Weight {
        of: id(service, &backend.name),
        before,
        after: weight,
    })
}

fn set_drain(backend: &mut Backend, service: &str, drain: bool) -> Result<Edit, String> {
    if backend.drain == drain {
        let state = if drain { "draining" } else { "not draining" };
        return Err(format!(
            "service {service}: backend {} is {state} already",
            backend.name
        ));
    }
    backend.drain = drain;
    let id = id(service, &backend.name);
    Ok(if drain {
        Edit::Drained(id)
    } else {
        Edit::Undrained(id)
    })
}

fn id(service: &str, backend: &str) -> TargetId {
    TargetId {
        service: service.to_owned(),
        backend: backend.to_owned(),
    }
}

fn find_service<'a>(config: &'a mut Config, name: &str) -> Result<&'a mut Service, String> {
    let names: Vec<String> = config.services.iter().map(|s| s.name.clone()).collect();
    config
        .service_mut(name)
        .ok_or_else(|| unknown("service", name, &names))
}

fn find_backend<'a>(
    config: &'a mut Config,
    service: &str,
    name: &str,
) -> Result<&'a mut Backend, String> {
    let service = find_service(config, service)?;
    let names: Vec<String> = service.backends.iter().map(|b| b.name.clone()).collect();
    let of = format!("service {}: backend", service.name);
    service
        .backend_mut(name)
        .ok_or_else(|| unknown(&of, name, &names))
}

fn unknown(what: &str, name: &str, known: &[String]) -> String {
    let nearest = known
        .iter()
        .max_by(|a, b| strsim::jaro(a, name).total_cmp(&strsim::jaro(b, name)));
    match nearest {
        Some(nearest) => format!("{what} {name} does not exist; the nearest name is {nearest}"),
        None => format!("{what} {name} does not exist; there is none at all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[node]
interfaces = ["eth0"]

[[service]]
name = "web"
address = "192.0.2.10"
port = 80
protocol = "tcp"
forward = "l2"
[[service.backend]]
name = "a"
address = "10.0.0.1"
[[service.backend]]
name = "b"
address = "10.0.0.2"

[[service]]
name = "dns"
address = "192.0.2.11"
port = 53
protocol = "udp"
forward = "l2"
[[service.backend]]
name = "d"
address = "10.0.0.3"
"#;

    fn running() -> Config {
        config::examine("test", FILE, None).config.unwrap()
    }

    #[test]
    fn backend_is_added_to_its_own_service_and_the_order_stays() {
        let change = Change::BackendAdd {
            service: "web".to_owned(),
            toml: "name = \"c\"\naddress = \"10.0.0.4\"".to_owned(),
        };
        let edited = edit(&running(), &change, &TableMemo::default()).unwrap();
        assert_eq!(edited.edit.to_string(), "backend c added to service web");
        let names: Vec<_> = edited
            .config
            .services
            .iter()
            .map(|s| s.name.as_str())
            .collect();
        assert_eq!(names, ["web", "dns"]);
        assert_eq!(edited.config.services[0].backends[2].name, "c");
        assert_eq!(edited.config.services[1].backends.len(), 1);
    }

    #[test]
    fn change_that_breaks_a_rule_is_refused_with_the_rule() {
        let change = Change::BackendAdd {
            service: "web".to_owned(),
            toml: "name = \"c\"\naddress = \"10.0.0.1\"".to_owned(),
        };
        let refusal = edit(&running(), &change, &TableMemo::default()).unwrap_err();
        assert!(refusal.contains("duplicate-backend"), "{refusal}");
    }

    #[test]
    fn addition_that_sets_more_than_it_may_is_refused() {
        let service = "[[service]]\nname = \"x\"\naddress = \"192.0.2.12\"\nport = 80\n\
                       protocol = \"tcp\"\nforward = \"l2\"\n\
                       [[service.backend]]\naddress = \"10.0.0.9\"\n";
        let add = |toml: String| Change::ServiceAdd { toml };
        assert!(edit(&running(), &add(service.to_owned()), &TableMemo::default()).is_ok());
        let change = add(format!("answer_echo = false\n{service}"));
        let refusal = edit(&running(), &change, &TableMemo::default()).unwrap_err();
        assert!(
            refusal.starts_with("`answer_echo` stands outside"),
            "{refusal}"
        );

        let backend = "name = \"c\"\naddress = \"10.0.0.4\"\n";
        let add = |toml: String| Change::BackendAdd {
            service: "web".to_owned(),
            toml,
        };
        assert!(edit(&running(), &add(backend.to_owned()), &TableMemo::default()).is_ok());
        let without_backends = service.split("[[service.backend]]").next().unwrap();
        for table in ["[service.health]\nkind = \"tcp\"\n", without_backends] {
            let change = add(format!("{backend}{table}"));
            let refusal = edit(&running(), &change, &TableMemo::default()).unwrap_err();
            assert!(refusal.ends_with("it has a table `service`"), "{refusal}");
        }
    }

    #[test]
    fn unknown_names_are_answered_with_the_nearest() {
        let change = Change::BackendDrain {
            service: "wep".to_owned(),
            backend: "a".to_owned(),
        };
        let refusal = edit(&running(), &change, &TableMemo::default()).unwrap_err();
        assert_eq!(
            refusal,
            "service wep does not exist; the nearest name is web"
        );
    }

    #[test]
    fn drain_moves_the_whole_share() {
        let change = Change::BackendDrain {
            service: "web".to_owned(),
            backend: "a".to_owned(),
        };
        let edited = edit(&running(), &change, &TableMemo::default()).unwrap();
        let changes = share_changes(&running(), &edited.config, &TableMemo::default());
        assert_eq!(changes.len(), 2);
        assert_eq!(changes[0].after, Some(0.0));
        assert_eq!(changes[1].after, Some(1.0));
        assert!(
            edit(&edited.config, &change, &TableMemo::default())
                .unwrap_err()
                .contains("already")
        );
    }
}
