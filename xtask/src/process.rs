//! Running other programs, with errors that name the command and its outcome.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, anyhow, bail};

/// Lines of a failed program's output that an error repeats.
const TAIL_LINES: usize = 15;

/// How often a program with a time limit is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Runs `command` with our own input and output; its failure is ours.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    succeed(command, status)
}

/// Runs `command` and gives back its stdout; its stderr goes into the error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| cannot_start(command))?;
    if !output.status.success() {
        return Err(failure(command, &output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Like [`run`], but ends the program when `limit` has passed.
pub(crate) fn run_for(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| cannot_start(command))?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return succeed(command, status);
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!(
                "`{}` was not done after {} s",
                spell(command),
                limit.as_secs()
            );
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Becomes `command`; returns only when that fails.
pub(crate) fn exec(command: &mut Command) -> Result<Infallible> {
    let error = command.exec();
    Err(error).with_context(|| cannot_start(command))
}

/// The first `name` on PATH, or where root's programs are.
///
/// The PATH of a plain user lacks the sbin directories on Debian, where `ip`
/// and `nginx` are.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(usual)
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

/// The command as a person would type it.
pub(crate) fn spell(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(name).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The last lines of what a program wrote to stdout and stderr.
fn tail(output: &Output) -> String {
    let text = [output.stdout.as_slice(), b"\n", output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  ")
}

/// The error for a program that ran and failed, with the end of its output.
fn failure(command: &Command, output: &Output) -> anyhow::Error {
    anyhow!(
        "`{}` failed ({}):\n  {}",
        spell(command),
        output.status,
        tail(output)
    )
}

fn succeed(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    bail!("`{}` failed ({status})", spell(command))
}

fn cannot_start(command: &Command) -> String {
    format!("`{}` cannot be started", spell(command))
}

fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_names_the_command_and_repeats_its_words() {
        let error = capture(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"]))
            .expect_err("exit code 3 must fail")
            .to_string();
        assert!(
            error.contains("sh -c") && error.contains("no luck"),
            "{error}"
        );
    }

    #[test]
    fn program_that_hangs_is_ended() {
        let error = run_for(Command::new("sleep").arg("60"), Duration::from_millis(10))
            .expect_err("must hit the limit")
            .to_string();
        assert!(error.contains("`sleep 60` was not done"), "{error}");
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-anywhere"), None);
    }
}
