//! `cargo xtask demo`: the main job on real traffic, in a lab, in a minute.

use std::process::ExitCode;

use balancer_tests::demo;
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
    match demo::run(arguments.keep) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
