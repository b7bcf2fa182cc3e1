//! The line that says whether all is well.

use super::super::units;
use super::drops;
use crate::api::types::{BackendStatus, ServiceStatus, Status};

/// Backends that one line names; more would not be read.
const MAX_NAMED: usize = 3;

/// Whether all is well, and the line that says so or what is wrong first.
pub(in crate::cli) fn headline(status: &Status) -> (bool, String) {
    let unwell: Vec<&ServiceStatus> = status
        .services
        .iter()
        .filter(|service| service.state != "up")
        .collect();
    if let Some((first, others)) = unwell.split_first() {
        return (false, format!("{}{}", describe(first), and_others(others)));
    }
    if let Some((first, others)) = status.problems.split_first() {
        let more = match others.len() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        return (false, format!("{first}{more}"));
    }
    if status.services.is_empty() {
        let line = "no service is configured: every packet passes by untouched";
        return (false, line.to_owned());
    }
    (true, all_is_well(status))
}

fn all_is_well(status: &Status) -> String {
    let backends = || status.services.iter().flat_map(|it| &it.backends);
    let with = |state: &str| backends().filter(|it| it.state == state).count();
    let wanted = backends().filter(|it| is_wanted(it)).count();
    let mut line = match status.services.as_slice() {
        [service] => format!("service {} up", service.name),
        services => format!("all {} services up", services.len()),
    };
    let up = backends().filter(|it| it.is_up()).count();
    line.push_str(&format!(", {up} of {wanted} backends"));
    for state in ["slow-start", "trickle", "standby", "draining", "disabled"] {
        if with(state) > 0 {
            line.push_str(&format!(", {} {state}", with(state)));
        }
    }
    let dropped: u64 = drops(status).iter().map(|(_, packets)| packets).sum();
    let dropped = match dropped {
        0 => "no packet".to_owned(),
        _ => units::counted(dropped, "packet"),
    };
    format!("{line}, {dropped} dropped since the start")
}

/// `service web degraded: web-3 down since 12s: connection refused`.
fn describe(service: &ServiceStatus) -> String {
    let unwell: Vec<&BackendStatus> = service
        .backends
        .iter()
        .filter(|backend| is_wanted(backend) && !backend.is_up())
        .collect();
    let mut parts: Vec<String> = unwell
        .iter()
        .take(MAX_NAMED)
        .map(|backend| {
            let mut part = format!("{} {}", backend.name, backend.state);
            if let Some(seconds) = backend.since_seconds {
                part.push_str(&format!(" since {}", units::ago(seconds)));
            }
            if let Some(failure) = &backend.last_failure {
                part.push_str(&format!(": {failure}"));
            }
            part
        })
        .collect();
    if unwell.len() > MAX_NAMED {
        parts.push(format!("{} more", unwell.len() - MAX_NAMED));
    }
    if unwell.is_empty() {
        parts.push("no backend takes new flows".to_owned());
    }
    format!(
        "service {} {}: {}",
        service.name,
        service.state,
        parts.join("; ")
    )
}

fn and_others(others: &[&ServiceStatus]) -> String {
    if others.is_empty() {
        return String::new();
    }
    let names: Vec<String> = others
        .iter()
        .take(MAX_NAMED)
        .map(|service| format!("{} {}", service.name, service.state))
        .collect();
    let more = match others.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("; also {}{more}", names.join(", "))
}

/// Whether an operator wants it to take new flows.
fn is_wanted(backend: &BackendStatus) -> bool {
    !matches!(backend.state.as_str(), "draining" | "disabled" | "standby")
}
