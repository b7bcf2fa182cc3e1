//! Everyday changes, made to the configuration itself.
//!
//! A change is an edit of the model; what comes out is written as a file and
//! read back by the same parser and checks as every other file. There is no
//! second way in. Pure.

use crate::api::types::{Change, ShareChange};
use crate::config::diagnostic::Report;
use crate::config::model::{Backend, Config, Service};
use crate::config::{self, render};
use crate::desired;

/// A configuration with a change in it, checked.
#[derive(Debug, Clone)]
pub struct Edited {
    /// The configuration as changed.
    pub config: Config,
    /// What was done, in one sentence.
    pub summary: String,
    /// Findings of the check about it.
    pub report: Report,
}

/// Makes the change; the error says why it cannot be made.
pub fn edit(running: &Config, change: &Change) -> Result<Edited, String> {
    let mut next = running.clone();
    let (addition, summary) = match change {
        Change::ServiceAdd { toml } => (toml.clone(), String::new()),
        Change::ServiceRemove { service } => {
            find_service(&mut next, service)?;
            next.services.retain(|other| other.name != *service);
            (String::new(), format!("service {service} removed"))
        }
        Change::BackendAdd { service, toml } => return add_backend(running, service, toml),
        Change::BackendRemove { service, backend } => {
            find_backend(&mut next, service, backend)?;
            find_service(&mut next, service)?
                .backends
                .retain(|other| other.name != *backend);
            (
                String::new(),
                format!("backend {backend} removed from service {service}"),
            )
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
        } => {
            let found = find_backend(&mut next, service, backend)?;
            let before = std::mem::replace(&mut found.weight, *weight);
            if before == *weight {
                return Err(format!(
                    "service {service}: backend {backend} has weight {weight} already"
                ));
            }
            let summary = format!("service {service}: weight of {backend} {before} -> {weight}");
            (String::new(), summary)
        }
    };
    read_back(&next, &addition, running, summary)
}

/// Shares of all backends whose share differs between two configurations.
pub fn share_changes(before: &Config, after: &Config) -> Vec<ShareChange> {
    let mut changes = Vec::new();
    let old_shares = |name: &str| before.service(name).map(|service| shares(service, before));
    for service in &after.services {
        let old = old_shares(&service.name).unwrap_or_default();
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

fn shares(service: &Service, config: &Config) -> Vec<(String, f64)> {
    let size = config.node.table_size;
    service
        .backends
        .iter()
        .zip(desired::slot_counts(service, size))
        .map(|(backend, count)| (backend.name.clone(), f64::from(count) / f64::from(size)))
        .collect()
}

fn add_backend(running: &Config, service: &str, toml: &str) -> Result<Edited, String> {
    let mut next = running.clone();
    find_service(&mut next, service)?;
    // A backend's table belongs to the service that stands last in the file.
    let order = |config: &mut Config, first: &Config| {
        config.services.sort_by_key(|service| {
            first
                .services
                .iter()
                .position(|other| other.name == service.name)
        });
    };
    next.services.sort_by_key(|other| other.name == service);
    let addition = format!("\n[[service.backend]]\n{toml}\n");
    let mut edited = read_back(&next, &addition, running, String::new())?;
    order(&mut edited.config, running);
    let added = edited
        .config
        .service(service)
        .and_then(|s| s.backends.last());
    let name = added.map_or("?", |backend| backend.name.as_str());
    edited.summary = format!("backend {name} added to service {service}");
    Ok(edited)
}

fn read_back(
    next: &Config,
    addition: &str,
    running: &Config,
    summary: String,
) -> Result<Edited, String> {
    let text = format!("{}\n{addition}", render::render(next));
    let counts = |service: &Service, size: u32| desired::slot_counts(service, size);
    let examined = config::examine("the configuration as changed", text, Some(&counts));
    let config = match examined.config {
        Some(config) if !examined.report.has_errors() => config,
        _ => return Err(examined.report.render(false)),
    };
    let summary = match summary.as_str() {
        "" => {
            let added = config
                .services
                .iter()
                .filter(|service| running.service(&service.name).is_none());
            let names: Vec<&str> = added.map(|service| service.name.as_str()).collect();
            format!("service {} added", names.join(", "))
        }
        _ => summary,
    };
    Ok(Edited {
        config,
        summary,
        report: examined.report,
    })
}

fn set_drain(
    backend: &mut Backend,
    service: &str,
    drain: bool,
) -> Result<(String, String), String> {
    let (state, done) = if drain {
        ("draining", "drains")
    } else {
        ("not draining", "drains no more")
    };
    if backend.drain == drain {
        return Err(format!(
            "service {service}: backend {} is {state} already",
            backend.name
        ));
    }
    backend.drain = drain;
    Ok((
        String::new(),
        format!("service {service}: backend {} {done}", backend.name),
    ))
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
        let edited = edit(&running(), &change).unwrap();
        assert_eq!(edited.summary, "backend c added to service web");
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
        let refusal = edit(&running(), &change).unwrap_err();
        assert!(refusal.contains("duplicate-backend"), "{refusal}");
    }

    #[test]
    fn unknown_names_are_answered_with_the_nearest() {
        let change = Change::BackendDrain {
            service: "wep".to_owned(),
            backend: "a".to_owned(),
        };
        let refusal = edit(&running(), &change).unwrap_err();
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
        let edited = edit(&running(), &change).unwrap();
        let changes = share_changes(&running(), &edited.config);
        assert_eq!(changes.len(), 2);
        assert_eq!(changes[0].after, Some(0.0));
        assert_eq!(changes[1].after, Some(1.0));
        assert!(
            edit(&edited.config, &change)
                .unwrap_err()
                .contains("already")
        );
    }
}
