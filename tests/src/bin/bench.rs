//! `cargo xtask bench`: what a change costs, from command to kernel.

use std::process::ExitCode;

use balancer_tests::bench;
use clap::Parser;

/// Measures building a table, filling it in the kernel, and a change by
/// command among 200 services of 50 backends, in namespaces of its own.
/// Needs root. Nothing is compared with a fixed time: other machines are
/// other times.
#[derive(Parser)]
struct Arguments {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Rounds of each measurement; the median is shown.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match bench::run(arguments.rounds.max(1), arguments.json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
