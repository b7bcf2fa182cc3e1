//! `cargo xtask demo`: the main job on real traffic, in a lab, in a minute.

use std::process::ExitCode;

use balancer_tests::demo::{self, Play};
use clap::Parser;

/// Builds a network of namespaces with four web servers, runs the balancer in
/// it and shows what it does with real requests. Needs root; touches nothing
/// outside its own namespaces and removes them at the end.
#[derive(Parser)]
struct Arguments {
    /// Leave everything running at the end, with the commands to try, until
    /// Ctrl-C.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let play = Play {
        keep: arguments.keep,
        ..Play::default()
    };
    match demo::run(play) {
        Ok(steps) if steps.iter().all(|step| step.passed) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
