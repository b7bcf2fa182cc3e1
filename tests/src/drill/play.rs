//! The three plays of a drill: prevented, undone, explained.

use std::collections::BTreeSet;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancer_user::api::types::History;
use balancer_user::revision::Outcome;
use balancer_user::watch::incident::Incident;

use super::LIMIT;
use super::moments::{between, first, moments};
use super::scene::{Fared, Scene, now};
use crate::lab::wait_for;

/// What has to have been answered before something is done, and after it.
const BEFORE: u64 = 500;
const AFTER: u64 = 300;
/// The same before a fault: the watch learns what is usual.
const USUAL: u64 = 4000;
/// How long a stage is watched: what `[apply]` says unless the file does.
const HOLD: &str = "10s";

/// The change, made as changes are made.
#[derive(Debug)]
pub struct Prevented {
    /// Each refusal: what had been overridden, and the findings as printed.
    pub refusals: Vec<(Vec<&'static str>, Vec<String>)>,
    /// From the first command to its end.
    pub took: Duration,
    /// How clients fared meanwhile.
    pub fared: Fared,
}

/// The same with its findings overridden.
#[derive(Debug)]
pub struct Undone {
    /// The command.
    pub command: String,
    /// From the change's begin to each thing that happened.
    pub timeline: Vec<(Duration, String)>,
    /// The same to its being undone.
    pub took: Duration,
    /// Why, as the revision has it.
    pub why: String,
    /// Percent of the slots that had moved.
    pub moved: f64,
    /// How clients fared meanwhile.
    pub fared: Fared,
}

/// The same trouble brought about from outside.
#[derive(Debug)]
pub struct Explained {
    /// The incidents that named it, each with the time from the fault on.
    pub named: Vec<(Duration, Incident)>,
    /// What was typed, as the incidents have it.
    pub typed: Vec<String>,
    /// From the fault to that.
    pub typed_after: Duration,
    /// From the fault to the end of the last incident: its last sign is some
    /// seconds old then.
    pub over: Duration,
    /// How clients fared meanwhile.
    pub fared: Fared,
}

impl Explained {
    /// From the fault to the last of its names.
    pub fn took(&self) -> Duration {
        self.named.iter().map(|it| it.0).max().unwrap_or_default()
    }
}

fn apply(scene: &Scene<'_>, options: &[&str]) -> Result<Output> {
    scene.write_wrong_file()?;
    let file = scene.balancer.config();
    let file = file.to_str().context("a path that is no text")?;
    scene
        .balancer
        .command(&[&["apply", "--yes"], options, &[file]].concat())
}

fn history(scene: &Scene<'_>) -> Result<History> {
    let text = scene.balancer.succeed(&["history", "--json"])?;
    Ok(serde_json::from_str(&text)?)
}

/// `error[RULE]: ...`, each once, as they were printed.
fn errors(output: &Output) -> Vec<String> {
    let said = String::from_utf8_lossy(&output.stdout);
    let mut seen = BTreeSet::new();
    let errors = said.lines().filter(|line| line.starts_with("error["));
    let news = errors.filter(|line| seen.insert(line.to_string()));
    news.map(ToOwned::to_owned).collect()
}

/// Makes the change as every change is made; and again with what stopped it
/// overridden, as long as something else stops it.
pub(super) fn prevented(scene: &Scene<'_>) -> Result<Prevented> {
    let crowd = scene.clients()?;
    crowd.wait_answers(BEFORE)?;
    let before = scene.balancer.succeed(&["show", "--config"])?;
    let revisions = history(scene)?.revisions.len();
    let mut refusals = Vec::new();
    let mut took = None;
    let mut allowed: Vec<&'static str> = Vec::new();
    for rules in scene.script.change.stopped_by {
        let began = now();
        let options: Vec<&str> = options(&allowed).collect();
        let output = apply(scene, &options)?;
        took.get_or_insert(between(began, now()));
        ensure!(output.status.code() == Some(1), "not stopped: {output:?}");
        let findings = errors(&output);
        let named: BTreeSet<&str> = findings.iter().filter_map(|it| rule(it)).collect();
        let wanted: BTreeSet<&str> = rules.iter().copied().collect();
        ensure!(named == wanted, "stopped by {named:?}: {output:?}");
        refusals.push((allowed.clone(), findings));
        allowed.extend(*rules);
    }
    crowd.wait_answers(AFTER)?;
    let fared = crowd.leave()?;
    let after = history(scene)?.revisions.len();
    ensure!(after == revisions, "it became a revision");
    let config = scene.balancer.succeed(&["show", "--config"])?;
    ensure!(config == before, "it is in force: {config}");
    ensure!(fared.harmed() == 0, "{fared}: {:?}", fared.first_failure);
    Ok(Prevented {
        refusals,
        took: took.unwrap_or_default(),
        fared,
    })
}

fn rule(finding: &str) -> Option<&str> {
    finding.strip_prefix("error[")?.split(']').next()
}

fn options<'r>(rules: &'r [&'static str]) -> impl Iterator<Item = &'r str> {
    rules.iter().flat_map(|rule| ["--allow", *rule])
}

/// Makes the change though it was stopped.
pub(super) fn undone(scene: &Scene<'_>) -> Result<Undone> {
    let change = &scene.script.change;
    let crowd = scene.clients()?;
    crowd.wait_answers(BEFORE)?;
    let rules = change.rules();
    let forced: Vec<&str> = ["--hold", HOLD]
        .into_iter()
        .chain(options(&rules))
        .collect();
    let output = apply(scene, &forced)?;
    crowd.wait_answers(AFTER)?;
    let fared = crowd.leave()?;
    ensure!(
        output.status.code() == Some(1),
        "it was not undone: {output:?}"
    );
    let history = history(scene)?;
    let revision = history.revisions.last().context("no revision")?;
    let Outcome::Undone { why, .. } = &revision.outcome else {
        anyhow::bail!("{:?}: {output:?}", revision.outcome);
    };
    ensure!(why.contains(change.undone_because), "{why}");
    ensure!(history.in_force == Some(1), "{:?}", history.in_force);
    let log = moments(&scene.balancer.log());
    let number = revision.number;
    let begun = first(&log, &["change begins", &format!("revision={number} ")])?;
    let mut timeline = vec![(Duration::ZERO, "the change begins".to_owned())];
    for stage in &revision.stages {
        let moved = format!("revision {number}: {} % moved", stage.percent);
        let at = between(begun, first(&log, &[&moved])?);
        timeline.push((at, format!("{} % of what moves has moved", stage.percent)));
    }
    let took = between(
        begun,
        first(&log, &["change undone", &format!("revision={number} ")])?,
    );
    timeline.push((took, format!("undone: {why}")));
    Ok(Undone {
        command: format!("balancer apply {} FILE", forced.join(" ")),
        timeline,
        took,
        why: why.clone(),
        moved: revision.stages.last().map_or(0.0, |it| it.percent),
        fared,
    })
}

/// Brings the trouble about from outside, and does what the incidents say.
pub(super) fn explained(scene: &mut Scene<'_>) -> Result<Explained> {
    let fault = &scene.script.fault;
    let crowd = scene.clients()?;
    crowd.wait_answers(USUAL)?;
    scene.wait_quiet()?;
    let last = scene.last_incident()?;
    let began = now();
    (fault.bring)(scene)?;
    let incidents = wait_for(&format!("{:?}", fault.named), LIMIT, || {
        named(scene, last).ok()?
    })
    .with_context(|| scene.balancer.log())?;
    let mut typed: Vec<String> = Vec::new();
    for incident in &incidents {
        let text = format!("{incident}; try `{}`", incident.command);
        ensure!(incident.service == scene.script.setting.service, "{text}");
        for word in fault.words {
            ensure!(text.contains(word), "no {word:?} in {text}");
        }
        let backend = incident.backend.as_deref().unwrap_or_default();
        ensure!(
            incident.command == fault.remedy.replace("BACKEND", backend),
            "{text}"
        );
        if !typed.contains(&incident.command) {
            typed.push(incident.command.clone());
        }
    }
    let typed_after = between(began, now());
    for line in &typed {
        let output = scene.type_in(line)?;
        // `verify` says with 1 that there was something to be found.
        let is_known = matches!(output.status.code(), Some(0 | 1));
        ensure!(is_known && output.stderr.is_empty(), "{line}: {output:?}");
    }
    scene
        .wait_quiet()
        .with_context(|| format!("after {typed:?}"))?;
    crowd.wait_answers(AFTER)?;
    let fared = crowd.leave()?;
    let log = moments(&scene.balancer.log());
    let mut over = Duration::ZERO;
    let mut named = Vec::new();
    for incident in incidents {
        let number = format!("incident={} ", incident.number);
        over = over.max(between(began, first(&log, &[" over ", &number])?));
        named.push((between(began, first(&log, &["ERROR", &number])?), incident));
    }
    Ok(Explained {
        named,
        typed,
        typed_after,
        over,
        fared,
    })
}

/// The incidents that the script asks for, once all are there.
fn named(scene: &Scene<'_>, last: u64) -> Result<Option<Vec<Incident>>> {
    let opened = scene.opened_since(last)?;
    let wanted = scene.script.fault.named.iter();
    let found = wanted.map(|(kind, number)| {
        let backend = scene.name(*number);
        let is_it = |it: &&Incident| it.kind == *kind && it.backend.as_ref() == Some(&backend);
        opened.iter().find(is_it).cloned()
    });
    Ok(found.collect())
}
