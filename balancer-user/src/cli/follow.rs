//! Shows a change while it is under way: a line an event on stdout, and on a
//! terminal the figures of this second below.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Exit, output, shares, units};
use crate::api::progress::Progress;
use crate::revision::{Answers, Figures, Outcome, Revision};

/// Most backends that the live line names.
const MAX_NAMED: usize = 4;

/// What is shown of a change.
pub(super) struct Follow {
    json: bool,
    /// The plan was shown before.
    is_planned: bool,
    bar: ProgressBar,
    /// Why nothing can be written any more.
    failed: Option<anyhow::Error>,
}

impl Follow {
    pub(super) fn new(json: bool, is_planned: bool) -> Self {
        let bar = ProgressBar::no_length();
        // Not drawn where stderr is no terminal.
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.set_style(
            ProgressStyle::with_template("{spinner} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        Self {
            json,
            is_planned,
            bar,
            failed: None,
        }
    }

    /// Shows an event.
    pub(super) fn tell(&mut self, event: &Progress) {
        let shown = if self.json {
            serde_json::to_string(event)
                .map(|line| Some(format!("{line}\n")))
                .map_err(anyhow::Error::from)
        } else {
            if let Progress::Figures {
                figures,
                remaining_millis,
            } = event
            {
                self.bar.set_message(live(figures, *remaining_millis));
                self.bar.tick();
            }
            Ok(self.text(event))
        };
        let result = shown.and_then(|text| match text {
            Some(text) => self.bar.suspend(|| output::print(&text)),
            None => Ok(()),
        });
        if let Err(error) = result {
            self.failed.get_or_insert(error);
        }
    }

    fn text(&self, event: &Progress) -> Option<String> {
        match event {
            Progress::Planned {
                summary,
                shares,
                warnings,
            } if !self.is_planned => {
                for warning in warnings {
                    output::note(format_args!("warning: {warning}"));
                }
                let shares = shares::render(shares);
                let gap = if shares.is_empty() { "" } else { "\n" };
                Some(format!("{summary}\n{gap}{shares}{gap}"))
            }
            Progress::Rehearsed { summary } => Some(format!("{summary}\n")),
            Progress::Nothing { summary } => Some(format!("{summary}\n")),
            Progress::Pending { revision } => Some(format!("revision {revision} is pending\n")),
            Progress::Proving { missing } if missing.is_empty() => None,
            Progress::Proving { missing } => Some(format!(
                "{} proven before traffic:\n{}",
                match missing.len() {
                    1 => "1 new backend is".to_owned(),
                    count => format!("{count} new backends are"),
                },
                missing
                    .iter()
                    .map(|it| format!("  {it}\n"))
                    .collect::<String>()
            )),
            Progress::Stage {
                stage,
                of,
                percent,
                hold_millis,
            } => Some(format!(
                "stage {stage} of {of}: {percent} % of the slots that move have moved, watched for {}\n",
                duration(*hold_millis)
            )),
            Progress::Note { text } => Some(format!("note: {text}\n")),
            Progress::Good { percent } => Some(format!("{percent} %: no harm seen\n")),
            Progress::Confirm { within_millis } => Some(format!(
                "all has moved; undone in {} unless `balancer confirm` is typed\n",
                duration(*within_millis)
            )),
            Progress::Planned { .. } | Progress::Figures { .. } | Progress::Over { .. } => None,
        }
    }

    /// Says how it ended.
    pub(super) fn finish(self, last: &Progress) -> anyhow::Result<Exit> {
        self.bar.finish_and_clear();
        if let Some(error) = self.failed {
            return Err(error);
        }
        let Progress::Over { revision } = last else {
            return Ok(Exit::Done);
        };
        let Revision {
            number,
            summary,
            outcome,
            ..
        } = &**revision;
        match outcome {
            Outcome::Committed { .. } => {
                if !self.json {
                    output::print(&format!("revision {number} is in force: {summary}\n"))?;
                }
                Ok(Exit::Done)
            }
            Outcome::Undone { why, .. } => {
                output::note(format_args!("revision {number} is undone: {why}"));
                Ok(Exit::Findings)
            }
            Outcome::Pending | Outcome::Interrupted { .. } => {
                output::note(format_args!("revision {number} is not in force"));
                Ok(Exit::Findings)
            }
        }
    }
}

fn duration(millis: u64) -> String {
    humantime::format_duration(Duration::from_millis(millis)).to_string()
}

/// The figures of this second in one line: those who are off the most first.
fn live(figures: &[Figures], remaining_millis: u64) -> String {
    let mut figures: Vec<&Figures> = figures.iter().collect();
    let off = |it: &Figures| {
        let answers = it.answers.unwrap_or_default();
        let errors = answers.errors as f64 / answers.asked.max(1) as f64;
        (it.share_seen.unwrap_or_default() - it.share_expected).abs() + errors
    };
    figures.sort_by(|a, b| off(b).total_cmp(&off(a)));
    let named: Vec<String> = figures
        .iter()
        .take(MAX_NAMED)
        .map(|it| figure(it))
        .collect();
    let left = remaining_millis.div_ceil(1000);
    format!("{left} s left  {}", named.join("  "))
}

fn figure(figures: &Figures) -> String {
    let seen = figures
        .share_seen
        .map_or_else(|| "-".to_owned(), units::percent);
    let bad = figures
        .handshakes_bad
        .map(|bad| format!(", {} bad", units::percent(bad)));
    let answers = figures.answers.map(|answers| {
        let time = answers
            .median_micros
            .map_or_else(String::new, |micros| format!(" in {}", units::took(micros)));
        let Answers { asked, errors, .. } = answers;
        format!(", {asked} answers{time}, {errors} errors")
    });
    format!(
        "{}: {seen} of new flows (slots {}){}{}",
        figures.backend,
        units::percent(figures.share_expected),
        bad.unwrap_or_default(),
        answers.unwrap_or_default()
    )
}
