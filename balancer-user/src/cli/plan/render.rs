//! A plan as text: a table a service, the findings, and the summary last.

use super::super::table::{Column, Table};
use super::super::units;
use super::existing;
use crate::api::types::Planned;
use crate::parallel;
use crate::plan::{BackendPlan, CapacityPlan, Established, Fate, Loss, Plan, ServicePlan};
use crate::plan::{Move, SettingChange};

/// Moves that are shown of a service.
const MAX_MOVES: usize = 5;

pub(in crate::cli) fn render(planned: &Planned) -> String {
    let mut text = String::new();
    if let Some(plan) = &planned.plan {
        text.push_str(&changes(plan));
    }
    text.push_str(&existing::render(planned));
    text.push_str(&planned.text);
    text.push_str(&summary(planned));
    text
}

fn summary(planned: &Planned) -> String {
    let what = match &planned.plan {
        Some(plan) => plan.summary.as_str(),
        None => "not planned, as the file is refused",
    };
    let found: Vec<String> = [
        (planned.errors, "error"),
        (planned.warnings, "warning"),
        (planned.allowed, "allowed finding"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, noun)| units::counted(count as u64, noun))
    .collect();
    match found.as_slice() {
        [] => format!("{what}\n"),
        found => format!("{what}; {}\n", found.join(", ")),
    }
}

fn changes(plan: &Plan) -> String {
    let mut text = String::new();
    if !plan.node.is_empty() {
        text.push_str("node\n");
        for setting in &plan.node {
            let restart = match plan.needs_restart.contains(&setting.key) {
                true => ", which only a restart takes",
                false => "",
            };
            text.push_str(&format!("  {}{restart}\n", shown(setting)));
        }
        text.push('\n');
    }
    if !plan.apply.is_empty() {
        text.push_str("apply\n");
        for setting in &plan.apply {
            text.push_str(&format!("  {}\n", shown(setting)));
        }
        text.push('\n');
    }
    for service in parallel::map(plan.services.iter().collect(), one_service) {
        text.push_str(&service);
        text.push('\n');
    }
    text
}

fn one_service(service: &ServicePlan) -> String {
    let mut text = format!("service {} {}\n", service.name, fate(service.fate));
    let mut line = |said: String| text.push_str(&format!("  {said}\n"));
    service.settings.iter().map(shown).for_each(&mut line);
    if let Some(moves) = moves(service) {
        line(moves);
    }
    established(&service.established)
        .into_iter()
        .for_each(&mut line);
    if let Some(capacity) = &service.capacity {
        capacity_lines(capacity).into_iter().for_each(&mut line);
    }
    text.push_str(&backends(service).render("  "));
    text
}

fn fate(fate: Fate) -> &'static str {
    match fate {
        Fate::Added => "is added",
        Fate::Removed => "is removed",
        Fate::Replaced => "is another server",
        Fate::Changed => "changes",
        Fate::Kept => "stays",
    }
}

fn shown(setting: &SettingChange) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "unset".to_owned());
    let (before, after) = (value(&setting.before), value(&setting.after));
    format!("{} {before} -> {after}", setting.key)
}

fn moves(service: &ServicePlan) -> Option<String> {
    if service.share_moved == 0.0 {
        return None;
    }
    let rate = match service.flows_per_second_moved {
        Some(rate) => format!(" ({} a second now)", units::rate(rate)),
        None => String::new(),
    };
    let one = |it: &Move| {
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "nobody".to_owned());
        let (from, to) = (name(&it.from), name(&it.to));
        format!("{from} -> {to} {}", units::percent(it.share))
    };
    let shown: Vec<String> = service.moves.iter().take(MAX_MOVES).map(one).collect();
    let more = service.moves.len() + service.moves_left_out - shown.len();
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "{} of its new flows move{rate}: {}{more}",
        units::percent(service.share_moved),
        shown.join(", ")
    ))
}

fn established(found: &Established) -> Vec<String> {
    let mut lines = Vec::new();
    let time = found.kept_seconds.map(units::ago).unwrap_or_default();
    if found.share_kept > 0.0 {
        lines.push(format!(
            "established flows in what moves stay where they are until silent for {time}"
        ));
    }
    if !found.drained.is_empty() {
        let names = found.drained.join(", ");
        lines.push(format!(
            "{names}: established flows are kept for {time}, then break"
        ));
    }
    for broken in &found.breaks {
        let whose = match (&broken.backend, broken.share) {
            (Some(backend), Some(share)) => {
                format!("those of {backend}, {}", units::percent(share))
            }
            (Some(backend), None) => format!("those of {backend}"),
            (None, Some(share)) => units::percent(share),
            (None, None) => "some".to_owned(),
        };
        lines.push(format!("established flows break: {whose}: {}", broken.why));
    }
    lines
}

fn capacity_lines(capacity: &CapacityPlan) -> Vec<String> {
    let peak = capacity.peak_flows_per_second;
    let mut lines = Vec::new();
    if !capacity.overloaded.is_empty() {
        lines.push(format!(
            "at its peak of {peak} new flows a second too much for {}",
            capacity.overloaded.join(", ")
        ));
    }
    let losses = [
        ("backend", &capacity.without_backend),
        ("zone", &capacity.without_zone),
    ];
    for (kind, loss) in losses {
        lines.extend(loss.as_ref().map(|loss| after_loss(kind, loss, peak)));
    }
    lines
}

fn after_loss(kind: &str, loss: &Loss, peak: u64) -> String {
    let lost = &loss.lost;
    match &loss.survivor {
        None => format!("without {kind} {lost} nobody is left"),
        Some(survivor) => format!(
            "without {kind} {lost} at its peak of {peak}: {survivor} gets {} of {} new flows a \
             second{}",
            loss.load,
            loss.limit,
            if loss.exceeds { ", too much" } else { "" }
        ),
    }
}

fn backends(service: &ServicePlan) -> Table {
    let columns = [
        Column::Text("backend"),
        Column::Text("state"),
        Column::Number("share now"),
        Column::Number("share after"),
        Column::Number("flows/s now"),
        Column::Number("flows/s after"),
        Column::Text("change"),
    ];
    let mut table = Table::new(&columns, false);
    for backend in &service.backends {
        let percent = |share: Option<f64>| share.map_or("-".to_owned(), units::percent);
        let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), units::rate);
        table.row([
            backend.name.clone(),
            state(backend),
            percent(backend.share_now),
            percent(backend.share_after),
            rate(backend.flows_per_second_now),
            rate(backend.flows_per_second_after),
            change(backend),
        ]);
    }
    table
}

fn state(backend: &BackendPlan) -> String {
    match (&backend.state_now, &backend.state_after) {
        (Some(now), Some(after)) if now == after => now.clone(),
        (Some(now), Some(after)) => format!("{now} -> {after}"),
        (Some(now), None) => format!("{now} -> gone"),
        (None, after) => format!("new -> {}", after.as_deref().unwrap_or("gone")),
    }
}

fn change(backend: &BackendPlan) -> String {
    let mut parts = Vec::new();
    match backend.fate {
        Fate::Added => parts.push(format!("added at {}", backend.address)),
        Fate::Removed => parts.push("removed".to_owned()),
        Fate::Replaced | Fate::Changed | Fate::Kept => {}
    }
    parts.extend(backend.settings.iter().map(shown));
    // What a table of all that are wanted would be, where some are not up.
    if backend.slots_all_up != backend.slots_after
        && let Some(share) = backend.share_all_up
    {
        parts.push(format!("{} were all up", units::percent(share)));
    }
    parts.join(", ")
}
