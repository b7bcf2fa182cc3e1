//! Everyday changes: asking for one, and showing what became of it.

use anyhow::anyhow;

use super::{Exit, block_on, output, shares, units};
use crate::api::client::{Client, Error};
use crate::api::types::{Change, ChangeRequest, Changed, Problem};

/// What every command that changes something takes.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Options {
    /// Only say what would change, with the shares before and after
    #[arg(long)]
    dry_run: bool,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Makes a change, or asks what it would do.
pub(super) fn make(change: Change, options: Options, client: &Client) -> anyhow::Result<Exit> {
    let request = ChangeRequest {
        change,
        dry_run: options.dry_run,
    };
    let changed = refused(block_on(client.change(&request))?)?;
    print(&changed, options.json)?;
    Ok(Exit::Done)
}

/// Says of a refusal that nothing changed.
pub(super) fn refused<T>(answer: Result<T, Error>) -> anyhow::Result<T> {
    answer.map_err(|error| match error {
        Error::Refused(problem) => anyhow!(refusal(&problem)),
        other => other.into(),
    })
}

fn refusal(problem: &Problem) -> String {
    // A report of findings has many lines and stands for itself.
    if problem.detail.contains('\n') {
        format!(
            "{}, nothing changed:\n\n{}",
            problem.title,
            problem.detail.trim_end()
        )
    } else {
        format!("{}; nothing changed", problem.detail)
    }
}

/// Shows a change: on stdout what it does, on stderr what the check says.
pub(super) fn print(changed: &Changed, json: bool) -> anyhow::Result<()> {
    if json {
        return output::print_json(changed);
    }
    output::print(&render(changed))?;
    for warning in &changed.warnings {
        output::note(format_args!("warning: {warning}"));
    }
    Ok(())
}

fn render(changed: &Changed) -> String {
    let how = match changed.duration_micros {
        _ if changed.dry_run => " (dry run, nothing changed)".to_owned(),
        Some(micros) => {
            let revision = changed
                .revision
                .map(|number| format!("revision {number}, "));
            let took = units::took(micros);
            format!(" ({}in force after {took})", revision.unwrap_or_default())
        }
        None => String::new(),
    };
    let shares = shares::render(&changed.shares);
    let gap = if shares.is_empty() { "" } else { "\n" };
    format!("{}{how}\n{gap}{shares}", changed.summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::ShareChange;

    fn share(backend: &str, before: Option<f64>, after: Option<f64>) -> ShareChange {
        ShareChange {
            service: "web".to_owned(),
            backend: backend.to_owned(),
            before,
            after,
        }
    }

    fn changed() -> Changed {
        Changed {
            summary: "backend web-3 added to service web".to_owned(),
            dry_run: false,
            shares: vec![
                share("web-1", Some(0.5), Some(1.0 / 3.0)),
                share("web-2", Some(0.5), None),
                share("web-3", None, Some(2.0 / 3.0)),
            ],
            warnings: Vec::new(),
            duration_micros: Some(1_234),
            revision: Some(7),
        }
    }

    #[test]
    fn change_is_told_with_its_time_and_the_shares() {
        assert_eq!(
            render(&changed()),
            "\
backend web-3 added to service web (revision 7, in force after 1.2 ms)

service  backend  share before  share after
web      web-1          50.0 %       33.3 %
web      web-2          50.0 %      removed
web      web-3             new       66.7 %
"
        );
    }

    #[test]
    fn dry_run_says_that_nothing_changed() {
        let changed = Changed {
            dry_run: true,
            duration_micros: None,
            shares: Vec::new(),
            ..changed()
        };
        assert_eq!(
            render(&changed),
            "backend web-3 added to service web (dry run, nothing changed)\n"
        );
    }

    #[test]
    fn refusal_keeps_a_report_in_its_lines() {
        let problem = |detail: &str| Problem {
            title: "the change breaks a rule".to_owned(),
            status: 422,
            detail: detail.to_owned(),
        };
        assert_eq!(
            refusal(&problem("service wep does not exist")),
            "service wep does not exist; nothing changed"
        );
        assert_eq!(
            refusal(&problem("error[x]: y\n --> z\n\n")),
            "the change breaks a rule, nothing changed:\n\nerror[x]: y\n --> z"
        );
    }
}
