//! `cargo xtask soak`: faults and changes under load, for as long as it is to be.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use balancer_tests::soak::{self, Plan};
use clap::Parser;

/// Soaks the balancer: faults and changes one after the other, at random, while
/// clients come all the time. A request may fail only where a fault ate it, and
/// nothing may grow. Needs root; touches nothing outside its own namespaces.
#[derive(Parser)]
struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    minutes: u64,
    /// What comes when: the same seed, the same faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the report is written.
    #[arg(long, default_value = "target/soak")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let report = soak::run(Plan {
        length: Duration::from_secs(60 * arguments.minutes),
        seed: arguments.seed,
    })?;
    soak::write(&report, &arguments.out)?;
    println!("the report is {}", arguments.out.join("soak.md").display());
    Ok(())
}
