//! `cargo xtask drill`: real outages, rebuilt and played three times each.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use balancer_tests::drill::{self, Report};
use clap::Parser;

/// Plays drills: outages that happened, rebuilt with web servers and clients in
/// network namespaces. Each wrong change is stopped, then forced and undone,
/// then brought about from outside, named, and ended by what the incident says.
/// Needs root; touches nothing outside its own namespaces and removes them.
#[derive(Parser)]
struct Arguments {
    /// Drills to play; all of them if none is named.
    names: Vec<String>,
    /// Only say which drills there are.
    #[arg(long)]
    list: bool,
    /// Where reports and charts are written.
    #[arg(long, default_value = "target/drills")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(late) if late.is_empty() => ExitCode::SUCCESS,
        Ok(late) => {
            for line in late {
                eprintln!("drill: {line}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("drill: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Plays and writes; gives what took too long.
fn run(arguments: &Arguments) -> Result<Vec<String>> {
    if arguments.list {
        for script in drill::outages::ALL {
            println!("{:<24}{}", script.name, script.postmortem.cause);
        }
        return Ok(Vec::new());
    }
    let scripts = match arguments.names.as_slice() {
        [] => drill::outages::ALL.to_vec(),
        names => names
            .iter()
            .map(|name| drill::find(name))
            .collect::<Result<_>>()?,
    };
    let mut reports: Vec<Report> = Vec::new();
    for script in scripts {
        let report = drill::play(script)?;
        drill::write(&report, &arguments.out)?;
        reports.push(report);
    }
    drill::summary(&reports);
    println!("reports are in {}", arguments.out.display());
    Ok(reports.iter().flat_map(Report::late).collect())
}
