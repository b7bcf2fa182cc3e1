//! A plan in one line.

use super::types::{BackendPlan, Fate, Plan, ServicePlan};

/// Names that are listed before the rest is only counted.
const MAX_NAMES: usize = 3;

/// What a person judges a plan by.
pub(super) fn of(plan: &Plan) -> String {
    let mut parts = Vec::new();
    if !plan.has_changes {
        parts.push("nothing changes".to_owned());
    }
    for (fate, what) in [
        (Fate::Changed, "changes"),
        (Fate::Added, "is added"),
        (Fate::Removed, "is removed"),
    ] {
        parts.extend(counted(plan, fate, what));
    }
    if !plan.services.is_empty() {
        parts.push(new_flows(plan));
        parts.push(established(plan));
    }
    parts.extend(plan.services.iter().filter_map(drained));
    let node = plan.node.iter().map(|it| format!("node.{}", it.key));
    let apply = plan.apply.iter().map(|it| format!("apply.{}", it.key));
    let keys: Vec<String> = node.chain(apply).collect();
    if !keys.is_empty() {
        let verb = if keys.len() == 1 { "changes" } else { "change" };
        parts.push(format!("{} {verb}", listed(keys.into_iter())));
    }
    if !plan.needs_restart.is_empty() {
        let keys = plan.needs_restart.iter().map(|key| format!("node.{key}"));
        parts.push(format!("only a restart takes {}", listed(keys)));
    }
    if !plan.drains_on.is_empty() {
        let names = plan.drains_on.iter();
        let names = names.map(|(service, backend)| format!("{backend} of service {service}"));
        parts.push(format!(
            "drained by command and still so: {}",
            listed(names)
        ));
    }
    parts.join("; ")
}

fn counted(plan: &Plan, fate: Fate, what: &str) -> Option<String> {
    let count = plan.services.iter().filter(|it| it.fate == fate).count();
    let plural = match what {
        "changes" => "change".to_owned(),
        other => other.replacen("is", "are", 1),
    };
    match count {
        0 => None,
        1 => Some(format!("1 service {what}")),
        count => Some(format!("{count} services {plural}")),
    }
}

fn new_flows(plan: &Plan) -> String {
    let moving =
        |service: &&ServicePlan| service.fate != Fate::Removed && service.share_moved > 0.0;
    let most = plan
        .services
        .iter()
        .filter(moving)
        .max_by(|a, b| a.share_moved.total_cmp(&b.share_moved));
    let Some(most) = most else {
        return "no new flows move".to_owned();
    };
    let share = percent(most.share_moved);
    if plan.services.len() > 1 {
        let count = plan.services.iter().filter(moving).count();
        return match count {
            1 => format!("{share} of the new flows of service {} move", most.name),
            count => format!(
                "new flows of {count} services move, at most {share} of a service's ({})",
                most.name
            ),
        };
    }
    let (from, to) = parties(most);
    format!(
        "{share} of its new flows move from {} to {}",
        listed(from.into_iter()),
        listed(to.into_iter())
    )
}

/// Who loses and who gains on balance, the most first. A few slots change
/// hands among the others, too, which says nothing. Where no share changes,
/// servers change behind the names, or names before the servers.
fn parties(service: &ServicePlan) -> (Vec<String>, Vec<String>) {
    let gain = |it: &BackendPlan| it.share_after.unwrap_or(0.0) - it.share_now.unwrap_or(0.0);
    let mut gains: Vec<(f64, &BackendPlan)> =
        service.backends.iter().map(|it| (gain(it), it)).collect();
    gains.sort_by(|(a, _), (b, _)| b.abs().total_cmp(&a.abs()));
    // A slot more or less is the rounding of the same share.
    let slot = 1.5 / f64::from(service.slots_now.min(service.slots_after).max(1));
    let with = |sign: f64| {
        let found = gains.iter().filter(|(gain, _)| gain * sign > slot);
        found.map(|(_, it)| it.name.clone()).collect::<Vec<_>>()
    };
    let (losers, mut gainers) = (with(-1.0), with(1.0));
    if service.slots_after == 0 {
        gainers.push("nobody".to_owned());
    }
    if !losers.is_empty() && !gainers.is_empty() {
        return (losers, gainers);
    }
    let taken = service.moves.iter().filter(|it| it.from.is_some());
    (
        distinct(taken.clone().map(|it| it.from.clone())),
        distinct(taken.map(|it| it.to.clone())),
    )
}

fn established(plan: &Plan) -> String {
    let broken: Vec<&ServicePlan> = plan
        .services
        .iter()
        .filter(|service| !service.established.breaks.is_empty())
        .collect();
    let [one] = broken.as_slice() else {
        return match broken.len() {
            0 => "0 established flows break".to_owned(),
            count => format!(
                "established flows of {count} services break: {}",
                listed(broken.iter().map(|service| service.name.clone()))
            ),
        };
    };
    let found = &one.established;
    let is_known = found.breaks.iter().all(|it| it.share.is_some());
    let share = match (is_known, found.share_breaking > 0.0) {
        (true, _) => percent(found.share_breaking),
        (false, true) => format!("at least {}", percent(found.share_breaking)),
        (false, false) => "some".to_owned(),
    };
    let backends = distinct(found.breaks.iter().map(|it| it.backend.clone()));
    let whose = match found.breaks.iter().all(|it| it.backend.is_some()) {
        true => format!(", those of {}", listed(backends.into_iter())),
        false => String::new(),
    };
    format!(
        "{share} of the established flows of service {} break{whose}",
        one.name
    )
}

fn drained(service: &ServicePlan) -> Option<String> {
    let found = &service.established;
    let seconds = found.kept_seconds?;
    if found.drained.is_empty() {
        return None;
    }
    let time = humantime::format_duration(std::time::Duration::from_secs(seconds));
    Some(format!(
        "{} of service {} drains: its flows are kept for {time}",
        listed(found.drained.iter().cloned()),
        service.name
    ))
}

/// Each name once, in the order in which they come.
fn distinct(names: impl Iterator<Item = Option<String>>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for name in names {
        let name = name.unwrap_or_else(|| "nobody".to_owned());
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(MAX_NAMES);
    if more > 0 {
        names.truncate(MAX_NAMES);
        return format!("{} and {more} more", names.join(", "));
    }
    names.join(", ")
}

/// What is there is never shown as nothing.
fn percent(share: f64) -> String {
    match share > 0.0 && share < 0.0005 {
        true => "under 0.1 %".to_owned(),
        false => format!("{:.1} %", share * 100.0),
    }
}
