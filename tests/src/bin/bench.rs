//! `cargo xtask bench`: what a packet costs, and what a change costs.

use std::process::ExitCode;

use balancer_tests::bench;
use clap::Parser;

fn main() -> ExitCode {
    match bench::run(&bench::Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
