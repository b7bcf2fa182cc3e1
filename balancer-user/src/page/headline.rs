//! The line that a page begins with: is it the load balancer?

use serde::Serialize;

use crate::desired::BackendState;
use crate::metrics::Observed;

/// How things are, in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Headline {
    /// `good`, `warn` or `bad`.
    pub tone: &'static str,
    /// One sentence.
    pub text: String,
}

/// How grave a service's state is: 0 is well.
pub fn gravity(state: &str) -> u8 {
    match state {
        "up" => 0,
        "degraded" => 1,
        "on-backups" => 2,
        "fail-open" => 3,
        _ => 4,
    }
}

/// Backends that take traffic, and those that are wanted to.
pub fn standing<'a>(states: impl Iterator<Item = &'a BackendState>) -> (usize, usize) {
    let (mut up, mut wanted) = (0, 0);
    for state in states {
        match state {
            BackendState::Up => {
                up += 1;
                wanted += 1;
            }
            BackendState::Down | BackendState::Unproven | BackendState::Held => wanted += 1,
            BackendState::Standby | BackendState::Draining | BackendState::Disabled => {}
        }
    }
    (up, wanted)
}

/// Of all that is known, what matters most.
pub fn headline(observed: &Observed) -> Headline {
    let open: u64 = observed.open_incidents.values().sum();
    if let Some(first) = observed.incidents.first() {
        let text = match open {
            0 | 1 => format!("{}: {}", first.kind.name(), whose(first)),
            open => format!(
                "{open} incidents are open, the gravest: {}: {}",
                first.kind.name(),
                whose(first)
            ),
        };
        return Headline { tone: "bad", text };
    }
    let services = &observed.services;
    let unwell = services.iter().filter(|it| gravity(it.state) > 0);
    if let Some(worst) = unwell.clone().max_by_key(|it| gravity(it.state)) {
        let others = match unwell.count() - 1 {
            0 => String::new(),
            more => format!(", and {more} more are not as they should be"),
        };
        let tone = if gravity(worst.state) > 1 {
            "bad"
        } else {
            "warn"
        };
        let text = format!("service {} is {}{others}", worst.shape.service, worst.state);
        return Headline { tone, text };
    }
    if let Some(problem) = observed.problems.first() {
        return Headline {
            tone: "warn",
            text: problem.clone(),
        };
    }
    if services.is_empty() {
        return Headline {
            tone: "warn",
            text: "no service is configured: every packet passes by untouched".to_owned(),
        };
    }
    let states = services.iter().flat_map(|it| &it.backends);
    let (up, wanted) = standing(states.map(|it| &it.state));
    let services = match services.as_slice() {
        [service] => format!("service {} is up", service.shape.service),
        all => format!("all {} services are up", all.len()),
    };
    Headline {
        tone: "good",
        text: format!(
            "{services}, {up} of {wanted} backends take traffic, and flows go where the tables \
             say"
        ),
    }
}

fn whose(incident: &crate::watch::incident::Incident) -> String {
    match (incident.service.as_str(), &incident.backend) {
        ("", _) => incident.what.clone(),
        (service, None) => format!("service {service}: {}", incident.what),
        (service, Some(backend)) => format!("service {service}: {backend} {}", incident.what),
    }
}
