//! `test`: every test there is, and what came of it.
//!
//! First the unit and property tests of all crates, and the seeds of the fuzz
//! targets, each once; then the suites of the `tests` crate, which make
//! namespaces and load programs, as many tests of each at a time as it bears;
//! then a moment of fuzzing. The balancer under test is the release build that
//! people get. What tests it is built without optimization: half of the whole
//! time went into that once, and arithmetic that overflows is found.
//!
//! A machine that does something else for seconds can fail a test of the lab
//! that has no fault. Such a test runs once more with the machine to itself,
//! and the summary names it: passing then, it does not fail the run, and is
//! still to be mended.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::mem;
use std::ops::AddAssign;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::setup::{self, Scope};
use crate::workspace::{Workspace, format_duration, require_root};
use crate::{build, fuzz, process};

/// How long each fuzz target runs.
const FUZZ_SECONDS: u32 = 10;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// Take it that everything is installed; saves about a second.
    #[arg(long)]
    no_setup: bool,
}

/// Sets up, builds, tests, and closes with a line for each part.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    require_root(
        "test",
        "makes network namespaces and loads programs into the kernel",
    )?;
    let mut times = Vec::new();
    if !args.no_setup {
        times.push(timed("setup", || setup::ensure(workspace, Scope::Test))?);
    }
    times.push(timed("build", || {
        build::run(workspace, &build::Args::default())
    })?);
    times.push(timed("build of the tests", || {
        process::run(test_command(workspace).args(["--tests", "--no-run"]))
    })?);
    let mut parts = Vec::new();
    for (name, mut command) in [
        (
            "unit and property",
            unit_tests(workspace, args.filter.as_deref()),
        ),
        ("fuzz seeds", seed_tests(workspace, args.filter.as_deref())),
    ] {
        println!("\n== {name}: `{}`", process::spell(&command));
        parts.push(run_part(name, &mut command, &mut io::stdout().lock())?);
    }
    let suites = suites(&workspace.root().join("tests/tests"))?;
    for at_a_time in [1, 2, 3, 4] {
        let mut command = lab_tests(workspace, &suites, at_a_time, args.filter.as_deref());
        println!("\n== lab: `{}`", process::spell(&command));
        let name = lab_name(at_a_time);
        let part = run_part(name, &mut command, &mut io::stdout().lock())?;
        parts.push(second_try(workspace, part)?);
    }
    parts.extend(fuzz_a_moment(workspace, args.filter.as_deref())?);
    summarise(&times, &parts)
}

/// Fuzzes the targets whose name contains the filter; no part if there is none.
fn fuzz_a_moment(workspace: &Workspace, filter: Option<&str>) -> Result<Option<Part>> {
    let mut targets = fuzz::known_targets(workspace)?;
    targets.retain(|target| filter.is_none_or(|filter| target.contains(filter)));
    if targets.is_empty() {
        return Ok(None);
    }
    println!("\n== fuzz: {FUZZ_SECONDS} s each of {}", targets.join(", "));
    let started = Instant::now();
    let failed = fuzz::fuzz_quickly(workspace, &targets, FUZZ_SECONDS)?;
    Ok(Some(Part {
        name: "fuzz",
        took: started.elapsed(),
        tally: Tally {
            passed: (targets.len() - failed.len()) as u64,
            failed: failed.len() as u64,
        },
        succeeded: failed.is_empty(),
        failed,
        unsteady: Vec::new(),
    }))
}

fn seed_tests(workspace: &Workspace, filter: Option<&str>) -> Command {
    let mut cargo = workspace.cargo_in_target("test");
    cargo.arg("--no-fail-fast");
    cargo.args(["--manifest-path", fuzz::MANIFEST]).args(filter);
    cargo
}

fn unit_tests(workspace: &Workspace, filter: Option<&str>) -> Command {
    let mut cargo = test_command(workspace);
    cargo.args(["--lib", "--bins"]).args(filter);
    cargo
}

/// Always of the same packages: with others their dependencies have other
/// features, and all is compiled again.
fn test_command(workspace: &Workspace) -> Command {
    let mut cargo = workspace.cargo_in_target("test");
    cargo.args(["--no-fail-fast", "--workspace"]);
    cargo.args(["--exclude", "balancer-ebpf"]);
    cargo.env("BALANCER_BIN", workspace.balancer("release"));
    // The package is made by this very program.
    if let Ok(xtask) = std::env::current_exe() {
        cargo.env("BALANCER_XTASK", xtask);
    }
    cargo
}

/// How many tests of a suite run at a time, where that is not one: suites
/// that mostly wait, and measure nothing that a neighbour disturbs.
const AT_A_TIME: [(&str, u8); 5] = [
    ("live", 4),
    ("main_job", 3),
    ("modes", 3),
    ("package", 2),
    ("program_run", 2),
];

fn at_a_time(suite: &str) -> u8 {
    let found = AT_A_TIME.iter().find(|(name, _)| *name == suite);
    found.map_or(1, |(_, count)| *count)
}

fn lab_name(at_a_time: u8) -> &'static str {
    match at_a_time {
        1 => "lab, one at a time",
        2 => "lab, two at a time",
        3 => "lab, three at a time",
        _ => "lab, four at a time",
    }
}

/// Those of the suites, which need root, that run so many tests at a time.
fn lab_tests(workspace: &Workspace, suites: &[String], count: u8, filter: Option<&str>) -> Command {
    let mut cargo = test_command(workspace);
    for suite in suites.iter().filter(|suite| at_a_time(suite) == count) {
        cargo.args(["--test", suite]);
    }
    cargo.args(filter).arg("--");
    cargo.arg(format!("--test-threads={count}"));
    cargo
}

/// More failed tests than this are no accident of the machine.
const SECOND_TRIES: usize = 3;

/// Runs what failed once more, alone; what passes then is unsteady.
fn second_try(workspace: &Workspace, mut part: Part) -> Result<Part> {
    let again = part.failed.len();
    if part.succeeded || !(1..=SECOND_TRIES).contains(&again) || again as u64 != part.tally.failed {
        return Ok(part);
    }
    let mut command = test_command(workspace);
    command.args(["--tests", "--"]);
    command
        .args(["--test-threads=1", "--exact"])
        .args(&part.failed);
    println!("\n== once more, alone: `{}`", process::spell(&command));
    let second = run_part(part.name, &mut command, &mut io::stdout().lock())?;
    part.took += second.took;
    part.succeeded = second.succeeded && second.tally.passed >= again as u64;
    if part.succeeded {
        part.tally.passed += part.tally.failed;
        part.tally.failed = 0;
        part.unsteady = mem::take(&mut part.failed);
    }
    Ok(part)
}

/// Names of the suites: each file and each directory is one.
fn suites(directory: &Path) -> Result<Vec<String>> {
    let cannot = || format!("{} cannot be read", directory.display());
    let mut suites = Vec::new();
    for entry in fs::read_dir(directory).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        suites.extend(name.map(str::to_owned));
    }
    suites.sort();
    Ok(suites)
}

struct Timed {
    name: &'static str,
    took: Duration,
}

fn timed(name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<Timed> {
    let started = Instant::now();
    work()?;
    Ok(Timed {
        name,
        took: started.elapsed(),
    })
}

/// What one run of `cargo test` has come to.
struct Part {
    name: &'static str,
    took: Duration,
    tally: Tally,
    succeeded: bool,
    /// Names of the tests that failed.
    failed: Vec<String>,
    /// Names of those that passed at the second try only.
    unsteady: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Passes cargo's output on to `out`, line by line, and adds up its result lines.
fn run_part(name: &'static str, command: &mut Command, out: &mut impl Write) -> Result<Part> {
    let started = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{}` cannot be started", process::spell(command)))?;
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("output of the tests cannot be read")?;
            out.write_all(&line)?;
            out.write_all(b"\n")?;
            let line = String::from_utf8_lossy(&line);
            if let Some(result) = parse_result(&line) {
                tally += result;
            }
            failed.extend(parse_failed(&line).map(str::to_owned));
        }
    }
    let succeeded = child.wait()?.success();
    Ok(Part {
        name,
        took: started.elapsed(),
        tally,
        succeeded,
        failed,
        unsteady: Vec::new(),
    })
}

/// Reads `test drain::nobody_notices ... FAILED`.
fn parse_failed(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// Reads `test result: ok. 3 passed; 0 failed; …`.
fn parse_result(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |word: &str| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(word)?.trim().parse().ok())
    };
    Some(Tally {
        passed: count("passed")?,
        failed: count("failed")?,
    })
}

fn summarise(times: &[Timed], parts: &[Part]) -> Result<()> {
    println!("\n== summary");
    for Timed { name, took } in times {
        println!("{name:<20} {:>12}", format_duration(*took));
    }
    let mut total = Tally::default();
    for Part {
        name,
        took,
        tally,
        succeeded,
        unsteady,
        ..
    } in parts
    {
        let word = if *succeeded { "" } else { "  FAILED" };
        let Tally { passed, failed } = tally;
        println!(
            "{name:<20} {:>12}  {passed} passed, {failed} failed{word}",
            format_duration(*took)
        );
        for test in unsteady {
            println!("  unsteady: {test} passed at the second try, alone; to be mended");
        }
        total += *tally;
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    let failed: Vec<&str> = parts
        .iter()
        .filter(|it| !it.succeeded)
        .map(|it| it.name)
        .collect();
    if !failed.is_empty() {
        bail!("tests failed: {}; their output is above", failed.join("; "));
    }
    if total.passed == 0 {
        bail!("no test ran: no name contains the filter");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted_and_others_are_not() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; \
                    1 filtered out; finished in 0.02s";
        assert_eq!(
            parse_result(line),
            Some(Tally {
                passed: 12,
                failed: 3
            })
        );
        assert_eq!(parse_result("test a::b ... ok"), None);
        assert_eq!(parse_result("running 3 tests"), None);
    }

    #[test]
    fn suites_are_all_there_is_and_each_is_run() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tests");
        let found = suites(&directory).unwrap();
        assert!(found.contains(&"main_job".to_owned()), "{found:?}");
        assert!(found.contains(&"netlink".to_owned()), "{found:?}");
        for (suite, count) in AT_A_TIME {
            assert!(found.contains(&suite.to_owned()), "{suite}");
            assert!([2, 3, 4].contains(&count), "nothing runs {suite}");
        }
    }

    #[test]
    fn part_adds_up_all_its_binaries() {
        let script = "echo 'test result: ok. 1 passed; 0 failed; 0 ignored'; \
                      echo 'test a::b ... FAILED'; echo 'test a::c ... ok'; \
                      echo 'test result: FAILED. 2 passed; 1 failed; 0 ignored'; exit 101";
        // Not to stdout: whoever counts our own result lines would count these.
        let mut out = Vec::new();
        let mut command = Command::new("sh");
        let part = run_part("x", command.args(["-c", script]), &mut out).unwrap();
        assert_eq!(out.split(|it| *it == b'\n').count(), 5);
        assert_eq!(part.failed, ["a::b"]);
        assert_eq!(
            part.tally,
            Tally {
                passed: 3,
                failed: 1
            }
        );
        assert!(!part.succeeded);
    }

    #[test]
    fn failure_without_a_failed_test_is_a_failure() {
        let tally = Tally {
            passed: 3,
            failed: 0,
        };
        let part = Part {
            name: "x",
            took: Duration::ZERO,
            tally,
            succeeded: false,
            failed: Vec::new(),
            unsteady: Vec::new(),
        };
        assert!(summarise(&[], &[part]).is_err());
    }

    #[test]
    fn filter_that_matches_nothing_is_a_failure() {
        let part = Part {
            name: "x",
            took: Duration::ZERO,
            tally: Tally::default(),
            succeeded: true,
            failed: Vec::new(),
            unsteady: Vec::new(),
        };
        assert!(summarise(&[], &[part]).is_err());
    }
}
