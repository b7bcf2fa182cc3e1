//! `fuzz`: builds the targets of `fuzz/` with coverage counters, runs each for
//! a while, and says what came of it, a line a target.
//!
//! cargo-fuzz builds; libFuzzer, which is in what it built, runs. The compiler
//! is the one that builds everything else: `RUSTC_BOOTSTRAP` opens what a
//! stable one keeps for nightlies. Without the runtime of the address
//! sanitizer, which Debian's rustc lacks, targets run without it. So they do in
//! `test`: the code that is fuzzed has no `unsafe`, and the sanitizer takes
//! half as long again to build and tries a fraction of the inputs.
//!
//! What fuzzing makes is under `target/fuzz`, in directories named for the
//! target: `corpus` grows from run to run, `artifacts` has inputs that broke
//! something, `log` libFuzzer's words.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;
use std::{env, thread};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::setup;
use crate::workspace::{Workspace, format_duration};

mod report;

use report::Report;

/// The manifest of the targets.
pub(crate) const MANIFEST: &str = "fuzz/Cargo.toml";

/// Where the targets are, a file each.
const TARGETS: &str = "fuzz/fuzz_targets";

/// Longest time for one input: the slowest seed takes milliseconds.
const INPUT_LIMIT_SECS: u32 = 10;

/// What one input may make a target use.
const MEMORY_LIMIT_MB: u32 = 2_048;

/// How much is built for: what takes long to build tries more inputs a second.
#[derive(Clone, Copy)]
enum Purpose {
    /// Minutes and hours.
    Search,
    /// Seconds, in `test`: not worth any optimization.
    Moment,
}

impl Purpose {
    /// For a search enough to try hundreds of inputs a second, and built in
    /// half the time of full optimisation.
    fn opt_level(self) -> &'static str {
        match self {
            Self::Search => "1",
            Self::Moment => "0",
        }
    }

    /// A directory each, as no file of one is of use to the other.
    fn directory(self, sanitizer: Sanitizer) -> &'static str {
        match self {
            Self::Search => sanitizer.name(),
            Self::Moment => "moment",
        }
    }
}

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Targets to run, files of `fuzz/fuzz_targets` without `.rs`; all without any.
    targets: Vec<String>,
    /// Seconds that each target runs; the build comes on top.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Targets that run at the same time; as many as there are CPUs without it.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// What watches memory; without it the address sanitizer, where rustc has
    /// its runtime.
    #[arg(long, value_enum)]
    sanitizer: Option<Sanitizer>,
    /// Only runs this input, once, and shows what comes of it; needs one target.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

/// Installs what is missing, builds, runs.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let targets = choose(&known_targets(workspace)?, &args.targets)?;
    setup::ensure_fuzzer(workspace)?;
    if let Some(input) = &args.input {
        let [target] = targets.as_slice() else {
            bail!("--input needs one target, the one that the input is for");
        };
        let built = build(workspace, &targets, args.sanitizer, Purpose::Search)?;
        return process::run(Command::new(built.program(target)).arg(input));
    }
    let built = build(workspace, &targets, args.sanitizer, Purpose::Search)?;
    let failed = run_all(workspace, &built, &targets, args.seconds, args.jobs)?;
    if failed.is_empty() {
        return Ok(());
    }
    bail!("inputs were found that break: {}", failed.join(", "))
}

/// Builds targets in the quickest way and runs them; gives back those that an
/// input broke.
pub(crate) fn fuzz_quickly(
    workspace: &Workspace,
    targets: &[String],
    seconds: u32,
) -> Result<Vec<String>> {
    let built = build(workspace, targets, Some(Sanitizer::None), Purpose::Moment)?;
    run_all(workspace, &built, targets, seconds, None)
}

/// Runs targets, several at a time; gives back those that an input broke.
fn run_all(
    workspace: &Workspace,
    built: &Built,
    targets: &[String],
    seconds: u32,
    jobs: Option<u16>,
) -> Result<Vec<String>> {
    let jobs = match jobs {
        Some(jobs) => usize::from(jobs),
        None => thread::available_parallelism().map_or(1, usize::from),
    };
    let waiting = Mutex::new(targets.iter());
    let next = || waiting.lock().ok()?.next();
    let work = || {
        let mut failed = Vec::new();
        while let Some(target) = next() {
            let report = run_target(workspace, built, target, seconds)?;
            println!("{target:<10} {report}");
            if report.is_failure() {
                say_how_to_repeat(workspace, built, target, &report);
                failed.push(target.clone());
            }
        }
        Ok(failed)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let mut failed = Vec::new();
        for worker in workers {
            let result: Result<Vec<String>> = worker.join().expect("workers do not panic");
            failed.extend(result?);
        }
        Ok(failed)
    })
}

/// All targets there are, in order.
pub(crate) fn known_targets(workspace: &Workspace) -> Result<Vec<String>> {
    let dir = workspace.path(TARGETS);
    let entries = fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    let mut targets: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    targets.sort();
    Ok(targets)
}

/// Those of `wanted` in the order given, or all.
fn choose(known: &[String], wanted: &[String]) -> Result<Vec<String>> {
    if wanted.is_empty() {
        return Ok(known.to_vec());
    }
    if let Some(unknown) = wanted.iter().find(|it| !known.contains(it)) {
        bail!("no target {unknown}; there are {}", known.join(", "));
    }
    Ok(wanted.to_vec())
}

/// Programs that cargo-fuzz built.
struct Built {
    dir: PathBuf,
    sanitizer: Sanitizer,
}

impl Built {
    fn program(&self, target: &str) -> PathBuf {
        self.dir.join(target)
    }
}

fn build(
    workspace: &Workspace,
    targets: &[String],
    sanitizer: Option<Sanitizer>,
    purpose: Purpose,
) -> Result<Built> {
    let started = Instant::now();
    let cargo_fuzz = setup::find_fuzzer(workspace)?;
    let (triple, has_runtime) = examine_rustc()?;
    let sanitizer = match (sanitizer, has_runtime) {
        (Some(Sanitizer::Address), false) => {
            bail!("this rustc has no runtime for the address sanitizer; rustup's have one")
        }
        (Some(sanitizer), _) => sanitizer,
        (None, true) => Sanitizer::Address,
        (None, false) => {
            println!("this rustc has no runtime for the address sanitizer; rustup's have one");
            Sanitizer::None
        }
    };
    println!("building {}", sanitizer.describe());
    let target_dir = workspace
        .path("target/fuzz")
        .join(purpose.directory(sanitizer));
    let mut cargo = fuzz_cargo(workspace, &cargo_fuzz, sanitizer);
    cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", purpose.opt_level());
    cargo.args(["--target", &triple, "--target-dir"]);
    cargo.arg(&target_dir);
    // It builds one target or all.
    if let [target] = targets {
        cargo.arg(target);
    }
    process::run(&mut cargo)?;
    println!("built in {}", format_duration(started.elapsed()));
    let dir = target_dir.join(triple).join("debug");
    Ok(Built { dir, sanitizer })
}

fn fuzz_cargo(workspace: &Workspace, cargo_fuzz: &Path, sanitizer: Sanitizer) -> Command {
    let mut cargo = workspace.cargo_at(cargo_fuzz, "build");
    // Some of these would take the place of the flags that make the counters.
    for name in [
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
    ] {
        cargo.env_remove(name);
    }
    cargo.env("RUSTC_BOOTSTRAP", "1");
    // Its release profile makes line tables for every library and one large
    // unit of each, which doubles the time.
    cargo.args(["--dev", "--codegen-units", "16"]);
    cargo.env("CARGO_PROFILE_DEV_DEBUG", sanitizer.debug_info());
    cargo.env("CARGO_INCREMENTAL", "0");
    cargo.args(["--fuzz-dir", "fuzz", "--sanitizer", sanitizer.name()]);
    cargo
}

/// What watches memory while a target runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Sanitizer {
    /// Wrong reads and writes end the run, also those of libraries.
    Address,
    /// Only panics do; several times as fast.
    None,
}

impl Sanitizer {
    fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::None => "none",
        }
    }

    /// A panic says where it is without any; a wrong read does not.
    fn debug_info(self) -> &'static str {
        match self {
            Self::Address => "line-tables-only",
            Self::None => "none",
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Address => "with the address sanitizer",
            Self::None => {
                "without a sanitizer: panics are found, wrong reads in the `unsafe` of libraries \
                 are not"
            }
        }
    }
}

/// The machine that cargo's rustc builds for, and whether what it builds with
/// the address sanitizer links: only what worked counts.
fn examine_rustc() -> Result<(String, bool)> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = process::capture(Command::new(&rustc).arg("-vV"))?;
    let triple = text
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc -vV names no host")?;
    let scratch = env::temp_dir().join(format!("balancer-sanitizer-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let source = scratch.join("probe.rs");
    fs::write(&source, "fn main() {}\n").with_context(|| source.display().to_string())?;
    let mut probe = Command::new(&rustc);
    probe.env("RUSTC_BOOTSTRAP", "1");
    probe.args(["-Zsanitizer=address", "--target", triple, "-o"]);
    probe.arg(scratch.join("probe")).arg(&source);
    let links = process::capture(&mut probe).is_ok();
    fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    Ok((triple.to_owned(), links))
}

/// Runs one target for its time, its output into a log.
fn run_target(workspace: &Workspace, built: &Built, target: &str, seconds: u32) -> Result<Report> {
    let dir = |kind: &str| workspace.path("target/fuzz").join(kind).join(target);
    let (corpus, artifacts) = (dir("corpus"), dir("artifacts"));
    let log = dir("log").with_extension("txt");
    for dir in [
        corpus.as_path(),
        &artifacts,
        log.parent().unwrap_or(Path::new("/")),
    ] {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let mut command = Command::new(built.program(target));
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-timeout={INPUT_LIMIT_SECS}"));
    command.arg(format!("-rss_limit_mb={MEMORY_LIMIT_MB}"));
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg("-print_final_stats=1");
    let dictionary = workspace.path(&format!("fuzz/dictionaries/{target}.dict"));
    if dictionary.is_file() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    // What is new goes into the first, the second is only read.
    command.arg(&corpus);
    command.arg(workspace.path("fuzz/seeds").join(target));
    let output = File::create(&log).with_context(|| log.display().to_string())?;
    let status = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .with_context(|| format!("`{}` cannot be started", process::spell(&command)))?;
    let text = fs::read(&log).with_context(|| log.display().to_string())?;
    let text = String::from_utf8_lossy(&text);
    Ok(Report::read(&text, status.success(), log))
}

fn say_how_to_repeat(workspace: &Workspace, built: &Built, target: &str, report: &Report) {
    print!("{}", report.fault());
    println!("  log: {}", workspace.display(report.log()));
    let Some(input) = report.input() else {
        println!("  it left no input; the log says why");
        return;
    };
    let input = workspace.display(input);
    println!("  input: {input}");
    let sanitizer = built.sanitizer.name();
    println!("  again: cargo xtask fuzz {target} --sanitizer {sanitizer} --input {input}");
    println!("  once it is mended, the input belongs into fuzz/seeds/{target}, and its fault");
    println!("  into a test of what was wrong");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_an_entry_and_seeds() {
        let workspace = Workspace::find().unwrap();
        let manifest = fs::read_to_string(workspace.path(MANIFEST)).unwrap();
        let targets = known_targets(&workspace).unwrap();
        assert!(targets.len() >= 4, "{targets:?}");
        for target in targets {
            let entry = format!("name = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"\n");
            assert!(manifest.contains(&entry), "{MANIFEST} lacks {target}");
            let seeds = workspace.path("fuzz/seeds").join(&target);
            assert!(fs::read_dir(seeds).unwrap().next().is_some(), "{target}");
        }
    }

    #[test]
    fn targets_are_chosen_by_name_and_others_refused() {
        let known = ["a".to_owned(), "b".to_owned()];
        assert_eq!(choose(&known, &[]).unwrap(), known);
        assert_eq!(choose(&known, &known[1..]).unwrap(), known[1..]);
        let error = choose(&known, &["c".to_owned()]).expect_err("no such target");
        assert_eq!(error.to_string(), "no target c; there are a, b");
    }

    #[test]
    fn rustc_names_its_machine() {
        let (triple, _) = examine_rustc().unwrap();
        assert!(triple.contains("linux"), "{triple}");
    }
}
