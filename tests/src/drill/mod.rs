//! Drills: real outages, rebuilt with real servers and real load.
//!
//! Each is played three times. *Prevented*: the change that brought the outage
//! about is made as changes are made, and is stopped. *Undone*: the same change
//! is made with what stopped it overridden, and the balancer undoes it by
//! itself. *Explained*: the same trouble comes from outside, where nothing can
//! prevent it; the incident has to name service, cause and remedy, and the
//! remedy, typed as printed, has to end it. Times are the daemon's own.

mod markdown;
mod moments;
pub mod outages;
mod play;
mod scene;
pub mod script;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::lab::cleanup;
pub use play::{Explained, Prevented, Undone};
pub use scene::{Fared, Scene};
use script::Script;

/// In which a forced change has to be undone.
pub const UNDONE_WITHIN: Duration = Duration::from_secs(15);
/// In which trouble from outside has to be named.
pub const NAMED_WITHIN: Duration = Duration::from_secs(5);
/// How long a condition may take that nothing is measured by.
const LIMIT: Duration = Duration::from_secs(60);

/// What came of a drill.
#[derive(Debug)]
pub struct Report {
    /// What was played.
    pub script: &'static Script,
    /// The change, made as changes are made.
    pub prevented: Prevented,
    /// The same with its findings overridden.
    pub undone: Undone,
    /// The same trouble from outside.
    pub explained: Explained,
}

impl Report {
    /// What took longer than it may; everything else is an error of the play.
    pub fn late(&self) -> Vec<String> {
        let late = [
            ("undone", self.undone.took, UNDONE_WITHIN),
            ("named", self.explained.took(), NAMED_WITHIN),
        ];
        late.into_iter()
            .filter(|(_, took, limit)| took > limit)
            .map(|(what, took, limit)| {
                format!(
                    "{}: {what} after {took:.1?}, limit {limit:?}",
                    self.script.name
                )
            })
            .collect()
    }
}

/// The script of that name.
///
/// # Errors
/// When there is none; says which there are.
pub fn find(name: &str) -> Result<&'static Script> {
    let found = outages::ALL.into_iter().find(|it| it.name == name);
    let Some(script) = found else {
        let names: Vec<&str> = outages::ALL.iter().map(|it| it.name).collect();
        bail!("there is no drill {name}; there are {}", names.join(", "));
    };
    Ok(script)
}

/// Plays one drill and says what happens.
///
/// # Errors
/// When a play does not go as it has to, but for its times: see
/// [`Report::late`].
pub fn play(script: &'static Script) -> Result<Report> {
    cleanup::on_signals()?;
    let name = script.name;
    println!("== {name}: {}", script.postmortem.cause);
    let lab = scene::lab(&script.setting)?;
    let mut scene = Scene::start(script, &lab)?;
    println!("   the change: {}", script.change.what);
    let prevented = play::prevented(&scene).with_context(|| format!("{name}: prevented"))?;
    for finding in prevented.refusals.iter().flat_map(|it| &it.1) {
        println!("   prevented: {finding}");
    }
    println!("   after {:.1?}; {}", prevented.took, prevented.fared);
    let undone = play::undone(&scene).with_context(|| format!("{name}: undone"))?;
    for (after, what) in &undone.timeline {
        println!("   {:>5.1} s {what}", after.as_secs_f64());
    }
    println!("   {}", undone.fared);
    println!("   from outside: {}", script.fault.what);
    let explained = play::explained(&mut scene).with_context(|| format!("{name}: explained"))?;
    for (after, incident) in &explained.named {
        println!("   {:>5.1} s {incident}", after.as_secs_f64());
    }
    for line in &explained.typed {
        let after = explained.typed_after.as_secs_f64();
        println!("   {after:>5.1} s typed: {line}");
    }
    let over = explained.over.as_secs_f64();
    println!("   {over:>5.1} s over; {}\n", explained.fared);
    Ok(Report {
        script,
        prevented,
        undone,
        explained,
    })
}

/// Writes the report and its chart, `NAME.md` and `NAME.svg`.
///
/// # Errors
/// When the directory cannot be written.
pub fn write(report: &Report, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for (ending, text) in [
        ("md", markdown::text(report)?),
        ("svg", markdown::chart(report)?),
    ] {
        let file = directory.join(report.script.name).with_extension(ending);
        fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// A line a drill.
pub fn summary(reports: &[Report]) {
    println!(
        "{:<24}{:<54}{:>9}{:>8}{:>9}{:>9}",
        "drill", "stopped by", "undone", "failed", "named", "then"
    );
    for report in reports {
        let minutes = report.script.postmortem.minute(script::Mark::Named);
        println!(
            "{:<24}{:<54}{:>7.1} s{:>8}{:>7.1} s{:>5} min",
            report.script.name,
            report.script.change.rules().join(", "),
            report.undone.took.as_secs_f64(),
            report.undone.fared.harmed(),
            report.explained.took().as_secs_f64(),
            minutes
        );
    }
}

#[cfg(test)]
mod tests {
    use super::script::Mark;
    use super::*;

    #[test]
    fn every_outage_was_detected_then_named_then_resolved() {
        for script in outages::ALL {
            let it = &script.postmortem;
            let is_sorted = it.events.is_sorted_by_key(|event| event.minute);
            assert!(is_sorted, "{}", script.name);
            assert_eq!(it.minute(Mark::Detected), 0, "{}", script.name);
            assert!(it.minute(Mark::Named) >= 30, "{}", script.name);
            assert!(it.minute(Mark::Resolved) > it.minute(Mark::Named));
        }
    }

    #[test]
    fn drill_is_found_by_its_name_and_others_are_told_of() {
        assert_eq!(find("wrong-servers").unwrap().name, "wrong-servers");
        let error = find("no-servers").unwrap_err().to_string();
        assert!(error.contains("uneven-distribution"), "{error}");
    }
}
